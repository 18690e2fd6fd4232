"""Who of several processes on one machine works on what.

A claim is a lock on a file, which the kernel gives back when its process ends, however it ends:

    <folder>/<name>.lock

Claims only save work. Where files cannot be locked (Windows, some network disks) every claim is
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

# Younger locks are left to those who may be about to take them.
SETTLED_S = 60.0


class Claims:
    """What this process has claimed; to be used in a `with`.

    Args:
        folder: where the locks lie; None if nobody shares the work.

    Attributes:
        shared: whether claims can be refused. If not, nobody else is kept from the same work.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._locks: dict[str, BinaryIO] = {}
        # Items that are not finished, by claim, and the claim of each.
        self._left: dict[str, set[int]] = {}
        self._claim_of: dict[int, str] = {}
        self.shared = folder is not None and fcntl is not None

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self._locks]:
            self._give_back(name)
        self._left.clear()
        self._claim_of.clear()

    def take(self, name: str, items: Iterable[int] = ()) -> bool:
        """Claims some work, and returns whether nobody else has it.

        Args:
            name: what the processes call this work; a name for a file.
            items: of which it consists, by numbers that no other claim has.
        """
        if self.shared:
            try:
                self._locks[name] = self._lock(name)
            except BlockingIOError:
                return False
            except OSError:
                self.shared = False
        self._left[name] = set(items)
        self._claim_of.update(dict.fromkeys(self._left[name], name))
        return True

    def finish(self, items: Iterable[int]) -> None:
        """Gives back the claims of which nothing is left to do."""
        for item in items:
            name = self._claim_of.pop(item, None)
            if name is None:
                continue
            self._left[name].discard(item)
            if not self._left[name]:
                del self._left[name]
                self._give_back(name)

    def _lock(self, name: str) -> BinaryIO:
        assert self._folder is not None
        path = self._folder / f"{name}.lock"
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            file = path.open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it before may have removed the file that was just opened.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                        return file
            except BaseException:
                file.close()
                raise
            file.close()

    def _give_back(self, name: str) -> None:
        file = self._locks.pop(name, None)
        if file is None:
            return
        with contextlib.suppress(OSError):
            Path(file.name).unlink()
        file.close()


def remove_free(folder: Path, *, settled_s: float = SETTLED_S) -> None:
    """Removes the locks that killed processes left: those that nobody holds.

    Args:
        folder: of claims; nothing need be there.
        settled_s: how old a lock must be; younger ones stay.
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
        # Another may have removed it, and a third made one of this name.
        if os.path.samestat(os.fstat(lock), os.stat(path)):  # noqa: PTH116
            os.unlink(path)  # noqa: PTH108
    finally:
        os.close(lock)
