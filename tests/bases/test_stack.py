"""Networks side by side: kept in the store, and the same in stock Keras, OpenVINO and NumPy."""

import importlib.util
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from topwork.bases import (
    Weights,
    find_weights,
    get_base,
    keras_file,
    network,
    prepare_stack,
    reopen_keras_file,
    write_keras_file,
    write_openvino_file,
)
from topwork.bases.engines import OpenVINOEngine, run_file
from topwork.core.config import Precision
from topwork.core.errors import SettingsError, StoreError

LITE = get_base("efficientnet-lite0")
SPEC = get_base("mobilenetv3small")
WEIGHTS, OTHERS = Weights(None, "random-0", 0), Weights(None, "random-1", 1)
PARTS = [(SPEC, 64, WEIGHTS), (SPEC, 32, WEIGHTS)]
# What a user would write, and no more.
SCRIPT = """
import sys, numpy as np, keras
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
pixels = {name: array.astype("float32") for name, array in np.load(sys.argv[2]).items()}
np.save(sys.argv[3], model.predict(pixels, verbose=0))
"""


@pytest.fixture
def tasks(monkeypatch):
    """Writes stand-ins instead of networks, and records what the child process was asked."""
    asked = []

    def pretend(task, request):
        asked.append((task, request))
        for name in network.FILES:
            (network.Path(request["folder"]) / name).write_text(f"{name} {len(asked)}")
        return {"feature_shape": [1, 1, 576], "vector_length": 576, "parameters": 939120}

    monkeypatch.setattr(network, "ask_keras", pretend)
    return asked


def names(tasks):
    return [task for task, _ in tasks]


def test_a_stack_is_built_once_and_found_again(tmp_path, tasks):
    first = prepare_stack(PARTS, False, tmp_path)
    assert names(tasks) == ["build", "build", "compose"]
    assert prepare_stack(PARTS, False, tmp_path) == first
    assert len(tasks) == 3
    assert [part.image_size for part in first.networks] == [64, 32]
    assert first.vector_length == 2 * 576
    assert first.folder.parent == tmp_path / "bases"
    assert first.folder.name.startswith("stack-")
    assert not first.flip


def test_one_network_without_flip_is_its_own_stack(tmp_path, tasks):
    stack = prepare_stack(PARTS[:1], False, tmp_path)
    assert names(tasks) == ["build"]
    assert stack.folder == stack.networks[0].folder
    assert prepare_stack(PARTS[:1], True, tmp_path).folder != stack.folder
    assert names(tasks) == ["build", "compose"]


@pytest.mark.parametrize("part", ["base", "size", "weights", "order", "flip", "recipe", "keras"])
def test_each_part_of_the_key_keeps_stacks_apart(tmp_path, tasks, monkeypatch, part):
    first = prepare_stack(PARTS, False, tmp_path)
    parts, flip = list(PARTS), False
    match part:
        case "base":
            parts[1] = (get_base("mobilenetv3large"), 32, WEIGHTS)
        case "size":
            parts[1] = (SPEC, 33, WEIGHTS)
        case "weights":
            parts[1] = (SPEC, 32, OTHERS)
        case "order":
            parts.reverse()
        case "flip":
            flip = True
        case "recipe":
            monkeypatch.setattr(network, "NETWORK_VERSION", "other")
        case "keras":
            monkeypatch.setattr(network, "find_version", lambda _: "99")
    assert prepare_stack(parts, flip, tmp_path).folder != first.folder
    assert names(tasks)[-1] == "compose"


