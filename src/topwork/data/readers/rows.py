"""From rows of a table, whatever reader they come from, to a `Listing`.

A row that cannot be used is left out and listed with the reason.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError, ImageError, first_line
from topwork.data.listing import Listing, Skipped, Split, check_strict, make_writable, name_some
from topwork.data.readers.columns import ColumnRoles
from topwork.data.readers.guesses import judge_columns
from topwork.data.split_names import Part, parse_part
from topwork.images.decode import Source

# A path or URL as it is written in a row -> where its bytes are.
Resolve = Callable[[str], Source]

# Separates the labels of one image that came as a list, if no separator is set.
LIST_SEPARATOR = "|"

# Up to this one, every whole number is exact in a float.
_EXACT = 2**53


class EmbeddedImage(NamedTuple):
    """An image in the table itself, with the name that it has there, if any."""

    name: Any
    source: Source


class BadCell(NamedTuple):
    """Stands for a cell that cannot be read, and costs its row."""

    reason: str


class TableRow(NamedTuple):
    """The used cells of a row, as they were read; None for a missing one."""

    number: int
    image: Any
    labels: Sequence[Any] = ()
    split: Any = None
    group: Any = None
    weight: Any = None


class _BadRowError(Exception):
    """Why a row is left out."""


def pick(number: int, cells: Sequence[Any] | Mapping[int, Any], roles: ColumnRoles) -> TableRow:
    """Returns the used cells of a row, by the indices of their columns."""

    def at(index: int | None) -> Any:
        return None if index is None else cells[index]

    labels = [cells[index] for index in roles.labels]
    return TableRow(
        number, cells[roles.image], labels, at(roles.split), at(roles.group), at(roles.weight)
    )


class ListingBuilder:
    """Builds a listing of rows that are added one by one.

    Cells become text without spaces around it: whole numbers without `.0`; true and false as
    words, or as 1 and 0 if there are several label columns; a list of labels joined by the label
    separator, or else by `|`. An empty list becomes an empty text: the image has none of the
    possible labels. An empty cell is a missing label, unless there is a label separator, or
    several label columns.
    """

    def __init__(
        self,
        root: str,
        names: Sequence[str],
        roles: ColumnRoles,
        columns: DataSettings,
        resolve: Resolve,
        *,
        labelled: bool = True,
        divided: bool = False,
    ) -> None:
        """Starts a listing without rows.

        Args:
            root: location of the table, for messages.
            names: of the columns.
            roles: which column says what.
            columns: the settings.
            resolve: returns the source that a path or URL means.
            labelled: whether a row without a label is left out.
            divided: whether `add` is told the split of each row.
        """
        self._root = root
        self._columns, self._roles, self._column_names = columns, roles, names
        self._resolve = resolve
        self._label_columns = tuple(names[index].strip() for index in roles.labels)
        self._labelled = labelled
        self._separator = columns.label_separator or LIST_SEPARATOR
        self._separated = columns.label_separator is not None
        self._lists, self._unit = False, "line"
        self._found: dict[str, Source | str] = {}
        self._base: str | None = None
        self._texts: dict[str, str] = {}
        self.skipped: list[Skipped] = []
        self._names, self._lines = list[str](), list[int]()
        self._sources = list[Source]()
        self._labels = list[str | tuple[str, ...] | None]()
        self._splits: list[Split] | None = [] if divided or roles.split is not None else None
        self._groups: list[str] | None = [] if roles.group is not None else None
        self._weights: list[float] | None = [] if roles.weight is not None else None

    def add(self, where: str, row: TableRow, split: Split | None = None, prefix: str = "") -> None:
        """Adds a row, or leaves it out.

        Args:
            where: location of the row for messages, such as `photos.csv line 17`.
            row: its cells.
            split: of the image, if no column says it.
            prefix: of the image's name.
        """
        try:
            labels = self._read_labels(row.labels)
            if self._splits is not None and split is None:
                split = _read_split(row.split, self._labelled)
            group = self._keep(_as_text(row.group, "the group")) if self._groups is not None else ""
            weight = _read_weight(row.weight) if self._weights is not None else 1.0
            name, source = self._find_image(row, where)
        except _BadRowError as bad:
            self.skipped.append(Skipped(where, str(bad)))
            return
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:
            # Cells may be of any type, and libraries of many minds about them.
            self.skipped.append(Skipped(where, f"it cannot be read: {first_line(error)}"))
            return
        self._names.append(prefix + name)
        self._sources.append(source)
        self._labels.append(labels)
        self._lines.append(row.number)
        self._unit = "row" if where.endswith(f"row {row.number}") else "line"
        if self._splits is not None and split is not None:
            self._splits.append(split)
        if self._groups is not None:
            self._groups.append(group)
        if self._weights is not None:
            self._weights.append(weight)

    def leave_out(self, where: str, reason: str) -> None:
        """Leaves out a row, or several, that cannot be read at all."""
        self.skipped.append(Skipped(where, reason))

    def finish(self, strict: bool) -> Listing:
        """Returns the listing.

        Raises:
            DatasetError: no row can be used, or `strict` and one was left out.
        """
        check_strict(self.skipped, strict)
        if not self._names:
            raise DatasetError(self._explain_empty())
        listing = Listing(
            root=self._root,
            names=self._names,
            sources=self._sources,
            labels=self._labels,
            label_columns=self._label_columns if len(self._label_columns) > 1 else (),
            label_name=self._label_columns[0] if len(self._label_columns) == 1 else "",
            splits=self._splits,
            groups=self._groups,
            weights=self._weights,
            lines=self._lines,
            unit=self._unit,
            separator=self._separator if self._lists else None,
            skipped=tuple(self.skipped),
        )
        return judge_columns(listing, self._column_names, self._roles, self._columns)

    def _explain_empty(self) -> str:
        if not self.skipped:
            return f"{self._root} has no rows; it needs one per image"
        base = ""
        if self._base:
            base = f". Paths are relative to {self._base}; say with --images where else they lie"
        return f"{self._root}: none of its rows can be used: {name_some(self.skipped)}{base}"

    def _read_labels(self, cells: Sequence[Any]) -> str | tuple[str, ...] | None:
        if not self._label_columns:
            return None
        several = len(self._label_columns) > 1
        texts = [self._read_label(cell, several) for cell in cells]
        if None in texts:
            if not self._labelled:
                return None
            which = f" in column {self._label_columns[texts.index(None)]}" if several else ""
            raise _BadRowError(f"there is no label{which}")
        found = tuple(self._keep(text) for text in texts if text is not None)
        return found if several else found[0]

    def _read_label(self, cell: Any, several: bool) -> str | None:
        if several and isinstance(cell, bool):
            return str(int(cell))
        if isinstance(cell, list) and not several:
            self._lists = True
            parts = [_as_text(part, "a label") for part in cell]
            for part in parts:
                if not part or self._separator in part:
                    raise _BadRowError(
                        f"the label {part!r} in a list is empty or contains {self._separator!r}, "
                        "which separates labels; choose another with --label-separator"
                    )
            return self._separator.join(parts)
        text = _as_text(cell, "the label")
        # An image that may have several labels may also have none.
        return text or ("" if several or self._separated else None)

    def _keep(self, text: str) -> str:
        """Returns the first copy of an equal text, so that repeated texts take no memory."""
        return self._texts.setdefault(text, text)

    def _find_image(self, row: TableRow, where: str) -> tuple[str, Source]:
        if isinstance(row.image, EmbeddedImage):
            try:
                name = _as_text(row.image.name, "the path")
            except _BadRowError:  # the picture is there, whatever it is called
                name = ""
            return name or f"row {row.number}", row.image.source
        text = _as_text(row.image, "the path")
        if not text:
            raise _BadRowError("there is no image")
        found = self._found.get(text)
        if found is None:
            found = self._found[text] = self._look(text)
        if isinstance(found, str):
            raise _BadRowError(found)
        return text, found

    def _look(self, text: str) -> Source | str:
        """Returns the source of an image, or why there is none."""
        try:
            source = self._resolve(text)
            if not isinstance(source, Path):
                return source
            is_folder = stat.S_ISDIR(os.stat(source).st_mode)  # noqa: PTH116 (once for each row)
        except ImageError as error:
            return f"{text}: {error}"
        except (FileNotFoundError, NotADirectoryError):
            self._base = self._base or _base_of(source, text)
            return f"{text}: there is no such file"
        except OSError as error:
            return f"{text}: cannot be read: {error.strerror}"
        except ValueError:
            return f"{text}: not a path"
        return f"{text}: it is a folder" if is_folder else source


def _as_text(value: Any, what: str) -> str:
    """Returns a cell as text, empty if it is missing."""
    if isinstance(value, BadCell):
        raise _BadRowError(f"{what} cannot be read: {value.reason}")
    if isinstance(value, str):
        text = value.strip()
        if not text.isascii():
            _check_unicode(text, what)
        return text
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _EXACT else repr(value)
    if isinstance(value, int | Decimal | date | time):
        return str(value)
    if isinstance(value, bytes):
        return _as_text(value.decode("utf-8", "surrogateescape"), what)
    raise _BadRowError(f"{what} must be a text or a number, received a {type(value).__name__}")


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _BadRowError(
            f"{what} {make_writable(text)!r} is not UTF-8; save it as UTF-8"
        ) from None


def _read_split(cell: Any, labelled: bool) -> Split:
    text = _as_text(cell, "the split")
    part = parse_part(text)
    if part is Part.UNLABELED and labelled:
        raise _BadRowError(f"its split {text!r} is of images without labels")
    if part is None:
        raise _BadRowError(
            f"the split must be train, validation or test, received {text!r}; "
            "another column, or '' for none, is named with --split-column"
        )
    return part.as_split or Split.TEST


def _read_weight(cell: Any) -> float:
    text = _as_text(cell, "the weight")
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise _BadRowError(f"the weight must be a number of 0 or more, received {text!r}")
    return weight


def _base_of(source: Source, text: str) -> str | None:
    """Returns the folder that a relative path was looked for in."""
    path = str(source)
    inner = str(Path(text))
    if Path(text).is_absolute() or not path.endswith(inner):
        return None
    return path[: -len(inner)] or "the current folder"
