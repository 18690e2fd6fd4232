"""Which classes or labels have no images to judge by, in words."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 5


def say_missing(what: str, names: Sequence[str]) -> str:
    """Says which classes or labels nothing is known of; an empty text if there are none.

    Args:
        what: is judged, such as `Validation` or `Test images:`; the first word names the split.
        names: of those without images.
    """
    if not names:
        return ""
    where = what.split(maxsplit=1)[0]
    where = "The data" if where == "All" else where
    them = "it" if len(names) == 1 else "them"
    return f" {where} has no images of: {list_names(names)}; the figures say nothing of {them}."


def say_share(missing: int, count: int, kind: str) -> str:
    """Says over how many of the classes or labels a mean is; an empty text for all.

    Args:
        missing: how many have no images.
        count: how many there are.
        kind: `classes` or `labels`.
    """
    return f" over {count - missing} of {count} {kind} alone" if missing else ""


def list_names(names: Sequence[str]) -> str:
    """Returns the first few names with commas between them, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
