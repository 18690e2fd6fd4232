"""The head that ships: trained, judged on images it has not seen, then refitted on those too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import Floats32
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import HeadKind, HeadSettings, Settings
from topwork.core.errors import TopworkError
from topwork.core.task import Task
from topwork.heads.dense import Head
from topwork.heads.examples import RowSplit
from topwork.heads.train import keep, train_heads, train_on
from topwork.heads.tuning.trials import Trial
from topwork.heads.tuning.tuner import Tuner, held_out_logits
from topwork.metrics.calibration import Calibration, as_pairs, calibrate
from topwork.metrics.conformal import Origin, Residuals, find_residuals
from topwork.metrics.history import History
from topwork.recipes.prepare import TrainingData
from topwork.vectors.on_disk import map_rows

MOST_DECISIONS = 200_000


@dataclass(frozen=True)
class FittedHead:
    """A head that ships, and what is known of it.

    Attributes:
        head: divided by the temperature.
        settings: how it was trained; with more epochs than were asked for where it went on.
        history: of its training; the validation images are not learnt from there.
        calibration: how sure it may be; for numbers, how far off it is.
        logits: (M, C) float32, calibrated, of the M validation images.
        unseen_logits: the same by the head as it was before it was refitted on the validation
            images; None if it was not.
    """

    head: Head
    settings: HeadSettings
    history: History
    calibration: Calibration | Residuals
    logits: Floats32
    unseen_logits: Floats32 | None

    @property
    def refitted(self) -> bool:
        """Whether it learnt from the validation images too, in the end."""
        return self.unseen_logits is not None


def fit_head(
    data: TrainingData,
    chosen: HeadSettings,
    settings: Settings,
    choice: tuple[Tuner, Trial] | None = None,
    callback: Callback = SILENT,
) -> FittedHead:
    """Trains a head on the training images, calibrates it, and refits it on validation images too.

    A head that is solved to its optimum has no epoch to choose, and is always refitted; one that
    is trained in epochs is if `settings.refit` says so, for as many epochs as were kept.

    Args:
        data: what it learns from.
        chosen: how it is trained.
        settings: the seed, and whether a dense head is refitted.
        choice: the search, and the trial that it chose; None if nothing was left open.
        callback: hears when it is trained.

    Raises:
        TopworkError: the loss was finite in no epoch.
    """
    rows, vectors = data.split.held_out, data.examples.vectors
    fit = train_on(
        data.examples,
        data.split,
        chosen,
        data.dataset.outputs,
        task=data.dataset.task,
        seed=settings.seed,
        most_epochs=settings.epochs_allowed if data.split.decides else chosen.epochs,
    )
    chosen, (first, history) = fit.settings, keep(fit)
    callback.on_trained(history)
    unseen = map_rows(first.logits, vectors, rows)
    calibration = _calibrate(data, chosen, choice, unseen)
    again = None
    if chosen.head is HeadKind.LOGISTIC or settings.refit:
        again = _refit(data, chosen, history.best_epoch, settings.seed)
    head = first if again is None else again
    if isinstance(calibration, Calibration):
        first, head = (one.cooled(calibration.temperature) for one in (first, head))
    return FittedHead(
        head=head,
        settings=chosen,
        history=history,
        calibration=calibration,
        logits=map_rows(head.logits, vectors, rows),
        unseen_logits=None if again is None else map_rows(first.logits, vectors, rows),
    )


def _refit(data: TrainingData, chosen: HeadSettings, epochs: int, seed: int) -> Head | None:
    """Trains on training and validation images; None where that fails, which costs nothing."""
    training, validation = data.split.training, data.split.held_out
    everything = np.concatenate([training, np.tile(validation, (len(training), 1))], axis=1)
    unjudged = RowSplit(everything, np.full(1, -1, np.int32))
    try:
        (fit,) = train_heads(
            data.examples,
            unjudged,
            [chosen.model_copy(update={"epochs": epochs})],
            data.dataset.outputs,
            task=data.dataset.task,
            seed=seed,
        )
    except TopworkError:
        return None
    head = fit.head
    if head is None:
        return None
    weights = [array for layer in head.layers for array in (layer.kernel, layer.bias)]
    return head if all(np.isfinite(array).all() for array in weights) else None


def _calibrate(
    data: TrainingData,
    chosen: HeadSettings,
    choice: tuple[Tuner, Trial] | None,
    unseen: Floats32,
) -> Calibration | Residuals:
    """Measures how sure the head may be, by answers to images that were not learnt from.

    A dense head is scored itself, by the validation images: heads of the folds stop at epochs of
    their own, after fewer steps, and are surer or less sure than it. A solved head is where its
    data puts it: those of the folds are like it, and theirs are more images. Where validation
    lacks a class the folds speak alone, and without any nothing is promised.
    """
    task, targets = data.dataset.task, data.examples.targets[data.split.held_out]
    decides, solved = data.split.decides, chosen.head is HeadKind.LOGISTIC
    if (solved or not decides) and choice is not None and choice[0].has_folds:
        logits, truth = held_out_logits(*choice)
        if decides:
            logits, truth = np.concatenate([logits, unseen]), np.concatenate([truth, targets])
        return calibrate_task(task, logits, truth, "folds")
    found = calibrate_task(task, unseen, targets, "validation")
    return found.withheld() if isinstance(found, Calibration) and not decides else found


def calibrate_task(
    task: Task, logits: Floats32, targets: NDArray[Any], source: Origin
) -> Calibration | Residuals:
    """Measures how sure a head may be, or how far off its numbers are.

    Args:
        task: what the logits mean.
        logits: (M, C) of images that were not learnt from.
        targets: M true ones, as `LabeledVectors.targets` has them.
        source: where the images come from.
    """
    if task is Task.CLASSES:
        return calibrate(logits, targets, source)
    if task is Task.NUMBER:
        return find_residuals(logits, targets, source)
    # Every label is a decision between two; more of them than this say nothing new.
    single, truth = logits.reshape(-1, 1), targets.ravel().astype(np.int64)
    some = np.linspace(0, len(truth) - 1, min(len(truth), MOST_DECISIONS)).astype(np.int64)
    return calibrate(as_pairs(single[some]), truth[some], source)
