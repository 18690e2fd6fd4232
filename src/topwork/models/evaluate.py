"""A model and images in, answers out: evaluate with known labels, predict without."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from topwork.core.arrays import Floats32
from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import DatasetError, StoreError
from topwork.core.files import open_scratch
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.listing import SHOWN, Note, Skipped, Split
from topwork.data.pixel_kinds import say_unscaled
from topwork.heads.dense import probabilities
from topwork.images.traits import Trait
from topwork.metrics.calibration import calibration_error, chance_error, selective
from topwork.metrics.conformal import coverage_of, label_sets
from topwork.metrics.scores import Report, describe_report, finite
from topwork.models.answers import check_abstain, find_threshold
from topwork.models.match_data import choose_images, choose_split, match_classes
from topwork.models.model import Model
from topwork.models.predictions import LabeledPredictions, report_logits
from topwork.vectors.embed import Embedding, embed_images
from topwork.vectors.on_disk import map_rows, select

# Fewer images than this are predicted without the store: a part for each would not pay.
FEW = 32


@dataclass(frozen=True)
class CalibrationScores:
    """What a model's probabilities were worth on some images.

    Attributes:
        error: expected calibration error of the top class, or of all decisions about labels,
            0..1; None for numbers.
        error_before: the same without the temperature.
        error_by_chance: what so many images show of it by chance alone.
        answered: share of the images whose top probability reached the threshold; None if
            there was no threshold.
        answered_accuracy: accuracy on those; NaN if there are none.
        covered: share of the images whose label was in its set, or whose numbers were in their
            ranges; None if no coverage was asked.
        set_size: mean number of labels in a set; for numbers, the mean width of a range.
    """

    error: float | None = None
    error_before: float | None = None
    error_by_chance: float | None = None
    answered: float | None = None
    answered_accuracy: float | None = None
    covered: float | None = None
    set_size: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """A model's answers to images whose labels are known.

    Attributes:
        report: the metric, its interval, and figures per class.
        split: which images: `train`, `validation`, `test` or `all`.
        seen: how many of them the model was trained or chosen on; not an honest test if any.
        learnt: how many of them its head learnt from.
        skipped: files that were left out, with the reasons.
        calibration: what the probabilities were worth.
        predictions: the logits and the truth, image by image.
    """

    report: Report
    split: str
    seen: int
    skipped: tuple[Skipped, ...]
    calibration: CalibrationScores
    predictions: LabeledPredictions
    learnt: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns what `topwork evaluate --json` prints, besides the model and its classes."""
        return {
            "split": self.split,
            "images": len(self),
            **describe_report(self.report),
            "calibration": {
                name: finite(value) for name, value in asdict(self.calibration).items()
            },
            "seen": self.seen,
            "learnt": self.learnt,
            "skipped": [asdict(item) for item in self.skipped],
        }

    def __len__(self) -> int:
        return self.report.count


def evaluate(
    model: Model,
    dataset: Dataset,
    split: str,
    store: Path,
    *,
    strict: bool = False,
    abstain_below: float | None = None,
    coverage: float | None = None,
    callback: Callback = SILENT,
) -> Evaluation:
    """Tests a model on one split of a dataset.

    Data without splits of its own is divided as the model remembers it: images that it was
    trained on are `train`, those that were set aside then are `validation`, all others are `test`.

    Args:
        model: a trained model.
        dataset: images with labels.
        split: `train`, `validation`, `test` or `all`.
        store: where vectors are kept; those of images seen before are reused.
        strict: stop at the first image that cannot be used.
        abstain_below: least top probability, 0..1, that counts as an answer.
        coverage: share of label sets, between 0 and 1, that are to hold the true label.
        callback: hears how it gets on.

    Raises:
        SettingsError: a threshold or a coverage that is out of range.
        DatasetError: the split is empty, or has classes that the model does not know.
    """
    dataset = choose_split(match_classes(model, dataset), split)
    threshold = find_threshold(model, coverage)
    check_abstain(model, abstain_below)
    dataset, vectors = _embed(model, dataset, store, strict, callback)
    callback.on_embedded(dataset, vectors)
    _tell_unscaled(model, dataset, callback)
    remembered = dict(zip(model.images.hashes, model.images.splits, strict=True))
    origin = np.array([remembered.get(image, str(Split.TEST)) for image in vectors.hashes])
    values, chosen = vectors.values, np.ones(len(origin), bool)
    if split != "all" and not dataset.divided:
        chosen = origin == split
        dataset, values = choose_images(dataset, chosen, split), select(values, chosen)
    logits = map_rows(model.head.logits, values)
    hashes = tuple(itertools.compress(vectors.hashes, chosen))
    origin = origin[chosen]
    seen, learnt = int((origin != Split.TEST).sum()), int((origin == Split.TRAIN).sum())
    if model.data.refitted:
        learnt = seen
    return Evaluation(
        report=report_logits(model.task, dataset.labels, logits, len(model.classes)),
        split=split,
        seen=seen,
        skipped=dataset.skipped,
        calibration=_judge(model, logits, dataset.labels, abstain_below, threshold),
        predictions=LabeledPredictions(
            split, dataset.names, hashes, dataset.labels, logits, tuple(dataset.sources), seen
        ),
        learnt=learnt,
    )


