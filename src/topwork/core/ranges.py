"""Which values of a picture of more than 8 bits are black and white, as text and as numbers.

As text, `LOW..HIGH` holds for all pictures of more than 8 bits a channel, and
`float32 0..1, uint16 0..4095` for those of each kind of number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType


class Kind(StrEnum):
    """The numbers that a picture of more than 8 bits a channel is made of."""

    UINT16 = "uint16"
    INT16 = "int16"
    UINT32 = "uint32"
    INT32 = "int32"
    FLOAT32 = "float32"


# Black and white of each kind; of the others each file's own values decide.
Ranges = Mapping[Kind, tuple[float, float]]
# What 16 bits mean where nothing else was said.
FULL = 0.0, 65535.0

# A dot has digits on both sides, so that `0...1` is nothing, and not 0 to 0.1.
_NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_RANGE = re.compile(rf"(?:([a-z]+\d+) )?({_NUMBER})\.\.({_NUMBER})", re.IGNORECASE)
FORM = "must be LOW..HIGH, such as 0..4095 or -1..1"


@lru_cache(maxsize=64)
def parse_ranges(text: str) -> Ranges:
    """Returns the values of black and white.

    Args:
        text: see the module; empty where nothing was said.

    Raises:
        ValueError: it has another form, names a kind twice or one that there is not, or black is
            not less than white.
    """
    found: dict[Kind, tuple[float, float]] = {}
    parts = [part.strip() for part in text.split(",")] if text else []
    for part in parts:
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(FORM)
        low, high = float(match[2]), float(match[3])
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"{FORM}, with LOW less than HIGH")
        if match[1] is None and len(parts) > 1:
            raise ValueError(FORM)
        kinds = list(Kind) if match[1] is None else [_find_kind(match[1])]
        if found.keys() & set(kinds):
            raise ValueError(f"{FORM}, once for each kind")
        found |= dict.fromkeys(kinds, (low, high))
    return MappingProxyType(found)


def _find_kind(name: str) -> Kind:
    try:
        return Kind(name.lower())
    except ValueError:
        raise ValueError(f"{FORM}, or for one of {', '.join(Kind)}") from None


def format_ranges(ranges: Ranges) -> str:
    """Returns ranges as the text that `parse_ranges` reads."""
    if len(ranges) == len(Kind) and len({*ranges.values()}) == 1:
        return format_range(*ranges[Kind.UINT16])
    return ", ".join(f"{kind} {format_range(*ranges[kind])}" for kind in sorted(ranges))


def leave_out_usual(text: str) -> str:
    """Returns ranges without the one that 16 bits have where nothing is said."""
    ranges = parse_ranges(text)
    if ranges.get(Kind.UINT16) != FULL or len({*ranges.values()}) < len(ranges) == len(Kind):
        return text
    return format_ranges({kind: ends for kind, ends in ranges.items() if kind is not Kind.UINT16})


def format_range(low: float, high: float) -> str:
    """Returns black and white as `LOW..HIGH`."""
    return f"{low:.10g}..{high:.10g}"
