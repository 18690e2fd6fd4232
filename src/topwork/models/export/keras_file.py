"""A model as a `.keras` file, and stock Keras' answers to it."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from topwork.bases import reopen_keras_file
from topwork.bases.graph import mend_graph
from topwork.core.child_process import ask_child
from topwork.core.config import Precision
from topwork.core.files import open_scratch
from topwork.models.export.batches import Arrays
from topwork.models.export.facts import KEY
from topwork.models.export.formats import Input
from topwork.models.export.openvino_file import run_openvino


def write_keras(source: Path, path: Path, pixels: Input, facts: str) -> None:
    """Writes a model's `.keras` file again, perhaps for bytes.

    Args:
        source: of the model.
        path: ends in `.keras`.
        pixels: what its inputs are to take.
        facts: JSON, goes to `topwork.json` in the file, which is a zip archive.

    Raises:
        ModelError: Keras cannot open the source.
        OSError: it cannot be written.
    """
    if pixels is Input.UINT8:
        ask_child("wrap_keras", {"keras_file": str(source), "path": str(path)}, backend="openvino")
    else:
        shutil.copyfile(source, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{KEY}.json", facts)


def run_keras(path: Path, arrays: Arrays, pixels: Input) -> Arrays:
    """Lets stock Keras open a file and run it on its OpenVINO backend; see `run_batches`.

    Raises:
        NetworkError: Keras does not open it.
    """
    with open_scratch() as folder:
        network = reopen_keras_file(path.absolute(), folder)
        # Keras writes down the size of the batch that it traced with.
        mend_graph(network)
        return run_openvino(network, arrays, pixels, Precision.F32)
