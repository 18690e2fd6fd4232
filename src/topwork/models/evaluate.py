"""A model and images in, answers out: evaluate with known labels, predict without."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from topwork.core.arrays import Floats32
from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import DatasetError, SettingsError, StoreError
from topwork.core.files import open_scratch
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.listing import SHOWN, Note, Skipped, Split
from topwork.data.pixel_kinds import say_unscaled
from topwork.heads.dense import probabilities
from topwork.images.decode import Source
from topwork.images.traits import Trait
from topwork.metrics.calibration import calibration_error, chance_error, selective
from topwork.metrics.conformal import Residuals, coverage_of, label_sets
from topwork.metrics.scores import Report, describe_report, finite
from topwork.models.match_data import choose_images, choose_split, match_classes
from topwork.models.model import Model, Predictions
from topwork.models.predictions import LabeledPredictions, report_logits
from topwork.vectors.embed import Embedding, embed_images
from topwork.vectors.on_disk import map_rows, select

PREDICT_CHUNK = 512
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


def find_threshold(model: Model, coverage: float | None) -> Any:
    """Returns what makes answers hold the truth as often as asked; None if nothing was asked.

    For one of many or of two it is the threshold of label sets, for numbers how far a range
    reaches to either side, (C,).

    Raises:
        SettingsError: the coverage is not between 0 and 1, or the model answers with any of
            many labels.
    """
    if coverage is None:
        return None
    if isinstance(model.calibration, Residuals):
        return model.calibration.half_widths(coverage)
    if model.task is Task.LABELS:
        raise SettingsError("coverage: is for one of many classes or for numbers, not for labels")
    return model.calibration.threshold(coverage)


def check_abstain(model: Model, share: float | None) -> None:
    """Refuses a threshold for saying nothing that is out of range or makes no sense.

    Raises:
        SettingsError: with the reason.
    """
    if share is None:
        return
    if not model.task.picks_one:
        raise SettingsError(f"abstain_below: is for one of many classes, not for {model.task}")
    if not 0 <= share <= 1:
        raise SettingsError(f"abstain_below: must be 0 to 1, received {share}")


def predict(
    model: Model, sources: Sequence[Source], *, chunk: int = PREDICT_CHUNK
) -> Iterator[tuple[int, Predictions]]:
    """Predicts any number of images, a chunk at a time.

    Args:
        model: the model.
        sources: the images.
        chunk: how many are predicted at once.

    Yields:
        The index of the chunk's first image, and its predictions.
    """
    for start in range(0, len(sources), chunk):
        yield start, model.predict(sources[start : start + chunk])


def answer(
    model: Model,
    found: Predictions,
    top: int,
    abstain_below: float | None = None,
    threshold: Any = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Says in words what a model's predictions are.

    Args:
        model: the model.
        found: its predictions.
        top: how many classes or labels to name, the most probable first.
        abstain_below: least top probability, 0..1, that counts as an answer.
        threshold: from `find_threshold`.

    Yields:
        The index of each image that could be read, and: for numbers `numbers`, each with `name`,
        `value` and perhaps `range`; else `predictions`, each with `label` and `probability`. For
        many labels `present` names those that the image has. With a threshold for saying nothing
        `abstained` says whether it is reached; with a coverage `labels` is the set.
    """
    if not len(found.indices):
        return
    if model.task is Task.NUMBER:
        for row, index in zip(found.logits.tolist(), found.indices.tolist(), strict=True):
            yield index, {"numbers": _say_numbers(model.classes, row, threshold)}
        return
    classes, chances = model.classes, found.probabilities
    order = (-chances).argsort(axis=1, kind="stable")
    sets = None if threshold is None else label_sets(chances, threshold)
    for row, index in enumerate(found.indices.tolist()):
        shares = chances[row]
        ranked = [{"label": classes[c], "probability": float(shares[c])} for c in order[row]]
        said: dict[str, Any] = {"predictions": ranked[:top]}
        if model.task is Task.LABELS:
            said["present"] = [classes[c] for c in order[row] if found.logits[row, c] > 0]
        if abstain_below is not None:
            said["abstained"] = bool(shares.max() < abstain_below)
        if sets is not None:
            said["labels"] = [classes[c] for c in order[row] if sets[row, c]]
        yield index, said


def _say_numbers(names: Sequence[str], values: list[float], widths: Any) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    for n, (name, value) in enumerate(zip(names, values, strict=True)):
        said.append({"name": name, "value": value})
        if widths is not None:
            half = float(widths[n])
            said[n]["range"] = [finite(value - half), finite(value + half)]
    return said


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
