"""A built base in the store: found again, kept apart, rebuilt where it is damaged."""

import dataclasses
import json
import threading

import numpy as np
import openvino
import pytest

from topwork.bases import Weights, find_weights, get_base, network, prepare, prepare_stack
from topwork.core.errors import NetworkError, SettingsError, StoreError

pytestmark = pytest.mark.system

SPEC = get_base("mobilenetv3small")
WEIGHTS = Weights(None, "random-0", 0)
FACTS = {"feature_shape": [1, 1, 576], "vector_length": 576, "parameters": 939120}


@pytest.fixture
def builds(monkeypatch):
    """Writes stand-ins instead of networks, and counts how often."""
    asked = []

    def pretend(task, request):
        asked.append((task, request))
        for name in network.FILES:
            (network.Path(request["folder"]) / name).write_text(f"{name} {len(asked)}")
        return dict(FACTS)

    monkeypatch.setattr(network, "ask_keras", pretend)
    return asked


def test_a_base_is_built_once_and_found_again(tmp_path, builds):
    first = prepare(SPEC, 32, WEIGHTS, tmp_path)
    assert prepare(SPEC, 32, WEIGHTS, tmp_path) == first
    assert len(builds) == 1
    assert first.feature_shape == (1, 1, 576)
    assert first.openvino_path.is_file()
    assert [path for path in (tmp_path / "bases").iterdir() if ".tmp" in path.name] == []


@pytest.mark.parametrize("part", ["base", "size", "weights", "recipe", "keras"])
def test_each_part_of_the_key_keeps_bases_apart(tmp_path, builds, monkeypatch, part):
    first = prepare(SPEC, 32, WEIGHTS, tmp_path)
    spec, size, weights = SPEC, 32, WEIGHTS
    match part:
        case "base":
            spec = get_base("mobilenetv3large")
        case "size":
            size = 33
        case "weights":
            weights = Weights(None, "random-1", 1)
        case "recipe":
            monkeypatch.setattr(network, "NETWORK_VERSION", "other")
        case "keras":
            monkeypatch.setattr(network, "find_version", lambda _: "99")
    assert prepare(spec, size, weights, tmp_path).folder != first.folder
    assert len(builds) == 2


def test_where_the_weights_lie_does_not_matter(tmp_path, builds):
    first = prepare(SPEC, 32, Weights(tmp_path / "a.h5", "same"), tmp_path)
    assert prepare(SPEC, 32, Weights(tmp_path / "b.h5", "same"), tmp_path) == first
    assert len(builds) == 1


