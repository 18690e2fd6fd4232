"""Small pictures and vectors that a model carries, to show the training images like another.

`write_gallery` chooses images evenly over the labels, and writes for each a WebP and its vector,
of length 1 and in 16 bits: what its direction loses by that changes a cosine by less than 0.001.
`load_gallery` reads them back, `Gallery.find` compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topwork.core import warm_up
from topwork.core.arrays import Floats32
from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import ImageError, ModelError, SettingsError
from topwork.core.files import write_file
from topwork.core.parallel import in_threads
from topwork.data.listing import Skipped, make_writable
from topwork.images.decode import Source
from topwork.images.thumbnails import make_thumbnail
from topwork.vectors.neighbors import ROUNDING, nearest, unit

GALLERY_FILE = "gallery.parquet"
MOST = 5000
SIDE_PX = 96
# Rows that are compressed together.
GROUP = 1000


@dataclass(frozen=True)
class Near:
    """An image of a gallery that is like the one asked about.

    Attributes:
        name: of the image.
        label: its label as text.
        similarity: cosine of the two vectors, -1..1.
        thumbnail: a small WebP.
    """

    name: str
    label: str
    similarity: float
    thumbnail: bytes


@dataclass(frozen=True)
class Gallery:
    """Images that a model was trained on.

    Attributes:
        names: N names.
        labels: N labels as text.
        vectors: (N, D) float32, of length 1, or 0 for a vector of zeros.
        thumbnails: N small WebPs.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    vectors: Floats32
    thumbnails: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.names)

    def find(self, vector: Floats32, count: int) -> list[Near]:
        """Returns the images that are most like one, the most like first.

        Args:
            vector: (D,) float32, finite.
            count: how many, at least 1; fewer where there are not so many.

        Raises:
            SettingsError: a vector of another length or with NaN or infinity, or a count below 1.
        """
        if vector.shape != self.vectors.shape[1:]:
            raise SettingsError(
                f"gallery: the vector must have {self.vectors.shape[1]} values, received "
                f"{vector.shape}"
            )
        rows = self._shortlist(vector, count)
        nearest_rows, cosines = nearest(vector[None], self.vectors[rows], count)
        return [
            Near(self.names[n], self.labels[n], float(cosine), self.thumbnails[n])
            for n, cosine in zip(rows[nearest_rows[0]].tolist(), cosines[0], strict=True)
        ]

    def _shortlist(self, vector: Floats32, count: int) -> NDArray[np.int64]:
        """Returns the rows that may be among the nearest, whatever is rounded in 32 bits."""
        if not 0 < count < len(self):
            return np.arange(len(self))
        rough = self.vectors @ unit(vector[None])[0]
        return np.flatnonzero(rough >= np.partition(rough, -count)[-count] - 2 * ROUNDING)


def write_gallery(
    path: Path,
    names: Sequence[str],
    labels: Sequence[str],
    sources: Sequence[Source],
    vectors: Floats32,
    callback: Callback = SILENT,
    *,
    most: int = MOST,
    ranges: str = "",
) -> tuple[Skipped, ...]:
    """Writes small pictures of images, and their vectors.

    Args:
        path: the Parquet file; written whole or not at all.
        names: of N images.
        labels: N labels as text.
        sources: N images.
        vectors: (N, D) float32, finite.
        callback: hears how many pictures are made, and of how many.
        most: how many images the file may hold, at least 1; chosen evenly over the labels.
        ranges: as for `images.decode.decode`.

    Returns:
        Images that can no longer be read, with the reasons; the file is without them.

    Raises:
        ModelError: the file cannot be written.
        SettingsError: lengths that differ, vectors that are not finite, or `most` below 1.
    """
    count = len(names)
    if not len(labels) == len(sources) == len(vectors) == count:
        raise SettingsError(
            f"gallery: names, labels, sources and vectors must be as many, received {count}, "
            f"{len(labels)}, {len(sources)} and {len(vectors)}"
        )
    if most < 1:
        raise SettingsError(f"gallery: must hold at least 1 image, received {most}")
    thumbnails, lost = _make_thumbnails(sources, choose_evenly(labels, most), ranges, callback)
    kept = [*thumbnails]
    try:
        _write(
            path,
            [names[row] for row in kept],
            [labels[row] for row in kept],
            [*thumbnails.values()],
            unit(vectors[kept]),
        )
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror or error}") from error
    return tuple(Skipped(names[row], reason) for row, reason in lost.items())


