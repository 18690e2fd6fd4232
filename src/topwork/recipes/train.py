"""The recipes train and tune: each reads from top to bottom as calls to stages."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from topwork.bases import Stack
from topwork.core import warm_up
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import AUTO, ClassWeight, HeadKind, Interpolation, Search, Settings
from topwork.core.errors import SettingsError
from topwork.core.task import Task
from topwork.data.apply_fixes import correct
from topwork.data.dataset import Dataset
from topwork.data.fix_list import Verdicts
from topwork.data.listing import Split
from topwork.data.pixel_kinds import settle_pixels
from topwork.data.splits import assign_strata
from topwork.data.validation import find_lacking
from topwork.heads.dense import init_head
from topwork.heads.train import check_vectors
from topwork.heads.tuning.folds import make_replicates
from topwork.heads.tuning.search import search, search_auto
from topwork.heads.tuning.trials import Journal
from topwork.heads.tuning.tuner import Budget, Tuner
from topwork.models.checks.keras_file import begin_keras_check
from topwork.models.explain import See, open_networks
from topwork.models.model_facts import find_networks
from topwork.recipes.build_model import build_result, describe_bases
from topwork.recipes.prepare import Prepared, TrainingData, check_usable, prepare_examples
from topwork.recipes.result import TrainResult
from topwork.vectors.extractors import prepare_networks
from topwork.vectors.neighbors import SKETCH_FROM
from topwork.vectors.on_disk import select
from topwork.vectors.quantize import fit_networks

# Of the images, to run stock Keras on.
KERAS_IMAGES = 8
# Folds for what `train` leaves to `auto`: enough to choose by, and soon done.
AUTO_FOLDS = 3


@dataclass(frozen=True)
class Tuning:
    """How the best head is searched for.

    Attributes:
        plan: folds, seeds and budget.
        pinned: names of settings that are not searched.
        journal: where every head is written down; what it has already is not trained again.
    """

    plan: Search = field(default_factory=Search.create)
    pinned: frozenset[str] = frozenset()
    journal: Journal = field(default_factory=Journal)


@dataclass(frozen=True)
class _HeadPlan:
    """What is to be done with heads.

    Attributes:
        kinds: that may be trained.
        compared: whether they are compared on folds.
        saved: whether the model is saved in the end.
    """

    kinds: tuple[HeadKind, ...]
    compared: bool
    saved: bool


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
    heads = _HeadPlan((settings.head,), _is_left_open(settings), will_save)
    prepared = _prepare(dataset, settings, store, verdicts, callback, heads)
    embedded = time.perf_counter()
    choice = None
    # Validation images that lack a class choose no epoch: folds do, whatever is left open.
    if heads.compared or not prepared.data.split.decides:
        callback.on_wait("choosing what is left to auto")
        tuner = make_tuner(
            prepared.data, settings.seed, Search.create(seeds=1), callback, most_folds=AUTO_FOLDS
        )
        if tuner is not None:
            trial = search_auto(tuner, prepared.settings.head_settings())
            callback.on_chosen(tuner, trial)
            choice = tuner, trial
    seconds = {"vectors": embedded - started, "search": time.perf_counter() - embedded}
    return build_result(prepared, choice, store, seconds, callback)


def tune(
    dataset: Dataset,
    settings: Settings,
    store: Path,
    tuning: Tuning | None = None,
    *,
    verdicts: Verdicts | None = None,
    callback: Callback = SILENT,
    will_save: bool = False,
) -> TrainResult:
    """Searches for the best head, trains it and returns it as `train` does.

    Args:
        dataset: images with labels; a validation split is made if it has none.
        settings: the base, and where the search starts.
        store: where vectors and networks are kept.
        tuning: how the best head is searched for; None for the usual way.
        verdicts: what the user made of suspects, applied first.
        callback: hears how it gets on.
        will_save: as for `train`.

    Returns:
        The model of the chosen settings, with all trials.

    Raises:
        TopworkError: any of its kinds; see `errors`.
    """
    tuning = tuning or Tuning()
    settings = fit_task(settings, dataset.task)
    Budget.parse(tuning.plan.budget)
    tuning.journal.open()
    started = time.perf_counter()
    kinds = (settings.head,) if "head" in tuning.pinned else tuple(HeadKind)
    heads = _HeadPlan(kinds, True, will_save)
    prepared = _prepare(dataset, settings, store, verdicts, callback, heads)
    embedded = time.perf_counter()
    tuner = make_tuner(prepared.data, settings.seed, tuning.plan, callback, journal=tuning.journal)
    choice = None
    if tuner is not None:
        choice = tuner, search(tuner, prepared.settings.head_settings(), tuning.pinned)
        callback.on_chosen(*choice)
    seconds = {"vectors": embedded - started, "search": time.perf_counter() - embedded}
    return build_result(prepared, choice, store, seconds, callback)


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
    heads: _HeadPlan,
) -> Prepared:
    if verdicts is not None:
        dataset, correction = correct(dataset, verdicts, strict=settings.strict, callback=callback)
        callback.on_corrected(correction)
    # What cannot be divided is refused before the work begins.
    divided = dataset.with_validation(settings.validation_fraction, settings.seed)
    if find_lacking(divided.counts(), Split.VALIDATION):
        heads = replace(heads, compared=True)
    callback.on_found(dataset)
    dataset = dataset.select(dataset.splits != Split.TEST)
    callback.on_wait(f"preparing {settings.base}")
    _warm_up(dataset, heads)
    stack = prepare_networks(settings, store)
    callback.on_shapes(stack, settings, dataset.outputs)
    given = dataset
    dataset, settings = settle_pixels(dataset, settings, callback, store)
    check_usable(given, dataset)
    fitted = fit_networks(stack, dataset, settings, store, callback)
    stack, dataset, settings = fitted.stack, fitted.dataset, fitted.settings
    opening = checking = None
    if heads.saved:
        opening = _open_early(stack, settings)
        checking = _check_early(stack, dataset, settings)
    data = prepare_examples(dataset, stack, settings, store, callback)
    # Those of the store are finite, and there are some to train on; these may all be unreadable.
    check_vectors(select(data.vectors.values, data.split.held_out), "validation")
    return Prepared(stack, settings, data, fitted.quantization, opening, checking)


def _warm_up(dataset: Dataset, heads: _HeadPlan) -> None:
    """Imports what threads will need, from the first network that is opened to the saved model."""
    warm_up.training(
        *heads.kinds,
        task=dataset.task,
        folds=heads.compared,
        sketches=len(dataset) >= SKETCH_FROM,
    )
    if heads.saved:
        warm_up.saving()


def _is_left_open(settings: Settings) -> bool:
    number = settings.penalty if settings.head is HeadKind.LOGISTIC else settings.learning_rate
    return AUTO in (number, settings.class_weight)


def make_tuner(
    data: TrainingData,
    seed: int,
    plan: Search,
    callback: Callback = SILENT,
    *,
    journal: Journal | None = None,
    most_folds: int | None = None,
) -> Tuner | None:
    """Returns what tries ways to train a head on some data, as `folds.make_replicates` says.

    Args:
        data: what heads are trained on.
        seed: of the folds, and the first of the heads' seeds.
        plan: folds, seeds and budget.
        callback: hears how it gets on.
        journal: where every head is written down; None for nowhere.
        most_folds: so many at most, where the plan leaves the folds open.

    Returns:
        None if there are no images to choose by.
    """
    dataset = data.dataset
    training = dataset.select(dataset.splits == Split.TRAIN)
    replicates = make_replicates(
        data.split,
        assign_strata(dataset.task, training.labels),
        plan.folds,
        plan.seeds,
        seed,
        groups=training.units(plan.folds or 2),
        classes=dataset.classes if dataset.task.picks_one else None,
        most_folds=most_folds,
    )
    if not replicates:
        return None
    return Tuner(
        data.examples,
        replicates,
        dataset.outputs,
        dataset.task,
        Budget.parse(plan.budget),
        journal or Journal(),
        callback,
    )


def _open_early(stack: Stack, settings: Settings) -> Future[list[See]]:
    networks, bases = find_networks(stack), describe_bases(stack, settings)
    return warm_up.begin_beside(lambda: open_networks(networks, bases))


def _check_early(stack: Stack, dataset: Dataset, settings: Settings) -> Future[float] | None:
    head = init_head(stack.vector_length, dataset.outputs, settings.seed, settings.inner_units)
    some = dataset.sources[:KERAS_IMAGES]
    return begin_keras_check(
        stack, head, some, Interpolation(settings.interpolation), settings.range or ""
    )
