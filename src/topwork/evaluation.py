"""A model and images in, answers out: evaluate with known labels, predict without."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from topwork.calibration import calibration_error, chance_error, coverage_of, label_sets, selective
from topwork.dataset import Dataset
from topwork.errors import DatasetError, SettingsError
from topwork.heads import Floats, probabilities
from topwork.images import Source
from topwork.listener import Listener
from topwork.listing import SHOWN, Skipped, Split
from topwork.metrics import Report, make_report
from topwork.model import Model, Predictions
from topwork.vectors import embed_columns

PREDICT_CHUNK = 512
# Fewer images than this are predicted without the store: a part for each would not pay.
FEW = 32


@dataclass(frozen=True)
class Sureness:
    """What a model's probabilities were worth on some images.

    Attributes:
        error: expected calibration error of the top class, 0..1.
        error_before: the same without the temperature.
        error_by_chance: what so many images show of it by chance alone.
        answered: share of the images whose top probability reached the threshold; None if
            there was no threshold.
        answered_accuracy: accuracy on those; NaN if there are none.
        covered: share of the images whose label was in its set; None if no coverage was asked.
        set_size: mean number of labels in a set.
    """

    error: float
    error_before: float
    error_by_chance: float
    answered: float | None = None
    answered_accuracy: float | None = None
    covered: float | None = None
    set_size: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """A model's answers to images whose labels are known.

    Attributes:
        report: accuracy, interval, per class.
        split: which images: `train`, `validation`, `test` or `all`.
        seen: how many of them the model was trained or chosen on; not an honest test if any.
        skipped: files that were left out, with the reasons.
        sureness: what the probabilities were worth.
    """

    report: Report
    split: str
    seen: int
    skipped: tuple[Skipped, ...]
    sureness: Sureness

    def to_json(self) -> dict[str, Any]:
        """Returns what `topwork evaluate --json` prints, besides the model and its classes."""
        report = self.report
        return {
            "split": self.split,
            "images": len(self),
            "accuracy": report.accuracy,
            "interval": report.interval,
            "macro_accuracy": report.macro_accuracy,
            "precision": [None if math.isnan(v) else v for v in report.precision.tolist()],
            "recall": [None if math.isnan(v) else v for v in report.recall.tolist()],
            "support": report.support.tolist(),
            "confusion": report.confusion.tolist(),
            "calibration": {
                name: None if value is None or math.isnan(value) else value
                for name, value in asdict(self.sureness).items()
            },
            "seen": self.seen,
            "skipped": [asdict(item) for item in self.skipped],
        }

    def __len__(self) -> int:
        return int(self.report.confusion.sum())


def evaluate(
    model: Model,
    dataset: Dataset,
    split: str,
    store: Path,
    *,
    strict: bool = False,
    abstain_below: float | None = None,
    coverage: float | None = None,
    listener: Listener | None = None,
) -> Evaluation:
    """Tests a model on one split of a dataset.

    A dataset without split folders is divided as the model remembers it: images that it was
    trained on are `train`, those that its epoch was chosen by are `validation`, all others
    are `test`.

    Args:
        model: a trained model.
        dataset: images with labels.
        split: `train`, `validation`, `test` or `all`.
        store: where vectors are kept; those of images seen before are reused.
        strict: stop at the first image that cannot be used.
        abstain_below: least top probability, 0..1, that counts as an answer.
        coverage: share of label sets, between 0 and 1, that are to hold the true label.
        listener: hears how it gets on.

    Raises:
        SettingsError: a threshold or a coverage that is out of range.
        DatasetError: the split is empty, or has classes that the model does not know.
    """
    listener = listener or Listener()
    dataset = _match_classes(model, dataset)
    if split != "all" and dataset.divided:
        dataset = _choose(dataset, dataset.splits == split, split)
    threshold = find_threshold(model, coverage)
    check_share("abstain_below", abstain_below)
    dataset, vectors = embed_columns(
        dataset,
        model.columns(store),
        strict=strict,
        on_read=listener.read,
        on_progress=listener.progressed,
    )
    listener.embedded(dataset, vectors)
    remembered = dict(zip(model.images.hashes, model.images.splits, strict=True))
    origin = np.array([remembered.get(image, str(Split.TEST)) for image in vectors.hashes])
    values = vectors.values
    if split != "all" and not dataset.divided:
        chosen = origin == split
        dataset, values, origin = _choose(dataset, chosen, split), values[chosen], origin[chosen]
    logits = model.head.logits(values)
    return Evaluation(
        report=make_report(dataset.labels, logits.argmax(axis=1), len(model.classes)),
        split=split,
        seen=int((origin != Split.TEST).sum()),
        skipped=dataset.skipped,
        sureness=_judge(model, logits, dataset.labels, abstain_below, threshold),
    )


def _judge(
    model: Model,
    logits: Floats,
    labels: Any,
    abstain_below: float | None,
    threshold: float | None,
) -> Sureness:
    shown = probabilities(model.task, logits)
    temperature = model.calibration.temperature if model.calibration else 1.0
    before = probabilities(model.task, logits * np.float32(temperature))
    found = Sureness(
        calibration_error(shown, labels), calibration_error(before, labels), chance_error(shown)
    )
    if abstain_below is not None:
        answered, accuracy = selective(shown, labels, abstain_below)
        found = replace(found, answered=answered, answered_accuracy=accuracy)
    if threshold is not None:
        covered, size = coverage_of(label_sets(shown, threshold), labels)
        found = replace(found, covered=covered, set_size=size)
    return found


def find_threshold(model: Model, coverage: float | None) -> float | None:
    """Returns the threshold of label sets that hold the true label as often as asked.

    Raises:
        SettingsError: the coverage is not between 0 and 1, or the model was not calibrated.
    """
    if coverage is None:
        return None
    if model.calibration is None:
        raise SettingsError("coverage: this model was not calibrated; train it again")
    return model.calibration.threshold(coverage)


def check_share(name: str, value: float | None) -> None:
    """Refuses a share outside 0..1.

    Raises:
        SettingsError: with the name.
    """
    if value is not None and not 0 <= value <= 1:
        raise SettingsError(f"{name}: must be 0 to 1, received {value}")


def predict(model: Model, sources: Sequence[Source]) -> Iterator[tuple[int, Predictions]]:
    """Predicts any number of images, a chunk at a time.

    Yields:
        The place of the chunk's first image, and its predictions.
    """
    for start in range(0, len(sources), PREDICT_CHUNK):
        yield start, model.predict(sources[start : start + PREDICT_CHUNK])


def predict_all(model: Model, dataset: Dataset, store: Path) -> Floats:
    """Returns the logits (N, C) of a dataset's N images, reusing and keeping their vectors.

    Raises:
        DatasetError: an image cannot be used.
    """
    if len(dataset) < FEW:
        found = model.predict(dataset.sources)
        _refuse_any(Skipped(dataset.names[n], reason) for n, reason in found.failed.items())
        return found.logits
    usable, vectors = embed_columns(dataset, model.columns(store))
    _refuse_any(usable.skipped[len(dataset.skipped) :])
    return model.head.logits(vectors.values)


def _refuse_any(failed: Iterable[Skipped]) -> None:
    names = [f"{item.path}: {item.reason}" for item in failed]
    if names:
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise DatasetError(f"every image must be readable; {'; '.join(names[:SHOWN])}{more}")


def _match_classes(model: Model, dataset: Dataset) -> Dataset:
    """Numbers a dataset's classes as the model does."""
    unknown = [name for name in dataset.classes if name not in model.classes]
    if unknown:
        raise DatasetError(
            f"the model knows the classes {', '.join(model.classes)}; the data also has "
            f"{', '.join(unknown)}. Move or rename those folders, or train with them"
        )
    index = {name: place for place, name in enumerate(model.classes)}
    labels = np.array([index[dataset.classes[label]] for label in dataset.labels], np.int32)
    return replace(dataset, classes=model.classes, labels=labels)


def _choose(dataset: Dataset, chosen: Any, split: str) -> Dataset:
    if chosen.any():
        return dataset.select(chosen)
    there = sorted({*map(str, dataset.splits)}) if dataset.divided else []
    raise DatasetError(
        f"no images in the split {split!r} of {dataset.root}; "
        + (f"it has {', '.join(there)}" if there else "the model was trained with all of them")
        + "; choose one with --split"
    )
