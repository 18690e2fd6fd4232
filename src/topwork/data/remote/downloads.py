"""The cache of downloaded files: one complete copy for each version of a file.

A download that was cut off is continued where it stopped, in the same run, a later one or another
process. No process reads a file before it is complete.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from topwork.core.leftovers import FILLING, STALE_S, name_beside

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LONGEST_NAME = 80


@dataclass(frozen=True)
class Version:
    """What a server says to distinguish versions of a file.

    Attributes:
        etag: empty where there is none.
        modified: time of the last change, as the server writes it; empty if there is an etag.
        size: in bytes; None if it is not known.
    """

    etag: str = ""
    modified: str = ""
    size: int | None = None

    @property
    def is_known(self) -> bool:
        """Whether the same version means the same content."""
        return bool(self.etag or (self.modified and self.size is not None))

    @property
    def validator(self) -> str:
        """What a server is to compare before it sends the rest; empty if that is not reliable."""
        weak = self.etag.startswith("W/")
        return "" if weak else self.etag or (self.modified if self.is_known else "")


@dataclass(frozen=True)
class CachedFile:
    """A complete file in the cache, found unchanged or downloaded at `at_s`, a Unix time."""

    version: Version
    path: Path
    at_s: float


class CacheEntry:
    """The files in the cache that belong to one remote file; processes may share the folder."""

    def __init__(self, folder: Path, identity: str, name: str) -> None:
        """Creates nothing yet.

        Args:
            folder: the cache.
            identity: of the file, hex; see `urls.identity`.
            name: the file's own name; the copy keeps its suffixes, which readers may go by.
        """
        self.folder = folder / identity[:2]
        self.identity = identity
        self.name = re.sub(r"[^A-Za-z0-9._-]", "_", name)[-_LONGEST_NAME:] or "file"
        self._facts = self.folder / f"{identity}.json"

    def kept(self) -> CachedFile | None:
        """Returns the complete file of the last version; None if there is none."""
        facts = _read_json(self._facts)
        try:
            path = self.folder / str(facts["file"])
            if path.parent != self.folder or path.stat().st_size != facts["length"]:
                return None
            return CachedFile(Version(**facts["version"]), path, self._facts.stat().st_mtime)
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def part(self) -> PartialDownload:
        """Opens what is there of a download, after any process that is writing it.

        Raises:
            OSError: the cache cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # Where files cannot be locked, every process has a file of its own.
        owner = "" if fcntl else f"-{os.getpid()}"
        return PartialDownload(self.folder / f"{self.identity}{owner}.part")

    def finish(self, part: PartialDownload) -> Path:
        """Moves a complete download to its name in the cache, and returns its path.

        Raises:
            OSError: the cache cannot be written.
        """
        version = part.version
        mark = os.urandom(4).hex()
        path = self.folder / f"{self.identity}-{mark}-{self.name}"
        length = part.size
        part.rename(path)
        facts = {"version": asdict(version), "file": path.name, "length": length}
        _write_json(self._facts, facts)
        self._sweep(path)
        return path

    def confirm(self) -> None:
        """Records that the file was found unchanged just now."""
        os.utime(self._facts)

    def _sweep(self, newest: Path) -> None:
        """Removes older versions, except recent ones, which another run may still be reading."""
        for path in self.folder.glob(f"{self.identity}-*"):
            try:
                if path != newest and time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()
            except OSError:
                continue


class PartialDownload:
    """A file that is being downloaded; locked, so that one process at a time writes it.

    Attributes:
        version: of the file; one that is not known if there is nothing yet.
        size: number of bytes that are there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_part = True
        self._facts = path.with_name(f"{path.name}.json")
        self._file = _open_locked(path)
        self.size = self._file.seek(0, os.SEEK_END)
        self.version = Version()
        if self.size:
            try:
                self.version = Version(**_read_json(self._facts))
            except TypeError:
                self.restart(Version())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # It is still locked, so nobody else has begun to write it.
        if self._is_part and not self.size:
            self._path.unlink(missing_ok=True)
            self._facts.unlink(missing_ok=True)
        self._file.close()

    def restart(self, version: Version) -> None:
        """Discards what is there."""
        # In this order, so that no bytes are ever recorded as those of another version.
        self._file.truncate(0)
        self._file.seek(0)
        self.size = 0
        self.version = version

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        if not self.size:
            _write_json(self._facts, asdict(self.version))
        # Unbuffered, so that the next run finds what arrived if this one is killed.
        view = memoryview(data)
        while view:
            count = self._file.write(view)
            view = view[count:]
            self.size += count

    def rename(self, path: Path) -> None:
        """Moves the complete file to where readers look for it."""
        os.fsync(self._file.fileno())
        if not fcntl:
            self._file.close()
        self._path.replace(path)
        self._is_part = False
        self._facts.unlink(missing_ok=True)


def _open_locked(path: Path) -> BinaryIO:
    while True:
        file = path.open("ab+", buffering=0)
        if not fcntl:
            return file
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            # The process that had the lock before may have finished and renamed the file.
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _write_json(path: Path, facts: object) -> None:
    # Not synced: if facts are lost or cut off, the file is downloaded again.
    new = path.with_name(f"{name_beside(path.name)}{os.urandom(8).hex()}{FILLING}")
    new.write_text(json.dumps(facts))
    new.replace(path)
