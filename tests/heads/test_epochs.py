import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_expit, log_softmax

from topwork.core.config import Optimizer
from topwork.core.task import Task
from topwork.heads.dense import Dense, Head, init_head
from topwork.heads.epochs import (
    Best,
    Dropout,
    Examples,
    Hyperparameters,
    is_better,
    run_epochs,
    stack_heads,
    take_head,
)
from topwork.heads.many_heads import batch_order

LOSSES = st.sampled_from([0.25, 0.5, 0.5, 0.75, math.inf, math.nan])
METRICS = st.sampled_from([0.0, 0.5, 0.5, 1.0])
OUTPUTS, LENGTH = 3, 6


def kept_epoch(task, curve):
    """Runs the rule over a curve as `run_epochs` does."""
    worst = math.inf if task is Task.NUMBER else -math.inf
    best = Best(Head(()), -1, jnp.float32(math.inf), jnp.float32(worst))
    for epoch, (loss, metric) in enumerate(curve):
        now = Best(Head(()), epoch, jnp.float32(loss), jnp.float32(metric))
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
    return Examples(jnp.asarray(vectors), jnp.asarray(targets[task]), jnp.ones(len(vectors)))


def class_weights(task):
    rows = np.float32([[1, 1, 1], [1, 1, 1], [0.2, 3, 1], [1, 1, 2]])
    return rows[:, None] if task is Task.CLASSES else np.stack([rows[:, ::-1], rows], axis=1)


ORDER, HELD_OUT = batch_order(45, 8, 6, 0), np.arange(45, 65)


def run(heads, hyperparameters, given, task=Task.CLASSES, optimizer=Optimizer.ADAM, dropout=0):
    found = run_epochs(
        stack_heads(heads), hyperparameters, ORDER, HELD_OUT, given,
        Dropout(np.float32(dropout), jax.random.key(0, impl="rbg")) if dropout else None,
        task=task, optimizer=optimizer,
    )  # fmt: skip
    return jax.device_get(found)


CASES = [
    (Task.CLASSES, Optimizer.ADAM, 5, 0.4),
    (Task.LABELS, Optimizer.SGD, 0, 0),
]


@pytest.mark.parametrize(("task", "optimizer", "units", "dropout"), CASES)
def test_many_heads_at_once_are_each_as_if_alone_though_one_diverges(
    task, optimizer, units, dropout
):
    given = examples(task, 65, 0)
    heads = [init_head(LENGTH, OUTPUTS, seed, units) for seed in range(4)]
    hyperparameters = Hyperparameters(
        learning_rate=np.float32([0.01, np.inf, 0.1, 0.3]),
        weight_decay=np.float32([0.5, 0, 0, 0.1]),
        label_smoothing=np.float32([0, 0, 0.3, 0.1]),
        class_weights=class_weights(task),
    )
    best, curve = run(heads, hyperparameters, given, task, optimizer, dropout)
    assert np.isnan(curve.val_loss[:, 1]).all()
    assert best.epoch[1] == -1
    assert len(set(curve.val_loss[-1].tolist())) == 4
    assert_scored(task, best, given, (0, 2, 3))
    for place in (0, 2, 3):
        own = Hyperparameters(*(values[[place]] for values in hyperparameters))
        wanted, figures = run([heads[place]], own, given, task, optimizer, dropout)
        for found, value in zip(curve, figures, strict=True):
            np.testing.assert_allclose(found[:, place], value[:, 0], rtol=1e-5, atol=1e-6)
        for found, value in zip(best[1:], wanted[1:], strict=True):
            np.testing.assert_allclose(found[place], value[0], rtol=1e-5)
        pairs = zip(
            jax.tree.leaves(take_head(best.head, place)),
            jax.tree.leaves(take_head(wanted.head, 0)),
            strict=True,
        )
        for found, value in pairs:
            np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5)


def assert_scored(task, best, given, places):
    """Compares what made a head the best with what it scores, plainly and with nothing dropped."""
    vectors, targets = (np.asarray(array)[HELD_OUT] for array in given[:2])
    for place in places:
        logits = take_head(best.head, place).logits(vectors).astype(np.float64)
        if task is Task.CLASSES:
            losses = -log_softmax(logits, axis=1)[np.arange(len(targets)), targets]
            right = logits.argmax(axis=1) == targets
        else:
            losses = -np.where(targets > 0, log_expit(logits), log_expit(-logits))
            right = (logits > 0) == (targets > 0)
        assert best.loss[place] == pytest.approx(losses.mean(), rel=1e-4)
        assert best.metric[place] == pytest.approx(right.mean())


