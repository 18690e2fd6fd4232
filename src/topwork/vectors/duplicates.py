"""Images that are there twice: the same bytes, or the same picture saved again.

Vectors say which images may be one picture, pixels say which are. A network finds two grey
T-shirts on one table alike, and so does the correlation of their pixels; a copy differs from its
original nowhere. What is found: other qualities, formats and sizes, and mirror images of these.
What is not: cut, turned or recoloured pictures.

The figures beside the constants were measured on 150 photographs of clothes (400 x 500 pixels)
in 15 versions each, and on all pairs of 3,781 such photographs, of which one shows one picture.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import numpy as np

from topwork.core import warm_up
from topwork.core.arrays import Floats32, Indices, Pixels
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Interpolation
from topwork.core.errors import ImageError, SettingsError
from topwork.core.files import write_file
from topwork.core.parallel import in_threads
from topwork.images.decode import RECIPE, Source, decode
from topwork.images.verify import read_unchanged
from topwork.vectors.neighbors import similar_blocks, unit
from topwork.vectors.on_disk import Rows, key_of, select

# Candidates are the pairs with the highest cosines, about so many per image, by a sample of the
# images: what a cosine means depends on the network, and unrelated pairs grow with the square of
# the images. Of copies by JPEG at quality 30 to 95 the lowest cosine was 0.91 with
# efficientnet-lite0, at half the size 0.83, at that and quality 30 0.73, mirrored and halved 0.79,
# with xception at 150 px mirrored 0.76; of unrelated pairs one in 100 has 0.69, one in 1000 0.79,
# one in 10,000 0.86.
CANDIDATES = 20
SAMPLE = 2000
LEAST_COSINE = 0.7
MOST_COSINE = 0.95
# Enough for copies that are as large and the same way round, and five times as fast.
QUICK_COSINE = 0.9
# All pairs of vectors are looked at, which takes minutes for so many images, and of twice as many
# four times as long: unasked, more of them are only compared by their bytes.
MOST_COMPARED = 100_000
# Raise it when the same images would give other pairs.
VERSION = "1"

# Correlation of grey pictures of 32 x 32. Of copies 0.991 and more, decoded fast, which is enough
# to pass over most; 0.997 and more, decoded well. Unrelated pairs reach 0.979.
LEAST_CORRELATION = 0.95
CORRELATION = 0.98
# How far two pictures may differ, averaged over the colours, in any cell of a grid of so many
# cells a side, in levels of 0..255. Of copies at most 19, 8 and 4, at half the size and quality 30
# 37, 13 and 5; unrelated pairs that correlate at 0.94 differ by 53, 44 and 30 or more.
DIFFERENCES = {64: 48.0, 32: 24.0, 16: 12.0}
# A picture whose cells deviate by less has nothing that a copy could be told by, only noise.
UNIFORM = 2.0

# Decoded at this side, then averaged: at 64 a JPEG would be shrunk while it is decoded, and a
# copy of another size would be shrunk otherwise and differ by up to 76 levels.
_DECODED_PX = 256
_GRID = 64
_COARSE = 32
# Pairs that are compared at once, by coarse and by fine pictures; fine ones kept, 48 kB each.
_LOT = 1024
_FINE_LOT = 256
_KEPT = 1024
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


class Likeness(StrEnum):
    """How two images are alike."""

    SAME = "same"  # the same bytes
    NEAR = "near"  # the same picture: another quality, format or size
    MIRRORED = "mirrored"  # the same picture, left to right


@dataclass(frozen=True)
class Pair:
    """Two images that are one picture.

    Attributes:
        first: place of the one.
        second: place of the other, above `first`.
        likeness: how they are alike.
        similarity: correlation of their small grey pictures, -1..1; 1 for the same bytes.
    """

    first: int
    second: int
    likeness: Likeness
    similarity: float


def find_duplicates(
    hashes: Sequence[str],
    vectors: Rows,
    sources: Sequence[Source],
    *,
    least_cosine: float = LEAST_COSINE,
    fine_lot: int = _FINE_LOT,
    most: int | None = None,
    callback: Callback = SILENT,
) -> list[Pair]:
    """Finds images that are one picture.

    The pairs connect all copies of a picture and no more: n copies make n - 1 pairs, equal ones
    one after the other. `group_duplicates` makes groups of them. Of pictures of one colour only
    those with the same bytes are copies.

    Args:
        hashes: SHA-256 of each image's bytes, hex; N.
        vectors: (N, D) float32 of the same images, in memory or on disk.
        sources: where the bytes of each come from.
        least_cosine: pairs whose vectors are less alike are not looked at.
        fine_lot: pairs whose pictures are compared closely at once.
        most: of more images than this, only those with the same bytes are found; None for any
            number.
        callback: hears, in the caller's thread, how many small pictures were made, and the most
            that may be needed; and of images that cannot be read or decoded any more or have
            changed, which are only in pairs of the same bytes then.

    Returns:
        The pairs, by first place.

    Raises:
        SettingsError: hashes, vectors and sources of different numbers of images.
    """
    if not len(hashes) == len(vectors) == len(sources):
        raise SettingsError(
            "hashes, vectors and sources must be of the same images, received "
            f"{len(hashes)}, {len(vectors)} and {len(sources)}"
        )
    same, places = _pair_same(hashes)
    if most is not None and len(places) > most:
        return sorted(same, key=lambda pair: (pair.first, pair.second))
    comparison = _Comparison(places, hashes, sources, callback)
    if len(places) > 1:
        chosen = vectors if len(places) == len(vectors) else select(vectors, places)
        for block in similar_blocks(chosen, _choose_threshold(chosen, least_cosine)):
            comparison.compare(block, fine_lot)
    callback.on_compared(len(places), len(places))
    return sorted(same + comparison.named_pairs(), key=lambda pair: (pair.first, pair.second))


def recall_duplicates(
    hashes: Sequence[str],
    vectors: Rows,
    sources: Sequence[Source],
    store: Path,
    *,
    least_cosine: float = LEAST_COSINE,
    most: int | None = None,
    callback: Callback = SILENT,
) -> list[Pair]:
    """Returns what `find_duplicates` does, and remembers it in the store for the next time.

    Args:
        hashes: as for `find_duplicates`.
        vectors: as for `find_duplicates`.
        sources: as for `find_duplicates`.
        store: the store's folder.
        least_cosine: as for `find_duplicates`.
        most: as for `find_duplicates`.
        callback: as for `find_duplicates`; not called for what is remembered.

    Raises:
        SettingsError: as for `find_duplicates`.
    """
    compared = most is None or len(hashes) <= most
    facts = RECIPE, VERSION, least_cosine, compared, vectors.shape, key_of(vectors)
    digest = hashlib.sha256(" ".join(map(str, facts)).encode())
    digest.update("".join(hashes).encode())
    path = store / "copies" / f"{digest.hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        rows = json.loads(path.read_text(encoding="utf-8"))
        known = [Pair(int(i), int(j), Likeness(how), float(value)) for i, j, how, value in rows]
        if all(0 <= pair.first < pair.second < len(hashes) for pair in known):
            return known
    keeper = _Keeper(callback)
    pairs = find_duplicates(
        hashes,
        vectors,
        sources,
        least_cosine=least_cosine,
        most=most,
        callback=keeper,
    )
    if not keeper.lost:
        rows = [(pair.first, pair.second, pair.likeness, pair.similarity) for pair in pairs]
        content = json.dumps(rows).encode()
        # Whoever cannot write it down finds it again.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, lambda file: file.write(content))
    return pairs


class _Keeper(Callback):
    """Passes on what it hears, and keeps in mind whether an image was lost."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.lost = False

    def on_compared(self, done: int, total: int) -> None:
        self.callback.on_compared(done, total)

    def on_skipped(self, place: int, reason: str) -> None:
        self.lost = True
        self.callback.on_skipped(place, reason)


