import json

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from topwork.bases import int8
from topwork.bases.engines import NetworkCache, OpenVINOEngine, open_features, run_file
from topwork.core.child_process import ask_nncf
from topwork.core.config import Precision
from topwork.core.errors import NetworkError, SettingsError
from topwork.vectors.extractors import prepare_networks

pytest.importorskip("nncf")
pytestmark = pytest.mark.system

HASHES = [f"{number:064x}" for number in range(12)]
SIZE = 32


@pytest.fixture(scope="module")
def pixels():
    """Pictures that differ: patches of colours, not only noise."""
    numbers = np.random.default_rng(0)
    patches = numbers.integers(0, 256, (12, 4, 4, 3))
    return patches.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def network(small, store):
    return prepare_networks(small, store).networks[0]


@pytest.fixture(scope="module")
def fitted(network, pixels):
    return int8.make_int8(network, HASHES, pixels, seed=0)


def test_its_convolutions_take_bytes_and_what_follows_the_pooling_does_not(fitted):
    model = openvino.Core().read_model(fitted.vectors_path)
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    pooling = len(kinds) - 1 - kinds[::-1].index("ReduceMean")
    assert kinds.count("FakeQuantize") > 20
    assert "FakeQuantize" not in kinds[pooling - 1 :]


def test_its_vectors_are_near_those_in_f32(network, fitted, pixels):
    exact = OpenVINOEngine(network.vectors_path, SIZE, Precision.F32).run_all(pixels)
    found = OpenVINOEngine(fitted.vectors_path, SIZE, Precision.INT8).run_all(pixels)
    error = np.square(found - exact).sum() / np.square(exact - exact.mean(axis=0)).sum()
    # A feature map of one place averages nothing: larger images do better.
    assert 1e-6 < error < 0.25


