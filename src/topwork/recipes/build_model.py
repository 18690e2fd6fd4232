"""A chosen head becomes a model: trained on all training images, calibrated and judged."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.bases import Stack
from topwork.core.arrays import Floats32
from topwork.core.callbacks import Callback
from topwork.core.config import HeadKind, HeadSettings, Settings
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.listing import Split
from topwork.heads.dense import Head
from topwork.heads.train import keep, train_heads
from topwork.heads.tuning.search import usual
from topwork.heads.tuning.trials import Trial, standard_error
from topwork.heads.tuning.tuner import Tuner, held_out_logits
from topwork.inspection.cache import recall
from topwork.metrics.calibration import Calibration, as_pairs, calibrate
from topwork.metrics.conformal import Origin, Residuals, find_residuals
from topwork.metrics.history import History
from topwork.metrics.scores import Report, finite
from topwork.models.checks.images import CheckImages
from topwork.models.folder import current_versions
from topwork.models.gallery import choose_evenly
from topwork.models.model import (
    BaseInfo,
    DataFacts,
    ImageTable,
    Model,
    SearchFacts,
    ValidationScore,
    find_networks,
)
from topwork.models.predictions import LabeledPredictions, report_logits
from topwork.recipes.prepare import Prepared, TrainingData
from topwork.recipes.result import Checks, Extras, GalleryImages, ImageCounts, TrainResult
from topwork.vectors.embed import Embedding
from topwork.vectors.extractors import make_space
from topwork.vectors.on_disk import map_rows

# Of the validation images, to compare the saved model on.
COMPARED_IMAGES = 50
MOST_DECISIONS = 200_000


def build_result(
    prepared: Prepared,
    choice: tuple[Tuner, Trial] | None,
    store: Path,
    seconds: dict[str, float],
    callback: Callback,
) -> TrainResult:
    """Trains the chosen head on all training images, calibrates it and makes the model.

    Args:
        prepared: what it is trained with.
        choice: the search, and the trial that it chose; None if nothing was left open.
        store: where inspections are kept.
        seconds: wall time of what came before; that of the head is added.
        callback: hears when the head is trained.

    Raises:
        TopworkError: the loss was finite in no epoch.
    """
    started = time.perf_counter()
    data, settings = prepared.data, prepared.settings
    dataset, vectors, rows = data.dataset, data.vectors, data.split.held_out
    chosen = _choose_settings(data, settings, choice)
    (fit,) = train_heads(
        data.examples, data.split, [chosen], dataset.outputs, task=dataset.task, seed=settings.seed
    )
    head, history = keep(fit)
    callback.on_trained(history)
    head, logits, calibration = _calibrate_head(head, data, choice)
    seconds = seconds | {"head": time.perf_counter() - started}
    report = report_logits(dataset.task, dataset.labels[rows], logits, len(dataset.classes))
    return TrainResult(
        model=Model(
            classes=dataset.classes,
            task=dataset.task,
            head=head,
            history=history,
            bases=describe_bases(prepared.stack, settings),
            settings=settings.model_copy(update=chosen.model_dump()),
            data=_describe_data(dataset, vectors),
            validation=_describe_validation(report, history),
            calibration=calibration,
            search=_describe_search(*choice) if choice else None,
            images=_list_images(dataset, vectors),
            networks=find_networks(prepared.stack),
            versions=current_versions(),
        ),
        stack=prepared.stack,
        report=report,
        predictions=_collect_predictions(data, logits),
        trials=tuple(choice[0].trials) if choice else (),
        images=ImageCounts(vectors.embedded, vectors.reused, dataset.skipped),
        seconds=seconds,
        quantization=prepared.quantization,
        checks=_collect_checks(prepared, chosen),
        extras=Extras(
            _choose_gallery(dataset, vectors, settings.thumbnails), recall(store, vectors.hashes)
        ),
    )


def _choose_settings(
    data: TrainingData, settings: Settings, choice: tuple[Tuner, Trial] | None
) -> HeadSettings:
    """Returns how the head is trained; folds choose its epoch where validation may not."""
    if choice is None:
        return usual(settings.head_settings())
    found = choice[1].settings
    if data.split.decides or found.head is HeadKind.LOGISTIC:
        return found
    return found.model_copy(update={"epochs": choice[1].epoch})


def _calibrate_head(
    head: Head, data: TrainingData, choice: tuple[Tuner, Trial] | None
) -> tuple[Head, Floats32, Calibration | Residuals]:
    """Returns the head, cooled; its logits (M, C) of the validation images; how sure it may be.

    Where there are folds, that is measured on them: the validation images chose the epoch. Where
    there are none, and validation lacks a class, nothing is promised.
    """
    task, rows = data.dataset.task, data.split.held_out
    logits = map_rows(head.logits, data.examples.vectors, rows)
    if choice is not None and choice[0].has_folds:
        calibration = _calibrate(task, *held_out_logits(*choice), "folds")
    else:
        calibration = _calibrate(task, logits, data.examples.targets[rows], "validation")
        if isinstance(calibration, Calibration) and not data.split.decides:
            calibration = calibration.withheld()
    if isinstance(calibration, Calibration):
        head = head.cooled(calibration.temperature)
        logits = map_rows(head.logits, data.examples.vectors, rows)
    return head, logits, calibration


def _calibrate(
    task: Task, logits: Floats32, targets: NDArray[Any], source: Origin
) -> Calibration | Residuals:
    """Measures how sure a head may be, or how far off its numbers are."""
    if task is Task.CLASSES:
        return calibrate(logits, targets, source)
    if task is Task.NUMBER:
        return find_residuals(logits, targets, source)
    # Every label is a decision between two; more of them than this say nothing new.
    single, truth = logits.reshape(-1, 1), targets.ravel().astype(np.int64)
    some = np.linspace(0, len(truth) - 1, min(len(truth), MOST_DECISIONS)).astype(np.int64)
    return calibrate(as_pairs(single[some]), truth[some], source)


def _collect_checks(prepared: Prepared, chosen: HeadSettings) -> Checks:
    data = prepared.data
    dataset, vectors, rows = data.dataset, data.vectors, data.split.held_out
    few = rows[np.linspace(0, len(rows) - 1, min(COMPARED_IMAGES, len(rows))).astype(int)]
    check_images = CheckImages(
        tuple(dataset.sources[row] for row in few),
        tuple(vectors.hashes[row] for row in few),
        vectors.values[few],
    )
    # What was begun is of a head of as many layers as were asked for.
    begun = chosen.inner_units == prepared.settings.inner_units
    return Checks(check_images, prepared.opening, prepared.checking if begun else None)


def _collect_predictions(data: TrainingData, logits: Floats32) -> LabeledPredictions:
    dataset, rows = data.dataset, data.split.held_out
    return LabeledPredictions(
        split=str(Split.VALIDATION),
        names=tuple(dataset.names[row] for row in rows),
        hashes=tuple(data.vectors.hashes[row] for row in rows),
        labels=dataset.labels[rows],
        logits=logits,
        sources=tuple(dataset.sources[row] for row in rows),
        seen=len(rows),
    )


def _choose_gallery(dataset: Dataset, vectors: Embedding, most: int) -> GalleryImages | None:
    if not most:
        return None
    training = np.flatnonzero(dataset.splits == Split.TRAIN)
    labels = dataset.label_texts
    rows = training[choose_evenly([labels[row] for row in training], most)]
    return GalleryImages(
        tuple(dataset.names[row] for row in rows),
        tuple(labels[row] for row in rows),
        tuple(dataset.sources[row] for row in rows),
        vectors.values[rows],
    )


def _describe_search(tuner: Tuner, trial: Trial) -> SearchFacts:
    return SearchFacts(
        heads=tuner.trained + tuner.reused,
        recipes=len(tuner.trials),
        replicates=len(tuner.replicates),
        folds=tuner.has_folds,
        mean=float(trial.figures.mean()),
        error=finite(standard_error(trial.figures)),
    )


def describe_bases(stack: Stack, settings: Settings) -> tuple[BaseInfo, ...]:
    """Describes the networks, each with what its vectors are."""
    return tuple(
        BaseInfo(
            space=make_space(network, settings),
            feature_shape=network.feature_shape,
            vector_length=network.vector_length,
            parameters=network.parameters,
        )
        for network in stack.networks
    )


def _describe_validation(report: Report, history: History) -> ValidationScore:
    low, high = report.interval
    return ValidationScore(
        metric=report.metric,
        value=report.value,
        interval=(finite(low), finite(high)),
        loss=history.row(history.best_epoch)["val_loss"],
        figures={name: finite(value) for name, value in report.figures.items()},
    )


def _describe_data(dataset: Dataset, vectors: Embedding) -> DataFacts:
    rows = sorted(zip(vectors.hashes, dataset.label_texts, dataset.splits.tolist(), strict=True))
    made = dataset.split_made
    split: dict[str, Any] = {"made_by": "data"}
    if made is not None:
        split = {"made_by": "topwork", "fraction": made.fraction, "seed": made.seed}
        split |= {"copied": list(made.copied)} if made.copied else {}
    return DataFacts(
        fingerprint=hashlib.sha256(repr(rows).encode()).hexdigest(),
        counts=dataset.counts(),
        skipped=len(dataset.skipped),
        columns={}
        if dataset.read_as is None
        else dataset.read_as.model_dump(mode="json", exclude_none=True),
        split=split,
    )


def _list_images(dataset: Dataset, vectors: Embedding) -> ImageTable:
    return ImageTable(
        names=dataset.names,
        labels=dataset.label_texts,
        splits=tuple(map(str, dataset.splits)),
        hashes=vectors.hashes,
    )
