"""The OpenVINO file of several networks, against NumPy on networks small enough for it."""

import itertools

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from topwork.bases import Network, Stack, flip_network, get_base, write_openvino_file
from topwork.bases.engines import OpenVINOEngine, run_file
from topwork.core.config import Precision

CPU_HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
LENGTH = 16


def make_kernel(seed):
    return np.random.default_rng(seed).normal(0, 0.1, (LENGTH, 3, 3, 3)).astype(np.float32)


def make_network(folder, size, seed):
    """A convolution, ReLU and average: (N, S, S, 3) to (N, 16), with the same names each time."""
    image = ops.parameter([-1, size, size, 3], np.float32, name="image")
    first = ops.transpose(image, np.array([0, 3, 1, 2]), name="first")
    features = ops.convolution(first, make_kernel(seed), [1, 1], [0, 0], [0, 0], [1, 1])
    vectors = ops.reduce_mean(ops.relu(features, name="relu"), np.array([2, 3]), name="mean")
    vectors.output(0).set_names({"vectors"})
    features.set_friendly_name("features")
    features.output(0).set_names({"features"})
    folder.mkdir(parents=True)
    model = openvino.Model([vectors], [image])
    openvino.save_model(model, folder / "network.xml", compress_to_fp16=False)
    return Network(get_base("xception"), size, "", folder, (1, 1, LENGTH), LENGTH, 0)


