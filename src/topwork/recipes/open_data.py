"""What a person pointed at becomes a dataset, read as a model's own images were if there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from topwork.core.callbacks import Callback
from topwork.core.data_settings import OF_ONE_PLACE
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.models.model import Model


def open_data(
    data: str,
    columns: dict[str, Any],
    store: Path,
    callback: Callback,
    *,
    strict: bool,
    labelled: bool = True,
) -> Dataset:
    """Reads what the user pointed at; what has to be fetched or unpacked goes to the store.

    Args:
        data: path, URL, or `-` for standard input.
        columns: options of `DataSettings` that were given.
        store: where what is fetched or unpacked is kept.
        callback: hears how it gets on.
        strict: raise at the first image that cannot be used.
        labelled: whether every image needs a label.

    Raises:
        DatasetError: it cannot be read.
        SettingsError: an option does not fit it.
    """
    callback.on_wait(f"reading {data}")
    dataset = Dataset.open(
        data, strict=strict, labelled=labelled, cache=store, callback=callback, **columns
    )
    if dataset.notes:
        callback.on_notes(dataset.notes)
    return dataset


def open_model_data(
    model: Model,
    data: str,
    columns: dict[str, Any],
    store: Path,
    callback: Callback,
    *,
    strict: bool,
) -> Dataset:
    """Reads images as those of a model were read, but for what is said in `columns`.

    Arguments are those of `open_data`, and so is what it raises.
    """
    # Data of which class it may be need not have both of two.
    task = Task.CLASSES if model.task is Task.BINARY else model.task
    known = model.provenance and model.provenance.data
    same = known is not None and known in (data, str(Path(data).absolute()))
    said = {n: v for n, v in model.data.columns.items() if same or n not in OF_ONE_PLACE}
    asked = said | {"task": task} | columns
    return open_data(data, asked, store, callback, strict=strict)