@pytest.mark.parametrize("name", [*network.FILES, "network.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "longer"])
def test_a_damaged_base_is_built_again(tmp_path, builds, name, damage):
    path = prepare(SPEC, 32, WEIGHTS, tmp_path).folder / name
    content = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(content[:-5])
        case "longer":
            path.write_bytes(content + b"}")
    prepare(SPEC, 32, WEIGHTS, tmp_path)
    assert len(builds) == 2
    prepare(SPEC, 32, WEIGHTS, tmp_path)
    assert len(builds) == 2
    assert [path.name for path in (tmp_path / "bases").iterdir()] == [path.parent.name]


def test_two_processes_may_build_the_same_at_the_same_time(tmp_path, builds, monkeypatch):
    """The other one is just putting its folder in the place of ours."""
    fill, threads = network.fill_folder, []

    def fill_and_replace(folder, *args):
        fill(folder, *args)
        folder.rename(tmp_path / "moved")
        threads.append(threading.Timer(0.2, lambda: (tmp_path / "moved").rename(folder)))
        threads[0].start()

    monkeypatch.setattr(network, "fill_folder", fill_and_replace)
    assert prepare(SPEC, 32, WEIGHTS, tmp_path).vector_length == 576
    assert len(builds) == 1
    threads[0].join()


def test_a_folder_that_stays_damaged_is_an_error(tmp_path, builds, monkeypatch):
    monkeypatch.setattr(network, "fill_folder", lambda *_: None)
    monkeypatch.setattr(network, "WAIT_S", 0)
    with pytest.raises(NetworkError, match="damaged as soon as it is built"):
        prepare(SPEC, 32, WEIGHTS, tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"bytes": {}}', "null", '"x"'])
def test_odd_facts_of_a_base_are_not_believed(tmp_path, builds, content):
    folder = prepare(SPEC, 32, WEIGHTS, tmp_path).folder
    (folder / "network.json").write_text(content)
    assert prepare(SPEC, 32, WEIGHTS, tmp_path).vector_length == 576
    assert len(builds) == 2


def test_a_build_that_fails_leaves_nothing_and_the_next_one_works(tmp_path, builds, monkeypatch):
    good = network.ask_keras

    def fail(task, request):
        good(task, request)
        raise NetworkError("no")

    monkeypatch.setattr(network, "ask_keras", fail)
    with pytest.raises(NetworkError, match="no"):
        prepare(SPEC, 32, WEIGHTS, tmp_path)
    assert list((tmp_path / "bases").iterdir()) == []
    monkeypatch.setattr(network, "ask_keras", good)
    prepare(SPEC, 32, WEIGHTS, tmp_path)


def test_another_run_that_was_faster_is_no_trouble(tmp_path, builds, monkeypatch):
    good = network.ask_keras

    def slow(task, request):
        monkeypatch.setattr(network, "ask_keras", good)
        prepare(SPEC, 32, WEIGHTS, tmp_path)
        return good(task, request)

    monkeypatch.setattr(network, "ask_keras", slow)
    base = prepare(SPEC, 32, WEIGHTS, tmp_path)
    assert [path.name for path in (tmp_path / "bases").iterdir()] == [base.folder.name]


@pytest.mark.parametrize("name", ["vgg16", "inceptionv3", "xception", "efficientnet-lite0"])
def test_a_size_too_small_is_named_with_the_bound(tmp_path, builds, name):
    spec = get_base(name)
    with pytest.raises(SettingsError, match=f"at least {spec.min_size} pixels, received"):
        prepare(spec, spec.min_size - 1, WEIGHTS, tmp_path)
    prepare(spec, spec.min_size, WEIGHTS, tmp_path)


def test_a_store_that_cannot_be_written_is_named(tmp_path, builds):
    (tmp_path / "bases").write_text("a file in the way")
    with pytest.raises(StoreError, match="cannot write to the store"):
        prepare(SPEC, 32, WEIGHTS, tmp_path)


def test_a_full_disk_is_an_error_of_the_store(tmp_path, monkeypatch):
    def fill(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(network, "ask_keras", fill)
    with pytest.raises(StoreError, match="No space left"):
        prepare(SPEC, 32, WEIGHTS, tmp_path)


def test_the_mended_graph_takes_any_batch_and_turns_pixels_once(store):
    """Features stay channels first from the first layer to the pooling."""
    spec = get_base("efficientnet-lite0")
    base = prepare(spec, 32, find_weights(spec), store)
    model = openvino.Core().read_model(base.openvino_path)
    assert model.input().get_partial_shape().to_string() == "[?,32,32,3]"
    assert model.output().get_partial_shape().to_string() == "[?,1280]"
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = [
        node.get_rt_info()["layerType"].astype(str)
        for node in compiled.get_runtime_model().get_ops()
    ]
    assert kinds.count("Convolution") > 40
    assert kinds.count("Transpose") + kinds.count("Permute") <= 1
    pixels = np.random.default_rng(0).uniform(0, 255, (5, 32, 32, 3)).astype(np.float32)
    whole = compiled(pixels)[0]
    for row, image in enumerate(pixels):
        np.testing.assert_allclose(compiled(image[None])[0][0], whole[row], atol=1e-5)


def test_the_facts_on_disk_are_those_of_the_network(store):
    spec = get_base("efficientnet-lite0")
    base = prepare(spec, 32, find_weights(spec), store)
    facts = json.loads((base.folder / "network.json").read_text())
    assert tuple(facts["feature_shape"]) == base.feature_shape == (1, 1, 1280)
    assert base.weights_sha256 == find_weights(spec).sha256
    with pytest.raises(dataclasses.FrozenInstanceError):
        base.image_size = 1


@pytest.mark.parametrize("flip", [False, True])
def test_two_stores_hold_the_same_bytes(tmp_path, flip):
    """Models can be compared by their hashes, wherever and whenever their base was built."""
    folders = []
    for place in ("first", "second"):
        part = (get_base("mobilenetv3small"), 32, WEIGHTS)
        stack = prepare_stack([part], flip, tmp_path / place)
        folders.append(stack.folder)
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
