"""Tables that lie in a folder: which list its images, and what becomes of those that are not read.

A table beside class folders is passed over, and named. One whose labels contradict the folders is
no guess to be made: both readings are named then, and neither is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from topwork.core.errors import DatasetError, SettingsError
from topwork.data.labels import name_class
from topwork.data.listing import SHOWN, Listing, Note, Split
from topwork.data.readers.columns import LABEL_NAMES, simplify
from topwork.data.readers.layout import is_divided
from topwork.data.readers.table import is_table
from topwork.data.readers.tree import Tree
from topwork.data.split_names import Part, parse_part, tokens

# Kaggle's example of what to hand in has labels that are none.
_EXAMPLE = "submission"
# Tables that programs write and we do not read.
_SHEETS = (".xlsx", ".xls", ".ods")
# A path of a table in a tree -> what it lists.
ReadTable = Callable[[str], Listing]


class FolderTable(NamedTuple):
    """A table in a tree.

    Attributes:
        path: within the tree.
        part: of the data that it lists, by its name or that of its folder.
    """

    path: str
    part: Part | None


def find_tables(tree: Tree, base: str) -> tuple[list[FolderTable], list[FolderTable]]:
    """Returns the tables that lie at the top of the data, and those within its parts."""
    folders, files = tree.top(base.rstrip("/"))
    top = [FolderTable(base + name, parse_part(_stem(name))) for name in _pick(files)]
    inner = [
        FolderTable(f"{base}{folder}/{name}", parse_part(folder))
        for folder in sorted(folders if is_divided(folders) else ())
        for name in _pick(tree.top(base + folder)[1])
    ]
    return top, inner


def _pick(files: Sequence[str]) -> list[str]:
    # JSON files beside images are mostly no tables.
    return sorted(name for name in files if is_table(name) and ".json" not in _endings(name))


def _endings(name: str) -> list[str]:
    return [f".{end}" for end in name.lower().split(".")[1:]][-2:]


def _stem(name: str) -> str:
    return name.partition(".")[0]


def read_tables(tree: Tree, base: str, tables: Sequence[FolderTable], read: ReadTable) -> Listing:
    """Reads the one table of some that lists images and labels, or one for each split.

    Raises:
        DatasetError: none can be read, or several may be meant.
    """
    if len(tables) == 1 and tables[0].path.count("/") == base.count("/"):
        return read(tables[0].path)
    usable, reasons = list[tuple[FolderTable, Listing]](), list[DatasetError | SettingsError]()
    for table in tables:
        if _EXAMPLE in tokens(table.path):
            continue
        try:
            usable.append((table, read(table.path)))
        except (DatasetError, SettingsError) as error:
            reasons.append(error)
    if not usable:
        raise reasons[0] if reasons else DatasetError(f"{tree.root} holds no table of images")
    parts = [table.part for table, _ in usable]
    if len(usable) == 1 and usable[0][0].path.count("/") == base.count("/"):
        listing = usable[0][1]
    elif Part.UNLABELED not in parts and None not in parts and len({*parts}) == len(parts):
        listing = _combine(tree, base, usable)
    else:
        names = ", ".join(table.path.removeprefix(base) for table in tables[:SHOWN])
        raise DatasetError(
            f"{tree.root}/{base} holds no class folders and several tables: {names}; keep the one "
            "that is meant, or point at it, and say with --images where its pictures are"
        )
    read_ones = [table.path for table, _ in usable]
    left = [table.path for table in tables if table.path not in read_ones]
    if left:
        names = ", ".join(left[:SHOWN])
        note = Note(f"Passed over: {names}, without pictures that have labels", doubtful=True)
        listing = replace(listing, notes=(*listing.notes, note))
    return listing


def _combine(tree: Tree, base: str, usable: Sequence[tuple[FolderTable, Listing]]) -> Listing:
    """Puts the tables of several splits together."""
    listings = [listing for _, listing in usable]
    first = listings[0]
    for listing in listings[1:]:
        if (listing.label_columns, listing.separator) != (first.label_columns, first.separator):
            raise DatasetError(
                f"{listing.root} must have the label columns that {first.root} has; say which they "
                "are with --label-column"
            )
    names, splits = list[str](), list[Split]()
    for table, listing in usable:
        folder = table.path.removeprefix(base).rpartition("/")[0]
        names += [f"{folder}/{name}" if folder else name for name in listing.names]
        part = (table.part and table.part.as_split) or Split.TRAIN
        splits += listing.splits or [part] * len(listing.names)

    def joined(name: str, empty: Any) -> list[Any] | None:
        cells = [getattr(listing, name) for listing in listings]
        if all(each is None for each in cells):
            return None
        pairs = zip(cells, listings, strict=True)
        return [x for each, one in pairs for x in (each or [empty] * len(one.names))]

    read_as = ", ".join(f"{table.path} as {table.part}" for table, _ in usable)
    return Listing(
        root=f"{tree.root.rstrip('/')}/{base}".rstrip("/"),
        names=names,
        sources=[source for listing in listings for source in listing.sources],
        labels=[label for listing in listings for label in listing.labels],
        label_columns=first.label_columns,
        label_name=first.label_name,
        splits=splits,
        groups=joined("groups", ""),
        weights=joined("weights", 1.0),
        separator=first.separator,
        skipped=tuple(item for listing in listings for item in listing.skipped),
        notes=(
            Note(f"Tables are read as parts of the data: {read_as}"),
            *(note for listing in listings for note in listing.notes),
        ),
    )


def judge_passed_over(
    tree: Tree,
    base: str,
    listing: Listing,
    tables: Sequence[FolderTable],
    read: ReadTable,
    told: bool,
) -> Listing:
    """Returns a listing of folders with a note for each table that was not read.

    Args:
        tree: the folders.
        base: where the data is in it.
        listing: what the folders hold.
        tables: those beside the folders.
        read: reads one.
        told: whether the user said what the folders are.

    Raises:
        DatasetError: the labels of a table contradict the folders.
    """
    label_of = {
        os.path.normpath(source) if isinstance(source, os.PathLike) else source: label
        for source, label in zip(listing.sources, listing.labels, strict=True)
    }
    notes = list(listing.notes)
    for table in tables:
        try:
            rows = read(table.path)
        except (DatasetError, SettingsError):
            notes.append(Note(f"{table.path} is not read: the folders say what is a class"))
            continue
        pairs = []
        for source, label in zip(rows.sources, rows.labels, strict=True):
            key = os.path.normpath(source) if isinstance(source, os.PathLike) else source
            if isinstance(label, str) and isinstance(given := label_of.get(key), str):
                pairs.append((name_class(given).casefold(), name_class(label).casefold()))
        same = sum(folder == label for folder, label in pairs)
        certain = simplify(rows.label_name) in LABEL_NAMES
        if 2 * same < len(pairs) and certain and not told:
            raise DatasetError(
                f"{tree.root.rstrip('/')}/{base} can be read in two ways: by its folders, or by "
                f"{table.path}, which names {len(pairs)} of the pictures and has other labels for "
                f"{len(pairs) - same} of them. Say --label-column {rows.label_name} to read the "
                "table, or --folders classes, or --folders parts, to read the folders"
            )
        if pairs and same < len(pairs):
            text = (
                f"{table.path} names {len(pairs)} of the pictures and is not read, since folders "
                f"say what is a class; --label-column {rows.label_name} reads it instead"
            )
            notes.append(Note(text, doubtful=True))
        else:
            notes.append(Note(f"{table.path} is not read: the folders say what is a class"))
    other = sorted(name for name in tree.top(base.rstrip("/"))[1] if _is_other_table(name))
    if other:
        notes.append(Note(f"Passed over: {', '.join(other[:SHOWN])}"))
    return replace(listing, notes=tuple(notes))


def _is_other_table(name: str) -> bool:
    ending = f".{name.lower().rpartition('.')[2]}"
    return ending in _SHEETS or (is_table(name) and ".json" in _endings(name))
