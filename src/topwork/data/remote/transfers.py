"""What a place for files can do, and what its errors mean.

The boundary to fsspec, aiohttp and the clouds' libraries: their errors become `RefusedError`,
which is final, or `TransientError`, which may pass.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import Protocol

from topwork.data.remote import urls
from topwork.data.remote.downloads import PartialDownload, Version

LONGEST_WAIT_S = 120.0

_PASSING_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))
_PASSING_CODES = frozenset(
    ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling",
     "ThrottlingException", "TooManyRequests", "RequestLimitExceeded")
)  # fmt: skip
_PASSING_ERRNO = frozenset((errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EBUSY)))
_PASSING_NAMES = frozenset(
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
    """A file cannot be had; the message is the reason."""


class MissingError(RefusedError):
    """There is no such file."""

    def __init__(self) -> None:
        super().__init__("there is no such file")


class TransientError(Exception):
    """A try that failed and that may succeed later."""

    def __init__(self, reason: str, wait_s: float = 0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Server(Protocol):
    """A kind of place for files."""

    def list_files(self, url: str) -> list[str]:
        """Returns the paths below a folder, sorted."""

    def is_folder(self, url: str) -> bool:
        """Whether it is a folder; not if it is not there."""

    def receive(
        self,
        url: str,
        part: PartialDownload,
        kept: Version | None,
        start: Callable[[int | None], None],
        write: Callable[[bytes], None],
    ) -> bool:
        """Receives what is missing of a file.

        Args:
            url: the file.
            part: what is there of it; restarted for another version.
            kept: the version that is here as a whole.
            start: called with the size of the file, before any of it.
            write: called with what came.

        Returns:
            False if `kept` is still the version; nothing is received then.
        """

    def close(self) -> None:
        """Closes connections."""


def check_status(status: int, wait: str = "") -> None:
    """Goes on with an answer that has or needs no content, or some.

    Args:
        status: of an HTTP answer.
        wait: what it says about when to come back, in seconds, if it does.

    Raises:
        RefusedError: it is final.
        TransientError: it may pass.
    """
    if status in _PASSING_STATUS:
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
    """Turns what the libraries raise into the errors of this module."""
    try:
        yield
    except Exception as error:
        meaning = _map(error)
        if meaning is None:
            raise
        # Without the cause: it may name an address with its secrets.
        raise meaning from None


def _map(error: Exception) -> Exception | None:
    """Returns what a library's error means; None for what no server caused."""
    cause = error if hasattr(error, "response") else error.__cause__
    answer = getattr(cause, "response", None)
    if isinstance(answer, dict):
        code = str(answer.get("Error", {}).get("Code", ""))
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
        if code in _PASSING_CODES or status in _PASSING_STATUS:
            return TransientError(f"the server answered {status} {code}")
    names = {kind.__name__ for kind in type(error).__mro__}
    library = type(error).__module__.partition(".")[0]
    passes = names & _PASSING_NAMES or getattr(error, "errno", None) in _PASSING_ERRNO
    # The first that fits: a name says more than the kind of exception that it is.
    meanings: tuple[tuple[object, Exception], ...] = (
        (isinstance(error, FileNotFoundError), MissingError()),
        (isinstance(error, PermissionError), RefusedError("no permission to read it (403)")),
        (names & _FINAL_NAMES, RefusedError("the server's certificate is not trusted")),
        ("NoCredentialsError" in names, RefusedError(_NO_CREDENTIALS)),
        (passes or _status_of(error) in _PASSING_STATUS, TransientError(_describe(error))),
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
