"""The recipe neighbors: which known images are most like a given one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Interpolation, Settings
from topwork.core.errors import DatasetError, ImageError
from topwork.data.dataset import Dataset
from topwork.data.listing import Split
from topwork.heads.dense import Floats
from topwork.images.decode import Source, decode, read_bytes
from topwork.models.model import Model
from topwork.recipes.embed import embed, find_labels
from topwork.vectors.embed import embed_images
from topwork.vectors.extractors import FeatureExtractor
from topwork.vectors.neighbors import nearest
from topwork.vectors.on_disk import Rows

# Any size says whether an image can be decoded.
SIDE_PX = 32


@dataclass(frozen=True)
class Neighbor:
    """A known image that is like the one asked about.

    Attributes:
        name: of the image.
        label: its label as text.
        split: what it is for.
        similarity: cosine of the two vectors, -1..1.
    """

    name: str
    label: str
    split: str
    similarity: float


@dataclass(frozen=True)
class NeighborIndex:
    """Known images and their vectors.

    Attributes:
        names: N names.
        labels: N labels as text.
        splits: N splits.
        hashes: SHA-256 of each image's bytes, hex.
        vectors: (N, D) float32.
        extractors: how an image's vector is made.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    hashes: tuple[str, ...]
    vectors: Rows
    extractors: tuple[FeatureExtractor, ...]

    def find(
        self, sources: Sequence[Source], count: int
    ) -> Iterator[tuple[int, list[Neighbor] | str]]:
        """Finds the known images that are most like each of some others.

        Args:
            sources: Q images.
            count: how many to find for each; an image that is known itself is left out.

        Yields:
            The index of each image, in order, and its neighbors, the most like first; or the
            reason why it cannot be used.

        Raises:
            SettingsError: a count below 1.
            StoreError: vectors cannot be written, or stay unreadable.
        """
        asked = Dataset.from_sources(sources)
        try:
            usable, found = embed_images(asked, self.extractors)
        except DatasetError as error:
            # None of them can be used; the message has the reason of the first alone.
            for index, source in enumerate(sources):
                yield index, _find_reason(source) or str(error)
            return
        # Of those that are equal to an image that was asked about, some are to be left out.
        known = Counter(self.hashes)
        extra = max(known[image] for image in {*found.hashes})
        near, cosines = nearest(found.values, self.vectors, count + extra)
        neighbors = map(self._list_neighbors, found.hashes, near, cosines)
        reasons = {item.path: item.reason for item in usable.skipped}
        for index, name in enumerate(asked.names):
            yield index, reasons[name] if name in reasons else next(neighbors)[:count]

    def _list_neighbors(
        self, image: str, rows: NDArray[np.int64], cosines: Floats
    ) -> list[Neighbor]:
        """Returns the known images in some rows, without those that are the image itself."""
        return [
            Neighbor(self.names[row], self.labels[row], self.splits[row], float(cosine))
            for row, cosine in zip(rows.tolist(), cosines, strict=True)
            if self.hashes[row] != image
        ]


def _find_reason(source: Source) -> str:
    try:
        decode(read_bytes(source), SIDE_PX, Interpolation.NEAREST)
    except ImageError as error:
        return str(error)
    return ""


def open_index(
    dataset: Dataset, settings: Settings, store: Path, callback: Callback = SILENT
) -> NeighborIndex:
    """Makes an index of all images of a dataset.

    Args:
        dataset: images, with or without labels.
        settings: what decides vectors.
        store: where vectors and networks are kept.
        callback: hears how it gets on.

    Raises:
        TopworkError: any of its kinds; see `errors`.
    """
    embedded = embed(dataset, settings, store, callback)
    known = embedded.dataset
    return NeighborIndex(
        known.names,
        tuple(label or "" for label in find_labels(known)),
        tuple(map(str, known.splits)),
        embedded.vectors.hashes,
        embedded.vectors.values,
        embedded.extractors,
    )


def open_model_index(model: Model, store: Path) -> NeighborIndex:
    """Makes an index of the images that a model was trained on, as far as the store has them.

    Args:
        model: a trained model.
        store: where vectors are kept.

    Raises:
        DatasetError: the store has the vectors of none of them.
        StoreError: it cannot be read.
    """
    extractors = model.extractors(store)
    for extractor in extractors:
        extractor.store.refresh()
    images = model.images
    there = [
        row
        for row, image in enumerate(images.hashes)
        if images.splits[row] == Split.TRAIN
        and all(image in extractor.store for extractor in extractors)
    ]
    if not there:
        raise DatasetError(
            f"the store {store} has no vectors of the model's training images; name their folder "
            "instead of the model, or the store that it was trained with by --store"
        )
    hashes = tuple(images.hashes[row] for row in there)
    vectors = [extractor.store.read(hashes) for extractor in extractors]
    return NeighborIndex(
        tuple(images.names[row] for row in there),
        tuple(images.labels[row] for row in there),
        tuple(images.splits[row] for row in there),
        hashes,
        np.concatenate(vectors, axis=1),
        tuple(extractors),
    )
