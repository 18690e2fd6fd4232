"""SHA-256 digests by the million: 32 bytes each, found again by binary search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Digests = NDArray[np.uint64]
Ints = NDArray[np.int32]
Flags = NDArray[np.bool_]

# Text is parsed in blocks, so that a million digests are not in memory twice.
_BLOCK = 1 << 16
_HEX_DIGITS = 64


def parse_digests(images: Sequence[str] | Digests) -> Digests:
    """Turns N digests of 64 hex digits into (N, 4) uint64; parsed ones are returned as they are.

    Raises:
        ValueError: one is not 64 hex digits.
    """
    if isinstance(images, np.ndarray):
        return images
    digests = np.empty((len(images), 4), np.uint64)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK]
        wrong = next((image for image in block if len(image) != _HEX_DIGITS), None)
        if wrong is not None:
            raise ValueError(f"a SHA-256 must have {_HEX_DIGITS} hex digits, received {wrong!r}")
        data = bytes.fromhex("".join(block))
        if len(data) != len(block) * _HEX_DIGITS // 2:
            raise ValueError(f"a SHA-256 must have {_HEX_DIGITS} hex digits, received blanks")
        digests[start : start + len(block)] = np.frombuffer(data, np.uint64).reshape(-1, 4)
    return digests


def find_firsts(digests: Digests) -> Flags:
    """Returns which of N digests (N, 4) are the first of their value: (N,) bool."""
    order = _order(digests)
    is_new = np.ones(len(digests), np.bool_)
    is_new[1:] = _differ(digests[order])
    firsts = np.empty(len(digests), np.bool_)
    firsts[order] = is_new
    return firsts


class Locations:
    """The part and row that hold the vector of each of many images.

    They are kept in a few sorted runs, each at least twice as long as the next, so that another
    part is added fast and a search goes over few runs. An image may be in several parts.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        """Returns how many different images there are."""
        if len(self._runs) > 1:
            self._runs = [_merge(self._runs)]
        return sum(1 + int(_differ(run.digests).sum()) for run in self._runs)

    def add(self, digests: Digests, parts: Ints, rows: Ints) -> None:
        """Adds N images (N, 4) with the parts and rows of their vectors, each (N,)."""
        if not len(digests):
            return
        self._runs.append(_merge([_Run(digests, parts, rows)]))
        while len(self._runs) > 1 and len(self._runs[-2].rows) < 2 * len(self._runs[-1].rows):
            self._runs[-2:] = [_merge(self._runs[-2:])]

    def drop(self, parts: Iterable[int]) -> None:
        """Forgets the vectors in some parts."""
        gone = np.fromiter(parts, np.int32)
        if not len(gone):
            return
        kept = [run.select(~np.isin(run.parts, gone)) for run in self._runs]
        self._runs = [run for run in kept if len(run.rows)]

    def find(self, digests: Digests) -> tuple[Ints, Ints]:
        """Returns part and row of each of N images (N, 4), both -1 where there is none."""
        parts, rows = np.full((2, len(digests)), -1, np.int32)
        # Sorted, because a search then goes through memory from one end to the other.
        left = np.argsort(digests[:, 0])
        for run in self._runs:
            found, indices = run.find(digests[left])
            parts[left[found]] = run.parts[indices]
            rows[left[found]] = run.rows[indices]
            left = left[~found]
        return parts, rows


@dataclass(frozen=True)
class _Run:
    """Digests (N, 4) with part and row, each (N,) int32; sorted once they come from `_merge`."""

    digests: Digests
    parts: Ints
    rows: Ints

    def select(self, chosen: NDArray[Any]) -> _Run:
        return _Run(self.digests[chosen], self.parts[chosen], self.rows[chosen])

    def find(self, wanted: Digests) -> tuple[Flags, NDArray[np.intp]]:
        """Returns which of M digests (M, 4) are here, (M,), and the indices of those that are."""
        first = self.digests[:, 0]
        indices = np.searchsorted(first, wanted[:, 0])
        found = np.zeros(len(wanted), np.bool_)
        undecided = np.arange(len(wanted))
        # The first eight bytes nearly always decide: among a million digests, two have the same
        # with a chance of one in 10^7.
        while len(undecided):
            at = indices[undecided]
            alike = at < len(first)
            alike[alike] = first[at[alike]] == wanted[undecided[alike], 0]
            undecided = undecided[alike]
            same = (self.digests[indices[undecided]] == wanted[undecided]).all(axis=1)
            found[undecided[same]] = True
            undecided = undecided[~same]
            indices[undecided] += 1
        return found, indices[found]


def _merge(runs: list[_Run]) -> _Run:
    digests = np.concatenate([run.digests for run in runs])
    order = _order(digests)
    parts = np.concatenate([run.parts for run in runs])
    rows = np.concatenate([run.rows for run in runs])
    return _Run(digests[order], parts[order], rows[order])


def _order(digests: Digests) -> NDArray[np.intp]:
    """Returns the order in which equal digests follow each other, the earlier first."""
    order = np.argsort(digests[:, 0], kind="stable")
    first = digests[order, 0]
    if (first[1:] == first[:-1]).any():
        return np.lexsort(digests.T[::-1])
    return order


def _differ(digests: Digests) -> Flags:
    """Returns whether each digest but the first differs from the one before it."""
    return np.asarray((digests[1:] != digests[:-1]).any(axis=1))
