"""Many heads on the same vectors, as far as a budget goes: what a search tries them with."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import HeadKind, HeadSettings
from topwork.core.errors import DatasetError, SettingsError, TopworkError
from topwork.core.task import Task
from topwork.heads.dense import Floats
from topwork.heads.examples import HeadFit, LabeledVectors
from topwork.heads.train import check_vectors, train_heads
from topwork.heads.tuning.folds import Replicate
from topwork.heads.tuning.trials import Journal, Trial, make_record, read_record
from topwork.vectors.on_disk import VectorsOnDisk, map_rows

# Raise it when the same settings on the same vectors would give other figures.
VERSION = "1"
# A logistic head takes about as long as this many epochs.
LOGISTIC_EPOCHS = 300


@dataclass(frozen=True)
class Budget:
    """How much a search may cost.

    Attributes:
        heads: how many heads may be trained, over all replicates; None for any number.
        seconds: how long it may take; None for any time.
    """

    heads: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str | None) -> Budget:
        """Reads `500` (heads) or `60s` (seconds).

        Raises:
            SettingsError: it is neither, or not above 0.
        """
        if text is None:
            return cls()
        try:
            if text.endswith("s"):
                seconds = float(text[:-1])
                if math.isfinite(seconds) and seconds > 0:
                    return cls(seconds=seconds)
            elif int(text) > 0:
                return cls(heads=int(text))
        except ValueError:
            pass
        raise SettingsError(
            f"budget: must be a number of heads such as 500, or of seconds such as 60s, and above "
            f"0, received {text!r}"
        )


@dataclass
class Tuner:
    """Tries ways to train a head on some examples.

    Attributes:
        examples: vectors, all finite, and their targets.
        replicates: the occasions, at least one.
        outputs: C.
        task: decides the loss and the metric.
        budget: how much it may cost.
        journal: where every head is written down.
        callback: hears how many heads were trained, and how many will be if that is known.
        trials: all complete ones, in order.
        trained: heads that were trained now.
        reused: heads that the journal had.
        left_out: candidates that the time did not allow.
        clock: tells the time in seconds.
    """

    examples: LabeledVectors
    replicates: Sequence[Replicate]
    outputs: int
    task: Task = Task.CLASSES
    budget: Budget = Budget()
    journal: Journal = field(default_factory=Journal)
    callback: Callback = SILENT
    trials: list[Trial] = field(default_factory=list)
    trained: int = 0
    reused: int = 0
    left_out: int = 0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        check_vectors(self.examples.vectors, "training")
        count = len(self.replicates)
        if self.budget.heads is not None and self.budget.heads < count:
            raise SettingsError(
                f"budget: must be at least {count} heads, one for each fold and seed, received "
                f"{self.budget.heads}"
            )
        self._started = self.clock()
        self._pace = 0.0

    @property
    def has_folds(self) -> bool:
        """Whether the replicates hold out training images, instead of the validation images."""
        return any(replicate.is_fold for replicate in self.replicates)

    @property
    def occasions(self) -> str:
        """In words, what every candidate is tried on."""
        seeds = len({replicate.seed for replicate in self.replicates})
        folds = len(self.replicates) // seeds
        times = f" with {seeds} seeds" if seeds > 1 else ""
        if self.has_folds:
            return f"{folds} folds of the training images{times}"
        return f"the validation images{times}"

    @cached_property
    def images(self) -> int:
        """How many different images are held out, where a metric is the share that is right."""
        if not self.task.picks_one:
            return 0
        rows = np.concatenate([replicate.split.held_out for replicate in self.replicates])
        return len(np.unique(rows[rows >= 0]))

    @cached_property
    def data_key(self) -> str:
        """SHA-256 of the examples: a trial is the same only on the same vectors."""
        weights = self.examples.weights
        more = () if weights is None else (weights,)
        vectors = self.examples.vectors
        if isinstance(vectors, VectorsOnDisk):
            return vectors.key + _digest(self.examples.targets, *more)
        return _digest(vectors, self.examples.targets, *more)

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return self.clock() - self._started

    def try_all(self, candidates: Sequence[HeadSettings]) -> None:
        """Tries each candidate on every replicate, as far as the budget goes.

        A candidate that was tried before is not tried again.
        """
        done = {trial.settings for trial in self.trials}
        fresh = [settings for settings in dict.fromkeys(candidates) if settings not in done]
        fresh = self._affordable(fresh)
        if not fresh:
            return
        columns = [self._run(fresh, replicate) for replicate in self.replicates]
        rows = zip(fresh, zip(*columns, strict=True), strict=True)
        self.trials += [Trial(settings, fits, self.images) for settings, fits in rows]

    def _affordable(self, candidates: list[HeadSettings]) -> list[HeadSettings]:
        """Leaves out what is beyond the budget; the time is judged by what others took.

        Whatever the time, the first candidates are tried: without them there is nothing to choose
        from.
        """
        if self.budget.heads is not None:
            left = self.budget.heads - self.trained - self.reused
            candidates = candidates[: left // len(self.replicates)]
        if self.budget.seconds is None or not self.trials:
            return candidates
        seconds = self.budget.seconds - self.seconds
        chosen = []
        for settings in candidates:
            seconds -= self._pace * self._cost(settings) * self._count_missing(settings)
            if seconds > 0:
                chosen.append(settings)
        self.left_out += len(candidates) - len(chosen)
        return chosen

    def _count_missing(self, settings: HeadSettings) -> int:
        keys = (self._key(settings, replicate) for replicate in self.replicates)
        return sum(key not in self.journal.known for key in keys)

    def _cost(self, settings: HeadSettings) -> float:
        """How long a head takes, in a unit of its own: weights times epochs."""
        length = self.examples.vectors.shape[1]
        epochs = LOGISTIC_EPOCHS if settings.head is HeadKind.LOGISTIC else settings.epochs
        return float(length * (settings.inner_units or self.outputs) * epochs)

    def _run(self, candidates: Sequence[HeadSettings], replicate: Replicate) -> list[HeadFit]:
        keys = {settings: self._key(settings, replicate) for settings in candidates}
        missing = [settings for settings in candidates if keys[settings] not in self.journal.known]
        started = self.clock()
        fresh = dict(zip(missing, self._train(missing, replicate), strict=True))
        if missing:
            self._pace = (self.clock() - started) / sum(map(self._cost, missing))
        self.trained += len(missing)
        self.reused += len(candidates) - len(missing)
        self.journal.add(
            [make_record(keys[settings], replicate.name, fit) for settings, fit in fresh.items()]
        )
        self.callback.on_tried(self.trained + self.reused, self.budget.heads)
        return [
            fresh[settings] if settings in fresh else read_record(self.journal.known[key], settings)
            for settings, key in keys.items()
        ]

    def _train(self, candidates: Sequence[HeadSettings], replicate: Replicate) -> list[HeadFit]:
        """Trains heads; a logistic one that does not reach its optimum has diverged."""
        split, seed = replicate.split, replicate.seed
        try:
            fits = train_heads(
                self.examples, split, candidates, self.outputs, task=self.task, seed=seed
            )
        except TopworkError:
            if any(settings.head is not HeadKind.LOGISTIC for settings in candidates):
                raise
            if len(candidates) > 1:
                return [
                    fit for settings in candidates for fit in self._train([settings], replicate)
                ]
            names = ("loss", self.task.metric)
            curve = {name: [math.nan] for n in names for name in (n, f"val_{n}")}
            fits = [HeadFit(candidates[0], None, 0, curve)]
        # Inner layers are large, and those of one candidate at most are needed again.
        return [replace(fit, head=None) if fit.settings.inner_units else fit for fit in fits]

    def _key(self, settings: HeadSettings, replicate: Replicate) -> str:
        own = settings.model_dump_json()
        rows = _digest(replicate.split.training, replicate.split.held_out)
        content = [VERSION, self.data_key, self.task, self.outputs, own, rows, replicate.seed]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _digest(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def held_out_logits(tuner: Tuner, trial: Trial) -> tuple[Floats, NDArray[Any]]:
    """Returns the logits (M, C) and the targets of all M images held out, each once.

    Heads that are remembered without their weights are trained again.

    Raises:
        DatasetError: every replicate diverged.
    """
    logits, labels = [], []
    seen: set[bytes] = set()
    for replicate, fit in zip(tuner.replicates, trial.fits, strict=True):
        rows = replicate.split.held_out[replicate.split.held_out >= 0]
        if rows.tobytes() in seen or not fit.best_epoch:
            continue
        head = fit.head
        if head is None:
            (again,) = train_heads(
                tuner.examples,
                replicate.split,
                [fit.settings],
                tuner.outputs,
                task=tuner.task,
                seed=replicate.seed,
            )
            head = again.head
        if head is not None:
            seen.add(rows.tobytes())
            logits.append(map_rows(head.logits, tuner.examples.vectors, rows))
            labels.append(tuner.examples.targets[rows])
    if not logits:
        raise DatasetError(
            "no image was held out from a head whose loss was finite; choose another trial"
        )
    return np.concatenate(logits), np.concatenate(labels)
