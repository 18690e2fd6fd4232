"""How good answers are, and how uncertain that is: pure functions on arrays.

N: images, C: classes, labels or numbers. Every report has a `metric` (its name), a `value` with a
95 % `interval`, the number of images `count`, and all its single figures in `figures`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import AnyInts, Floats64
from topwork.core.task import Task
from topwork.metrics.intervals import Interval, mean_interval, share_interval, wilson_interval
from topwork.metrics.missing import say_missing, say_share

# Numbers that differ by no larger share of the largest are one number, rounded in several ways.
ROUNDING = 1e-12


@dataclass(frozen=True)
class ClassReport:
    """How well predicted classes match the true ones.

    Attributes:
        accuracy: share of right answers, 0..1 (top-1).
        interval: 95 % interval of the accuracy, given the number of images.
        macro_accuracy: mean recall over the classes that occur, so that each counts the same.
        confusion: (C, C) int64, rows are true classes, columns predicted ones.
    """

    accuracy: float
    interval: Interval
    macro_accuracy: float
    confusion: NDArray[np.int64]

    metric = "accuracy"

    @property
    def value(self) -> float:
        """The accuracy."""
        return self.accuracy

    @property
    def count(self) -> int:
        """N."""
        return int(self.confusion.sum())

    @property
    def figures(self) -> dict[str, float]:
        """All single figures by name; the macro average is NaN unless all classes occur."""
        macro = math.nan if len(self.missing) else self.macro_accuracy
        return {"accuracy": self.accuracy, "macro_accuracy": macro}

    @property
    def missing(self) -> NDArray[np.int64]:
        """Indices of the classes without images."""
        return np.flatnonzero(self.support == 0)

    @property
    def support(self) -> NDArray[np.int64]:
        """Images of each true class, (C,) int64."""
        return np.asarray(self.confusion.sum(axis=1))

    @property
    def recall(self) -> Floats64:
        """Share of each class's images that were found, (C,); NaN where there are none."""
        return _share(np.diag(self.confusion), self.support)

    @property
    def precision(self) -> Floats64:
        """Share of each class's predictions that were right, (C,); NaN where there are none."""
        return _share(np.diag(self.confusion), self.confusion.sum(axis=0))


@dataclass(frozen=True)
class LabelReport:
    """How well sets of labels match the true ones.

    Attributes:
        accuracy: share of right decisions over all images and labels, 0..1.
        interval: 95 % interval of the accuracy; images are what varies.
        exact: share of the images all of whose labels are right.
        found: (C,) int64, images of each label that were said to have it and do.
        support: (C,) int64, images of each label.
        said: (C,) int64, images that were said to have it.
        average_precision: (C,) area under precision against recall; NaN without such images.
        count: N.
    """

    accuracy: float
    interval: Interval
    exact: float
    found: NDArray[np.int64]
    support: NDArray[np.int64]
    said: NDArray[np.int64]
    average_precision: Floats64
    count: int

    metric = "accuracy"

    @property
    def value(self) -> float:
        """The accuracy."""
        return self.accuracy

    @property
    def figures(self) -> dict[str, float]:
        """All single figures by name; means over the labels that occur."""
        known = self.support > 0
        return {
            "accuracy": self.accuracy,
            "exact": self.exact,
            "macro_f1": _mean(self.f1[known]),
            "mean_average_precision": _mean(self.average_precision[known]),
        }

    @property
    def recall(self) -> Floats64:
        """Share of each label's images that were found, (C,); NaN where there are none."""
        return _share(self.found, self.support)

    @property
    def precision(self) -> Floats64:
        """Share of right ones among those said to have it, (C,); NaN where there are none."""
        return _share(self.found, self.said)

    @property
    def missing(self) -> NDArray[np.int64]:
        """Indices of the labels without images."""
        return np.flatnonzero(self.support == 0)

    @property
    def f1(self) -> Floats64:
        """Harmonic mean of precision and recall, (C,); NaN for a label neither said nor had."""
        return _share(2 * self.found, self.support + self.said)


