"""A base built for one image size: files in the store that any later run finds again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from topwork.bases.process import ask_keras
from topwork.bases.spec import BaseSpec
from topwork.bases.weights import Weights
from topwork.errors import NetworkError, StoreError
from topwork.files import write_folder

# Part of every vector's key: raise it when the network around a base changes.
RECIPE = "1"
FILES = ("network.xml", "network.bin", "metadata.json", "config.json", "model.weights.h5")


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
    """

    spec: BaseSpec
    image_size: int
    weights_sha256: str
    folder: Path
    feature_shape: tuple[int, int, int]
    vector_length: int
    parameters: int
    recipe: str = RECIPE

    @property
    def openvino_path(self) -> Path:
        """OpenVINO IR in f32: RGB (N, S, S, 3) float32 in 0..255 to vectors (N, D) float32."""
        return self.folder / "network.xml"


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
    key = json.dumps([spec.name, image_size, weights.sha256, RECIPE, version("keras")])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = store / "bases" / f"{spec.name}-{image_size}-{digest}"
    return _read(spec, image_size, weights, folder) or _build(spec, image_size, weights, folder)


def _read(spec: BaseSpec, image_size: int, weights: Weights, folder: Path) -> Network | None:
    """Returns the built network, or None if it is not there as it was written."""
    try:
        facts = json.loads((folder / "network.json").read_text(encoding="utf-8"))
        if any((folder / name).stat().st_size != facts["bytes"][name] for name in FILES):
            return None
        return Network(
            spec=spec,
            image_size=image_size,
            weights_sha256=weights.sha256,
            folder=folder,
            feature_shape=tuple(facts["feature_shape"]),
            vector_length=int(facts["vector_length"]),
            parameters=int(facts["parameters"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(spec: BaseSpec, image_size: int, weights: Weights, folder: Path) -> Network:
    def build(scratch: Path) -> None:
        request = {
            "name": spec.name,
            "image_size": image_size,
            "weights": str(weights.path.absolute()) if weights.path else None,
            "seed": weights.seed,
            "folder": str(scratch),
        }
        facts = ask_keras("build", request)
        facts["bytes"] = {name: (scratch / name).stat().st_size for name in FILES}
        (scratch / "network.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")

    try:
        write_folder(folder, build)
    except OSError as error:
        raise StoreError(
            f"cannot write to the store {folder.parent}: {error.strerror}; make room or choose "
            "another place with --store"
        ) from error
    network = _read(spec, image_size, weights, folder)
    if network is None:
        raise NetworkError(f"the base in {folder} is damaged as soon as it is built")
    return network
