"""The errors that Topwork raises on purpose.

    TopworkError
    ├── SettingsError    an option or argument is wrong (exit code 2)
    ├── DatasetError     the images, labels or splits cannot be used
    ├── ImageError       one image cannot be read or decoded
    ├── WeightsError     the weights of a base are missing or do not fit
    ├── NetworkError     a base cannot be built or run
    ├── StoreError       the store cannot be read or written
    └── ModelError       a saved model is missing, damaged or breaks parity

A message says what was required, what was received, which path, and what to do next.
Anything else that escapes Topwork is a bug.
"""

from __future__ import annotations


class TopworkError(Exception):
    """Base of every error that Topwork foresees."""

    exit_code = 1


class SettingsError(TopworkError, ValueError):
    """An option or argument is wrong."""

    exit_code = 2


class DatasetError(TopworkError, ValueError):
    """The images, labels or splits cannot be used as they are."""


class ImageError(TopworkError):
    """One image cannot be read or decoded; the message is the reason, without the path."""


class WeightsError(TopworkError):
    """The weights of a base are missing, unreadable or do not fit the network."""


class NetworkError(TopworkError):
    """A base cannot be built, exported or run."""


class StoreError(TopworkError):
    """The store cannot be read or written."""


class ModelError(TopworkError):
    """A saved model is missing, damaged, too new, or would break the parity rule."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an exception's message; its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def printable(text: object) -> str:
    """Returns text as one line that does nothing to a terminal, whatever a file name holds."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text)
    )


def counted(count: int, what: str) -> str:
    """Returns a number of things in words: `no pairs`, `1 pair`, `2 pairs`."""
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
