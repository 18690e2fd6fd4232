"""Trials: one way to train a head, tried on every replicate; their journal; the choice."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import ClassWeight, HeadKind, HeadSettings
from topwork.core.errors import StoreError, TopworkError
from topwork.heads.examples import HeadFit
from topwork.metrics.standard_error import error_of_differences, standard_error

# The score of numbers whose loss is not finite: below all others, and still a number.
WORST = -1e30


@dataclass(frozen=True)
class Trial:
    """One way to train a head, tried on all replicates.

    Attributes:
        settings: how.
        fits: one for each replicate; not all of them still have their heads.
        images: how many different images were held out in all, where the metric is the share of
            them that is right; else 0.
    """

    settings: HeadSettings
    fits: tuple[HeadFit, ...]
    images: int = 0

    @property
    def metric(self) -> str:
        """Keras' name of the held-out figures: `accuracy`, or `mae` for numbers."""
        return "mae" if "val_mae" in self.fits[0].curve else "accuracy"

    @cached_property
    def metrics(self) -> NDArray[np.float64]:
        """Held-out metric (R, E) of each replicate and epoch."""
        return np.array([fit.curve[f"val_{self.metric}"] for fit in self.fits])

    @cached_property
    def curves(self) -> NDArray[np.float64]:
        """Score (R, E) of each replicate and epoch, the higher the better.

        The accuracy, and 0 where it had diverged; for numbers, the loss with its sign changed.
        """
        losses = np.array([fit.curve["val_loss"] for fit in self.fits])
        if self.metric == "mae":
            return np.where(np.isfinite(losses), -losses, WORST)
        return np.where(np.isfinite(losses), self.metrics, 0.0)

    @cached_property
    def epoch(self) -> int:
        """The epoch, counted from 1, at which the mean score over the replicates is highest."""
        return int(self.curves.mean(axis=0).argmax()) + 1

    @property
    def scores(self) -> NDArray[np.float64]:
        """The score (R,) of each replicate at that epoch."""
        return np.asarray(self.curves[:, self.epoch - 1])

    @property
    def mean(self) -> float:
        """The mean of the scores."""
        return float(self.scores.mean())

    @property
    def error(self) -> float:
        """The standard error of the mean of the figures; NaN where it cannot be known."""
        return standard_error(self.figures, self.images)

    @property
    def figures(self) -> NDArray[np.float64]:
        """The metric (R,) of each replicate at that epoch: what a person is shown."""
        shown = self.metrics if self.metric == "mae" else self.curves
        return np.asarray(shown[:, self.epoch - 1])

    @property
    def loss(self) -> float:
        """The mean held-out loss at that epoch."""
        return float(np.mean([fit.curve["val_loss"][self.epoch - 1] for fit in self.fits]))

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite in some epoch of some replicate."""
        return any(
            not math.isfinite(value)
            for fit in self.fits
            for name in ("loss", "val_loss")
            for value in fit.curve[name]
        )


def choose(trials: Sequence[Trial], favored: ClassWeight = ClassWeight.NONE) -> Trial:
    """Chooses the simplest trial that is within one standard error of the best.

    The best has the highest mean, of equal ones the lowest loss. Another is within one standard
    error if the mean of its differences to the best, replicate by replicate, is not larger than
    the standard error of such a mean, which `error_of_differences` pools over the trials: all saw
    the same folds and seeds. One that diverged in some replicate, at its epoch, is within none.
    Simple is, in this order: fewer inner units, fewer options, smaller steps or a larger penalty.
    With a single replicate there is no standard error, and the best is chosen.

    Args:
        trials: at least one, all on the same replicates.
        favored: the class weights that are no option more.

    Raises:
        TopworkError: every trial diverged at once.

    Source: Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3, for the
    rule; the differences are taken in pairs.
    """
    best = max(trials, key=rank)
    if not any(fit.best_epoch for fit in best.fits):
        logistic = best.settings.head is HeadKind.LOGISTIC
        advice = "a larger --penalty, or --normalize" if logistic else "a smaller --learning-rate"
        raise TopworkError(f"all heads diverged: the loss was finite in no epoch; try {advice}")

    others = [trial for trial in trials if trial is not best and math.isfinite(trial.loss)]
    close = [best]
    if others:
        differences = np.array([best.scores - trial.scores for trial in others])
        near = differences.mean(axis=1) <= error_of_differences(differences)
        close += itertools.compress(others, near)
    return min(close, key=lambda trial: _complexity(trial, best, favored))


def rank(trial: Trial) -> tuple[float, float]:
    """Orders trials by their mean, equal ones by their loss; the highest is the best."""
    # NaN is neither above nor below anything, and would leave the order to chance.
    return trial.mean, -math.inf if math.isnan(trial.loss) else -trial.loss


_NAMES = ("weight_decay", "label_smoothing", "dropout", "class_weight", "normalize")
# The options that a plain head does not use.
PLAIN = {name: HeadSettings.model_fields[name].default for name in _NAMES}


def _complexity(trial: Trial, best: Trial, favored: ClassWeight) -> tuple[float, ...]:
    settings = trial.settings
    plain_values = PLAIN | {"class_weight": favored}
    options = sum(getattr(settings, name) != plain for name, plain in plain_values.items())
    if settings.head is HeadKind.LOGISTIC:
        # It takes no steps: simpler than a head in epochs that has as many options.
        steps = -float(settings.penalty)
    else:
        steps = float(settings.learning_rate) * settings.epochs
    return settings.inner_units, options, steps, trial is not best


Record = dict[str, Any]
RECORD = ("key", "replicate", "settings", "best_epoch", "diverged", "curve")
START = b'{"key": "'


@dataclass
class Journal:
    """Every head that was trained, one JSON object a line; a search that was killed goes on.

    Attributes:
        path: the file; None to keep nothing.
        callback: hears of every head that is trained now, once it is written down.
        known: what is written down, by key.
    """

    path: Path | None = None
    callback: Callback = SILENT
    known: dict[str, Record] = field(default_factory=dict)

    def open(self) -> None:
        """Reads what is there. A line that was cut off is as if it were not there.

        Raises:
            StoreError: the file cannot be read or written, or is something else.
        """
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Opened for writing too: that fails now, and not after the first heads are trained.
            with self.path.open("a+b") as file:
                file.seek(0)
                lines = file.read().splitlines()
        except OSError as error:
            raise StoreError(
                f"cannot read and write the trials in {self.path}: {error.strerror}; choose "
                "another file with --trials"
            ) from error
        for line in lines:
            with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
                record = json.loads(line)
                self.known[record["key"]] = {name: record[name] for name in RECORD}
        if not self.known and any(line[: len(START)] != START[: len(line)] for line in lines):
            raise StoreError(f"{self.path} does not hold trials; choose another file with --trials")

    def add(self, records: Sequence[Record]) -> None:
        """Appends records.

        Raises:
            StoreError: the file cannot be written.
        """
        if self.path is not None and records:
            text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
            try:
                self._append(self.path, text.encode())
            except OSError as error:
                raise StoreError(
                    f"cannot write the trials to {self.path}: {error.strerror}"
                ) from error
        for record in records:
            self.known[record["key"]] = record
            self.callback.on_record(record)

    @staticmethod
    def _append(path: Path, content: bytes) -> None:
        # Unbuffered, so that it is one write: lines of two searches do not mix.
        with path.open("a+b", buffering=0) as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                # The line before may have been cut off.
                content = content if file.read(1) == b"\n" else b"\n" + content
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def make_record(key: str, replicate: str, fit: HeadFit) -> Record:
    """Returns what the journal keeps of a head; figures that are not finite become None."""
    curve = {
        name: [value if math.isfinite(value) else None for value in values]
        for name, values in fit.curve.items()
    }
    return {
        "key": key,
        "replicate": replicate,
        "settings": fit.settings.model_dump(mode="json"),
        "best_epoch": fit.best_epoch,
        "diverged": any(None in values for values in curve.values()),
        "curve": curve,
    }


def read_record(record: Record, settings: HeadSettings) -> HeadFit:
    """Returns a fit from the journal; its head is gone."""
    curve = {
        str(name): [math.nan if value is None else float(value) for value in values]
        for name, values in record["curve"].items()
    }
    return HeadFit(settings, None, int(record["best_epoch"]), curve)
