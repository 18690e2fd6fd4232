"""Images that occur twice: the same bytes, or the same picture saved again.

Pairs whose vectors are alike are candidates; `same_picture` decides by their pixels. The figures
beside the constants were measured on the photographs that are described there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np

from topwork.core import warm_up
from topwork.core.arrays import Floats32, Indices, Pixels
from topwork.core.callbacks import SILENT, Callback
from topwork.core.connected import connect
from topwork.core.errors import ImageError, SettingsError
from topwork.core.parallel import in_threads
from topwork.images.decode import Source
from topwork.images.thumbnails import read_header
from topwork.images.verify import read_unchanged
from topwork.vectors.candidates import WHOLE, Effort, choose_threshold, pair_nearest
from topwork.vectors.neighbors import similar_blocks
from topwork.vectors.on_disk import Rows, select
from topwork.vectors.registration import Upright, register
from topwork.vectors.same_picture import (
    COARSE,
    LEAST_CORRELATION,
    UNIFORM,
    compare_pictures,
    correlate_coarse,
    make_coarse,
    make_fine,
    open_square,
)

# All pairs of vectors are compared, which takes minutes for so many images and four times as long
# for twice as many: by default, more images are only compared by their bytes.
MOST_COMPARED = 100_000

# Pairs that are compared at once, by coarse and by fine pictures; fine ones kept, 48 kB each.
_BATCH = 1024
_FINE_BATCH = 256
_REGISTERED = 128
_KEPT = 1024


class Likeness(StrEnum):
    """How two images are alike."""

    SAME = "same"  # the same bytes
    NEAR = "near"  # the same picture: another quality, format or size
    MIRRORED = "mirrored"  # the same picture, left to right
    CHANGED = "changed"  # the same picture, cut, turned, or made grey, darker or brighter


@dataclass(frozen=True)
class Pair:
    """Two images that show one picture.

    Attributes:
        first: index of the one.
        second: index of the other, above `first`.
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
    effort: Effort = WHOLE,
    fine_batch: int = _FINE_BATCH,
    most: int | None = None,
    ranges: str = "",
    callback: Callback = SILENT,
) -> list[Pair]:
    """Finds images that show one picture.

    Among those whose vectors are alike, copies of other quality, format or size, and mirrored
    ones; among the nearest of each image also what was cut, turned, or made grey, darker or
    brighter. Not looked for are copies that were mirrored and changed besides, cut to less than
    two thirds of a side, stretched, or given other colors.

    The pairs connect all copies of a picture and no more: n copies make n - 1 pairs, of equal
    bytes each with the next. `group_duplicates` makes groups of them. Pictures of a single color
    are copies only if they have the same bytes.

    Args:
        hashes: SHA-256 of each image's bytes, hex; N.
        vectors: (N, D) float32 of the same images, in memory or on disk.
        sources: where the bytes of each come from.
        effort: how many pairs are compared.
        fine_batch: pairs whose fine pictures are compared at once.
        most: of more images than this, only those with the same bytes are found; None for any
            number.
        ranges: as for `images.decode.decode`.
        callback: told, in the caller's thread, how many small pictures were made and how many
            may be needed at most, and which images cannot be read or decoded any more or have
            changed; these are compared only by their bytes.

    Returns:
        The pairs, by first index.

    Raises:
        SettingsError: hashes, vectors and sources of different numbers of images.
    """
    if not len(hashes) == len(vectors) == len(sources):
        raise SettingsError(
            "hashes, vectors and sources must be of the same images, received "
            f"{len(hashes)}, {len(vectors)} and {len(sources)}"
        )
    same, firsts = _pair_same(hashes)
    if most is not None and len(firsts) > most:
        return sorted(same, key=lambda pair: (pair.first, pair.second))
    comparison = _Comparison(firsts, hashes, sources, ranges, callback)
    if len(firsts) > 1:
        chosen = vectors if len(firsts) == len(vectors) else select(vectors, firsts)
        for block in similar_blocks(chosen, choose_threshold(chosen, effort.least_cosine)):
            comparison.compare(block, fine_batch)
        if len(firsts) <= effort.most_registered:
            comparison.register(pair_nearest(chosen, effort))
    callback.on_compared(len(firsts), len(firsts))
    return sorted(same + comparison.find_indices(), key=lambda pair: (pair.first, pair.second))


