"""Which values are black and white in pictures of more than 8 bits, by the values of many."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.ranges import Kind

# White as programs write it: of shares, and of 8 and 16 bits in floating numbers.
WHITES = (1.0, 255.0, 65535.0)
# Values may reach a little beyond white, by a resize or by rounding.
SLACK = 0.05
# A few pixels (dead, hot, or a mark) do not decide if they make the range so many times as wide.
FEW = 1e-4
MANY_TIMES = 8
# Values that begin further from 0 than this share of the largest do not have black at 0.
FROM_ZERO = 0.25
# Integers below this are no picture of 8 bits that happens to be dark.
LEAST_WHITE = 128


def choose_range(kind: Kind, values: NDArray[Any]) -> tuple[float, float] | None:
    """Returns the values of black and white.

    Where values begin near 0, black is 0, and white what is usual for such numbers: 1, 255 or
    65535 for floating ones, the largest number of as many bits as are used for whole ones.
    Others reach from their least to their largest, rounded outwards.

    Args:
        kind: of the numbers.
        values: (V,) those of all pictures, or of a sample.

    Returns:
        Black and white; None if all values are equal.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    least, most = float(values.min()), float(values.max())
    low, high = np.quantile(values, (FEW, 1 - FEW)).tolist()
    if most - least > MANY_TIMES * (high - low) > 0:
        least, most = low, high
    if most <= least:
        return None
    if -SLACK * most <= least <= FROM_ZERO * most:
        return 0.0, _choose_white(kind, most)
    if kind is Kind.FLOAT32 and -1 - SLACK <= least <= -FROM_ZERO and most <= 1 + SLACK:
        return -1.0, 1.0
    step = _choose_step(most - least)
    return math.floor(least / step) * step, math.ceil(most / step) * step


def _choose_white(kind: Kind, most: float) -> float:
    if kind is Kind.FLOAT32:
        for white in WHITES:
            if FROM_ZERO * white < most <= (1 + SLACK) * white:
                return white
    elif LEAST_WHITE <= most <= WHITES[-1]:
        return 2.0 ** int(most).bit_length() - 1
    step = _choose_step(most)
    return math.ceil(most / step) * step


def _choose_step(width: float) -> float:
    """Returns what ends are rounded to: a tenth of the width's first digit."""
    return 10.0 ** (math.floor(math.log10(width)) - 1)
