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

# Text is turned into bytes by blocks, so that a million digests are not in memory twice.
_BLOCK = 1 << 16
_HEX_DIGITS = 64


def parse_digests(images: Sequence[str] | Digests) -> Digests:
    """Turns N digests of 64 hex digits into (N, 4) uint64; what is parsed already stays.

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
    """Tells of N digests (N, 4) which are the first of their value: (N,) bool."""
    order = _order(digests)
    is_new = np.ones(len(digests), np.bool_)
    is_new[1:] = _differ(digests[order])
    firsts = np.empty(len(digests), np.bool_)
    firsts[order] = is_new
    return firsts


class Locations:
    """In which part and row the vector of each of many images lies.

    They are kept in a few sorted runs, each at least twice as long as the next, so that a part
    more costs little and a search goes over few of them. An image may be in several parts.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        """Returns how many different images there are."""
        if len(self._runs) > 1:
            self._runs = [_merge(self._runs)]
        return sum(1 + int(_differ(run.digests).sum()) for run in self._runs)

    def add(self, digests: Digests, parts: Ints, rows: Ints) -> None:
        """Takes in N images, (N, 4), with the parts and rows of their vectors, each (N,)."""
        if not len(digests):
            return
        self._runs.append(_merge([_Run(digests, parts, rows)]))
        while len(self._runs) > 1 and len(self._runs[-2].rows) < 2 * len(self._runs[-1].rows):
            self._runs[-2:] = [_merge(self._runs[-2:])]

    def drop(self, parts: Iterable[int]) -> None:
        """Forgets what lies in some parts."""
        gone = np.fromiter(parts, np.int32)
        if not len(gone):
            return
        kept = [run.select(~np.isin(run.parts, gone)) for run in self._runs]
        self._runs = [run for run in kept if len(run.rows)]

    def find(self, digests: Digests) -> tuple[Ints, Ints]:
        """Returns part and row of each of N images (N, 4), both -1 where there is none."""
        parts, rows = np.full((2, len(digests)), -1, np.int32)
        # In order, a search goes through memory from one end to the other.
        left = np.argsort(digests[:, 0])
        for run in self._runs:
            found, places = run.find(digests[left])
            parts[left[found]] = run.parts[places]
            rows[left[found]] = run.rows[places]
            left = left[~found]
        return parts, rows


@dataclass(frozen=True)
class _Run:
    """Digests (N, 4), sorted unless they are just to be, with part and row, each (N,) int32."""

    digests: Digests
    parts: Ints
    rows: Ints

    def select(self, chosen: NDArray[Any]) -> _Run:
        return _Run(self.digests[chosen], self.parts[chosen], self.rows[chosen])

    def find(self, wanted: Digests) -> tuple[Flags, NDArray[np.intp]]:
        """Returns which digests are here, (M,), and the places of those."""
        first = self.digests[:, 0]
        places = np.searchsorted(first, wanted[:, 0])
        found = np.zeros(len(wanted), np.bool_)
        looking = np.arange(len(wanted))
        # The first eight bytes decide, but for a chance of one in 10^7 among a million.
        while len(looking):
            at = places[looking]
            alike = at < len(first)
            alike[alike] = first[at[alike]] == wanted[looking[alike], 0]
            looking = looking[alike]
            same = (self.digests[places[looking]] == wanted[looking]).all(axis=1)
            found[looking[same]] = True
            looking = looking[~same]
            places[looking] += 1
        return found, places[found]


def _merge(runs: list[_Run]) -> _Run:
    digests = np.concatenate([run.digests for run in runs])
    order = _order(digests)
    parts = np.concatenate([run.parts for run in runs])
    rows = np.concatenate([run.rows for run in runs])
    return _Run(digests[order], parts[order], rows[order])


def _order(digests: Digests) -> NDArray[np.intp]:
    """Returns the order in which equal digests are neighbours, the earlier first."""
    order = np.argsort(digests[:, 0], kind="stable")
    first = digests[order, 0]
    if (first[1:] == first[:-1]).any():
        return np.lexsort(digests.T[::-1])
    return order


def _differ(digests: Digests) -> Flags:
    """Tells of each digest but the first whether it differs from the one before it."""
    return np.asarray((digests[1:] != digests[:-1]).any(axis=1))
