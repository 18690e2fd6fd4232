import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.config import Optimizer
from topwork.heads import Head, Task, init_head
from topwork.heads.program import Best, Examples, is_better, run_epochs
from topwork.training import batch_order

LOSSES = st.sampled_from([0.25, 0.5, 0.5, 0.75, math.inf, math.nan])
METRICS = st.sampled_from([0.0, 0.5, 0.5, 1.0])
OUTPUTS, LENGTH = 3, 6


def kept_epoch(task, curve):
    """Runs the rule over a curve as `run_epochs` does."""
    worst = math.inf if task is Task.NUMBER else -math.inf
    best = Best(Head(0, 0), -1, jnp.float32(math.inf), jnp.float32(worst))
    for epoch, (loss, metric) in enumerate(curve):
        now = Best(Head(0, 0), epoch, jnp.float32(loss), jnp.float32(metric))
        if is_better(task, now, best):
            best = now
    return best.epoch


def wanted_epoch(task, curve):
    """Sorts all epochs: by accuracy, then by loss, then the first."""
    ranked = [
        (loss if task is Task.NUMBER else (-metric, loss), epoch)
        for epoch, (loss, metric) in enumerate(curve)
        if math.isfinite(loss)
    ]
    return min(ranked)[1] if ranked else -1


@pytest.mark.parametrize("task", [Task.CLASSES, Task.LABELS, Task.NUMBER])
@given(curve=st.lists(st.tuples(LOSSES, METRICS), min_size=1, max_size=12))
def test_the_kept_epoch_is_the_best_of_all(task, curve):
    assert kept_epoch(task, curve) == wanted_epoch(task, curve)


def examples(task, count, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, LENGTH)).astype(np.float32)
    scores = vectors[:, :OUTPUTS] + rng.normal(size=(count, OUTPUTS))
    targets = {
        Task.CLASSES: scores.argmax(axis=1).astype(np.int32),
        Task.LABELS: (scores > 0).astype(np.float32),
    }
    return Examples(jnp.asarray(vectors), jnp.asarray(targets[task]))


@pytest.mark.parametrize(
    ("task", "optimizer"),
    [(Task.CLASSES, Optimizer.ADAM), (Task.LABELS, Optimizer.SGD)],
)
def test_many_heads_at_once_are_each_as_if_alone(task, optimizer):
    training, validation = examples(task, 45, 0), examples(task, 20, 1)
    order = batch_order(45, 8, 6, 0)

    def run(head, rate):
        return run_epochs(head, rate, order, training, validation, task=task, optimizer=optimizer)

    rates = np.float32([0.001, 0.01, 0.1, 0.3])
    heads = [init_head(LENGTH, OUTPUTS, seed) for seed in range(4)]
    alone = [run(head, rate) for head, rate in zip(heads, rates, strict=True)]
    together = jax.vmap(run)(Head(*map(np.stack, zip(*heads, strict=True))), rates)
    stacked = jax.tree.map(lambda *values: np.stack(values), *alone)
    for found, wanted in zip(jax.tree.leaves(together), jax.tree.leaves(stacked), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert len({float(v) for v in together[1].val_loss[:, -1]}) == 4
