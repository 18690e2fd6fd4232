"""The recipes train and tune: each reads from top to bottom as calls to stages."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.bases import Stack, parse_bases, weights_here
from topwork.core import warm_up
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import AUTO, ClassWeight, HeadKind, Interpolation, Search, Settings
from topwork.core.errors import SettingsError
from topwork.core.task import Task
from topwork.data.apply_fixes import correct
from topwork.data.dataset import Dataset
from topwork.data.fix_list import Verdicts
from topwork.data.listing import Split
from topwork.data.splits import strata
from topwork.heads.dense import Floats, decide, init_head, probabilities
from topwork.heads.train import check_vectors, keep, train_heads
from topwork.heads.tuning.folds import make_replicates
from topwork.heads.tuning.search import Budget, Tuner, held_out_logits, search, search_auto
from topwork.heads.tuning.trials import Journal, Trial, standard_error
from topwork.inspection.cache import recall
from topwork.metrics.calibration import Calibration, as_pairs, calibrate
from topwork.metrics.conformal import Origin, Residuals, find_residuals
from topwork.metrics.scores import finite, make_report
from topwork.models.explain import See, open_networks
from topwork.models.folder import current_versions
from topwork.models.gallery import choose_evenly
from topwork.models.model import (
    DataFacts,
    ImageTable,
    Member,
    Model,
    SearchFacts,
    Validation,
    find_networks,
)
from topwork.models.parity import Samples, begin_keras_check
from topwork.models.predictions import Answers
from topwork.recipes.prepare import Prepared, prepare_examples
from topwork.recipes.result import Carried, TrainResult
from topwork.vectors.embed import Vectors
from topwork.vectors.extractors import make_space, prepare_networks
from topwork.vectors.neighbors import SKETCH_FROM
from topwork.vectors.on_disk import map_rows, select
from topwork.vectors.quantize import Quantization, fit_networks

# Of the validation images, to compare the saved model on; and images for Keras alone.
COMPARED_IMAGES, KERAS_IMAGES = 50, 8
MOST_DECISIONS = 200_000
# Folds for what `train` leaves to `auto`: enough to choose by, and soon done.
AUTO_FOLDS = 3


@dataclass(frozen=True)
class _Heads:
    """What is to be done with heads.

    Attributes:
        kinds: that may be trained.
        compared: whether they are compared on folds.
        saved: whether the model is saved in the end.
    """

    kinds: tuple[HeadKind, ...]
    compared: bool
    saved: bool


@dataclass(frozen=True)
class _Begun:
    """What heads are trained with, and what was found on the way; see `TrainResult`."""

    stack: Stack
    settings: Settings
    prepared: Prepared
    quantization: Quantization | None
    opening: Future[list[See]] | None
    checking: Future[float] | None


def train(
    dataset: Dataset,
    settings: Settings,
    store: Path,
    callback: Callback = SILENT,
    *,
    verdicts: Verdicts | None = None,
    will_save: bool = False,
) -> TrainResult:
    """Trains a classifier on a dataset's training split.

    Args:
        dataset: images with labels; a validation split is made if it has none.
        settings: everything else that decides the result. What is left to `auto` is chosen on
            folds of the training images.
        store: where vectors and networks are kept.
        callback: hears how it gets on.
        verdicts: what the user made of suspects, applied first.
        will_save: the model will be saved: what that needs of the networks is begun meanwhile.

    Returns:
        The model with its kept epoch, and figures.

    Raises:
        TopworkError: any of its kinds; see `errors`.
    """
    settings = fit_task(settings, dataset.task)
    started = time.perf_counter()
    heads = _Heads((settings.head,), _is_left_open(settings), will_save)
    begun = _prepare(dataset, settings, store, verdicts, callback, heads)
    prepared, settings = begun.prepared, begun.settings
    embedded = time.perf_counter()
    tuner = trial = None
    if heads.compared:
        callback.on_wait("choosing what is left to auto")
        plan = Search.create(seeds=1)
        tuner = _make_tuner(prepared, settings, plan, AUTO_FOLDS, callback, Journal())
        trial = search_auto(tuner, settings.head_settings())
        callback.on_chosen(tuner, trial)
    seconds = {"vectors": embedded - started, "search": time.perf_counter() - embedded}
    return _finish(begun, settings, tuner, trial, callback, seconds, store)


def tune(
    dataset: Dataset,
    settings: Settings,
    store: Path,
    *,
    plan: Search | None = None,
    pinned: frozenset[str] = frozenset(),
    journal: Journal | None = None,
    verdicts: Verdicts | None = None,
    callback: Callback = SILENT,
    will_save: bool = False,
) -> TrainResult:
    """Searches for the best head, trains it and returns it as `train` does.

    Args:
        dataset: images with labels; a validation split is made if it has none.
        settings: the base, and where the search starts.
        store: where vectors and networks are kept.
        plan: folds, seeds and budget.
        pinned: names of settings that are not searched.
        journal: where every head is written down; what it has already is not trained again.
        verdicts: what the user made of suspects, applied first.
        callback: hears how it gets on.
        will_save: as for `train`.

    Returns:
        The model of the chosen settings, with all trials.

    Raises:
        TopworkError: any of its kinds; see `errors`.
    """
    plan, journal = plan or Search.create(), journal or Journal()
    settings = fit_task(settings, dataset.task)
    Budget.parse(plan.budget)
    journal.open()
    started = time.perf_counter()
    kinds = (settings.head,) if "head" in pinned else tuple(HeadKind)
    heads = _Heads(kinds, True, will_save)
    begun = _prepare(dataset, settings, store, verdicts, callback, heads)
    prepared, settings = begun.prepared, begun.settings
    embedded = time.perf_counter()
    tuner = _make_tuner(prepared, settings, plan, None, callback, journal)
    trial = search(tuner, settings.head_settings(), pinned)
    callback.on_chosen(tuner, trial)
    seconds = {"vectors": embedded - started, "search": time.perf_counter() - embedded}
    return _finish(begun, settings, tuner, trial, callback, seconds, store)


def fit_task(settings: Settings, task: Task) -> Settings:
    """Returns the settings that a task can have: a number has no classes.

    Raises:
        SettingsError: a weight of classes, which no preset chose, or label smoothing, for numbers.
    """
    if task is not Task.NUMBER:
        return settings
    if settings.label_smoothing:
        raise SettingsError(
            "label_smoothing: is for classes and labels, not for numbers, received "
            f"{settings.label_smoothing:g}; leave it out"
        )
    if settings.class_weight is not ClassWeight.NONE and settings.preset is None:
        raise SettingsError(
            "class_weight: is for classes and labels, not for numbers, received "
            f"{settings.class_weight}; leave it out"
        )
    return settings.model_copy(update={"class_weight": ClassWeight.NONE})


def _prepare(
    dataset: Dataset,
    settings: Settings,
    store: Path,
    verdicts: Verdicts | None,
    callback: Callback,
    heads: _Heads,
) -> _Begun:
    if verdicts is not None:
        dataset, correction = correct(dataset, verdicts, strict=settings.strict, callback=callback)
        callback.on_corrected(correction)
    # What cannot be divided is refused before the work begins.
    dataset.with_validation(settings.validation_fraction, settings.seed)
    callback.on_found(dataset)
    dataset = dataset.select(dataset.splits != Split.TEST)
    callback.on_wait(f"preparing {settings.base}")
    _warm_up(dataset, heads)
    stack = prepare_networks(settings, store)
    callback.on_shapes(stack, settings, dataset.outputs)
    fitted = fit_networks(stack, dataset, settings, store, callback)
    stack, dataset, settings = fitted.stack, fitted.dataset, fitted.settings
    opening = checking = None
    if heads.saved:
        opening = _open_early(stack, settings)
        checking = _check_early(stack, dataset, settings)
    prepared = prepare_examples(
        dataset,
        stack,
        settings,
        store,
        callback,
    )
    callback.on_embedded(prepared.dataset, prepared.vectors)
    callback.on_split(prepared.dataset, prepared.pairs)
    # Those of the store are finite, and there are some to train on; these may all be unreadable.
    check_vectors(select(prepared.vectors.values, prepared.split.held_out), "validation")
    return _Begun(stack, settings, prepared, fitted.quantization, opening, checking)


def _warm_up(dataset: Dataset, heads: _Heads) -> None:
    """Imports what threads will need, from the first network that is opened to the saved model."""
    warm_up.training(
        *heads.kinds,
        task=dataset.task,
        folds=heads.compared,
        groups=dataset.groups is not None,
        sketches=len(dataset) >= SKETCH_FROM,
    )
    if heads.saved:
        warm_up.saving()


def _is_left_open(settings: Settings) -> bool:
    open_ = settings.penalty if settings.head is HeadKind.LOGISTIC else settings.learning_rate
    return open_ == AUTO


def _make_tuner(
    prepared: Prepared,
    settings: Settings,
    plan: Search,
    folds: int | None,
    callback: Callback,
    journal: Journal,
) -> Tuner:
    dataset = prepared.dataset
    training = dataset.select(dataset.splits == Split.TRAIN)
    one_of = dataset.task in (Task.CLASSES, Task.BINARY)
    replicates = make_replicates(
        prepared.split,
        strata(dataset.task, training.labels),
        plan.folds,
        plan.seeds,
        settings.seed,
        groups=training.groups,
        classes=dataset.classes if one_of else None,
        most_folds=folds,
    )
    return Tuner(
        prepared.examples,
        replicates,
        dataset.outputs,
        dataset.task,
        Budget.parse(plan.budget),
        journal,
        callback,
    )


def _finish(
    begun: _Begun,
    settings: Settings,
    tuner: Tuner | None,
    trial: Trial | None,
    callback: Callback,
    seconds: dict[str, float],
    store: Path,
) -> TrainResult:
    """Trains the chosen head on all training images, calibrates it and makes the model."""
    started = time.perf_counter()
    stack, prepared = begun.stack, begun.prepared
    dataset, vectors, examples = prepared.dataset, prepared.vectors, prepared.examples
    recipe = trial.settings if trial else settings.head_settings()
    task, outputs = dataset.task, dataset.outputs
    fits = train_heads(examples, prepared.split, [recipe], outputs, task=task, seed=settings.seed)
    head, history = keep(fits[0])
    callback.on_trained(history)

    rows = prepared.split.held_out
    logits = map_rows(head.logits, examples.vectors, rows)
    if tuner is not None and trial is not None and tuner.has_folds:
        sureness = _calibrate(task, *held_out_logits(tuner, trial), "folds")
    else:
        sureness = _calibrate(task, logits, examples.targets[rows], "validation")
    if isinstance(sureness, Calibration):
        head = head.cooled(sureness.temperature)
        logits = map_rows(head.logits, examples.vectors, rows)
    seconds["head"] = time.perf_counter() - started

    answers, chances = decide(task, logits), probabilities(task, logits)
    report = make_report(task, dataset.labels[rows], answers, chances, len(dataset.classes))
    model = Model(
        classes=dataset.classes,
        task=task,
        head=head,
        history=history,
        members=_make_members(stack, settings),
        settings=settings.model_copy(update=recipe.model_dump()),
        data=_describe_data(dataset, vectors),
        validation=Validation(
            metric=report.metric,
            value=report.value,
            interval=(finite(report.interval[0]), finite(report.interval[1])),
            loss=history.row(history.best_epoch)["val_loss"],
            figures={name: finite(value) for name, value in report.figures.items()},
        ),
        calibration=sureness,
        search=_describe_search(tuner, trial) if tuner and trial else None,
        images=_list_images(dataset, vectors),
        networks=find_networks(stack),
        versions=current_versions(),
    )
    few = rows[np.linspace(0, len(rows) - 1, min(COMPARED_IMAGES, len(rows))).astype(int)]
    return TrainResult(
        model=model,
        stack=stack,
        samples=Samples(
            tuple(dataset.sources[row] for row in few),
            tuple(vectors.hashes[row] for row in few),
            vectors.values[few],
        ),
        answers=Answers(
            split=str(Split.VALIDATION),
            names=tuple(dataset.names[row] for row in rows),
            hashes=tuple(vectors.hashes[row] for row in rows),
            labels=dataset.labels[rows],
            logits=logits,
            sources=tuple(dataset.sources[row] for row in rows),
            seen=len(rows),
        ),
        carried=_carry(dataset, vectors, settings.thumbnails),
        inspection=recall(store, vectors.hashes),
        report=report,
        trials=tuple(tuner.trials) if tuner else (),
        embedded=vectors.embedded,
        reused=vectors.reused,
        skipped=dataset.skipped,
        seconds=seconds,
        quantization=begun.quantization,
        opening=begun.opening,
        # What was begun is of a head of as many layers as were asked for.
        checking=begun.checking if recipe.inner_units == settings.inner_units else None,
    )


def _make_members(stack: Stack, settings: Settings) -> tuple[Member, ...]:
    return tuple(
        Member(
            space=make_space(network, settings),
            feature_shape=network.feature_shape,
            vector_length=network.vector_length,
            parameters=network.parameters,
        )
        for network in stack.networks
    )


def _open_early(stack: Stack, settings: Settings) -> Future[list[See]]:
    pool = ThreadPoolExecutor(1)
    opening = pool.submit(open_networks, find_networks(stack), _make_members(stack, settings))
    pool.shutdown(wait=False)
    return opening


def _check_early(stack: Stack, dataset: Dataset, settings: Settings) -> Future[float] | None:
    head = init_head(stack.vector_length, dataset.outputs, settings.seed, settings.inner_units)
    some = dataset.sources[:KERAS_IMAGES]
    return begin_keras_check(stack, head, some, Interpolation(settings.interpolation))


def _carry(dataset: Dataset, vectors: Vectors, most: int) -> Carried | None:
    if not most:
        return None
    training = np.flatnonzero(dataset.splits == Split.TRAIN)
    labels = dataset.label_texts
    rows = training[choose_evenly([labels[row] for row in training], most)]
    return Carried(
        tuple(dataset.names[row] for row in rows),
        tuple(labels[row] for row in rows),
        tuple(dataset.sources[row] for row in rows),
        vectors.values[rows],
    )


def _describe_search(tuner: Tuner, trial: Trial) -> SearchFacts:
    return SearchFacts(
        heads=tuner.trained + tuner.reused,
        recipes=len(tuner.trials),
        replicates=len(tuner.replicates),
        folds=tuner.has_folds,
        mean=float(trial.figures.mean()),
        error=finite(standard_error(trial.figures)),
    )


def _calibrate(
    task: Task, logits: Floats, targets: NDArray[Any], source: Origin
) -> Calibration | Residuals:
    """Measures how sure a head may be, or how far off its numbers are."""
    if task is Task.CLASSES:
        return calibrate(logits, targets, source)
    if task is Task.NUMBER:
        return find_residuals(logits, targets, source)
    # Every label is a decision between two; more of them than this say nothing new.
    single, truth = logits.reshape(-1, 1), targets.ravel().astype(np.int64)
    some = np.linspace(0, len(truth) - 1, min(len(truth), MOST_DECISIONS)).astype(np.int64)
    return calibrate(as_pairs(single[some]), truth[some], source)


@dataclass(frozen=True)
class Layer:
    """One stage on the way from pixels to logits.

    Attributes:
        stage: `INPUTS`, `BASE`, `VECTORS`, `INNER` or `OUTPUTS`.
        output_shape: of a batch.
        parameters: how many weights it has.
        trained: whether training changes them.
    """

    stage: str
    output_shape: tuple[int, ...]
    parameters: int
    trained: bool


def describe(settings: Settings, classes: int, store: Path) -> list[Layer]:
    """Returns the stages of a network for some number of classes.

    Shapes do not depend on the weights, so where those are not at hand untrained ones do.
    """
    specs = [spec for spec, _ in parse_bases(settings.base, settings.image_size)]
    if settings.weights is None and not all(map(weights_here, specs)):
        settings = settings.model_copy(update={"weights": "random"})
    stack = prepare_networks(settings, store)
    batch, length = settings.batch_size, stack.vector_length
    outputs = 1 if classes == 2 else classes
    layers = []
    for network in stack.networks:
        layers += [
            Layer("INPUTS", (batch, network.image_size, network.image_size, 3), 0, False),
            Layer("BASE", (batch, *network.feature_shape), network.parameters, False),
        ]
    layers.append(Layer("VECTORS", (batch, length), 0, False))
    if settings.inner_units:
        units = settings.inner_units
        layers.append(Layer("INNER", (batch, units), (length + 1) * units, True))
        length = units
    layers.append(Layer("OUTPUTS", (batch, outputs), (length + 1) * outputs, True))
    return layers


def _describe_data(dataset: Dataset, vectors: Vectors) -> DataFacts:
    rows = sorted(zip(vectors.hashes, dataset.label_texts, dataset.splits.tolist(), strict=True))
    made = dataset.split_made
    return DataFacts(
        fingerprint=hashlib.sha256(repr(rows).encode()).hexdigest(),
        counts=dataset.counts(),
        skipped=len(dataset.skipped),
        columns={}
        if dataset.read_as is None
        else dataset.read_as.model_dump(mode="json", exclude_none=True),
        split={"made_by": "data"}
        if made is None
        else {"made_by": "topwork", "fraction": made.fraction, "seed": made.seed},
    )


def _list_images(dataset: Dataset, vectors: Vectors) -> ImageTable:
    return ImageTable(
        names=dataset.names,
        labels=dataset.label_texts,
        splits=tuple(map(str, dataset.splits)),
        hashes=vectors.hashes,
    )