def _make_thumbnails(
    sources: Sequence[Source], rows: Sequence[int], ranges: str, callback: Callback
) -> tuple[dict[int, bytes], dict[int, str]]:
    """Returns the small picture of each row, and why there is none of the others."""
    warm_up.decoding()

    def load(row: int) -> bytes | ImageError:
        try:
            return make_thumbnail(sources[row], SIDE_PX, ranges)
        except ImageError as error:
            return error

    thumbnails: dict[int, bytes] = {}
    lost: dict[int, str] = {}
    for done, (row, found) in enumerate(zip(rows, in_threads(load, rows), strict=True), 1):
        if isinstance(found, ImageError):
            lost[row] = str(found)
        else:
            thumbnails[row] = found
        callback.on_drawn(done, len(rows))
    return thumbnails, lost


def choose_evenly(labels: Sequence[str], most: int) -> list[int]:
    """Returns at most so many rows, ascending: of every label as near as can be the same share."""
    order = sorted(range(len(labels)), key=labels.__getitem__)
    if len(order) <= most:
        return sorted(order)
    # The middle of each of `most` equal stretches.
    middles = ((2 * np.arange(most) + 1) * len(order)) // (2 * most)
    return sorted(order[middle] for middle in middles.tolist())


def _write(
    path: Path,
    names: Sequence[str],
    labels: Sequence[str],
    thumbnails: Sequence[bytes],
    vectors: Floats32,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(np.ascontiguousarray(vectors, np.float16).ravel(), pa.float16())
    columns = {
        "name": pa.array(map(make_writable, names), pa.string()),
        "label": pa.array(map(make_writable, labels), pa.string()),
        "thumbnail": pa.array(thumbnails, pa.binary()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    table = pa.table(columns)
    # Neither compressed pictures nor directions get smaller by compressing them.
    write_file(
        path,
        lambda file: pq.write_table(
            table, file, row_group_size=GROUP, compression="none", write_page_checksum=True
        ),
    )


def load_gallery(folder: Path, vector_length: int) -> Gallery | None:
    """Reads the small pictures that a saved model carries.

    Args:
        folder: of the model.
        vector_length: D, of the model.

    Returns:
        Them; None if it carries none.

    Raises:
        ModelError: the file is damaged, or does not belong to such a model.
    """
    path = folder / GALLERY_FILE
    if not path.exists():
        return None
    try:
        return _read(path, vector_length)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"{path} is damaged: {reason}; train the model again with topwork train"
        ) from error


def _read(path: Path, vector_length: int) -> Gallery:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = {
        "name": pa.string(),
        "label": pa.string(),
        "thumbnail": pa.binary(),
        "vector": pa.list_(pa.field("element", pa.float16()), vector_length),
    }
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        schema = file.schema_arrow
        for name, kind in wanted.items():
            if not schema.field(name).type.equals(kind):
                raise ValueError(f"{name} must be {kind}, received {schema.field(name).type}")
        table = file.read([*wanted]).combine_chunks()
    if any(table[name].null_count for name in wanted):
        raise ValueError("there are gaps in it")
    flat = table["vector"].combine_chunks().flatten()
    if flat.null_count:
        raise ValueError("there are gaps in its vectors")
    vectors = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, vector_length)
    if len(vectors) != len(table) or not np.isfinite(vectors).all():
        raise ValueError("its vectors are not finite")
    thumbnails = tuple(table["thumbnail"].to_pylist())
    if not all(data[:4] == b"RIFF" and data[8:12] == b"WEBP" for data in thumbnails):
        raise ValueError("its pictures are not WebP")
    return Gallery(
        tuple(table["name"].to_pylist()),
        tuple(table["label"].to_pylist()),
        unit(vectors),
        thumbnails,
    )
