"""The members of a zip or tar file, listed and checked before any of them is used.

An archive is refused as a whole if it is damaged or made to do harm: members that overlap, far
more bytes than the file can honestly hold, too many members, impossible sizes, a part that is cut
off. A single member that cannot be used is listed with the reason.
"""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from topwork.core.errors import DatasetError, ImageError, printable

# ImageNet has 1.3 million images; each member takes about a kilobyte of memory while they are
# listed.
MOST_MEMBERS = 2_000_000
# ImageNet-21k, all 14 million images of it, has 1.3e12 bytes.
MOST_BYTES = 1 << 41
# The most pixels that are decoded, 179 million, take 0.5 GB as plain RGB.
MOST_MEMBER_BYTES = 1 << 30
# Deflate packs zeros to a thousandth of their size. A small blank bitmap may be packed like that,
# but nothing large that is packed to less than 1/200 is a photograph.
MOST_RATIO = 200
LARGE_BYTES = 1 << 26
# The names of a tar that do not fit its headers: no path of a file system is longer than 32 kB.
MOST_HEADER_BYTES = 1 << 20

_LINK = "it is a link; pack what it leads to"
_DEVICE = "it is a device or pipe, not a file"
_STORED, _DEFLATED = 0, 8
# Bits of a zip member's flags. Source: PKWARE's APPNOTE 6.3.10, 4.4.4.
_ENCRYPTED, _UTF8 = 1, 1 << 11
# Signature, 22 bytes that the index repeats, lengths of the name and of the extra field. Source:
# the same, 4.3.7.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_BLOCK_BYTES = tarfile.BLOCKSIZE
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ArchiveLimits:
    """How much an archive may hold.

    Attributes:
        members: the most members.
        bytes: the most bytes of all of them, where they are compressed.
        member_bytes: the most bytes of one; a larger one is left out.
        ratio: the most bytes for each compressed byte, where they are more than `large_bytes`.
        large_bytes: the most bytes of which any ratio is accepted.
        header_bytes: the most bytes of a tar's header.
    """

    members: int = MOST_MEMBERS
    bytes: int = MOST_BYTES
    member_bytes: int = MOST_MEMBER_BYTES
    ratio: int = MOST_RATIO
    large_bytes: int = LARGE_BYTES
    header_bytes: int = MOST_HEADER_BYTES

    @property
    def bomb(self) -> str:
        """The reason why an archive with a decompression bomb is refused."""
        return f"no images can be packed to less than 1/{self.ratio} of their size"

    def is_bomb(self, size: int, packed: int) -> bool:
        """Whether `size` bytes that were compressed to `packed` bytes cannot be images."""
        return size > self.large_bytes and size > self.ratio * packed


ARCHIVE_LIMITS = ArchiveLimits()


