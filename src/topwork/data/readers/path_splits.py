"""Splits that a table does not name, and that the folders in its paths do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from topwork.data.listing import Listing, Note, Split
from topwork.data.split_names import parse_split


def split_by_paths(listing: Listing) -> Listing:
    """Returns a table's listing with the splits that folders in its paths are named after.

    So are paths such as `train/1.jpg` and `test/2.jpg`. Folders that all paths begin with say
    nothing, nor does one that is called like the label of its images, nor a single split.
    """
    folders = [name.replace("\\", "/").split("/")[:-1] for name in listing.names]
    shared = next(
        (n for n, parts in enumerate(zip(*folders, strict=False)) if len({*parts}) > 1),
        min(map(len, folders), default=0),
    )
    named = [_find_split(parts[shared:]) for parts in folders]
    found = {split for split, _ in named if split}
    if not found or (found == {Split.TRAIN}) or (len(found) == 1 and None not in _splits(named)):
        return listing
    for (split, folder), label in zip(named, listing.labels, strict=True):
        if split and isinstance(label, str) and label.casefold() == folder.casefold():
            return listing
    rest = sum(split is None for split, _ in named)
    splits = [split or Split.TRAIN for split, _ in named]
    sizes = ", ".join(f"{splits.count(split):,} {split}" for split in Split if split in splits)
    others = f", of which {rest:,} are in no such folder" if rest else ""
    text = (
        f"Splits are those of the folders in the paths of {listing.root} ({sizes}{others}); "
        "--split-column '' leaves it undivided"
    )
    return replace(listing, splits=splits, notes=(*listing.notes, Note(text, bool(rest))))


def _splits(named: Sequence[tuple[Split | None, str]]) -> set[Split | None]:
    return {split for split, _ in named}


def _find_split(folders: Sequence[str]) -> tuple[Split | None, str]:
    """Returns the split that the last of some folders says, and that folder's name."""
    for folder in reversed(folders):
        if split := parse_split(folder):
            return split, folder
    return None, ""
