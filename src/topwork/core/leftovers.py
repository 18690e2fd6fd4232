"""Temporary files and folders: who made them, and the removal of what killed processes left.

Their names contain a mark of the process that made them, which is there as soon as the file is:

    topwork-HOST-BOOT-PID-START-…                 in the system's folder for temporary files
    .NAME-topwork-HOST-BOOT-PID-START-….tmp       becomes NAME when it is complete
    .NAME-topwork-HOST-BOOT-PID-START-….old       holds the old NAME while it is replaced

What a process of this machine made is removed when that process has ended. What another machine or
an older Topwork made, of which that is unknown, is removed when it is a day old.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from topwork.core.locks import remove_free

# Files whose process is unknown are removed when they are this old.
STALE_S = 24 * 3600.0

FILLING, REPLACED = ".tmp", ".old"

# The folders of a store where temporary files can be, and how deep below each.
_DEPTHS = {
    "vectors": 1, "bases": 0, "compiled": 0, "remote": 1, "archives": 0, "copies": 0,
    "inspections": 0,
}  # fmt: skip

_PROC = Path("/proc")
_MACHINE = Path("/etc/machine-id")
# With the mark, the whole name is short enough for every file system.
_LONGEST_NAME = 64
_MARK = r"([0-9a-f]{8})-([0-9a-f]{8})-([1-9][0-9]{0,9})-([0-9]{1,20})-[a-z0-9_]{8,16}"
_BESIDE = re.compile(rf"\..*-topwork-{_MARK}(?:\.tmp|\.old)", re.DOTALL)
_SCRATCH = re.compile(rf"topwork-(?:[a-z]+-)?{_MARK}")
# Names that an older Topwork used. A folder of the user may be called "topwork-pictures".
_OLDER = re.compile(r"\.(?:weights|elsewhere|shared-[0-9a-f]{16})-[0-9a-f]{16}\.tmp")
_UNMARKED_BESIDE = re.compile(r"\..+-(?:[a-z0-9_]{8}|[0-9a-f]{16})\.tmp", re.DOTALL)
_UNMARKED_SCRATCH = re.compile(r"topwork-(?:serve-)?(?=[a-z]*[0-9_])[a-z0-9_]{8}")


class Owner(StrEnum):
    """What is known of the process that made a temporary file."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Temporary:
    """A temporary file or folder.

    Attributes:
        path: where it is.
        owner: what is known of the process that made it.
        changed_s: when it was last changed, in seconds since 1970.
    """

    path: Path
    owner: Owner
    changed_s: float

    @property
    def is_left(self) -> bool:
        """Whether no process uses it any more."""
        if self.owner is Owner.UNKNOWN:
            return time.time() - self.changed_s > STALE_S
        return self.owner is Owner.DEAD

    @property
    def bytes(self) -> int:
        """Its present size in bytes."""
        return _measure(self.path)


def name_beside(name: str) -> str:
    """Returns the name for a temporary file beside another, without the ending.

    Args:
        name: of the other; a long one is shortened.
    """
    while len(os.fsencode(name)) > _LONGEST_NAME:
        name = name[:-1]
    return f".{name}-topwork-{_make_mark()}-"


def make_beside(path: Path, ending: str = FILLING) -> Path:
    """Makes an empty temporary folder beside a path.

    Args:
        path: the path; it need not exist.
        ending: `FILLING`, or `REPLACED`, see `sweep_beside`.

    Raises:
        OSError: it cannot be made.
    """
    return Path(tempfile.mkdtemp(prefix=name_beside(path.name), suffix=ending, dir=path.parent))


def make_scratch(purpose: str = "") -> Path:
    """Makes an empty folder among the system's temporary files.

    Args:
        purpose: a word of the letters a to z for its name.

    Raises:
        OSError: it cannot be made.
    """
    start = f"topwork-{purpose}-" if purpose else "topwork-"
    return Path(tempfile.mkdtemp(prefix=f"{start}{_make_mark()}-"))


def judge(name: str, changed_s: float | None = None) -> Owner:
    """Returns what is known of the process that made a temporary file, by the file's name.

    Args:
        name: of the file.
        changed_s: when the file was last changed, in seconds since 1970. A copy of this machine
            looks like this machine before a restart; a file that was changed after this machine
            started shows that it is another one.
    """
    found = _BESIDE.fullmatch(name) or _SCRATCH.fullmatch(name)
    if found is None or found[1] != _find_host():
        return Owner.UNKNOWN
    if found[2] != _find_boot():
        before = changed_s is None or changed_s < _find_booted_s()
        return Owner.DEAD if before else Owner.UNKNOWN
    return _judge_process(int(found[3]), int(found[4]))


def _make_mark() -> str:
    # Computed each time: after a fork they are those of another process.
    pid = os.getpid()
    return f"{_find_host()}-{_find_boot()}-{pid}-{_find_state(pid)[1]}"


def _find_host(proc: Path = _PROC, machine: Path = _MACHINE) -> str:
    """Identifies the machine and, in a container, its namespace of process numbers."""
    try:
        space = str((proc / "self/ns/pid").readlink())
    except OSError:
        space = ""
    return _shorten(f"{platform.node()}\0{_read(machine)}\0{space}")


def _find_boot(proc: Path = _PROC) -> str:
    return _shorten(_read(proc / "sys/kernel/random/boot_id"))


def _find_booted_s() -> float:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _shorten(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]


def _find_state(pid: int, proc: Path = _PROC) -> tuple[str, int]:
    """Returns the state of a process and when it started, in ticks; "" and 0 if unknown."""
    try:
        # If /proc is that of another namespace, its numbers mean nothing here.
        if str((proc / "self").readlink()) != str(os.getpid()):
            return "", 0
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        # The program's name before it may contain spaces and parentheses.
        fields = text.rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return "", 0


