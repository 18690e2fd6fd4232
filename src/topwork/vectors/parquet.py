"""A part: a Parquet file with some images and their vectors, named after its content.

The columns are `image` (SHA-256 of an image's bytes, hex) and `vector` (a list of float32). Rows
are in groups, so that a few can be read without the rest of a large part.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from topwork.core.arrays import Floats32
from topwork.core.errors import StoreError
from topwork.vectors.backends import Folder, Stamp
from topwork.vectors.index import Digests, Ints, parse_digests

PREFIX, SUFFIX, DAMAGED = "part-", ".parquet", ".damaged"
GROUP_VECTORS = 1024

# Error numbers of a damaged file; any other is about permission, memory or open files, and
# such a part is left where it is.
_DAMAGE = (None, errno.EIO, errno.ENOENT, errno.EINVAL)

# Parts whose content this process has compared with their name.
_CHECKED: set[tuple[str, str, Stamp]] = set()
# A file that was changed more recently may change again without getting another time.
_SETTLED_NS = 2_000_000_000


class DamagedPartError(Exception):
    """A part could not be read and was set aside; its vectors are missing again."""


class BrokenError(Exception):
    """The content of a part is not what was written; the message is the reason."""


def is_part(name: str) -> bool:
    """Returns whether a file of a space is a part, by its name."""
    return name.startswith(PREFIX) and name.endswith(SUFFIX)


def write_part(folder: Folder, images: Sequence[str], vectors: Floats32) -> str:
    """Writes a part and returns its name.

    Args:
        folder: where.
        images: N hashes.
        vectors: (N, D) float32.

    Raises:
        OSError, StoreError: it cannot be written.
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    # Declared without nulls, they are read in two thirds of the time.
    item = pa.field("element", pa.float32(), nullable=False)
    kind = pa.list_(item, vectors.shape[1])
    text = "".join(images).encode()
    ends = np.cumsum([0, *map(len, images)], dtype=np.int32)
    # From buffers, because `pyarrow.array` would import pandas, which takes longer than the rest.
    names = _as_arrow(pa.string(), len(images), ends, text)
    column = pa.FixedSizeListArray.from_arrays(
        _as_arrow(pa.float32(), vectors.size, vectors), type=kind
    )
    fields = [pa.field("image", pa.string(), False), pa.field("vector", kind, False)]
    table = pa.table([names, column], schema=pa.schema(fields))
    digest = hashlib.sha256(text)
    digest.update(vectors.data)
    name = _name(digest)
    folder.write(name, lambda file: _write_table(table, file))
    return name


def read_images(folder: Folder, name: str, length: int) -> Digests:
    """Returns the digests (N, 4) of a part's images, without reading its vectors.

    Args:
        folder: where the part is.
        name: of the part.
        length: D of its vectors.

    Raises:
        FileNotFoundError: it is gone.
        BrokenError: it is damaged.
        StoreError: it cannot be read, though nothing says that it is damaged.
    """
    with _opened(folder, name) as file:
        schema = file.schema_arrow
        kinds = [schema.field(column).type for column in ("image", "vector")]
        images = _read_names(file)
        if not (
            images
            and kinds[0] == pa.string()
            and pa.types.is_fixed_size_list(kinds[1])
            and (kinds[1].value_type, kinds[1].list_size) == (pa.float32(), length)
        ):
            raise ValueError(f"{len(images)} rows of types {kinds}")
        return parse_digests(images)


def read_vectors(folder: Folder, name: str, length: int, rows: Ints) -> Floats32:
    """Returns some vectors (M, D) of a part, in the order of `rows` (M,).

    The first time the whole part is read and compared with its name.

    Raises:
        FileNotFoundError, BrokenError, StoreError: as for `read_images`.
    """
    with _opened(folder, name) as file:
        version = (folder.address, name, folder.stamp(name))
        is_checked = version in _CHECKED
        digest = hashlib.sha256() if is_checked else _hash_images(_read_names(file))
        values = np.empty((len(rows), length), np.float32)
        start = 0
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            end = start + count
            wanted = np.flatnonzero((rows >= start) & (rows < end))
            if len(wanted) or not is_checked:
                block = _read_group(file, group, (count, length))
                values[wanted] = block[rows[wanted] - start]
                if not is_checked:
                    digest.update(np.ascontiguousarray(block).data)
                    if not np.isfinite(block).all():
                        raise ValueError("vectors that are not finite")
            start = end
        if not is_checked:
            if _name(digest) != name:
                raise ValueError("its content is not what was written")
            if time.time_ns() - version[2].mtime_ns > _SETTLED_NS:
                _CHECKED.add(version)
    return values


