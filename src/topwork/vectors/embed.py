"""Dataset and networks in, vectors out: found in the stores, and made where they lack them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import StoreError
from topwork.data.dataset import Dataset
from topwork.data.hashing import hash_images
from topwork.vectors.embed_job import PACE, Job, Pace
from topwork.vectors.extractors import FeatureExtractor
from topwork.vectors.on_disk import HELD_BYTES, Rows, copy_to_disk
from topwork.vectors.store import DamagedPartError

# How often damaged parts are set aside and computed again before giving up.
ATTEMPTS = 3


@dataclass(frozen=True)
class Embedding:
    """The vectors of a dataset's images, one of each.

    Attributes:
        values: (N, D) float32, in the order of the images; in memory, or on disk where they
            are many.
        hashes: SHA-256 of each image's bytes, hex.
        embedded: images that were run through the base for this.
        reused: images whose vectors came from the store, or from an equal image.
    """

    values: Rows
    hashes: tuple[str, ...]
    embedded: int
    reused: int


def embed_images(
    dataset: Dataset,
    extractors: Sequence[FeatureExtractor],
    *,
    pace: Pace = PACE,
    hashes: Sequence[str] | None = None,
    strict: bool = False,
    held_bytes: float = HELD_BYTES,
    callback: Callback = SILENT,
) -> tuple[Dataset, Embedding]:
    """Returns every image's vectors, from the stores where they have them, else from the networks.

    Args:
        dataset: the images.
        extractors: of the networks, at least one, whose values lie side by side in this order.
        pace: how many images are run at a time.
        hashes: SHA-256 of each image's bytes, if they are known already.
        strict: raise at the first image that cannot be used.
        held_bytes: vectors that take more are not held in memory.
        callback: hears, in the caller's thread, after every image that was read and hashed, to
            find out whether its vector is there, how many were and how many there are; and
            after every image that was run, for each network in turn.

    Returns:
        The dataset without the images that could not be read or decoded, or that some network
        could not use (they are in its `skipped`, with the reason), and the vectors (N, D) of
        the others, D over all networks; `embedded` and `reused` count each network's.

    Raises:
        DatasetError: no image could be used, or `strict` and one could not.
        StoreError: vectors cannot be written, or stay unreadable.
    """
    if hashes is None:
        dataset = hash_images(dataset, strict, callback)
        hashes = dataset.hashes or ()
    stores = [extractor.store for extractor in extractors]
    length = sum(store.vector_length for store in stores)
    made = np.zeros(len(extractors), np.int64)
    for _ in range(ATTEMPTS):
        dataset, hashes, new = _complete(dataset, hashes, extractors, pace, strict, callback)
        made += new
        try:
            if 4 * len(hashes) * length > held_bytes:
                values: Rows = copy_to_disk(stores, hashes)
            else:
                found = [store.read(hashes) for store in stores]
                values = np.concatenate(found, axis=1) if len(found) > 1 else found[0]
        except DamagedPartError:
            continue
        # Some vectors may have been made of images that were left out in the end.
        reused = np.maximum(len(dataset) - made, 0)
        return dataset, Embedding(values, tuple(hashes), int(made.sum()), int(reused.sum()))
    raise StoreError(
        f"vectors in {' and '.join(store.address for store in stores)} are damaged as soon as "
        "they are written; check the disk or choose another place with --store"
    )


def _complete(
    dataset: Dataset,
    hashes: Sequence[str],
    extractors: Sequence[FeatureExtractor],
    pace: Pace,
    strict: bool,
    callback: Callback,
) -> tuple[Dataset, list[str], NDArray[np.int64]]:
    """Runs images until each has a vector in every store, or was left out.

    Returns:
        The dataset and its hashes without the images that were left out, and how many images each
        network ran.
    """
    left = list(hashes)
    made = np.zeros(len(extractors), np.int64)
    while True:
        count = len(left)
        for number, extractor in enumerate(extractors):
            job = Job(dataset, left, extractor, strict, callback, pace=pace)
            job.complete()
            dataset, left = job.dataset, job.hashes
            made[number] += len(job.embedded)
        # An image that one network could not use is left out for all; if none was, all is done.
        if len(left) == count or len(extractors) == 1:
            return dataset, left, made