def _judge_process(pid: int, start: int) -> Owner:
    if pid == os.getpid() and start in (0, _find_state(pid)[1]):
        return Owner.ALIVE
    if os.name == "nt":
        # On Windows the call below would end the process.
        return Owner.UNKNOWN
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return Owner.DEAD
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return Owner.UNKNOWN
    state, started = _find_state(pid)
    is_another = 0 not in (start, started) and start != started
    return Owner.DEAD if is_another or state in ("Z", "X") else Owner.ALIVE


def sweep(store: Path | None = None, *targets: Path) -> int:
    """Removes what killed processes left where this one works; to be called when it starts.

    What cannot be removed stays. Several processes may do this at once.

    Args:
        store: the store's folder, if one is used.
        targets: of models and exports that are about to be read or written.

    Returns:
        How many bytes that freed.
    """
    freed = sum(map(_remove, find_scratch()))
    if store is not None:
        freed += sum(map(_remove, find_in_store(store)))
        for space in _list_folders(store / "vectors"):
            remove_free(Path(space, "claims"))
    return freed + sum(map(sweep_beside, targets))


def sweep_beside(path: Path) -> int:
    """Removes what killed processes left beside a path, and returns how many bytes that freed.

    If one was killed after it moved the old content away and before the new was in its place, the
    old content is moved back.

    Args:
        path: of a model or an export; it need not exist.
    """
    older = re.compile(rf"\.{re.escape(path.name)}-[a-z0-9_]{{8}}\.tmp")

    def is_ours(name: str) -> bool:
        return bool(_BESIDE.fullmatch(name) or older.fullmatch(name))

    return sum(map(_remove, _find(path.parent, is_ours)))


def sweep_folder(folder: Path) -> int:
    """Removes what killed processes left in a folder of a store; returns the bytes freed."""
    return sum(map(_remove, _find(folder, is_temporary)))


def find_in_store(root: Path) -> Iterator[Temporary]:
    """Yields the temporary files and folders of a store."""
    # Only names of Topwork's own: people use folders with other things in them as stores.
    yield from _find(root, lambda name: bool(_BESIDE.fullmatch(name) or _OLDER.fullmatch(name)))
    for folder in _list_folders(root):
        depth = _DEPTHS.get(os.path.basename(folder), -1)  # noqa: PTH119
        if depth >= 0:
            yield from _find(folder, is_temporary)
        if depth >= 1:
            for below in _list_folders(folder):
                yield from _find(below, is_temporary)


def is_temporary(name: str) -> bool:
    """Whether a file of a store is a temporary one."""
    return name.startswith(".") and bool(
        _BESIDE.fullmatch(name) or _UNMARKED_BESIDE.fullmatch(name)
    )


def find_scratch() -> Iterator[Temporary]:
    """Yields this user's folders of Topwork among the system's temporary files."""
    try:
        folder = Path(tempfile.gettempdir())
    except OSError:
        return
    uid = os.getuid() if hasattr(os, "getuid") else None
    for found in _find(folder, lambda name: name.startswith("topwork-")):
        with contextlib.suppress(OSError):
            facts = found.path.lstat()
            is_own = stat.S_ISDIR(facts.st_mode) and uid in (None, facts.st_uid)
            is_marked = _SCRATCH.fullmatch(found.path.name)
            # Python makes temporary folders that only their owner can use.
            is_older = _UNMARKED_SCRATCH.fullmatch(found.path.name) and (
                stat.S_IMODE(facts.st_mode) == 0o700
            )
            if is_own and (is_marked or is_older):
                yield found


def _find(folder: Path | str, is_ours: Callable[[str], bool]) -> Iterator[Temporary]:
    """Yields the files and folders in a folder whose name is ours, without links."""
    try:
        with os.scandir(folder) as entries:
            ours = [entry for entry in entries if is_ours(entry.name)]
    except OSError:
        return
    for entry in ours:
        with contextlib.suppress(OSError):
            facts = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode) or stat.S_ISREG(facts.st_mode):
                owner = judge(entry.name, facts.st_mtime)
                yield Temporary(Path(entry.path), owner, facts.st_mtime)


def _list_folders(folder: Path | str) -> list[str]:
    """Returns the paths of the folders in a folder, without links."""
    try:
        with os.scandir(folder) as entries:
            return [
                entry.path
                for entry in entries
                if entry.name[0] != "." and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def _remove(found: Temporary) -> int:
    """Removes a file or folder that no process uses any more; returns how many bytes that freed."""
    if not found.is_left:
        return 0
    path = found.path
    if path.suffix == REPLACED and not put_back(path):
        return 0
    before = found.bytes
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
    return max(0, before - found.bytes)


def put_back(holder: Path) -> bool:
    """Moves what was moved away and not replaced back to its name.

    Args:
        holder: a folder of numbered folders; the last one that is not empty has what was moved
            away last.

    Returns:
        Whether nothing in the folder is needed any more.
    """
    try:
        for numbered in sorted(holder.iterdir(), reverse=True):
            for moved in numbered.iterdir():
                target = holder.parent / moved.name
                if not os.path.lexists(target):
                    moved.rename(target)
                return True
    except OSError:
        return False
    return True


def _measure(path: Path) -> int:
    """Returns the bytes of a file, or of all files below a folder; 0 if it does not exist."""
    try:
        facts = path.lstat()
        if not stat.S_ISDIR(facts.st_mode):
            return facts.st_size
        return sum(map(_measure, path.iterdir()))
    except OSError:
        return 0
