"""A model as a folder: written whole or not at all, checked when saved and when loaded."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from topwork.bases import (
    Network,
    read_keras_head,
    reopen_keras_file,
    write_keras_file,
    write_openvino_file,
)
from topwork.config import Precision, Settings
from topwork.engines import OpenVINOEngine
from topwork.errors import ModelError
from topwork.files import write_folder
from topwork.heads import Floats, Head, Task
from topwork.history import History
from topwork.images import Source
from topwork.model import BaseFacts, DataFacts, ImageTable, Model, Validation
from topwork.store import Space
from topwork.vectors import read_pixels

Written = TypeVar("Written")

SCHEMA_VERSION = 1
OPENVINO_FILE = "model.xml"
KERAS_FILE = "model.keras"
HEAD_FILE = "head.safetensors"
HISTORY_FILE = "history.json"
PLOT_FILE = "history.png"
IMAGES_FILE = "images.parquet"
# What a prediction needs, checked at loading; the Keras file is checked when it is asked for.
LOADED_FILES = (OPENVINO_FILE, "model.bin", HEAD_FILE, HISTORY_FILE, IMAGES_FILE)
CHECKED_FILES = (*LOADED_FILES, KERAS_FILE)

# Largest difference of a logit, as a share of the largest logit of the checked images.
TOLERANCE = {Precision.F32: 1e-3, Precision.BF16: 5e-2}
RETRAIN = "train it again with topwork train"


@dataclass(frozen=True)
class Samples:
    """Real images to check a saved model with, and the vectors it was trained on.

    Attributes:
        sources: N images, at least one.
        vectors: (N, D) float32, the stored vectors of those images.
    """

    sources: tuple[Source, ...]
    vectors: Floats


class Card(BaseModel):
    """The content of `model.json`."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    schema_version: int
    classes: tuple[str, ...]
    task: Task
    space: Space
    base: BaseFacts
    settings: Settings
    data: DataFacts
    validation: Validation
    parity: dict[str, float]
    versions: dict[str, str]
    files: dict[str, str]


