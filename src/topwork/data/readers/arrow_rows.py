"""Rows of Arrow data, in a Parquet file or in memory, whose cells may be images themselves.

An image in a cell is a struct of `bytes` and `path`, as Hugging Face writes it, or plain bytes.
It is read when its vector is made, not before. Columns that Hugging Face calls classes hold
numbers; they become the names of the classes.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, repeat
from pathlib import Path
from threading import Lock
from typing import Any

from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError, ImageError, first_line
from topwork.data.listing import Split
from topwork.data.readers.columns import IMAGE_NAMES, ColumnRoles, choose_columns, simplify
from topwork.data.readers.rows import BadCell, EmbeddedImage, ListingBuilder, pick

# How many rows are turned into Python objects at a time.
BATCH = 4096
# Row groups of a Parquet file that stay in memory: threads may read on both sides of a boundary.
_GROUPS = 2


class ArrowRows:
    """Rows of Arrow data.

    Attributes:
        location: where they lie, for messages.
        schema: the `pyarrow.Schema`.
        names: of the columns.
        features: what Hugging Face says about columns, by name; empty where it says nothing.
    """

    def __init__(self, location: str, schema: Any, features: dict[str, Any] | None = None) -> None:
        self.location = location
        self.schema = schema
        self.names: list[str] = list(schema.names)
        self.features = _read_features(schema) if features is None else features

    def tables(self, names: Sequence[str]) -> Iterable[Any]:
        """Yields tables or batches of some columns, together all rows."""
        raise NotImplementedError

    def read(self, name: str, row: int) -> bytes | None:
        """Returns the bytes of an image; `row` counts from 0."""
        raise NotImplementedError

    def pictures(self, name: str) -> Iterator[tuple[bool, str | None]]:
        """Yields for each row whether it holds an image's bytes, and the name it has there."""
        for table in self.tables([name]):
            yield from _describe(table.column(0))

    def add_to(
        self,
        builder: ListingBuilder,
        roles: ColumnRoles,
        split: Split | None = None,
        prefix: str = "",
    ) -> None:
        """Adds all rows to a listing.

        Args:
            builder: of the listing.
            roles: which column says what.
            split: of the images, if no column says it.
            prefix: of the images' names.

        Raises:
            DatasetError: they cannot be read.
        """
        image = self.names[roles.image]
        embedded = may_hold_images(self.schema.field(roles.image).type)
        others = [n for n in roles.indices() if n != roles.image or not embedded]
        pictures = self.pictures(image) if embedded else repeat(None)
        with mapped_errors(self.location):
            # One of the two may be infinite, never both.
            both = zip(self._cells(others), pictures, strict=False)
            for number, (cells, picture) in enumerate(both, 1):
                if picture is not None:
                    held, name = picture
                    source = EmbeddedSource(self, image, number - 1)
                    cells[roles.image] = EmbeddedImage(name, source) if held else name
                where = f"{self.location} row {number}"
                builder.add(where, pick(number, cells, roles), split, prefix)

    def _cells(self, indices: Sequence[int]) -> Iterator[dict[int, Any]]:
        """Yields the cells of each row by column; infinitely many empty rows without columns."""
        while not indices:
            yield {}
        names = [self.names[index] for index in indices]
        classes = [self.class_names(name) for name in names]
        for table in self.tables(names):
            columns = [to_python(table.column(name)) for name in names]
            named = map(_name_classes, columns, classes)
            for cells in zip(*named, strict=True):
                yield dict(zip(indices, cells, strict=True))

    def class_names(self, name: str) -> list[str] | None:
        """Returns the names of the classes that a column holds numbers of, if it does."""
        feature = self.features.get(name)
        while isinstance(feature, dict) and "feature" in feature:
            feature = feature["feature"]
        if isinstance(feature, list) and len(feature) == 1:
            feature = feature[0]
        if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
            return None
        names = feature.get("names")
        return [str(each) for each in names] if isinstance(names, list) else None


