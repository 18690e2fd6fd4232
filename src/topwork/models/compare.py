"""Models side by side on the same images, and whether their differences could be chance.

Every model is evaluated, the predictions of each are cut down to the images that all of them could
read, and each model after the first is compared with the first by a test for pairs. Against the
first and not against the best: the user names it before the images are looked at, while the best
is chosen by these very images, and looks better than it is.

`metrics.significance` does the arithmetic. N: images, M: models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import Floats64
from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import DatasetError, SettingsError
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.listing import SHOWN, Skipped, Split
from topwork.heads.dense import decide, probabilities
from topwork.metrics.calibration import calibration_error
from topwork.metrics.intervals import mean_interval
from topwork.metrics.scores import Report, describe_report, find_deviations, finite, say_number
from topwork.metrics.significance import (
    flip_signs,
    holm,
    mcnemar,
    paired_interval,
    paired_share_interval,
)
from topwork.models.evaluate import evaluate
from topwork.models.model import Model
from topwork.models.predictions import LabeledPredictions, report_logits

# A difference is said to be more than chance where chance makes one as large less often.
SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class ModelResult:
    """A model and its answers.

    Attributes:
        name: tells it from the other models.
        model: the model.
        predictions: to the images that all models answered, in one order.
        report: the metric and figures on them.
        calibration_error: of the probabilities, 0..1; None for numbers.
    """

    name: str
    model: Model
    predictions: LabeledPredictions
    report: Report
    calibration_error: float | None


@dataclass(frozen=True)
class Disagreement:
    """An image that two models answer differently well.

    Attributes:
        name: of the image.
        truth: in words.
        first: what the first model said.
        other: what the other one said.
        gain: by how much the other one is better: share of right answers, or smaller error.
    """

    name: str
    truth: str
    first: str
    other: str
    gain: float


@dataclass(frozen=True)
class Difference:
    """A model against the first one.

    Attributes:
        other: index of the model among the results.
        value: its metric minus that of the first; of several numbers, see `score_images`.
        interval: 95 % interval of that, for this pair alone.
        p_value: how often chance alone makes a difference as large, corrected for the number of
            models that are compared.
        test: name of the test.
        better: images that it answers better than the first.
        worse: images that it answers less well.
        disagreements: those images, the largest gain or loss first.
    """

    other: int
    value: float
    interval: tuple[float, float]
    p_value: float
    test: str
    better: int
    worse: int
    disagreements: tuple[Disagreement, ...]

    @property
    def certain(self) -> bool:
        """Whether it is more than chance."""
        return self.p_value < SIGNIFICANCE


@dataclass(frozen=True)
class Comparison:
    """Models side by side.

    Attributes:
        split: which images: `train`, `validation`, `test` or `all`.
        results: M models, as given.
        differences: M - 1, of each model from the first.
        skipped: files that were left out, with the reasons.
    """

    split: str
    results: tuple[ModelResult, ...]
    differences: tuple[Difference, ...]
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.results[0].predictions)

    def to_json(self) -> dict[str, Any]:
        """Returns what `topwork compare --json` prints."""
        first = self.results[0]
        return {
            "split": self.split,
            "images": len(self),
            "task": str(first.model.task),
            "models": [_describe_result(result) for result in self.results],
            "differences": [
                {
                    "model": self.results[one.other].name,
                    "from": first.name,
                    "metric": first.report.metric,
                    "difference": one.value,
                    "interval": [finite(end) for end in one.interval],
                    "p_value": one.p_value,
                    "test": one.test,
                    "beyond_chance": one.certain,
                    "better": one.better,
                    "worse": one.worse,
                    "images": [vars(image) for image in one.disagreements],
                }
                for one in self.differences
            ],
            "skipped": [vars(item) for item in self.skipped],
        }


def _describe_result(result: ModelResult) -> dict[str, Any]:
    bases = result.model.bases
    return {
        "model": result.name,
        "bases": [base.space.base for base in bases],
        "image_sizes": [base.space.image_size for base in bases],
        "vector_length": result.model.vector_length,
        "seen": result.predictions.seen,
        "calibration_error": finite(result.calibration_error),
        **describe_report(result.report),
    }


def compare(
    models: Sequence[Model],
    names: Sequence[str],
    dataset: Dataset,
    split: str,
    store: Path,
    *,
    strict: bool = False,
    callback: Callback = SILENT,
) -> Comparison:
    """Evaluates models on the same images and compares each with the first.

    Data without splits of its own is divided as `evaluate` does, for each model; what is left
    are the images that are in the split for all of them.

    Args:
        models: M, at least two, that answer the same question.
        names: M, for each another.
        dataset: images with labels.
        split: `train`, `validation`, `test` or `all`.
        store: where vectors are kept.
        strict: stop at the first image that cannot be used.
        callback: hears how it gets on.

    Raises:
        SettingsError: fewer than two models, or one that answers another question.
        DatasetError: the split is empty, or has classes that the models do not know.
    """
    check_models(models, names)
    found = [
        evaluate(model, dataset, split, store, strict=strict, callback=callback) for model in models
    ]
    aligned = align([one.predictions for one in found])
    if not len(aligned[0]):
        raise DatasetError(
            f"no image of {dataset.root} is in the split {split!r} for all {len(models)} models, "
            "since the data has no splits and they were trained on different images of it; "
            "divide the data into train, validation and test, or compare on other data with --data"
        )
    results = tuple(map(_judge, names, models, aligned))
    pairs = [_compare(results[0], result) for result in results[1:]]
    corrected = holm([p_value for *_, p_value in pairs])
    differences = []
    for other, ((gains, value, interval, _), p_value) in enumerate(
        zip(pairs, corrected, strict=True), 1
    ):
        differences.append(
            Difference(
                other=other,
                value=value,
                interval=interval,
                p_value=p_value,
                test="McNemar's exact test" if models[0].task.picks_one else "sign-flip test",
                better=int((gains > 0).sum()),
                worse=int((gains < 0).sum()),
                disagreements=_find_disagreements(results[0], results[other], gains),
            )
        )
    skipped = {item.path: item for one in found for item in one.skipped}
    return Comparison(split, results, tuple(differences), tuple(skipped.values()))


def check_models(models: Sequence[Model], names: Sequence[str]) -> None:
    """Refuses models that cannot be compared.

    Raises:
        SettingsError: fewer than two, or one that answers another question than the first.
    """
    if len(models) < 2:
        raise SettingsError(f"compare: needs two models or more, received {len(models)}")
    first = models[0]
    for model, name in zip(models[1:], names[1:], strict=True):
        if model.task is not first.task and not (model.task.picks_one and first.task.picks_one):
            raise SettingsError(
                f"compare: models must have one task; {names[0]} has {first.task}, {name} has "
                f"{model.task}"
            )
        if {*model.classes} != {*first.classes}:
            said = [
                f"only {whose} knows {', '.join(sorted(more)[:SHOWN])}"
                for whose, more in (
                    (names[0], {*first.classes} - {*model.classes}),
                    (name, {*model.classes} - {*first.classes}),
                )
                if more
            ]
            raise SettingsError(f"compare: models must know the same classes; {'; '.join(said)}")


def align(predictions: Sequence[LabeledPredictions]) -> list[LabeledPredictions]:
    """Cuts answers down to the images that all have, in the order of the first.

    An image is known by its name and content; one that is there several times is matched with
    itself in order.
    """
    indices = [_number(one) for one in predictions]
    common = [key for key in indices[0] if all(key in known for known in indices[1:])]
    return [
        one.take(np.array([known[key] for key in common], np.int64))
        for one, known in zip(predictions, indices, strict=True)
    ]


def _number(predictions: LabeledPredictions) -> dict[tuple[str, str, int], int]:
    times: Counter[tuple[str, str]] = Counter()
    found = {}
    for row, key in enumerate(zip(predictions.names, predictions.hashes, strict=True)):
        found[(*key, times[key])] = row
        times[key] += 1
    return found


def _judge(name: str, model: Model, predictions: LabeledPredictions) -> ModelResult:
    """Measures a model on the images that all models answered."""
    task, labels, logits = model.task, predictions.labels, predictions.logits
    report = report_logits(task, labels, logits, len(model.classes))
    error = None
    if task.picks_one:
        error = calibration_error(probabilities(task, logits), labels)
    elif task is Task.LABELS:
        # Every decision is one of two.
        decisions = probabilities(Task.BINARY, logits.reshape(-1, 1))
        error = calibration_error(decisions, labels.ravel().astype(np.int64))
    remembered = dict(zip(model.images.hashes, model.images.splits, strict=True))
    seen = sum(remembered.get(image, Split.TEST) != Split.TEST for image in predictions.hashes)
    return ModelResult(name, model, replace(predictions, seen=seen), report, error)


def _compare(
    first: ModelResult, other: ModelResult
) -> tuple[Floats64, float, tuple[float, float], float]:
    """Returns gains (N,), the difference, its interval, and the uncorrected p-value."""
    task = first.model.task
    before, after = (score_images(one.model.task, one.predictions) for one in (first, other))
    # An error is better when it is smaller.
    gains = before - after if task is Task.NUMBER else after - before
    value = float((after - before).mean())
    if task.picks_one:
        worse, better = int((gains < 0).sum()), int((gains > 0).sum())
        both = int((before + after == 2).sum())
        neither = len(gains) - worse - better - both
        return gains, value, paired_interval(both, worse, better, neither), mcnemar(worse, better)
    interval = mean_interval(after - before)
    if task is Task.LABELS:
        interval = paired_share_interval(before, after, len(first.model.classes))
    return gains, value, interval, flip_signs(gains)


def score_images(task: Task, predictions: LabeledPredictions) -> Floats64:
    """Returns how right each answer is, (N,): what the metric is the mean of.

    1 or 0 for classes; the share of right decisions for labels. For a number its absolute
    error. Several numbers have no unit in common: the mean of their errors, each in standard
    deviations of the true numbers.
    """
    said = decide(task, predictions.logits)
    if task.picks_one:
        return np.asarray(said == predictions.labels, np.float64)
    if task is Task.LABELS:
        return np.asarray((said == predictions.labels).mean(axis=1))
    errors = np.abs(said.astype(np.float64) - predictions.labels)
    if errors.shape[1] > 1:
        spread = find_deviations(predictions.labels)
        errors = errors / np.where(spread > 0, spread, 1)
    return np.asarray(errors.mean(axis=1))


def _find_disagreements(
    first: ModelResult, other: ModelResult, gains: Floats64
) -> tuple[Disagreement, ...]:
    """Returns the images with a gain or loss, the largest first, then the surest mistakes."""
    rows = np.flatnonzero(gains)
    wrong = [first if gains[row] > 0 else other for row in rows]
    chances = {
        id(one): probabilities(one.model.task, one.predictions.logits).max(axis=1)
        for one in (first, other)
    }
    sure = np.array([chances[id(one)][row] for one, row in zip(wrong, rows, strict=True)])
    if first.model.task is Task.NUMBER:
        sure = np.zeros(len(rows))
    order = rows[np.lexsort((-sure, -np.abs(gains[rows])))] if len(rows) else rows
    said = [_say_answers(one) for one in (first, other)]
    truth = _say_truth(first)
    names = first.predictions.names
    return tuple(
        Disagreement(names[row], truth[row], said[0][row], said[1][row], float(gains[row]))
        for row in order.tolist()
    )


def _say_answers(result: ModelResult) -> list[str]:
    task, classes = result.model.task, result.model.classes
    said = decide(task, result.predictions.logits)
    if not task.picks_one:
        return _say_rows(task, classes, said)
    top = probabilities(task, result.predictions.logits).max(axis=1)
    return [f"{classes[c]} {share:.0%}" for c, share in zip(said.tolist(), top, strict=True)]


def _say_truth(result: ModelResult) -> list[str]:
    task, classes = result.model.task, result.model.classes
    if task.picks_one:
        return [classes[c] for c in result.predictions.labels.tolist()]
    return _say_rows(task, classes, result.predictions.labels)


def _say_rows(task: Task, classes: Sequence[str], rows: NDArray[Any]) -> list[str]:
    if task is Task.LABELS:
        return [", ".join(np.array(classes, object)[row]) or "none" for row in rows.astype(bool)]
    named = len(classes) > 1
    return [
        ", ".join(
            f"{name} {say_number(value)}" if named else say_number(value)
            for name, value in zip(classes, row, strict=True)
        )
        for row in rows.tolist()
    ]
