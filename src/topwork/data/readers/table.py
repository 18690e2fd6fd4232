"""Tables of images: CSV, JSON lines, JSON and Parquet files, one row for each image.

In: a file, or its bytes. Out: a `Listing`. CSV has commas, semicolons or tabs, told by the header
or by a line `sep=;` above it, in UTF-8 or what `encodings` recognises; a file of one or two columns
whose first line already names an image is read as paths, or as paths and labels. JSON lines have
one object a line, in which a missing key is an empty cell; JSON is an array of such objects.
Parquet may hold the images themselves. All but Parquet may be compressed with gzip.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError
from topwork.data.listing import Listing
from topwork.data.readers.columns import ColumnRoles, choose_columns, is_used
from topwork.data.readers.encodings import as_utf8
from topwork.data.readers.rows import ListingBuilder, Resolve, pick
from topwork.images.decode import SUFFIXES

_KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "json",
    ".parquet": "parquet",
}
# A spreadsheet writes one of these, by the settings of its country.
DELIMITERS = ",;\t"
# Excel writes this above the names, and means it for itself alone.
_SEPARATOR_LINE = re.compile('^"?sep=(.)"?\r?\n?$', re.IGNORECASE)
_BOM = b"\xef\xbb\xbf"


def is_table(name: str) -> bool:
    """Whether a file, or what lies at a URL, is a table by its suffix."""
    return _kind_of(name) is not None


def read_table(
    location: str,
    data: Path | bytes,
    columns: DataSettings,
    resolve: Resolve,
    *,
    strict: bool = False,
    labelled: bool = True,
) -> Listing:
    """Reads which images there are, their labels and what they are for; see `ListingBuilder`.

    Rows that cannot be used are left out and named. A file is looked for, not opened.

    Args:
        location: what to call the table; its suffix tells the format, or else its content does.
        data: its file or its bytes.
        columns: which column says what, where that is not to be guessed.
        resolve: finds the image that a row names; an `ImageError` of it is the row's.
        strict: raise at the first row that cannot be used, instead of leaving it out.
        labelled: whether rows without labels are left out. If not, labels may be None, and
            columns of splits, groups and weights are used only if `columns` names them.

    Raises:
        DatasetError: it cannot be read, its columns cannot be told, or no row can be used.
        SettingsError: a column that `columns` names is not there.
    """
    try:
        with _open(data) as file:
            head = file.peek(4)[:4]
            if head == b"PAR1" or _kind_of(location) == "parquet":
                return _read_parquet(location, data, columns, resolve, strict, labelled)
            text = _buffer(gzip.GzipFile(fileobj=file)) if head[:2] == b"\x1f\x8b" else file
            text, note = as_utf8(location, text, columns.encoding)
            kind = _kind_of(location) or _kind_by_content(text)
            read = _read_csv if kind == "csv" else _read_json
            listing = read(location, text, columns, resolve, labelled).finish(strict)
            return replace(listing, notes=((note,) if note else ()) + listing.notes)
    except (EOFError, zlib.error) as error:
        raise DatasetError(f"{location} is damaged or cut off: {error}") from None
    except OSError as error:
        raise DatasetError(f"cannot read the table {location}: {error.strerror or error}") from None


def _open(data: Path | bytes) -> io.BufferedReader:
    if isinstance(data, bytes):
        return _buffer(io.BytesIO(data))
    try:
        return data.open("rb")
    except ValueError:
        raise DatasetError(f"{data} is not a path") from None


def _buffer(file: gzip.GzipFile | io.BytesIO) -> io.BufferedReader:
    """Returns a file in memory, or a compressed one, as one that has `peek`."""
    return io.BufferedReader(cast("io.RawIOBase", file))


def _kind_of(name: str) -> str | None:
    path = name.partition("?")[0] if "://" in name else name
    return _KINDS.get(_suffix(path.lower().removesuffix(".gz")))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (a URL is no path)


def _kind_by_content(file: io.BufferedReader) -> str:
    start = file.peek(1024).removeprefix(_BOM).lstrip()[:1]
    return "json" if start in (b"{", b"[") else "csv"


def _read_parquet(
    location: str,
    data: Path | bytes,
    columns: DataSettings,
    resolve: Resolve,
    strict: bool,
    labelled: bool,
) -> Listing:
    from topwork.data.readers.arrow_rows import ParquetRows, choose_arrow_columns

    rows = ParquetRows(location, data)
    roles = choose_arrow_columns(rows, columns, labelled=labelled)
    builder = ListingBuilder(location, rows.names, roles, columns, resolve, labelled=labelled)
    rows.add_to(builder, roles)
    return builder.finish(strict)


def _read_csv(
    location: str,
    file: io.BufferedReader,
    columns: DataSettings,
    resolve: Resolve,
    labelled: bool,
) -> ListingBuilder:
    with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        return _read_lines(location, _Lines(text), columns, resolve, labelled)


def _read_lines(
    location: str, lines: _Lines, columns: DataSettings, resolve: Resolve, labelled: bool
) -> ListingBuilder:
    delimiter, names = _read_header(location, lines, columns)
    roles = choose_columns(location, names, columns, labelled=labelled)
    builder = ListingBuilder(location, names, roles, columns, resolve, labelled=labelled)
    reader = _make_reader(lines, delimiter)
    while True:
        number = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return builder
        except csv.Error:
            # Only the first line of it: a quote that is never closed would swallow the others.
            lines.take_back(after=1)
            builder.leave_out(f"{location} line {number}", "its quotes do not match")
            continue
        lines.keep()
        if len(cells) == len(names):
            builder.add(f"{location} line {number}", pick(number, cells, roles))
        elif cells:
            builder.leave_out(
                f"{location} line {number}",
                f"it must have {len(names)} fields like the first line, received {len(cells)}",
            )


class _Lines:
    """Lines of a text with a counter; lines since the last `keep` can be read again."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._back = list[str]()
        self._given = list[str]()
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._back.pop() if self._back else next(self._lines)
        self._given.append(line)
        return line

    def keep(self) -> None:
        """Counts the lines that were read since the last call; they cannot be taken back."""
        self.number += len(self._given)
        self._given.clear()

    def take_back(self, after: int) -> None:
        """Takes back the lines that were read since the last `keep`, all but the first `after`."""
        self._back += reversed(self._given[after:])
        del self._given[after:]
        self.keep()


