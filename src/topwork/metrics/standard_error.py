"""How far a mean over a few occasions may be off, and whether two means differ by more.

A few folds agree or differ much by chance: of three, the spread is off by a factor of three or
more in one case of ten. So a share of right answers is given no smaller error than so many images
have by chance, and what is known from the spread alone is widened as Student says.

R: occasions, T: what is compared with the best.
"""

from __future__ import annotations

import math

import numpy as np

from topwork.core.arrays import Floats64

# How often a normal number is not above its mean plus one standard error.
ONE_ERROR = 0.5 * math.erfc(-math.sqrt(0.5))


def standard_error(values: Floats64, images: int = 0) -> float:
    """Returns how far from the mean of R values the truth lies in one case of three at most.

    Mean plus and minus one standard error is to hold the truth 68 times in 100.

    Args:
        values: (R,), R at least 1.
        images: how many images the values are shares of, all together; 0 if they are something
            else, such as errors of numbers.

    Returns:
        Of shares the spread over the square root of R, and at least the binomial error. Of other
        values the spread, widened for so few; NaN for a single one.
    """
    spread = math.nan
    if len(values) > 1:
        spread = float(values.std(ddof=1) / math.sqrt(len(values)))
    if not images:
        return spread * _student(len(values) - 1) if len(values) > 1 else math.nan
    share = min(max(float(values.mean()), 0.0), 1.0)
    # One image more of either kind, so that no share is certain.
    share = (share * images + 1) / (images + 2)
    binomial = math.sqrt(share * (1 - share) / images)
    return binomial if math.isnan(spread) else max(spread, binomial)


def error_of_differences(differences: Floats64) -> float:
    """Returns the standard error of a mean of R paired differences, from T rows of them.

    The variance of three or five differences is hardly known: taken each by its own, the rule of
    one standard error goes to whichever simple candidate happened to vary much. So it is pooled:
    the median over the nearer half of the rows, those of the smallest means.

    Args:
        differences: (T, R) of one and T others, T at least 1.

    Returns:
        One error for all rows, widened for so few occasions; NaN for a single occasion.
    """
    occasions = differences.shape[1]
    if occasions < 2:
        return math.nan
    near = differences[np.argsort(differences.mean(axis=1), kind="stable")]
    near = near[: (len(near) + 1) // 2]
    variance = float(np.median(near.var(axis=1, ddof=1)))
    return math.sqrt(variance / occasions) * _student((occasions - 1) * len(near))


def _student(freedom: int) -> float:
    """Returns how many standard errors of an unknown variance are worth one of a known one."""
    # What `scipy.stats.t.ppf` returns; that module takes far longer to import.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, ONE_ERROR))
