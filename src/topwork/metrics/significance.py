"""Whether one of two answers to the same images is better by more than chance.

Pure functions on counts and gains. Shares of right answers have McNemar's test and Newcombe's
interval; gains of any size have their signs flipped; several p-values are corrected by Holm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from topwork.core.arrays import Floats64
from topwork.metrics.intervals import Interval, share_interval, wilson_interval

# Signs are dealt out so often; all ways to do so are tried where they are not more.
DEALS = 9999
# Signs that are held at a time.
BLOCK = 1 << 22


def mcnemar(worse: int, better: int) -> float:
    """Returns how often chance alone divides so many images at least as unevenly.

    Args:
        worse: images that only the first model has right.
        better: images that only the other one has right.

    Source: McNemar, "Note on the sampling error of the difference between correlated
        proportions or percentages", 1947; exact, by the binomial distribution.
    """
    from scipy.stats import binomtest

    if worse + better == 0:
        return 1.0
    return float(binomtest(better, worse + better, 0.5).pvalue)


def paired_interval(both: int, worse: int, better: int, neither: int) -> tuple[float, float]:
    """Returns the 95 % interval of the difference of two shares of the same images.

    Args:
        both: images that both models have right.
        worse: images that only the first has right.
        better: images that only the other one has right.
        neither: images that none has right; all four together at least 1.

    Returns:
        Of the other's share minus the first's, -1..1.

    Source: Newcombe, "Improved confidence intervals for the difference between binomial
        proportions based on paired data", 1998, method 10.
    """
    count = both + worse + better + neither
    rights = both + better, both + worse
    other, first = (right / count for right in rights)
    (other_low, other_high), (first_low, first_high) = (wilson_interval(r, count) for r in rights)
    product = float(both * neither - worse * better)
    if product > 0:
        product = max(product - count / 2, 0)
    margins = math.prod(right * (count - right) for right in rights)
    phi = product / math.sqrt(margins) if margins else 0.0
    ends = (first_low, first_high), (other_low, other_high)
    return _subtract((first, other), ends, phi)


def paired_share_interval(first: Floats64, other: Floats64, decisions: int) -> Interval:
    """Returns the 95 % interval of the difference of two shares of decisions about the same images.

    Args:
        first: (N,) share of the decisions about each image that the first model has right, N at
            least 1.
        other: (N,) the same of the other model.
        decisions: how many there are about each image.

    Returns:
        Of the other's share minus the first's, -1..1.

    Source: that of `paired_interval`, with `share_interval` for each share.
    """
    shares = float(first.mean()), float(other.mean())
    margins = float(first.std() * other.std())
    together = float(((first - shares[0]) * (other - shares[1])).mean()) / margins if margins else 0
    ends = share_interval(first, decisions), share_interval(other, decisions)
    return _subtract(shares, ends, together)


def _subtract(
    shares: tuple[float, float], ends: tuple[Interval, Interval], together: float
) -> Interval:
    """Returns the interval of the second share minus the first, by that of each.

    Args:
        shares: the two.
        ends: the interval of each.
        together: how much they vary together, as a correlation, -1..1.
    """

    def reach(one: float, two: float) -> float:
        return math.sqrt(max(one * one - 2 * together * one * two + two * two, 0.0))

    (first, other), ((first_low, first_high), (other_low, other_high)) = shares, ends
    value = other - first
    low = value - reach(other - other_low, first_high - first)
    high = value + reach(other_high - other, first - first_low)
    return max(low, -1.0), min(high, 1.0)


def flip_signs(gains: Floats64, *, block: int = BLOCK) -> float:
    """Returns how often chance alone makes the mean of N gains as large, either way.

    If two models are alike, every gain might as well be a loss: signs are dealt out anew, in all
    ways where there are few, else many times.

    Args:
        gains: (N,).
        block: signs that are dealt out at once.

    Source: Fisher, "The Design of Experiments", 1935, section 21; for the share, Phipson and
        Smyth, "Permutation p-values should never be zero", 2010.
    """
    gains = gains[gains != 0]
    count = len(gains)
    least = abs(gains.sum()) * (1 - 1e-9)
    if 2**count <= DEALS:
        ways = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float((np.abs((2 * ways - 1) @ gains) >= least).mean())
    random, reached, left = np.random.default_rng(0), 0, DEALS
    while left:
        deals = min(left, max(1, block // count))
        signs = 2.0 * random.integers(0, 2, (deals, count), np.int8) - 1
        reached += int((np.abs(signs @ gains) >= least).sum())
        left -= deals
    return (1 + reached) / (1 + DEALS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for how many there are, in the given order.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    corrected, least = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for done, index in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[index]))
        corrected[index] = least
    return corrected