def compute(pixels, seed, *, flip):
    """The same network by its definition."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels.astype(float), (3, 3), (1, 2))
    features = np.einsum("nyxcij,kcij->nyxk", windows, make_kernel(seed))
    vectors = np.maximum(features, 0).mean((1, 2))
    return (vectors + compute(pixels[:, :, ::-1], seed, flip=False)) / 2 if flip else vectors


def make_layers(*sizes):
    random = np.random.default_rng(0)
    return [
        (random.normal(0, 1, pair).astype(np.float32), random.normal(0, 1, pair[1]).astype("f4"))
        for pair in itertools.pairwise(sizes)
    ]


def apply(layers, vectors):
    values = vectors
    for place, (kernel, bias) in enumerate(layers):
        values = (np.maximum(values, 0) if place else values) @ kernel.astype(float) + bias
    return values


def make_pixels(stack, count):
    random = np.random.default_rng(5)
    return {
        name: random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        for name, size in stack.inputs.items()
    }


def assert_close(found, wanted):
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


# Descending and one twice: neither inputs nor vectors are in the order of the networks by luck.
SIZES = {"one": (8,), "two": (12, 8), "three": (12, 8, 12)}


@pytest.mark.parametrize("layers", [(4,), (6, 4)], ids=["dense", "inner"])
@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_file_computes_what_its_parts_do(tmp_path, sizes, flip, layers):
    networks = tuple(make_network(tmp_path / str(n), s, n) for n, s in enumerate(sizes))
    stack = Stack(networks, flip, tmp_path)
    layers = make_layers(LENGTH * len(sizes), *layers)
    path = tmp_path / "model.xml"
    write_openvino_file(stack, layers, path)

    pixels = make_pixels(stack, 3)
    parts = [
        compute(pixels[stack.input_of(network)], seed, flip=flip)
        for seed, network in enumerate(networks)
    ]
    wanted = apply(layers, np.concatenate(parts, 1))
    assert_close(run_file(path, pixels, Precision.F32, "logits"), wanted)
    names = [f"vectors_{n}" for n in range(1, len(sizes) + 1)] if len(sizes) > 1 else ["vectors"]
    for name, network, part in zip(names, networks, parts, strict=True):
        assert_close(run_file(path, pixels, Precision.F32, name), part)
        engine = OpenVINOEngine(path, network.image_size, Precision.F32, output=name)
        assert_close(engine.run_all(pixels[stack.input_of(network)]), part)

    model = openvino.Core().read_model(path)
    assert [port.get_names() for port in model.inputs] == [{name} for name in stack.inputs]
    assert [port.get_names() for port in model.outputs] == [{"logits"}, *({n} for n in names)]
    # Tools find operations by name, and each network came with the same ones.
    operations = model.get_ops()
    assert len({op.get_friendly_name() for op in operations}) == len(operations)
    tensors = {name for op in operations for port in op.outputs() for name in port.get_names()}
    assert tensors == {*stack.inputs, "logits", *names}
    # A batch at once, of a size that is known only now.
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    whole = compiled({name: array.astype(np.float32) for name, array in pixels.items()})
    assert_close(whole["logits"], wanted)


def test_what_else_the_process_did_does_not_change_the_file(tmp_path):
    networks = tuple(make_network(tmp_path / str(seed), 8, seed) for seed in (0, 1))
    files = []
    for name in ("first", "second"):
        path = tmp_path / f"{name}.xml"
        write_openvino_file(Stack(networks, True, tmp_path), make_layers(2 * LENGTH, 6, 4), path)
        files.append((path.read_bytes(), path.with_suffix(".bin").read_bytes()))
    assert files[0] == files[1]


def test_with_flip_the_weights_are_there_once(tmp_path):
    network = make_network(tmp_path / "0", 8, 0)
    layers = make_layers(LENGTH, 4)
    sizes = []
    for flip in (False, True):
        write_openvino_file(Stack((network,), flip, tmp_path), layers, tmp_path / "model.xml")
        sizes.append((tmp_path / "model.bin").stat().st_size)
    assert sizes[1] - sizes[0] < make_kernel(0).nbytes / 4


@pytest.mark.skipif(not CPU_HAS_BF16, reason="this CPU has no bf16 arithmetic")
@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip"])
def test_in_bf16_a_head_whose_entries_cancel_keeps_its_accuracy(tmp_path, flip):
    """As where the vectors' mean and deviation are part of the kernel and the bias."""
    networks = (make_network(tmp_path / "0", 12, 0), make_network(tmp_path / "1", 8, 1))
    stack, path = Stack(networks, flip, tmp_path), tmp_path / "model.xml"
    pixels = make_pixels(stack, 8)
    names = ("vectors_1", "vectors_2")

    def run(output):
        return run_file(path, pixels, Precision.BF16, output)

    layers = make_layers(2 * LENGTH, 6, 4)
    write_openvino_file(stack, layers, path)
    vectors = np.concatenate([run(name) for name in names], 1)
    mean, deviation = vectors.mean(0), vectors.std(0) + 1e-3
    (inner, bias), head = layers
    inner /= deviation[:, None]
    layers = [(inner, (bias - mean.astype(float) @ inner).astype(np.float32)), head]
    write_openvino_file(stack, layers, path)
    wanted = apply(layers, vectors)
    np.testing.assert_allclose(run("logits"), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_a_flipped_model_gives_a_mirror_the_same_and_two_halves_their_mean(tmp_path):
    network = make_network(tmp_path / "0", 8, 0)
    model = openvino.Core().read_model(network.openvino_path)
    flip_network(model)
    assert model.output(0).get_partial_shape().to_string() == f"[?,{LENGTH}]"
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.float32)
    found = compiled(pixels)[0]
    assert_close(found, compute(pixels, 0, flip=True))
    assert_close(compiled(pixels[:, :, ::-1].copy())[0], found)


def test_a_file_that_cannot_be_written_says_what_it_needs(tmp_path, monkeypatch):
    network = make_network(tmp_path / "0", 8, 0)

    def fail(*_, **__):
        raise RuntimeError("Check 'm_bin_file' failed")

    monkeypatch.setattr(openvino, "save_model", fail)
    with pytest.raises(OSError, match=r"could not write model\.xml, which needs 0 MB; \d+ MB are"):
        write_openvino_file(
            Stack((network,), False, tmp_path), make_layers(LENGTH, 4), tmp_path / "model.xml"
        )