@dataclass(frozen=True)
class EmbeddedSource:
    """An image that lies in a cell."""

    rows: ArrowRows
    column: str
    row: int

    def read(self) -> bytes:
        """Returns its encoded bytes.

        Raises:
            ImageError: with the reason.
        """
        try:
            with mapped_errors(self.rows.location):
                data = self.rows.read(self.column, self.row)
        except DatasetError as error:
            raise ImageError(str(error)) from None
        except MemoryError:
            raise ImageError("too large for this machine's memory") from None
        if data is None:
            raise ImageError("there is no image")
        return data


class ParquetRows(ArrowRows):
    """Rows of a Parquet file; the groups of rows whose images were read last stay in memory."""

    def __init__(self, location: str, data: Path | bytes) -> None:
        """Opens the file.

        Args:
            location: where it lies, for messages.
            data: its path or its bytes.

        Raises:
            DatasetError: it is not a Parquet file, or cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._data = data
        source = pa.BufferReader(data) if isinstance(data, bytes) else str(data)
        with mapped_errors(location):
            self._file = pq.ParquetFile(source)
            super().__init__(location, self._file.schema_arrow)
        meta = self._file.metadata
        self._counts = [meta.row_group(n).num_rows for n in range(meta.num_row_groups)]
        self._starts = list(accumulate(self._counts, initial=0))
        self._lock = Lock()
        self._groups: dict[tuple[str, int], Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Open files cannot be pickled; the other process opens its own.
        return ParquetRows, (self.location, self._data)

    def tables(self, names: Sequence[str]) -> Iterable[Any]:
        """Yields batches of some columns, together all rows."""
        batches: Iterator[Any] = self._file.iter_batches(BATCH, columns=list(names))
        return batches

    def read(self, name: str, row: int) -> bytes | None:
        """Returns the bytes of an image; `row` counts from 0."""
        group = bisect_right(self._starts, row) - 1
        with self._lock:
            column = self._groups.pop((name, group), None)
            if column is None:
                column = self._read_bytes(name, group)
            self._groups[name, group] = column
            while len(self._groups) > _GROUPS:
                del self._groups[next(iter(self._groups))]
        return bytes_of(column[row - self._starts[group]])

    def pictures(self, name: str) -> Iterator[tuple[bool, str | None]]:
        """Yields for each row whether it holds an image's bytes, and the name it has there."""
        for group, count in enumerate(self._counts):
            empty = self._count_empty(name, group)
            if empty is None or 0 < empty < count:
                held = [each for each, _ in _describe(self._read_bytes(name, group))]
            else:
                held = [empty == 0] * count
            paths: list[str | None] = [None] * count
            if _has_path(self.schema.field(name).type):
                table = self._file.read_row_group(group, columns=[f"{name}.path"])
                paths = list(_paths_in(table.column(0)))
            yield from zip(held, paths, strict=True)

    def _leaf(self, name: str) -> str:
        import pyarrow as pa

        return f"{name}.bytes" if pa.types.is_struct(self.schema.field(name).type) else name

    def _read_bytes(self, name: str, group: int) -> Any:
        return self._file.read_row_group(group, columns=[self._leaf(name)]).column(0)

    def _count_empty(self, name: str, group: int) -> int | None:
        """Returns how many rows of a group hold no image, if the file says so."""
        meta = self._file.metadata.row_group(group)
        columns = (meta.column(n) for n in range(meta.num_columns))
        leaves = (each for each in columns if each.path_in_schema == self._leaf(name))
        found = next(leaves, None)
        known = found is not None and found.is_stats_set and found.statistics.has_null_count
        return int(found.statistics.null_count) if found is not None and known else None


class ArrowTableRows(ArrowRows):
    """Rows of a `pyarrow.Table`, which may be a file that is mapped into memory."""

    def __init__(self, location: str, table: Any, features: dict[str, Any] | None = None) -> None:
        super().__init__(location, table.schema, features)
        self._table = table

    def tables(self, names: Sequence[str]) -> Iterable[Any]:
        """Yields batches of some columns, together all rows."""
        batches: list[Any] = self._table.select(list(names)).to_batches(BATCH)
        return batches

    def read(self, name: str, row: int) -> bytes | None:
        """Returns the bytes of an image; `row` counts from 0."""
        return bytes_of(self._table.column(name)[row])


