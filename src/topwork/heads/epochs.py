"""One compiled program that trains many heads side by side for all their epochs.

All heads see the same batches, so that a layer of all of them is one matrix product. Each has
its own first weights, learning rate, weight decay, label smoothing and weights of classes.

H: heads, X: examples, M: held-out examples, D: vector length, C: outputs, E: epochs, S: steps,
B: batch. Weights of the heads lie side by side: kernels (D, H, C), biases (H, C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from topwork.core.config import Optimizer
from topwork.core.task import Task
from topwork.heads.dense import Dense, Head
from topwork.heads.losses import loss_of_rows, metric_of_rows
from topwork.heads.optimizers import make_optimizer


class Hyperparameters(NamedTuple):
    """What differs between the heads of one program.

    Attributes:
        learning_rate: (H,) float32 above 0.
        weight_decay: (H,) float32, times the learning rate the share that a kernel loses each
            step (decoupled, as Keras' `weight_decay`; biases keep theirs).
        label_smoothing: (H,) float32 in 0..1.
        class_weights: (H, R, C) float32, how much a row counts by its class; see `losses`.
    """

    learning_rate: Array
    weight_decay: Array
    label_smoothing: Array
    class_weights: Array


class Dropout(NamedTuple):
    """What is dropped in training.

    Attributes:
        share: of the last layer's inputs that is set to 0 in each step, 0..1; the others grow by
            as much.
        key: of the random numbers.
    """

    share: Array | float
    key: Array


class Curve(NamedTuple):
    """Loss and metric per epoch on training and held-out vectors, each (E, H) float32."""

    loss: Array
    metric: Array
    val_loss: Array
    val_metric: Array


class Best(NamedTuple):
    """The best heads so far, their epochs (0-based, -1 before any), what made them the best.

    Attributes:
        head: weights side by side.
        epoch: (H,) int32.
        loss: (H,) float32.
        metric: (H,) float32.
    """

    head: Head
    epoch: Array
    loss: Array
    metric: Array


class State(NamedTuple):
    """Where a training is.

    Attributes:
        heads: weights in a row.
        rule: the optimizer's state.
        steps: how many were taken.
    """

    heads: Head
    rule: optax.OptState
    steps: Array


class Examples(NamedTuple):
    """Vectors (X, D) float32, their targets (see `losses`), how much each counts (X,) float32."""

    vectors: Array
    targets: Array
    weights: Array


def stack_heads(heads: Sequence[Head]) -> Head:
    """Lays the weights of H heads of one shape side by side."""
    stacked: Head = jax.tree.map(lambda *arrays: np.stack(arrays, axis=-2), *heads)
    return stacked


def take_head(heads: Head, index: int) -> Head:
    """Returns one of the heads that lie side by side."""
    taken: Head = jax.tree.map(lambda array: np.ascontiguousarray(array[..., index, :]), heads)
    return taken


@partial(jax.jit, static_argnames=("task", "optimizer", "keep_last"))
def run_epochs(
    heads: Head,
    hyperparameters: Hyperparameters,
    order: Array,
    held_out: Array,
    examples: Examples,
    dropout: Dropout | None = None,
    *,
    task: Task,
    optimizer: Optimizer,
    keep_last: bool = False,
) -> tuple[Best, Curve]:
    """Trains H heads for E epochs.

    Args:
        heads: untrained, side by side.
        hyperparameters: what differs between them.
        order: (E, S, B) int32, which example goes into which batch; -1 is padding. No batch
            is all padding.
        held_out: (M,) int32, examples to choose the epoch by; -1 is padding. Where all are,
            the last epoch is kept.
        examples: X vectors and targets.
        dropout: None for none. All heads lose the same inputs.
        task: decides loss and metric.
        optimizer: decides the updates.
        keep_last: whether the last epoch is kept whose loss is finite, instead of the best.

    Returns:
        Each head at its best epoch by `is_better`, and the curve. As in Keras, a training
        figure is the mean over the epoch while the head was changing, and its loss has the
        smoothing and the weights; a held-out figure is taken at the epoch's end, and its loss
        is the plain one, so that heads can be compared.
    """
    count = len(hyperparameters.learning_rate)
    shapes = jax.tree.map(jnp.shape, heads)
    state = start_training(heads, optimizer)
    chosen = held_out >= 0
    unseen = jax.tree.map(lambda array: array[held_out], examples)
    step = _make_step(state.heads, hyperparameters, examples, dropout, task, optimizer)

    def epoch(
        carry: tuple[State, Best], batches: tuple[Array, Array]
    ) -> tuple[tuple[State, Best], Curve]:
        state, best = carry
        number, rows = batches
        state, (loss, metric) = jax.lax.scan(step, state, rows)
        now = _score_epoch(task, state.heads, jnp.full(count, number), unseen, chosen)
        better = is_better(task, now, best, keep_last=keep_last) | ~chosen.any()
        best = _keep_better(better, now, best)
        seen = (rows >= 0).sum()
        curve = Curve(loss.sum(axis=0) / seen, metric.sum(axis=0) / seen, now.loss, now.metric)
        return (state, best), curve

    numbers = jnp.arange(order.shape[0], dtype=jnp.int32)
    start = state, start_choice(task, state.heads, count)
    (_, best), curve = jax.lax.scan(epoch, start, (numbers, order))
    kept = jax.tree.map(jnp.reshape, best.head, shapes, is_leaf=lambda x: isinstance(x, Array))
    return best._replace(head=kept), curve


def _score_epoch(task: Task, heads: Head, epoch: Array, unseen: Examples, chosen: Array) -> Best:
    """Returns heads, whose weights are in a row, with their means over held-out examples.

    Args:
        task: decides loss and metric.
        heads: at the end of an epoch.
        epoch: (H,) int32, its number.
        unseen: M examples.
        chosen: (M,) bool, which of them count.
    """

    def mean(values: Array) -> Array:  # (M, H) to (H,)
        return jnp.where(chosen[:, None], values, 0).sum(axis=0) / chosen.sum()

    logits = logits_of(heads, len(epoch), unseen.vectors)
    losses = jax.vmap(partial(loss_of_rows, task), (1, None), 1)(logits, unseen.targets)
    return Best(heads, epoch, mean(losses), mean(metric_of_heads(task, logits, unseen.targets)))


def start_training(heads: Head, optimizer: Optimizer) -> State:
    """Returns the state before the first step of untrained heads that lie side by side."""
    # Weights of all heads in one row, (D, H · C): loops over short axes are slow.
    heads = jax.tree.map(lambda array: array.reshape(*array.shape[:-2], -1), heads)
    return State(heads, make_optimizer(optimizer, 1.0).init(heads), jnp.int32(0))


def start_choice(task: Task, heads: Head, count: int) -> Best:
    """Returns what any epoch of `count` heads, whose weights are in a row, is better than."""
    worst = jnp.full(count, jnp.inf)
    return Best(
        heads, jnp.full(count, -1, jnp.int32), worst, worst if task is Task.NUMBER else -worst
    )


def _make_step(
    heads: Head,
    hyperparameters: Hyperparameters,
    examples: Examples,
    dropout: Dropout | None,
    task: Task,
    optimizer: Optimizer,
) -> Callable[[State, Array], tuple[State, tuple[Array, Array]]]:
    """Returns what learns from a batch of the examples, (B,) int32; -1 is padding.

    It returns the state after it, and the sums (H,) of losses and of metrics before it.
    """
    rule = make_optimizer(optimizer, 1.0)
    count = len(hyperparameters.learning_rate)
    rates = _spread(hyperparameters.learning_rate, heads)
    decays = _spread(hyperparameters.learning_rate * hyperparameters.weight_decay, heads)

    def step(state: State, rows: Array) -> tuple[State, tuple[Array, Array]]:
        used = (rows >= 0).astype(jnp.float32)[:, None]  # (B, 1)
        # A row that is not learnt from may overflow, and 0 times infinity is not 0.
        rows = jnp.where(rows >= 0, rows, rows.max())
        vectors, targets = examples.vectors[rows], examples.targets[rows]
        keep = None if dropout is None else partial(_drop, dropout, state.steps)

        def total(heads: Head) -> tuple[Array, tuple[Array, Array]]:
            logits = logits_of(heads, count, vectors, keep)  # (B, H, C)
            losses = jax.vmap(partial(loss_of_rows, task), (1, None, 0, 0), 1)(
                logits, targets, hyperparameters.label_smoothing, hyperparameters.class_weights
            )
            losses *= used * examples.weights[rows][:, None]
            metrics = metric_of_heads(task, logits, targets) * used
            return losses.sum() / used.sum(), (losses.sum(axis=0), metrics.sum(axis=0))

        grads, sums = jax.grad(total, has_aux=True)(state.heads)
        updates, rule_state = rule.update(grads, state.rule)
        updates = jax.tree.map(jnp.multiply, updates, rates)
        heads = _decay(state.heads, decays)
        return State(optax.apply_updates(heads, updates), rule_state, state.steps + 1), sums

    return step


@partial(jax.jit, static_argnames=("task", "optimizer"))
def run_batches(
    state: State,
    hyperparameters: Hyperparameters,
    examples: Examples,
    order: Array,
    dropout: Dropout | None = None,
    *,
    task: Task,
    optimizer: Optimizer,
) -> tuple[State, tuple[Array, Array]]:
    """Trains H heads on some batches of an epoch.

    Args:
        state: before them.
        hyperparameters: as for `run_epochs`; so are those that are not named here.
        examples: those of the batches.
        order: (S, B) int32, which example goes into which batch; -1 is padding. Batches that are
            all padding come last, and are left out.
        dropout: None for none.
        task: decides loss and metric.
        optimizer: decides the updates.

    Returns:
        The state after them, and the sums (H,) of losses and of metrics.
    """
    learn = _make_step(state.heads, hyperparameters, examples, dropout, task, optimizer)

    def step(number: Array, carry: tuple[State, Array, Array]) -> tuple[State, Array, Array]:
        state, loss, metric = carry
        state, (more, right) = learn(state, order[number])
        return state, loss + more, metric + right

    steps = (order >= 0).any(axis=1).sum()
    none = jnp.zeros(len(hyperparameters.learning_rate))
    state, loss, metric = jax.lax.fori_loop(0, steps, step, (state, none, none))
    return state, (loss, metric)


@partial(jax.jit, static_argnames=("task", "count"))
def score_block(
    heads: Head, vectors: Array, targets: Array, used: Array, *, task: Task, count: int
) -> tuple[Array, Array]:
    """Returns the sums (H,) of losses and of metrics of those that count, `used` (M,) bool."""
    logits = logits_of(heads, count, vectors)
    losses = jax.vmap(partial(loss_of_rows, task), (1, None), 1)(logits, targets)
    metrics = metric_of_heads(task, logits, targets)
    chosen = used[:, None]
    return jnp.where(chosen, losses, 0).sum(axis=0), jnp.where(chosen, metrics, 0).sum(axis=0)


@partial(jax.jit, static_argnames=("task", "keep_last"))
def keep_epoch(best: Best, now: Best, *, task: Task, keep_last: bool = False) -> Best:
    """Returns, of each head, whichever is better, or the later; weights are in a row."""
    return _keep_better(is_better(task, now, best, keep_last=keep_last), now, best)


def logits_of(heads: Head, count: int, vectors: Array, keep: partial[Array] | None = None) -> Array:
    """Returns the logits (B, H, C) of vectors (B, D) by `count` heads, whose weights are in a row.

    `keep` drops inputs of the last layer.
    """
    *inner, last = heads.layers
    if not inner:
        vectors = keep(vectors) if keep else vectors
        return (vectors @ last.kernel + last.bias).reshape(len(vectors), count, -1)
    values = jax.nn.relu(vectors @ inner[0].kernel + inner[0].bias)
    values = values.reshape(len(vectors), count, -1)  # (B, H, U)
    values = keep(values) if keep else values
    kernel = last.kernel.reshape(len(last.kernel), count, -1)  # (U, H, C)
    return jnp.einsum("bhu,uhc->bhc", values, kernel) + last.bias.reshape(count, -1)


def metric_of_heads(task: Task, logits: Array, targets: Array) -> Array:
    """Returns the metric (B, H) of logits (B, H, C)."""
    return jax.vmap(partial(metric_of_rows, task), (1, None), 1)(logits, targets)


def is_better(task: Task, now: Best, best: Best, *, keep_last: bool = False) -> Array:
    """Whether an epoch beats the best before it: by validation accuracy, then by loss.

    Accuracy is what the user asked for, and it often still rises after the loss has turned:
    a head that grows too sure of its mistakes pays in loss, not in labels. Equal accuracies,
    which are common with few images, go to the lower loss. A number goes by its loss alone.
    An epoch whose loss is not finite never wins. With `keep_last` any other does.
    """
    if keep_last:
        return jnp.isfinite(now.loss)
    lower = now.loss < best.loss
    if task is not Task.NUMBER:
        lower = (now.metric > best.metric) | ((now.metric == best.metric) & lower)
    return lower & jnp.isfinite(now.loss)


def _drop(dropout: Dropout, number: Array, values: Array) -> Array:
    """Sets a share of the last axis to 0, the same for all heads, and scales up the rest."""
    shape = (values.shape[0], *(1 for _ in values.shape[2:]), values.shape[-1])
    share = dropout.share
    kept = jax.random.bernoulli(jax.random.fold_in(dropout.key, number), 1 - share, shape)
    return jnp.where(kept, values / (1 - share), 0)


def _spread(values: Array, heads: Head) -> Head:
    """Returns each head's value (H,) for every weight in its row: leaves (H · C,)."""
    rows: Head = jax.tree.map(lambda a: jnp.repeat(values, a.shape[-1] // len(values)), heads)
    return rows


def _decay(heads: Head, shares: Head) -> Head:
    pairs = zip(heads.layers, shares.layers, strict=True)
    return Head(tuple(Dense(layer.kernel * (1 - s.kernel), layer.bias) for layer, s in pairs))


def _keep_better(better: Array, now: Best, best: Best) -> Best:
    def choose(new: Array, old: Array) -> Array:
        return jnp.where(jnp.repeat(better, new.shape[-1] // len(better)), new, old)

    kept: Best = jax.tree.map(choose, now, best)
    return kept