@pytest.mark.parametrize("name", [*network.KERAS_FILES, "stack.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "longer"])
def test_a_damaged_stack_is_built_again(tmp_path, tasks, name, damage):
    path = prepare_stack(PARTS, True, tmp_path).folder / name
    content = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(content[:-5])
        case "longer":
            path.write_bytes(content + b"}")
    prepare_stack(PARTS, True, tmp_path)
    assert names(tasks)[3:] == ["compose"]
    prepare_stack(PARTS, True, tmp_path)
    assert len(tasks) == 4


@pytest.mark.parametrize(
    ("sizes", "inputs"),
    [
        ((32,), {"image": 32}),
        ((32, 32), {"image": 32}),
        ((224, 64, 1024, 64), {"image_64": 64, "image_224": 224, "image_1024": 1024}),
    ],
)
def test_networks_of_the_same_size_share_an_input(tmp_path, tasks, sizes, inputs):
    parts = [(SPEC, size, Weights(None, f"random-{n}", n)) for n, size in enumerate(sizes)]
    stack = prepare_stack(parts, True, tmp_path)
    assert list(stack.inputs.items()) == list(inputs.items())
    for part, size in zip(stack.networks, sizes, strict=True):
        assert inputs[stack.input_of(part)] == size


def test_a_stack_of_nothing_or_of_the_same_twice_is_refused(tmp_path, tasks):
    with pytest.raises(SettingsError, match="at least one base"):
        prepare_stack([], False, tmp_path)
    with pytest.raises(SettingsError, match="mobilenetv3small at 64 pixels is there twice"):
        prepare_stack([*PARTS, PARTS[0]], False, tmp_path)
    with pytest.raises(SettingsError, match="at least 32 pixels, received 31"):
        prepare_stack([PARTS[0], (SPEC, 31, WEIGHTS)], False, tmp_path)
    assert names(tasks) == ["build"]


def test_a_full_disk_is_an_error_of_the_store(tmp_path, tasks, monkeypatch):
    pretend = network.ask_keras

    def fill(task, request):
        if task == "compose":
            raise OSError(28, "No space left on device")
        return pretend(task, request)

    monkeypatch.setattr(network, "ask_keras", fill)
    with pytest.raises(StoreError, match="No space left"):
        prepare_stack(PARTS, False, tmp_path)
    assert not [path for path in (tmp_path / "bases").iterdir() if "stack" in path.name]


def make_layers(*sizes):
    random = np.random.default_rng(0)
    return [
        (random.normal(0, 1, pair).astype(np.float32), random.normal(0, 1, pair[1]).astype("f4"))
        for pair in itertools.pairwise(sizes)
    ]


def make_case(parts, flip, inner, store):
    """Returns a stack, a head, pixels, and the logits by brute force."""
    stack = prepare_stack(parts, flip, store)
    layers = make_layers(stack.vector_length, *([7] if inner else []), 5)
    random = np.random.default_rng(1)
    pixels = {
        name: random.integers(0, 256, (3, size, size, 3), dtype=np.uint8)
        for name, size in stack.inputs.items()
    }
    vectors = []
    for part in stack.networks:
        engine = OpenVINOEngine(part.openvino_path, part.image_size, Precision.F32)
        image = pixels[stack.input_of(part)]
        views = (image, image[:, :, ::-1]) if flip else (image,)
        vectors.append(np.mean([engine.run_all(view) for view in views], axis=0))
    values = np.concatenate(vectors, axis=1)
    for place, (kernel, bias) in enumerate(layers):
        values = (np.maximum(values, 0) if place else values) @ kernel + bias
    return stack, layers, pixels, values


def assert_close(found, wanted):
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def save_pixels(pixels, folder):
    """By name, or the array alone where there is one input."""
    if len(pixels) > 1:
        np.savez(folder / "pixels.npz", **pixels)
        return folder / "pixels.npz"
    np.save(folder / "pixels.npy", *pixels.values())
    return folder / "pixels.npy"


def list_parts(name):
    lite, random = find_weights(LITE), find_weights(SPEC, "random:1")
    return {
        "one": [(LITE, 32, lite)],
        # Twice the names of a base, with inputs in the other order than vectors.
        "two sizes": [(LITE, 64, lite), (LITE, 32, lite)],
        # With and without a layer before the base, and one with RGB turned round.
        "three": [
            (SPEC, 32, random),
            (LITE, 40, lite),
            (get_base("vgg16"), 32, find_weights(get_base("vgg16"), "random:2")),
        ],
    }[name]


CASES = [
    ("one", True, False),
    pytest.param("two sizes", False, False, marks=pytest.mark.slow),
    ("two sizes", True, True),
    pytest.param("three", True, True, marks=pytest.mark.slow),
]


@pytest.mark.system
@pytest.mark.parametrize(("name", "flip", "inner"), CASES)
def test_keras_openvino_and_numpy_agree(name, flip, inner, store, tmp_path, workers, monkeypatch):
    worker = workers("openvino")
    monkeypatch.setattr(network, "ask_keras", worker.ask)
    stack, layers, pixels, wanted = make_case(list_parts(name), flip, inner, store)
    write_openvino_file(stack, layers, tmp_path / "model.xml")
    assert_close(run_file(tmp_path / "model.xml", pixels, Precision.F32), wanted)

    write_keras_file(stack.folder, layers, tmp_path / "model.keras")
    files = {
        "path": tmp_path / "model.keras",
        "pixels": save_pixels(pixels, tmp_path),
        "output": tmp_path / "logits.npy",
    }
    facts = worker.ask("reload", {key: str(file) for key, file in files.items()})
    head = ["head/kernel", "head/bias"]
    assert facts["trainable"] == (["inner/kernel", "inner/bias", *head] if inner else head)
    assert facts["same"]
    for logits in np.load(tmp_path / "logits.npy"):
        assert_close(logits, wanted)


@pytest.mark.system
def test_the_reopened_file_keeps_the_names_of_its_inputs(store, tmp_path, workers, monkeypatch):
    for module in (network, keras_file):
        monkeypatch.setattr(module, "ask_keras", workers("openvino").ask)
    stack, layers, pixels, wanted = make_case(list_parts("two sizes"), True, True, store)
    write_keras_file(stack.folder, layers, tmp_path / "model.keras")
    reopened = reopen_keras_file(tmp_path / "model.keras", tmp_path)
    assert_close(run_file(reopened, pixels, Precision.F32), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_a_fresh_process_on_another_backend_agrees(store, tmp_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    stack, layers, pixels, wanted = make_case(list_parts("three"), True, True, store)
    write_keras_file(stack.folder, layers, tmp_path / "model.keras")
    pixels, output = save_pixels(pixels, tmp_path), tmp_path / "logits.npy"
    subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "model.keras", pixels, output],
        check=True,
        capture_output=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    assert_close(np.load(output), wanted)
