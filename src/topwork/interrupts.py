"""Stub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def hold_interrupts() -> Iterator[None]:
    """Stub."""
    yield


def interrupt_waits() -> bool:
    """Stub."""
    return False
