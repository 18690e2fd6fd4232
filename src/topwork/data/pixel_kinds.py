"""How the pixels of a dataset are read where a file does not say it: decided once, for all images.

Which values are black and white in images of more than 8 bits a channel, and what transparent ones
show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topwork.core import warm_up
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Settings
from topwork.core.errors import ImageError, counted
from topwork.core.parallel import in_threads
from topwork.core.ranges import Kind, format_range, format_ranges, parse_ranges
from topwork.data.dataset import Dataset
from topwork.data.hashing import hash_images
from topwork.data.listing import Note, Split
from topwork.images.pixel_range import choose_range
from topwork.images.traits import Trait, find_paper, find_values

# So many images of each kind are looked at, and so many of their values.
LOOKED_AT = 256
VALUES = 1 << 20
SHOWN = 3


class PixelFindings(NamedTuple):
    """How pixels are read.

    Attributes:
        ranges: which values are black and white; empty where no image has more than 8 bits. See
            `core.ranges`.
        notes: what was guessed, or is doubtful.
    """

    ranges: str
    notes: tuple[Note, ...]


def settle_pixels(
    dataset: Dataset, settings: Settings, callback: Callback = SILENT, store: Path | None = None
) -> tuple[Dataset, Settings]:
    """Decides how the pixels of a dataset are read.

    Args:
        dataset: the images. Those for tests are looked at only if there are no others.
        settings: their `range` is kept; what it does not say is guessed.
        callback: hears how many images are read, and what was found if there is something to say.
        store: as for `hashing.hash_images`.

    Returns:
        The dataset without the images that cannot be read, with notes of what was found, and the
        settings with the ranges.

    Raises:
        DatasetError: no image could be read, or `strict` and one could not.
    """
    dataset = hash_images(dataset, settings.strict, callback, store)
    found = look_at_pixels(dataset, settings.range or "")
    if found.notes:
        callback.on_notes(found.notes)
        dataset = replace(dataset, notes=dataset.notes + found.notes)
    return dataset, settings.model_copy(update={"range": found.ranges or None})


def look_at_pixels(dataset: Dataset, given: str) -> PixelFindings:
    """Looks at the images of a dataset that do not say how they are read.

    Args:
        dataset: images that were hashed.
        given: ranges that the user said.
    """
    traits = np.zeros(len(dataset), np.uint8) if dataset.traits is None else dataset.traits
    usable = dataset.splits != Split.TEST
    if not usable.any():
        usable = ~usable
    deep = np.flatnonzero(usable & (traits & Trait.DEEP > 0))
    clear = np.flatnonzero(usable & (traits & Trait.CLEAR > 0))
    ranges, said = _settle_ranges(dataset, deep, given)
    if len(clear):
        said += _look_at_transparent(dataset, clear)
    return PixelFindings(ranges, tuple(Note(text, doubtful=True) for text in said))


def say_unscaled(names: Sequence[str]) -> str:
    """Says that images have more than 8 bits a channel, which a model has no range for."""
    more = ", …" if len(names) > SHOWN else ""
    have = "image has" if len(names) == 1 else "images have"
    return (
        f"{len(names)} {have} more than 8 bits a channel, and the model has no range for them: "
        "each is scaled by a guess of its own; train with --range LOW..HIGH: "
        f"{', '.join(names[:SHOWN])}{more}"
    )


def _settle_ranges(dataset: Dataset, deep: NDArray[np.intp], given: str) -> tuple[str, list[str]]:
    known, said = dict(parse_ranges(given)), list[str]()
    if not len(deep):
        if known:
            said.append("--range is for images of more than 8 bits a channel: there are none here")
        return given, said
    warm_up.decoding()
    values = _collect(dataset, _sample(dataset, deep))
    for kind, parts in sorted(values.items()):
        if kind in known:
            continue
        together = np.concatenate(parts)
        chosen = choose_range(kind, together)
        if chosen is None:
            continue
        known[kind] = chosen
        said.append(
            f"{kind} pixels are read as {format_range(*chosen)}, black to white, by the values of "
            f"{counted(len(parts), 'image')} ({together.min():.6g}..{together.max():.6g}); "
            "--range LOW..HIGH changes it"
        )
    return format_ranges(known), said


def _collect(dataset: Dataset, rows: Sequence[int]) -> dict[Kind, list[NDArray[np.float64]]]:
    """Returns some values of images by their kind; images that cannot be read are left out."""

    def load(row: int) -> tuple[Kind, NDArray[np.float64]] | None:
        try:
            return find_values(dataset.sources[row], VALUES // len(rows))
        except ImageError:
            return None  # it is left out, and named, when its vector is made

    found: dict[Kind, list[NDArray[np.float64]]] = {}
    for result in in_threads(load, rows):
        if result is not None and len(result[1]):
            found.setdefault(result[0], []).append(result[1])
    return found


def _look_at_transparent(dataset: Dataset, clear: NDArray[np.intp]) -> list[str]:
    def load(row: int) -> str | None:
        try:
            return find_paper(dataset.sources[row])
        except ImageError:
            return "white"

    warm_up.decoding()
    rows = _sample(dataset, clear)
    papers = list(in_threads(load, rows))
    among = f"of {counted(len(rows), 'transparent image')}"
    if len(rows) < len(clear):
        among += f" ({len(clear)} in all)"
    said = []
    for paper, what in (
        (None, "show nothing on white or black, and come out as one color"),
        ("black", "are too light for white paper and are laid on black"),
    ):
        names = [dataset.names[row] for row, one in zip(rows, papers, strict=True) if one == paper]
        if names:
            more = ", …" if len(names) > SHOWN else ""
            said.append(f"{len(names)} {among} {what}: {', '.join(names[:SHOWN])}{more}")
    return said


def _sample(dataset: Dataset, rows: NDArray[np.intp]) -> list[int]:
    """Chooses images by their hashes, so that few change when images are added or removed."""
    hashes = dataset.hashes or dataset.names
    return sorted(rows.tolist(), key=lambda row: hashes[row])[:LOOKED_AT]
