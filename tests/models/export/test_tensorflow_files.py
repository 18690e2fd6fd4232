"""Files that TensorFlow makes: the same logits in their own runtimes, and what they are of."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.system

LIMITS = {"saved": 1e-3, "onnx": 1e-3, "litert": 1e-2}


@pytest.mark.parametrize("name", LIMITS)
def test_logits_are_those_of_the_model_in_any_batch(tensorflow_files, exact, name):
    found = np.load(tensorflow_files / f"{name}.npz")
    scale = np.abs(exact).max()
    assert np.abs(found["logits"] - exact).max() / scale < LIMITS[name]
    for size in (8, 3, 1):
        assert np.abs(found[f"batch_{size}"] - exact[:8]).max() / scale < LIMITS[name]


def test_f16_halves_a_file(tensorflow_files):
    whole, half = (tensorflow_files / name for name in ("whole.onnx", "half.tflite"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size


def test_every_file_says_what_it_is(tensorflow_files):
    facts = json.loads((tensorflow_files / "facts.json").read_text())
    extra = tensorflow_files / "saved" / "assets.extra" / "topwork.json"
    assert json.loads(extra.read_text()) == facts
    with zipfile.ZipFile(tensorflow_files / "half.tflite") as archive:
        assert json.loads(archive.read("topwork.json")) == facts
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(
        Path(tensorflow_files / "whole.onnx"), providers=["CPUExecutionProvider"]
    )
    assert json.loads(session.get_modelmeta().custom_metadata_map["topwork"]) == facts
    (given,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("image", "tensor(uint8)", [32, 32, 3])
    assert (logits.name, logits.type, logits.shape[1:]) == ("logits", "tensor(float)", [3])