@dataclass(frozen=True)
class NumberReport:
    """How far predicted numbers are from the true ones, in their own unit.

    Attributes:
        mae: mean absolute error.
        interval: 95 % interval of the mean absolute error.
        rmse: root of the mean squared error.
        r2: share of the variance that is explained, the mean of `r2s` that are numbers; 0 is what
            the mean of the true numbers would reach; NaN where all are the same.
        median: median absolute error.
        maes: (C,) mean absolute error of each number.
        r2s: (C,) share of the variance of each number that is explained; NaN where all are the
            same.
        count: N.
    """

    mae: float
    interval: Interval
    rmse: float
    r2: float
    median: float
    maes: Floats64
    r2s: Floats64
    count: int

    metric = "mae"

    @property
    def value(self) -> float:
        """The mean absolute error."""
        return self.mae

    @property
    def figures(self) -> dict[str, float]:
        """All single figures by name."""
        return {"mae": self.mae, "rmse": self.rmse, "r2": self.r2, "median_error": self.median}


Report: TypeAlias = ClassReport | LabelReport | NumberReport


def make_report(
    task: Task, labels: NDArray[Any], answers: NDArray[Any], chances: NDArray[Any], classes: int
) -> Report:
    """Compares a model's answers with the truth.

    Args:
        task: what the answers are.
        labels: N true ones, as `Dataset.labels` has them, N at least 1.
        answers: N predicted ones, of the same form.
        chances: (N, C) probabilities; only many labels need them.
        classes: C.
    """
    match task:
        case Task.CLASSES | Task.BINARY:
            return report_classes(labels, answers, classes)
        case Task.LABELS:
            return report_labels(labels, answers, chances)
        case Task.NUMBER:
            return report_numbers(labels, answers)


def say_report(what: str, report: Report, classes: Sequence[str] = ()) -> str:
    """Says a report in a sentence or two that begins with `what`.

    Args:
        what: is judged, such as `Validation` or `Test images:`.
        report: how good it is.
        classes: names of the classes or labels, to name those without images.
    """
    low, high = report.interval
    match report:
        case ClassReport():
            macro = f"macro average {report.macro_accuracy:.1%}{_say_share(report)}"
            return (
                f"{what} accuracy {report.accuracy:.1%}, 95 % interval {low:.1%} to {high:.1%} "
                f"({report.count} images), {macro}."
            ) + say_missing(what, [classes[n] for n in report.missing] if classes else [])
        case LabelReport():
            figures = report.figures
            return (
                f"{what} accuracy {report.accuracy:.1%} of all decisions, 95 % interval {low:.1%} "
                f"to {high:.1%} ({report.count} images); all labels right for {report.exact:.1%} "
                f"of the images, macro F1 {figures['macro_f1']:.3f}, mean average precision "
                f"{figures['mean_average_precision']:.3f}{_say_share(report)}."
            ) + say_missing(what, [classes[n] for n in report.missing] if classes else [])
        case NumberReport():
            return (
                f"{what} mean absolute error {say_number(report.mae)}, 95 % interval "
                f"{say_number(low)} to {say_number(high)} ({report.count} images); half of the "
                f"errors are below {say_number(report.median)}, root mean square "
                f"{say_number(report.rmse)}, {say_explained(report.r2)}."
            )


def _say_share(report: ClassReport | LabelReport) -> str:
    kind = "classes" if isinstance(report, ClassReport) else "labels"
    return say_share(len(report.missing), len(report.support), kind)


def say_number(value: float) -> str:
    """Says a number in four digits, or a larger one in whole units, as a person would."""
    return f"{value:.0f}" if 10_000 <= abs(value) < 1e12 else f"{value:.4g}"


def say_explained(r2: float) -> str:
    """Says the share of the variance that is explained, NaN where there is none."""
    return "no R², all true numbers are the same" if math.isnan(r2) else f"R² {r2:.3f}"


