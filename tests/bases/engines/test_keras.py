"""Keras on JAX, on JAX's CPU device, against OpenVINO; a child process is kept for many tests."""

import os
import shutil
import signal
import subprocess
import sys
import types
from importlib import metadata

import numpy as np
import psutil
import pytest

from topwork.bases import Weights, find_weights, get_base, list_bases, prepare
from topwork.bases.engines import OpenVINOEngine, keras_child
from topwork.bases.engines.keras import KerasEngine, describe_device, has_accelerator
from topwork.core.config import Precision
from topwork.core.errors import NetworkError, SettingsError
from topwork.core.shared_memory import SLOTS

pytestmark = pytest.mark.system

SIZE, BATCH = 32, 4
FAMILIES = {spec.family: spec.name for spec in reversed(list_bases())}.values()


# A base in small, with a normalization that does something, as `bases` writes it.
BUILD = """
import sys
from pathlib import Path
from topwork.bases.child import _write_template, keras, layers, mend_graph, np

keras.utils.set_random_seed(1)
folder, size = Path(sys.argv[1]), int(sys.argv[2])
inside = keras.Input((size, size, 3))
x = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(inside)
x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
x = layers.SeparableConv2D(24, 3, activation="swish")(x)
base = keras.Model(inside, x)
random = np.random.default_rng(1)
base.set_weights([w + random.uniform(0, 0.3, w.shape) for w in base.get_weights()])
base.trainable = False
image = keras.Input((size, size, 3), name="image")
scaled = layers.Rescaling(1 / 127.5, -1.0, name="preprocess")(image)
vectors = layers.GlobalAveragePooling2D(name="vectors")(base(scaled, training=False))
keras.Model(image, vectors).export(str(folder / "network.xml"), format="openvino", verbose=False)
mend_graph(folder / "network.xml")
_write_template(image, vectors, folder)
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The folder of a small network."""
    folder = tmp_path_factory.mktemp("network")
    command = [sys.executable, "-c", BUILD, str(folder), str(SIZE)]
    subprocess.run(command, env={**os.environ, "KERAS_BACKEND": "openvino"}, check=True)
    return folder


def open_keras(network, precision=Precision.F32, **options):
    return KerasEngine(network, SIZE, precision, **{"batch_size": BATCH, **options})


@pytest.fixture(scope="module")
def kept(network):
    engine = open_keras(network)
    yield engine
    engine.close()


@pytest.fixture
def engine(kept):
    """The engine that most tests share, and none of them may end."""
    yield kept
    assert process_of(kept).is_running()


def process_of(engine):
    return psutil.Process(engine._child._process.pid)


def make_pixels(count, seed=1):
    shape = (count, SIZE, SIZE, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def run_all(engine, pixels):
    return np.stack([vector for _, vector in engine.run(enumerate(pixels))])


def assert_close(found, wanted, tolerance=1e-4):
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < tolerance * np.abs(wanted).max()


@pytest.fixture(scope="module")
def reference(network):
    """What OpenVINO makes of pixels."""

    def run(pixels, **options):
        return OpenVINOEngine(network / "network.xml", SIZE, Precision.F32, **options).run_all(
            pixels
        )

    return run


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 7 * BATCH + 2])
def test_vectors_are_those_of_openvino_in_order_whatever_the_batches(engine, reference, count):
    pixels = make_pixels(count, seed=count)
    tags = [f"image {n}" for n in range(count)]
    found = list(engine.run(zip(tags, pixels, strict=True)))
    assert [tag for tag, _ in found] == tags
    vectors = np.stack([vector for _, vector in found])
    assert vectors.dtype == np.float32
    assert_close(vectors, reference(pixels))


def test_an_engine_says_what_it_is(engine):
    assert engine.device == "cpu"
    assert engine.batch_size == BATCH
    assert engine.ahead == SLOTS * BATCH
    assert engine.vector_length == 24


def test_of_nothing_nothing_is_made(engine):
    assert list(engine.run([])) == []


def test_vectors_stay_what_they_were_when_later_batches_have_run(engine):
    found, kept = [], []
    for _, vector in engine.run(enumerate(make_pixels(6 * BATCH))):
        found.append(vector)
        kept.append(vector.copy())
    np.testing.assert_array_equal(found, kept)


def test_few_images_are_held_at_a_time(engine):
    taken = 0

    def images():
        nonlocal taken
        for pixels in make_pixels(8 * BATCH):
            taken += 1
            yield taken, pixels

    for tag, _ in engine.run(images()):
        assert taken - tag < engine.ahead


@pytest.mark.parametrize("taken", [0, 1, BATCH + 1])
def test_a_run_may_be_left_early_and_the_engine_lives(engine, reference, taken):
    vectors = engine.run(enumerate(make_pixels(50)))
    for _ in range(taken):
        next(vectors)
    vectors.close()
    pixels = make_pixels(BATCH + 1, seed=2)
    assert_close(run_all(engine, pixels), reference(pixels))


