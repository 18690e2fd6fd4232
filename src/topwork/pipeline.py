"""The recipes train and tune: each reads from top to bottom as calls to stages."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from topwork.bases import Stack, parse_bases, weights_here
from topwork.bundle import Samples, current_versions, save_model
from topwork.calibration import calibrate
from topwork.config import AUTO, HeadKind, Search, Settings
from topwork.dataset import Dataset
from topwork.examples import Prepared, make_space, prepare_examples, prepare_networks
from topwork.listener import Listener
from topwork.listing import Skipped, Split
from topwork.metrics import Report, make_report
from topwork.model import DataFacts, ImageTable, Member, Model, NetworkFile, SearchFacts, Validation
from topwork.replicates import make_replicates
from topwork.task import Task
from topwork.training import check_vectors, import_early, keep, train_heads
from topwork.trial_plot import draw_trials
from topwork.trials import Journal, Trial
from topwork.tuning import Budget, Tuner, held_out_logits, search, search_auto
from topwork.vectors import Vectors

TRIALS_PLOT = "tuning.png"
PARITY_IMAGES = 8
# Folds for what `train` leaves to `auto`: enough to choose by, and soon done.
AUTO_FOLDS = 3


@dataclass(frozen=True)
class Trained:
    """What `train` made, and how long it took.

    Attributes:
        model: the model.
        stack: its networks, as built for their sizes.
        samples: a few of its images and their vectors, to check a saved model with.
        report: the kept epoch on the validation split.
        trials: what was compared to choose the head; none if nothing was.
        embedded: images run through a base.
        reused: images whose vectors were there already.
        skipped: files that were left out, with the reasons.
        seconds: wall time of `vectors`, `search` and `head`; the caller may add `save` and
            `total`.
    """

    model: Model
    stack: Stack
    samples: Samples
    report: Report
    trials: tuple[Trial, ...]
    embedded: int
    reused: int
    skipped: tuple[Skipped, ...]
    seconds: dict[str, float]

    def save(self, path: Path) -> dict[str, float]:
        """Writes the model folder; see `bundle.save_model`."""

        def add_trials(folder: Path) -> None:
            if len(self.trials) > 1:
                draw_trials(self.trials, self.model.settings.head_settings(), folder / TRIALS_PLOT)

        return save_model(self.model, self.stack, path, self.samples, add_trials)

    def to_json(self) -> dict[str, Any]:
        """Returns what `topwork train --json` prints, besides the model's path."""
        report, history = self.report, self.model.history
        found = history.overfitting()
        chosen = self.model.search
        sureness = self.model.calibration
        return {
            "settings": self.model.settings.model_dump(mode="json"),
            "classes": self.model.classes,
            **history.to_json(),
            "overfitting": None if found is None else asdict(found),
            "validation": {
                "accuracy": report.accuracy,
                "interval": report.interval,
                "macro_accuracy": report.macro_accuracy,
            },
            "search": chosen.model_dump(mode="json") if chosen else None,
            "calibration": sureness.to_json() if sureness else None,
            "images": {
                "embedded": self.embedded,
                "reused": self.reused,
                "skipped": len(self.skipped),
            },
            "skipped": [asdict(item) for item in self.skipped],
            "seconds": self.seconds,
        }


def train(
    dataset: Dataset, settings: Settings, store: Path, listener: Listener | None = None
) -> Trained:
    """Trains a classifier on a dataset's training split.

    Args:
        dataset: images with labels; a validation split is made if it has none.
        settings: everything else that decides the result. What is left to `auto` is chosen on
            folds of the training images.
        store: where vectors and networks are kept.
        listener: hears how it gets on.

    Returns:
        The model with its kept epoch, and figures.

    Raises:
        TopworkError: any of its kinds; see `errors`.
    """
    listener = listener or Listener()
    started = time.perf_counter()
    stack, prepared = _prepare(dataset, settings, store, listener)
    embedded = time.perf_counter()
    tuner = trial = None
    if _is_left_open(settings):
        listener.waiting("choosing what is left to auto")
        plan = Search.create(seeds=1)
        tuner = _make_tuner(prepared, settings, plan, AUTO_FOLDS, listener, Journal())
        trial = search_auto(tuner, settings.head_settings())
        listener.chosen(tuner, trial)
    seconds = {"vectors": embedded - started, "search": time.perf_counter() - embedded}
    return _finish(stack, prepared, settings, tuner, trial, listener, seconds)


def tune(
    dataset: Dataset,
    settings: Settings,
    store: Path,
    *,
    plan: Search | None = None,
    pinned: frozenset[str] = frozenset(),
    journal: Journal | None = None,
    listener: Listener | None = None,
) -> Trained:
    """Searches for the best head, trains it and returns it as `train` does.

    Args:
        dataset: images with labels; a validation split is made if it has none.
        settings: the base, and where the search starts.
        store: where vectors and networks are kept.
        plan: folds, seeds and budget.
        pinned: names of settings that are not searched.
        journal: where every head is written down; what it has already is not trained again.
        listener: hears how it gets on.

    Returns:
        The model of the chosen settings, with all trials.

    Raises:
        TopworkError: any of its kinds; see `errors`.
    """
    listener, plan = listener or Listener(), plan or Search.create()
    journal = journal or Journal()
    Budget.parse(plan.budget)
    journal.open()
    started = time.perf_counter()
    stack, prepared = _prepare(dataset, settings, store, listener)
    embedded = time.perf_counter()
    tuner = _make_tuner(prepared, settings, plan, None, listener, journal)
    trial = search(tuner, settings.head_settings(), pinned)
    listener.chosen(tuner, trial)
    seconds = {"vectors": embedded - started, "search": time.perf_counter() - embedded}
    return _finish(stack, prepared, settings, tuner, trial, listener, seconds)


