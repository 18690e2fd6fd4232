"""A `.keras` file made of a network's parts and a trained head, without importing Keras.

A `.keras` file is a zip of three files: the versions, the layers and, as HDF5, the arrays.
Keras wrote all three when the network was built, with an untrained head of one output. Here
the head's number of outputs and its two arrays are put in their places.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.bases.network import Network
from topwork.bases.process import ask_keras

Floats = NDArray[np.float32]

HEAD = "head"
# Keras names the arrays of a layer after its class; the only dense layer is the head.
_HEAD_ARRAYS = "layers/dense/vars"
# Zip's earliest date: the same model gives the same bytes.
DATE = (1980, 1, 1, 0, 0, 0)


def write_keras_file(network: Network, kernel: Floats, bias: Floats, path: Path) -> None:
    """Writes the whole network as one file for stock Keras.

    Args:
        network: the base.
        kernel: (D, C) float32.
        bias: (C,) float32.
        path: ends in `.keras`; written whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    import h5py

    config = json.loads((network.folder / "config.json").read_text(encoding="utf-8"))
    _head_layer(config)["config"]["units"] = len(bias)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".keras-", suffix=".tmp") as scratch:
        arrays = Path(scratch) / "model.weights.h5"
        shutil.copyfile(network.folder / arrays.name, arrays)
        with h5py.File(arrays, "r+") as file:
            group = file[_HEAD_ARRAYS]
            for name, values in (("0", kernel), ("1", bias)):
                del group[name]
                group.create_dataset(name, data=values)
        whole = Path(scratch) / path.name
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
            metadata = (network.folder / "metadata.json").read_bytes()
            archive.writestr(zipfile.ZipInfo("metadata.json", DATE), metadata)
            archive.writestr(zipfile.ZipInfo("config.json", DATE), json.dumps(config))
            entry = zipfile.ZipInfo(arrays.name, DATE)
            with arrays.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
        whole.replace(path)


def read_keras_head(path: Path) -> tuple[Floats, Floats]:
    """Returns the kernel (D, C) and bias (C,) that a `.keras` file of Topwork's holds."""
    import h5py

    with zipfile.ZipFile(path) as archive:
        arrays = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(arrays, "r") as file:
        group = file[_HEAD_ARRAYS]
        return np.asarray(group["0"]), np.asarray(group["1"])


def reopen_keras_file(path: Path, folder: Path) -> Path:
    """Lets stock Keras open a `.keras` file, in safe mode, and write it as OpenVINO IR.

    Args:
        path: the file.
        folder: where to write `reopened.xml`.

    Returns:
        The path of the IR: (N, S, S, 3) float32 to logits (N, C).

    Raises:
        NetworkError: Keras does not open it.
    """
    output = folder / "reopened.xml"
    ask_keras("reopen", {"path": str(path.absolute()), "output": str(output)})
    return output


def _head_layer(config: dict[str, Any]) -> dict[str, Any]:
    return dict(next(layer for layer in config["config"]["layers"] if layer["name"] == HEAD))
