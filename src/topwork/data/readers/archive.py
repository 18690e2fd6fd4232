"""Images in a zip or tar file, read where they lie: nothing is unpacked beside the user's files.

Zip and plain tar are read in place; a compressed tar is decompressed once, into a cache, and read
there. What an archive says of itself is checked before anything is read:

- refused as a whole, because it is damaged or was made to do harm: a path that leads out of the
  archive, members that overlap, far more bytes than the file can honestly hold, too many members,
  a part that is cut off;
- left out one by one, with the reason: links, devices, sparse files, encrypted members, methods
  of compression that we do not read, members that are too large, an older member of the same name;
- not mentioned, as in folders: what is hidden, and what other programs leave.

A member whose content is not what the archive promises is an `ImageError` when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from topwork.core.errors import DatasetError, ImageError, printable
from topwork.core.files import write_file
from topwork.core.leftovers import sweep_folder
from topwork.data.listing import Skipped, check_strict, make_writable
from topwork.data.readers.members import (
    ARCHIVE_LIMITS,
    ArchiveLimits,
    ArchiveMember,
    FileStamp,
    ListedMember,
    damaged,
    hostile,
    is_tar,
    list_tar,
    list_zip,
)
from topwork.data.readers.tree import is_litter
from topwork.images.decode import Readable

SUFFIXES = (
    ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz",
)  # fmt: skip

# Bytes of the disk that the cache leaves free.
RESERVED_BYTES = 1 << 30
# Nobody sorts images into deeper folders, and trees are walked recursively.
MOST_FOLDERS = 100

_DRIVE = re.compile("[A-Za-z]:")
_START_BYTES = 512
_CHUNK_BYTES = 1 << 20
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}


class Archive:
    """What lies in an archive.

    Attributes:
        path: the archive.
        names: relative paths of its files and folders, also of folders that only occur in
            paths; sorted. Parts are separated by "/", with which folders end.
        skipped: what was left out.
    """

    def __init__(
        self,
        path: Path,
        members: dict[str, ArchiveMember],
        folders: set[str],
        skipped: tuple[Skipped, ...],
    ) -> None:
        self.path = path
        self.names = tuple(sorted([*members, *folders]))
        self.skipped = skipped
        self._members = members

    def source(self, name: str) -> Readable:
        """Returns a file, to be read later, from any thread.

        Args:
            name: one of `names`.

        Raises:
            DatasetError: there is no such file.
        """
        return self._find(name)

    def read(self, name: str, limit: int) -> bytes:
        """Returns the bytes of a file, such as a table of labels.

        Args:
            name: one of `names`.
            limit: the most bytes that it may have.

        Raises:
            DatasetError: there is no such file, it has more bytes, or it cannot be read.
        """
        member = self._find(name)
        if member.size > limit:
            raise DatasetError(
                f"{name} in {self.path} must have at most {limit:,} bytes, it has {member.size:,}"
            )
        try:
            return member.read()
        except ImageError as error:
            raise DatasetError(f"{name} in {self.path} cannot be read: {error}") from None

    def _find(self, name: str) -> ArchiveMember:
        try:
            return self._members[name]
        except KeyError:
            raise DatasetError(f"there is no file {printable(name)} in {self.path}") from None


def is_archive(name: str) -> bool:
    """Whether a file is called like an archive that can be opened."""
    return name.lower().endswith(SUFFIXES)


def open_archive(
    path: Path,
    cache: Path,
    *,
    strict: bool = False,
    limits: ArchiveLimits = ARCHIVE_LIMITS,
    reserved_bytes: int = RESERVED_BYTES,
) -> Archive:
    """Opens an archive, of whichever kind its content is, and lists it.

    Args:
        path: a zip or tar file; tar may be compressed with gzip, bzip2 or xz.
        cache: a folder for what compressed tars hold; made when it is needed.
        strict: raise at the first member that would be left out; see the module.
        limits: how much it may hold.
        reserved_bytes: of the disk, that the cache leaves free.

    Raises:
        DatasetError: it is missing, no archive, damaged, or made to do harm; a cache cannot be
            written; `strict` and a member cannot be used.
    """
    try:
        found = _list(path, cache, limits, reserved_bytes)
    except FileNotFoundError:
        raise DatasetError(f"{path} must be a zip or tar file: there is no such file") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise DatasetError(f"{path}: its index is too large for this machine's memory") from None
    archive = _arrange(path, found, limits)
    check_strict([Skipped(f"{path}/{item.path}", item.reason) for item in archive.skipped], strict)
    return archive


def _list(
    path: Path, cache: Path, limits: ArchiveLimits, reserved_bytes: int
) -> list[ListedMember]:
    """Lists the members of an archive, of whichever kind it is.

    Raises:
        OSError: the file cannot be read.
        DatasetError: see `open_archive`.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise DatasetError(f"{path} must be a zip or tar file: it is not a file")
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
        signs = (sign for sign in _COMPRESSIONS if start.startswith(sign))
        compression = _COMPRESSIONS.get(next(signs, b""))
        if compression is None and is_tar(start):
            return list(list_tar(path, path, file, limits))
        if compression is None and zipfile.is_zipfile(file):
            return list(list_zip(path, file, limits))
    if compression is None:
        raise DatasetError(
            f"{path} must be a zip or tar file: it is neither, or it is damaged or cut off"
        )
    plain = _decompress(path, compression, cache, limits, reserved_bytes)
    try:
        with plain.open("rb") as file:
            return list(list_tar(path, plain, file, limits))
    except DatasetError:
        plain.unlink(missing_ok=True)
        raise


