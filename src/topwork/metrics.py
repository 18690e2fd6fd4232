"""Accuracy and its uncertainty, per class and overall: pure functions on arrays.

N: images, C: classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Report:
    """How well predicted classes match the true ones.

    Attributes:
        accuracy: share of right answers, 0..1 (top-1).
        interval: 95 % interval of the accuracy, given the number of images.
        macro_accuracy: mean recall over the classes that occur, so that each counts the same.
        confusion: (C, C) int64, rows are true classes, columns predicted ones.
    """

    accuracy: float
    interval: tuple[float, float]
    macro_accuracy: float
    confusion: NDArray[np.int64]

    @property
    def support(self) -> NDArray[np.int64]:
        """Images of each true class, (C,) int64."""
        return np.asarray(self.confusion.sum(axis=1))

    @property
    def recall(self) -> Floats:
        """Share of each class's images that were found, (C,); NaN where there are none."""
        return _share(np.diag(self.confusion), self.support)

    @property
    def precision(self) -> Floats:
        """Share of each class's predictions that were right, (C,); NaN where there are none."""
        return _share(np.diag(self.confusion), self.confusion.sum(axis=0))


def make_report(true: Ints, predicted: Ints, classes: int) -> Report:
    """Compares predicted with true classes.

    Args:
        true: (N,) class indices in 0..C-1, N at least 1.
        predicted: (N,) class indices in 0..C-1.
        classes: C.

    Returns:
        The report.
    """
    confusion = np.bincount(true * classes + predicted, minlength=classes * classes)
    confusion = confusion.reshape(classes, classes)
    right = int(np.trace(confusion))
    support = confusion.sum(axis=1)
    recall = _share(np.diag(confusion), support)
    return Report(
        accuracy=right / len(true),
        interval=wilson_interval(right, len(true)),
        macro_accuracy=float(recall[support > 0].mean()),
        confusion=confusion,
    )


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share, given `right` out of `count` (at least 1).

    Unlike the normal interval it stays within 0..1 and is honest for few images and for
    shares near 0 or 1.

    Source: Wilson, "Probable inference", 1927, equation for the score interval.
    """
    z = 1.959963984540054
    share = right / count
    middle = share + z * z / (2 * count)
    spread = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, float((middle - spread) / scale)), min(1.0, float((middle + spread) / scale))


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Floats:
    none = np.full(len(whole), np.nan)
    return np.asarray(np.divide(part, whole, out=none, where=whole > 0))
