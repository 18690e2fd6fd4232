"""Dataset and settings in, examples out: which networks, and the vectors of every view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from topwork.bases import Stack
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Settings
from topwork.core.errors import DatasetError
from topwork.data.dataset import Dataset
from topwork.data.listing import SHOWN, Split
from topwork.heads.examples import LabeledVectors, RowSplit
from topwork.images.augment import view_name
from topwork.vectors.duplicates import (
    LEAST_COSINE,
    MOST_COMPARED,
    QUICK_COSINE,
    Pair,
    group_duplicates,
    recall_duplicates,
)
from topwork.vectors.embed import Vectors, embed_columns
from topwork.vectors.extractors import make_columns
from topwork.vectors.on_disk import HELD_BYTES, Rows, lay, select


@dataclass(frozen=True)
class Prepared:
    """Everything that heads are trained with.

    Attributes:
        dataset: the images that could be used, for training and validation.
        vectors: of those images as a prediction would see them.
        examples: those vectors, and after them the views of the training images.
        split: which rows are for training, in each view, and which for validation.
        pairs: images that show the same picture, by their places in `dataset`.
    """

    dataset: Dataset
    vectors: Vectors
    examples: LabeledVectors
    split: RowSplit
    pairs: tuple[Pair, ...]


def prepare_examples(
    dataset: Dataset,
    stack: Stack,
    settings: Settings,
    store: Path,
    callback: Callback = SILENT,
    *,
    held_bytes: float = HELD_BYTES,
) -> Prepared:
    """Runs the networks over all images, and over the views of the training images.

    Where the data is not divided, a share of the training images is set aside for validation;
    images that show the same picture stay on one side.

    Args:
        dataset: images for training and, perhaps, validation.
        stack: the networks.
        settings: what decides vectors.
        store: where vectors are kept.
        callback: hears what `vectors.embed` says, for each network and view in turn, and
            `duplicates.find_duplicates`.
        held_bytes: vectors that take more, with those of all views, are not held in memory.

    Raises:
        DatasetError: no image can be used, or none of some class.
        StoreError: vectors cannot be written.
    """
    columns = make_columns(stack, settings, store)
    whole = dataset
    # What is held is so for all views together.
    held_bytes /= 1 + settings.views
    dataset, vectors = embed_columns(
        dataset,
        columns,
        strict=settings.strict,
        held_bytes=held_bytes,
        callback=callback,
    )
    check_usable(whole, dataset)
    # What the data itself divides is only reported.
    given = bool((dataset.splits == Split.VALIDATION).any())
    pairs = recall_duplicates(
        vectors.hashes,
        vectors.values,
        dataset.sources,
        store,
        least_cosine=QUICK_COSINE if given else LEAST_COSINE,
        most=MOST_COMPARED,
        callback=callback,
    )
    if pairs:
        dataset = dataset.together(group_duplicates(pairs, len(dataset)))
    dataset = dataset.with_validation(settings.validation_fraction, settings.seed)
    training = np.flatnonzero(dataset.splits == Split.TRAIN).astype(np.int32)
    validation = np.flatnonzero(dataset.splits == Split.VALIDATION).astype(np.int32)
    check_classes(dataset)
    images = dataset.select(dataset.splits == Split.TRAIN)
    hashes = [vectors.hashes[place] for place in training]
    values, rows = [vectors.values], [training]
    embedded, reused = vectors.embedded, vectors.reused
    for number in range(1, settings.views + 1):
        columns = make_columns(stack, settings, store, view_name(number))
        _, found = embed_columns(
            images, columns, hashes=hashes, held_bytes=held_bytes, callback=callback
        )
        rows.append(sum(map(len, values)) + np.arange(len(training), dtype=np.int32))
        values.append(_fill(hashes, found, select(vectors.values, training)))
        embedded, reused = embedded + found.embedded, reused + found.reused
    everything = np.concatenate([np.arange(len(dataset)), *(training for _ in rows[1:])])
    weights = None if dataset.weights is None else dataset.weights[everything]
    laid = lay(values) if rows[1:] else vectors.values
    return Prepared(
        dataset=dataset,
        vectors=replace(vectors, embedded=embedded, reused=reused),
        examples=LabeledVectors(laid, dataset.targets[everything], weights),
        split=RowSplit(np.stack(rows), validation),
        pairs=tuple(pairs),
    )


def _fill(hashes: Sequence[str], found: Vectors, otherwise: Rows) -> Rows:
    """Returns a view's vectors for all images; one that has none keeps that of the image itself."""
    if len(found.hashes) == len(hashes):
        return found.values
    place = {image: row for row, image in enumerate(found.hashes)}
    count = len(found.hashes)
    rows = [place.get(image, count + row) for row, image in enumerate(hashes)]
    return select(lay([found.values, otherwise]), rows)


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