def read_part(folder: Folder, name: str, length: int) -> tuple[list[str], Floats32]:
    """Returns all images of a part, N hashes, and their vectors (N, D).

    Raises:
        FileNotFoundError, BrokenError, StoreError: as for `read_images`.
    """
    with _opened(folder, name) as file:
        images = _read_names(file)
    return images, read_vectors(folder, name, length, np.arange(len(images), dtype=np.int32))


def count_vectors(folder: Folder, name: str) -> int:
    """Returns how many vectors a part has, from the end of the file alone.

    Raises:
        FileNotFoundError, BrokenError, StoreError: as for `read_images`.
    """
    with _opened(folder, name) as file:
        return int(file.metadata.num_rows)


def set_aside(folder: Folder, name: str) -> str:
    """Gives a damaged part a name under which nobody reads it, and returns that.

    Raises:
        StoreError: it cannot be renamed.
    """
    aside = name.removesuffix(SUFFIX) + DAMAGED
    try:
        folder.rename(name, aside)
    except FileNotFoundError:
        pass
    except OSError as problem:
        raise StoreError(
            f"the part {folder.address}/{name} is damaged and cannot be set aside: "
            f"{problem.strerror}"
        ) from problem
    return aside


@contextmanager
def _opened(folder: Folder, name: str) -> Iterator[pq.ParquetFile]:
    """Opens a part, and raises the errors of this module instead of those of Arrow."""
    try:
        file = pq.ParquetFile(folder.open(name), page_checksum_verification=True)
        try:
            yield file
        finally:
            file.close(force=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        if getattr(error, "errno", None) not in _DAMAGE:
            raise StoreError(f"cannot read the part {folder.address}/{name}: {error}") from error
        raise BrokenError(str(error)) from error


def _read_names(file: pq.ParquetFile) -> list[str]:
    names: list[str] = file.read(["image"], use_threads=False)["image"].to_pylist()
    return names


def _read_group(file: pq.ParquetFile, group: int, shape: tuple[int, int]) -> Floats32:
    # Several parts are read in threads already.
    column = file.read_row_group(group, ["vector"], use_threads=False)["vector"]
    blocks = [_as_numpy(chunk) for chunk in column.chunks]
    return (blocks[0] if len(blocks) == 1 else np.concatenate(blocks)).reshape(shape)


def _as_numpy(lists: pa.FixedSizeListArray) -> Floats32:
    """Returns the values of lists, without pyarrow's own conversion, which imports half of it."""
    items, length = lists.values, lists.type.list_size
    if lists.null_count or items.null_count:
        raise ValueError("values that are missing")
    start = 4 * (lists.offset * length + items.offset)
    return np.frombuffer(items.buffers()[1], np.float32, len(lists) * length, start)


def _as_arrow(kind: pa.DataType, count: int, *buffers: Any) -> pa.Array:
    return pa.Array.from_buffers(kind, count, [None, *map(pa.py_buffer, buffers)])


def _hash_images(images: Iterable[object]) -> Any:
    return hashlib.sha256("".join(map(str, images)).encode())


def _name(digest: Any) -> str:
    return f"{PREFIX}{digest.hexdigest()[:24]}{SUFFIX}"


def _write_table(table: pa.Table, file: BinaryIO) -> None:
    pq.write_table(
        table, file, compression="none", use_dictionary=False, write_statistics=False,
        write_page_checksum=True, row_group_size=GROUP_VECTORS,
    )  # fmt: skip