@pytest.fixture(scope="module")
def residual(tmp_path_factory, pixels):
    """A network in int8 with sums as Xception has them, and pixels scaled to -1..1 as there."""
    folder = tmp_path_factory.mktemp("residual")
    numbers = np.random.default_rng(1)

    def convolve(values, inputs, outputs, side, stride):
        kernel = numbers.normal(0, (2 / inputs) ** 0.5 / side, (outputs, inputs, side, side))
        kernel = kernel.astype(np.float32)
        pads = [side // 2] * 2
        return ops.convolution(values, kernel, [stride, stride], pads, pads, [1, 1])

    image = ops.parameter([-1, SIZE, SIZE, 3], np.float32, name="image")
    scaled = ops.add(ops.multiply(image, np.float32(1 / 127.5)), np.float32(-1))
    values = ops.transpose(scaled, np.array([0, 3, 1, 2]))
    values = ops.relu(convolve(values, 3, 32, 3, 2))
    for _ in range(6):
        block = ops.relu(convolve(ops.relu(values), 32, 32, 3, 1))
        values = ops.add(convolve(block, 32, 32, 1, 1), values)
    vectors = ops.reduce_mean(ops.relu(values), np.array([2, 3]))
    model = openvino.Model([vectors], [image])
    openvino.save_model(model, folder / "network.xml", compress_to_fp16=False)
    np.save(folder / "pixels.npy", pixels)
    request = {"source": "network.xml", "pixels": "pixels.npy", "target": "int8.xml"}
    ask_nncf({name: str(folder / file) for name, file in request.items()})
    return folder / "int8.xml"


def test_every_way_to_run_it_gives_the_same_vectors(residual, pixels):
    """In batches or one by one, of bytes or floats, of a fixed or a free number, bit for bit."""
    wanted = OpenVINOEngine(residual, SIZE, Precision.INT8).run_all(pixels)
    assert wanted.std(axis=0).max() > 0
    quick = OpenVINOEngine(residual, SIZE, Precision.INT8, batch_size=1, streams=1)
    assert np.array_equal(quick.run_all(pixels), wanted)
    assert np.array_equal(run_file(residual, {"image": pixels}, Precision.INT8), wanted)
    see = open_features(residual, SIZE, Precision.INT8, output=None, flip=False)
    maps = np.stack([see(image).mean(axis=(0, 1)) for image in pixels])
    np.testing.assert_allclose(maps, wanted, rtol=1e-5, atol=1e-6)
    # What anybody gets who opens the file and runs it.
    stock = openvino.Core().compile_model(residual, "CPU")
    for size in (1, 5):
        batches = np.split(pixels.astype(np.float32), range(size, len(pixels), size))
        assert np.array_equal(np.concatenate([stock(batch)[0] for batch in batches]), wanted)


def test_a_kept_network_gives_the_same_vectors(residual, pixels, tmp_path):
    wanted = OpenVINOEngine(residual, SIZE, Precision.INT8).run_all(pixels)
    for _ in range(3):
        engine = OpenVINOEngine(residual, SIZE, Precision.INT8, cache=NetworkCache(tmp_path))
        assert np.array_equal(engine.run_all(pixels), wanted)
    assert [file.stat().st_size > 0 for file in tmp_path.iterdir()] == [True]


def test_an_openvino_that_knows_no_snippets_computes_in_int8_too(residual, pixels, monkeypatch):
    compile_model = openvino.Core.compile_model
    wanted = OpenVINOEngine(residual, SIZE, Precision.INT8).run_all(pixels)

    def refuse(core, model, device, hints):
        if "SNIPPETS_MODE" in hints:
            raise RuntimeError("Unsupported property SNIPPETS_MODE by CPU plugin.")
        return compile_model(core, model, device, hints)

    monkeypatch.setattr(openvino.Core, "compile_model", refuse)
    found = OpenVINOEngine(residual, SIZE, Precision.INT8).run_all(pixels)
    assert np.abs(found - wanted).max() < 0.1 * wanted.max()


def test_pixels_between_two_are_rounded(residual, pixels):
    near = pixels + np.random.default_rng(0).uniform(-0.4, 0.4, pixels.shape)
    stock = openvino.Core().compile_model(residual, "CPU")
    found, wanted = (stock(array.astype(np.float32))[0] for array in (near, pixels))
    assert np.array_equal(found, wanted)


def test_the_same_images_find_the_same_files(network, fitted, pixels, monkeypatch):
    monkeypatch.setattr(int8, "ask_nncf", lambda request: pytest.fail("made again"))
    assert int8.make_int8(network, HASHES, pixels, seed=0) == fitted


@pytest.mark.parametrize("change", ["images", "seed", "recipe"])
def test_other_images_another_seed_or_recipe_make_others(
    network, fitted, pixels, monkeypatch, change
):
    asked = []
    monkeypatch.setattr(int8, "ask_nncf", asked.append)
    monkeypatch.setattr(int8, "fill_folder", lambda folder, build, files, record: asked.append(1))
    images = HASHES[:-1] if change == "images" else HASHES
    if change == "recipe":
        monkeypatch.setattr(int8, "CALIBRATION_VERSION", "other")
    made = int8.make_int8(network, images, pixels, seed=int(change == "seed"))
    assert asked
    assert made.int8.calibration != fitted.int8.calibration


def test_an_earlier_calibration_serves_images_that_are_mostly_the_same(network, fitted):
    most = [*HASHES[3:], *(f"{number:064x}" for number in range(100, 1000))]
    assert int8.find_int8(network, most, seed=0, least=0.5) == fitted.int8
    assert int8.find_int8(network, most, seed=1, least=0.5) is None
    assert int8.find_int8(network, HASHES[9:], seed=0, least=0.5) is None


def test_a_damaged_one_is_not_found(network, fitted, tmp_path, monkeypatch):
    record = fitted.int8.folder / int8.RECORD
    content = record.read_text()
    facts = json.loads(content)
    facts["bytes"]["network.bin"] += 1
    record.write_text(json.dumps(facts))
    try:
        assert int8.find_int8(network, HASHES, seed=0, least=0.5) is None
    finally:
        record.write_text(content)


def test_a_broken_process_says_what_broke(network, pixels):
    with pytest.raises(NetworkError, match="the process that runs NNCF broke"):
        int8.make_int8(network, ["0" * 64], pixels[..., :1], seed=0)


def test_without_nncf_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(int8, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'topwork\[int8\]'"):
        int8.check_int8()
