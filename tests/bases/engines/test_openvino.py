import threading

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from topwork.bases.engines import OpenVINOEngine, resolve_precision, run_file
from topwork.core.config import Precision
from topwork.core.errors import NetworkError, SettingsError

SIZE = 8
CPU_HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
KERNEL = np.random.default_rng(0).normal(0, 0.1, (16, 3, 3, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A convolution, ReLU and average: (N, 8, 8, 3) to (N, 16), like a base."""
    image = ops.parameter([-1, SIZE, SIZE, 3], np.float32, name="image")
    first = ops.transpose(image, np.array([0, 3, 1, 2]))
    features = ops.convolution(first, KERNEL, [1, 1], [0, 0], [0, 0], [1, 1])
    vectors = ops.reduce_mean(ops.relu(features), np.array([2, 3]))
    vectors.output(0).set_names({"vectors"})
    total = ops.reduce_sum(vectors, np.array([1]), keep_dims=True)
    total.output(0).set_names({"total"})
    path = tmp_path_factory.mktemp("network") / "network.xml"
    model = openvino.Model([vectors, total], [image])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def make_pixels(count):
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def compute(pixels):
    """The same network by its definition: (N, 8, 8, 3) to (N, 16)."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels.astype(float), (3, 3), (1, 2))
    return np.maximum(np.einsum("nyxcij,kcij->nyxk", windows, KERNEL), 0).mean((1, 2))


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * wanted.max())


def make_engine(path, **options):
    options = {"precision": Precision.F32, "output": "vectors", **options}
    return OpenVINOEngine(path, SIZE, **options)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 29])
@pytest.mark.parametrize(("batch_size", "streams"), [(1, 1), (4, 2), (7, 3), (32, 1)])
def test_results_come_in_order_whatever_the_batches(network, count, batch_size, streams):
    pixels = make_pixels(count)
    engine = make_engine(network, batch_size=batch_size, streams=streams)
    tags = [f"image {n}" for n in range(count)]
    found = list(engine.run(zip(tags, pixels, strict=True)))
    assert [tag for tag, _ in found] == tags
    vectors = np.stack([vector for _, vector in found])
    assert vectors.dtype == np.float32
    assert_close(vectors, compute(pixels))
    np.testing.assert_array_equal(engine.run_all(pixels), vectors)


def test_an_engine_runs_again_and_of_nothing_makes_nothing(network):
    engine = make_engine(network)
    assert list(engine.run([])) == []
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
        assert_close(engine.run_all(pixels), compute(pixels))


