"""A folder of files that are written once: on a disk, or in a bucket such as S3's.

The vectors of a store may be in a bucket; the rest of it is always in a local folder, which then
has an `elsewhere.json` with the URL:

    <store>/elsewhere.json      {"vectors": "s3://bucket/prefix"}
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from topwork.core.config import default_store
from topwork.core.errors import SettingsError, StoreError
from topwork.core.files import write_file
from topwork.data.remote.urls import identity, is_url, scheme, show, show_text

RECORD = "elsewhere.json"
SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")


class Stamp(NamedTuple):
    """What changes when a file is replaced: its size in bytes, and when it was written."""

    size: int
    mtime_ns: int


class Folder(Protocol):
    """A folder whose files are complete or not there at all.

    Attributes:
        address: where it is, for messages.
        local: its path; None if it is in a bucket.
        threads: how many files to read at a time.
    """

    address: str
    local: Path | None
    threads: int

    def list_names(self) -> list[str]:
        """Returns the names of all files and folders in it; none if it does not exist."""

    def list_files(self) -> dict[str, Stamp]:
        """Returns the stamps of its files, by name."""

    def list_folders(self) -> list[str]:
        """Returns the names of the folders in it."""

    def below(self, name: str) -> Folder:
        """Returns a folder in it."""

    def open(self, name: str) -> Any:
        """Returns a file as `pyarrow.parquet` reads it, or its path.

        Raises:
            FileNotFoundError: there is none.
        """

    def stamp(self, name: str) -> Stamp:
        """Returns the stamp of a file.

        Raises:
            FileNotFoundError: there is none.
        """

    def write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Writes a file, whole or not at all."""

    def rename(self, name: str, new: str) -> None:
        """Gives a file another name."""

    def remove(self, name: str) -> None:
        """Removes a file, if it exists."""


class LocalFolder:
    """A folder on a disk; see `Folder`. Its methods raise OSError."""

    def __init__(self, path: Path) -> None:
        self.local: Path | None = path
        self.address = str(path)
        self.threads = min(8, os.cpu_count() or 1)
        self._path = path

    def list_names(self) -> list[str]:
        """See `Folder`."""
        try:
            return [path.name for path in self._path.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def list_files(self) -> dict[str, Stamp]:
        """See `Folder`."""
        return {
            entry.name: Stamp(status.st_size, status.st_mtime_ns)
            for entry, status in self._entries()
            if not entry.is_dir()
        }

    def list_folders(self) -> list[str]:
        """See `Folder`."""
        return sorted(entry.name for entry, _ in self._entries() if entry.is_dir())

    def _entries(self) -> list[tuple[os.DirEntry[str], os.stat_result]]:
        found = []
        try:
            with os.scandir(self._path) as entries:
                for entry in entries:
                    try:
                        found.append((entry, entry.stat()))
                    except FileNotFoundError:
                        continue
        except (FileNotFoundError, NotADirectoryError):
            pass
        return found

    def below(self, name: str) -> LocalFolder:
        """See `Folder`."""
        return LocalFolder(self._path / name)

    def open(self, name: str) -> Path:
        """See `Folder`."""
        return self._path / name

    def stamp(self, name: str) -> Stamp:
        """See `Folder`."""
        status = (self._path / name).stat()
        return Stamp(status.st_size, status.st_mtime_ns)

    def write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """See `Folder`; the folder is made if it does not exist."""
        self._path.mkdir(parents=True, exist_ok=True)
        write_file(self._path / name, write)

    def rename(self, name: str, new: str) -> None:
        """See `Folder`."""
        (self._path / name).replace(self._path / new)

    def remove(self, name: str) -> None:
        """See `Folder`."""
        (self._path / name).unlink(missing_ok=True)


class BucketFolder:
    """A prefix in a bucket, through pyarrow's file systems; see `Folder`.

    Its methods raise StoreError if the bucket cannot be reached or refuses: that is no sign of a
    damaged file.
    """

    def __init__(self, url: str, system: Any = None, path: str = "") -> None:
        if system is None:
            system, path = _connect(url)
        self.local: Path | None = None
        self.address = show(url)
        self.threads = 16
        self._url, self._system, self._path = url, system, path

    def list_names(self) -> list[str]:
        """See `Folder`."""
        return [info.base_name for info in self._list()]

    def list_files(self) -> dict[str, Stamp]:
        """See `Folder`."""
        return {info.base_name: _stamp(info) for info in self._list() if info.is_file}

    def list_folders(self) -> list[str]:
        """See `Folder`."""
        return sorted(info.base_name for info in self._list() if not info.is_file)

    def _list(self) -> list[Any]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._path, allow_not_found=True)
        return list(self._try(lambda: self._system.get_file_info(selector)))

    def below(self, name: str) -> BucketFolder:
        """See `Folder`."""
        return BucketFolder(f"{self._url.rstrip('/')}/{name}", self._system, f"{self._path}/{name}")

    def open(self, name: str) -> BinaryIO:
        """See `Folder`."""
        file = self._try(lambda: self._system.open_input_file(f"{self._path}/{name}"))
        return io.BufferedReader(_Reader(self, file), 1 << 16)

    def stamp(self, name: str) -> Stamp:
        """See `Folder`."""
        info = self._try(lambda: self._system.get_file_info(f"{self._path}/{name}"))
        if not info.is_file:
            raise FileNotFoundError(name)
        return _stamp(info)

    def write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """See `Folder`; the file appears when all of it has been sent."""
        # All content first: a stream that is closed early would leave half a file.
        content = io.BytesIO()
        write(content)

        def send() -> None:
            with self._system.open_output_stream(f"{self._path}/{name}") as stream:
                stream.write(content.getbuffer())

        self._try(send)

    def rename(self, name: str, new: str) -> None:
        """See `Folder`: copied, then deleted."""
        self._try(lambda: self._system.move(f"{self._path}/{name}", f"{self._path}/{new}"))

    def remove(self, name: str) -> None:
        """See `Folder`."""
        with contextlib.suppress(FileNotFoundError):
            self._try(lambda: self._system.delete_file(f"{self._path}/{name}"))

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"cannot use the store {self.address}: {show_text(error)}") from error