class FileStamp(NamedTuple):
    """Size and time of a file: other ones show that it was changed."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        """Returns the stamp of a file."""
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """An image in an archive: a `Readable`.

    Attributes:
        path: the file that it lies in.
        stamp: of that file, when it was listed.
        offset: of its first byte there.
        packed: how many bytes it takes there.
        size: how many bytes it has.
        method: of compression, by its number in zip files.
        crc: CRC-32 of its bytes; None where the archive has none.
    """

    path: Path
    stamp: FileStamp
    offset: int
    packed: int
    size: int
    method: int = _STORED
    crc: int | None = None

    def read(self) -> bytes:
        """Returns its bytes.

        Raises:
            ImageError: with the reason.
        """
        try:
            with self.path.open("rb") as file:
                if FileStamp.of(os.fstat(file.fileno())) != self.stamp:
                    raise ImageError("the archive was changed meanwhile; start again")
                file.seek(self.offset)
                packed = file.read(self.packed)
            data = packed if self.method == _STORED else _inflate(packed, self.size)
        except MemoryError:
            raise ImageError("too large for this machine's memory") from None
        except OSError as error:
            raise ImageError(f"its archive cannot be read: {error.strerror or error}") from None
        if len(data) != self.size or (self.crc is not None and zlib.crc32(data) != self.crc):
            raise ImageError("damaged: it is not what its archive says that it is")
        return data


class ListedMember(NamedTuple):
    """A member as the archive lists it.

    Attributes:
        name: as it is written there, with "/" between its parts.
        content: None for a folder; for what cannot be used, the reason.
    """

    name: str
    content: ArchiveMember | str | None


def list_zip(
    path: Path, file: BinaryIO, limits: ArchiveLimits = ARCHIVE_LIMITS
) -> Iterator[ListedMember]:
    """Lists the members of a zip file.

    Args:
        path: its path.
        file: the same, opened.
        limits: how much it may hold.

    Raises:
        DatasetError: it is damaged or made to do harm.
    """
    stamp = FileStamp.of(os.fstat(file.fileno()))
    try:
        with zipfile.ZipFile(file) as opened:
            infos, end = opened.infolist(), opened.start_dir
    except MemoryError:
        raise
    except Exception as error:
        # zipfile believes the numbers of a damaged index, which may raise anything.
        raise damaged(path, error) from None
    counter = _Counter(path, stamp.size, limits)
    for info in infos:
        counter.add(info.orig_filename, info.file_size, info.compress_size)
    offsets = dict[int, int]()
    # From the last to the first, to check that none reaches into the next one.
    for info in sorted(infos, key=lambda info: info.header_offset, reverse=True):
        offset = _find_data(path, file, info)
        if offset + info.compress_size > end:
            raise hostile(path, info.orig_filename, "it overlaps another member or the index")
        end = info.header_offset
        offsets[end] = offset
    for info in infos:
        yield ListedMember(
            _zip_name(info), _judge_zip(path, info, offsets[info.header_offset], stamp)
        )


def _judge_zip(
    path: Path, info: zipfile.ZipInfo, offset: int, stamp: FileStamp
) -> ArchiveMember | str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return _LINK
    if info.orig_filename.endswith(("/", "\\")):
        return None
    if kind not in (0, stat.S_IFREG):
        return _DEVICE
    if info.flag_bits & _ENCRYPTED:
        return "it is encrypted; pack it without a password"
    size, packed, method = info.file_size, info.compress_size, info.compress_type
    if method not in (_STORED, _DEFLATED):
        return f"its compression, method {method}, is not supported; pack it as deflate"
    if method == _STORED and packed != size:
        raise hostile(path, info.orig_filename, "it says two different sizes of itself")
    return ArchiveMember(path, stamp, offset, packed, size, method, info.CRC)


def _find_data(path: Path, file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Returns where the bytes of a zip's member start."""
    try:
        file.seek(info.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    except (struct.error, ValueError, OSError):
        signature = name = extra = 0
    if signature != b"PK\3\4":
        where = printable(info.orig_filename)
        raise damaged(path, f"{where} is not where the index says")
    return int(info.header_offset + _LOCAL_HEADER.size + name + extra)


def _zip_name(info: zipfile.ZipInfo) -> str:
    name = info.orig_filename
    if not (info.flag_bits & _UTF8 or name.isascii()):
        # Programs on a Mac write UTF-8 without saying so; else it is CP437, as the format says.
        raw = name.encode("cp437")
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            name = raw.decode("cp437")
    # Some programs on Windows write their own separator, against the format.
    return name.replace("\\", "/")


class _Headers:
    """A tar whose headers are read: raises for one that asks for too many bytes."""

    def __init__(self, file: BinaryIO, most_bytes: int) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._file = file
        self._most_bytes = most_bytes

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._most_bytes:
            raise ValueError(f"a header of {size:,} bytes")
        return self._file.read(size)


def is_tar(block: bytes) -> bool:
    """Whether the first 512 bytes of a file are those of a tar; those of an empty one are zero."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return block == bytes(_BLOCK_BYTES)
    except ValueError:
        return False
    return True


def list_tar(
    path: Path, plain: Path, file: BinaryIO, limits: ArchiveLimits = ARCHIVE_LIMITS
) -> Iterator[ListedMember]:
    """Lists the members of a tar file that is not compressed.

    Args:
        path: what to call it.
        plain: its path.
        file: the same, opened.
        limits: how much it may hold.

    Raises:
        DatasetError: it is damaged or made to do harm.
    """
    stamp = FileStamp.of(os.fstat(file.fileno()))
    counter = _Counter(path, stamp.size, limits)
    file.seek(0)
    try:
        headers = cast(BinaryIO, _Headers(file, limits.header_bytes))
        with tarfile.open(
            fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as tar:
            offset = 0
            while not _is_end(path, file, offset):
                info = tarfile.TarInfo.fromtarfile(tar)
                # A negative size would lead back to an earlier member, for ever.
                if info.size < 0 or tar.offset <= offset:
                    raise hostile(path, info.name, "its size is impossible")
                if info.isreg() and info.offset_data + info.size > stamp.size:
                    raise damaged(path, f"cut off in {printable(info.name)}")
                counter.add(info.name, info.size)
                yield ListedMember(info.name, _judge_tar(plain, info, stamp))
                offset = tar.offset
    except (DatasetError, MemoryError):
        raise
    except Exception as error:
        # tarfile believes the numbers of a damaged header, which may raise anything.
        raise damaged(path, error) from None


def _is_end(path: Path, file: BinaryIO, offset: int) -> bool:
    """Whether a tar ends at an offset; else its next header is to be read.

    Raises:
        DatasetError: the file ends there without saying so, or goes on behind the end.
    """
    file.seek(offset)
    block = file.read(_BLOCK_BYTES)
    if len(block) < _BLOCK_BYTES:
        raise damaged(path, f"cut off at byte {offset + len(block):,}")
    if any(block):
        file.seek(offset)
        return False
    while chunk := file.read(_CHUNK_BYTES):
        if any(chunk):
            raise damaged(path, f"it goes on behind its end, which is at byte {offset:,}")
    return True


def _judge_tar(plain: Path, info: tarfile.TarInfo, stamp: FileStamp) -> ArchiveMember | str | None:
    if info.isdir():
        return None
    if info.issym() or info.islnk():
        return _LINK
    if info.issparse():
        return "it is a sparse file; pack it without --sparse"
    if not info.isreg():
        return _DEVICE
    return ArchiveMember(plain, stamp, info.offset_data, info.size, info.size)


class _Counter:
    """Counts members and bytes, and refuses an archive that holds too much."""

    def __init__(self, path: Path, archive_bytes: int, limits: ArchiveLimits) -> None:
        self.path, self.archive_bytes, self.limits = path, archive_bytes, limits
        self.members = self.size = 0

    def add(self, name: str, size: int, packed: int | None = None) -> None:
        """Counts a member; `packed` is None where nothing is compressed."""
        limits = self.limits
        self.members += 1
        if self.members > limits.members:
            raise hostile(self.path, name, f"there are more than {limits.members:,} members")
        if packed is None:
            return
        self.size += size
        if self.size > limits.bytes:
            raise hostile(self.path, name, f"up to it there are more than {limits.bytes:,} bytes")
        if limits.is_bomb(size, packed) or limits.is_bomb(self.size, self.archive_bytes):
            raise hostile(self.path, name, limits.bomb)


def _inflate(packed: bytes, size: int) -> bytes:
    """Decompresses, at most one byte more than there should be."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
    except zlib.error:
        raise ImageError("damaged: it cannot be decompressed") from None


def damaged(path: Path, reason: object) -> DatasetError:
    """Returns the error for an archive that is damaged or cut off."""
    return DatasetError(f"{path} is damaged ({reason}); pack or fetch it again")


def hostile(path: Path, name: str, reason: str) -> DatasetError:
    """Returns the error for an archive that may be made to do harm."""
    return DatasetError(f"{path} is not read, because of {printable(name)} in it: {reason}")
