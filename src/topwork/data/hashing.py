"""Hashes of the images of a dataset, which leaves out images that cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from topwork.core import warm_up
from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import DatasetError, ImageError
from topwork.core.parallel import in_threads
from topwork.data.dataset import Dataset
from topwork.data.known_files import Fact, KnownFiles
from topwork.data.listing import Skipped, check_strict
from topwork.images.decode import Source, image_hash, read_bytes
from topwork.images.traits import find_traits

# How many images a thread hashes at a time.
TOGETHER = 8


def hash_images(
    dataset: Dataset, strict: bool, callback: Callback = SILENT, store: Path | None = None
) -> Dataset:
    """Returns the dataset with each image's hash and traits, without those that are unreadable.

    Args:
        dataset: the images.
        strict: raise at the first image that cannot be read, and read them all.
        callback: hears how many were read.
        store: where is kept what files held when they were read before; those that have not
            changed since are not read again. None to read all.

    Raises:
        DatasetError: no image could be read, or `strict` and one could not.
    """
    if dataset.hashes is not None:
        return dataset

    def look(source: Source) -> Fact | ImageError:
        try:
            data = read_bytes(source)
            return image_hash(data), find_traits(data)
        except ImageError as error:
            return error

    warm_up.decoding()
    known = None if store is None else KnownFiles(store, dataset.sources)
    bad: dict[int, str] = {}
    hashes, traits = [""] * len(dataset), np.zeros(len(dataset), np.uint8)
    unread = []
    for index in range(len(dataset)):
        fact = None if known is None or strict else known.find(index)
        if fact is None:
            unread.append(index)
        else:
            hashes[index], traits[index] = fact
    if len(unread) < len(dataset):
        callback.on_read(len(dataset) - len(unread), len(dataset))
    sources = [dataset.sources[index] for index in unread]
    results = in_threads(look, sources, together=TOGETHER)
    for read, (index, result) in enumerate(zip(unread, results, strict=True), 1):
        if isinstance(result, ImageError):
            bad[index] = str(result)
            check_strict([Skipped(dataset.names[index], str(result))], strict)
        else:
            hashes[index], traits[index] = result
            if known is not None:
                known.add(index, result)
        callback.on_read(len(dataset) - len(unread) + read, len(dataset))
    if known is not None:
        known.save()
    dataset, hashes = leave_out(replace(dataset, traits=traits), hashes, bad)
    return replace(dataset, hashes=tuple(hashes))


def leave_out(
    dataset: Dataset, hashes: list[str], bad: dict[int, str]
) -> tuple[Dataset, list[str]]:
    """Returns a dataset and its hashes without some images.

    Args:
        dataset: the images.
        hashes: one for each.
        bad: reasons by index.

    Raises:
        DatasetError: no image is left.
    """
    if not bad:
        return dataset, hashes
    if len(bad) == len(hashes):
        index, reason = next(iter(bad.items()))
        raise DatasetError(
            f"no image can be used: all {len(bad)} failed, the first was "
            f"{dataset.names[index]}: {reason}"
        )
    return dataset.drop(bad), [image for n, image in enumerate(hashes) if n not in bad]
