"""Dataset and settings in, examples out: which networks, and the vectors of every view."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from topwork.bases import Stack
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Settings
from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.label_doubts import doubt_copies
from topwork.data.listing import SHOWN, Split
from topwork.data.validation import find_lacking
from topwork.heads.examples import Ints, LabeledVectors, RowSplit
from topwork.images.augment import view_name
from topwork.models.explain import See
from topwork.vectors.candidates import QUICK, USUAL
from topwork.vectors.duplicates import MOST_COMPARED, Pair, group_duplicates
from topwork.vectors.embed import Embedding, embed_images
from topwork.vectors.extractors import make_extractors
from topwork.vectors.known_duplicates import find_duplicates_cached
from topwork.vectors.on_disk import HELD_BYTES, Rows, concatenate_rows, select
from topwork.vectors.quantize import Quantization


@dataclass(frozen=True)
class TrainingData:
    """What heads are trained on.

    Attributes:
        dataset: the images that could be used, for training and validation.
        vectors: of those images as a prediction would see them.
        examples: those vectors, and after them the views of the training images.
        split: which rows are for training, in each view, and which for validation.
    """

    dataset: Dataset
    vectors: Embedding
    examples: LabeledVectors
    split: RowSplit


@dataclass(frozen=True)
class Prepared:
    """All that a recipe knows before it trains a head.

    Attributes:
        stack: the networks.
        settings: as they are after int8 was tried.
        data: what heads are trained on.
        quantization: what int8 costs; None for another precision.
        opening: the networks, being compiled for the report's maps, if that was begun.
        checking: the check that stock Keras opens the networks, if that was begun.
    """

    stack: Stack
    settings: Settings
    data: TrainingData
    quantization: Quantization | None
    opening: Future[list[See]] | None
    checking: Future[float] | None


def prepare_examples(
    dataset: Dataset,
    stack: Stack,
    settings: Settings,
    store: Path,
    callback: Callback = SILENT,
    *,
    held_bytes: float = HELD_BYTES,
) -> TrainingData:
    """Runs the networks over all images, and over the views of the training images.

    Where the data is not divided, a share of the training images is set aside for validation;
    images that show the same picture stay on one side.

    Args:
        dataset: images for training and, perhaps, validation.
        stack: the networks.
        settings: what decides vectors.
        store: where vectors are kept.
        callback: hears what `vectors.embed` says, for each network and view in turn, and
            `duplicates.find_duplicates`; then that all are embedded, and how they are divided.
        held_bytes: vectors that take more, with those of all views, are not held in memory.

    Raises:
        DatasetError: no image can be used, or none of some class.
        StoreError: vectors cannot be written.
    """
    whole = dataset
    # What is held is so for all views together.
    held_bytes /= 1 + settings.views
    extractors = make_extractors(stack, settings, store)
    dataset, vectors = embed_images(
        dataset, extractors, strict=settings.strict, held_bytes=held_bytes, callback=callback
    )
    check_usable(whole, dataset)
    dataset, pairs = _set_aside(dataset, vectors, settings, store, callback)
    check_classes(dataset)
    training = np.flatnonzero(dataset.splits == Split.TRAIN).astype(np.int32)
    validation = np.flatnonzero(dataset.splits == Split.VALIDATION).astype(np.int32)
    images = dataset.select(dataset.splits == Split.TRAIN)
    hashes = [vectors.hashes[row] for row in training]
    views = []
    for number in range(1, settings.views + 1):
        extractors = make_extractors(stack, settings, store, view_name(number))
        _, found = embed_images(
            images, extractors, hashes=hashes, held_bytes=held_bytes, callback=callback
        )
        views.append(found)
    examples = _join_views(dataset, vectors, views, training, hashes)
    lacking = find_lacking(dataset.counts(), Split.VALIDATION)
    rows = _number_views(len(dataset), len(views), training)
    split = RowSplit(rows, validation, decides=not lacking)
    everything = [vectors, *views]
    vectors = replace(
        vectors,
        embedded=sum(one.embedded for one in everything),
        reused=sum(one.reused for one in everything),
    )
    callback.on_embedded(dataset, vectors)
    callback.on_split(dataset, pairs)
    if dataset.task is not Task.NUMBER:
        twice = ((pair.first, pair.second) for pair in pairs)
        notes = doubt_copies(dataset.names, dataset.label_texts, twice)
        if notes:
            callback.on_notes(notes)
            dataset = replace(dataset, notes=dataset.notes + notes)
    return TrainingData(dataset, vectors, examples, split)


def _set_aside(
    dataset: Dataset, vectors: Embedding, settings: Settings, store: Path, callback: Callback
) -> tuple[Dataset, list[Pair]]:
    """Sets images aside for validation, where the data has none, and finds pairs of one picture."""
    # What the data itself divides is only reported.
    given = bool((dataset.splits == Split.VALIDATION).any())
    pairs = find_duplicates_cached(
        vectors.hashes,
        vectors.values,
        dataset.sources,
        store,
        effort=QUICK if given else USUAL,
        most=MOST_COMPARED,
        ranges=settings.range or "",
        callback=callback,
    )
    if pairs:
        dataset = replace(dataset, copies=group_duplicates(pairs, len(dataset)))
    return dataset.with_validation(settings.validation_fraction, settings.seed), pairs


def _join_views(
    dataset: Dataset,
    vectors: Embedding,
    views: Sequence[Embedding],
    training: Ints,
    hashes: Sequence[str],
) -> LabeledVectors:
    """Returns the vectors of all images, and after them those of the training images' views."""
    values = vectors.values
    if views:
        plain = select(values, training)
        values = concatenate_rows([values, *(_fill(hashes, view, plain) for view in views)])
    images = np.concatenate([np.arange(len(dataset)), np.tile(training, len(views))])
    weights = None if dataset.weights is None else dataset.weights[images]
    return LabeledVectors(values, dataset.targets[images], weights)


