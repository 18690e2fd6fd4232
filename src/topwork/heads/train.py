"""Vectors in, heads and histories out. Takes arrays; knows nothing of images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from topwork.core import warm_up
from topwork.core.config import ClassWeight, HeadKind, HeadSettings
from topwork.core.errors import DatasetError, TopworkError
from topwork.core.runtime import cores
from topwork.core.task import Task
from topwork.heads.class_weights import balance, weigh
from topwork.heads.dense import Head, score
from topwork.heads.examples import (
    HeadFit,
    Ints,
    LabeledVectors,
    RowSplit,
    normalize,
    on_raw,
    on_scale,
    scale_targets,
)
from topwork.heads.many_heads import name_figures, train_many
from topwork.metrics.history import History
from topwork.vectors.on_disk import Rows, VectorsOnDisk, concatenate_rows, map_rows, select

# Heads of one program: more of them at once are hardly faster, and weights beyond this many
# (16 MB an array) no longer fit in a cache.
MOST_HEADS = 64
MOST_WEIGHTS = 1 << 22


def join(training: LabeledVectors, validation: LabeledVectors) -> tuple[LabeledVectors, RowSplit]:
    """Lays two sets of vectors one after the other, and says which is which."""
    count, total = len(training.vectors), len(training.vectors) + len(validation.vectors)
    weights = None
    if training.weights is not None:
        weights = np.concatenate([training.weights, np.ones(total - count, np.float32)])
    rows = np.arange(total, dtype=np.int32)
    vectors = concatenate_rows([training.vectors, validation.vectors])
    targets = np.concatenate([training.targets, validation.targets])
    return LabeledVectors(vectors, targets, weights), RowSplit(rows[None, :count], rows[count:])


def train_head(
    training: LabeledVectors,
    validation: LabeledVectors,
    settings: HeadSettings,
    *,
    outputs: int,
    task: Task = Task.CLASSES,
    seed: int = 0,
) -> tuple[Head, History]:
    """Trains one head and keeps its best epoch.

    On the same vectors, first weights and order of batches the history equals that of Keras'
    `compile` and `fit`.

    Args:
        training: N vectors to learn from.
        validation: M vectors to choose the epoch by.
        settings: how to train; nothing of it may be `auto`.
        outputs: C, the number of classes, labels or numbers.
        task: decides the loss and the metric.
        seed: for the first weights, the order of the batches and the dropout.

    Returns:
        The head of the best epoch (by validation accuracy, ties by validation loss; a number
        by its loss) and the history of all epochs.

    Raises:
        DatasetError: no vectors, or vectors that are not finite.
        TopworkError: the loss was finite in no epoch.
    """
    for name, given in (("training", training), ("validation", validation)):
        check_vectors(given.vectors, name)
    (fit,) = train_heads(*join(training, validation), [settings], outputs, task=task, seed=seed)
    return keep(fit)


def keep(fit: HeadFit) -> tuple[Head, History]:
    """Returns the head and the history of a fit that has one.

    Raises:
        TopworkError: its loss was finite in no epoch.
    """
    if fit.head is None:
        rate = fit.settings.learning_rate
        raise TopworkError(
            f"the validation loss was finite in none of the {fit.settings.epochs} epochs at "
            f"learning rate {rate}; try a smaller one, such as {_smaller(float(rate))}"
        )
    return fit.head, History(fit.curve, fit.best_epoch)


def check_vectors(vectors: Rows, name: str) -> None:
    """Refuses vectors that nothing can be learnt from. Those of a store are finite.

    Raises:
        DatasetError: there are none, or some are not finite.
    """
    if not len(vectors):
        raise DatasetError(f"{name} needs at least 1 vector, received none")
    if not isinstance(vectors, VectorsOnDisk) and not np.isfinite(vectors).all():
        raise DatasetError(f"the {name} vectors must be finite, received NaN or infinity")


def train_heads(
    examples: LabeledVectors,
    split: RowSplit,
    candidates: Sequence[HeadSettings],
    outputs: int,
    *,
    task: Task = Task.CLASSES,
    seed: int = 0,
    most_heads: int = MOST_HEADS,
    most_weights: int = MOST_WEIGHTS,
) -> list[HeadFit]:
    """Trains many heads on the same vectors; those of one shape side by side in one program.

    Args:
        examples: X vectors, all finite, and their targets.
        split: which to learn from and which to be scored on.
        candidates: how to train each; nothing of it may be `auto`.
        outputs: C.
        task: decides the loss and the metric.
        seed: for the first weights, the order of the batches and the dropout; every head has
            the same, so that they can be compared.
        most_heads: how many heads may be in one program.
        most_weights: how many weights they may have in all, if there is more than one head.

    Returns:
        A fit for each candidate, in their order. A head that diverges leaves the others alone.
    """
    fits: dict[int, HeadFit] = {}
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, settings in enumerate(candidates):
        groups.setdefault(_shape(settings), []).append(index)
    for indices in groups.values():
        first = candidates[indices[0]]
        train = _solve if first.head is HeadKind.LOGISTIC else train_many
        scaled, back = normalize(examples, split) if first.normalize else (examples, None)
        if task is Task.NUMBER:
            scaled, scale = scale_targets(scaled, split)
        size = examples.vectors.shape[1] * (first.inner_units or outputs)
        portion = min(most_heads, max(1, most_weights // size))
        for some in _portions(indices, portion):
            chosen = [candidates[index] for index in some]
            for index, fit in zip(
                some, train(scaled, split, chosen, outputs, task, seed), strict=True
            ):
                own = on_raw(fit, back)
                fits[index] = on_scale(own, *scale) if task is Task.NUMBER else own
    return [fits[index] for index in range(len(candidates))]


def train_on(
    examples: LabeledVectors,
    split: RowSplit,
    settings: HeadSettings,
    outputs: int,
    *,
    task: Task = Task.CLASSES,
    seed: int = 0,
    most_epochs: int,
) -> HeadFit:
    """Trains a head, for twice as many epochs again while its last one is the best.

    The first epochs come out as before, so that the history is that of a single training.

    Args:
        examples: as for `train_heads`; so are those that are not named here.
        split: which to learn from and which to be scored on.
        settings: how to train, at first.
        outputs: C.
        task: decides the loss and the metric.
        seed: as there.
        most_epochs: how far to go on; not at all where that is no more than at first. A head that
            is solved has no epochs.

    Returns:
        The fit; its settings have the epochs that it was trained for.
    """
    while True:
        (fit,) = train_heads(examples, split, [settings], outputs, task=task, seed=seed)
        rising = settings.head is HeadKind.DENSE and fit.best_epoch == settings.epochs
        if not rising or settings.epochs >= most_epochs:
            return fit
        longer = min(2 * settings.epochs, most_epochs)
        settings = settings.model_copy(update={"epochs": longer})


def _shape(settings: HeadSettings) -> tuple[Any, ...]:
    """What heads of one program have in common."""
    if settings.head is HeadKind.LOGISTIC:
        return settings.head, settings.normalize
    own = (
        settings.epochs,
        settings.batch_size,
        settings.optimizer,
        settings.dropout,
        settings.inner_units,
    )
    return settings.head, settings.normalize, *own


def _portions(indices: list[int], most: int) -> Iterator[list[int]]:
    for start in range(0, len(indices), most):
        yield indices[start : start + most]


def _solve(
    examples: LabeledVectors,
    split: RowSplit,
    candidates: list[HeadSettings],
    outputs: int,
    task: Task,
    seed: int,
) -> list[HeadFit]:
    """Solves heads to their optimum; a history of one epoch says how they do."""
    del seed  # there is one optimum
    from topwork.heads.logistic import solve
    from topwork.heads.logistic_on_disk import solve_streamed

    rows, unseen = split.training.ravel(), split.held_out[split.held_out >= 0]
    vectors, targets = select(examples.vectors, rows), examples.targets[rows]
    plain = examples.weights_of(rows)
    by_class = weigh(task, targets, balance(task, examples.targets[split.training[0]], outputs))
    balanced = by_class if plain is None else (by_class.T * plain).T

    def solve_one(settings: HeadSettings) -> HeadFit:
        by_classes = settings.class_weight is ClassWeight.BALANCED and task is not Task.NUMBER
        weights = balanced if by_classes else plain
        own = outputs, float(settings.penalty), weights
        if isinstance(vectors, VectorsOnDisk):
            head = solve_streamed(task, vectors, targets, *own)
        else:
            head = solve(task, vectors, targets, *own)
        figures = (
            *_score(task, head, examples, split.training[0]),
            *_score(task, head, examples, unseen),
        )
        curve = {n: [value] for n, value in zip(name_figures(task), figures, strict=True)}
        return HeadFit(settings, head, 1, curve)

    # A thread for each head: the products of one are too small for several.
    with warm_up.blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(solve_one, candidates))


def _score(task: Task, head: Head, examples: LabeledVectors, rows: Ints) -> tuple[float, float]:
    """Returns the loss and the metric of a head on some rows; NaN for none."""
    if not len(rows):
        return math.nan, math.nan
    return score(task, map_rows(head.logits, examples.vectors, rows), examples.targets[rows])


def _smaller(rate: float) -> float:
    return float(10.0 ** (math.floor(math.log10(rate)) - 1))
