"""The recipe embed: a dataset's vectors as a table for other tools."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Settings
from topwork.core.errors import SettingsError, StoreError
from topwork.core.files import write_file
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.listing import make_writable
from topwork.data.pixel_kinds import settle_pixels
from topwork.vectors.embed import Embedding, embed_images
from topwork.vectors.extractors import FeatureExtractor, make_extractors, prepare_networks
from topwork.vectors.quantize import fit_networks
from topwork.vectors.space import Space

SUFFIX = ".parquet"
# Rows that a reader has to take at once.
ROW_GROUP = 8192


@dataclass(frozen=True)
class EmbeddedDataset:
    """A dataset and its vectors.

    Attributes:
        dataset: the images that could be used.
        vectors: (N, D) of them.
        extractors: where vectors are kept and how they are made, for each network in turn.
    """

    dataset: Dataset
    vectors: Embedding
    extractors: tuple[FeatureExtractor, ...]

    @property
    def spaces(self) -> tuple[Space, ...]:
        """What a vector is, for each network in turn."""
        return tuple(extractor.store.space for extractor in self.extractors)


def embed(
    dataset: Dataset, settings: Settings, store: Path, callback: Callback = SILENT
) -> EmbeddedDataset:
    """Runs the frozen networks over all images of a dataset, whatever their split.

    Args:
        dataset: images, with or without labels.
        settings: what decides vectors.
        store: where vectors and networks are kept.
        callback: hears how it gets on.

    Raises:
        TopworkError: any of its kinds; see `errors`.
    """
    callback.on_wait(f"preparing {settings.base}")
    stack = prepare_networks(settings, store)
    dataset, settings = settle_pixels(dataset, settings, callback, store)
    fitted = fit_networks(stack, dataset, settings, store, callback)
    dataset, extractors = fitted.dataset, make_extractors(fitted.stack, fitted.settings, store)
    dataset, vectors = embed_images(
        dataset,
        extractors,
        strict=settings.strict,
        callback=callback,
    )
    callback.on_embedded(dataset, vectors)
    return EmbeddedDataset(dataset, vectors, tuple(extractors))


def find_labels(dataset: Dataset) -> list[str | None]:
    """Returns each image's label as text; None for an image without."""
    match dataset.task:
        case Task.LABELS:
            # Where there are labels, none of them is a label too.
            bare = np.full(len(dataset), not dataset.classes)
        case Task.NUMBER:
            bare = np.isnan(dataset.labels).all(axis=1)
        case _:
            bare = dataset.labels < 0
    return [None if lost else text for text, lost in zip(dataset.label_texts, bare, strict=True)]


def check_table(path: Path) -> None:
    """Refuses a name that does not end in `.parquet`.

    Raises:
        SettingsError: with the name.
    """
    if path.suffix.lower() != SUFFIX:
        raise SettingsError(f"output: must end in {SUFFIX}, received {path}")


def write_vectors(path: Path, embedded: EmbeddedDataset, *, row_group: int = ROW_GROUP) -> None:
    """Writes a Parquet table with a row for each image.

    Its columns are `image` (the name), `sha256`, `label` (text; none for images without), `split`,
    `group` and `weight` where the data has them, and `vector`, a list of D float32. The schema's
    metadata has under `topwork` what the vectors are, as JSON.

    Args:
        path: the file; one that is there is replaced, all at once.
        embedded: from `embed`.
        row_group: rows that a reader has to take at once.

    Raises:
        SettingsError: another suffix.
        StoreError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_table(path)
    dataset, values = embedded.dataset, embedded.vectors.values
    columns = {
        "image": pa.array(list(map(make_writable, dataset.names)), pa.string()),
        "sha256": pa.array(embedded.vectors.hashes, pa.string()),
        "label": pa.array(find_labels(dataset), pa.string()),
        "split": pa.array(dataset.splits.tolist(), pa.string()),
    }
    if dataset.groups is not None:
        columns["group"] = pa.array(dataset.groups)
    if dataset.weights is not None:
        columns["weight"] = pa.array(dataset.weights)
    about = {"spaces": [asdict(space) for space in embedded.spaces], "task": str(dataset.task)}
    table = pa.table(columns).replace_schema_metadata({"topwork": json.dumps(about)})
    length = values.shape[1]
    schema = table.schema.append(pa.field("vector", pa.list_(pa.float32(), length)))

    def write_table(file: BinaryIO) -> None:
        with pq.ParquetWriter(file, schema) as writer:
            for start in range(0, len(values), row_group):
                rows = slice(start, start + row_group)
                some = pa.array(values[rows].ravel())
                column = pa.FixedSizeListArray.from_arrays(some, length)
                group = table.slice(start, row_group).append_column(schema.field("vector"), column)
                writer.write_table(group, row_group_size=row_group)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, write_table)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
