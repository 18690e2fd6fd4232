"""Hashes of the images of a dataset, which leaves out images that cannot be read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from topwork.core import warm_up
from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import DatasetError, ImageError
from topwork.core.parallel import in_threads
from topwork.data.dataset import Dataset
from topwork.data.listing import Skipped, check_strict
from topwork.images.decode import Source, image_hash, read_bytes
from topwork.images.traits import Trait, find_traits

# How many images a thread hashes at a time.
TOGETHER = 8


def hash_images(dataset: Dataset, strict: bool, callback: Callback = SILENT) -> Dataset:
    """Returns the dataset with each image's hash and traits, without those that are unreadable.

    Raises:
        DatasetError: no image could be read, or `strict` and one could not.
    """
    if dataset.hashes is not None:
        return dataset

    def look(source: Source) -> tuple[str, Trait] | ImageError:
        try:
            data = read_bytes(source)
            return image_hash(data), find_traits(data)
        except ImageError as error:
            return error

    warm_up.decoding()
    bad: dict[int, str] = {}
    hashes, traits = [""] * len(dataset), np.zeros(len(dataset), np.uint8)
    for index, result in enumerate(in_threads(look, dataset.sources, together=TOGETHER)):
        if isinstance(result, ImageError):
            bad[index] = str(result)
            check_strict([Skipped(dataset.names[index], str(result))], strict)
        else:
            hashes[index], traits[index] = result
        callback.on_read(index + 1, len(dataset))
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
