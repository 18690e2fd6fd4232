"""Multinomial logistic regression with an L2 penalty, solved to its optimum."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.errors import TopworkError
from topwork.heads.dense import Dense, Floats, Head

STEPS = 2000
TOLERANCE = 1e-4


def solve_logistic(
    vectors: Floats,
    labels: NDArray[Any],
    outputs: int,
    penalty: float,
    class_weights: Floats | None = None,
) -> Head:
    """Finds the head with the least mean cross-entropy + penalty / 2 · (sum of squared weights).

    The penalty is on the kernel and not on the bias, and it does not depend on the number of
    images. The problem is convex: there is one optimum, whatever it starts from.

    Args:
        vectors: (N, D) float32.
        labels: (N,) class indices; every one of the C classes occurs.
        outputs: C, at least 2.
        penalty: above 0.
        class_weights: (C,) how much an image of each class counts; their mean over the images
            is 1.

    Returns:
        The head: kernel (D, C), bias (C,) float32.

    Raises:
        TopworkError: the optimum was not reached.

    Source: scikit-learn's `LogisticRegression`, with its L-BFGS.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # Two classes get one logit there, whose penalty is half of that of two opposite ones.
    strength = (2 if outputs == 2 else 1) / (penalty * len(vectors))
    weights = None if class_weights is None else dict(enumerate(class_weights.tolist()))
    problem = LogisticRegression(
        C=strength, class_weight=weights, max_iter=STEPS, tol=TOLERANCE, warm_start=True
    )
    with contextlib.suppress(ConvergenceWarning):
        # Single precision is twice as fast, but stops early where vectors are large.
        problem.fit(vectors, labels)
        problem.fit(vectors.astype(np.float64), labels)
    if not hasattr(problem, "n_iter_") or problem.n_iter_.max() >= STEPS:
        raise TopworkError(
            f"logistic regression with penalty {penalty:g} did not reach its optimum in "
            f"{STEPS} steps; try a larger --penalty, or --normalize"
        )
    kernel, bias = problem.coef_.T, problem.intercept_
    if outputs == 2:
        kernel, bias = np.hstack([-kernel / 2, kernel / 2]), np.hstack([-bias / 2, bias / 2])
    return Head((Dense(kernel.astype(np.float32), bias.astype(np.float32)),))