class _Reader(io.RawIOBase):
    """A file in a bucket; an error of the bucket is raised as one, not as damaged content."""

    def __init__(self, folder: BucketFolder, file: Any) -> None:
        self._folder, self._file = folder, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        return int(self._folder._try(lambda: self._file.readinto(buffer)))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_folder(root: Path, *names: str) -> Folder:
    """Returns a folder of the store in `root`, wherever its vectors are.

    Raises:
        StoreError: the record of where they are is damaged, or the bucket cannot be reached.
    """
    url = find_elsewhere(root)
    folder: Folder = BucketFolder(url) if url else LocalFolder(root)
    for name in names:
        folder = folder.below(name)
    return folder


def find_elsewhere(root: Path) -> str | None:
    """Returns the URL where the vectors of a store lie; None if they are in its folder.

    Raises:
        StoreError: the record is damaged.
    """
    record = root / RECORD
    try:
        return str(json.loads(record.read_bytes())["vectors"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{record} must say where the store's vectors are and cannot be read: {error}; "
            "remove it, and name the store by its URL again"
        ) from error


def find_store(address: Path | str | None) -> Path:
    """Returns the local folder of the store that a user named.

    Args:
        address: a folder, or the URL of a bucket; None for `$TOPWORK_STORE`, or the user's cache.

    Raises:
        SettingsError, StoreError: as for `open_elsewhere`.
    """
    text = str(address or os.environ.get("TOPWORK_STORE") or "")
    if is_url(text):
        return open_elsewhere(text)
    return Path(text) if text else default_store()


def open_elsewhere(url: str) -> Path:
    """Returns the local folder of a store whose vectors are at a URL; made if it is new.

    Credentials and endpoint come from the environment, as AWS' own tools take them.

    Args:
        url: such as `s3://bucket/prefix`.

    Raises:
        SettingsError: it is not the URL of a bucket that can be used.
        StoreError: the local folder cannot be written.
    """
    shown = show(url)
    if scheme(url) not in SCHEMES:
        raise SettingsError(
            f"store: must be a folder or a bucket such as s3://bucket/prefix, received {shown}"
        )
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise SettingsError(
            f"store: {shown} must not hold a password; put it into the environment, for S3 as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    try:
        _connect(url)
    except StoreError as error:
        raise SettingsError(f"store: {error}") from error
    chosen = os.environ.get("TOPWORK_STORE", "")
    folder = (_cache() if is_url(chosen) else default_store()) / "stores" / identity(url)[:16]
    content = json.dumps({"vectors": url}) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / RECORD, lambda file: file.write(content.encode()))
    except OSError as error:
        raise StoreError(
            f"the store {shown} needs a local folder for all but its vectors, and {folder} cannot "
            f"be written: {error.strerror}; name another one as $TOPWORK_STORE"
        ) from error
    return folder


def _cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("topwork", appauthor=False)


def _connect(url: str) -> tuple[Any, str]:
    """Returns pyarrow's file system for a URL, and the path in it."""
    import pyarrow as pa

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    full_url = url.rstrip("/")
    if scheme(url) == "s3" and endpoint and "endpoint_override=" not in url:
        protocol, _, host = endpoint.rpartition("://")
        separator = "&" if "?" in full_url else "?"
        full_url += f"{separator}scheme={protocol or 'https'}&endpoint_override={host.rstrip('/')}"
    try:
        system, path = _from_uri(full_url)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StoreError(f"cannot use the store {show(url)}: {show_text(error)}") from error
    if not path.strip("/"):
        raise StoreError(f"cannot use the store {show(url)}: it names no bucket")
    return system, path.rstrip("/")


@functools.lru_cache(maxsize=8)
def _from_uri(url: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    # Cached, because it may ask the bucket for its region.
    system, path = FileSystem.from_uri(url)
    return system, path


def _stamp(info: Any) -> Stamp:
    return Stamp(int(info.size or 0), int(info.mtime_ns or 0))
