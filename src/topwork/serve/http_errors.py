"""What is answered to a request that is not served: a status and a reason in words."""

from __future__ import annotations

import json
from typing import Any

from topwork.core.errors import ImageError, TopworkError


class Refusal(TopworkError):  # noqa: N818 (an answer, not a fault of ours)
    """A request is answered with a reason instead.

    Args:
        status: of HTTP.
        reason: what was required, what was received, what to do.
        headers: that belong to the status.
    """

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers or {}


class ImageRefusal(ImageError):  # noqa: N818
    """One image of a request is answered with a reason instead.

    Args:
        status: of HTTP: 413 too large, 415 no image, 422 cannot be used.
        reason: why.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def busy(reason: str) -> Refusal:
    """Returns the refusal of a request for which there is no room now."""
    return Refusal(429, f"{reason}; try again in a second", {"Retry-After": "1"})


def describe(status: int, reason: str) -> dict[str, Any]:
    """Returns the body of a refusal."""
    return {"error": {"status": status, "reason": reason}}


def encode(content: Any) -> bytes:
    """Returns a body as JSON."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
