"""Vectors in, head and history out. Takes arrays; knows nothing of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.config import Optimizer
from topwork.errors import DatasetError, TopworkError
from topwork.heads import Floats, Head, Task, init_head
from topwork.history import History


@dataclass(frozen=True)
class Labelled:
    """Vectors and what they should become.

    Attributes:
        vectors: (N, D) float32.
        targets: (N,) int32 class indices; (N, C) float32 for the other tasks.
    """

    vectors: Floats
    targets: NDArray[Any]


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


def train_head(
    training: Labelled,
    validation: Labelled,
    *,
    outputs: int,
    task: Task = Task.CLASSES,
    epochs: int = 10,
    learning_rate: float = 0.003,
    batch_size: int = 32,
    optimizer: Optimizer = Optimizer.ADAM,
    seed: int = 0,
) -> tuple[Head, History]:
    """Trains a dense layer from vectors to logits and keeps its best epoch.

    On the same vectors, first weights and order of batches the history equals that of Keras'
    `compile` and `fit`.

    Args:
        training: N vectors to learn from.
        validation: M vectors to choose the epoch by.
        outputs: C, the number of classes, labels or numbers.
        task: decides the loss and the metric.
        epochs: passes over the training vectors.
        learning_rate: step size.
        batch_size: vectors per step.
        optimizer: see `config.Optimizer`.
        seed: for the first weights and the order of the batches.

    Returns:
        The head of the best epoch (by validation accuracy, ties by validation loss; a number
        by its loss) and the history of all epochs.

    Raises:
        DatasetError: no vectors, or vectors that are not finite.
        TopworkError: the loss was finite in no epoch.
    """
    import jax
    import jax.numpy as jnp

    from topwork.heads.program import Examples, run_epochs

    for name, part in (("training", training), ("validation", validation)):
        if not len(part.vectors):
            raise DatasetError(f"{name} needs at least 1 vector, received none")
        if not np.isfinite(part.vectors).all():
            raise DatasetError(f"the {name} vectors must be finite, received NaN or infinity")
    pairs = [(part.vectors, part.targets) for part in (training, validation)]
    best, curve = run_epochs(
        init_head(training.vectors.shape[1], outputs, seed),
        jnp.float32(learning_rate),
        batch_order(len(training.vectors), batch_size, epochs, seed),
        *(Examples(*map(jnp.asarray, part)) for part in pairs),
        task=task,
        optimizer=optimizer,
    )
    best, curve = jax.device_get((best, curve))
    names = ("loss", task.metric, "val_loss", f"val_{task.metric}")
    history = {name: [float(v) for v in part] for name, part in zip(names, curve, strict=True)}
    if best.epoch < 0:
        raise TopworkError(
            f"the validation loss was finite in none of the {epochs} epochs at learning rate "
            f"{learning_rate}; try a smaller one, such as {_smaller(learning_rate)}"
        )
    return Head(*map(np.asarray, best.head)), History(history, int(best.epoch) + 1)


def _smaller(rate: float) -> float:
    return float(10.0 ** (math.floor(math.log10(rate)) - 1))