def describe_report(report: Report) -> dict[str, Any]:
    """Returns a report for JSON; figures that are not finite become None."""
    found: dict[str, Any] = {name: finite(value) for name, value in report.figures.items()}
    found["interval"] = [finite(end) for end in report.interval]
    if isinstance(report, NumberReport):
        each = {"mae": report.maes, "r2": report.r2s}
        found["each"] = {name: [finite(v) for v in row.tolist()] for name, row in each.items()}
        return found
    for name in ("precision", "recall"):
        found[name] = [finite(value) for value in getattr(report, name).tolist()]
    found["support"] = report.support.tolist()
    found["missing"] = report.missing.tolist()
    if isinstance(report, ClassReport):
        found["confusion"] = report.confusion.tolist()
    else:
        found["f1"] = [finite(value) for value in report.f1.tolist()]
        found["average_precision"] = [finite(value) for value in report.average_precision.tolist()]
    return found


def finite(value: float | None) -> float | None:
    """Returns a figure, or None where it is not finite, which JSON cannot say."""
    return value if value is not None and math.isfinite(value) else None


def report_classes(true: AnyInts, predicted: AnyInts, classes: int) -> ClassReport:
    """Compares predicted with true classes.

    Args:
        true: (N,) class indices in 0..C-1, N at least 1.
        predicted: (N,) class indices in 0..C-1.
        classes: C.
    """
    confusion = np.bincount(true * classes + predicted, minlength=classes * classes)
    confusion = confusion.reshape(classes, classes)
    right = int(np.trace(confusion))
    support = confusion.sum(axis=1)
    recall = _share(np.diag(confusion), support)
    return ClassReport(
        accuracy=right / len(true),
        interval=wilson_interval(right, len(true)),
        macro_accuracy=float(recall[support > 0].mean()),
        confusion=confusion,
    )


def report_labels(
    true: NDArray[np.bool_], predicted: NDArray[np.bool_], chances: NDArray[Any]
) -> LabelReport:
    """Compares predicted with true sets of labels.

    Args:
        true: (N, C) bool, N at least 1.
        predicted: (N, C) bool.
        chances: (N, C) probabilities, 0..1.
    """
    from sklearn.metrics import average_precision_score

    right = (true == predicted).mean(axis=1)
    precisions = [
        float(average_precision_score(has, chance)) if has.any() else math.nan
        for has, chance in zip(true.T, chances.T, strict=True)
    ]
    return LabelReport(
        accuracy=float(right.mean()),
        interval=share_interval(right, true.shape[1]),
        exact=float((right == 1).mean()),
        found=np.asarray((true & predicted).sum(axis=0)),
        support=np.asarray(true.sum(axis=0)),
        said=np.asarray(predicted.sum(axis=0)),
        average_precision=np.array(precisions),
        count=len(true),
    )


def report_numbers(true: NDArray[Any], predicted: NDArray[Any]) -> NumberReport:
    """Compares predicted with true numbers.

    Args:
        true: (N, C), N at least 1.
        predicted: (N, C).
    """
    true = true.astype(np.float64)
    errors = np.abs(predicted - true)
    squared = np.square(errors).mean(axis=0)
    spread = np.square(find_deviations(true))
    lost = np.divide(squared, spread, out=np.full(len(spread), np.nan), where=spread > 0)
    low, high = mean_interval(errors.mean(axis=1))
    return NumberReport(
        mae=float(errors.mean()),
        interval=(max(0.0, low), high),
        rmse=float(np.sqrt(squared.mean())),
        r2=_mean((1 - lost)[spread > 0]),
        median=float(np.median(errors)),
        maes=errors.mean(axis=0),
        r2s=1 - lost,
        count=len(true),
    )


def find_deviations(numbers: NDArray[Any]) -> Floats64:
    """Returns the deviation (C,) of numbers (N, C), exactly 0 where all are the same.

    The mean of numbers that are all 0.1 need not be 0.1: they would seem to vary by its rounding.
    """
    varies = np.ptp(numbers, axis=0) > ROUNDING * np.abs(numbers).max(axis=0)
    return np.where(varies, numbers.std(axis=0, dtype=np.float64), 0.0)


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Floats64:
    none = np.full(len(whole), np.nan)
    return np.asarray(np.divide(part, whole, out=none, where=whole > 0))


def _mean(values: Floats64) -> float:
    return float(values.mean()) if len(values) else math.nan
