"""Heads that are solved to their optimum on vectors that come block by block.

The problems are those of `logistic`. What is known of all vectors at once are sums over them: the
loss and its slopes, or the products that a regression is solved by.

N: vectors, D: vector length, C: outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from topwork.core.errors import TopworkError
from topwork.core.task import Task
from topwork.heads.dense import Dense, Floats, Head
from topwork.heads.logistic import STEPS, TOLERANCE, say_unsolved

Wide = NDArray[np.float64]


class Blocks(Protocol):
    """Vectors (N, D) that are read block by block, as `vectors.on_disk` has them."""

    @property
    def shape(self) -> tuple[int, int]:
        """N and D."""

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """Yields the rows of each block."""

    def __getitem__(self, rows: Any) -> Floats:
        """Returns some rows."""


def solve_streamed(
    task: Task,
    vectors: Blocks,
    targets: NDArray[Any],
    outputs: int,
    penalty: float,
    weights: Floats | None = None,
) -> Head:
    """Finds the head that `logistic.solve` finds, reading the vectors once for every step.

    Args:
        task: as for `solve`; so are those that are not named here.
        vectors: (N, D).
        targets: of the N images.
        outputs: C.
        penalty: above 0.
        weights: how much each image counts.

    Raises:
        TopworkError: the optimum was not reached.
    """
    if weights is None:
        weights = np.ones(len(targets), np.float32)
    if task is Task.NUMBER:
        kernel, bias = _solve_ridge(vectors, targets.astype(np.float64), penalty, weights)
    else:
        kernel, bias = _descend(task, vectors, targets, outputs, penalty, weights)
    return Head((Dense(kernel.astype(np.float32), bias.astype(np.float32)),))


def _descend(
    task: Task,
    vectors: Blocks,
    targets: NDArray[Any],
    outputs: int,
    penalty: float,
    weights: Floats,
) -> tuple[Wide, Wide]:
    from scipy.optimize import minimize

    count, length = vectors.shape
    if task is not Task.CLASSES:
        weights = np.broadcast_to(weights.reshape(count, -1), (count, outputs))
    totals = weights.sum(axis=0, dtype=np.float64)
    kernel, bias = np.zeros((length, outputs)), np.zeros(outputs)
    open_: NDArray[np.bool_] = np.ones(outputs, np.bool_)
    if task is not Task.CLASSES:
        present = ((targets > 0.5) & (weights > 0)).any(axis=0)
        open_ &= present & ((targets <= 0.5) & (weights > 0)).any(axis=0)
        # Of a label that all images agree on, as `logistic` has it.
        bias = np.where(present, 1, -1) * np.log(count + 1.0)

    def look(values: Wide) -> tuple[float, Wide]:
        now = values.reshape(length + 1, -1)
        loss, slopes = penalty / 2 * float(np.square(now[:-1]).sum()), np.zeros_like(now)
        slopes[:-1] = penalty * now[:-1]
        for rows in vectors.blocks():
            block = vectors[rows].astype(np.float64)
            logits = block @ now[:-1] + now[-1]
            if task is Task.CLASSES:
                losses, steps = _cross_entropy(logits, targets[rows])
                losses, steps = losses * weights[rows], steps * weights[rows, None]
            else:
                own = weights[rows][:, open_]
                losses, steps = _cross_entropies(logits, targets[rows][:, open_])
                losses, steps = losses * own, steps * own
            share = totals if task is Task.CLASSES else totals[open_]
            loss += float((losses / share).sum())
            steps /= share
            slopes[:-1] += block.T @ steps
            slopes[-1] += steps.sum(axis=0)
        return loss, slopes.ravel()

    if open_.any():
        start = np.zeros((length + 1) * int(open_.sum()))
        # The limits are those of scikit-learn.
        limits = {"maxiter": STEPS, "maxls": 50, "gtol": TOLERANCE, "ftol": 64 * 2.0**-52}
        found = minimize(look, start, jac=True, method="L-BFGS-B", options=limits)
        if found.nit >= STEPS or not np.isfinite(found.x).all():
            raise TopworkError(say_unsolved(penalty))
        solved = found.x.reshape(length + 1, -1)
        kernel[:, open_], bias[open_] = solved[:-1], solved[-1]
    return kernel, bias


def _cross_entropy(logits: Wide, targets: NDArray[Any]) -> tuple[Wide, Wide]:
    """Returns the loss (R,) of each row for one of many, and its slopes (R, C)."""
    logits = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(logits)
    sums = powers.sum(axis=1)
    rows = np.arange(len(targets))
    slopes = powers / sums[:, None]
    slopes[rows, targets] -= 1
    return np.log(sums) - logits[rows, targets], slopes


def _cross_entropies(logits: Wide, targets: Floats) -> tuple[Wide, Wide]:
    """Returns the loss of each decision between two, and its slope, both (R, C)."""
    losses = np.logaddexp(0, logits) - targets * logits
    return losses, 0.5 * (1 + np.tanh(logits / 2)) - targets


def _solve_ridge(
    vectors: Blocks, numbers: Wide, penalty: float, weights: Floats
) -> tuple[Wide, Wide]:
    from scipy.linalg import solve

    length, outputs = vectors.shape[1], numbers.shape[1]
    total = float(weights.sum(dtype=np.float64))
    products, sums = np.zeros((length, length)), np.zeros(length)
    wanted, middle = np.zeros((length, outputs)), np.zeros(0)
    centre = weights @ numbers / total
    for rows in vectors.blocks():
        block = vectors[rows].astype(np.float64)
        # Far from 0, what differs would be swallowed.
        middle = middle if len(middle) else block.mean(axis=0)
        block -= middle
        weighed = block * weights[rows, None]
        sums += weighed.sum(axis=0)
        products += weighed.T @ block
        wanted += weighed.T @ (numbers[rows] - centre)
    mean = sums / total
    products -= total * np.outer(mean, mean)
    # The mean over several numbers, as in training by epochs.
    products[np.diag_indices(length)] += penalty / 2 * total * outputs
    kernel = solve(products, wanted, assume_a="pos")
    return kernel, centre - (mean + middle) @ kernel
