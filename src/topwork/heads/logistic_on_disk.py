"""Heads that are solved to their optimum on vectors that come block by block.

The problems are those of `logistic`. What is known of all vectors at once are sums over them: the
loss and its slopes, or the products that a regression is solved by.

N: vectors, D: vector length, C: outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from topwork.core.errors import TopworkError
from topwork.core.task import Task
from topwork.heads.dense import Dense, Floats, Head
from topwork.heads.logistic import TOLERANCE, find_tolerance, say_unsolved

Wide = NDArray[np.float64]

# The most steps of Newton's method, each of which reads the vectors many times.
ROUNDS = 200


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
    """Finds the head that `logistic.solve` finds, by Newton's method in a region of trust.

    The vectors are read anew for every slope, and for every direction that a step is made of.

    Args:
        task: as for `solve`; so are those that are not named here.
        vectors: (N, D).
        targets: of the N images.
        outputs: C.
        penalty: above 0.
        weights: how much each image counts.

    Raises:
        TopworkError: the optimum was not reached.

    Source: Steihaug, "The conjugate gradient method and trust regions in large scale
        optimization", 1983, as SciPy has it.
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
    kernel, bias = np.zeros((length, outputs)), np.zeros(outputs)
    open_: NDArray[np.bool_] = np.ones(outputs, np.bool_)
    if task is not Task.CLASSES:
        weights = np.broadcast_to(weights.reshape(count, -1), (count, outputs))
        present = ((targets > 0.5) & (weights > 0)).any(axis=0)
        open_ &= present & ((targets <= 0.5) & (weights > 0)).any(axis=0)
        # Of a label that all images agree on, as `logistic` has it.
        bias = np.where(present, 1, -1) * np.log(count + 1.0)
        targets, weights = targets[:, open_], weights[:, open_]
    if open_.any():
        problem = _Problem(task, vectors, targets, weights, penalty)
        squares = sum(np.square(vectors[rows], dtype=np.float64).sum() for rows in vectors.blocks())
        size = float(np.sqrt(squares / (count * length)))
        start = np.zeros((length + 1) * int(open_.sum()))
        limits = {
            "gtol": find_tolerance(penalty, size), "maxiter": ROUNDS, "max_trust_radius": 1e6,
        }  # fmt: skip
        found = minimize(
            problem.look, start, jac=True, hessp=problem.bend, method="trust-ncg", options=limits
        )
        # At a tiny penalty rounding may keep it from its tolerance; more is not to be had.
        if not np.abs(found.jac).max() <= TOLERANCE * max(size, 1.0):
            raise TopworkError(say_unsolved(penalty, found.nit))
        solved = found.x.reshape(length + 1, -1)
        kernel[:, open_], bias[open_] = solved[:-1], solved[-1]
    return kernel, bias


@dataclass
class _Problem:
    """What is minimised: the mean loss + penalty / 2 · (sum of squared weights).

    Weights are a row, of the kernel (D, C) and then the bias (C,).

    Attributes:
        task: decides the loss.
        vectors: (N, D).
        targets: (N,) classes, or (N, C) decisions.
        weights: how much each image counts, (N,) or (N, C).
        penalty: above 0.
    """

    task: Task
    vectors: Blocks
    targets: NDArray[Any]
    weights: NDArray[Any]
    penalty: float

    def __post_init__(self) -> None:
        self._totals = self.weights.sum(axis=0, dtype=np.float64)

    def look(self, values: Wide) -> tuple[float, Wide]:
        """Returns the objective and its slopes, in one pass over the vectors."""
        now = values.reshape(self.vectors.shape[1] + 1, -1)
        loss, slopes = self.penalty / 2 * float(np.square(now[:-1]).sum()), np.zeros_like(now)
        slopes[:-1] = self.penalty * now[:-1]
        for rows in self.vectors.blocks():
            block, share = self.vectors[rows].astype(np.float64), self.weights[rows] / self._totals
            logits = block @ now[:-1] + now[-1]
            if self.task is Task.CLASSES:
                losses, steps = _cross_entropy(logits, self.targets[rows])
                losses, steps = losses * share, steps * share[:, None]
            else:
                losses, steps = _cross_entropies(logits, self.targets[rows])
                losses, steps = losses * share, steps * share
            loss += float(losses.sum())
            slopes[:-1] += block.T @ steps
            slopes[-1] += steps.sum(axis=0)
        return loss, slopes.ravel()

    def bend(self, values: Wide, direction: Wide) -> Wide:
        """Returns how the slopes change along a direction, in one pass over the vectors."""
        from scipy.special import expit, softmax

        shape = self.vectors.shape[1] + 1, -1
        now, ahead = values.reshape(shape), direction.reshape(shape)
        bends = np.zeros_like(ahead)
        bends[:-1] = self.penalty * ahead[:-1]
        for rows in self.vectors.blocks():
            block, share = self.vectors[rows].astype(np.float64), self.weights[rows] / self._totals
            logits, moves = block @ now[:-1] + now[-1], block @ ahead[:-1] + ahead[-1]
            if self.task is Task.CLASSES:
                chances = softmax(logits, axis=1)
                moves -= (chances * moves).sum(axis=1, keepdims=True)
                steps = chances * moves * share[:, None]
            else:
                chances = expit(logits)
                steps = chances * (1 - chances) * moves * share
            bends[:-1] += block.T @ steps
            bends[-1] += steps.sum(axis=0)
        return bends.ravel()


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
