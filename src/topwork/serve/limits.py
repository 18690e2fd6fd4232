"""How much the server takes: every limit, defined once."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from topwork.core.errors import SettingsError

MEBIBYTE = 1024 * 1024


class Limits(BaseModel):
    """What one request may bring, and how much may be on its way at once."""

    model_config = ConfigDict(frozen=True)

    image_bytes: int = Field(20 * MEBIBYTE, ge=1, description="Most bytes of one image.")
    image_pixels: int = Field(
        50_000_000, ge=1, description="Most pixels of one image, read from its header."
    )
    images: int = Field(32, ge=1, le=10_000, description="Most images of one request.")
    request_bytes: int = Field(64 * MEBIBYTE, ge=1, description="Most bytes of one request.")
    queue: int = Field(
        128,
        ge=1,
        description="Most images on their way at once; who brings more is asked to come again.",
    )
    held_bytes: int = Field(
        256 * MEBIBYTE, ge=1, description="Most bytes of all requests on their way at once."
    )
    timeout_s: float = Field(
        30.0, gt=0, le=3600, description="Seconds to answer in, once a request is received."
    )
    receive_timeout_s: float = Field(
        60.0, gt=0, le=3600, description="Seconds to receive a request in."
    )
    head_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="Seconds to receive a request's line and headers in."
    )
    linger_s: float = Field(
        5.0,
        gt=0,
        description="Seconds for a client to send the rest of what was refused, or to take what "
        "was answered.",
    )
    head_bytes: int = Field(
        16 * 1024, ge=1024, description="Most bytes of a request's line and headers."
    )
    connections: int = Field(1000, ge=1, description="Most connections at once.")

    @classmethod
    def create(cls, **values: Any) -> Limits:
        """Checks limits.

        Raises:
            SettingsError: one is out of range, or they contradict each other.
        """
        try:
            limits = cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            raise SettingsError(
                f"{first['loc'][0]}: {first['msg']}, received {first['input']!r}"
            ) from None
        if limits.queue < limits.images:
            raise SettingsError(
                f"queue: must be at least as long as the images of one request, "
                f"{limits.images}, received {limits.queue}"
            )
        if limits.held_bytes < limits.request_bytes:
            raise SettingsError(
                f"held_bytes: must be at least the bytes of one request, "
                f"{limits.request_bytes}, received {limits.held_bytes}"
            )
        return limits
