"""Optimizers with Keras' formulas and defaults, as optax transformations."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from topwork.core.config import Optimizer


class AdamState(NamedTuple):
    """Steps taken, and the moving averages of gradients and of their squares."""

    steps: Array
    mean: optax.Updates
    square: optax.Updates


def make_optimizer(kind: Optimizer, learning_rate: Array | float) -> optax.GradientTransformation:
    """Returns the optimizer.

    Args:
        kind: which one.
        learning_rate: a number, or an array that broadcasts against every weight, so that
            each of many heads can have its own.
    """
    match kind:
        case Optimizer.ADAM:
            return keras_adam(learning_rate)
        case Optimizer.SGD:
            return optax.sgd(learning_rate)


def keras_adam(
    learning_rate: Array | float, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7
) -> optax.GradientTransformation:
    """Adam as Keras computes it.

    Keras adds epsilon to the square root before the correction of the averages' bias, optax
    after it. In the first steps that is a factor of 30 in epsilon, enough to part the curves.

    Source: Kingma and Ba, "Adam", 2015, the form at the end of section 2 ("epsilon hat").
    """

    def init(params: optax.Params) -> AdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(
        grads: optax.Updates, state: AdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdamState]:
        del params
        steps = state.steps + 1
        mean = jax.tree.map(lambda m, g: m + (g - m) * (1 - beta_1), state.mean, grads)
        square = jax.tree.map(lambda v, g: v + (g * g - v) * (1 - beta_2), state.square, grads)
        rate = learning_rate * jnp.sqrt(1 - beta_2**steps) / (1 - beta_1**steps)
        updates = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) + epsilon), mean, square)
        return updates, AdamState(steps, mean, square)

    return optax.GradientTransformation(init, update)
