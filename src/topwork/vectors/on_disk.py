"""Vectors that are too many for memory: copied to one file, and read from it as needed.

The store keeps vectors in the order in which they were made, often class by class, and each
network and view in an order of its own; training wants them in random order, again and again. So
they are read once, part by part, and copied to random slots of a file without a name, which is
gone with the process. The rows in consecutive slots are then a random sample of all, and are read
as fast as the disk allows, wherever the store is.
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

from topwork.core.arrays import Floats32, Indices
from topwork.core.errors import StoreError
from topwork.vectors.index import Digests, parse_digests
from topwork.vectors.store import DamagedPartError, VectorStore

AnyIndices = NDArray[np.integer[Any]]

# Vectors of fewer bytes stay in memory: 3,409 of 2,048 floats do, 34,090 of 1,280 do not.
HELD_BYTES = 48 << 20
# How much is read and worked on at once: several batches, and little beside a network.
BLOCK_BYTES = 8 << 20


class VectorsOnDisk:
    """N vectors of length D in files. Indexed like an array, it reads just those rows.

    Attributes:
        key: identifies these vectors, without reading them.
        slots: (N,) int64 where in the files each vector is; consecutive slots are read together.
        block_bytes: how much is read and worked on at once.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(
        self, files: Sequence[_File], slots: Indices, key: str, block_bytes: int = BLOCK_BYTES
    ) -> None:
        self.key = key
        self.slots = slots
        self.block_bytes = block_bytes
        self._files = tuple(files)
        self._starts = _find_starts(files)
        self._scale: tuple[Floats32, Floats32] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """N and D."""
        return len(self.slots), self._files[0].length

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._files[0].folder

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, rows: Any) -> Floats32:
        """Returns the vectors (R, D) float32 of some rows, or (D,) of one.

        Raises:
            StoreError: the file cannot be read.
        """
        wanted = self.slots[rows]
        values = self._read(np.ravel(wanted)).reshape(*np.shape(wanted), self.shape[1])
        if self._scale is not None:
            values -= self._scale[0]
            values /= self._scale[1]
        return values

    def select(self, rows: Any) -> VectorsOnDisk:
        """Returns some of the rows, without reading them."""
        chosen = copy(self)
        chosen.slots = self.slots[rows]
        chosen.key = _digest(self.key, np.arange(len(self))[rows])
        return chosen

    def scaled(self, mean: Floats32, deviation: Floats32) -> VectorsOnDisk:
        """Returns these vectors standardized, when read, by a mean (D,) and a deviation (D,)."""
        scaled = copy(self)
        scaled._scale = mean, deviation
        scaled.key = _digest(self.key, mean, deviation)
        return scaled

    def blocks(self, rows: AnyIndices | None = None, size: int | None = None) -> Iterator[Indices]:
        """Divides rows into blocks that are read fast.

        Args:
            rows: (R,) which; None for all.
            size: rows of a block; None for `block_bytes`.

        Yields:
            Positions within `rows`, int64; each is in one block.
        """
        size = size or max(self.block_bytes // (4 * self.shape[1]), 1)
        order = np.argsort(self.slots if rows is None else self.slots[rows])
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _read(self, slots: Indices) -> Floats32:
        values = allocate_rows(len(slots), self.shape[1])
        order = np.argsort(slots)
        ascending = slots[order]
        is_ascending = bool((np.diff(order) == 1).all())
        rows = values if is_ascending else allocate_rows(*values.shape)
        first = 0
        for file, start in zip(self._files, self._starts, strict=True):
            last = int(np.searchsorted(ascending, start + file.count))
            file.read(ascending[first:last] - start, rows[first:last])
            first = last
        if not is_ascending:
            values[order] = rows
        return values


Rows = Floats32 | VectorsOnDisk


def copy_to_disk(
    stores: Sequence[VectorStore], hashes: Sequence[str], *, block_bytes: int = BLOCK_BYTES
) -> VectorsOnDisk:
    """Copies the vectors of N images by several networks from their stores, side by side.

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
    file, slots = _make_file(stores[0].folder, len(hashes), length)
    damaged: list[str] = []
    first = 0
    for store in stores:
        for block in _blocks_by_part(store, digests, block_bytes):
            # The vectors of a damaged part that was set aside are missing.
            rows = block[~store.missing(digests[block])] if damaged else block
            try:
                file.write(slots[rows], store.read(digests[rows]), first)
            except DamagedPartError as error:
                # The other parts are read too, so that all damaged ones are made again at once.
                damaged.append(str(error))
            # Arrow would keep the memory it decoded into, a hundred megabytes and more.
            pa.default_memory_pool().release_unused()
        first += store.vector_length
    if damaged:
        raise DamagedPartError("; ".join(damaged))
    key = _digest(*(store.space.name for store in stores), digests)
    return VectorsOnDisk([file], slots, key, block_bytes)


def write_rows(vectors: Floats32, folder: Path, block_bytes: int = BLOCK_BYTES) -> VectorsOnDisk:
    """Writes vectors (N, D) from memory to disk.

    Args:
        vectors: the vectors.
        folder: where the file is made; if it does not exist, in the nearest folder above it.
        block_bytes: how much is read and worked on at once, later.

    Raises:
        StoreError: there is no room for the file.
    """
    file, slots = _make_file(folder, *vectors.shape)
    file.write(slots, vectors)
    return VectorsOnDisk([file], slots, key_of(vectors), block_bytes)


def concatenate_rows(parts: Sequence[Rows]) -> Rows:
    """Concatenates vectors; the result is in memory only if all of them are."""
    first = next((part for part in parts if isinstance(part, VectorsOnDisk)), None)
    if first is None:
        return np.concatenate([cast(Floats32, part) for part in parts])
    written = [
        part
        if isinstance(part, VectorsOnDisk)
        else write_rows(part, first.folder, first.block_bytes)
        for part in parts
    ]
    files = list(dict.fromkeys(file for part in written for file in part._files))
    starts = dict(zip(files, _find_starts(files), strict=True))
    slots = []
    for part in written:
        pairs = zip(part._files, part._starts, strict=True)
        shifts = np.array([starts[file] - start for file, start in pairs])
        file_of_slot = np.searchsorted(part._starts, part.slots, side="right") - 1
        slots.append(part.slots + shifts[file_of_slot])
    key = _digest(*(part.key for part in written))
    return VectorsOnDisk(files, np.concatenate(slots), key, first.block_bytes)


def select(vectors: Rows, rows: Any) -> Rows:
    """Returns some of the rows; those on disk are not read yet."""
    return vectors.select(rows) if isinstance(vectors, VectorsOnDisk) else vectors[rows]


def map_rows(
    function: Callable[[Floats32], NDArray[Any]], vectors: Rows, rows: AnyIndices | None = None
) -> NDArray[Any]:
    """Applies a function that takes vectors (R, D) and returns R rows, without holding them all.

    Args:
        function: applied to all rows at once if they are in memory, else block by block.
        vectors: N vectors.
        rows: (R,) indices of those it is applied to, in this order; None for all.
    """
    if not isinstance(vectors, VectorsOnDisk):
        return function(vectors if rows is None else vectors[rows])
    results: NDArray[Any] | None = None
    count = len(vectors) if rows is None else len(rows)
    for block in vectors.blocks(rows):
        result = function(vectors[block if rows is None else rows[block]])
        if results is None:
            results = np.empty((count, *result.shape[1:]), result.dtype)
        results[block] = result
    return function(vectors[:0]) if results is None else results


def allocate_rows(count: int, length: int) -> Floats32:
    """Returns zeros (R, D) whose memory goes back to the system as soon as they are freed.

    The allocator would keep it for the thread that used it: a hundred megabytes where threads
    read block after block.
    """
    if not count:
        return np.zeros((0, length), np.float32)
    memory = mmap.mmap(-1, 4 * count * length)
    return np.frombuffer(memory, np.float32).reshape(count, length)


def key_of(vectors: Rows) -> str:
    """Returns what identifies vectors: a hash of their values or, on disk, of what they are of."""
    if isinstance(vectors, VectorsOnDisk):
        return vectors.key
    return _digest(str(vectors.dtype), str(vectors.shape), vectors)


class _File:
    """Rows of D float32 in a file without a name, which is gone when it is no longer used."""

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

    def write(self, slots: Indices, values: Floats32, first: int = 0) -> None:
        """Writes values (R, K) to R slots, from column `first` on."""
        values = np.ascontiguousarray(values, np.float32)
        try:
            for slot, row in zip(slots.tolist(), values, strict=True):
                self._file.seek(4 * (slot * self.length + first))
                if self._file.write(row.data) < row.nbytes:
                    raise OSError("no space left on the device")
        except OSError as error:
            raise self._explain(error) from error

    def read(self, slots: Indices, rows: Floats32) -> None:
        """Reads R ascending slots, consecutive ones at once, into `rows` (R, D) float32."""
        ends = np.flatnonzero(np.diff(slots, append=-1) != 1) + 1
        start = 0
        try:
            with self._lock:
                for end in ends.tolist():
                    self._file.seek(4 * int(slots[start]) * self.length)
                    rest = rows[start:end].data.cast("B")
                    while rest:
                        # One call reads 2 GB at most.
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


def _make_file(folder: Path, count: int, length: int) -> tuple[_File, Indices]:
    # The slots decide the order of training, which must be the same every time.
    return _File(folder, count, length), np.random.default_rng(0).permutation(count)


def _find_starts(files: Sequence[_File]) -> list[int]:
    """Returns the slot of each file's first row, counted through all files."""
    return [0, *np.cumsum([file.count for file in files]).tolist()][:-1]


def _blocks_by_part(
    store: VectorStore, digests: Digests, block_bytes: int
) -> Iterator[NDArray[np.intp]]:
    """Yields indices of digests in the order of the store's parts, about a block at a time."""
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
