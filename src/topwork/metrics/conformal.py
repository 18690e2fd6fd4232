"""Answers that hold the truth as often as promised: sets of labels, and ranges of numbers.

Both come from how far off a head was on images that it had not seen (conformal prediction). Pure
functions on arrays. N: images, C: classes, M: scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import AnyFloats, AnyInts, Bools
from topwork.core.errors import DatasetError, SettingsError

Origin = Literal["validation", "folds"]

ORIGINS: tuple[Origin, ...] = ("validation", "folds")
MOST_SCORES = 1000


def nonconformity(probabilities: AnyFloats, labels: AnyInts) -> NDArray[np.float32]:
    """Returns how far down each true label was found, (N,) float32 in 0..1.

    0 if it is the top class, else 1 - its probability. Sets made with 1 - p are the smallest
    on average; scoring the top class 0 keeps it in every set, so that none is empty, and pays
    for it here, so that coverage is as promised and not higher.

    Args:
        probabilities: (N, C), rows sum to 1, of images that the head was not trained on.
        labels: (N,) class indices in 0..C-1.

    Raises:
        DatasetError: the shapes, labels or probabilities do not fit.

    Source: Sadinle, Lei and Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded
        Error Levels", 2019, for 1 - p; the top class's 0 is added to it.
    """
    scores = _scores(probabilities)
    check_labels(labels, probabilities.shape)
    return np.asarray(scores[np.arange(len(labels)), labels])


def conformal_threshold(scores: AnyFloats, coverage: float) -> float:
    """Returns the score up to which labels belong in a set.

    With the k-th smallest of n scores, k = ceil((n + 1) * coverage), a new image from the
    same source finds its true label in its set with at least that probability.

    Args:
        scores: (n,) from `nonconformity`, in any order, n at least 1.
        coverage: wanted share of sets that hold the true label, between 0 and 1.

    Returns:
        The threshold; infinite, which puts all labels in every set, if n images are too few to
        promise the coverage: that takes coverage / (1 - coverage) of them, 19 for 0.95.

    Raises:
        SettingsError: the coverage is not between 0 and 1.
        DatasetError: there are no scores, or one is not finite.

    Source: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005;
        Lei et al., "Distribution-Free Predictive Inference for Regression", 2018, section 2.2.
    """
    if not 0 < coverage < 1:
        raise SettingsError(f"coverage must lie between 0 and 1, such as 0.9; got {coverage}")
    if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
        raise DatasetError(
            f"scores must be a row of at least one finite number, got shape {scores.shape}; "
            "make them with `nonconformity`"
        )
    # 50 * 0.56 is 28.000000000000004: a product's last digits must not cost a rank.
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return math.inf if rank > len(scores) else float(np.sort(scores)[rank - 1])


def label_sets(probabilities: AnyFloats, threshold: float) -> Bools:
    """Returns for each image which labels it may have, (N, C) bool; the top class always.

    Args:
        probabilities: (N, C), rows sum to 1.
        threshold: from `conformal_threshold`, 0 or more; 0 leaves the top class alone.

    Raises:
        DatasetError: the probabilities do not fit.
        SettingsError: the threshold is below 0 or not a number.
    """
    if not threshold >= 0:
        raise SettingsError(f"threshold must be 0 or more, got {threshold}")
    return np.asarray(_scores(probabilities) <= np.float32(min(threshold, 1.0)))


def coverage_of(sets: Bools, labels: AnyInts) -> tuple[float, float]:
    """Returns the share of sets that hold the true label, and how many labels a set has.

    Args:
        sets: (N, C) bool.
        labels: (N,) class indices in 0..C-1.

    Raises:
        DatasetError: the shapes or labels do not fit.
    """
    if sets.ndim != 2 or not sets.size or sets.dtype != np.bool_:
        raise DatasetError(
            f"sets must be (N, C) bool of at least one image, got {sets.shape} {sets.dtype}"
        )
    check_labels(labels, sets.shape)
    covered = sets[np.arange(len(labels)), labels]
    return float(covered.mean()), float(sets.sum(axis=1).mean())


@dataclass(frozen=True)
class Residuals:
    """How far off a head's numbers were on images with known ones.

    Attributes:
        scores: (M,) float64 ascending, absolute errors (of several numbers the largest, each
            in deviations of its own errors), M up to 1000.
        scales: (C,) float64 above 0, what an error of each number is divided by.
        source: where they come from, `validation` or `folds`.
    """

    scores: NDArray[np.float64]
    scales: NDArray[np.float64]
    source: Origin

    def half_widths(self, coverage: float) -> NDArray[np.float64]:
        """Returns how far a range reaches to either side of each number, (C,).

        Args:
            coverage: wanted share of images whose true numbers lie in their ranges.

        Raises:
            SettingsError: the coverage is not between 0 and 1.
        """
        return np.asarray(conformal_threshold(self.scores, coverage) * self.scales)

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` takes."""
        return {
            "scores": self.scores.tolist(),
            "scales": self.scales.tolist(),
            "source": self.source,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Residuals:
        """Builds residuals from what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: the content is something else.
        """
        scores = np.array([parse_number(v, 0, math.inf) for v in data["scores"]])
        scales = np.array([parse_number(v, 0, math.inf) for v in data["scales"]])
        if not 1 <= len(scores) <= MOST_SCORES or (np.diff(scores) < 0).any() or not len(scales):
            raise ValueError(f"scores must be 1 to {MOST_SCORES} numbers in ascending order")
        if data["source"] not in ORIGINS:
            raise ValueError(f"source must be one of {', '.join(ORIGINS)}")
        return cls(scores, scales, data["source"])


def find_residuals(predicted: AnyFloats, true: AnyFloats, source: Origin) -> Residuals:
    """Measures how far off a head's numbers are.

    Args:
        predicted: (N, C) of images that the head was not trained on, N at least 1.
        true: (N, C).
        source: where they come from.

    Source: Lei et al., "Distribution-Free Predictive Inference for Regression", 2018, section 2.2.
    """
    errors = np.abs(predicted.astype(np.float64) - true)
    scales = np.ones(errors.shape[1])
    if errors.shape[1] > 1:
        means = errors.mean(axis=0)
        scales = np.where(means > 0, means, 1.0)
    scores = np.sort((errors / scales).max(axis=1))
    return Residuals(thinned(scores), scales, source)


def thinned(scores: NDArray[Any]) -> NDArray[Any]:
    """At most 1000 of n ascending scores, whose thresholds are never below those of all.

    The k-th of m stands for coverages up to k / (m + 1), for which n scores give rank
    ceil((n + 1) k / (m + 1)): just that one is kept, so a coverage is at most 1/1000 too high.
    """
    kept = min(len(scores), MOST_SCORES)
    ranks = -(-(len(scores) + 1) * np.arange(1, kept + 1) // (kept + 1))
    return np.asarray(scores[ranks - 1])


def _scores(probabilities: AnyFloats) -> NDArray[np.float32]:
    """Nonconformity of every label, (N, C) float32: the same numbers for threshold and sets."""
    check_probabilities(probabilities)
    scores = np.clip(1 - probabilities.astype(np.float32), 0, 1)
    scores[np.arange(len(scores)), probabilities.argmax(axis=1)] = 0
    return np.asarray(scores)


def parse_number(value: Any, low: float, high: float) -> float:
    """Returns a number of a file.

    Raises:
        TypeError, ValueError: it is none, or not within the bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a number is needed, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"a number in {low}..{high} is needed")
    return float(value)


def check_rows(values: AnyFloats, name: str) -> None:
    """Refuses what is not a table of finite floats.

    Raises:
        DatasetError: with what is wrong.
    """
    if values.ndim != 2 or len(values) < 1 or values.shape[1] < 2 or values.dtype.kind != "f":
        raise DatasetError(
            f"{name} must be (N, C) floats of at least one image and two classes, "
            f"got {values.shape} {values.dtype}"
        )
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise DatasetError(
            f"{name} must be finite, those of {(~finite).sum()} of {len(values)} images are not, "
            f"first in row {int(finite.argmin())}; train the head with a lower learning rate"
        )


def check_probabilities(values: AnyFloats) -> None:
    """Refuses what are not probabilities.

    Raises:
        DatasetError: with what is wrong.
    """
    check_rows(values, "probabilities")
    sums = values.sum(axis=1, dtype=np.float64)
    if values.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        raise DatasetError(
            "probabilities must be 0 or more and sum to 1 for each image, got sums of "
            f"{sums.min():.4g} to {sums.max():.4g}; apply `softmax` to logits first"
        )


def check_labels(labels: AnyInts, shape: tuple[int, ...]) -> None:
    """Refuses what are not class indices.

    Raises:
        DatasetError: with what is wrong.
    """
    count, classes = shape
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DatasetError(
            f"labels must be one class index for each of {count} images, "
            f"received {labels.shape} {labels.dtype}"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise DatasetError(
            f"labels must be class indices in 0..{classes - 1}, received "
            f"{labels.min()}..{labels.max()}"
        )