def group_duplicates(pairs: Sequence[Pair], count: int) -> Indices:
    """Returns each image's group: images that pairs connect have the same.

    Args:
        pairs: of `count` images.
        count: N.

    Returns:
        (N,) int64, 0..G-1 in the order of each group's first image.
    """
    roots = list(range(count))

    def find(place: int) -> int:
        while roots[place] != place:
            roots[place] = place = roots[roots[place]]
        return place

    for pair in pairs:
        one, other = find(pair.first), find(pair.second)
        # The root of a group is its first image.
        roots[max(one, other)] = min(one, other)
    firsts = np.array([find(place) for place in range(count)], np.int64)
    _, groups = np.unique(firsts, return_inverse=True)
    return np.asarray(groups, np.int64)


def _pair_same(hashes: Sequence[str]) -> tuple[list[Pair], Indices]:
    """Pairs equal images, each with the next; and returns the first place of each hash."""
    first: list[int] = []
    last: dict[str, int] = {}
    pairs = []
    for place, image in enumerate(hashes):
        if image in last:
            pairs.append(Pair(last[image], place, Likeness.SAME, 1.0))
        else:
            first.append(place)
        last[image] = place
    return pairs, np.array(first, np.int64)


def _choose_threshold(vectors: Rows, least: float = LEAST_COSINE) -> float:
    """Returns the cosine that leaves about `CANDIDATES` pairs per image."""
    count = len(vectors)
    sample = unit(vectors[:: -(-count // SAMPLE)])
    cosines = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    share = min(2 * CANDIDATES / count, 1.0)
    return float(np.clip(np.quantile(cosines, 1 - share), least, MOST_COSINE))


class _Comparison:
    """Compares the pixels of pairs. Indices are within the images of different bytes.

    Attributes:
        pairs: those that are one picture.
        groups: (M,) equal for images that pairs connect: such are not compared again.
        coarse: (M, 1024) uint8 grey pictures, empty until an image is first met.
        met: (M,) whether it was.
        usable: (M,) whether there is a picture, and not one of one colour.
        made: how many coarse pictures were made.
    """

    def __init__(
        self,
        places: Indices,
        hashes: Sequence[str],
        sources: Sequence[Source],
        callback: Callback,
    ) -> None:
        self.places, self.hashes, self.sources = places, hashes, sources
        self.callback = callback
        self.pairs: list[Pair] = []
        self.groups = np.arange(len(places))
        self.coarse = np.zeros((len(places), _COARSE * _COARSE), np.uint8)
        self.met = np.zeros(len(places), np.bool_)
        self.usable = np.zeros(len(places), np.bool_)
        self.made = 0
        self.fine = lru_cache(_KEPT)(self._make_fine)

    def compare(self, block: Indices, fine_lot: int) -> None:
        """Finds the pairs of one picture among candidates, (P, 2), `fine_lot` at once."""
        for start in range(0, len(block), _LOT):
            lot = self._unconnected(block[start : start + _LOT])
            self._meet(np.unique(lot))
            lot = lot[self.usable[lot].all(axis=1)]
            if not len(lot):
                continue
            lot = lot[self._correlate(lot) >= LEAST_CORRELATION]
            for place in range(0, len(lot), fine_lot):
                self._confirm(self._unconnected(lot[place : place + fine_lot]))

    def named_pairs(self) -> list[Pair]:
        """Returns the pairs with the places of the whole data."""
        return [
            Pair(int(self.places[p.first]), int(self.places[p.second]), p.likeness, p.similarity)
            for p in self.pairs
        ]

    def _unconnected(self, lot: Indices) -> Indices:
        apart = self.groups[lot[:, 0]] != self.groups[lot[:, 1]]
        return np.asarray(lot[apart], np.int64)

    def _meet(self, images: Indices) -> None:
        """Makes the coarse pictures of images that have none yet."""
        warm_up.pictures()
        new = images[~self.met[images]]
        self.met[new] = True
        for place, grey in zip(new, in_threads(self._make_coarse, new.tolist()), strict=True):
            if isinstance(grey, ImageError):
                self.callback.on_skipped(int(self.places[place]), str(grey))
            else:
                self.coarse[place] = grey.ravel()
                self.usable[place] = grey.std() >= UNIFORM
            self.made += 1
            self.callback.on_compared(self.made, len(self.places))

    def _correlate(self, lot: Indices) -> Floats32:
        """Returns the correlations of coarse pictures, the higher of either way round, (P,)."""
        first = self.coarse[lot[:, 0]].astype(np.float32)
        second = self.coarse[lot[:, 1]].astype(np.float32)
        mirrored = second.reshape(-1, _COARSE, _COARSE)[:, :, ::-1].reshape(len(lot), -1)
        return np.maximum(correlate(first, second), correlate(first, mirrored))

    def _confirm(self, lot: Indices) -> None:
        """Adds the pairs whose fine pictures differ nowhere; a pair of what is connected, once."""
        images = np.unique(lot).tolist()
        pictures = dict(zip(images, in_threads(self.fine, images), strict=True))
        for first, second in lot.tolist():
            one, other = pictures[first], pictures[second]
            if (
                isinstance(one, ImageError)
                or isinstance(other, ImageError)
                or self.groups[first] == self.groups[second]
            ):
                continue
            for likeness, seen in (
                (Likeness.NEAR, other),
                (Likeness.MIRRORED, other[:, ::-1]),
            ):
                similarity = compare_pictures(one, seen)
                if similarity is not None:
                    self.pairs.append(Pair(first, second, likeness, similarity))
                    self.groups[self.groups == self.groups[second]] = self.groups[first]
                    break

    def _make_coarse(self, place: int) -> Pixels | ImageError:
        try:
            data = self._read(place)
            pixels = decode(data, 2 * _COARSE, Interpolation.BILINEAR)
        except ImageError as error:
            return error
        return np.rint(average(pixels @ _GREY, _COARSE)).astype(np.uint8)

    def _make_fine(self, place: int) -> Floats32 | ImageError:
        try:
            pixels = decode(self._read(place), _DECODED_PX, Interpolation.BILINEAR)
        except ImageError as error:
            return error
        return average(pixels.astype(np.float32), _GRID)

    def _read(self, place: int) -> bytes:
        image = int(self.places[place])
        changed = "the file has changed since its vector was made"
        return read_unchanged(self.sources[image], self.hashes[image], changed)


def compare_pictures(one: Floats32, other: Floats32) -> float | None:
    """Decides whether two pictures are one.

    Args:
        one: (64, 64, 3) float32, 0..255, averages of cells.
        other: the same of the other.

    Returns:
        The correlation of their grey pictures, or None if they differ somewhere.
    """
    for cells, most in DIFFERENCES.items():
        apart = np.abs(average(one - other, cells)).mean(axis=2)
        if apart.max() > most:
            return None
    small = [average(picture @ _GREY, _COARSE).reshape(1, -1) for picture in (one, other)]
    similarity = float(correlate(*small)[0])
    return similarity if similarity >= CORRELATION else None


def correlate(left: Floats32, right: Floats32) -> Floats32:
    """Returns the correlation of each row with its counterpart, (P,), -1..1; 0 for a flat one.

    Args:
        left: (P, V).
        right: (P, V).
    """
    left = left - left.mean(axis=1, keepdims=True)
    right = right - right.mean(axis=1, keepdims=True)
    products = np.einsum("pv,pv->p", left, right)
    squares = np.einsum("pv,pv->p", left, left) * np.einsum("pv,pv->p", right, right)
    return np.asarray(products / np.sqrt(np.where(squares > 0, squares, 1)), np.float32)


def average(pixels: Floats32, cells: int) -> Floats32:
    """Averages a square picture over the cells of a grid.

    Args:
        pixels: (S, S) or (S, S, C); S a multiple of `cells`.
        cells: cells a side.

    Returns:
        (cells, cells) or (cells, cells, C).
    """
    step = len(pixels) // cells
    shape = cells, step, cells, step, *pixels.shape[2:]
    return np.asarray(pixels.reshape(shape).mean(axis=(1, 3)), np.float32)
