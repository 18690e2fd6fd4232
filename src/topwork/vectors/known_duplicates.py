"""Images that occur twice, as they were found before: kept in the store for the next time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from topwork.core.callbacks import SILENT, Callback
from topwork.core.files import write_file
from topwork.images.decode import DECODER_VERSION, Source
from topwork.vectors.candidates import WHOLE, Effort
from topwork.vectors.duplicates import Likeness, Pair, find_duplicates
from topwork.vectors.on_disk import Rows, key_of

# Raise it when the same images would give other pairs.
VERSION = "2"


def find_duplicates_cached(
    hashes: Sequence[str],
    vectors: Rows,
    sources: Sequence[Source],
    store: Path,
    *,
    effort: Effort = WHOLE,
    most: int | None = None,
    ranges: str = "",
    callback: Callback = SILENT,
) -> list[Pair]:
    """Does what `find_duplicates` does, and keeps the result in the store for the next time.

    Args:
        hashes: as for `find_duplicates`.
        vectors: as for `find_duplicates`.
        sources: as for `find_duplicates`.
        store: the store's folder.
        effort: as for `find_duplicates`.
        most: as for `find_duplicates`.
        ranges: as for `find_duplicates`.
        callback: as for `find_duplicates`; not called for a result that was kept.

    Raises:
        SettingsError: as for `find_duplicates`.
    """
    compared = most is None or len(hashes) <= most
    facts = DECODER_VERSION, VERSION, *effort, compared, vectors.shape, key_of(vectors)
    digest = hashlib.sha256(" ".join([*map(str, facts), *([ranges] if ranges else [])]).encode())
    digest.update("".join(hashes).encode())
    path = store / "copies" / f"{digest.hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        rows = json.loads(path.read_text(encoding="utf-8"))
        known = [Pair(int(i), int(j), Likeness(how), float(value)) for i, j, how, value in rows]
        if all(0 <= pair.first < pair.second < len(hashes) for pair in known):
            return known
    recorder = _LossRecorder(callback)
    pairs = find_duplicates(
        hashes,
        vectors,
        sources,
        effort=effort,
        most=most,
        ranges=ranges,
        callback=recorder,
    )
    if not recorder.lost:
        rows = [(pair.first, pair.second, pair.likeness, pair.similarity) for pair in pairs]
        content = json.dumps(rows).encode()
        # If it cannot be written, it is found again the next time.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, lambda file: file.write(content))
    return pairs


class _LossRecorder(Callback):
    """Passes on what it is told, and records whether an image could not be compared."""

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.lost = False

    def on_compared(self, done: int, total: int) -> None:
        self.callback.on_compared(done, total)

    def on_skipped(self, index: int, reason: str) -> None:
        self.lost = True
        self.callback.on_skipped(index, reason)
