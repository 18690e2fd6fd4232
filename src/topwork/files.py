"""Files and folders that are there as a whole or not at all, whenever a process is killed."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

Written = TypeVar("Written")

# What a killed process left behind is removed when it is this old.
STALE_S = 24 * 3600.0

# Temporary folders that are in use.
_scratch: set[str] = set()

# Clocks of files tick in milliseconds, on some disks in seconds.
SETTLED_NS = 3 * 10**9

# How often processes that replace the same folder may get in each other's way.
ATTEMPTS = 20


@contextlib.contextmanager
def open_scratch() -> Iterator[Path]:
    """Makes an empty temporary folder, which is removed in the end; see `remove_scratch`."""
    with tempfile.TemporaryDirectory(prefix="topwork-") as name:
        _scratch.add(name)
        try:
            yield Path(name)
        finally:
            _scratch.discard(name)


def remove_scratch() -> None:
    """Removes the temporary folders that threads still use, for whoever leaves without them."""
    for name in tuple(_scratch):
        shutil.rmtree(name, ignore_errors=True)


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_unchanged(path: Path, record: Path) -> str:
    """Returns the SHA-256 of a file, hex; one that is known and unchanged is not read.

    A file counts as unchanged while its path, size, inode and time of change are the same; one
    that was changed seconds ago is not remembered, since another change might show the same time.

    Args:
        path: the file.
        record: JSON file of the hashes that are known; written if it can be.

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
    if time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) > SETTLED_NS:
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
    new = path.with_name(f".{path.stem}-{os.urandom(8).hex()}.tmp")
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
        path: the folder; one that is there is moved away first, and back if that fails.
        write: fills the folder that it is given.

    Returns:
        What `write` returns.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent))
    try:
        result = write(new)
        new.chmod(0o755)
        _put_in_place(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return result


def _put_in_place(new: Path, path: Path) -> None:
    """Renames a folder; what has its name is moved away, by whichever process comes first."""
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name}-", suffix=".tmp", dir=path.parent, ignore_cleanup_errors=True
    ) as old:
        for attempt in range(ATTEMPTS):
            moved = Path(old, str(attempt))
            with contextlib.suppress(FileNotFoundError):
                path.rename(moved)
            try:
                new.rename(path)
            except OSError:
                # Back with it, unless another process has put its own there by now.
                with contextlib.suppress(OSError):
                    moved.rename(path)
                if attempt + 1 == ATTEMPTS:
                    raise
            else:
                return


def _sweep(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}-*.tmp"):
        try:
            stale = time.time() - left.stat().st_mtime > STALE_S
        except OSError:
            continue
        if stale:
            shutil.rmtree(left, ignore_errors=True)
