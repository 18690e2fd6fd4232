"""Images that are there twice: the same bytes, or the same picture saved again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Likeness(StrEnum):
    """How two images are alike."""

    SAME = "same"  # the same bytes
    NEAR = "near"  # the same picture: another quality, format or size
    MIRRORED = "mirrored"  # the same picture, left to right


@dataclass(frozen=True)
class Pair:
    """Two images that are one picture.

    Attributes:
        first: place of the one.
        second: place of the other, above `first`.
        likeness: how they are alike.
        similarity: correlation of their small grey pictures, -1..1; 1 for the same bytes.
    """

    first: int
    second: int
    likeness: Likeness
    similarity: float