def _arrange(path: Path, found: list[ListedMember], limits: ArchiveLimits) -> Archive:
    """Makes names safe and unique, and leaves out what cannot be used."""
    members, folders, skipped = dict[str, ArchiveMember](), set[str](), list[Skipped]()
    for item in found:
        name = _clean(path, item.name)
        if is_litter(name) or not (name or item.content):
            continue
        reason = _find_fault(name, item.content, limits)
        if reason is not None:
            skipped.append(Skipped(name, reason))
            continue
        if isinstance(item.content, ArchiveMember):
            if name in members:
                # The later one counts, as when it is unpacked: programs append newer versions.
                skipped.append(Skipped(name, "a later member has the same name"))
            members[name] = item.content
        above = name if item.content is None else name.rpartition("/")[0]
        while above and f"{above}/" not in folders:
            folders.add(f"{above}/")
            above = above.rpartition("/")[0]
    for name in [name for name in members if f"{name}/" in folders]:
        del members[name]
        skipped.append(Skipped(name, "a folder has the same name"))
    return Archive(path, members, folders, tuple(skipped))


def _clean(path: Path, name: str) -> str:
    """Returns a name without empty parts and "."; empty for the root itself.

    Raises:
        DatasetError: it leads out of the archive.
    """
    parts = name.replace("\\", "/").split("/")
    leads_out = (len(parts) > 1 and not parts[0]) or ".." in parts or _DRIVE.match(name)
    if leads_out or "\0" in name:
        raise hostile(path, name, "its path leads out of the archive")
    return make_writable("/".join(part for part in name.split("/") if part not in ("", ".")))


def _find_fault(
    name: str, content: ArchiveMember | str | None, limits: ArchiveLimits
) -> str | None:
    """Returns why a member cannot be used, None if it can."""
    if isinstance(content, str):
        return content
    if not name:
        return "it has no name"
    if name.count("/") > MOST_FOLDERS:
        return f"it lies more than {MOST_FOLDERS} folders deep"
    if content is not None and content.size > limits.member_bytes:
        return f"it has {content.size:,} bytes, more than {limits.member_bytes:,}"
    return None


def _decompress(
    path: Path, compression: str, cache: Path, limits: ArchiveLimits, reserved_bytes: int
) -> Path:
    """Returns a file in the cache with the content of a compressed tar, made now or earlier.

    Raises:
        OSError: the archive cannot be read.
        DatasetError: it is damaged, too large or no tar, or the cache cannot be written.
    """
    stamp = FileStamp.of(path.stat())
    key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    plain = cache / f"{key}-{stamp.size:x}-{stamp.mtime_ns:x}.tar"
    if plain.is_file():
        return plain
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep_folder(cache)
        _remove_older(cache, key)
        room = shutil.disk_usage(cache).free - reserved_bytes
        write_file(plain, lambda file: _copy(path, compression, file, room, limits))
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be decompressed into {cache}: {error.strerror or error}; make room "
            "there, choose another store, or pack it as zip, which is read in place"
        ) from None
    return plain


def _copy(path: Path, compression: str, file: BinaryIO, room: int, limits: ArchiveLimits) -> None:
    packed, written = path.stat().st_size, 0
    for chunk in _read_compressed(path, compression):
        if not written and not is_tar(chunk[:_START_BYTES]):
            raise DatasetError(f"{path} must be a zip or tar file: it is compressed and no tar")
        written += len(chunk)
        if written > limits.bytes:
            raise DatasetError(f"{path} is not read: it holds more than {limits.bytes:,} bytes")
        if limits.is_bomb(written, packed):
            raise DatasetError(f"{path} is not read: {limits.bomb}")
        if written > room:
            raise OSError(f"it has more bytes than the {max(0, room):,} that may be used")
        file.write(chunk)
    if not written:
        raise DatasetError(f"{path} must be a zip or tar file: it is compressed and empty")


def _read_compressed(path: Path, compression: str) -> Iterator[bytes]:
    import bz2
    import gzip
    import lzma

    kinds: dict[str, Callable[[Path], object]] = {
        "gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open,
    }  # fmt: skip
    try:
        with cast(BinaryIO, kinds[compression](path)) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        if error.errno is not None:
            raise
        raise damaged(path, error) from None
    except (EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise damaged(path, error) from None


def _remove_older(cache: Path, key: str) -> None:
    """Removes the content that this archive had before it was changed."""
    for older in cache.glob(f"{key}-*.tar"):
        # Another process may have it open, or have removed it already.
        with contextlib.suppress(OSError):
            older.unlink(missing_ok=True)
