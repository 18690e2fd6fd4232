"""Data sets of the Hugging Face library `datasets`, on disk or in memory, without needing it.

A folder that `save_to_disk` wrote holds a data set, `state.json` and Arrow files, or one folder
with these for each split, and `dataset_dict.json`. The files are mapped into memory; an image is
read when its vector is made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError
from topwork.data.listing import SHOWN, Listing
from topwork.data.readers.arrow_rows import (
    BATCH,
    ArrowRows,
    ArrowTableRows,
    bytes_of,
    choose_arrow_columns,
    mapped_errors,
    may_hold_images,
)
from topwork.data.readers.columns import ColumnRoles
from topwork.data.readers.rows import ListingBuilder, Resolve
from topwork.data.split_names import parse_split

_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
# How many rows with images in them are read at a time.
_IMAGES = 100


def is_arrow_folder(path: Path) -> bool:
    """Whether a folder is one that `datasets` saved."""
    return _is_file(path / _DICT) or (_is_file(path / _STATE) and _is_file(path / _INFO))


def read_arrow_folder(
    path: Path, columns: DataSettings, *, strict: bool = False, labelled: bool = True
) -> Listing:
    """Reads a folder that `datasets` saved; rows count from 1 within each split.

    Names of splits are those of the folders, unless `columns` names a column of them. Relative
    paths of images outside the data are relative to the folder.

    Args:
        path: the folder.
        columns: which column says what, where that is not to be guessed.
        strict: raise at the first row that cannot be used, instead of leaving it out.
        labelled: whether rows without labels are left out; see `table.read_table`.

    Raises:
        DatasetError: it cannot be read, its columns cannot be told, or no row can be used.
        SettingsError: a column that `columns` names is not there.
    """
    splits = _read_json(path / _DICT).get("splits") if _is_file(path / _DICT) else None
    if splits is not None and not (isinstance(splits, list) and all(map(_is_name, splits))):
        raise DatasetError(f"{path / _DICT} must list the names of the splits; save it again")
    return _read_parts(
        str(path),
        splits,
        lambda split: _map_files(path if split is None else path / split),
        columns,
        lambda text: path / text,
        strict=strict,
        labelled=labelled,
    )


def is_arrow_object(found: Any) -> bool:
    """Whether something is a `datasets.Dataset` or `DatasetDict`, or much like one."""
    if isinstance(found, Mapping):
        return bool(found) and all(_is_dataset(part) for part in found.values())
    return _is_dataset(found)


def read_arrow_object(
    found: Any,
    columns: DataSettings,
    *,
    location: str = "the dataset",
    strict: bool = False,
    labelled: bool = True,
) -> Listing:
    """Reads a `datasets.Dataset` or `DatasetDict`; see `read_arrow_folder`.

    Args:
        found: the object; images stay in it.
        columns: which column says what, where that is not to be guessed.
        location: where it lies, for messages.
        strict: raise at the first row that cannot be used, instead of leaving it out.
        labelled: whether rows without labels are left out.

    Raises:
        DatasetError: it is something else, its columns cannot be told, or no row can be used.
        SettingsError: a column that `columns` names is not there.
    """
    if not is_arrow_object(found):
        raise DatasetError(
            f"a datasets.Dataset or DatasetDict is needed, received a {type(found).__name__}; "
            "a stream must be made a Dataset first"
        )
    splits = [str(name) for name in found] if isinstance(found, Mapping) else None

    def read(split: str | None) -> ArrowRows:
        part = found if split is None else next(found[k] for k in found if str(k) == split)
        return _DatasetRows(location if split is None else f"{location}/{split}", part)

    return _read_parts(location, splits, read, columns, Path, strict=strict, labelled=labelled)


def _read_parts(
    location: str,
    splits: Sequence[str] | None,
    read: Callable[[str | None], ArrowRows],
    columns: DataSettings,
    resolve: Resolve,
    *,
    strict: bool,
    labelled: bool,
) -> Listing:
    """Reads one part, or one part for each split; unknown splits are left out."""
    divided = splits is not None and not columns.split_column
    known = {split: parse_split(split) for split in splits or ()}
    parts: list[str | None] = [None]
    if splits is not None:
        parts = [split for split in splits if known[split] or not divided]
    if not parts:
        raise DatasetError(
            f"{location} must have splits called train, validation or test; "
            f"its splits are {', '.join((splits or [])[:SHOWN]) or 'none'}"
        )
    first: ArrowRows | None = None
    for part in parts:
        rows = read(part)
        roles = choose_arrow_columns(rows, columns, labelled=labelled, divided=divided)
        if first is None:
            first, expected = rows, _used(rows, roles)
            builder = ListingBuilder(
                location, rows.names, roles, columns, resolve, labelled=labelled, divided=divided
            )
        elif _used(rows, roles) != expected:
            raise DatasetError(
                f"{rows.location} must have the columns that {first.location} has for labels, "
                f"groups and weights: {expected}, received {_used(rows, roles)}"
            )
        prefix = "" if part is None else f"{part}/"
        rows.add_to(builder, roles, known[part] if part is not None and divided else None, prefix)
    for split in splits or ():
        if split not in parts:
            builder.leave_out(
                f"{location}/{split}", "a split that is not train, validation or test"
            )
    return builder.finish(strict)


def _used(rows: ArrowRows, roles: ColumnRoles) -> list[str | None]:
    others = (*roles.labels, roles.split, roles.group, roles.weight)
    return [None if n is None else rows.names[n] for n in others]


def _map_files(folder: Path) -> ArrowRows:
    """Maps the Arrow files of one data set into memory."""
    import pyarrow as pa

    state, info = _read_json(folder / _STATE), _read_json(folder / _INFO)
    if state.get("_indices_data_files"):
        raise DatasetError(
            f"{folder} was saved by an old version, with its rows in another order; load and save "
            "it again with a newer one"
        )
    files = state.get("_data_files")
    listed = files if isinstance(files, list) else []
    names = [str(file.get("filename", "")) if isinstance(file, dict) else "" for file in listed]
    if not names or not all(map(_is_name, names)):
        raise DatasetError(f"{folder / _STATE} must list at least one Arrow file")
    with mapped_errors(str(folder)):
        tables = [pa.ipc.open_stream(pa.memory_map(str(folder / n))).read_all() for n in names]
        table = pa.concat_tables(tables)
    features = info.get("features")
    return ArrowTableRows(str(folder), table, features if isinstance(features, dict) else None)


class _DatasetRows(ArrowRows):
    """Rows of a `datasets.Dataset`, in the order that it has them."""

    def __init__(self, location: str, dataset: Any) -> None:
        features = dataset.features
        super().__init__(location, features.arrow_schema, features.to_dict())
        self._dataset = dataset.with_format("arrow")
        self._columns = dict[str, Any]()

    def tables(self, names: Sequence[str]) -> Iterable[Any]:
        embedded = any(may_hold_images(self.schema.field(name).type) for name in names)
        batches: Iterable[Any] = self._select(names).iter(_IMAGES if embedded else BATCH)
        return batches

    def read(self, name: str, row: int) -> bytes | None:
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = self._select([name])
        return bytes_of(column[row].column(0)[0])

    def _select(self, names: Sequence[str]) -> Any:
        return self._dataset.select_columns(list(names))


def _is_dataset(found: Any) -> bool:
    needed = ("features", "with_format", "select_columns", "__getitem__", "__len__")
    return getattr(found, "features", None) is not None and all(
        hasattr(found, name) for name in needed
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise DatasetError(f"{path} is damaged: a JSON object is needed")
    return found


def _is_name(name: Any) -> bool:
    """Whether something is the plain name of a file in the folder itself."""
    return isinstance(name, str) and name not in ("", ".", "..") and name == os.path.basename(name)  # noqa: PTH119


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 (pathlib raises for some names)
