"""The recipe neighbours: which known images are most like a given one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Interpolation, Settings
from topwork.core.errors import DatasetError, ImageError
from topwork.data.dataset import Dataset
from topwork.data.listing import Split
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
class Neighbour:
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
class Gallery:
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
    ) -> Iterator[tuple[int, list[Neighbour] | str]]:
        """Finds the known images that are most like each of some others.

        Args:
            sources: Q images.
            count: how many to find for each; an image that is known itself is left out.

        Yields:
            The place of each image, in order, and its neighbours, the most like first; or the
            reason why it cannot be used.

        Raises:
            SettingsError: a count below 1.
            StoreError: vectors cannot be written, or stay unreadable.
        """
        hashes, vectors, failed = self._embed(sources)
        # Of those that are equal to an image that was asked about, some are to be left out.
        known = Counter(self.hashes)
        extra = max((known[image] for image in {*hashes}), default=0)
        near, cosines = nearest(vectors, self.vectors, count + extra)
        rows = iter(range(len(hashes)))
        for place in range(len(sources)):
            if place in failed:
                yield place, failed[place]
                continue
            row = next(rows)
            others = [
                Neighbour(self.names[n], self.labels[n], self.splits[n], float(cosine))
                for n, cosine in zip(near[row].tolist(), cosines[row], strict=True)
                if self.hashes[n] != hashes[row]
            ]
            yield place, others[:count]

    def _embed(self, sources: Sequence[Source]) -> tuple[tuple[str, ...], Rows, dict[int, str]]:
        """Returns hashes and vectors of the images that can be used; of the others, why not."""
        # Names that tell the images apart, whatever they are called.
        places = tuple(str(place) for place in range(len(sources)))
        asked = replace(Dataset.from_sources(sources), names=places)
        try:
            usable, found = embed_images(asked, self.extractors)
        except DatasetError as error:
            # None of them can be used; the message has the reason of the first alone.
            reasons = {place: _find_reason(source) for place, source in enumerate(sources)}
            failed = {place: reason or str(error) for place, reason in reasons.items()}
            return (), self.vectors[:0], failed
        return found.hashes, found.values, {int(item.path): item.reason for item in usable.skipped}


def _find_reason(source: Source) -> str:
    try:
        decode(read_bytes(source), SIDE_PX, Interpolation.NEAREST)
    except ImageError as error:
        return str(error)
    return ""


def open_gallery(
    dataset: Dataset, settings: Settings, store: Path, callback: Callback = SILENT
) -> Gallery:
    """Makes a gallery of all images of a dataset.

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
    return Gallery(
        known.names,
        tuple(label or "" for label in find_labels(known)),
        tuple(map(str, known.splits)),
        embedded.vectors.hashes,
        embedded.vectors.values,
        embedded.extractors,
    )


def open_model_gallery(model: Model, store: Path) -> Gallery:
    """Makes a gallery of the images that a model was trained on, as far as the store has them.

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
        place
        for place, image in enumerate(images.hashes)
        if images.splits[place] == Split.TRAIN
        and all(image in extractor.store for extractor in extractors)
    ]
    if not there:
        raise DatasetError(
            f"the store {store} has no vectors of the model's training images; name their folder "
            "instead of the model, or the store that it was trained with by --store"
        )
    hashes = tuple(images.hashes[place] for place in there)
    vectors = [extractor.store.read(hashes) for extractor in extractors]
    return Gallery(
        tuple(images.names[place] for place in there),
        tuple(images.labels[place] for place in there),
        tuple(images.splits[place] for place in there),
        hashes,
        np.concatenate(vectors, axis=1),
        tuple(extractors),
    )
