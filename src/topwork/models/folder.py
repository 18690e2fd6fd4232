"""A model as a folder: written whole or not at all, checked when saved and when loaded."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from safetensors import SafetensorError

from topwork.core.config import Settings
from topwork.core.errors import ModelError
from topwork.core.files import hash_file, write_folder
from topwork.core.runtime import find_version
from topwork.core.task import Task
from topwork.data.class_labels import ClassLabels
from topwork.heads.dense import Dense, Head
from topwork.metrics.calibration import Calibration
from topwork.metrics.conformal import Residuals
from topwork.metrics.history import History
from topwork.models.checks.agreement import Agreement
from topwork.models.model import Model
from topwork.models.model_facts import (
    BaseInfo,
    DataFacts,
    ImageTable,
    NetworkFile,
    Provenance,
    SearchFacts,
    ValidationScore,
)

Written = TypeVar("Written")

SCHEMA_VERSION = 3
CARD_FILE = "model.json"
OPENVINO_FILE = "model.xml"
KERAS_FILE = "model.keras"
HEAD_FILE = "head.safetensors"
HISTORY_FILE = "history.json"
PLOT_FILE = "history.svg"
IMAGES_FILE = "images.parquet"
REPORT_FILE = "report.html"
# What a prediction needs, checked at loading; the Keras file is checked when it is asked for.
LOADED_FILES = (OPENVINO_FILE, "model.bin", HEAD_FILE, HISTORY_FILE, IMAGES_FILE)
CHECKED_FILES = (*LOADED_FILES, KERAS_FILE)

RETRAIN = "train it again with topwork train"


class Card(BaseModel):
    """The content of `model.json`."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    schema_version: int
    classes: tuple[str, ...]
    task: Task
    members: tuple[BaseInfo, ...]
    settings: Settings
    data: DataFacts
    validation: ValidationScore
    calibration: dict[str, Any]
    search: SearchFacts | None
    parity: dict[str, float]
    versions: dict[str, str]
    files: dict[str, str]
    making: Provenance | None = None
    agreement: Agreement | None = None
    drift: Agreement | None = None
    doubts: tuple[str, ...] = ()
    class_labels: ClassLabels | None = None

    @model_validator(mode="after")
    def _check_class_labels(self) -> Self:
        given = self.class_labels
        if given is not None and not (
            self.task.picks_one and len(given.values) == len(self.classes)
        ):
            raise ValueError("class_labels must be one for each of the classes")
        return self


