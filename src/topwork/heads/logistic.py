"""Heads that are solved to their optimum: regressions with an L2 penalty, by scikit-learn.

N: vectors, D: vector length, C: outputs.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.errors import TopworkError
from topwork.core.task import Task
from topwork.heads.dense import Dense, Floats, Head

# The most steps that a regression takes, and how small its slope must be where it ends: as a share
# of the penalty, since a slope that is left displaces the weights by up to slope / penalty.
STEPS = 2000
TOLERANCE = 1e-4
# A slope below this, or this share of the vectors' values, may be rounding.
ROUNDING = 1e-10


def solve(
    task: Task,
    vectors: Floats,
    targets: NDArray[Any],
    outputs: int,
    penalty: float,
    weights: Floats | None = None,
    *,
    tolerance: float = TOLERANCE,
    steps: int = STEPS,
) -> Head:
    """Finds the head with the least mean loss + penalty / 2 · (sum of squared weights).

    The loss is that of the task: cross-entropy (of each label, where there are many), or the
    squared error. The penalty is on the kernel and not on the bias, and it does not depend on
    the number of images. The problem is convex: there is one optimum, whatever it starts from.

    Args:
        task: decides the loss.
        vectors: (N, D) float32.
        targets: (N,) class indices, of which every one of the C classes occurs; (N, C) float32
            for the other tasks.
        outputs: C.
        penalty: above 0.
        weights: how much each image counts, (N,) with a mean of 1; for many labels it may be
            (N, C), for each label in turn.
        tolerance: how small the slope must be where a regression ends, as a share of the penalty
            where that is below 1; see `find_tolerance`.
        steps: the most that a regression may take.

    Returns:
        The head: kernel (D, C), bias (C,) float32.

    Raises:
        TopworkError: the optimum was not reached.

    Source: scikit-learn's `LogisticRegression`, with its L-BFGS and Newton-CG, and `Ridge`.
    """
    match task:
        case Task.CLASSES:
            # Two classes get one logit there, whose penalty is half of that of two opposite ones.
            factor = 2 if outputs == 2 else 1
            kernel, bias = _regress(vectors, targets, penalty, weights, tolerance, steps, factor)
            if outputs == 2:
                kernel, bias = (np.concatenate([-a / 2, a / 2], axis=-1) for a in (kernel, bias))
        case Task.BINARY | Task.LABELS:
            columns = [
                _regress_one(vectors, targets[:, n], penalty, _column(weights, n), tolerance, steps)
                for n in range(outputs)
            ]
            kernel, bias = (
                np.concatenate(arrays, axis=-1) for arrays in zip(*columns, strict=True)
            )
        case Task.NUMBER:
            kernel, bias = _solve_ridge(vectors, targets, penalty, weights)
    return Head((Dense(kernel.astype(np.float32), bias.astype(np.float32)),))


def _column(weights: Floats | None, index: int) -> Floats | None:
    return weights[:, index] if weights is not None and weights.ndim == 2 else weights


def _regress(
    vectors: Floats,
    labels: NDArray[Any],
    penalty: float,
    weights: Floats | None,
    tolerance: float,
    steps: int,
    factor: float = 1,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the kernel and bias of a logistic regression; one logit for two classes.

    The penalty is divided by `factor`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    total = len(vectors) if weights is None else float(weights.sum())
    problem = LogisticRegression(
        C=factor / (penalty * total), max_iter=steps, tol=tolerance, warm_start=True
    )
    # Most of the way in single precision, which is twice as fast; the last steps, which at a small
    # penalty L-BFGS would never come to an end with, by Newton's method.
    with contextlib.suppress(ConvergenceWarning):
        problem.fit(vectors, labels, weights)
    wide = vectors.astype(np.float64)
    size = float(np.sqrt(np.square(wide).mean()))
    problem.set_params(solver="newton-cg", tol=find_tolerance(penalty, size, tolerance))
    # Where warnings are errors, what rounding keeps from its tolerance stays where it was.
    with contextlib.suppress(UserWarning, RuntimeWarning):
        problem.fit(wide, labels, weights)
    if not hasattr(problem, "n_iter_") or problem.n_iter_.max() >= steps:
        raise TopworkError(say_unsolved(penalty, steps))
    return problem.coef_.T, problem.intercept_


def find_tolerance(penalty: float, size: float, tolerance: float = TOLERANCE) -> float:
    """Returns how small the slope must be where a regression ends.

    It is the same problem if vectors are s times as large, weights s times as small and the penalty
    s² times as large; slopes are then s times as large.

    Args:
        penalty: above 0.
        size: of the values of the vectors, as the root of their mean square.
        tolerance: as a share of the penalty where that is below 1, of vectors of size 1.
    """
    size = max(size, 1e-30)
    return max(tolerance * min(penalty / size, size, 1.0), ROUNDING * max(size, 1.0))


def say_unsolved(penalty: float, steps: int = STEPS) -> str:
    """Returns what to say of a regression that did not reach its optimum in so many steps."""
    return (
        f"logistic regression with penalty {penalty:g} did not reach its optimum in {steps} "
        "steps; try a larger --penalty, or --normalize"
    )


def _regress_one(
    vectors: Floats,
    present: Floats,
    penalty: float,
    weights: Floats | None,
    tolerance: float,
    steps: int,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the kernel (D, 1) and bias (1,) for one label, also where all images agree on it."""
    found = np.unique(present[weights > 0] if weights is not None else present)
    if len(found) == 2:
        return _regress(vectors, present, penalty, weights, tolerance, steps)
    # Without an example of the other kind the optimum lies at infinity: as if there were one.
    sure = np.log(len(vectors) + 1.0)
    bias = np.array([sure if found.size and found[0] > 0 else -sure])
    return np.zeros((vectors.shape[1], 1)), bias


def _solve_ridge(
    vectors: Floats, numbers: Floats, penalty: float, weights: Floats | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.linear_model import Ridge

    total = len(vectors) if weights is None else float(weights.sum())
    # The mean over several numbers, as in training by epochs.
    strength = penalty / 2 * total * numbers.shape[1]
    problem = Ridge(alpha=strength, solver="cholesky")
    problem.fit(vectors.astype(np.float64), numbers.astype(np.float64), sample_weight=weights)
    return problem.coef_.reshape(numbers.shape[1], -1).T, np.atleast_1d(problem.intercept_)