def _embed(
    model: Model, dataset: Dataset, store: Path, strict: bool, callback: Callback
) -> tuple[Dataset, Embedding]:
    """Returns the images that can be used and their vectors, also without a store to write to."""
    try:
        return embed_images(dataset, model.extractors(store), strict=strict, callback=callback)
    except StoreError:
        with open_scratch() as folder:
            return embed_images(dataset, model.extractors(folder), strict=strict, callback=callback)


def _tell_unscaled(model: Model, dataset: Dataset, callback: Callback) -> None:
    if model.knows_range or dataset.traits is None:
        return
    rows = np.flatnonzero(dataset.traits & Trait.DEEP)
    if len(rows):
        callback.on_notes((Note(say_unscaled([dataset.names[n] for n in rows]), doubtful=True),))


def _judge(
    model: Model,
    logits: Floats32,
    labels: Any,
    abstain_below: float | None,
    threshold: Any,
) -> CalibrationScores:
    if model.task is Task.NUMBER:
        if threshold is None:
            return CalibrationScores()
        inside = (np.abs(logits - labels) <= threshold).all(axis=1)
        return CalibrationScores(covered=float(inside.mean()), set_size=float(2 * threshold.mean()))
    before = logits * np.float32(model.temperature)
    task, truth = model.task, labels
    if task is Task.LABELS:
        # Every decision is one of two.
        task, truth = Task.BINARY, labels.ravel().astype(np.int64)
        logits, before = logits.reshape(-1, 1), before.reshape(-1, 1)
    shown, first = probabilities(task, logits), probabilities(task, before)
    found = CalibrationScores(
        calibration_error(shown, truth), calibration_error(first, truth), chance_error(shown)
    )
    if abstain_below is not None:
        answered, accuracy = selective(shown, truth, abstain_below)
        found = replace(found, answered=answered, answered_accuracy=accuracy)
    if threshold is not None:
        covered, size = coverage_of(label_sets(shown, threshold), truth)
        found = replace(found, covered=covered, set_size=size)
    return found


def predict_all(
    model: Model,
    dataset: Dataset,
    store: Path,
    *,
    failed: dict[int, str] | None = None,
    few: int = FEW,
) -> Floats32:
    """Returns the logits (N, C) of a dataset's N images, reusing and keeping their vectors.

    Args:
        model: the model.
        dataset: the images.
        store: where vectors are kept, if they can be.
        failed: takes the reason for each image that cannot be used, by its index, whose logits
            are NaN; the store is not used then. None to refuse such images.
        few: fewer images than this are predicted without the store.

    Raises:
        DatasetError: an image cannot be used.
    """
    if len(dataset) >= few and failed is None:
        # Vectors are kept to be sooner the next time; nobody asked for that here.
        with contextlib.suppress(StoreError):
            usable, vectors = embed_images(dataset, model.extractors(store))
            _refuse_any(usable.skipped[len(dataset.skipped) :])
            return map_rows(model.head.logits, vectors.values)
    found = model.predict(dataset.sources)
    if failed is None:
        _refuse_any(Skipped(dataset.names[n], reason) for n, reason in found.failed.items())
        return found.logits
    failed.update(found.failed)
    logits = np.full((len(dataset), found.logits.shape[1]), np.nan, np.float32)
    logits[found.indices] = found.logits
    return logits


def _refuse_any(failed: Iterable[Skipped]) -> None:
    names = [f"{item.path}: {item.reason}" for item in failed]
    if names:
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise DatasetError(f"every image must be readable; {'; '.join(names[:SHOWN])}{more}")
