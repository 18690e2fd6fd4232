"""Images, tables and archives on other machines: S3, Google Cloud Storage, web servers.

In: URLs. Out: lists of names, and paths of copies in a cache that runs share. Each version of a
file is downloaded once; within a run the server is asked for each file once. Transient errors are
tried again, final ones raised. Credentials, profiles and endpoints are up to the libraries below,
and no message repeats them.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import unquote

from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import DatasetError, ImageError, SettingsError, StoreError
from topwork.data.remote import urls
from topwork.data.remote.buckets import PIECE_BYTES, Bucket
from topwork.data.remote.downloads import CacheEntry, PartialDownload
from topwork.data.remote.transfers import (
    RefusedError,
    Server,
    Transfer,
    TransientError,
    UnwritableError,
)
from topwork.data.remote.urls import is_url, show
from topwork.data.remote.web import Web
from topwork.images.decode import Readable

__all__ = ["Remote", "is_url"]

Result = TypeVar("Result")

# Tries in a row without a new byte, after which a file is given up.
ATTEMPTS = 5
FIRST_WAIT_S = 0.5
# After so many files in a row that were given up, the server or the network is at fault.
LOST = 3
LARGEST_IMAGE = 256 * 2**20

_PACKAGES = {
    "s3": ("s3fs", "topwork[remote]"),
    "s3a": ("s3fs", "topwork[remote]"),
    "gs": ("gcsfs", "gcsfs"),
    "gcs": ("gcsfs", "gcsfs"),
    "http": ("aiohttp", "topwork[remote]"),
    "https": ("aiohttp", "topwork[remote]"),
    "memory": ("fsspec", "topwork[remote]"),
}


@dataclass(frozen=True)
class _Image:
    """An image on another machine."""

    remote: Remote
    url: str

    def read(self) -> bytes:
        try:
            path = self.remote.download(self.url, self.remote.largest_image_bytes)
        except RefusedError as error:
            raise ImageError(str(error)) from None
        try:
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"its copy in the cache cannot be read: {error.strerror}") from None


class Remote:
    """Reads files from other machines, for one run; safe to use from several threads.

    Attributes:
        received: bytes of content that came over the network in this run.
    """

    def __init__(
        self,
        cache: Path,
        *,
        options: Mapping[str, Any] | None = None,
        largest_image_bytes: int = LARGEST_IMAGE,
        piece_bytes: int = PIECE_BYTES,
        callback: Callback = SILENT,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Stores the settings; connections are opened when they are needed.

        Args:
            cache: folder for what is downloaded; made when it is needed, and shared by runs.
            options: for a protocol such as `s3`, arguments of its fsspec file system.
            largest_image_bytes: larger images are refused.
            piece_bytes: of a file in a bucket, how much is asked for at once.
            callback: hears `received` whenever it has grown, from any thread.
            sleep: waits between two tries, in seconds.
        """
        self.cache = cache
        self._callback = callback
        self.received = 0
        self._options = dict(options or {})
        self.largest_image_bytes = largest_image_bytes
        self._piece_bytes = piece_bytes
        self._sleep = sleep
        self._began_s = time.time()
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._done: dict[str, Path] = {}
        self._servers: dict[str, Server] = {}
        self._lost = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Connections and locks belong to their process.
        return _reconnect, (self.cache, self._options, self.largest_image_bytes, self._piece_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; what is asked for next opens new ones."""
        with self._guard:
            servers, self._servers = self._servers, {}
        for server in servers.values():
            server.close()

    def list_files(self, url: str) -> list[str]:
        """Lists every file below a folder.

        Args:
            url: a folder, or a page of links to what lies in it.

        Returns:
            Paths relative to the folder, with `/`, sorted; `urls.join` makes URLs of them.

        Raises:
            DatasetError: there is no such folder, nothing in it, or it cannot be listed.
            SettingsError: a package that this protocol needs is not installed.
        """
        try:
            names = self._try(url, lambda: self._server(url).list_files(url))
        except RefusedError as error:
            raise DatasetError(
                f"{show(url)} must be a folder that can be listed: {error}; check the address "
                "and that you may read it"
            ) from None
        if not names:
            raise DatasetError(f"{show(url)} must be a folder with files: there are none below it")
        return names

    def is_folder(self, url: str) -> bool:
        """Whether there is a folder, or a page of links, at a URL.

        Raises:
            DatasetError: the server does not answer that.
            SettingsError: a package that this protocol needs is not installed.
        """
        try:
            return self._try(url, lambda: self._server(url).is_folder(url))
        except RefusedError as error:
            raise DatasetError(f"{show(url)} must be a folder or a file: {error}") from None

    def source(self, url: str) -> Readable:
        """Returns an image that is downloaded when it is first read.

        Its `read` raises an `ImageError` for what is wrong with this image, and a `DatasetError`
        if the server does not answer at all any more.
        """
        return _Image(self, url)

    def fetch(self, url: str) -> Path:
        """Downloads a whole file, such as a table or an archive, for reading.

        Returns:
            Its copy in the cache, with the suffixes of its name.

        Raises:
            DatasetError: there is no such file, or it cannot be read.
            StoreError: the cache cannot be written.
            SettingsError: a package that this protocol needs is not installed.
        """
        try:
            return self.download(url, None)
        except RefusedError as error:
            raise DatasetError(
                f"{show(url)} must be a file that can be read: {error}; check the address and "
                "that you may read it"
            ) from None

    def download(self, url: str, most_bytes: int | None) -> Path:
        """Returns a file's copy in the cache, downloading it if it is not there.

        Args:
            url: the file.
            most_bytes: a larger one is refused, before it is downloaded if its size is known.

        Raises:
            RefusedError: with the reason.
            DatasetError: the server does not answer any more.
            StoreError: the cache cannot be written.
            SettingsError: a package that this protocol needs is not installed.
        """
        identity = urls.identity(url)
        with self._guard:
            lock = self._locks.setdefault(identity, threading.Lock())
        with lock:
            if identity not in self._done:
                self._done[identity] = self._download(identity, url, most_bytes)
            return self._done[identity]

    def _download(self, identity: str, url: str, most_bytes: int | None) -> Path:
        server = self._server(url)
        name = url.partition("?")[0].rstrip("/") if urls.is_web(url) else url
        entry = CacheEntry(self.cache, identity, unquote(name.rpartition("/")[2]))
        try:
            with entry.part() as part:
                kept = entry.kept()
                # Another process may have downloaded it while this one waited.
                if kept and kept.at_s >= self._began_s:
                    return kept.path
                version = kept.version if kept else None
                transfer = Transfer(part, version, most_bytes, self._count)
                is_new = self._try(url, lambda: server.receive(url, transfer), part)
                if kept and not is_new:
                    entry.confirm()
                    return kept.path
                return entry.finish(part)
        except (OSError, UnwritableError) as error:
            cause = error.error if isinstance(error, UnwritableError) else error
            raise StoreError(
                f"{self.cache} must be a folder that can be written, for files from elsewhere: "
                f"{cause.strerror or cause}; make room or name another one"
            ) from None

    def _count(self, received: int) -> None:
        with self._guard:
            self.received += received
            self._callback.on_received(self.received)

    def _try(
        self, url: str, call: Callable[[], Result], part: PartialDownload | None = None
    ) -> Result:
        """Calls until it succeeds, is refused, or has failed too often in a row.

        Args:
            url: for messages.
            call: raises `TransientError` or `RefusedError` if it fails.
            part: what the call adds to; tries after which it has grown do not count.
        """
        tries, most = 0, part.size if part else 0
        while True:
            try:
                result = call()
            except TransientError as error:
                tries += 1
                if part and part.size > most:
                    tries, most = 0, part.size
                if tries >= ATTEMPTS:
                    raise self._give_up(url, error) from None
                # Jitter, so that threads that failed together do not come back together.
                wait_s = FIRST_WAIT_S * 2 ** max(tries - 1, 0) * random.uniform(0.5, 1.5)
                self._sleep(max(wait_s, error.wait_s))
            except RefusedError:
                self._lost = 0
                raise
            else:
                self._lost = 0
                return result

    def _give_up(self, url: str, error: TransientError) -> Exception:
        with self._guard:
            self._lost += 1
            lost = self._lost
        reason = f"{error}, {ATTEMPTS} times"
        if lost < LOST:
            return RefusedError(reason)
        return DatasetError(
            f"{show(url)}: {reason}, and so for {lost} files in a row; when the server can be "
            "reached, run again: what was downloaded is kept"
        )

    def _server(self, url: str) -> Server:
        name = urls.scheme(url)
        if name not in _PACKAGES:
            known = ", ".join(f"{known}://" for known in _PACKAGES) + " and paths"
            raise RefusedError(f"{name}:// is not supported; what is: {known}")
        with self._guard:
            if name not in self._servers:
                self._servers[name] = self._connect(name)
            return self._servers[name]

    def _connect(self, name: str) -> Server:
        package, wanted = _PACKAGES[name]
        options = dict(self._options.get(name, {}))
        try:
            if urls.is_web(f"{name}://"):
                return Web(options)
            return Bucket(name, options, self._piece_bytes)
        except ImportError:
            raise SettingsError(
                f"{name}:// needs the package {package}, which is not installed; "
                f"pip install '{wanted}'"
            ) from None


def _reconnect(
    cache: Path, options: Mapping[str, Any], largest_image_bytes: int, piece_bytes: int
) -> Remote:
    return Remote(
        cache, options=options, largest_image_bytes=largest_image_bytes, piece_bytes=piece_bytes
    )
