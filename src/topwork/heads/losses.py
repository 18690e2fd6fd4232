"""Losses and metrics of the four tasks, row by row, in JAX.

B: rows, C: outputs. Logits are (B, C). Targets are class indices (B,) int32 for one of many,
0/1 as (B, C) float32 for two classes (C = 1) and many labels, numbers (B, C) float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import Array

from topwork.core.task import Task


def loss_of_rows(
    task: Task,
    logits: Array,
    targets: Array,
    smoothing: Array | float = 0.0,
    weights: Array | None = None,
) -> Array:
    """Returns the loss (B,) of each row; the formulas take logits, as Keras' `from_logits`.

    Args:
        task: decides the formula.
        logits: (B, C) float32.
        targets: see above.
        smoothing: share of the target, 0..1, that is spread evenly over all outputs; a number
            has no such thing.
        weights: how much a row counts by its class: (1, C) for one of many; (2, C) for two
            classes and many labels, the first row for a label that is absent, the second for one
            that is present; None for all the same. Numbers have none.

    Source: Szegedy et al., "Rethinking the Inception architecture", 2016, for the smoothing.
    """
    match task:
        case Task.CLASSES:
            # The largest logit is taken off first: large ones would swallow the difference.
            logs = jax.nn.log_softmax(logits)
            # A product and not a look-up, whose gradient is slow for many heads at once.
            wanted = jax.nn.one_hot(targets, logits.shape[-1])
            right = jnp.where(wanted > 0, logs, 0).sum(axis=-1)
            losses = -(1 - smoothing) * right - smoothing * logs.mean(axis=-1)
            return losses if weights is None else losses * (wanted @ weights[0])
        case Task.BINARY | Task.LABELS:
            smooth = targets * (1 - smoothing) + 0.5 * smoothing
            losses = jnp.asarray(optax.sigmoid_binary_cross_entropy(logits, smooth))
            if weights is not None:
                losses *= jnp.where(targets > 0.5, weights[1], weights[0])
            return losses.mean(axis=-1)
        case Task.NUMBER:
            return jnp.square(logits - targets).mean(axis=-1)


def metric_of_rows(task: Task, logits: Array, targets: Array) -> Array:
    """Returns the metric (B,) of each row: 1 where right, the share of right labels, |error|."""
    match task:
        case Task.CLASSES:
            return (logits.argmax(axis=-1) == targets).astype(jnp.float32)
        case Task.BINARY | Task.LABELS:
            return ((logits > 0) == (targets > 0.5)).astype(jnp.float32).mean(axis=-1)
        case Task.NUMBER:
            return jnp.abs(logits - targets).mean(axis=-1)
