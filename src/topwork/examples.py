"""Dataset and settings in, examples out: which networks, and the vectors of every view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from topwork.bases import Network, Stack, find_all_weights, parse_bases, prepare_stack
from topwork.config import Precision, Settings
from topwork.dataset import Dataset
from topwork.duplicates import (
    LEAST_COSINE,
    QUICK_COSINE,
    Pair,
    group_duplicates,
    recall_duplicates,
)
from topwork.engines import OpenVINOEngine, resolve_precision
from topwork.errors import DatasetError
from topwork.images import RECIPE
from topwork.listing import SHOWN, Split
from topwork.store import FLIP, Space, VectorStore
from topwork.training import Labelled, Part
from topwork.vectors import Column, OnProgress, OnRead, Vectors, embed_columns
from topwork.views import ORIGINAL, view_name


@dataclass(frozen=True)
class Prepared:
    """Everything that heads are trained with.

    Attributes:
        dataset: the images that could be used, for training and validation.
        vectors: of those images as a prediction would see them.
        examples: those vectors, and after them the views of the training images.
        part: which rows are for training, in each view, and which for validation.
        pairs: images that show the same picture, by their places in `dataset`.
    """

    dataset: Dataset
    vectors: Vectors
    examples: Labelled
    part: Part
    pairs: tuple[Pair, ...]


def prepare_networks(settings: Settings, store: Path) -> Stack:
    """Builds the bases for the settings' image sizes, or finds them built in the store."""
    parts = parse_bases(settings.base, settings.image_size)
    weights = find_all_weights([spec for spec, _ in parts], settings.weights)
    sized = [(spec, size, found) for (spec, size), found in zip(parts, weights, strict=True)]
    return prepare_stack(sized, settings.flip, store)


def make_space(network: Network, settings: Settings, view: str | None = None) -> Space:
    """Says what decides a vector, with `auto` resolved for this CPU.

    Args:
        network: the base.
        settings: filter, precision, and whether an image is flipped.
        view: which view; None for the one that a prediction sees.
    """
    return Space(
        base=network.spec.name,
        weights_sha256=network.weights_sha256,
        image_size=network.image_size,
        network=network.recipe,
        decoder=RECIPE,
        interpolation=str(settings.interpolation),
        precision=str(resolve_precision(settings.precision)),
        view=view or (FLIP if settings.flip else ORIGINAL),
    )


def make_columns(
    stack: Stack, settings: Settings, store: Path, view: str | None = None
) -> list[Column]:
    """Returns a column for each network of a stack; arguments as for `make_space`."""
    columns = []
    for network in stack.networks:
        space = make_space(network, settings, view)

        def open_engine(network: Network = network, space: Space = space) -> OpenVINOEngine:
            return OpenVINOEngine(
                network.openvino_path,
                network.image_size,
                Precision(space.precision),
                flip=space.view == FLIP,
            )

        columns.append(Column(VectorStore(store, space, network.vector_length), open_engine))
    return columns


def prepare_examples(
    dataset: Dataset,
    stack: Stack,
    settings: Settings,
    store: Path,
    on_read: OnRead,
    on_progress: OnProgress,
    on_compared: OnRead = lambda done, total: None,
) -> Prepared:
    """Runs the networks over all images, and over the views of the training images.

    Where the data is not divided, a share of the training images is set aside for validation;
    images that show the same picture stay on one side.

    Args:
        dataset: images for training and, perhaps, validation.
        stack: the networks.
        settings: what decides vectors.
        store: where vectors are kept.
        on_read: as for `vectors.embed`.
        on_progress: as for `vectors.embed`, for each network and view in turn.
        on_compared: as `on_progress` of `duplicates.find_duplicates`.

    Raises:
        DatasetError: no image can be used, or none of some class.
        StoreError: vectors cannot be written.
    """
    columns = make_columns(stack, settings, store)
    whole = dataset
    dataset, vectors = embed_columns(
        dataset, columns, strict=settings.strict, on_read=on_read, on_progress=on_progress
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
        on_progress=on_compared,
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
        seen, found = embed_columns(images, columns, hashes=hashes, on_progress=on_progress)
        rows.append(sum(map(len, values)) + np.arange(len(training), dtype=np.int32))
        values.append(_fill(hashes, seen, found, vectors.values[training]))
        embedded, reused = embedded + found.embedded, reused + found.reused
    everything = np.concatenate([np.arange(len(dataset)), *(training for _ in rows[1:])])
    weights = None if dataset.weights is None else dataset.weights[everything]
    laid = np.concatenate(values) if rows[1:] else vectors.values
    return Prepared(
        dataset=dataset,
        vectors=replace(vectors, embedded=embedded, reused=reused),
        examples=Labelled(laid, dataset.targets[everything], weights),
        part=Part(np.stack(rows), validation),
        pairs=tuple(pairs),
    )


def _fill(
    hashes: Sequence[str], seen: Dataset, found: Vectors, otherwise: np.ndarray
) -> np.ndarray:
    """Returns a view's vectors for all images; one that has none keeps that of the image itself."""
    if len(seen) == len(hashes):
        return found.values
    place = {image: row for row, image in enumerate(found.hashes)}
    values = otherwise.copy()
    for row, image in enumerate(hashes):
        if image in place:
            values[row] = found.values[place[image]]
    return values


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
