"""A `.keras` file made of a network's parts and a trained head, without importing Keras.

A `.keras` file is a zip of three files: the versions, the layers and, as HDF5, the arrays.
Keras wrote all three when the network was built, with an untrained head of one output. Here
the trained head's number of outputs and its arrays replace those, and an inner layer is inserted
if the head has one.
"""

from __future__ import annotations

import copy
import io
import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.child_process import ask_keras
from topwork.core.files import open_beside

Floats = NDArray[np.float32]
Layer = tuple[Floats, Floats]

HEAD, INNER = "head", "inner"
# Keras names the arrays of layers after their class, and counts in the order of the layers.
_DENSE = ("layers/dense", "layers/dense_1")
# Zip's earliest date: the same model gives the same bytes.
DATE = (1980, 1, 1, 0, 0, 0)


def write_keras_file(folder: Path, layers: Sequence[Layer], path: Path) -> None:
    """Writes the whole network as one file for stock Keras.

    Args:
        folder: of a network or a stack.
        layers: kernel (D, C) and bias (C,) float32 of the head; before them, if it has an inner
            layer, those of that: (D, H) and (H,), and the head's kernel is (H, C).
        path: ends in `.keras`; written whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _set_layers(config["config"]["layers"], layers)
    with open_beside(path) as scratch:
        arrays = scratch / "model.weights.h5"
        shutil.copyfile(folder / arrays.name, arrays)
        try:
            _set_arrays(arrays, layers)
        except RuntimeError as error:  # how HDF5 says that a disk is full
            raise OSError(f"HDF5 could not write {path.name}: {error}") from error
        whole = scratch / path.name
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
            metadata = (folder / "metadata.json").read_bytes()
            archive.writestr(zipfile.ZipInfo("metadata.json", DATE), metadata)
            archive.writestr(zipfile.ZipInfo("config.json", DATE), json.dumps(config))
            entry = zipfile.ZipInfo(arrays.name, DATE)
            with arrays.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
        whole.replace(path)


def _set_layers(config: list[dict[str, Any]], layers: Sequence[Layer]) -> None:
    """Gives the head its number of outputs and, for two layers, puts the inner one before it."""
    index = next(n for n, layer in enumerate(config) if layer["name"] == HEAD)
    head = config[index]
    head["config"]["units"] = len(layers[-1][1])
    if len(layers) == 1:
        return
    units = len(layers[0][1])
    inner = copy.deepcopy(head)
    inner["name"] = inner["config"]["name"] = INNER
    inner["config"].update(units=units, activation="relu")
    config.insert(index, inner)
    head["build_config"]["input_shape"] = [None, units]
    (source,) = head["inbound_nodes"][0]["args"]
    source["config"].update(shape=[None, units], keras_history=[INNER, 0, 0])


def _set_arrays(path: Path, layers: Sequence[Layer]) -> None:
    import h5py

    names = (HEAD,) if len(layers) == 1 else (INNER, HEAD)
    with h5py.File(path, "r+") as file:
        del file[_DENSE[0]]
        for group_path, name, arrays in zip(_DENSE, names, layers, strict=False):
            group = file.create_group(f"{group_path}/vars")
            group.attrs["name"] = name
            for number, values in enumerate(arrays):
                group.create_dataset(str(number), data=values)


def read_keras_head(path: Path) -> list[Layer]:
    """Returns the kernel and bias of each layer of the head that a `.keras` file holds.

    Args:
        path: a file that `write_keras_file` made.
    """
    import h5py

    with zipfile.ZipFile(path) as archive:
        arrays = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(arrays, "r") as file:
        groups = [file[f"{group}/vars"] for group in _DENSE if group in file]
        return [(np.asarray(group["0"]), np.asarray(group["1"])) for group in groups]


def reopen_keras_file(path: Path, folder: Path) -> Path:
    """Lets stock Keras open a `.keras` file, in safe mode, and write it as OpenVINO IR.

    Args:
        path: the file.
        folder: where to write `reopened.xml`.

    Returns:
        The path of the IR: (N, S, S, 3) float32 to logits (N, C). Where it has several inputs
        their nodes have the names of the stack's inputs, for `engines.run_file`.

    Raises:
        NetworkError: Keras does not open it.
    """
    output = folder / "reopened.xml"
    ask_keras("reopen", {"path": str(path.absolute()), "output": str(output)})
    return output