def test_two_threads_may_share_an_engine(network):
    engine, pixels, found = make_engine(network, streams=1), make_pixels(50), []
    threads = [
        threading.Thread(
            target=lambda part=part: found.append((part, engine.run_all(pixels[part])))
        )
        for part in (slice(0, 25), slice(25, 50))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for part, vectors in found:
        assert_close(vectors, compute(pixels[part]))
    assert len(found) == 2


def test_an_output_stays_what_it_was_when_later_batches_have_run(network):
    pixels = make_pixels(24)
    found, kept = [], []
    for _, vector in make_engine(network, batch_size=2, streams=1).run(enumerate(pixels)):
        found.append(vector)
        kept.append(vector.copy())
    np.testing.assert_array_equal(found, kept)


def test_an_output_is_chosen_by_its_name(network):
    pixels = make_pixels(3)
    found = make_engine(network, output="total").run_all(pixels)
    assert_close(found, compute(pixels).sum(1, keepdims=True))
    with pytest.raises(NetworkError, match="nowhere"):
        make_engine(network, output="nowhere")


def test_with_flip_an_output_is_the_mean_over_image_and_mirror(network):
    pixels = make_pixels(5)
    wanted = (compute(pixels) + compute(pixels[:, :, ::-1])) / 2
    assert not np.allclose(wanted, compute(pixels), rtol=1e-3)
    found = make_engine(network, flip=True).run_all(pixels)
    assert_close(found, wanted)
    assert_close(make_engine(network, flip=True).run_all(pixels[:, :, ::-1]), found)
    total = make_engine(network, flip=True, output="total", batch_size=2).run_all(pixels)
    assert_close(total, wanted.sum(1, keepdims=True))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Mean colours of two images of different sizes, `left` and `right`, and all of them."""
    images = [ops.parameter([-1, s, s, 3], np.float32, name=f"image_{s}") for s in (SIZE, 6)]
    means = [ops.reduce_mean(image, np.array([1, 2])) for image in images]
    outputs = dict(zip(("both", "left", "right"), (ops.concat(means, 1), *means), strict=True))
    model = openvino.Model(list(outputs.values()), images)
    for port, name in zip((*model.outputs, *model.inputs), (*outputs, "a", "b"), strict=True):
        port.get_tensor().set_names({name})
    path = tmp_path_factory.mktemp("pair") / "pair.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def test_of_several_inputs_only_the_one_that_an_output_needs_is_asked_for(pair):
    for name, size in (("left", SIZE), ("right", 6)):
        pixels = np.random.default_rng(2).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
        engine = OpenVINOEngine(pair, size, Precision.F32, output=name)
        assert_close(engine.run_all(pixels), pixels.mean((1, 2)))
    with pytest.raises(NetworkError, match=r"one input is needed, .* image_8, image_6"):
        OpenVINOEngine(pair, SIZE, Precision.F32, output="both")


@pytest.mark.parametrize("count", [1, 5])
def test_a_whole_file_is_run_over_all_of_its_inputs(pair, network, count):
    random = np.random.default_rng(3)
    pixels = {
        f"image_{size}": random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        for size in (6, SIZE)
    }
    means = {name: array.mean((1, 2)) for name, array in pixels.items()}
    wanted = np.concatenate([means["image_8"], means["image_6"]], axis=1)
    assert_close(run_file(pair, pixels, Precision.F32), wanted)
    assert_close(run_file(pair, pixels, Precision.F32, "right"), means["image_6"])
    # Of the only input the name does not matter.
    found = run_file(network, {"any": pixels["image_8"]}, Precision.F32, "vectors")
    assert_close(found, compute(pixels["image_8"]))


def test_a_whole_file_with_other_inputs_or_outputs_is_an_error(pair, tmp_path):
    pixels = {f"image_{size}": np.zeros((2, size, size, 3), np.uint8) for size in (6, SIZE)}
    with pytest.raises(NetworkError, match=r"pair\.xml: .*'image_6', 'image_8'.*received.*'x'"):
        run_file(pair, {"x": pixels["image_6"]}, Precision.F32)
    with pytest.raises(NetworkError, match="nowhere"):
        run_file(pair, pixels, Precision.F32, "nowhere")
    with pytest.raises(NetworkError, match=r"nothing\.xml"):
        run_file(tmp_path / "nothing.xml", pixels, Precision.F32)


def test_few_images_are_held_at_a_time(network):
    taken = 0

    def images():
        nonlocal taken
        for pixels in make_pixels(60):
            taken += 1
            yield taken, pixels

    for tag, _ in make_engine(network, batch_size=3, streams=2).run(images()):
        assert taken - tag <= 3 * (2 + 2)


@pytest.mark.parametrize("good", [0, 1, 8, 30])
def test_an_error_among_the_images_comes_through_and_the_engine_lives(network, good):
    def images():
        yield from enumerate(make_pixels(good))
        raise LookupError("no more images")

    engine, found = make_engine(network, batch_size=2, streams=2), []
    with pytest.raises(LookupError, match="no more images"):
        found.extend(engine.run(images()))
    pixels = make_pixels(5)
    assert_close(engine.run_all(pixels), compute(pixels))


def test_pixels_of_another_size_are_an_error_at_once(network):
    with pytest.raises(ValueError, match="shape"):
        make_engine(network).run_all(np.zeros((2, SIZE + 1, SIZE, 3), np.uint8))


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_a_run_may_be_left_early(network, taken):
    closed = []

    def images():
        try:
            yield from enumerate(make_pixels(100))
        finally:
            closed.append(True)

    source = images()
    engine = make_engine(network, batch_size=2, streams=2)
    outputs = engine.run(source)
    for _ in range(taken):
        next(outputs)
    outputs.close()
    source.close()
    assert closed == ([True] if taken else [])
    del engine
    assert list(outputs) == []


def test_a_missing_network_is_named(tmp_path):
    with pytest.raises(NetworkError, match=r"nothing\.xml"):
        make_engine(tmp_path / "nothing.xml")


@pytest.mark.parametrize("change", ["empty", "no xml", "half", "no weights", "half weights"])
def test_a_damaged_network_is_an_error(network, tmp_path, change):
    text, weights = network.read_bytes(), network.with_suffix(".bin").read_bytes()
    match change:
        case "empty":
            text = b""
        case "no xml":
            text = b"not a network"
        case "half":
            text = text[: len(text) // 2]
        case "half weights":
            weights = weights[: len(weights) // 2]
    (tmp_path / "network.xml").write_bytes(text)
    if change != "no weights":
        (tmp_path / "network.bin").write_bytes(weights)
    with pytest.raises(NetworkError, match=r"cannot load the network .*network\.xml"):
        make_engine(tmp_path / "network.xml")


def test_a_network_for_other_images_is_an_error(tmp_path):
    grey = ops.parameter([-1, SIZE, SIZE, 1], np.float32)
    mean = ops.convolution(
        grey, np.ones((1, SIZE, 1, 1), np.float32), [1, 1], [0, 0], [0, 0], [1, 1]
    )
    openvino.save_model(openvino.Model([mean], [grey]), tmp_path / "grey.xml")
    with pytest.raises(NetworkError, match=r"cannot load the network .*grey\.xml"):
        OpenVINOEngine(tmp_path / "grey.xml", SIZE + 1, Precision.F32)


@pytest.fixture
def able(monkeypatch):
    def pretend(*capabilities):
        monkeypatch.setattr(openvino.Core, "get_property", lambda *_: list(capabilities))

    return pretend


def test_auto_is_bf16_where_the_cpu_has_it(able):
    able("FP32", "BF16")
    assert resolve_precision(Precision.AUTO) is Precision.BF16
    assert resolve_precision(Precision.BF16) is Precision.BF16
    assert resolve_precision(Precision.F32) is Precision.F32


def test_bf16_is_refused_where_the_cpu_lacks_it(able):
    able("FP32", "INT8")
    assert resolve_precision(Precision.AUTO) is Precision.F32
    with pytest.raises(SettingsError, match=r"precision: bf16 needs a CPU.*auto or f32"):
        resolve_precision(Precision.BF16)


@pytest.mark.skipif(not CPU_HAS_BF16, reason="this CPU has no bf16 arithmetic")
def test_bf16_is_close_to_f32_but_is_not_f32(network):
    pixels = make_pixels(6)
    exact = make_engine(network).run_all(pixels)
    rounded = make_engine(network, precision=Precision.BF16).run_all(pixels)
    np.testing.assert_allclose(rounded, exact, rtol=0.01, atol=0.01 * exact.max())
    assert not np.array_equal(rounded, exact)