def current_versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that decide a model."""
    packages = ("topwork", "keras", "openvino", "jax", "numpy", "pillow")
    return {"python": platform.python_version()} | {name: find_version(name) for name in packages}


def check_target(path: Path) -> None:
    """Refuses to replace anything but a model.

    Raises:
        ModelError: something else is there.
    """
    if path.exists() and not (path / CARD_FILE).is_file():
        raise ModelError(
            f"{path} exists and is not a Topwork model; choose another place with -o, or move it"
        )


def copy_model(folder: Path, path: Path) -> None:
    """Saves a model that was loaded from a folder somewhere else.

    Raises:
        ModelError: the folder is damaged by now, or the copy cannot be written.
    """
    load_model(folder)
    find_keras_file(folder)
    hidden = shutil.ignore_patterns(".*")  # what is still being written there
    save_folder(path, lambda new: shutil.copytree(folder, new, dirs_exist_ok=True, ignore=hidden))


def save_folder(path: Path, write: Callable[[Path], Written]) -> Written:
    """Writes the folder of a model, which replaces an older one all at once.

    Args:
        path: the folder.
        write: fills the folder that it is given.

    Returns:
        What `write` returns.

    Raises:
        ModelError: the folder is not ours to replace, or cannot be written.
    """
    path = path.absolute()
    check_target(path)
    try:
        return write_folder(path, write)
    except (OSError, RuntimeError) as error:  # of OpenVINO, where a network is gone by now
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot write a model to {path}: {reason}") from error


def load_model(path: Path | str) -> Model:
    """Opens a saved model.

    Args:
        path: a folder that `save_model` made.

    Raises:
        ModelError: it is not one, it was made by a newer Topwork, or a file is missing,
            cut off or was changed.
    """
    folder = Path(path)
    card = read_card(folder)
    for name in LOADED_FILES:
        _check_file(folder, card, name)
    try:
        history = History.from_json(json.loads((folder / HISTORY_FILE).read_text(encoding="utf-8")))
        images = _read_images(folder / IMAGES_FILE)
        kind = Residuals if card.task is Task.NUMBER else Calibration
        calibration = kind.from_json(card.calibration)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the model {folder} cannot be read: {error}; {RETRAIN}") from error
    return Model(
        classes=card.classes,
        task=card.task,
        head=_read_head(folder / HEAD_FILE, card),
        history=history,
        bases=card.members,
        settings=card.settings,
        data=card.data,
        validation=card.validation,
        calibration=calibration,
        search=card.search,
        images=images,
        networks=_find_networks(folder, card),
        versions=card.versions,
        provenance=card.making,
        class_labels=card.class_labels,
    )


def find_keras_file(folder: Path) -> Path:
    """Returns the path of a saved model's `.keras` file.

    Raises:
        ModelError: it is missing, cut off or was changed.
    """
    _check_file(folder, read_card(folder), KERAS_FILE)
    return folder / KERAS_FILE


def _check_file(folder: Path, card: Card, name: str) -> None:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"the model {folder} lacks {name}; {RETRAIN}")
    if hash_file(path) != card.files.get(name):
        raise ModelError(f"{path} was cut off or changed since it was saved; {RETRAIN}")


def read_card(folder: Path) -> Card:
    """Returns what the `model.json` of a folder says.

    Raises:
        ModelError: it is missing, damaged, or of another schema.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        what = "there is no such folder" if not folder.exists() else "it has no model.json"
        raise ModelError(f"{folder} is not a Topwork model: {what}; make one with topwork train")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema_version"]
        if isinstance(schema, int) and schema != SCHEMA_VERSION:
            age, advice = ("an older", RETRAIN)
            if schema > SCHEMA_VERSION:
                age, advice = ("a newer", "upgrade with pip install -U topwork")
            raise ModelError(
                f"{folder} was made by {age} Topwork (schema {schema}; this one reads "
                f"{SCHEMA_VERSION}); {advice}"
            )
        return Card.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(f"{path} is damaged: {where}: {first['msg']}; {RETRAIN}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {error}; {RETRAIN}") from error


def _find_networks(folder: Path, card: Card) -> tuple[NetworkFile, ...]:
    """Returns the networks of a model whose files are those that were saved."""
    count = len(card.members)
    names = [f"vectors_{n}" for n in range(1, count + 1)] if count > 1 else ["vectors"]
    # What was written for one space by one version of Topwork computes the same in every model.
    makers = [card.versions.get(name) for name in ("topwork", "keras", "openvino")]
    return tuple(
        NetworkFile(folder / OPENVINO_FILE, name, flip=False, content=repr((makers, base.space)))
        for name, base in zip(names, card.members, strict=True)
    )


def _read_head(path: Path, card: Card) -> Head:
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}; {RETRAIN}") from error
    length = sum(base.vector_length for base in card.members)
    outputs = 1 if card.task is Task.BINARY else len(card.classes)
    units = card.settings.inner_units
    shapes = {"kernel": (units or length, outputs), "bias": (outputs,)}
    if units:
        shapes |= {"inner_kernel": (length, units), "inner_bias": (units,)}
    for name, wanted in shapes.items():
        array = arrays.get(name)
        if array is None or array.shape != wanted or array.dtype != np.float32:
            got = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise ModelError(f"{path}: {name} must be float32 {wanted}, received {got}; {RETRAIN}")
    last = Dense(arrays["kernel"], arrays["bias"])
    inner = (Dense(arrays["inner_kernel"], arrays["inner_bias"]),) if units else ()
    return Head((*inner, last))


def _read_images(path: Path) -> ImageTable:
    import pyarrow.parquet as pq

    # `read_table` would import pandas, where it is installed.
    with pq.ParquetFile(path) as file:
        table = file.read()
    columns = (tuple(table[name].to_pylist()) for name in ("name", "label", "split", "sha256"))
    return ImageTable(*columns)