@pytest.mark.parametrize("good", [0, 1, 2 * BATCH, 20])
def test_an_error_among_the_images_comes_through_and_the_engine_lives(engine, reference, good):
    def images():
        yield from enumerate(make_pixels(good))
        raise LookupError("no more images")

    with pytest.raises(LookupError, match="no more images"):
        list(engine.run(images()))
    pixels = make_pixels(3, seed=3)
    assert_close(run_all(engine, pixels), reference(pixels))


def test_pixels_of_another_size_are_an_error_at_once(engine):
    with pytest.raises(ValueError, match="shape"):
        run_all(engine, np.zeros((2, SIZE + 1, SIZE, 3), np.uint8))


def test_two_streams_at_a_time_are_refused(engine):
    first = engine.run(enumerate(make_pixels(20)))
    next(first)
    with pytest.raises(RuntimeError, match="one stream at a time"):
        next(engine.run(enumerate(make_pixels(1))))
    assert [tag for tag, _ in first] == list(range(1, 20))


def test_with_flip_a_vector_is_the_mean_over_image_and_mirror_on_every_device(
    network, reference, monkeypatch
):
    # Two devices: each batch is divided among them.
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    engine = open_keras(network, flip=True, batch_size=2)
    assert (engine.device, engine.batch_size) == ("cpu: 2 × cpu", 4)
    pixels = make_pixels(11)
    found = run_all(engine, pixels)
    engine.close()
    wanted = (reference(pixels) + reference(pixels[:, :, ::-1])) / 2
    assert_close(found, wanted)
    assert_close(found, reference(pixels, flip=True))
    assert not np.allclose(wanted, reference(pixels), rtol=1e-3)


def test_bf16_is_close_to_f32_but_is_not_f32(network, reference):
    engine = open_keras(network, Precision.BF16)
    pixels = make_pixels(6)
    found, wanted = run_all(engine, pixels), reference(pixels)
    engine.close()
    assert found.dtype == np.float32
    assert_close(found, wanted, 0.05)
    assert np.abs(found - wanted).max() > 1e-4 * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize("base", FAMILIES)
def test_a_real_base_gives_the_vectors_of_openvino(store, base):
    spec = get_base(base)
    size = max(64, spec.min_size)
    weights = Weights(None, "random-0", 0) if spec.application else find_weights(spec)
    built = prepare(spec, size, weights, store)
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    wanted = OpenVINOEngine(built.openvino_path, size, Precision.F32).run_all(pixels)
    for precision, tolerance in ((Precision.F32, 1e-4), (Precision.BF16, 0.1)):
        engine = KerasEngine(built.folder, size, precision, batch_size=3)
        assert_close(run_all(engine, pixels), wanted, tolerance)
        engine.close()


def test_the_child_ends_with_the_engine(network):
    engine = open_keras(network)
    vectors = engine.run(enumerate(make_pixels(20)))
    next(vectors)
    child = process_of(engine)
    del engine, vectors
    _, alive = psutil.wait_procs([child], timeout=20)
    assert alive == []


def test_a_killed_child_is_an_error(network):
    engine = open_keras(network)
    vectors = engine.run(enumerate(make_pixels(50)))
    next(vectors)
    process_of(engine).kill()
    with pytest.raises(NetworkError, match=r"was killed by SIGKILL.*; use --engine openvino"):
        list(vectors)
    with pytest.raises(NetworkError, match=r"use --engine openvino"):
        run_all(engine, make_pixels(1))


