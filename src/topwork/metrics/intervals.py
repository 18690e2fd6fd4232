"""Intervals that hold the truth 95 times in 100, given how few images there are."""

from __future__ import annotations

import math

import numpy as np

from topwork.core.arrays import Floats64

Interval = tuple[float, float]

# The normal distribution holds 95 % within so many deviations.
DEVIATIONS = 1.959963984540054


def mean_interval(values: Floats64) -> Interval:
    """Returns the 95 % interval of a mean, given N values; infinite for one.

    Source: Student, "The probable error of a mean", 1908.
    """
    from scipy.special import stdtrit

    if len(values) < 2:
        return -math.inf, math.inf
    middle = float(values.mean())
    spread = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values)))
    return middle - spread, middle + spread


def share_interval(right: Floats64, decisions: int) -> Interval:
    """Returns the 95 % interval of a share of decisions, several of which are about one image.

    It is Wilson's, for as many images with a single decision each as would vary as much. How much
    the decisions about an image go wrong together is known only by images with mistakes: where
    these are few, it lies nearer to the worst, that they all go wrong at once. So it is never
    empty, and without a mistake it is that of N images that are right.

    Args:
        right: (N,) share of right decisions about each image, N at least 1.
        decisions: how many there are about each.

    Source: Korn and Graubard, "Confidence intervals for proportions with small expected number of
        positive counts estimated from survey data", 1998, for the effective number.
    """
    share, count = float(right.mean()), len(right)
    variance = share * (1 - share)
    together = 1.0
    if count > 1 and variance > 0:
        telling = min(np.count_nonzero(right < 1), np.count_nonzero(right > 0))
        found = min(max(float(right.var(ddof=1)) / variance, 1 / decisions), 1.0)
        together = (telling * found + 1) / (telling + 1)
    return _score_interval(share, count / together)


def wilson_interval(right: int, count: int) -> Interval:
    """Returns the 95 % interval of a share, given `right` out of `count` (at least 1).

    Unlike the normal interval it stays within 0..1 and is honest for few images and for
    shares near 0 or 1.

    Source: Wilson, "Probable inference", 1927, equation for the score interval.
    """
    return _score_interval(right / count, count)


def _score_interval(share: float, count: float) -> Interval:
    z = DEVIATIONS
    middle = share + z * z / (2 * count)
    spread = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, float((middle - spread) / scale)), min(1.0, float((middle + spread) / scale))