def _prepare(
    dataset: Dataset, settings: Settings, store: Path, listener: Listener
) -> tuple[Stack, Prepared]:
    dataset = dataset.with_validation(settings.validation_fraction, settings.seed)
    listener.found(dataset)
    dataset = dataset.select(dataset.splits != Split.TEST)
    import_early(settings.head, folds=_is_left_open(settings))
    listener.waiting(f"preparing {settings.base}")
    stack = prepare_networks(settings, store)
    listener.shapes(stack, settings, len(dataset.classes))
    prepared = prepare_examples(dataset, stack, settings, store, listener.read, listener.progressed)
    listener.embedded(prepared.dataset, prepared.vectors)
    # Those of the store are finite, and there are some to train on; these may all be unreadable.
    check_vectors(prepared.vectors.values[prepared.part.held_out], "validation")
    return stack, prepared


def _is_left_open(settings: Settings) -> bool:
    open_ = settings.penalty if settings.head is HeadKind.LOGISTIC else settings.learning_rate
    return open_ == AUTO


def _make_tuner(
    prepared: Prepared,
    settings: Settings,
    plan: Search,
    folds: int | None,
    listener: Listener,
    journal: Journal,
) -> Tuner:
    examples, classes = prepared.examples, prepared.dataset.classes
    replicates = make_replicates(
        examples.targets,
        prepared.part,
        plan.folds,
        plan.seeds,
        settings.seed,
        classes,
        most_folds=folds,
    )
    return Tuner(
        examples,
        replicates,
        len(classes),
        Budget.parse(plan.budget),
        journal,
        listener.tried,
    )


def _finish(
    stack: Stack,
    prepared: Prepared,
    settings: Settings,
    tuner: Tuner | None,
    trial: Trial | None,
    listener: Listener,
    seconds: dict[str, float],
) -> Trained:
    """Trains the chosen head on all training images, calibrates it and makes the model."""
    started = time.perf_counter()
    dataset, vectors, examples = prepared.dataset, prepared.vectors, prepared.examples
    recipe = trial.settings if trial else settings.head_settings()
    outputs = len(dataset.classes)
    fits = train_heads(examples, prepared.part, [recipe], outputs, seed=settings.seed)
    head, history = keep(fits[0])
    listener.trained(history)

    rows = prepared.part.held_out
    logits, labels = head.logits(examples.vectors[rows]), examples.targets[rows]
    if tuner is not None and trial is not None and tuner.has_folds:
        sureness = calibrate(*held_out_logits(tuner, trial), "folds")
    else:
        sureness = calibrate(logits, labels, "validation")
    head = head.cooled(sureness.temperature)
    seconds["head"] = time.perf_counter() - started

    report = make_report(labels, logits.argmax(axis=1), outputs)
    model = Model(
        classes=dataset.classes,
        task=Task.CLASSES,
        head=head,
        history=history,
        members=tuple(
            Member(
                space=make_space(network, settings),
                feature_shape=network.feature_shape,
                vector_length=network.vector_length,
                parameters=network.parameters,
            )
            for network in stack.networks
        ),
        settings=settings.model_copy(update=recipe.model_dump()),
        data=_describe_data(dataset, vectors),
        validation=Validation(
            accuracy=report.accuracy,
            interval=report.interval,
            macro_accuracy=report.macro_accuracy,
            loss=history.row(history.best_epoch)["val_loss"],
        ),
        calibration=sureness,
        search=_describe_search(tuner, trial) if tuner and trial else None,
        images=_list_images(dataset, vectors),
        networks=tuple(
            NetworkFile(network.openvino_path, None, flip=stack.flip) for network in stack.networks
        ),
        versions=current_versions(),
    )
    few = np.linspace(0, len(dataset) - 1, min(PARITY_IMAGES, len(dataset))).astype(int)
    return Trained(
        model=model,
        stack=stack,
        samples=Samples(tuple(dataset.sources[i] for i in few), vectors.values[few]),
        report=report,
        trials=tuple(tuner.trials) if tuner else (),
        embedded=vectors.embedded,
        reused=vectors.reused,
        skipped=dataset.skipped,
        seconds=seconds,
    )


def _describe_search(tuner: Tuner, trial: Trial) -> SearchFacts:
    return SearchFacts(
        heads=tuner.trained + tuner.reused,
        recipes=len(tuner.trials),
        replicates=len(tuner.replicates),
        folds=tuner.has_folds,
        mean=trial.mean,
        error=None if math.isnan(trial.error) else trial.error,
    )


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
    layers.append(Layer("OUTPUTS", (batch, classes), (length + 1) * classes, True))
    return layers


def _describe_data(dataset: Dataset, vectors: Vectors) -> DataFacts:
    rows = sorted(
        zip(vectors.hashes, dataset.labels.tolist(), dataset.splits.tolist(), strict=True)
    )
    made = dataset.split_made
    return DataFacts(
        fingerprint=hashlib.sha256(repr(rows).encode()).hexdigest(),
        counts=dataset.counts(),
        skipped=len(dataset.skipped),
        split={"made_by": "folders"}
        if made is None
        else {"made_by": "topwork", "fraction": made.fraction, "seed": made.seed},
    )


def _list_images(dataset: Dataset, vectors: Vectors) -> ImageTable:
    return ImageTable(
        names=dataset.names,
        labels=tuple(dataset.classes[label] for label in dataset.labels),
        splits=tuple(map(str, dataset.splits)),
        hashes=vectors.hashes,
    )