def test_an_interrupt_closes_the_engine(network):
    engine = open_keras(network)
    child = process_of(engine)

    def images():
        yield from enumerate(make_pixels(2 * BATCH + 1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(engine.run(images()))
    assert not child.is_running()
    engine.close()
    with pytest.raises(NetworkError, match=r"cannot run the network in .*: it was closed before"):
        run_all(engine, make_pixels(1))


SCRIPT = """
import sys
from pathlib import Path
from topwork.core.config import Precision
from topwork.bases.engines.keras import KerasEngine

engine = KerasEngine(Path(sys.argv[1]), int(sys.argv[2]), Precision.F32, batch_size=4)
print(engine._child._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, None])
def test_the_child_ends_with_its_parent(network, sign):
    command = [sys.executable, "-c", SCRIPT, str(network), str(SIZE)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **options) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        if sign:
            parent.send_signal(sign)
    _, alive = psutil.wait_procs([child], timeout=20)
    assert alive == []


@pytest.mark.parametrize("damage", ["missing", "config", "half", "other layer"])
def test_a_damaged_network_is_an_error_with_its_path(network, tmp_path, damage):
    folder = tmp_path / "network"
    shutil.copytree(network, folder)
    config, weights = folder / "config.json", folder / "model.weights.h5"
    match damage:
        case "missing":
            shutil.rmtree(folder)
        case "config":
            config.write_text("{")
        case "half":
            weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
        case "other layer":
            config.write_text(config.read_text().replace('"Rescaling"', '"Lambda"'))
    message = rf"cannot run the network in .*{folder.name}.*: .*delete that folder, and it is built"
    with pytest.raises(NetworkError, match=message):
        KerasEngine(folder, SIZE, Precision.F32, batch_size=BATCH)


def test_a_network_of_another_size_is_an_error(network):
    with pytest.raises(
        NetworkError, match=r"it takes images of \(32, 32, 3\), not of \(40, 40, 3\)"
    ):
        KerasEngine(network, 40, Precision.F32)


@pytest.mark.parametrize("precision", [Precision.AUTO, Precision.INT8])
def test_another_precision_is_refused(network, precision):
    with pytest.raises(SettingsError, match=f"precision: .* bf16 or f32, received {precision}"):
        open_keras(network, precision)


def test_what_a_broken_process_wrote_last_is_in_the_error(network, monkeypatch, tmp_path):
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho first >&2\necho no module named jax >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(NetworkError, match=r"ended \(3\): no module named jax; use --engine"):
        open_keras(network)
    assert describe_device() is None


def test_the_device_is_told():
    assert describe_device() == "cpu"


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ([("cpu", "cpu")], "cpu"),
        ([("gpu", "NVIDIA H100")], "gpu: NVIDIA H100"),
        ([("gpu", "NVIDIA H100")] * 4, "gpu: 4 × NVIDIA H100"),
        ([("tpu", "TPU v5e")], "tpu: TPU v5e"),
    ],
)
def test_devices_in_words(kinds, words):
    devices = [types.SimpleNamespace(platform=p, device_kind=kind) for p, kind in kinds]
    assert keras_child.describe_devices(devices) == words


@pytest.mark.parametrize(("room", "devices", "wanted"), [(128, 1, 128), (100, 1, 64), (3, 2, 1)])
def test_a_batch_is_halved_until_it_fits(room, devices, wanted):
    def try_batch(count):
        if count > room:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    assert keras_child.choose_batch(try_batch, 128, devices) == wanted


@pytest.mark.parametrize("error", ["RESOURCE_EXHAUSTED: Out of memory", "INTERNAL: no such thing"])
def test_what_no_smaller_batch_mends_is_an_error(error):
    def try_batch(count):
        tried.append(count)
        raise RuntimeError(error)

    tried = []
    with pytest.raises(RuntimeError, match=error):
        keras_child.choose_batch(try_batch, 4)
    assert tried == ([4, 2, 1] if "MEMORY" in error.upper() else [4])


NVIDIA, TPU, ROCM = "nvidia0", "accel0", "kfd"


@pytest.mark.parametrize(
    ("files", "plugins", "environment", "wanted"),
    [
        ([], ["xla_cuda12"], {}, False),
        ([NVIDIA], [], {}, False),
        ([NVIDIA], ["xla_cuda12"], {}, True),
        (["nvidia3"], ["xla_cuda13"], {}, True),
        (["dxg"], ["xla_cuda12"], {}, True),
        (["nvidiactl"], ["xla_cuda12"], {}, False),
        ([NVIDIA], ["xla_rocm7"], {}, False),
        ([ROCM], ["xla_rocm7"], {}, True),
        ([TPU], ["libtpu"], {}, True),
        ([TPU], ["xla_cuda12"], {}, False),
        (["vfio/0"], ["libtpu"], {}, True),
        ([NVIDIA], ["xla_cuda12"], {"CUDA_VISIBLE_DEVICES": "-1"}, False),
        ([NVIDIA], ["xla_cuda12"], {"CUDA_VISIBLE_DEVICES": ""}, False),
        ([NVIDIA], ["xla_cuda12"], {"CUDA_VISIBLE_DEVICES": "1"}, True),
        ([NVIDIA], ["xla_cuda12"], {"JAX_PLATFORMS": "cpu"}, False),
        ([NVIDIA], ["xla_cuda12"], {"JAX_PLATFORMS": "cuda,cpu"}, True),
    ],
)
def test_an_accelerator_needs_its_device_and_its_plugin(
    tmp_path, monkeypatch, files, plugins, environment, wanted
):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def find(name):
        if name not in plugins:
            raise metadata.PackageNotFoundError(name)
        return types.SimpleNamespace(name=name)

    entries = [types.SimpleNamespace(name=name) for name in plugins if name != "libtpu"]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries)
    monkeypatch.setattr(metadata, "distribution", find)
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert has_accelerator(tmp_path) is wanted


def test_neither_keras_nor_jax_is_imported_here():
    code = """
import sys
from topwork.bases.engines import keras
keras.has_accelerator()
print([name for name in ("jax", "keras", "openvino") if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_initializers_are_emptied_and_nothing_else_is():
    config = {"kernel_initializer": {"class_name": "GlorotUniform"}, "units": 3}
    whole = {"layers": [{"config": dict(config), "name": "a"}, []], "text_initializer": "zeros"}
    keras_child._empty(whole)
    wanted = {"kernel_initializer": keras_child.ZEROS, "units": 3}
    assert whole["layers"][0] == {"config": wanted, "name": "a"}
    assert whole["text_initializer"] == "zeros"
