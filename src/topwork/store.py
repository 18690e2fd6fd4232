"""Vectors on disk: immutable Parquet parts, written whole or not at all.

A part is a table of `image` (SHA-256 of an image's bytes, hex) and `vector` (a list of
float32). Parts of one space lie in one folder, beside a `space.json` that says what they are:

    <store>/vectors/xception-150-9f2c…/space.json
                                       part-5b1e….parquet

A part is written under a temporary name and then renamed, so a reader never sees half of
one, and its name is the hash of its content, so two runs that share a store cannot clash.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from topwork.errors import StoreError
from topwork.files import write_file

Floats = NDArray[np.float32]

# The view whose vector is the mean over an image and its mirror, left to right.
FLIP = "flip"

# What reading a damaged file may say; any other number from the system is about permission,
# memory or open files, and such a part is left where it is.
_DAMAGE = (None, errno.EIO, errno.ENOENT, errno.EINVAL)


@dataclass(frozen=True)
class Space:
    """Everything besides the image that decides a vector, and so what vectors can be compared.

    Attributes:
        base: name of the base.
        weights_sha256: hash of the file with its weights.
        image_size: side of the input in pixels.
        network: version of the recipe that builds the network around the base.
        decoder: version of the recipe from bytes to pixels.
        interpolation: filter of the resize.
        view: which view of the image; `original` is the whole image as it is, `flip` the mean
            over it and its mirror, `augmented-…` see `views`.
        precision: `f32` or `bf16`.
    """

    base: str
    weights_sha256: str
    image_size: int
    network: str
    decoder: str
    interpolation: str
    precision: str
    view: str = "original"

    @property
    def name(self) -> str:
        """Folder name: readable, and different wherever one of the fields is."""
        content = json.dumps(asdict(self), sort_keys=True).encode()
        return f"{self.base}-{self.image_size}-{hashlib.sha256(content).hexdigest()[:16]}"


class DamagedPartError(Exception):
    """A part could not be read and was set aside; its vectors are missing again."""


class VectorStore:
    """The parts of one space.

    Args:
        root: the store's folder; made when the first part is written.
        space: which vectors.
        vector_length: D of every vector.
    """

    def __init__(self, root: Path, space: Space, vector_length: int) -> None:
        self.space = space
        self.vector_length = vector_length
        self.folder = root / "vectors" / space.name
        self.set_aside: list[Path] = []
        self._rows: dict[str, tuple[Path, int]] = {}
        self._known: set[Path] = set()

    def refresh(self) -> None:
        """Takes notice of the parts that were finished since the last look.

        Raises:
            StoreError: the folder cannot be read.
        """
        try:
            parts = sorted(self.folder.glob("part-*.parquet"))
        except OSError as error:
            raise StoreError(f"cannot read the store {self.folder}: {error.strerror}") from error
        for part in parts:
            if part not in self._known:
                self._index(part)

    def __contains__(self, image: str) -> bool:
        return image in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def locate(self, images: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Returns where the vectors of N images lie, for whoever reads them part by part.

        Returns:
            The parts, numbered, and the rows in them, each (N,) int32.

        Raises:
            KeyError: an image has no vector here.
        """
        numbers = {part: number for number, part in enumerate(sorted(self._known))}
        pairs = [self._rows[image] for image in images]
        places = np.array([(numbers[part], row) for part, row in pairs], np.int32).reshape(-1, 2)
        return places[:, 0], places[:, 1]

    def read(self, images: Sequence[str]) -> Floats:
        """Returns the vectors (N, D) float32 of N images, in their order.

        Raises:
            KeyError: an image has no vector here.
            DamagedPartError: parts turned out to be damaged; call `refresh` and look again.
            StoreError: a part cannot be read, though nothing says that it is damaged.
        """
        values = np.empty((len(images), self.vector_length), np.float32)
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for place, image in enumerate(images):
            part, row = self._rows[image]
            wanted.setdefault(part, []).append((place, row))
        damaged: list[str] = []
        for part, pairs in wanted.items():
            places, rows = np.array(pairs).T
            try:
                values[places] = self._load(part)[rows]
            except DamagedPartError as error:
                # Look at the others too: all of them are then computed again at once.
                damaged.append(str(error))
        if damaged:
            raise DamagedPartError("; ".join(damaged))
        return values

    def write(self, images: Sequence[str], vectors: Floats) -> Path:
        """Writes one part and returns its path.

        Args:
            images: N hashes.
            vectors: (N, D) float32.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        vectors = np.ascontiguousarray(vectors, np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.vector_length)
        table = pa.table({"image": pa.array(images, pa.string()), "vector": column})
        part = self.folder / _name_part(images, vectors)
        try:
            self._describe()
            write_file(part, lambda file: _write_table(table, file))
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(
                f"cannot write vectors to {self.folder}: {reason}. The {len(self)} vectors already "
                "there are kept; make room or choose another place with --store, and run again"
            ) from error
        self._add(part, images)
        return part

    def _describe(self) -> None:
        path = self.folder / "space.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            content = json.dumps(asdict(self.space) | {"vector_length": self.vector_length})
            write_file(path, lambda file: file.write(f"{content}\n".encode()))

    def _index(self, part: Path) -> None:
        try:
            with pq.ParquetFile(part, page_checksum_verification=True) as file:
                schema = file.schema_arrow
                kinds = [schema.field(name).type for name in ("image", "vector")]
                images = file.read(["image"])["image"].to_pylist()
            if kinds != [pa.string(), pa.list_(pa.float32(), self.vector_length)] or not images:
                raise pa.ArrowInvalid(f"{len(images)} rows of types {kinds}")
        except FileNotFoundError:
            return
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            self._put_aside(part, error)
            return
        self._add(part, images)

    def _load(self, part: Path) -> Floats:
        try:
            with pq.ParquetFile(part, page_checksum_verification=True) as file:
                table = file.read(["image", "vector"])
            column = table["vector"].combine_chunks()
            values = column.flatten().to_numpy().reshape(-1, self.vector_length)
            if _name_part(table["image"].to_pylist(), values) != part.name:
                raise pa.ArrowInvalid("its content is not what was written")
            if not np.isfinite(values).all():
                raise pa.ArrowInvalid("vectors that are not finite")
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            self._put_aside(part, error)
            raise DamagedPartError(f"{part}: {error}") from error
        return np.asarray(values)

    def _add(self, part: Path, images: Iterable[str]) -> None:
        self._known.add(part)
        for row, image in enumerate(images):
            self._rows.setdefault(image, (part, row))

    def _put_aside(self, part: Path, error: Exception) -> None:
        if getattr(error, "errno", None) not in _DAMAGE:
            raise StoreError(f"cannot read the part {part}: {error}") from error
        aside = part.with_suffix(".damaged")
        try:
            part.replace(aside)
        except FileNotFoundError:
            pass
        except OSError as problem:
            raise StoreError(
                f"the part {part} is damaged and cannot be set aside: {problem.strerror}"
            ) from problem
        self.set_aside.append(aside)
        if part in self._known:
            self._known.discard(part)
            self._rows = {image: place for image, place in self._rows.items() if place[0] != part}


def _name_part(images: Iterable[object], vectors: Floats) -> str:
    digest = hashlib.sha256("".join(map(str, images)).encode())
    digest.update(vectors.tobytes())
    return f"part-{digest.hexdigest()[:24]}.parquet"


def _write_table(table: pa.Table, file: BinaryIO) -> None:
    pq.write_table(
        table, file, compression="none", use_dictionary=False, write_statistics=False,
        write_page_checksum=True,
    )  # fmt: skip
