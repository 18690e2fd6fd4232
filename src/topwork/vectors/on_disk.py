"""Vectors that are too many to hold: laid out in a file once, then read as they are needed.

The store has them in the order in which they were made, often class by class, and each network
and view in an order of its own; training wants them in random order, again and again. So they
are read once, part by part, and copied to places drawn at random in a file without a name, which
is gone with the process. Rows at consecutive places are then a random sample of all, and
are read as fast as the disk allows, wherever the store is.
"""

from __future__ import annotations

import hashlib
import mmap
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from topwork.core.errors import StoreError
from topwork.vectors.index import Digests, parse_digests
from topwork.vectors.store import DamagedPartError, Floats, VectorStore

Places = NDArray[np.int64]
Indices = NDArray[np.integer[Any]]

# Vectors of fewer bytes are held: 3,409 of 2,048 floats, and not 34,090 of 1,280.
HELD_BYTES = 48 << 20
# Rows that are read and worked on at once: several batches, and little beside a network.
BLOCK_BYTES = 8 << 20


class StoredVectors:
    """N vectors of length D in files. Indexed like an array, it reads just those rows.

    Attributes:
        key: what tells these vectors from others, without reading them.
        places: (N,) where each lies; rows at consecutive places are read together.
        block_bytes: how much is read and worked on at once.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(
        self, files: Sequence[_File], places: Places, key: str, block_bytes: int = BLOCK_BYTES
    ) -> None:
        self.key = key
        self.places = places
        self.block_bytes = block_bytes
        self._files = tuple(files)
        self._starts = _find_starts(files)
        self._scale: tuple[Floats, Floats] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """N and D."""
        return len(self.places), self._files[0].length

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._files[0].folder

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: Any) -> Floats:
        """Returns the vectors (R, D) float32 of some rows, or (D,) of one.

        Raises:
            StoreError: the file cannot be read.
        """
        wanted = self.places[rows]
        values = self._read(np.ravel(wanted)).reshape(*np.shape(wanted), self.shape[1])
        if self._scale is not None:
            values -= self._scale[0]
            values /= self._scale[1]
        return values

    def select(self, rows: Any) -> StoredVectors:
        """Returns some of the rows, without reading them."""
        chosen = copy(self)
        chosen.places = self.places[rows]
        chosen.key = _digest(self.key, np.arange(len(self))[rows])
        return chosen

    def scaled(self, mean: Floats, deviation: Floats) -> StoredVectors:
        """Returns the same vectors less a mean (D,), divided by a deviation (D,), when read."""
        scaled = copy(self)
        scaled._scale = mean, deviation
        scaled.key = _digest(self.key, mean, deviation)
        return scaled

    def blocks(self, rows: Indices | None = None, size: int | None = None) -> Iterator[Places]:
        """Divides rows into blocks that are read fast.

        Args:
            rows: (R,) which; None for all.
            size: rows of a block; None for `block_bytes`.

        Yields:
            Places within `rows`; every one is in one block.
        """
        size = size or max(self.block_bytes // (4 * self.shape[1]), 1)
        order = np.argsort(self.places if rows is None else self.places[rows])
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _read(self, wanted: Places) -> Floats:
        values = make_rows(len(wanted), self.shape[1])
        order = np.argsort(wanted)
        inside = wanted[order]
        straight = bool((np.diff(order) == 1).all())
        rows = values if straight else make_rows(*values.shape)
        first = 0
        for file, start in zip(self._files, self._starts, strict=True):
            last = int(np.searchsorted(inside, start + file.count))
            file.read(inside[first:last] - start, rows[first:last])
            first = last
        if not straight:
            values[order] = rows
        return values


Rows = Floats | StoredVectors


def lay_out(
    stores: Sequence[VectorStore], hashes: Sequence[str], *, block_bytes: int = BLOCK_BYTES
) -> StoredVectors:
    """Lays out the vectors of N images by several networks, side by side.

    Args:
        stores: of the networks; each has the vectors of all images.
        hashes: of the N images, at least one.
        block_bytes: how much is read and worked on at once, now and later.

    Raises:
        DamagedPartError: parts turned out to be damaged; call `refresh` and look again.
        StoreError: a part cannot be read, or there is no room for the file.
    """
    import pyarrow as pa

    length = sum(store.vector_length for store in stores)
    digests = parse_digests(hashes)
    file, places = _make_file(stores[0].folder, len(hashes), length)
    damaged: list[str] = []
    first = 0
    for store in stores:
        for block in _find_together(store, digests, block_bytes):
            # Of a part that was set aside the rest is missing.
            rows = block[~store.missing(digests[block])] if damaged else block
            try:
                file.write(places[rows], store.read(digests[rows]), first)
            except DamagedPartError as error:
                # Look at the others too: all of them are then computed again at once.
                damaged.append(str(error))
            # What parts were decoded in would stay, a hundred megabytes and more.
            pa.default_memory_pool().release_unused()
        first += store.vector_length
    if damaged:
        raise DamagedPartError("; ".join(damaged))
    key = _digest(*(store.space.name for store in stores), digests)
    return StoredVectors([file], places, key, block_bytes)


def lay(parts: Sequence[Rows]) -> Rows:
    """Lays vectors one after the other; held only if all of them are."""
    stored = [part for part in parts if isinstance(part, StoredVectors)]
    if not stored:
        return np.concatenate([cast(Floats, part) for part in parts])
    laid = [
        part
        if isinstance(part, StoredVectors)
        else _put_down(part, stored[0].folder, stored[0].block_bytes)
        for part in parts
    ]
    files = list(dict.fromkeys(file for part in laid for file in part._files))
    starts = dict(zip(files, _find_starts(files), strict=True))
    places = []
    for part in laid:
        own = np.searchsorted(part._starts, part.places, side="right") - 1
        pairs = zip(part._files, part._starts, strict=True)
        moved = np.array([starts[file] - start for file, start in pairs])
        places.append(part.places + moved[own])
    key = _digest(*(part.key for part in laid))
    return StoredVectors(files, np.concatenate(places), key, stored[0].block_bytes)


def select(vectors: Rows, rows: Any) -> Rows:
    """Returns some of the rows; those of stored vectors are not read yet."""
    return vectors.select(rows) if isinstance(vectors, StoredVectors) else vectors[rows]


def map_rows(
    function: Callable[[Floats], NDArray[Any]], vectors: Rows, rows: Indices | None = None
) -> NDArray[Any]:
    """Applies a function that takes vectors (R, D) and returns R rows, without holding them all.

    Args:
        function: applied to all rows at once if they are held, else block by block.
        vectors: N vectors.
        rows: (R,) to which, in this order; None for all.
    """
    if not isinstance(vectors, StoredVectors):
        return function(vectors if rows is None else vectors[rows])
    answers: NDArray[Any] | None = None
    count = len(vectors) if rows is None else len(rows)
    for some in vectors.blocks(rows):
        found = function(vectors[some if rows is None else rows[some]])
        if answers is None:
            answers = np.empty((count, *found.shape[1:]), found.dtype)
        answers[some] = found
    return function(vectors[:0]) if answers is None else answers


def make_rows(count: int, length: int) -> Floats:
    """Returns zeros (R, D) whose memory the system has back as soon as nobody needs them.

    What is freed otherwise stays with the thread that had it, for the next time: a hundred
    megabytes, where threads read block after block.
    """
    if not count:
        return np.zeros((0, length), np.float32)
    memory = mmap.mmap(-1, 4 * count * length)
    return np.frombuffer(memory, np.float32).reshape(count, length)


def key_of(vectors: Rows) -> str:
    """Returns what tells vectors from others: by their values, or by what they are of."""
    if isinstance(vectors, StoredVectors):
        return vectors.key
    return _digest(str(vectors.dtype), str(vectors.shape), vectors)


class _File:
    """Rows of D float32 in a file without a name, which is gone when nobody has it any more."""

    def __init__(self, folder: Path, count: int, length: int) -> None:
        self.count, self.length = count, length
        self.folder = next(path for path in (folder, *folder.parents) if path.is_dir())
        size = 4 * count * length
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise StoreError(
                f"{count} vectors of {length} values do not fit in memory and are laid out in "
                f"{self.folder} while this runs, which takes {size / 1e9:.1f} GB there; "
                f"{free / 1e9:.1f} GB are free. Make room or choose another place with --store"
            )
        try:
            self._file = tempfile.TemporaryFile(buffering=0, dir=self.folder)  # noqa: SIM115
        except OSError as error:
            raise self._explain(error) from error
        self._lock = Lock()
        weakref.finalize(self, self._file.close)

    def write(self, places: Places, values: Floats, first: int = 0) -> None:
        """Writes values (R, K) to rows, from one column on."""
        values = np.ascontiguousarray(values, np.float32)
        try:
            for place, row in zip(places.tolist(), values, strict=True):
                self._file.seek(4 * (place * self.length + first))
                if self._file.write(row.data) < row.nbytes:
                    raise OSError("no space left on the device")
        except OSError as error:
            raise self._explain(error) from error

    def read(self, places: Places, rows: Floats) -> None:
        """Reads ascending rows, neighbours together, into (R, D) float32."""
        ends = np.flatnonzero(np.diff(places, append=-1) != 1) + 1
        start = 0
        try:
            with self._lock:
                for end in ends.tolist():
                    self._file.seek(4 * int(places[start]) * self.length)
                    rest = rows[start:end].data.cast("B")
                    while rest:
                        # No system reads more than 2 GB at once.
                        count = self._file.readinto(rest)
                        if not count:
                            raise OSError("its end is missing")
                        rest = rest[count:]
                    start = end
        except OSError as error:
            raise self._explain(error) from error

    def _explain(self, error: OSError) -> StoreError:
        return StoreError(
            f"cannot lay out vectors in {self.folder}: {error.strerror or error}. Those in the "
            "store are kept; choose another place with --store, and run again"
        )


def _make_file(folder: Path, count: int, length: int) -> tuple[_File, Places]:
    # The places decide the order of training, which is to be the same every time.
    return _File(folder, count, length), np.random.default_rng(0).permutation(count)


def _find_starts(files: Sequence[_File]) -> list[int]:
    """Returns the place of each file's first row; files lie one after the other."""
    return [0, *np.cumsum([file.count for file in files]).tolist()][:-1]


def _put_down(vectors: Floats, folder: Path, block_bytes: int = BLOCK_BYTES) -> StoredVectors:
    file, places = _make_file(folder, *vectors.shape)
    file.write(places, vectors)
    return StoredVectors([file], places, key_of(vectors), block_bytes)


def _find_together(store: VectorStore, digests: Digests, block_bytes: int) -> Iterator[Places]:
    """Yields rows that lie together in the store, about a block at a time."""
    parts, rows = store.locate(digests)
    order = np.lexsort((rows, parts))
    size = max(block_bytes // (4 * store.vector_length), 1)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _digest(*contents: Any) -> str:
    digest = hashlib.sha256()
    for content in contents:
        is_text = isinstance(content, str)
        digest.update(content.encode() if is_text else np.ascontiguousarray(content).data)
        digest.update(b";")
    return digest.hexdigest()
