"""The errors that a request is answered with: a status of HTTP and a reason in words."""

from __future__ import annotations

import json
from typing import Any

from topwork.core.errors import ImageError, TopworkError


class HTTPError(TopworkError):
    """A request is answered with an error: a status and a reason.

    Args:
        status: of HTTP, 400 or more.
        reason: what was required, what was received, what to do.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers or {}


class UploadError(ImageError):
    """One image of a request is answered with an error; the others are not affected.

    Args:
        status: of HTTP: 413 too large, 415 no image, 422 cannot be used.
        reason: why.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def busy(reason: str) -> HTTPError:
    """Returns the error of a request for which there is no room now."""
    return HTTPError(429, f"{reason}; try again in a second", {"Retry-After": "1"})


def describe(status: int, reason: str) -> dict[str, Any]:
    """Returns the body of an error, to be encoded as JSON."""
    return {"error": {"status": status, "reason": reason}}


def encode(content: Any) -> bytes:
    """Returns a body as JSON."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
