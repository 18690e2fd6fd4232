"""How far the answers of a file may be from those of the model: one table for all files."""

from __future__ import annotations

from topwork.core.config import Precision

# Largest difference of a logit, as a share of `find_scale` of the exact ones, by the numbers that
# a file keeps and computes in. Where a kind is missing a single logit may be far off: there it
# counts how many answers are the same.
MAX_DIFFERENCE = {"f32": 1e-4, "f16": 1e-2}
# Where nothing may differ but the last bits.
EXACT = MAX_DIFFERENCE[Precision.F32]
# The same between batches of other sizes, for numbers without a limit.
MAX_BATCH_DIFFERENCE = 5e-2
# Least share of answers that other arithmetic must leave as they are: a single one may be a tie.
MIN_AGREEMENT = 0.95
# Answers that differ by no more than this in probability were ties.
TIE = 0.05
# A number agrees within this share of the range of all.
NUMBER_STEP = 0.05


def find_max_difference(numbers: str) -> float | None:
    """Returns how much a logit may differ in `f32` or `f16`; None where agreement counts."""
    return MAX_DIFFERENCE.get(numbers)
