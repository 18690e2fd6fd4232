"""What is known of image files that were read before: kept in the store, to read none twice.

A file is taken for the same if its size, its times, its number and its device are: a program may
set back when a file was written, but not when it was last changed in any way.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topwork.core.files import write_file
from topwork.images.decode import Source
from topwork.images.traits import Trait

FOLDER = "files"
# Raise it when the same bytes would give another hash or other traits.
VERSION = 1
# A file that changes twice within a step of its file system's clock keeps its times; the coarsest
# steps are those of FAT. One that changed so shortly before is read again.
SETTLED_S = 2.0

State = tuple[int, ...]
Fact = tuple[str, Trait]


class KnownFiles:
    """What is known of the files of one data set.

    Args:
        store: the store's folder.
        sources: the images; those that are no files are never known.
    """

    def __init__(self, store: Path, sources: Sequence[Source]) -> None:
        began = time.time_ns()
        self._places: dict[int, tuple[bytes, State]] = {}
        self._settled: set[int] = set()
        folders = set()
        for index, source in enumerate(sources):
            if not isinstance(source, Path):
                continue
            path = source.absolute()
            with contextlib.suppress(OSError, ValueError):
                found = path.stat()
                self._places[index] = os.fsencode(path), _state(found)
                folders.add(path.parent)
                if max(found.st_mtime_ns, found.st_ctime_ns) < began - SETTLED_S * 1e9:
                    self._settled.add(index)
        name = hashlib.sha256(b"\0".join(map(os.fsencode, sorted(folders)))).hexdigest()
        self._path = store / FOLDER / f"{name[:32]}.npz"
        self._facts: dict[bytes, tuple[State, Fact]] = {}
        self._changed = False
        if self._places:
            with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                self._facts = _read(self._path)

    def find(self, index: int) -> Fact | None:
        """Returns SHA-256 (hex) and traits of an image; None if its file has to be read."""
        if index not in self._places:
            return None
        path, state = self._places[index]
        found = self._facts.get(path)
        return None if found is None or found[0] != state else found[1]

    def add(self, index: int, fact: Fact) -> None:
        """Takes what was found in an image that was read after this was made."""
        if index in self._settled:
            path, state = self._places[index]
            self._facts[path] = state, fact
            self._changed = True

    def save(self) -> None:
        """Writes what is new to the store; if it cannot be written, files are read again."""
        if not self._changed:
            return
        # Files of other data sets in the same folders are kept, but not for ever.
        own = {path for path, _ in self._places.values()}
        others = [path for path in self._facts if path not in own]
        for path in others[: max(0, len(others) - len(own))]:
            del self._facts[path]
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _write(self._path, self._facts)


def _state(found: os.stat_result) -> State:
    """Returns what tells whether a file is still the same, as numbers of 64 bits."""
    times = found.st_mtime_ns, found.st_ctime_ns
    return tuple(value % 2**64 for value in (found.st_size, *times, found.st_ino, found.st_dev))


def _write(path: Path, facts: dict[bytes, tuple[State, Fact]]) -> None:
    hashes = b"".join(bytes.fromhex(fact[0]) for _, fact in facts.values())
    arrays: dict[str, NDArray[np.generic]] = {
        "version": np.array(VERSION),
        "paths": np.frombuffer(b"\0".join(facts), np.uint8),
        "states": np.array([state for state, _ in facts.values()], np.uint64).reshape(-1, 5),
        "hashes": np.frombuffer(hashes, np.uint8).reshape(-1, 32),
        "traits": np.array([fact[1] for _, fact in facts.values()], np.uint8),
    }
    write_file(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def _read(path: Path) -> dict[bytes, tuple[State, Fact]]:
    """Reads what `_write` wrote.

    Raises:
        OSError, ValueError, KeyError, EOFError, BadZipFile: there is nothing, or it is damaged.
    """
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        if int(arrays["version"]) != VERSION:
            return {}
        paths = arrays["paths"].tobytes().split(b"\0")
        states = arrays["states"].tolist()
        hashes = arrays["hashes"].tobytes().hex()
        traits = arrays["traits"].tolist()
    if not len(paths) == len(states) == len(traits) == len(hashes) / 64:
        raise ValueError("its parts are not equally long")
    return {
        name: (tuple(state), (hashes[64 * n : 64 * n + 64], Trait(trait)))
        for n, (name, state, trait) in enumerate(zip(paths, states, traits, strict=True))
    }
