"""Training heads on examples that come block by block: the program of `epochs`, in pieces.

R: rows of a block, S: its batches, B: rows of a batch; R = S · B. The other letters are those of
`epochs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from topwork.core.config import Optimizer
from topwork.core.task import Task
from topwork.heads.dense import Floats, Head
from topwork.heads.epochs import (
    Best,
    Curve,
    Dropout,
    Examples,
    Hyperparameters,
    keep_epoch,
    run_batches,
    score_block,
    start_choice,
    start_training,
)

Rows = NDArray[np.int64]


class Block(NamedTuple):
    """Some examples, all blocks of a training of one shape: what is missing is filled up.

    Attributes:
        examples: vectors (R, D), targets (R,) or (R, C), weights (R,), in NumPy.
        order: (S, B) int32, which of them goes into which batch; -1 is padding, and comes last.
    """

    examples: Examples
    order: NDArray[np.int32]


def run_streamed(
    heads: Head,
    hyperparameters: Hyperparameters,
    epochs: Iterable[Iterable[Block]],
    held_out: Callable[[], Iterable[Block]],
    dropout: Dropout | None = None,
    *,
    task: Task,
    optimizer: Optimizer,
    keep_last: bool = False,
) -> tuple[Best, Curve]:
    """Trains H heads as `epochs.run_epochs` does, and returns the same, in NumPy.

    Args:
        heads: as for `run_epochs`; so are those that are not named here.
        hyperparameters: what differs between them.
        epochs: the blocks of each epoch; only the last of an epoch is not full.
        held_out: gives the blocks to choose the epoch by, after each epoch anew; their order is
            that of the rows. Without any the last epoch is kept.
        dropout: None for none.
        task: decides loss and metric.
        optimizer: decides the updates.
        keep_last: whether the last epoch is kept, instead of the best.
    """
    count = len(hyperparameters.learning_rate)
    state = start_training(heads, optimizer)
    best = start_choice(task, state.heads, count)
    rows = []
    for number, blocks in enumerate(epochs):
        seen = _Means(count)
        for block in blocks:
            state, sums = run_batches(
                state, hyperparameters, *block, dropout, task=task, optimizer=optimizer
            )
            seen.add(sums, block)
        unseen = _Means(count)
        for block in held_out():
            (vectors, targets, _), order = block
            used = order.ravel() >= 0
            sums = score_block(state.heads, vectors, targets, used, task=task, count=count)
            unseen.add(sums, block)
        figures = *seen.take(), *unseen.take()
        now = Best(state.heads, jnp.full(count, number, jnp.int32), *map(jnp.asarray, figures[2:]))
        best = keep_epoch(best, now, task=task, keep_last=keep_last) if unseen.rows else now
        rows.append(figures)
    kept = jax.tree.map(lambda array, own: array.reshape(own.shape), best.head, heads)
    curve = Curve(*(jnp.stack(column) for column in zip(*rows, strict=True)))
    found: tuple[Best, Curve] = jax.device_get((best._replace(head=kept), curve))
    return found


def order_blocks(
    positions: Rows, size: int, generator: np.random.Generator
) -> Iterator[tuple[Rows, Rows]]:
    """Decides which examples go into which block of an epoch, and in which order.

    Those that lie together are read together. Which those are changes from epoch to epoch, and so
    does their order. Where one block is enough, its order is that of `many_heads.batch_order`.

    Args:
        positions: (N,) where each example lies.
        size: rows of a block.
        generator: decides the order.

    Yields:
        Indices of examples, as they lie, each in one block, and the order within the block; only
        the last block is smaller.
    """
    count = len(positions)
    near = np.argsort(positions)
    if count <= size:
        yield near, np.argsort(near)[generator.permutation(count)]
        return
    near = np.roll(near, int(generator.integers(count)))
    whole = count // size
    for number in [*generator.permutation(whole).tolist(), whole]:
        block = near[number * size : (number + 1) * size]
        if len(block):
            yield block, generator.permutation(len(block))


class _Means:
    """The mean loss and metric of H heads over the blocks of a pass."""

    def __init__(self, count: int) -> None:
        self.sums = np.zeros((2, count))
        self.rows = 0

    def add(self, sums: tuple[Array, Array], block: Block) -> None:
        # Waits for the device: blocks must not queue up in memory.
        self.sums += np.stack(jax.device_get(sums))
        self.rows += int((block.order >= 0).sum())

    def take(self) -> tuple[Floats, Floats]:
        means = self.sums / self.rows if self.rows else np.full_like(self.sums, np.nan)
        loss, metric = np.asarray(means, np.float32)
        return loss, metric
