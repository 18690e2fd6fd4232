"""What inspections found, kept in the store for whoever reports on a model of the same images.

    <store>/inspections/<key>.json

The key is a hash over the hashes of the images that are not for testing: they are the images
that a model is made of, however they are named and divided.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from topwork.core.files import write_file

# Raise it when the content is arranged otherwise.
VERSION = "1"


def remember(store: Path, hashes: Iterable[str], content: dict[str, Any]) -> None:
    """Writes down what an inspection found; where that fails, nothing is remembered.

    Args:
        store: the store's folder.
        hashes: SHA-256 of the bytes of each image that is not for testing, hex, in any order.
        content: what JSON can hold.
    """
    path, data = _name(store, hashes), json.dumps(content, allow_nan=False).encode()
    # A report can be made without it.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, lambda file: file.write(data))


def recall(store: Path, hashes: Iterable[str]) -> dict[str, Any] | None:
    """Returns what an inspection of the same images found.

    Args:
        store: the store's folder.
        hashes: as for `remember`.

    Returns:
        What was remembered last; None if nothing was, or it cannot be read.
    """
    try:
        found = json.loads(_name(store, hashes).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _name(store: Path, hashes: Iterable[str]) -> Path:
    text = "\n".join((VERSION, *sorted(hashes)))
    return store / "inspections" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
