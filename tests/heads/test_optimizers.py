from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from heads.keras_reference import ask

from topwork.core.config import Optimizer
from topwork.heads.dense import Dense, Head
from topwork.heads.optimizers import make_optimizer

STEPS, RATE = 60, 0.01
# From below epsilon to well above it; some weights never get a gradient.
SCALES = np.array([1, 1e-2, 1e-4, 1e-6, 1e-7, 1e-8, 0])
GRADIENTS = (np.random.default_rng(0).normal(0.3, 1, (STEPS, 7)) * SCALES).astype(np.float32)
START = np.linspace(-1, 1, 7).astype(np.float32)


def mirrored(values):
    return Head((Dense(jnp.asarray(values), jnp.asarray(-values)),))


@cache
def walk(kind):
    """Returns where a kernel is after each gradient; the bias beside it moves the other way."""
    rule = make_optimizer(kind, RATE)
    update = jax.jit(rule.update)
    head = mirrored(START)
    state, path = rule.init(head), []
    for gradient in GRADIENTS:
        updates, state = update(mirrored(gradient), state)
        head = optax.apply_updates(head, updates)
        (layer,) = head.layers
        path.append(layer.kernel)
        assert np.array_equal(layer.bias, -layer.kernel)
    return np.array(path)


def walk_by_hand(kind):
    weights, path = START.astype(np.float64), []
    mean, square = np.zeros(7), np.zeros(7)
    for step, gradient in enumerate(GRADIENTS.astype(np.float64), 1):
        if kind is Optimizer.SGD:
            weights = weights - RATE * gradient
        else:
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            # Keras raises to powers in float32, which shows in the sixth digit of the rate.
            fast, slow = (1 - np.float32(beta) ** np.float32(step) for beta in (0.9, 0.999))
            rate = RATE * np.sqrt(slow) / fast
            weights = weights - rate * mean / (np.sqrt(square) + 1e-7)
        path.append(weights)
    return np.array(path)


@pytest.mark.parametrize("kind", Optimizer)
def test_the_steps_are_those_of_the_formula(kind):
    np.testing.assert_allclose(walk(kind), walk_by_hand(kind), atol=2e-6)


@pytest.mark.system
def test_the_steps_are_those_of_keras(tmp_path):
    case = {"do": "step", "learning_rate": RATE, "start": START, "gradients": GRADIENTS}
    cases = {str(kind): case | {"optimizer": str(kind)} for kind in Optimizer}
    found = ask(cases, tmp_path, backend="numpy")  # with nothing to compile
    for kind in Optimizer:
        np.testing.assert_allclose(walk(kind), found[str(kind)], atol=2e-6)
