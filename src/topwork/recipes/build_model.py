"""A chosen head becomes a model: trained, judged, and laid out with all that it needs."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from topwork.bases import Stack
from topwork.core.callbacks import Callback
from topwork.core.config import HeadKind, HeadSettings, Settings
from topwork.data.dataset import Dataset
from topwork.data.listing import Split
from topwork.heads.tuning.search import usual
from topwork.heads.tuning.trials import Trial
from topwork.heads.tuning.tuner import Tuner
from topwork.inspection.cache import recall
from topwork.metrics.history import History
from topwork.metrics.scores import Report, finite
from topwork.models.checks.images import CheckImages
from topwork.models.folder import current_versions
from topwork.models.gallery import choose_evenly
from topwork.models.model import Model
from topwork.models.model_facts import (
    BaseInfo,
    DataFacts,
    ImageTable,
    SearchFacts,
    ValidationScore,
    find_networks,
)
from topwork.models.predictions import LabeledPredictions, report_logits
from topwork.recipes.fit_head import FittedHead, fit_head
from topwork.recipes.prepare import Prepared, TrainingData
from topwork.recipes.result import Checks, Extras, GalleryImages, ImageCounts, TrainResult
from topwork.vectors.embed import Embedding
from topwork.vectors.extractors import make_space

# Of the validation images, to compare the saved model on.
COMPARED_IMAGES = 50
# To tell how many answers a precision changes: so many in f32 take a few percent of the time that
# all the vectors took, once for networks and data.
SAMPLED_SHARE, SAMPLED_IMAGES = 0.02, (64, 200)


def build_result(
    prepared: Prepared,
    choice: tuple[Tuner, Trial] | None,
    store: Path,
    seconds: dict[str, float],
    callback: Callback,
) -> TrainResult:
    """Fits the chosen head and makes the model.

    Args:
        prepared: what it is trained with.
        choice: the search, and the trial that it chose; None if nothing was left open.
        store: where inspections are kept.
        seconds: wall time of what came before; that of the head is added.
        callback: hears when the head is trained.

    Raises:
        TopworkError: the loss was finite in no epoch.
    """
    started = time.perf_counter()
    data, settings = prepared.data, prepared.settings
    dataset, vectors, rows = data.dataset, data.vectors, data.split.held_out
    chosen = _choose_settings(data, settings, choice)
    fitted = fit_head(data, chosen, settings, choice, callback)
    asked_for, chosen = chosen.epochs, fitted.settings
    predictions = _collect_predictions(data, fitted)
    seconds = seconds | {"head": time.perf_counter() - started}
    report = report_logits(
        dataset.task, dataset.labels[rows], predictions.judged_logits, len(dataset.classes)
    )
    return TrainResult(
        model=Model(
            classes=dataset.classes,
            task=dataset.task,
            head=fitted.head,
            history=fitted.history,
            bases=describe_bases(prepared.stack, settings),
            settings=settings.model_copy(update=chosen.model_dump()),
            data=_describe_data(dataset, vectors, refitted=fitted.refitted),
            validation=_describe_validation(report, fitted.history),
            calibration=fitted.calibration,
            search=_describe_search(*choice) if choice else None,
            images=_list_images(dataset, vectors),
            networks=find_networks(prepared.stack),
            versions=current_versions(),
            class_labels=dataset.class_labels,
        ),
        stack=prepared.stack,
        report=report,
        predictions=predictions,
        trials=tuple(choice[0].trials) if choice else (),
        images=ImageCounts(vectors.embedded, vectors.reused, dataset.skipped, dataset.notes),
        seconds=seconds,
        quantization=prepared.quantization,
        checks=_collect_checks(prepared, chosen),
        extras=Extras(
            _choose_gallery(dataset, vectors, settings.thumbnails), recall(store, vectors.hashes)
        ),
        went_on_from=asked_for if chosen.epochs > asked_for else None,
    )


def _choose_settings(
    data: TrainingData, settings: Settings, choice: tuple[Tuner, Trial] | None
) -> HeadSettings:
    """Returns how the head is trained; folds choose its epoch where validation may not."""
    if choice is None:
        return usual(settings.head_settings())
    found = choice[1].settings
    if data.split.decides or found.head is HeadKind.LOGISTIC:
        return found
    return found.model_copy(update={"epochs": choice[1].epoch})


def _collect_checks(prepared: Prepared, chosen: HeadSettings) -> Checks:
    data = prepared.data
    dataset, vectors, rows = data.dataset, data.vectors, data.split.held_out

    def choose(count: int) -> CheckImages:
        some = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
        return CheckImages(
            tuple(dataset.sources[row] for row in some),
            tuple(vectors.hashes[row] for row in some),
            vectors.values[some],
        )

    least, most = SAMPLED_IMAGES
    sample = choose(int(np.clip(SAMPLED_SHARE * len(dataset), least, most)))
    # What was begun is of a head of as many layers as were asked for.
    begun = chosen.inner_units == prepared.settings.inner_units
    return Checks(
        choose(COMPARED_IMAGES), sample, prepared.opening, prepared.checking if begun else None
    )


def _collect_predictions(data: TrainingData, fitted: FittedHead) -> LabeledPredictions:
    dataset, rows = data.dataset, data.split.held_out
    return LabeledPredictions(
        split=str(Split.VALIDATION),
        names=tuple(dataset.names[row] for row in rows),
        hashes=tuple(data.vectors.hashes[row] for row in rows),
        labels=dataset.labels[rows],
        logits=fitted.logits,
        sources=tuple(dataset.sources[row] for row in rows),
        seen=len(rows),
        unseen_logits=fitted.unseen_logits,
    )


def _choose_gallery(dataset: Dataset, vectors: Embedding, most: int) -> GalleryImages | None:
    if not most:
        return None
    training = np.flatnonzero(dataset.splits == Split.TRAIN)
    labels = dataset.label_texts
    rows = training[choose_evenly([labels[row] for row in training], most)]
    return GalleryImages(
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
        error=finite(trial.error),
    )


def describe_bases(stack: Stack, settings: Settings) -> tuple[BaseInfo, ...]:
    """Describes the networks, each with what its vectors are."""
    return tuple(
        BaseInfo(
            space=make_space(network, settings),
            feature_shape=network.feature_shape,
            vector_length=network.vector_length,
            parameters=network.parameters,
        )
        for network in stack.networks
    )


def _describe_validation(report: Report, history: History) -> ValidationScore:
    low, high = report.interval
    return ValidationScore(
        metric=report.metric,
        value=report.value,
        interval=(finite(low), finite(high)),
        loss=history.row(history.best_epoch)["val_loss"],
        figures={name: finite(value) for name, value in report.figures.items()},
    )


def _describe_data(dataset: Dataset, vectors: Embedding, *, refitted: bool) -> DataFacts:
    rows = sorted(zip(vectors.hashes, dataset.label_texts, dataset.splits.tolist(), strict=True))
    made = dataset.split_made
    split: dict[str, Any] = {"made_by": "data"}
    if made is not None:
        split = {"made_by": "topwork", "fraction": made.fraction, "seed": made.seed}
        split |= {"copied": list(made.copied)} if made.copied else {}
    return DataFacts(
        fingerprint=hashlib.sha256(repr(rows).encode()).hexdigest(),
        counts=dataset.counts(),
        skipped=len(dataset.skipped),
        columns={} if dataset.read_as is None else dataset.read_as.to_remember(),
        refitted=refitted,
        split=split,
    )


def _list_images(dataset: Dataset, vectors: Embedding) -> ImageTable:
    return ImageTable(
        names=dataset.names,
        labels=dataset.label_texts,
        splits=tuple(map(str, dataset.splits)),
        hashes=vectors.hashes,
    )
