"""How sure a model may be: temperature, calibration error, label sets, and saying nothing.

A head's probabilities rank the classes well and are often too high or too low as such. One
number, the temperature, mends most of that. The rest is made from what images with known labels
showed: sets of labels that hold the true one as often as promised.

Pure functions on arrays. N: images, C: classes, B: bins, M: scores. Logits are those of a
softmax; two classes with a single logit z are the pair (0, z).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import AnyFloats, AnyInts, Bools
from topwork.core.errors import SettingsError
from topwork.metrics.conformal import (
    MOST_SCORES,
    ORIGINS,
    Origin,
    check_labels,
    check_probabilities,
    check_rows,
    conformal_threshold,
    nonconformity,
    parse_number,
    thinned,
)

BINS = 15
# Beyond these a temperature says that something is wrong with the head, not how sure it is.
TEMPERATURES = (0.05, 20.0)
# Halves the range of log T until it is known to 1e-5, far below what any N can tell apart.
HALVINGS = 20
# How many images' worth of belief there is in the head's own scale, T = 1.
PRIOR_IMAGES = 1.0
FOLDS = 5


def softmax(logits: AnyFloats, temperature: float = 1.0) -> NDArray[np.float32]:
    """Returns the softmax of logits (N, C) over a temperature above 0, (N, C) float32."""
    return _softmax(logits.astype(np.float64) / temperature).astype(np.float32)


def as_pairs(logits: AnyFloats) -> AnyFloats:
    """Returns single logits z (N, 1) as those of two classes (0, z), (N, 2)."""
    return np.concatenate([np.zeros_like(logits), logits], axis=1)


def fit_temperature(logits: AnyFloats, labels: AnyInts) -> float:
    """Finds the temperature at which the probabilities fit the labels best.

    It minimises the cross-entropy of softmax(logits / T), summed over the images, plus
    b - log b with b = 1 / T. That term weighs as much as one image and pulls towards T = 1.
    From a hundred images on it changes nothing that could be measured; without it a few images
    that are all right, as they easily are, would make the model certain of everything. The sum
    is convex in b, so there is one answer; it is clipped to 0.05..20.

    Args:
        logits: (N, C) float32, of images that the head was not trained on; C at least 2.
        labels: (N,) class indices in 0..C-1.

    Returns:
        T: above 1 if the head is too sure, below 1 if it is not sure enough.

    Raises:
        DatasetError: the shapes or labels do not fit, or a logit is not finite.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, section 4.2; the
        added term is the log density of a gamma prior on b with its mode at 1.
    """
    check_rows(logits, "logits")
    check_labels(labels, logits.shape)
    return _fit(logits, labels)


@dataclass(frozen=True)
class Reliability:
    """Top probabilities against how often they were right, in bins of equal width.

    Attributes:
        edges: (B + 1,) float64 from 0 to 1; a bin holds its upper edge, not its lower.
        count: (B,) int64, images in each bin.
        confidence: (B,) float64, their mean top probability; NaN where there are none.
        accuracy: (B,) float64, share of them that is right; NaN where there are none.
    """

    edges: NDArray[np.float64]
    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability(probabilities: AnyFloats, labels: AnyInts, bins: int = BINS) -> Reliability:
    """Compares how sure the model is with how often it is right.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) class indices in 0..C-1.
        bins: B, at least 1.

    Raises:
        DatasetError: the shapes, labels or probabilities do not fit.
        SettingsError: `bins` is below 1.

    Source: Guo et al., 2017, equations 1 and 2.
    """
    check_probabilities(probabilities)
    check_labels(labels, probabilities.shape)
    if bins < 1:
        raise SettingsError(f"bins must be at least 1, got {bins}")
    edges = np.linspace(0, 1, bins + 1)
    top = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bin_of = np.clip(np.searchsorted(edges, top, side="left") - 1, 0, bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    confidence = _mean(np.bincount(bin_of, top, bins), count)
    return Reliability(edges, count, confidence, _mean(np.bincount(bin_of, right, bins), count))


def calibration_error(probabilities: AnyFloats, labels: AnyInts, bins: int = BINS) -> float:
    """Returns the expected calibration error of the top class, 0..1.

    The gap between confidence and accuracy, averaged over the images. It is never quite 0 for
    few images: chance alone opens gaps in the bins.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) class indices in 0..C-1.
        bins: how many bins of equal width, at least 1.

    Raises:
        DatasetError: the shapes, labels or probabilities do not fit.
        SettingsError: `bins` is below 1.

    Source: Guo et al., 2017, equation 3.
    """
    found = reliability(probabilities, labels, bins)
    gaps = np.abs(found.confidence - found.accuracy)
    return float(np.nansum(gaps * found.count) / found.count.sum())


def chance_error(probabilities: AnyFloats, bins: int = BINS) -> float:
    """Returns the calibration error that these images would show on average by chance alone.

    It is what a model has whose probabilities are exactly right: an error of that size says
    nothing.

    Args:
        probabilities: (N, C), rows sum to 1.
        bins: how many bins of equal width, at least 1.

    Raises:
        DatasetError: the shapes or probabilities do not fit.
        SettingsError: `bins` is below 1.

    Source: the number of right answers in a bin is nearly normal with variance sum of p (1 - p),
        and the mean distance of a normal number from its mean is sqrt(2 / pi) deviations.
    """
    found = reliability(probabilities, np.zeros(len(probabilities), np.int64), bins)
    top = probabilities.max(axis=1).astype(np.float64)
    bin_of = np.clip(np.searchsorted(found.edges, top, side="left") - 1, 0, bins - 1)
    variance = np.bincount(bin_of, top * (1 - top), bins)
    return float(np.sqrt(2 / math.pi * variance).sum() / len(top))


def abstain(probabilities: AnyFloats, threshold: float) -> Bools:
    """Returns which images are better left without an answer, (N,) bool.

    Args:
        probabilities: (N, C), rows sum to 1.
        threshold: the lowest top probability that is an answer, 0..1.

    Raises:
        DatasetError: the probabilities do not fit.
        SettingsError: the threshold is not in 0..1.
    """
    check_probabilities(probabilities)
    if not 0 <= threshold <= 1:
        raise SettingsError(f"threshold must be a probability in 0..1, got {threshold}")
    # As float32 on both sides, so that a probability shown as 0.9 is not below 0.9.
    return np.asarray(probabilities.max(axis=1).astype(np.float32) < np.float32(threshold))


def selective(probabilities: AnyFloats, labels: AnyInts, threshold: float) -> tuple[float, float]:
    """Returns the share of images that get an answer, and the accuracy of those answers.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) class indices in 0..C-1.
        threshold: the lowest top probability that is an answer, 0..1.

    Returns:
        Both in 0..1; the accuracy is NaN if no image gets an answer.

    Raises:
        DatasetError: the shapes, labels or probabilities do not fit.
        SettingsError: the threshold is not in 0..1.
    """
    answered = ~abstain(probabilities, threshold)
    check_labels(labels, probabilities.shape)
    right = probabilities.argmax(axis=1)[answered] == labels[answered]
    return float(answered.mean()), float(right.mean()) if right.size else math.nan


@dataclass(frozen=True)
class Calibration:
    """What images with known labels say about a head's sureness.

    Attributes:
        temperature: divide the logits by it.
        error_before: calibration error of the head as it is, 0..1.
        error_after: the same with a temperature, each image's fitted on other images.
        source: where the logits come from: the validation split, or training images by heads
            that were trained on the other folds.
        scores: (M,) float32 ascending in 0..1, nonconformity at this temperature, M up to 1000.
    """

    temperature: float
    error_before: float
    error_after: float
    source: Origin
    scores: NDArray[np.float32]

    def withheld(self) -> Calibration:
        """Returns one that leaves logits as they are and promises nothing of label sets.

        For images that lack a class: a set then holds every class, whatever is asked.
        """
        scores = np.ones(1, np.float32)
        return replace(self, temperature=1.0, error_after=self.error_before, scores=scores)

    @property
    def is_withheld(self) -> bool:
        """Whether it says nothing, since no images could: see `withheld`."""
        return len(self.scores) == 1 and bool(self.scores[0] >= 1)

    def probabilities(self, logits: AnyFloats) -> NDArray[np.float32]:
        """Returns calibrated probabilities, (N, C) float32, of logits (N, C)."""
        return softmax(logits, self.temperature)

    def threshold(self, coverage: float) -> float:
        """Returns `conformal_threshold` for `label_sets` of calibrated probabilities."""
        return conformal_threshold(self.scores, coverage)

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` takes."""
        return {
            "temperature": self.temperature,
            "error_before": self.error_before,
            "error_after": self.error_after,
            "source": self.source,
            "scores": self.scores.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Calibration:
        """Builds a calibration from what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: the content is not a calibration.
        """
        scores = np.array([parse_number(score, 0, 1) for score in data["scores"]], np.float32)
        if not 1 <= len(scores) <= MOST_SCORES or (np.diff(scores) < 0).any():
            raise ValueError(f"scores must be 1 to {MOST_SCORES} numbers in ascending order")
        source = data["source"]
        if source not in ORIGINS:
            raise ValueError(f"source must be one of {', '.join(ORIGINS)}; got {source!r}")
        return cls(
            temperature=parse_number(data["temperature"], *TEMPERATURES),
            error_before=parse_number(data["error_before"], 0, 1),
            error_after=parse_number(data["error_after"], 0, 1),
            source=source,
            scores=scores,
        )


def calibrate(logits: AnyFloats, labels: AnyInts, source: Origin) -> Calibration:
    """Measures and mends how sure a head is.

    The error after is cross-fitted: each fifth of the images gets its probabilities with the
    temperature of the other four, so it is not flattered by the fit. The scores use the one
    temperature of all images. New images are scored with that one too, and a single number that
    weighs all images alike hardly knows any of them: at 50 images the coverage is within half a
    point of what scores from separate images reach.

    Args:
        logits: (N, C) float32, of images that the head was not trained on; C at least 2.
        labels: (N,) class indices in 0..C-1.
        source: where they come from, `validation` or `folds`.

    Raises:
        DatasetError: the shapes or labels do not fit, or a logit is not finite.
        SettingsError: the source is neither.
    """
    if source not in ORIGINS:
        raise SettingsError(f"source must be one of {', '.join(ORIGINS)}; got {source!r}")
    temperature = fit_temperature(logits, labels)
    scores = np.sort(nonconformity(softmax(logits, temperature), labels))
    return Calibration(
        temperature=temperature,
        error_before=calibration_error(softmax(logits), labels),
        error_after=calibration_error(_cross_fitted(logits, labels), labels),
        source=source,
        scores=thinned(scores),
    )


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _fit(logits: AnyFloats, labels: AnyInts) -> float:
    """Bisects for the zero of the slope, which rises with b = 1 / T; no image gives T = 1."""
    wide = logits.astype(np.float64)
    true = wide[np.arange(len(labels)), labels].sum()

    def slope(b: float) -> float:
        expected = (_softmax(b * wide) * wide).sum()
        return float(expected - true + PRIOR_IMAGES * (1 - 1 / b))

    low, high = (math.log(t) for t in TEMPERATURES)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if slope(math.exp(-middle)) > 0:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


def _cross_fitted(logits: AnyFloats, labels: AnyInts) -> NDArray[np.float32]:
    """Probabilities (N, C), each fold's with the temperature of the others."""
    folds = np.empty(len(labels), np.int64)
    # Dealt out class by class, so that no order of the images makes the folds unlike.
    folds[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % FOLDS
    rows = np.empty(logits.shape, np.float32)
    for fold in range(FOLDS):
        own = folds == fold
        rows[own] = softmax(logits[own], _fit(logits[~own], labels[~own]))
    return rows


def _mean(total: NDArray[Any], count: NDArray[np.int64]) -> NDArray[np.float64]:
    none = np.full(len(count), np.nan)
    return np.asarray(np.divide(total, count, out=none, where=count > 0))