def group_duplicates(pairs: Sequence[Pair], count: int) -> Indices:
    """Returns each image's group: images that pairs connect have the same.

    Args:
        pairs: of `count` images.
        count: N.

    Returns:
        (N,) int64, 0..G-1 in the order of each group's first image.
    """
    return connect(((pair.first, pair.second) for pair in pairs), count)


def _pair_same(hashes: Sequence[str]) -> tuple[list[Pair], Indices]:
    """Returns the pairs of equal images, each with the next, and the first index of each hash."""
    firsts: list[int] = []
    last: dict[str, int] = {}
    pairs = []
    for index, sha256 in enumerate(hashes):
        if sha256 in last:
            pairs.append(Pair(last[sha256], index, Likeness.SAME, 1.0))
        else:
            firsts.append(index)
        last[sha256] = index
    return pairs, np.array(firsts, np.int64)


class _Comparison:
    """Compares the pixels of pairs of M images with different bytes, numbered from 0.

    Attributes:
        indices: (M,) of these images in the data.
        pairs: those that show one picture, by the numbers here.
        groups: (M,) equal for images that pairs connect: these are not compared again.
        coarse: (M, 1024) uint8 grey pictures, zeros until they are needed.
        seen: (M,) whether the coarse picture was needed so far.
        usable: (M,) whether the image could be decoded, and is not of one color.
        upright: M pictures in their own proportions, zeros until they are needed.
        placed: (M,) whether the upright picture was needed so far.
        made: how many coarse pictures were made.
    """

    def __init__(
        self,
        indices: Indices,
        hashes: Sequence[str],
        sources: Sequence[Source],
        ranges: str,
        callback: Callback,
    ) -> None:
        self.indices, self.hashes, self.sources = indices, hashes, sources
        self.ranges = ranges
        self.callback = callback
        self.pairs: list[Pair] = []
        self.groups = np.arange(len(indices))
        self.coarse = np.zeros((len(indices), COARSE * COARSE), np.uint8)
        self.seen = np.zeros(len(indices), np.bool_)
        self.usable = np.zeros(len(indices), np.bool_)
        self.upright = Upright.allocate(len(indices))
        self.placed = np.zeros(len(indices), np.bool_)
        self.made = 0
        self.fine = lru_cache(_KEPT)(self._make_fine)

    def compare(self, candidates: Indices, fine_batch: int) -> None:
        """Finds the pairs that show one picture.

        Args:
            candidates: (P, 2) numbers of images.
            fine_batch: pairs whose fine pictures are compared at once.
        """
        for start in range(0, len(candidates), _BATCH):
            pairs = self._unconnected(candidates[start : start + _BATCH])
            self._add_coarse(np.unique(pairs))
            pairs = pairs[self.usable[pairs].all(axis=1)]
            if not len(pairs):
                continue
            correlations = correlate_coarse(self.coarse[pairs[:, 0]], self.coarse[pairs[:, 1]])
            pairs = pairs[correlations >= LEAST_CORRELATION]
            for first in range(0, len(pairs), fine_batch):
                self._confirm(self._unconnected(pairs[first : first + fine_batch]))

    def register(self, candidates: Indices) -> None:
        """Finds the pairs that show one picture, one of them cut, turned or of other greys."""
        for start in range(0, len(candidates), _BATCH):
            pairs = self._unconnected(candidates[start : start + _BATCH])
            self._add_coarse(np.unique(pairs))
            pairs = pairs[self.usable[pairs].all(axis=1)]
            self._add_upright(np.unique(pairs))
            pairs = pairs[self.usable[pairs].all(axis=1)]
            if not len(pairs):
                continue
            parts = [pairs[row : row + _REGISTERED] for row in range(0, len(pairs), _REGISTERED)]
            found = np.concatenate(list(in_threads(self._register, parts)))
            for row in np.flatnonzero(np.isfinite(found)):
                first, second = pairs[row].tolist()
                if self.groups[first] != self.groups[second]:
                    self._connect(Pair(first, second, Likeness.CHANGED, float(found[row])))

    def _register(self, pairs: Indices) -> Floats32:
        return register(self.upright, pairs[:, 0], pairs[:, 1])

    def _connect(self, pair: Pair) -> None:
        self.pairs.append(pair)
        self.groups[self.groups == self.groups[pair.second]] = self.groups[pair.first]

    def find_indices(self) -> list[Pair]:
        """Returns the pairs with the indices of their images in the data."""
        return [
            Pair(int(self.indices[p.first]), int(self.indices[p.second]), p.likeness, p.similarity)
            for p in self.pairs
        ]

    def _unconnected(self, pairs: Indices) -> Indices:
        apart = self.groups[pairs[:, 0]] != self.groups[pairs[:, 1]]
        return np.asarray(pairs[apart], np.int64)

    def _add_coarse(self, images: Indices) -> None:
        """Makes the coarse pictures of images that have none yet."""
        warm_up.decoding()
        new = images[~self.seen[images]]
        self.seen[new] = True
        for number, grey in zip(new, in_threads(self._make_coarse, new.tolist()), strict=True):
            if isinstance(grey, ImageError):
                self.callback.on_skipped(int(self.indices[number]), str(grey))
            else:
                self.coarse[number] = grey.ravel()
                self.usable[number] = grey.std() >= UNIFORM
            self.made += 1
            self.callback.on_compared(self.made, len(self.indices))

    def _add_upright(self, images: Indices) -> None:
        """Makes the upright pictures of images that have none yet."""
        warm_up.registering()
        new = images[~self.placed[images]]
        self.placed[new] = True
        for number, error in zip(new, in_threads(self._make_upright, new.tolist()), strict=True):
            if error is not None:
                self.callback.on_skipped(int(self.indices[number]), str(error))
                self.usable[number] = False

    def _confirm(self, pairs: Indices) -> None:
        """Adds the pairs whose fine pictures are the same, and that no others connect."""
        images = np.unique(pairs).tolist()
        pictures = dict(zip(images, in_threads(self.fine, images), strict=True))
        for first, second in pairs.tolist():
            one, other = pictures[first], pictures[second]
            if (
                isinstance(one, ImageError)
                or isinstance(other, ImageError)
                or self.groups[first] == self.groups[second]
            ):
                continue
            for likeness, turned in (
                (Likeness.NEAR, other),
                (Likeness.MIRRORED, other[:, ::-1]),
            ):
                similarity = compare_pictures(one, turned)
                if similarity is not None:
                    self._connect(Pair(first, second, likeness, similarity))
                    break

    def _make_coarse(self, number: int) -> Pixels | ImageError:
        try:
            return make_coarse(self._read(number), self.ranges)
        except ImageError as error:
            return error

    def _make_upright(self, number: int) -> ImageError | None:
        try:
            data = self._read(number)
            square, header = open_square(data, self.ranges), read_header(data)
        except ImageError as error:
            return error
        self.upright.put(number, square, header.width, header.height)
        return None

    def _make_fine(self, number: int) -> Floats32 | ImageError:
        try:
            return make_fine(self._read(number), self.ranges)
        except ImageError as error:
            return error

    def _read(self, number: int) -> bytes:
        index = int(self.indices[number])
        changed = "the file has changed since its vector was made"
        return read_unchanged(self.sources[index], self.hashes[index], changed)
