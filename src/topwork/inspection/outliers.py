"""How the data lies: images unlike all others, classes that are alike, splits that differ.

Pure functions on arrays. N: images, D: vector length, C: classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import AnyFloats, AnyInts
from topwork.core.errors import DatasetError, SettingsError
from topwork.core.task import Task
from topwork.data.listing import Split
from topwork.inspection.issues import ClassOverlap, Outlier, Shift
from topwork.metrics.conformal import check_labels
from topwork.metrics.intervals import wilson_interval
from topwork.metrics.significance import holm

# Beyond so many robust deviations from the median a value is an outlier.
# Source: Iglewicz and Hoaglin, "How to detect and handle outliers", 1993.
LIMIT = 3.5
# What the median and the mean of |x| are multiplied by to give a normal deviation.
BY_MEDIAN = 1.4826
BY_MEAN = 1.2533
# Similarities that are computed at once: 64 MB.
BLOCK = 1 << 24
# Of two classes of the same size, a tenth taken for the other.
ALIKE = 0.1
# Chance alone makes any shift at all in so many inspections.
SIGNIFICANCE = 0.05
# Chi-squared is true to its name from so many images on that are expected of each class.
# Source: Cochran, "Some methods for strengthening the common chi-squared tests", 1954.
EXPECTED = 5
# How often images are dealt out anew where there are fewer.
DEALS = 9999
# How many classes a detail names.
NAMED = 3


def find_outliers(
    vectors: NDArray[np.float32],
    labels: AnyInts | None = None,
    *,
    count: int = 10,
    neighbors: int = 10,
    block: int = BLOCK,
) -> list[Outlier]:
    """Finds the images that are far from all others, the farthest first.

    How far is the mean cosine distance to the nearest images, compared with that of the other
    images of the class: more than 3.5 robust deviations above their median.

    Args:
        vectors: (N, D) float32, finite. A vector of zeros is at distance 1 from all.
        labels: (N,) equal numbers are compared with each other only; None compares all. An
            image that is alone is not judged.
        count: most outliers to name.
        neighbors: how many of the nearest, fewer where there are not so many.
        block: similarities that are computed at once.

    Raises:
        DatasetError: no vectors, vectors that are not finite, or labels that do not fit.
        SettingsError: a count below 0, or no neighbours.
    """
    check_rows(vectors, "vectors")
    own = np.zeros(len(vectors), np.int64) if labels is None else labels
    if own.shape != (len(vectors),):
        raise DatasetError(f"{len(vectors)} vectors need as many labels, received {own.shape}")
    if neighbors < 1 or count < 0:
        raise SettingsError(
            f"neighbours must be 1 or more, and count 0 or more, received {neighbors} and {count}"
        )
    distances, above, scales = np.zeros((3, len(vectors)))
    for label in np.unique(own):
        indices = np.flatnonzero(own == label)
        if len(indices) > 1:
            distances[indices] = _distances(vectors[indices], neighbors, block)
            above[indices] = distances[indices] - np.median(distances[indices])
            scales[indices] = robust_scale(above[indices])
    # That of a few images alone would be chance: none is below that of all.
    scales = np.maximum(scales, robust_scale(above))
    scores = np.divide(above, scales, out=np.zeros(len(above)), where=scales > 0)
    farthest = np.argsort(-scores, kind="stable")[:count]
    return [
        Outlier(int(index), float(distances[index]), float(scores[index]))
        for index in farthest
        if scores[index] > LIMIT
    ]


def find_class_overlaps(
    probabilities: AnyFloats, labels: AnyInts, classes: Sequence[str], *, share: float = ALIKE
) -> list[ClassOverlap]:
    """Finds the pairs of classes that held-out heads mistake for each other, the worst first.

    Of each class, among the images that are taken for one of the two, the share that is taken
    for the other; the error is the mean of the two, so that a rare class counts as much as a
    frequent one and a head that never answers it has an error of 0.5.

    Args:
        probabilities: (N, C) by heads that did not see the image; a row of NaN is left out.
        labels: (N,) class indices.
        classes: names of the C classes.
        share: pairs are reported whose error's 95 % interval lies above this.

    Raises:
        DatasetError: they do not fit each other.

    Source: Zou and Donner, "Construction of confidence limits about effect measures", 2008:
    the interval of a mean, from Wilson's of its parts.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise DatasetError(
            f"probabilities must have a column for each of {len(classes)} classes, received "
            f"{probabilities.shape}"
        )
    check_labels(labels, probabilities.shape)
    known = ~np.isnan(probabilities).any(axis=1)
    size = len(classes)
    pairs = labels[known] * size + probabilities[known].argmax(axis=1)
    confusion = np.bincount(pairs, minlength=size * size).reshape(size, size)
    found = []
    for first, second in combinations(range(size), 2):
        alike = _compare(confusion[np.ix_((first, second), (first, second))])
        if alike is not None and alike[1][0] > share:
            error, interval = alike
            mistaken = int(confusion[first, second] + confusion[second, first])
            total = mistaken + int(confusion[first, first] + confusion[second, second])
            found.append(
                ClassOverlap(classes[first], classes[second], mistaken, total, error, interval)
            )
    return sorted(found, key=lambda pair: -pair.interval[0])


