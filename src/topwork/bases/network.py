"""A base that is built for one image size: files in the store, which later runs find again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork.bases.spec import BaseSpec
from topwork.bases.weights import Weights
from topwork.core.child_process import ask_keras
from topwork.core.errors import NetworkError, StoreError
from topwork.core.files import write_folder
from topwork.core.runtime import find_version

# Part of every vector's key, to be raised when the network around a base changes.
NETWORK_VERSION = "1"
# The parts of a `.keras` file.
KERAS_FILES = ("metadata.json", "config.json", "model.weights.h5")
NETWORK_FILE = "network.xml"
FILES = (NETWORK_FILE, "network.bin", *KERAS_FILES)
RECORD = "network.json"

# While another process puts a folder in the place of ours there is none, for a moment.
ATTEMPTS, WAIT_S = 20, 0.05


@dataclass(frozen=True)
class Int8:
    """A network in int8, fitted to some images.

    Attributes:
        folder: holds it as OpenVINO IR.
        calibration: identifies what it was fitted to: images, and versions of this and of NNCF.
    """

    folder: Path
    calibration: str


@dataclass(frozen=True)
class Network:
    """A frozen base with its preprocessing and pooling, on disk.

    Attributes:
        spec: the base.
        image_size: S, side of the input in pixels.
        weights_sha256: hash of the weights' file.
        folder: holds `openvino_path`, and the parts of a `.keras` file with an untrained head.
        feature_shape: (s, s, D) of the features before pooling.
        vector_length: D.
        parameters: of the base.
        version: of what is built around the base.
        int8: the same network with convolutions of bytes, if that is what vectors come from.
    """

    spec: BaseSpec
    image_size: int
    weights_sha256: str
    folder: Path
    feature_shape: tuple[int, int, int]
    vector_length: int
    parameters: int
    version: str = NETWORK_VERSION
    int8: Int8 | None = None

    @property
    def openvino_path(self) -> Path:
        """OpenVINO IR in f32: RGB (N, S, S, 3) float32 in 0..255 to vectors (N, D) float32."""
        return self.folder / NETWORK_FILE

    @property
    def vectors_path(self) -> Path:
        """The file that vectors come from: that in int8, if there is one, else that in f32."""
        return self.int8.folder / NETWORK_FILE if self.int8 else self.openvino_path


def prepare(spec: BaseSpec, image_size: int, weights: Weights, store: Path) -> Network:
    """Returns the base for an image size, built now or found in the store.

    Args:
        spec: the base.
        image_size: S in pixels, at least `spec.min_size`.
        weights: what it is filled with.
        store: the store's folder.

    Raises:
        SettingsError: the size is too small for this base.
        WeightsError: the weights do not fit.
        NetworkError: Keras cannot build it.
        StoreError: the store cannot be written.
    """
    spec.choose_size(image_size)
    key = json.dumps(
        [spec.name, image_size, weights.sha256, NETWORK_VERSION, find_version("keras")]
    )
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = store / "bases" / f"{spec.name}-{image_size}-{digest}"
    return _read(spec, image_size, weights, folder) or _build(spec, image_size, weights, folder)


def _read(spec: BaseSpec, image_size: int, weights: Weights, folder: Path) -> Network | None:
    """Returns the built network, or None if it is not there or its files are not complete."""
    facts = read_folder(folder, FILES, RECORD)
    if facts is None:
        return None
    try:
        return Network(
            spec=spec,
            image_size=image_size,
            weights_sha256=weights.sha256,
            folder=folder,
            feature_shape=tuple(facts["feature_shape"]),
            vector_length=int(facts["vector_length"]),
            parameters=int(facts["parameters"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _build(spec: BaseSpec, image_size: int, weights: Weights, folder: Path) -> Network:
    build_folder(folder, "build", make_request(spec, image_size, weights), FILES, RECORD)
    for _ in range(ATTEMPTS):
        network = _read(spec, image_size, weights, folder)
        if network is not None:
            return network
        # Another process that built the same is just putting its folder in the place of ours.
        time.sleep(WAIT_S)
    raise NetworkError(f"the base in {folder} is damaged as soon as it is built")


def make_request(spec: BaseSpec, image_size: int, weights: Weights) -> dict[str, Any]:
    """Returns what the child process needs to know of a base."""
    return {
        "name": spec.name,
        "image_size": image_size,
        "weights": str(weights.path.absolute()) if weights.path else None,
        "seed": weights.seed,
    }


def build_folder(
    folder: Path, task: str, request: dict[str, Any], files: Sequence[str], record: str
) -> None:
    """Lets the child process fill a folder of the store, and records the sizes of its files.

    Args:
        folder: the folder; one that is there is replaced.
        task: what the child process does.
        request: for it, without `folder`.
        files: names of the files that it writes.
        record: name of the JSON file with its answer and the sizes, for `read_folder`.

    Raises:
        StoreError: the store cannot be written.
        NetworkError, WeightsError: as the child process says.
    """

    def ask(scratch: Path) -> dict[str, Any]:
        return ask_keras(task, {**request, "folder": str(scratch)})

    fill_folder(folder, ask, files, record)


def fill_folder(
    folder: Path, build: Callable[[Path], dict[str, Any]], files: Sequence[str], record: str
) -> None:
    """Fills a folder of the store, all at once, and records facts and the sizes of its files.

    Args:
        folder: the folder; one that is there is replaced.
        build: writes the files into a folder and returns the facts.
        files: names of the files that it writes.
        record: name of the JSON file with the facts and the sizes, for `read_folder`.

    Raises:
        StoreError: the store cannot be written.
    """

    def write(scratch: Path) -> None:
        facts = build(scratch)
        facts["bytes"] = {name: (scratch / name).stat().st_size for name in files}
        (scratch / record).write_text(json.dumps(facts) + "\n", encoding="utf-8")

    try:
        write_folder(folder, write)
    except OSError as error:
        raise StoreError(
            f"cannot write to the store {folder.parent}: {error.strerror}; make room or choose "
            "another place with --store"
        ) from error


def read_folder(folder: Path, files: Sequence[str], record: str) -> dict[str, Any] | None:
    """Returns what `fill_folder` recorded, or None if a file does not have its recorded size."""
    try:
        facts = json.loads((folder / record).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == facts["bytes"][name] for name in files)
        return dict(facts) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
