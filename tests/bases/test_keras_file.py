"""The `.keras` file, opened by stock Keras in fresh processes, and refused where it is damaged."""

import importlib.util
import json
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from topwork.bases import (
    find_weights,
    get_base,
    prepare,
    read_keras_head,
    reopen_keras_file,
    write_keras_file,
)
from topwork.bases.engines import OpenVINOEngine
from topwork.core.config import Precision
from topwork.core.errors import NetworkError

pytestmark = pytest.mark.system

CLASSES = 5
# What a user would write, and no more.
SCRIPT = """
import sys, numpy as np, keras
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
pixels = np.load(sys.argv[2]).astype("float32")
if keras.config.backend() == "openvino":  # whose predict is bf16 where the CPU has it
    logits = keras.ops.convert_to_numpy(model(keras.ops.convert_to_tensor(pixels)))
else:
    logits = model.predict(pixels, verbose=0)
np.save(sys.argv[3], logits)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory, store):
    """A file of the smallest base, its head, and the logits it should give."""
    spec = get_base("efficientnet-lite0")
    base = prepare(spec, 32, find_weights(spec), store)
    random = np.random.default_rng(0)
    kernel = random.normal(0, 1, (base.vector_length, CLASSES)).astype(np.float32)
    bias = random.normal(0, 1, CLASSES).astype(np.float32)
    folder = tmp_path_factory.mktemp("keras")
    write_keras_file(base.folder, [(kernel, bias)], folder / "whole.keras")
    pixels = random.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.save(folder / "pixels.npy", pixels)
    logits = OpenVINOEngine(base.openvino_path, 32, Precision.F32).run_all(pixels) @ kernel + bias
    return base, [(kernel, bias)], folder / "whole.keras", logits


def assert_close(found, wanted):
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


BACKENDS = [
    "openvino",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("jax", "tensorflow")),
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_stock_keras_opens_the_file_and_gives_the_same_logits(
    written, tmp_path, backend, monkeypatch
):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    *_, path, logits = written
    monkeypatch.setenv("KERAS_BACKEND", backend)
    output = tmp_path / "logits.npy"
    command = [sys.executable, "-c", SCRIPT, path, path.with_name("pixels.npy"), output]
    subprocess.run(command, check=True, capture_output=True)
    assert_close(np.load(output), logits)


def test_the_reopened_file_gives_the_same_logits(written, tmp_path):
    *_, path, logits = written
    network = reopen_keras_file(path, tmp_path)
    engine = OpenVINOEngine(network, 32, Precision.F32)
    assert_close(engine.run_all(np.load(path.with_name("pixels.npy"))), logits)


def test_the_head_is_read_as_it_was_written(written):
    _, layers, path, _ = written
    assert_same(read_keras_head(path), layers)


def make_two_layers(length):
    random = np.random.default_rng(1)
    shapes = [((length, 7), 7), ((7, CLASSES), CLASSES)]
    return [tuple(random.normal(0, 1, s).astype(np.float32) for s in pair) for pair in shapes]


def assert_same(found, layers):
    assert len(found) == len(layers)
    for pair, wanted in zip(found, layers, strict=True):
        for array, right in zip(pair, wanted, strict=True):
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, right)


def test_an_inner_layer_is_a_layer_of_the_file(written, tmp_path, workers):
    base, _, path, _ = written
    layers = make_two_layers(base.vector_length)
    write_keras_file(base.folder, layers, tmp_path / "whole.keras")
    assert_same(read_keras_head(tmp_path / "whole.keras"), layers)
    with zipfile.ZipFile(tmp_path / "whole.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        groups = [file[f"layers/{name}/vars"] for name in ("dense", "dense_1")]
        assert [group.attrs["name"] for group in groups] == ["inner", "head"]
    pixels, output = path.with_name("pixels.npy"), tmp_path / "logits.npy"
    request = {"path": tmp_path / "whole.keras", "pixels": pixels, "output": output}
    facts = workers("openvino").ask("reload", {key: str(file) for key, file in request.items()})
    assert facts == {
        "trainable": ["inner/kernel", "inner/bias", "head/kernel", "head/bias"],
        "same": True,
    }
    vectors = OpenVINOEngine(base.openvino_path, 32, Precision.F32).run_all(np.load(pixels))
    (inner, inner_bias), (kernel, bias) = layers
    wanted = np.maximum(vectors @ inner + inner_bias, 0) @ kernel + bias
    for logits in np.load(output):
        assert_close(logits, wanted)


@pytest.mark.parametrize("inner", [False, True])
def test_the_same_head_gives_the_same_bytes_and_leaves_nothing_else(written, tmp_path, inner):
    base, layers, *_ = written
    layers = make_two_layers(base.vector_length) if inner else layers
    arrays = (base.folder / "model.weights.h5").read_bytes()
    written = []
    for _ in range(2):
        write_keras_file(base.folder, layers, tmp_path / "whole.keras")
        written.append((tmp_path / "whole.keras").read_bytes())
    assert written[0] == written[1]
    assert [file.name for file in tmp_path.iterdir()] == ["whole.keras"]
    assert (base.folder / "model.weights.h5").read_bytes() == arrays


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(written, tmp_path, monkeypatch):
    base, layers, *_ = written
    path = tmp_path / "whole.keras"
    path.write_bytes(b"the old one")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="No space left"):
        write_keras_file(base.folder, layers, path)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", [pytest.param("cut", marks=pytest.mark.slow), "lambda"])
def test_what_keras_does_not_open_is_refused(written, tmp_path, damage):
    whole = written[2]
    path = tmp_path / "bad.keras"
    match damage:
        case "cut":
            path.write_bytes(whole.read_bytes()[:-1000])
        case "lambda":
            write_with_lambda(whole, path, tmp_path / "was_here")
    with pytest.raises(NetworkError) as raised:
        reopen_keras_file(path, tmp_path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "was_here").exists()
    assert not (tmp_path / "reopened.xml").exists()


def write_with_lambda(whole, path, mark):
    """Puts a layer that runs code of its own into a file."""
    code = f"open({str(mark)!r}, 'w')"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                layer = config["config"]["layers"][1]
                layer.update(module="keras.layers", class_name="Lambda", registered_name=None)
                layer["config"] = {
                    "name": layer["name"],
                    "function": {"class_name": "__lambda__", "config": {"code": code}},
                }
                content = json.dumps(config)
            new.writestr(name, content)
