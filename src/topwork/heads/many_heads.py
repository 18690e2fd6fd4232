"""Heads of one shape, trained side by side in one program, on vectors held or stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from topwork.core.config import ClassWeight, HeadSettings
from topwork.core.parallel import in_threads
from topwork.core.task import Task
from topwork.heads.class_weights import balance
from topwork.heads.dense import Floats, Head, init_head
from topwork.heads.examples import HeadFit, Ints, LabeledVectors, RowSplit
from topwork.vectors.on_disk import AnyIndices, VectorsOnDisk, allocate_rows

if TYPE_CHECKING:
    from topwork.heads.epochs import Best, Curve, Dropout, Hyperparameters
    from topwork.heads.epochs_on_disk import Block

# Programs are compiled for these numbers of heads only; a group that is smaller is filled up.
WIDTHS = (1, 4, 8, 16, 32, 64)
# Blocks of stored vectors that are read, or being read, while one is learnt from.
BLOCKS_AHEAD = 2


def batch_order(count: int, batch_size: int, epochs: int, seed: int) -> NDArray[np.int32]:
    """Decides which vector goes into which batch.

    Args:
        count: N, at least 1.
        batch_size: B, at least 1.
        epochs: E, at least 1.
        seed: the same seed gives the same order.

    Returns:
        (E, S, B) int32 indices, each epoch its own permutation; only the last batch of an
        epoch is smaller, filled up with -1.
    """
    batch_size = min(batch_size, count)
    steps = -(-count // batch_size)
    order = np.full((epochs, steps * batch_size), -1, np.int32)
    generator = np.random.default_rng(seed)
    for epoch in range(epochs):
        order[epoch, :count] = generator.permutation(count)
    return order.reshape(epochs, steps, batch_size)


def train_many(
    examples: LabeledVectors,
    split: RowSplit,
    candidates: list[HeadSettings],
    outputs: int,
    task: Task,
    seed: int,
) -> list[HeadFit]:
    """Trains heads of one shape; as `train.train_heads` does, of one group."""
    from topwork.heads.epochs import stack_heads, take_head

    first = candidates[0]
    width = next(width for width in WIDTHS if width >= len(candidates))
    filled = candidates + [candidates[-1]] * (width - len(candidates))
    head = init_head(examples.vectors.shape[1], outputs, seed, first.inner_units)
    heads, hyperparameters = (
        stack_heads([head] * width),
        _make_hyperparameters(filled, examples, split, outputs, task),
    )
    run = _run_streamed if isinstance(examples.vectors, VectorsOnDisk) else _run_held
    best, curve = run(examples, split, first, heads, hyperparameters, task, seed)
    names = name_figures(task)
    fits = []
    for index, settings in enumerate(candidates):
        rows = {name: [float(v) for v in c[:, index]] for name, c in zip(names, curve, strict=True)}
        epoch = int(best.epoch[index])
        kept = take_head(best.head, index) if epoch >= 0 else None
        fits.append(HeadFit(settings, kept, epoch + 1, rows))
    return fits


def _run_held(
    examples: LabeledVectors,
    split: RowSplit,
    settings: HeadSettings,
    heads: Head,
    hyperparameters: Hyperparameters,
    task: Task,
    seed: int,
) -> tuple[Best, Curve]:
    """Trains heads side by side on vectors that are held, in one program."""
    import jax

    from topwork.heads.epochs import Examples, run_epochs

    arrays = examples.vectors, examples.targets, _relative_weights(examples, split)
    found: tuple[Best, Curve] = jax.device_get(
        run_epochs(
            heads,
            hyperparameters,
            _order_rows(split, settings, seed),
            split.held_out,
            Examples(*arrays),  # type: ignore[arg-type]
            _make_dropout(settings, seed),
            task=task,
            optimizer=settings.optimizer,
            keep_last=not split.decides,
        )
    )
    return found


def _run_streamed(
    examples: LabeledVectors,
    split: RowSplit,
    settings: HeadSettings,
    heads: Head,
    hyperparameters: Hyperparameters,
    task: Task,
    seed: int,
) -> tuple[Best, Curve]:
    """Trains heads side by side on vectors that are stored, a block at a time."""
    from topwork.heads.epochs import Examples
    from topwork.heads.epochs_on_disk import Block, order_blocks, run_streamed

    vectors, weights = examples.vectors, _relative_weights(examples, split)
    assert isinstance(vectors, VectorsOnDisk)
    views, count = split.training.shape
    batch = min(settings.batch_size, count)
    most = max(vectors.block_bytes // (4 * vectors.shape[1] * batch), 1)
    size = batch * min(most, -(-count // batch))

    def read_block(asked: tuple[AnyIndices, AnyIndices]) -> Block:
        rows, order = asked
        values = vectors[rows]
        if len(rows) < size:
            full = allocate_rows(size, vectors.shape[1])
            full[: len(rows)] = values
            values = full
        rows = np.pad(rows, (0, size - len(rows)), mode="edge")
        order = np.pad(order, (0, size - len(order)), constant_values=-1)
        block = Examples(values, examples.targets[rows], weights[rows])  # type: ignore[arg-type]
        return Block(block, order.reshape(-1, batch).astype(np.int32))

    def order_epochs() -> Iterator[Iterator[Block]]:
        generator = np.random.default_rng(seed)
        for epoch in range(settings.epochs):
            rows = split.training[epoch % views]
            blocks = order_blocks(vectors.slots[rows], size, generator)
            asked = ((rows[block], order) for block, order in blocks)
            yield in_threads(read_block, asked, BLOCKS_AHEAD)

    unseen = split.held_out[split.held_out >= 0]

    def hold_out() -> Iterator[Block]:
        blocks = vectors.blocks(unseen, size)
        asked = ((unseen[block], np.arange(len(block))) for block in blocks)
        return in_threads(read_block, asked, BLOCKS_AHEAD)

    return run_streamed(
        heads,
        hyperparameters,
        order_epochs(),
        hold_out,
        _make_dropout(settings, seed),
        task=task,
        optimizer=settings.optimizer,
        keep_last=not split.decides,
    )


def name_figures(task: Task) -> tuple[str, str, str, str]:
    """Returns Keras' names of an epoch's four figures, in the order of `epochs.Curve`."""
    return "loss", task.metric, "val_loss", f"val_{task.metric}"


def _make_hyperparameters(
    candidates: list[HeadSettings],
    examples: LabeledVectors,
    split: RowSplit,
    outputs: int,
    task: Task,
) -> Hyperparameters:
    from topwork.heads.epochs import Hyperparameters

    rate, decay, smoothing = (
        np.array([getattr(settings, name) for settings in candidates], np.float32)
        for name in ("learning_rate", "weight_decay", "label_smoothing")
    )
    plain = np.ones((1 if task is Task.CLASSES else 2, outputs), np.float32)
    weights = np.stack([plain] * len(candidates))
    for index, settings in enumerate(candidates):
        if settings.class_weight is ClassWeight.BALANCED:
            weights[index] = balance(task, examples.targets[split.training[0]], outputs)
    return Hyperparameters(rate, decay, smoothing, weights)  # type: ignore[arg-type]


def _make_dropout(settings: HeadSettings, seed: int) -> Dropout | None:
    """Returns what is dropped, if anything: a key takes a program of its own to make."""
    import jax

    from topwork.heads.epochs import Dropout

    if not settings.dropout:
        return None
    return Dropout(settings.dropout, jax.random.key(seed, impl="rbg"))


def _order_rows(split: RowSplit, settings: HeadSettings, seed: int) -> Ints:
    """Returns (E, S, B) rows of the examples, each epoch from the next view."""
    views, count = split.training.shape
    order = batch_order(count, settings.batch_size, settings.epochs, seed)
    if views == 1 and np.array_equal(split.training[0], np.arange(count)):
        return order
    rows = np.empty_like(order)
    for epoch, images in enumerate(order):
        rows[epoch] = np.where(images >= 0, split.training[epoch % views][images], -1)
    return rows


def _relative_weights(examples: LabeledVectors, split: RowSplit) -> Floats:
    """Returns how much each example counts, (X,)."""
    weights = np.ones(len(examples.targets), np.float32)
    if examples.weights is not None:
        # Divided by the mean of those that are learnt from, if any of them counts.
        mean = examples.weights[split.training[0]].mean()
        weights = examples.weights / mean if mean > 0 else weights
    return weights