def current_versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that decide a model."""
    packages = ("topwork", "keras", "openvino", "jax", "numpy", "pillow")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def save_model(model: Model, network: Network, path: Path, samples: Samples) -> dict[str, float]:
    """Writes a model folder and returns how closely its files agree.

    Args:
        model: the model, as trained.
        network: its base.
        path: the folder to make. An older Topwork model there is replaced, all at once;
            anything else is left alone.
        samples: real images to check the saved files with.

    Raises:
        ModelError: the folder is not ours to replace, the disk is full, or a saved file does
            not predict the same logits.
    """
    return _save_folder(path, lambda folder: _write_files(model, network, folder, samples))


def check_target(path: Path) -> None:
    """Refuses to replace anything but a model.

    Raises:
        ModelError: something else is there.
    """
    if path.exists() and not (path / "model.json").is_file():
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
    _save_folder(path, lambda new: shutil.copytree(folder, new, dirs_exist_ok=True))


def _save_folder(path: Path, write: Callable[[Path], Written]) -> Written:
    path = path.absolute()
    check_target(path)
    try:
        return write_folder(path, write)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot write a model to {path}: {reason}") from error


def _write_files(
    model: Model, network: Network, folder: Path, samples: Samples
) -> dict[str, float]:
    from safetensors.numpy import save_file

    save_file({"kernel": model.head.kernel, "bias": model.head.bias}, folder / HEAD_FILE)
    write_openvino_file(model.network, *model.head, folder / OPENVINO_FILE)
    write_keras_file(network, *model.head, folder / KERAS_FILE)
    _write_json(folder / HISTORY_FILE, model.history.to_json())
    _write_images(model.images, folder / IMAGES_FILE)
    # Drawing is Python and the check is OpenVINO, so they need not wait for each other.
    with ThreadPoolExecutor(1) as pool:
        plot = pool.submit(_draw, model, folder / PLOT_FILE)
        parity = check_parity(model, network, folder, samples)
        plot.result()
    card = Card(
        schema_version=SCHEMA_VERSION,
        classes=model.classes,
        task=model.task,
        space=model.space,
        base=model.base,
        settings=model.settings,
        data=model.data,
        validation=model.validation,
        parity=parity,
        versions=model.versions,
        files={name: _sha256(folder / name) for name in CHECKED_FILES},
    )
    _write_json(folder / "model.json", card.model_dump(mode="json"))
    return parity


def _draw(model: Model, path: Path) -> None:
    low, high = model.validation.interval
    title = f"{model.space.base}, {model.space.image_size} px: validation {model.history.metric} "
    title += f"{model.validation.accuracy:.3f} (95 % interval {low:.3f} to {high:.3f})"
    model.history.save_plot(path, title)


def check_parity(
    model: Model, network: Network, folder: Path, samples: Samples
) -> dict[str, float]:
    """Compares the logits of the saved files with those of the vector path.

    The Keras file is opened by stock Keras the first time that a network is saved. After that
    only its head is read back: the rest is a copy of what was checked.

    Args:
        model: as trained.
        network: its base.
        folder: holds the saved files.
        samples: images and their vectors.

    Returns:
        For each file the largest difference of a logit, as a share of the largest logit.

    Raises:
        ModelError: a difference beyond `TOLERANCE`, or no sample can be decoded.
    """
    size, precision = model.space.image_size, Precision(model.space.precision)
    pixels = np.stack(
        [read_pixels(source, size, model.interpolation) for source in samples.sources]
    )
    wanted = model.head.logits(samples.vectors)
    saved = OpenVINOEngine(folder / OPENVINO_FILE, size, precision, output="logits").run_all(pixels)
    found = {"openvino": _difference(saved, wanted)}
    _compare("openvino", found["openvino"], TOLERANCE[precision])

    record = network.folder / "keras-parity.json"
    if record.is_file() and _same_head(folder / KERAS_FILE, model.head):
        found["keras"] = float(json.loads(record.read_text(encoding="utf-8"))["difference"])
        return found
    with tempfile.TemporaryDirectory() as scratch:
        reopened = reopen_keras_file(folder / KERAS_FILE, Path(scratch))
        logits = OpenVINOEngine(reopened, size, Precision.F32).run_all(pixels)
    exact = OpenVINOEngine(folder / OPENVINO_FILE, size, Precision.F32, output="vectors")
    found["keras"] = _difference(logits, model.head.logits(exact.run_all(pixels)))
    _compare("keras", found["keras"], TOLERANCE[Precision.F32])
    _write_json(record, {"difference": found["keras"], "images": len(pixels)})
    return found


def load_model(path: Path | str) -> Model:
    """Opens a saved model.

    Args:
        path: a folder that `save_model` made.

    Raises:
        ModelError: it is not one, it was made by a newer Topwork, or a file is missing,
            cut off or was changed.
    """
    folder = Path(path)
    card = _read_card(folder)
    for name in LOADED_FILES:
        _check_file(folder, card, name)
    try:
        history = History.from_json(json.loads((folder / HISTORY_FILE).read_text(encoding="utf-8")))
        images = _read_images(folder / IMAGES_FILE)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"the model {folder} cannot be read: {error}; {RETRAIN}") from error
    return Model(
        classes=card.classes,
        task=card.task,
        head=_read_head(folder / HEAD_FILE, (card.base.vector_length, len(card.classes))),
        history=history,
        space=card.space,
        base=card.base,
        settings=card.settings,
        data=card.data,
        validation=card.validation,
        images=images,
        network=folder / OPENVINO_FILE,
        network_output="vectors",
        versions=card.versions,
    )


def find_keras_file(folder: Path) -> Path:
    """Returns the path of a saved model's `.keras` file.

    Raises:
        ModelError: it is missing, cut off or was changed.
    """
    _check_file(folder, _read_card(folder), KERAS_FILE)
    return folder / KERAS_FILE


def _check_file(folder: Path, card: Card, name: str) -> None:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"the model {folder} lacks {name}; {RETRAIN}")
    if _sha256(path) != card.files.get(name):
        raise ModelError(f"{path} was cut off or changed since it was saved; {RETRAIN}")


def _read_card(folder: Path) -> Card:
    path = folder / "model.json"
    if not path.is_file():
        what = "there is no such folder" if not folder.exists() else "it has no model.json"
        raise ModelError(f"{folder} is not a Topwork model: {what}; make one with topwork train")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema_version"]
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            raise ModelError(
                f"{folder} was made by a newer Topwork (schema {schema}; this one reads up to "
                f"{SCHEMA_VERSION}); upgrade with pip install -U topwork"
            )
        return Card.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(f"{path} is damaged: {where}: {first['msg']}; {RETRAIN}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {error}; {RETRAIN}") from error


def _read_head(path: Path, shape: tuple[int, int]) -> Head:
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}; {RETRAIN}") from error
    for name, wanted in (("kernel", shape), ("bias", shape[1:])):
        array = arrays.get(name)
        if array is None or array.shape != wanted or array.dtype != np.float32:
            got = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise ModelError(f"{path}: {name} must be float32 {wanted}, received {got}; {RETRAIN}")
    return Head(arrays["kernel"], arrays["bias"])


def _same_head(path: Path, head: Head) -> bool:
    kernel, bias = read_keras_head(path)
    return np.array_equal(kernel, head.kernel) and np.array_equal(bias, head.bias)


def _difference(found: Floats, wanted: Floats) -> float:
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-6))


def _compare(name: str, difference: float, limit: float) -> None:
    if not difference <= limit:
        raise ModelError(
            f"the {name} file does not predict what was trained: a logit differs by "
            f"{difference:.2g} of the largest, at most {limit:.2g} is allowed. The model was not "
            "saved; please report this with the name of the base"
        )


def _write_images(images: ImageTable, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "name": [name.encode("utf-8", "backslashreplace").decode() for name in images.names],
        "label": images.labels,
        "split": images.splits,
        "sha256": images.hashes,
    }
    pq.write_table(pa.table({k: pa.array(v, pa.string()) for k, v in columns.items()}), path)


def _read_images(path: Path) -> ImageTable:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns = (tuple(table[name].to_pylist()) for name in ("name", "label", "split", "sha256"))
    return ImageTable(*columns)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
