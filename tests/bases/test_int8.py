import json

import numpy as np
import openvino
import pytest

from topwork.bases import int8
from topwork.columns import prepare_networks
from topwork.config import Precision
from topwork.engines import OpenVINOEngine
from topwork.errors import NetworkError, SettingsError

pytest.importorskip("nncf")

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
        monkeypatch.setattr(int8, "RECIPE", "other")
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
