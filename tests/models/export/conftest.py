"""What the tests of exports share: the job of a tiny model, and one run of TensorFlow for all."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from topwork.core.config import Precision
from topwork.data.dataset import Dataset
from topwork.models.export.formats import Input
from topwork.models.export.images import read_checked, read_predictions
from topwork.models.export.openvino_file import run_openvino
from topwork.models.folder import load_model

FACTS = json.dumps({"classes": ["blue", "gr\u00fcn\u0007", "<b>"]})

_SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from topwork.models.export import runtimes, tensorflow_files as tensorflow
keras, folder, facts = sys.argv[1:]
pixels = dict(np.load(f"{folder}/pixels.npz"))
def keep(name, found):
    np.savez(f"{folder}/{name}.npz", **found)
tensorflow.write_saved_model(keras, f"{folder}/saved", "float32", facts)
keep("saved", tensorflow.run_saved_model(f"{folder}/saved", "float32", **pixels))
tensorflow.write_litert(keras, f"{folder}/half.tflite", "float32", facts, "f16")
keep("litert", runtimes.run_litert(f"{folder}/half.tflite", "float32", **pixels))
tensorflow.write_onnx(keras, f"{folder}/whole.onnx", "uint8", facts, "f32")
keep("onnx", runtimes.run_onnx(f"{folder}/whole.onnx", "uint8", **pixels))
"""


@pytest.fixture(scope="session")
def images(saved, photos):
    model = load_model(saved)
    answers = read_predictions(model, saved)
    return read_checked(model, answers, Dataset.from_folder(photos))


@pytest.fixture(scope="session")
def exact(saved, images):
    """The model's logits in f32."""
    path = saved / "model.xml"
    return run_openvino(path, images.pixels, Input.FLOAT32, Precision.F32, ["logits"])["logits"]


@pytest.fixture(scope="session")
def tensorflow_files(saved, images, tmp_path_factory):
    """A folder with files that TensorFlow made, and what their own runtimes say of the images."""
    for name in ("tensorflow", "tf2onnx", "onnx", "onnxruntime", "ai_edge_litert"):
        _need(name)
    folder = tmp_path_factory.mktemp("tensorflow")
    np.savez(folder / "pixels.npz", **images.pixels)
    (folder / "facts.json").write_text(FACTS)
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(saved / "model.keras"), str(folder), FACTS],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def _need(name):
    from importlib.util import find_spec

    if find_spec(name) is None:
        pytest.skip(f"needs the extra export, and {name} is not installed")
