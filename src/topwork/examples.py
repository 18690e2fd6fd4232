"""Dataset and settings in, examples out: which networks, and the vectors of every view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from topwork.bases import Network, Stack, find_all_weights, parse_bases, prepare_stack
from topwork.config import Precision, Settings
from topwork.dataset import Dataset
from topwork.engines import OpenVINOEngine, resolve_precision
from topwork.errors import DatasetError
from topwork.images import RECIPE
from topwork.listing import Split
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
    """

    dataset: Dataset
    vectors: Vectors
    examples: Labelled
    part: Part


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
) -> Prepared:
    """Runs the networks over all images, and over the views of the training images.

    Args:
        dataset: images for training and validation.
        stack: the networks.
        settings: what decides vectors.
        store: where vectors are kept.
        on_read: as for `vectors.embed`.
        on_progress: as for `vectors.embed`, for each network and view in turn.

    Raises:
        DatasetError: no image can be used, or none of some class.
        StoreError: vectors cannot be written.
    """
    columns = make_columns(stack, settings, store)
    dataset, vectors = embed_columns(
        dataset, columns, strict=settings.strict, on_read=on_read, on_progress=on_progress
    )
    training = np.flatnonzero(dataset.splits == Split.TRAIN).astype(np.int32)
    validation = np.flatnonzero(dataset.splits == Split.VALIDATION).astype(np.int32)
    check_classes(dataset, dataset.labels[training])
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
    targets = np.concatenate([dataset.labels, *(dataset.labels[training] for _ in rows[1:])])
    return Prepared(
        dataset=dataset,
        vectors=replace(vectors, embedded=embedded, reused=reused),
        examples=Labelled(np.concatenate(values) if rows[1:] else vectors.values, targets),
        part=Part(np.stack(rows), validation),
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


def check_classes(dataset: Dataset, labels: np.ndarray) -> None:
    """Refuses a dataset that has lost all training images of a class.

    Raises:
        DatasetError: with the classes' names.
    """
    lost = set(range(len(dataset.classes))) - set(labels.tolist())
    if lost:
        names = ", ".join(dataset.classes[label] for label in sorted(lost))
        raise DatasetError(f"no usable training image is left of the class {names}")