def choose_arrow_columns(
    rows: ArrowRows, columns: DataSettings, *, labelled: bool = True, divided: bool = False
) -> ColumnRoles:
    """Decides which column says what, by their types too; see `choose_columns`."""
    types = [rows.schema.field(n).type for n in range(len(rows.names))]
    images = [n for n, kind in enumerate(types) if may_hold_images(kind) and _may_be_image(rows, n)]
    structs = [n for n in images if not _is_binary(types[n])]
    named = [n for n, name in enumerate(rows.names) if simplify(name) in IMAGE_NAMES]
    # Bytes may also be, for instance, a hash, if another column has a name for images.
    pictures = structs or [n for n in images if n in named or not named]
    classes = [n for n, name in enumerate(rows.names) if rows.class_names(name)]
    return choose_columns(
        rows.location,
        rows.names,
        columns,
        labelled=labelled,
        pictures=pictures,
        classes=classes,
        divided=divided,
    )


def may_hold_images(kind: Any) -> bool:
    """Whether cells of a `pyarrow.DataType` may be images themselves."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _is_binary(kind.field(at).type)
    return _is_binary(kind)


@contextmanager
def mapped_errors(location: str) -> Iterator[None]:
    """Turns exceptions of pyarrow for damaged files into `DatasetError`."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        first = str(error).partition("\n")[0]
        raise DatasetError(f"{location} cannot be read, or is damaged: {first}") from None


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _has_path(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind) and kind.get_field_index("path") >= 0)


def _may_be_image(rows: ArrowRows, index: int) -> bool:
    """Whether a column is not said to be something else, such as a sound."""
    feature = rows.features.get(rows.names[index])
    return not isinstance(feature, dict) or feature.get("_type", "Image") in ("Image", "Value")


def _describe(column: Any) -> Iterator[tuple[bool, str | None]]:
    """Yields for each cell whether it holds bytes, and its `path`."""
    for chunk in getattr(column, "chunks", [column]):
        parts = {"bytes": chunk}
        if not _is_binary(chunk.type):
            fields = [chunk.type.field(n).name for n in range(chunk.type.num_fields)]
            parts = dict(zip(fields, chunk.flatten(), strict=True))
        paths = to_python(parts["path"]) if "path" in parts else [None] * len(chunk)
        yield from zip(parts["bytes"].is_valid().to_pylist(), paths, strict=True)


def _paths_in(column: Any) -> Iterator[Any]:
    """Yields the `path` of each cell of a column of structs."""
    for chunk in column.chunks:
        # In a missing cell it is missing too.
        yield from to_python(chunk.flatten()[chunk.type.get_field_index("path")])


def to_python(column: Any) -> list[Any]:
    """Returns the cells of a column; a `BadCell` for each that Python has no value for."""
    try:
        cells: list[Any] = column.to_pylist()
    except Exception:
        # What is raised for one of them depends on its type, and on this machine's time zones.
        return [_read_cell(cell) for cell in column]
    return cells


def _read_cell(cell: Any) -> Any:
    import pyarrow as pa

    try:
        return cell.as_py()
    except Exception as error:
        if pa.types.is_timestamp(cell.type) and cell.type.tz and not _knows_zone(cell.type.tz):
            return BadCell(f"this machine does not know its time zone, {cell.type.tz}")
        return BadCell(f"{cell.type}: {first_line(error)}")


def _knows_zone(name: str) -> bool:
    import zoneinfo

    try:
        zoneinfo.ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        return False
    return True


def bytes_of(cell: Any) -> bytes | None:
    """Returns what a `pyarrow.Scalar`, plain or a struct, holds of an image."""
    found = cell.as_py()
    data: bytes | None = found["bytes"] if isinstance(found, dict) else found
    return data


def _name_classes(cells: list[Any], names: list[str] | None) -> list[Any]:
    """Replaces numbers of classes with their names; -1 stands for no label."""
    if names is None:
        return cells

    def name(cell: Any) -> Any:
        if isinstance(cell, BadCell):
            return cell
        if isinstance(cell, list):
            return [name(each) for each in cell]
        return names[cell] if isinstance(cell, int) and 0 <= cell < len(names) else None

    return [name(cell) for cell in cells]


def _read_features(schema: Any) -> dict[str, Any]:
    """Returns what Hugging Face wrote into a schema about its columns."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}
