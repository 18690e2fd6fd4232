"""What a model's predictions are in words, and from which probability on they are said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from topwork.core.errors import SettingsError
from topwork.core.task import Task
from topwork.images.decode import Source
from topwork.metrics.conformal import Residuals, label_sets
from topwork.metrics.scores import finite
from topwork.models.model import Model, Predictions

PREDICT_CHUNK = 512


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