def _number_views(images: int, views: int, training: Ints) -> Ints:
    """Returns the rows (1 + V, T) of T training images: as they are, and in V views.

    `_join_views` has put the views one after the other, after all images.
    """
    shape = views, len(training)
    rows = images + np.arange(views * len(training), dtype=np.int32).reshape(shape)
    return np.concatenate([training[None], rows])


def _fill(hashes: Sequence[str], view: Embedding, plain: Rows) -> Rows:
    """Returns a view's vectors for all images; one that has none keeps its plain vector."""
    if len(view.hashes) == len(hashes):
        return view.values
    row_of = {image: row for row, image in enumerate(view.hashes)}
    count = len(view.hashes)
    rows = [row_of.get(image, count + row) for row, image in enumerate(hashes)]
    return select(concatenate_rows([view.values, plain]), rows)


def check_usable(given: Dataset, left: Dataset) -> None:
    """Refuses a dataset of which the images that could be read are not enough.

    Args:
        given: all images.
        left: those that could be read.

    Raises:
        DatasetError: a class has lost all its training images, or validation all of its own:
            no other images take their place unasked.
    """
    check_classes(left)
    validation = [(dataset.splits == Split.VALIDATION).any() for dataset in (given, left)]
    if validation == [True, False]:
        first = next(iter(left.skipped[len(given.skipped) :]))
        raise DatasetError(
            f"no usable image is left in validation; the first that failed is {first.path}: "
            f"{first.reason}"
        )


def check_classes(dataset: Dataset) -> None:
    """Refuses a dataset that has lost all training images of a class.

    Raises:
        DatasetError: with the classes' names.
    """
    counts = dataset.counts()[Split.TRAIN]
    lost = [name for name, count in counts.items() if not count]
    if lost:
        names = ", ".join(lost[:SHOWN])
        raise DatasetError(f"no usable training image is left of the class {names}")
