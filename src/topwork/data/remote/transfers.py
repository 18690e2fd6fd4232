"""What every kind of server offers, how a file is received from it, and what its errors mean.

The boundary to fsspec, aiohttp and the clouds' libraries: their errors become `RefusedError`,
which is final, or `TransientError`, after which another try may succeed.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import Protocol

from topwork.data.remote import urls
from topwork.data.remote.downloads import PartialDownload, Version

LONGEST_WAIT_S = 120.0

_TRANSIENT_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
_TRANSIENT_CODES = frozenset(
    ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling",
     "ThrottlingException", "TooManyRequests", "RequestLimitExceeded")
)  # fmt: skip
_TRANSIENT_ERRNO = frozenset((errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EBUSY)))
_TRANSIENT_NAMES = frozenset(
    ("TimeoutError", "ConnectionError", "ClientConnectionError", "ClientPayloadError",
     "HTTPClientError", "IncompleteReadError", "ResponseParserError")
)  # fmt: skip
_FINAL_NAMES = frozenset(("SSLError", "ClientSSLError", "ClientConnectorCertificateError"))
_NO_CREDENTIALS = (
    "no credentials were found; set them up as for the cloud's own programs, or "
    "FSSPEC_S3_ANON=true for what is public"
)
_LIBRARIES = frozenset(("aiohttp", "aiobotocore", "botocore", "fsspec", "gcsfs", "google", "s3fs"))


class RefusedError(Exception):
    """A file cannot be downloaded; the message is the reason."""


class MissingError(RefusedError):
    """There is no such file."""

    def __init__(self) -> None:
        super().__init__("there is no such file")


class UnwritableError(Exception):
    """The cache cannot be written.

    Args:
        error: that writing raised.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class TransientError(Exception):
    """A try failed, and another one may succeed.

    Args:
        reason: why it failed.
        wait_s: seconds to wait before the next try, as the server asks for.
    """

    def __init__(self, reason: str, wait_s: float = 0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Transfer:
    """One file on its way from a server into its partial download.

    Args:
        part: what is there of the file.
        kept: the version of it that is in the cache as a whole; None if none is.
        most_bytes: a larger file is refused; None for no limit.
        on_received: called with the number of bytes that came, after they are written.
    """

    def __init__(
        self,
        part: PartialDownload,
        kept: Version | None,
        most_bytes: int | None,
        on_received: Callable[[int], None],
    ) -> None:
        self.part = part
        self.kept = kept
        self._most_bytes = most_bytes
        self._on_received = on_received

    def start(self, size: int | None) -> None:
        """Refuses a file that is too large before any of it comes.

        Args:
            size: of the file in bytes; None if the server does not say.

        Raises:
            RefusedError: it is larger than `most_bytes`.
        """
        if self._most_bytes is not None and size is not None and size > self._most_bytes:
            raise self._too_large(self._most_bytes)

    def write(self, data: bytes) -> None:
        """Appends what came to the partial download.

        Raises:
            RefusedError: it is larger than `most_bytes` now.
            UnwritableError: the cache cannot be written.
        """
        try:
            self.part.write(data)
        except OSError as error:
            raise UnwritableError(error) from None
        self._on_received(len(data))
        if self._most_bytes is not None and self.part.size > self._most_bytes:
            self.part.restart(Version())
            raise self._too_large(self._most_bytes)

    @staticmethod
    def _too_large(most_bytes: int) -> RefusedError:
        return RefusedError(f"it is larger than the {most_bytes >> 20} MiB that an image may have")


class Server(Protocol):
    """A kind of server for files."""

    def list_files(self, url: str) -> list[str]:
        """Returns the paths below a folder, sorted."""

    def is_folder(self, url: str) -> bool:
        """Whether it is a folder; not if it is not there."""

    def receive(self, url: str, transfer: Transfer) -> bool:
        """Receives what is missing of a file.

        Args:
            url: the file.
            transfer: its `part` is continued, or restarted for another version; it is told the
                size of the file before any of it, and then gets all that comes.

        Returns:
            False if `transfer.kept` is still the version; nothing is received then.

        Raises:
            RefusedError: the file cannot be had.
            TransientError: another try may succeed.
        """

    def close(self) -> None:
        """Closes connections."""


def check_status(status: int, wait: str = "") -> None:
    """Raises unless the status of an answer says that the request succeeded.

    Args:
        status: of an HTTP answer.
        wait: its header `Retry-After`, in seconds; other values are ignored.

    Raises:
        RefusedError: another try would get the same answer.
        TransientError: another try may succeed.
    """
    if status in _TRANSIENT_STATUS:
        wait_s = min(float(wait), LONGEST_WAIT_S) if wait.isdecimal() else 0.0
        raise TransientError(f"the server answered {status}", wait_s)
    if status in {404, 410}:
        raise MissingError
    if status in {401, 403}:
        raise RefusedError(f"no permission to read it ({status})")
    if status not in {200, 206, 304, 416}:
        raise RefusedError(f"the server answered {status}")


@contextlib.contextmanager
def mapped_errors() -> Iterator[None]:
    """Turns exceptions of the libraries into the errors of this module."""
    try:
        yield
    except Exception as error:
        meaning = _map(error)
        if meaning is None:
            raise
        # Without the cause: it may name an address with its secrets.
        raise meaning from None


def _map(error: Exception) -> Exception | None:
    """Returns what an exception of a library means; None if no server or network caused it."""
    cause = error if hasattr(error, "response") else error.__cause__
    answer = getattr(cause, "response", None)
    if isinstance(answer, dict):
        code = str(answer.get("Error", {}).get("Code", ""))
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
        if code in _TRANSIENT_CODES or status in _TRANSIENT_STATUS:
            return TransientError(f"the server answered {status} {code}")
    names = {kind.__name__ for kind in type(error).__mro__}
    library = type(error).__module__.partition(".")[0]
    passes = names & _TRANSIENT_NAMES or getattr(error, "errno", None) in _TRANSIENT_ERRNO
    # The first that fits counts: names of classes say more than their base classes.
    meanings: tuple[tuple[object, Exception], ...] = (
        (isinstance(error, FileNotFoundError), MissingError()),
        (isinstance(error, PermissionError), RefusedError("no permission to read it (403)")),
        (names & _FINAL_NAMES, RefusedError("the server's certificate is not trusted")),
        ("NoCredentialsError" in names, RefusedError(_NO_CREDENTIALS)),
        (passes or _status_of(error) in _TRANSIENT_STATUS, TransientError(_describe(error))),
        (
            isinstance(error, OSError | ValueError) or library in _LIBRARIES,
            RefusedError(_describe(error)),
        ),
    )
    return next((meaning for fits, meaning in meanings if fits), None)


def _status_of(error: Exception) -> int:
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) else 0


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the server does not answer in time"
    return urls.show_text(error) or type(error).__name__
