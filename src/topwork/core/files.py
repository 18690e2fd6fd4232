"""Files and folders that are complete or not there at all, whenever a process is killed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from topwork.core import leftovers
from topwork.core.leftovers import (
    FILLING,
    REPLACED,
    make_beside,
    name_beside,
    put_back,
    sweep_beside,
)

Written = TypeVar("Written")

# Temporary folders that are in use.
_scratch: set[Path] = set()

# File times have a resolution of milliseconds, on some disks of seconds.
SETTLED_NS = 3 * 10**9

# How often a folder is tried to be replaced while other processes replace it too.
ATTEMPTS = 20


def make_scratch(purpose: str = "") -> Path:
    """Makes an empty temporary folder, for `drop_scratch`; see `remove_scratch` too.

    Args:
        purpose: a word of the letters a to z for its name.

    Raises:
        OSError: it cannot be made.
    """
    folder = leftovers.make_scratch(purpose)
    _scratch.add(folder)
    return folder


def drop_scratch(folder: Path) -> None:
    """Removes a folder of `make_scratch`."""
    shutil.rmtree(folder, ignore_errors=True)
    _scratch.discard(folder)


@contextlib.contextmanager
def open_scratch() -> Iterator[Path]:
    """Makes an empty temporary folder and removes it at the end; see `remove_scratch`."""
    folder = make_scratch()
    try:
        yield folder
    finally:
        drop_scratch(folder)


@contextlib.contextmanager
def open_beside(path: Path) -> Iterator[Path]:
    """Makes an empty temporary folder on the same disk as a path; it is removed in the end.

    Raises:
        OSError: it cannot be made.
    """
    folder = make_beside(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_scratch() -> None:
    """Removes the temporary folders that threads still use, before a process ends without them."""
    for folder in tuple(_scratch):
        drop_scratch(folder)


def touch_scratch() -> None:
    """Updates the times of this process's temporary folders, for machines that cannot see it."""
    for folder in tuple(_scratch):
        with contextlib.suppress(OSError):
            os.utime(folder)


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_unchanged(path: Path, record: Path, *, settled_ns: int = SETTLED_NS) -> str:
    """Returns the SHA-256 of a file, hex; a file that is known and unchanged is not read.

    A file counts as unchanged while its path, size, inode and time of change are the same; one
    that was changed seconds ago is not remembered, since another change might show the same time.

    Args:
        path: the file.
        record: JSON file of the hashes that are known; written if it can be.
        settled_ns: how long ago the file must have changed to be remembered.

    Raises:
        OSError: the file cannot be read.
    """
    facts = path.stat()
    mark = [facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns]
    try:
        known = dict(json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = {}
    name = str(path.absolute())
    match known.get(name):
        case [found, str(digest)] if found == mark:
            return digest
    digest = hash_file(path)
    if time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) > settled_ns:
        content = json.dumps(known | {name: [mark, digest]}, indent=1).encode()
        with contextlib.suppress(OSError):
            record.parent.mkdir(parents=True, exist_ok=True)
            write_file(record, lambda file: file.write(content))
    return digest


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file under another name, syncs it, and gives it its name.

    Args:
        path: the file; one that is there is replaced.
        write: writes the content.

    Raises:
        OSError: it cannot be written.
    """
    new = path.with_name(f"{name_beside(path.stem)}{os.urandom(8).hex()}{FILLING}")
    try:
        with new.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_folder(path: Path, write: Callable[[Path], Written]) -> Written:
    """Makes a folder of what `write` puts into an empty one.

    Args:
        path: the folder; an existing one is moved away first, and moved back if this fails.
        write: fills the folder that it is given.

    Returns:
        What `write` returns.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_beside(path)
    with open_beside(path) as new:
        result = write(new)
        new.chmod(0o755)
        _put_in_place(new, path)
    return result


def _put_in_place(new: Path, path: Path) -> None:
    """Renames a folder, after what has its name was moved away by this process or another."""
    holder = make_beside(path, REPLACED)
    try:
        for attempt in range(ATTEMPTS):
            # By its own name, so that it can be put back if this process is killed.
            moved = holder / f"{attempt:02}" / path.name
            moved.parent.mkdir()
            with contextlib.suppress(FileNotFoundError):
                path.rename(moved)
            try:
                new.rename(path)
            except OSError:
                # Moved back, unless another process has put its own folder there by now.
                with contextlib.suppress(OSError):
                    moved.rename(path)
                if attempt + 1 == ATTEMPTS:
                    raise
            else:
                # What it holds need not be moved back any more.
                with contextlib.suppress(OSError):
                    holder = holder.rename(holder.with_suffix(FILLING))
                return
    finally:
        if holder.suffix != REPLACED or put_back(holder):
            shutil.rmtree(holder, ignore_errors=True)