def find_shifts(
    splits: NDArray[np.str_],
    labels: NDArray[Any],
    classes: Sequence[str],
    measures: Mapping[str, AnyFloats],
    task: Task,
) -> list[Shift]:
    """Finds what differs between train and another split by more than chance, surest first.

    Shares of classes are compared by the chi-squared test, measures and numbers by that of
    Kolmogorov and Smirnov. The p-values are Holm's, for all that is compared: with the limit of
    0.05, one in twenty inspections reports any shift where there is none. They hold for images
    that are drawn one by one; where groups are kept whole, shifts look surer than they are.

    Args:
        splits: (N,) of `train`, `validation` and `test`.
        labels: (N,) class indices; (N, C) of 0 and 1 for many labels; (N, C) numbers.
        classes: names of the C classes, labels or numbers.
        measures: (N,) finite numbers of each image, such as brightness, by name.
        task: what the labels mean.

    Raises:
        DatasetError: lengths that differ, or numbers that are not finite.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    if task.picks_one:
        check_labels(labels, (len(splits), len(classes)))
    elif labels.shape != (len(splits), len(classes)):
        raise DatasetError(
            f"labels must be of shape {(len(splits), len(classes))}, received {labels.shape}"
        )
    numbers = dict(measures)
    if task is Task.NUMBER:
        numbers |= dict(zip(classes, labels.T, strict=True))
    for name, values in numbers.items():
        if values.shape != (len(splits),) or not np.isfinite(values).all():
            raise DatasetError(
                f"{name} must be one finite number for each of {len(splits)} images, received "
                f"{values.shape}, or NaN or infinity among them"
            )
    train = splits == Split.TRAIN
    found: list[Shift] = []
    for split in (Split.VALIDATION, Split.TEST):
        other = splits == split
        if train.any() and other.any():
            if task is Task.LABELS:
                found += _compare_labels(str(split), labels[train], labels[other], classes)
            elif task is not Task.NUMBER:
                found += _compare_classes(str(split), labels[train], labels[other], classes)
            for name, values in numbers.items():
                found.append(_compare_numbers(str(split), name, values[train], values[other]))
    return _by_holm(found)


def robust_scale(values: AnyFloats) -> float:
    """Estimates the deviation of values around 0 without heed to the farthest.

    1.4826 times the median of |x|, or, where more than half of them are 0, 1.2533 times the mean
    of |x|; 0 if all are.

    Source: Iglewicz and Hoaglin, "How to detect and handle outliers", 1993.
    """
    sizes = np.abs(values)
    return BY_MEDIAN * float(np.median(sizes)) or BY_MEAN * float(sizes.mean())


def check_rows(vectors: NDArray[Any], name: str) -> None:
    """Refuses what are not finite vectors (N, D), N at least 1.

    Raises:
        DatasetError: as said.
    """
    if vectors.ndim != 2 or 0 in vectors.shape or vectors.dtype.kind != "f":
        raise DatasetError(
            f"{name} must be floats of shape (images, values), at least one of each, received "
            f"{vectors.shape} {vectors.dtype}"
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise DatasetError(
            f"{name} must be finite, received NaN or infinity in {(~finite).sum()} of "
            f"{len(vectors)} rows, first in row {int(finite.argmin())}"
        )


def _distances(vectors: NDArray[np.float32], neighbors: int, block: int) -> NDArray[np.float32]:
    """Returns each vector's mean cosine distance to its nearest ones, (N,), N at least 2."""
    # Brought near 1 first, so that no square overflows or vanishes.
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    units = np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    lengths = np.linalg.norm(units, axis=1, keepdims=True)
    units /= np.where(lengths > 0, lengths, 1)
    count, near = len(units), min(neighbors, len(units) - 1)
    rows = max(1, block // count)
    means = np.empty(count, np.float32)
    for start in range(0, count, rows):
        likeness = units[start : start + rows] @ units.T
        own = np.arange(len(likeness))
        likeness[own, start + own] = -np.inf
        nearest = np.partition(likeness, count - near, axis=1)[:, count - near :]
        means[start : start + rows] = 1 - nearest.mean(axis=1)
    return np.clip(means, 0, 2)


def _compare(confusion: NDArray[np.int64]) -> tuple[float, tuple[float, float]] | None:
    """Returns the error of two classes (2, 2) and its 95 % interval; None without images."""
    totals = confusion.sum(axis=1)
    if not totals.all():
        return None
    wrong = (int(confusion[0, 1]), int(confusion[1, 0]))
    shares = np.array(wrong) / totals
    limits = np.array([wilson_interval(w, int(n)) for w, n in zip(wrong, totals, strict=True)])
    below, above = np.linalg.norm(limits - shares[:, None], axis=0) / 2
    error = float(shares.mean())
    return error, (max(0.0, float(error - below)), min(1.0, float(error + above)))


def _compare_classes(
    split: str, train: AnyInts, other: AnyInts, classes: Sequence[str]
) -> Iterator[Shift]:
    counts = np.stack([np.bincount(labels, minlength=len(classes)) for labels in (train, other)])
    shares = counts / counts.sum(axis=1, keepdims=True)
    table = counts[:, counts.any(axis=0)]
    if table.shape[1] > 1:
        yield Shift(
            split=split,
            what="classes",
            distance=float(np.abs(shares[1] - shares[0]).sum() / 2),
            p_value=_chance(table),
            detail=_describe(split, shares, classes),
        )


def _compare_labels(
    split: str, train: NDArray[Any], other: NDArray[Any], classes: Sequence[str]
) -> Iterator[Shift]:
    """Compares each label by itself, as several of one image are not independent."""
    from scipy.stats import fisher_exact

    for name, first, second in zip(classes, train.T, other.T, strict=True):
        counts = np.array(
            [[np.count_nonzero(v), np.count_nonzero(v == 0)] for v in (first, second)]
        )
        shares = counts[:, :1] / counts.sum(axis=1, keepdims=True)
        yield Shift(
            split=split,
            what=name,
            distance=float(abs(shares[1, 0] - shares[0, 0])),
            p_value=float(fisher_exact(counts).pvalue),
            detail=_describe(split, shares, [name]),
        )


def _compare_numbers(split: str, name: str, train: AnyFloats, other: AnyFloats) -> Shift:
    from scipy.stats import ks_2samp

    means, variances = zip(*((v.mean(), v.var()) for v in (train, other)), strict=True)
    spread = np.sqrt(sum(variances) / 2)
    gap = abs(means[1] - means[0])
    # One image and another prove nothing, and the asymptotic formula divides by zero.
    alone = len(train) == len(other) == 1
    return Shift(
        split=split,
        what=name,
        distance=float(gap / spread) if spread > 0 else float(np.inf if gap else 0),
        p_value=1.0 if alone else float(ks_2samp(train, other, method="asymp").pvalue),
        detail=f"mean {means[1]:.3g} in {split}, {means[0]:.3g} in train",
    )


def _chance(counts: NDArray[np.int64]) -> float:
    """Returns how often chance alone makes the shares of two splits (2, C) so unlike.

    Where few images of some class are expected, chi-squared is not what its formula says: then
    the images are dealt out anew, many times.

    Source: Phipson and Smyth, "Permutation p-values should never be zero", 2010.
    """
    from scipy.stats import chi2_contingency

    totals, size = counts.sum(axis=0), int(counts[1].sum())
    expected = totals * (size / totals.sum())
    if min(expected.min(), (totals - expected).min()) >= EXPECTED:
        return float(chi2_contingency(counts, correction=False).pvalue)
    dealt = np.random.default_rng(0).multivariate_hypergeometric(totals, size, DEALS)
    # Chi-squared, but for a factor: what one split has more the other has less.
    unlike = (dealt - expected) ** 2 @ (1 / expected)
    own = (counts[1] - expected) ** 2 @ (1 / expected)
    return float((1 + np.count_nonzero(unlike >= own * (1 - 1e-9))) / (1 + DEALS))


def _describe(split: str, shares: AnyFloats, classes: Sequence[str]) -> str:
    gaps = np.abs(shares[1] - shares[0])
    named = [n for n in np.argsort(-gaps, kind="stable")[:NAMED] if gaps[n] > 0]
    return "; ".join(
        f"{classes[n]} is {shares[1, n]:.1%} of {split}, {shares[0, n]:.1%} of train" for n in named
    )


def _by_holm(found: list[Shift]) -> list[Shift]:
    """Returns the shifts that chance does not explain, with Holm's p-values, the surest first."""
    found = sorted(found, key=lambda shift: (shift.p_value, -shift.distance))
    corrected = holm([shift.p_value for shift in found])
    return [
        replace(shift, p_value=p_value)
        for shift, p_value in zip(found, corrected, strict=True)
        if p_value < SIGNIFICANCE
    ]
