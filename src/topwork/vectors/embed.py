"""Dataset and networks in, vectors out: found in the stores, and made where they lack them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from topwork.bases.engines import Engine
from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import StoreError
from topwork.data.dataset import Dataset
from topwork.data.hashing import hash_images
from topwork.vectors.embed_job import PACE, Column, Job, Pace
from topwork.vectors.on_disk import HELD_BYTES, Rows, lay_out
from topwork.vectors.store import DamagedPartError, VectorStore

# How often damaged parts are set aside and computed again before giving up.
ATTEMPTS = 3


@dataclass(frozen=True)
class Vectors:
    """The vectors of a dataset's images.

    Attributes:
        values: (N, D) float32, in the order of the dataset's images; held, or stored where they
            are many.
        hashes: SHA-256 of each image's bytes, hex.
        embedded: images that were run through the base for this.
        reused: images whose vectors came from the store, or from an equal image.
    """

    values: Rows
    hashes: tuple[str, ...]
    embedded: int
    reused: int


def embed(
    dataset: Dataset,
    store: VectorStore,
    open_engine: Callable[[], Engine],
    *,
    pace: Pace = PACE,
    hashes: Sequence[str] | None = None,
    strict: bool = False,
    callback: Callback = SILENT,
) -> tuple[Dataset, Vectors]:
    """Returns every image's vector by one network; see `embed_columns`.

    Args:
        dataset: as for `embed_columns`; so are those that are not named here.
        store: where vectors of this base, size and preprocessing are kept.
        open_engine: compiles the base; called only if a vector is missing.
        pace: how many images are run at a time.
        hashes: of the images.
        strict: raise at the first image that cannot be used.
        callback: hears how many images were read, and how many were run.

    Raises:
        DatasetError, StoreError: as for `embed_columns`.
    """
    return embed_columns(
        dataset,
        [Column(store, open_engine)],
        pace=pace,
        hashes=hashes,
        strict=strict,
        callback=callback,
    )


def embed_columns(
    dataset: Dataset,
    columns: Sequence[Column],
    *,
    pace: Pace = PACE,
    hashes: Sequence[str] | None = None,
    strict: bool = False,
    held_bytes: float = HELD_BYTES,
    callback: Callback = SILENT,
) -> tuple[Dataset, Vectors]:
    """Returns every image's vectors, from the stores where they have them, else from the networks.

    Args:
        dataset: the images.
        columns: the networks, at least one, whose values lie side by side in this order.
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
    stores = [column.store for column in columns]
    length = sum(store.vector_length for store in stores)
    made = [0] * len(columns)
    for _ in range(ATTEMPTS):
        dataset, hashes = _complete(dataset, hashes, columns, made, pace, strict, callback)
        try:
            if 4 * len(hashes) * length > held_bytes:
                values: Rows = lay_out(stores, hashes)
            else:
                found = [store.read(hashes) for store in stores]
                values = np.concatenate(found, axis=1) if len(found) > 1 else found[0]
        except DamagedPartError:
            continue
        # Some of what was made may be of images that were left out after all.
        reused = sum(max(len(dataset) - count, 0) for count in made)
        return dataset, Vectors(values, tuple(hashes), sum(made), reused)
    raise StoreError(
        f"vectors in {' and '.join(store.address for store in stores)} are damaged as soon as "
        "they are written; check the disk or choose another place with --store"
    )


def _complete(
    dataset: Dataset,
    hashes: Sequence[str],
    columns: Sequence[Column],
    made: list[int],
    pace: Pace,
    strict: bool,
    callback: Callback,
) -> tuple[Dataset, list[str]]:
    """Goes on until every image has a vector in each store, or was left out.

    Adds to `made` how many images each network ran.
    """
    left = list(hashes)
    while True:
        count = len(left)
        for place, column in enumerate(columns):
            job = Job(dataset, left, column, strict, callback, pace=pace)
            job.complete()
            dataset, left = job.dataset, job.hashes
            made[place] += len(job.embedded)
        # An image that a later network could not use leaves the earlier ones too.
        if len(left) == count or len(columns) == 1:
            return dataset, left
