"""Hashes of the images of a dataset, which leaves out images that cannot be read."""

from __future__ import annotations

from dataclasses import replace

from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import DatasetError, ImageError
from topwork.core.parallel import in_threads
from topwork.data.dataset import Dataset
from topwork.data.listing import Skipped, check_strict
from topwork.images.decode import Source, image_hash, read_bytes

# How many images a thread hashes at a time.
TOGETHER = 8


def hash_images(dataset: Dataset, strict: bool, callback: Callback = SILENT) -> Dataset:
    """Returns the dataset with the hash of every image's bytes, without those that are unreadable.

    Raises:
        DatasetError: no image could be read, or `strict` and one could not.
    """
    if dataset.hashes is not None:
        return dataset

    def hash_source(source: Source) -> str | ImageError:
        try:
            return image_hash(read_bytes(source))
        except ImageError as error:
            return error

    bad: dict[int, str] = {}
    hashes: list[str] = []
    for index, result in enumerate(in_threads(hash_source, dataset.sources, together=TOGETHER)):
        if isinstance(result, ImageError):
            bad[index] = str(result)
            check_strict([Skipped(dataset.names[index], str(result))], strict)
        hashes.append(str(result))
        callback.on_read(index + 1, len(dataset))
    dataset, hashes = leave_out(dataset, hashes, bad)
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