@pytest.mark.parametrize("value", [0.0, 3e38])
def test_an_example_that_is_in_no_batch_is_not_learnt_from(value):
    """Padding is -1, which is also the place of the last example."""
    given, one = examples(Task.LABELS, 65, 0), np.ones(1, np.float32)
    hyperparameters = Hyperparameters(
        one * 0.1, one * 0, one * 0, np.ones((1, 1, OUTPUTS), np.float32)
    )
    changed = given._replace(vectors=given.vectors.at[-1].set(value))
    head, how = init_head(LENGTH, OUTPUTS, 0), (Task.LABELS, Optimizer.SGD)
    _, found = run([head], hyperparameters, changed, *how)
    _, wanted = run([head], hyperparameters, given, *how)
    assert np.array_equal(found.loss, wanted.loss)
    assert np.array_equal(found.metric, wanted.metric)
    assert not np.array_equal(found.val_loss, wanted.val_loss)


def test_heads_side_by_side_come_out_as_they_went_in():
    heads = [init_head(LENGTH, OUTPUTS, seed, 5) for seed in range(3)]
    stacked = stack_heads(heads)
    assert [layer.kernel.shape for layer in stacked.layers] == [(LENGTH, 3, 5), (5, 3, OUTPUTS)]
    for place, head in enumerate(heads):
        pairs = zip(jax.tree.leaves(take_head(stacked, place)), jax.tree.leaves(head), strict=True)
        assert all(np.array_equal(found, wanted) for found, wanted in pairs)


ROWS, SHARE = 4000, 0.25


@cache
def drop(units, share, seed):
    """Returns the curve of two heads that do not learn, and whose output is 2 for every row.

    Both inputs of the last layer are 1, and so are its weights. A batch is an epoch, so the
    error is the mean output of a step and the loss the mean of its square.
    """
    ones = np.ones((2, 1), np.float32), np.zeros(1, np.float32)
    inner = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
    head = Head(tuple(Dense(*pair) for pair in ([inner, ones] if units else [ones])))
    given = Examples(jnp.ones((ROWS, 2)), jnp.zeros((ROWS, 1)), jnp.ones(ROWS))
    two = np.ones(2, np.float32)
    hyperparameters = Hyperparameters(two * 1e-30, two * 0, two * 0, np.ones((2, 2, 1), np.float32))
    rows = np.arange(ROWS, dtype=np.int32)
    _, curve = run_epochs(
        stack_heads([head, head]), hyperparameters, np.tile(rows, (5, 1, 1)), rows, given,
        Dropout(jnp.float32(share), jax.random.key(seed, impl="rbg")),
        task=Task.NUMBER, optimizer=Optimizer.SGD,
    )  # fmt: skip
    return jax.device_get(curve)


@pytest.mark.parametrize("units", [0, 2])
def test_dropout_keeps_the_expectation_and_drops_each_input_of_the_last_layer_by_itself(units):
    curve = drop(units, SHARE, 0)
    # Two inputs that are 1 / (1 - s) with a chance of 1 - s, else 0.
    spread = 2 * SHARE / (1 - SHARE)
    np.testing.assert_allclose(curve.metric, 2, atol=5 * np.sqrt(spread / ROWS))
    np.testing.assert_allclose(curve.loss, 4 + spread, rtol=0.05)
    assert np.array_equal(curve.metric[:, 0], curve.metric[:, 1])


def test_what_is_dropped_changes_with_every_step_and_follows_the_seed():
    steps = drop(0, SHARE, 0).metric[:, 0].tolist()
    others = drop(0, SHARE, 1).metric[:, 0].tolist()
    assert len({*steps, *others}) == 10
    assert steps == drop.__wrapped__(0, SHARE, 0).metric[:, 0].tolist()


@pytest.mark.parametrize("units", [0, 2])
def test_nothing_is_dropped_at_evaluation_or_at_a_share_of_0(units):
    curve = drop(units, SHARE, 0)
    assert (curve.val_metric == 2).all()
    assert (curve.val_loss == 4).all()
    none = drop(units, 0, 0)
    assert (none.metric == 2).all()
    assert (none.loss == 4).all()
