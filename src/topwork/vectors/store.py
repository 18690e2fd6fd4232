"""Vectors of one kind, kept in parts that are written whole or not at all.

The parts of a space are in one folder, beside a `space.json` that describes the space:

    <store>/vectors/xception-150-9f2c…/space.json
                                       part-5b1e….parquet

A part never changes, and its name is the hash of its content, so runs that share a store cannot
conflict. Small parts may be replaced by a larger one with the same vectors; see `maintenance`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import Floats32
from topwork.core.errors import StoreError
from topwork.vectors.backends import open_folder
from topwork.vectors.index import Digests, Ints, Locations, parse_digests
from topwork.vectors.parquet import (
    BrokenError,
    DamagedPartError,
    is_part,
    read_images,
    read_part,
    read_vectors,
    set_aside,
    write_part,
)
from topwork.vectors.space import Space

__all__ = ["DamagedPartError", "VectorStore"]

VECTORS, RECORD = "vectors", "space.json"

Item = TypeVar("Item")
Result = TypeVar("Result")


class VectorStore:
    """The parts of one space.

    Args:
        root: the store's folder; made when the first part is written.
        space: which vectors.
        vector_length: D of every vector.

    Attributes:
        folder: of this space in the store's folder.
        address: where the parts are: that folder, or a folder in a bucket.
        set_aside: addresses of the damaged parts that were found.
    """

    def __init__(self, root: Path, space: Space, vector_length: int) -> None:
        self.space = space
        self.vector_length = vector_length
        self.folder = root / VECTORS / space.name
        self._files = open_folder(root, VECTORS, space.name)
        self.address = self._files.address
        self.set_aside: list[str] = []
        self._locations = Locations()
        # The number of a part never changes.
        self._names: list[str] = []
        self._sizes: list[int] = []
        self._numbers: dict[str, int] = {}

    @property
    def locks_folder(self) -> Path | None:
        """Where processes on this machine lock what they work on; None if they do not."""
        return self._files.local and self._files.local / "claims"

    @property
    def part_sizes(self) -> dict[str, int]:
        """The number of vectors of each part, by its name."""
        return {name: self._sizes[number] for name, number in self._numbers.items()}

    def refresh(self) -> None:
        """Lists the parts again: finds new ones and forgets those that were removed.

        Raises:
            StoreError: the folder cannot be read.
        """
        try:
            listed = {name for name in self._files.list_names() if is_part(name)}
        except OSError as error:
            raise StoreError(f"cannot read the store {self.address}: {error.strerror}") from error
        self._forget(self._numbers.keys() - listed)
        new = sorted(listed - self._numbers.keys())
        found = {}
        for name, digests in zip(new, self._in_threads(self._read_images, new), strict=True):
            if isinstance(digests, BrokenError):
                self._put_aside(name)
            elif digests is not None:
                found[name] = digests
        self._add(found)

    def __contains__(self, image: str) -> bool:
        return not self.missing([image])[0]

    def __len__(self) -> int:
        return len(self._locations)

    def missing(self, images: Sequence[str] | Digests) -> NDArray[np.bool_]:
        """Returns which of N images have no vector here, as of the last `refresh`: (N,) bool.

        Args:
            images: hashes, or digests (N, 4) of `index.parse_digests`.
        """
        return np.asarray(self._locations.find(parse_digests(images))[0] < 0)

    def locate(self, images: Sequence[str] | Digests) -> tuple[Ints, Ints]:
        """Returns where the vectors of N images are, to read them part by part.

        Args:
            images: as for `missing`.

        Returns:
            The numbers of the parts and the rows in them, each (N,) int32.

        Raises:
            KeyError: an image has no vector here.
        """
        digests = parse_digests(images)
        parts, rows = self._locations.find(digests)
        lacking = np.flatnonzero(parts < 0)
        if len(lacking):
            raise KeyError(digests[lacking[0]].tobytes().hex())
        return parts, rows

    def read(self, images: Sequence[str] | Digests) -> Floats32:
        """Returns the vectors (N, D) float32 of N images, in their order.

        The fewer parts hold them, the faster it is. Parts may be replaced by a larger one
        meanwhile.

        Args:
            images: as for `missing`.

        Raises:
            KeyError: an image has no vector here.
            DamagedPartError: parts turned out to be damaged; call `refresh` and look again.
            StoreError: a part cannot be read, though nothing says that it is damaged.
        """
        digests = parse_digests(images)
        values = np.empty((len(digests), self.vector_length), np.float32)
        wanted = np.arange(len(digests))
        while len(wanted):
            gone = self._read_into(values, wanted, *self.locate(digests[wanted]))
            if not gone:
                break
            self.refresh()
            wanted = np.concatenate([*gone.values()])
            if self.missing(digests[wanted]).any():
                lost = "; ".join(f"{self.address}/{name}: it is gone" for name in gone)
                raise DamagedPartError(lost)
        return values

    def read_part(self, name: str) -> tuple[list[str], Floats32]:
        """Returns all images of a part, N hashes, and their vectors (N, D).

        Raises:
            FileNotFoundError: it is gone.
            DamagedPartError: it is damaged, and was set aside.
            StoreError: it cannot be read, though nothing says that it is damaged.
        """
        try:
            return read_part(self._files, name, self.vector_length)
        except BrokenError as error:
            self._put_aside(name)
            raise DamagedPartError(f"{self.address}/{name}: {error}") from error

    def check_writable(self) -> None:
        """Refuses a store that cannot be written, before vectors are made for it.

        Raises:
            StoreError: with the reason.
        """
        try:
            self._write_record()
        except OSError as error:
            raise self._say_unwritable(error) from error

    def _say_unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            f"cannot write vectors to {self.address}: {error.strerror or error}. The {len(self)} "
            "vectors already there are kept; make room or choose another place with --store, and "
            "run again"
        )

    def write(self, images: Sequence[str], vectors: Floats32) -> str:
        """Writes one part and returns its address.

        Args:
            images: N hashes.
            vectors: (N, D) float32.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        digests = parse_digests(images)
        try:
            self._write_record()
            name = write_part(self._files, images, vectors)
        except OSError as error:
            raise self._say_unwritable(error) from error
        self._add({name: digests})
        return f"{self.address}/{name}"

    def remove(self, names: Iterable[str]) -> None:
        """Removes parts whose vectors are in others too.

        Raises:
            StoreError: one cannot be removed.
        """
        gone = []
        try:
            for name in names:
                self._files.remove(name)
                gone.append(name)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(f"cannot remove parts of {self.address}: {reason}") from error
        finally:
            self._forget(gone)

    def _write_record(self) -> None:
        try:
            self._files.stamp(RECORD)
        except (FileNotFoundError, NotADirectoryError):
            content = json.dumps(asdict(self.space) | {"vector_length": self.vector_length})
            self._files.write(RECORD, lambda file: file.write(f"{content}\n".encode()))

    def _read_images(self, name: str) -> Digests | BrokenError | None:
        """Returns the images of a part, None if it was removed, or what is wrong with it."""
        try:
            return read_images(self._files, name, self.vector_length)
        except FileNotFoundError:
            return None
        except BrokenError as error:
            return error

    def _read_into(
        self, values: Floats32, wanted: NDArray[np.intp], parts: Ints, rows: Ints
    ) -> dict[str, NDArray[np.intp]]:
        """Reads M vectors into some rows of an array.

        Args:
            values: (N, D), the array; filled where no part was removed.
            wanted: (M,) rows of `values`.
            parts: (M,) numbers of the parts that hold the vectors.
            rows: (M,) of the vectors in these parts.

        Returns:
            The rows of `values` whose part was removed, by the name of the part.
        """
        order = np.argsort(parts, kind="stable")
        by_part = np.split(order, np.flatnonzero(np.diff(parts[order])) + 1)

        def read(group: NDArray[np.intp]) -> Exception | None:
            name = self._names[parts[group[0]]]
            try:
                found = read_vectors(self._files, name, self.vector_length, rows[group])
            except (FileNotFoundError, BrokenError) as error:
                return error
            values[wanted[group]] = found
            return None

        gone, damaged = {}, []
        for group, error in zip(by_part, self._in_threads(read, by_part), strict=True):
            name = self._names[parts[group[0]]]
            if isinstance(error, BrokenError):
                # The others are read too, so that all damaged ones are made again at once.
                self._put_aside(name)
                damaged.append(f"{self.address}/{name}: {error}")
            elif error is not None:
                gone[name] = wanted[group]
        self._forget(gone)
        if damaged:
            raise DamagedPartError("; ".join(damaged))
        return gone

    def _in_threads(self, function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
        if len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(self._files.threads) as pool:
            return list(pool.map(function, items))

    def _add(self, parts: dict[str, Digests]) -> None:
        new = {name: digests for name, digests in parts.items() if name not in self._numbers}
        if not new:
            return
        sizes = [len(digests) for digests in new.values()]
        numbers = range(len(self._names), len(self._names) + len(new))
        self._numbers.update(zip(new, numbers, strict=True))
        self._names += new
        self._sizes += sizes
        rows = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
        part_of_row = np.repeat(np.fromiter(numbers, np.int32), sizes)
        self._locations.add(np.concatenate([*new.values()]), part_of_row, rows)

    def _forget(self, names: Iterable[str]) -> None:
        numbers = [self._numbers.pop(name, None) for name in [*names]]
        self._locations.drop(number for number in numbers if number is not None)

    def _put_aside(self, name: str) -> None:
        self.set_aside.append(f"{self.address}/{set_aside(self._files, name)}")
        self._forget([name])
