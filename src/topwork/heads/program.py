"""One compiled program that trains a head for all its epochs.

The learning rate and the untrained head are arrays, so `jax.vmap` trains many heads at once.
N: training vectors, M: validation vectors, D: vector length, E: epochs, S: steps, B: batch.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from topwork.config import Optimizer
from topwork.heads.dense import Head, Task
from topwork.heads.losses import loss_of_rows, metric_of_rows
from topwork.heads.optimizers import make_optimizer


class Curve(NamedTuple):
    """Loss and metric per epoch on training and validation vectors, each (E,) float32."""

    loss: Array
    metric: Array
    val_loss: Array
    val_metric: Array


class Best(NamedTuple):
    """The best head so far, its epoch (0-based, -1 before any) and what made it the best."""

    head: Head
    epoch: Array
    loss: Array
    metric: Array


class Examples(NamedTuple):
    """Vectors (N, D) float32 and their targets; see `losses` for the targets' shapes."""

    vectors: Array
    targets: Array


@partial(jax.jit, static_argnames=("task", "optimizer"))
def run_epochs(
    head: Head,
    learning_rate: Array,
    order: Array,
    training: Examples,
    validation: Examples,
    *,
    task: Task,
    optimizer: Optimizer,
) -> tuple[Best, Curve]:
    """Trains for E epochs and returns the best epoch's head and the whole curve.

    Args:
        head: the untrained head.
        learning_rate: scalar float32.
        order: (E, S, B) int32, which vector goes into which batch; -1 is padding.
        training: N vectors and targets.
        validation: M vectors and targets, M at least 1.
        task: decides loss and metric.
        optimizer: decides the updates.

    Returns:
        The best epoch by `is_better`, and the curve. As in Keras, a training figure is the
        mean over the epoch while the head was changing; a validation figure is taken at its end.
    """
    rule = make_optimizer(optimizer, learning_rate)

    def step(
        carry: tuple[Head, optax.OptState], rows: Array
    ) -> tuple[tuple[Head, optax.OptState], tuple[Array, Array]]:
        head, state = carry
        used = (rows >= 0).astype(jnp.float32)  # (B,)

        def total(head: Head) -> tuple[Array, tuple[Array, Array]]:
            logits = training.vectors[rows] @ head.kernel + head.bias
            targets = training.targets[rows]
            loss = (loss_of_rows(task, logits, targets) * used).sum()
            metric = (metric_of_rows(task, logits, targets) * used).sum()
            return loss / used.sum(), (loss, metric)

        grads, sums = jax.grad(total, has_aux=True)(head)
        updates, state = rule.update(grads, state)
        return (optax.apply_updates(head, updates), state), sums

    def epoch(
        carry: tuple[Head, optax.OptState, Best], batches: tuple[Array, Array]
    ) -> tuple[tuple[Head, optax.OptState, Best], Curve]:
        head, state, best = carry
        number, rows = batches
        (head, state), (loss, metric) = jax.lax.scan(step, (head, state), rows)
        logits = validation.vectors @ head.kernel + head.bias
        now = Best(
            head,
            number,
            loss_of_rows(task, logits, validation.targets).mean(),
            metric_of_rows(task, logits, validation.targets).mean(),
        )
        better = is_better(task, now, best)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), now, best)
        count = (rows >= 0).sum()
        curve = Curve(loss.sum() / count, metric.sum() / count, now.loss, now.metric)
        return (head, state, best), curve

    worst = jnp.float32(jnp.inf)
    none = Best(head, jnp.int32(-1), worst, worst if task is Task.NUMBER else -worst)
    numbers = jnp.arange(order.shape[0], dtype=jnp.int32)
    (_, _, best), curve = jax.lax.scan(epoch, (head, rule.init(head), none), (numbers, order))
    return best, curve


def is_better(task: Task, now: Best, best: Best) -> Array:
    """Whether an epoch beats the best before it: by validation accuracy, then by loss.

    Accuracy is what the user asked for, and it often still rises after the loss has turned:
    a head that grows too sure of its mistakes pays in loss, not in labels. Equal accuracies,
    which are common with few images, go to the lower loss. A number goes by its loss alone.
    An epoch whose loss is not finite never wins.
    """
    lower = now.loss < best.loss
    if task is not Task.NUMBER:
        lower = (now.metric > best.metric) | ((now.metric == best.metric) & lower)
    return lower & jnp.isfinite(now.loss)