def _make_reader(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)


def _read_header(location: str, lines: _Lines, columns: DataSettings) -> tuple[str, list[str]]:
    """Returns the delimiter and the names of the columns; a first row of images stays unread."""
    used = is_used(columns)
    best: tuple[tuple[int, int], str, list[str]] | None = None
    said = _SEPARATOR_LINE.match(next(lines, ""))
    if said:
        lines.keep()
    else:
        lines.take_back(after=0)
    for delimiter in said[1] if said else DELIMITERS:
        try:
            cells = next((cells for cells in _make_reader(lines, delimiter) if cells), [])
        except csv.Error:
            cells = []
        lines.take_back(after=0)
        score = (sum(used(cell) or _names_image(cell) for cell in cells), len(cells))
        if cells and (best is None or score > best[0]):
            best = (score, delimiter, cells)
    if best is None:
        raise DatasetError(
            f"{location} must start with a line of column names, such as path,label; it is empty, "
            "or the quotes in its first line do not match"
        )
    _, delimiter, names = best
    images = [_names_image(name) for name in names]
    if images in ([True], [True, False], [False, True]) and not any(map(used, names)):
        return delimiter, ["image" if image else "label" for image in images]
    for cells in _make_reader(lines, delimiter):
        if cells:
            break
    lines.keep()
    return delimiter, names


def _names_image(cell: str) -> bool:
    text = cell.strip()
    return _suffix(text) in SUFFIXES or _suffix(text.partition("?")[0]) in SUFFIXES


def _read_json(
    location: str,
    file: io.BufferedReader,
    columns: DataSettings,
    resolve: Resolve,
    labelled: bool,
) -> ListingBuilder:
    start = file.peek(1024).removeprefix(_BOM).lstrip()[:1]
    if start == b"[" and _kind_of(location) != "lines":
        unit, objects = "row", _parse_array(location, file.read())
    else:
        unit, objects = "line", _parse_lines(file)
    used = is_used(columns)
    names = dict[str, None]()
    read = list[tuple[int, dict[str, Any] | str]]()
    for number, item in objects:
        if isinstance(item, str):
            read.append((number, item))
            continue
        names.update(dict.fromkeys(item))
        read.append((number, {key: cell for key, cell in item.items() if used(key)}))
    keys = list(names) or [""]
    # Without a single object there is nothing to choose from, and no row to add.
    roles = (
        choose_columns(location, keys, columns, labelled=labelled) if names else ColumnRoles(0, ())
    )
    builder = ListingBuilder(location, keys, roles, columns, resolve, labelled=labelled)
    for number, cells in read:
        where = f"{location} {unit} {number}"
        if isinstance(cells, str):
            builder.leave_out(where, cells)
        else:
            found = {index: cells.get(keys[index]) for index in roles.indices()}
            builder.add(where, pick(number, found, roles))
    return builder


def _parse_lines(file: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yields the number of each line that is not blank, with its object or what is wrong."""
    for number, line in enumerate(file, 1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if text.strip():
            yield number, _parse_line(text)


def _parse_line(line: bytes) -> dict[str, Any] | str:
    try:
        found = json.loads(line.decode())
    except UnicodeDecodeError:
        return "it is not UTF-8; save it as UTF-8, or name its encoding with --encoding"
    except json.JSONDecodeError as error:
        return f"it is not JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        return f"it is not JSON that can be read: {error}"
    return _check_object(found)


def _check_object(found: Any) -> dict[str, Any] | str:
    if isinstance(found, dict):
        return found
    return f'it must be a JSON object such as {{"path": ...}}, received a {type(found).__name__}'


def _parse_array(location: str, text: bytes) -> Iterator[tuple[int, dict[str, Any] | str]]:
    try:
        found = json.loads(text.removeprefix(_BOM).decode())
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{location} is not JSON that can be read: {error}") from None
    return ((number, _check_object(item)) for number, item in enumerate(found, 1))
