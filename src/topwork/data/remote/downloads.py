"""Files from elsewhere, kept on this machine: whole or not at all, one copy per version.

A download that was cut off goes on where it stopped, in this run, a later one or another
process; no process reads a file before it is whole.
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
    """What a server says that tells one content of a file from another.

    Attributes:
        etag: empty where there is none.
        modified: when it was changed, as the server writes it; empty where there is an etag.
        size: in bytes, if it is known.
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
        """What a server compares before it sends the rest; empty where it would not be sure."""
        weak = self.etag.startswith("W/")
        return "" if weak else self.etag or (self.modified if self.is_known else "")


@dataclass(frozen=True)
class CachedFile:
    """A whole file in the cache."""

    version: Version
    path: Path
    at_s: float


class CacheEntry:
    """The files that one remote file has in a folder that several processes may share."""

    def __init__(self, folder: Path, identity: str, name: str) -> None:
        """Stores where; nothing is created.

        Args:
            folder: the cache.
            identity: what tells this file from others, hex.
            name: the file's own name; its suffixes are kept, for those who go by them.
        """
        self.folder = folder / identity[:2]
        self.identity = identity
        self.name = re.sub(r"[^A-Za-z0-9._-]", "_", name)[-_LONGEST_NAME:] or "file"
        self._facts = self.folder / f"{identity}.json"

    def kept(self) -> CachedFile | None:
        """Returns the whole file of the last version, if it is here."""
        facts = _read_json(self._facts)
        try:
            path = self.folder / str(facts["file"])
            if path.parent != self.folder or path.stat().st_size != facts["length"]:
                return None
            return CachedFile(Version(**facts["version"]), path, self._facts.stat().st_mtime)
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def part(self) -> PartialDownload:
        """Opens what is there of a download, waiting for any process that is at it.

        Raises:
            OSError: the cache cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # Where files cannot be locked every process has its own.
        owner = "" if fcntl else f"-{os.getpid()}"
        return PartialDownload(self.folder / f"{self.identity}{owner}.part")

    def finish(self, part: PartialDownload) -> Path:
        """Gives a whole download its name.

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
        """Notes that the file was found unchanged just now."""
        os.utime(self._facts)

    def _sweep(self, newest: Path) -> None:
        """Removes older versions, unless another run may still be reading them."""
        for path in self.folder.glob(f"{self.identity}-*"):
            try:
                if path != newest and time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()
            except OSError:
                continue


class PartialDownload:
    """A file that is being downloaded; locked, so that one process at a time writes it.

    Attributes:
        version: of what; one that is not known if there is nothing yet.
        size: bytes that are there.
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
        # Still locked: nobody else is about to write it.
        if self._is_part and not self.size:
            self._path.unlink(missing_ok=True)
            self._facts.unlink(missing_ok=True)
        self._file.close()

    def restart(self, version: Version) -> None:
        """Forgets what is there."""
        # In this order, bytes never stand under another version's name.
        self._file.truncate(0)
        self._file.seek(0)
        self.size = 0
        self.version = version

    def write(self, data: bytes) -> None:
        """Appends bytes."""
        if not self.size:
            _write_json(self._facts, asdict(self.version))
        # Unbuffered, what arrived is there for the next run if this one is killed.
        view = memoryview(data)
        while view:
            count = self._file.write(view)
            view = view[count:]
            self.size += count

    def rename(self, path: Path) -> None:
        """Puts the file where readers look."""
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
            # Who had the lock before may have finished and renamed the file.
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
    # Not synced: facts that are lost or cut off are as good as none.
    new = path.with_name(f"{name_beside(path.name)}{os.urandom(8).hex()}{FILLING}")
    new.write_text(json.dumps(facts))
    new.replace(path)
