"""Locks that divide work between several processes on one machine.

A lock is an open file, which the kernel unlocks when its process ends, however it ends:

    <folder>/<name>.lock

Locks only save work. Where files cannot be locked (Windows, some network disks) every lock is
granted, and what two processes then do twice is harmless.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Younger files are left alone: a process may have made one and not locked it yet.
SETTLED_S = 60.0


class Locks:
    """The locks that this process holds; to be used in a `with`.

    Args:
        folder: where their files lie; None if nobody shares the work.

    Attributes:
        shared: whether a lock can be refused. If not, nobody else is kept from the same work.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}
        # The items that are not finished, by the name of their lock, and the lock of each item.
        self._unfinished: dict[str, set[int]] = {}
        self._name_of: dict[int, str] = {}
        self.shared = folder is not None and fcntl is not None

    def __enter__(self) -> Locks:
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self._files]:
            self._release(name)
        self._unfinished.clear()
        self._name_of.clear()

    def take(self, name: str, items: Iterable[int] = ()) -> bool:
        """Takes the lock on some work, and returns whether nobody else has it.

        Args:
            name: what all processes call this work; it becomes part of a file name.
            items: what the work consists of, by numbers that are under no other lock.
        """
        if self.shared:
            try:
                self._files[name] = self._lock(name)
            except BlockingIOError:
                return False
            except OSError:
                self.shared = False
        self._unfinished[name] = set(items)
        self._name_of.update(dict.fromkeys(self._unfinished[name], name))
        return True

    def finish(self, items: Iterable[int]) -> None:
        """Marks items as done, and releases the locks that have no other items left."""
        for item in items:
            name = self._name_of.pop(item, None)
            if name is None:
                continue
            self._unfinished[name].discard(item)
            if not self._unfinished[name]:
                del self._unfinished[name]
                self._release(name)

    def _lock(self, name: str) -> BinaryIO:
        assert self._folder is not None
        path = self._folder / f"{name}.lock"
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            file = path.open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The previous holder may have removed the file that was just opened.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                        return file
            except BaseException:
                file.close()
                raise
            file.close()

    def _release(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is None:
            return
        with contextlib.suppress(OSError):
            Path(file.name).unlink()
        file.close()


def remove_free(folder: Path, *, settled_s: float = SETTLED_S) -> None:
    """Removes the files of locks that killed processes left: those that nobody holds.

    Args:
        folder: of locks; it need not exist.
        settled_s: how old a file must be, in seconds; younger ones stay.
    """
    if not fcntl:
        return
    try:
        with os.scandir(folder) as entries:
            locks = [entry for entry in entries if entry.name.endswith(".lock")]
    except OSError:
        return
    for lock in locks:
        # What cannot be locked or removed stays.
        with contextlib.suppress(OSError):
            facts = lock.stat(follow_symlinks=False)
            if facts.st_size == 0 and time.time() - facts.st_mtime > settled_s:
                _remove_if_free(lock.path)


def _remove_if_free(path: str) -> None:
    lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have removed it, and a third made a new one of this name.
        if os.path.samestat(os.fstat(lock), os.stat(path)):  # noqa: PTH116
            os.unlink(path)  # noqa: PTH108
    finally:
        os.close(lock)
