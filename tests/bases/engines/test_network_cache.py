"""Networks that were compiled before, on ones that are small enough to check by hand."""

import os
import shutil

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from topwork.bases.engines import NetworkCache, OpenVINOEngine, open_features
from topwork.bases.engines.network_cache import compile_cached
from topwork.core.config import Precision
from topwork.core.errors import NetworkError

SIDE = 6
CPU_HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
PRECISIONS = [
    Precision.F32,
    pytest.param(
        Precision.BF16,
        marks=pytest.mark.skipif(not CPU_HAS_BF16, reason="this CPU has no bf16 arithmetic"),
    ),
]


def write_network(path, seed=0, *, channels_first=False):
    """The mean over an image of two times a kernel and its ReLU: (N, 6, 6, 3) to (N, 8)."""
    kernel = np.random.default_rng(seed).normal(0, 0.1, (3, 8)).astype(np.float32)
    image = ops.parameter([-1, SIDE, SIDE, 3], np.float32, name="image")
    features, axes = ops.relu(ops.matmul(image, ops.constant(kernel), False, False)), [1, 2]
    if channels_first:
        features, axes = ops.transpose(features, ops.constant([0, 3, 1, 2])), [2, 3]
    results = []
    for name, scale in (("vectors", 1.0), ("doubled", 2.0)):
        scaled = ops.multiply(features, ops.constant(np.float32(scale)))
        result = ops.reduce_mean(scaled, ops.constant(axes), False)
        result.output(0).set_names({name})
        results.append(result)
    openvino.save_model(openvino.Model(results, [image]), path, compress_to_fp16=False)
    return path


@pytest.fixture
def network(tmp_path):
    return write_network(tmp_path / "network.xml")


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "store").mkdir()
    return tmp_path / "store" / "compiled"


@pytest.fixture
def compiled(monkeypatch):
    """The names of what was compiled so far."""
    found = []
    compile_model = openvino.Core.compile_model

    def count(core, model, *args):
        found.append(model.get_friendly_name())
        return compile_model(core, model, *args)

    monkeypatch.setattr(openvino.Core, "compile_model", count)
    return found


def make_pixels(count=5):
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def run(path, folder, precision=Precision.F32, **options):
    options = {"output": "vectors"} | options
    cache = folder and NetworkCache(folder)
    return OpenVINOEngine(path, SIDE, precision, cache=cache, **options).run_all(make_pixels())


def keep(path, cache):
    """Runs a network until it is kept; returns its vectors."""
    run(path, cache)
    return run(path, cache)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("flip", [False, True])
def test_from_the_third_time_on_it_is_read_and_gives_the_same_bits(
    network, cache, compiled, precision, flip
):
    wanted = run(network, None, precision, flip=flip)
    compiled.clear()
    for times in (1, 2, 2, 2):
        assert np.array_equal(run(network, cache, precision, flip=flip), wanted)
        assert len(compiled) == times
    assert len([*cache.iterdir()]) == 1


def test_a_network_that_was_used_once_takes_no_space(network, cache):
    run(network, cache)
    assert [file.stat().st_size for file in cache.iterdir()] == [0]


def test_what_was_asked_for_otherwise_is_another_network(network, cache, tmp_path):
    asked = [
        {}, {"output": "doubled"}, {"flip": True}, {"batch_size": 1, "streams": 1}, {"threads": 1},
    ]  # fmt: skip
    wanted = [run(network, None, **options) for options in asked]
    for _ in range(3):
        for options, vectors in zip(asked, wanted, strict=True):
            assert np.array_equal(run(network, cache, **options), vectors)
    assert len([*cache.iterdir()]) == len(asked)
    other = write_network(tmp_path / "other.xml", seed=1)
    assert not np.allclose(run(other, cache), wanted[0])


@pytest.mark.parametrize("how", ["in place", "replaced", "weights of the same time"])
def test_a_changed_file_is_compiled_anew(network, cache, tmp_path, how):
    before = keep(network, cache)
    other = write_network(tmp_path / "new.xml", seed=1)
    wanted = run(other, None)
    for suffix in (".xml", ".bin"):
        file, new = network.with_suffix(suffix), other.with_suffix(suffix)
        status = file.stat()
        if how == "in place":
            file.write_bytes(new.read_bytes())
        elif how == "replaced":
            new.replace(file)
        elif suffix == ".bin":
            shutil.copyfile(new, file)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = run(network, cache)
    assert np.array_equal(found, wanted)
    assert not np.allclose(found, before)


@pytest.mark.parametrize("damage", ["cut", "garbage", "text", "other end"])
def test_a_damaged_one_is_compiled_again_and_replaced(network, cache, compiled, damage):
    wanted = keep(network, cache)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "garbage":
            file.write_bytes(bytes(range(256)) * 50)
        case "text":
            file.write_text("not a network")
        case "other end":
            file.write_bytes(content[:-100] + b"\xff" * 100)
    compiled.clear()
    for _ in range(3):
        assert np.array_equal(run(network, cache), wanted)
    assert len(compiled) == 1
    assert len(file.read_bytes()) == pytest.approx(len(content), rel=0.01)


@pytest.mark.parametrize("store", ["none", "a file"])
def test_where_none_can_be_kept_it_is_compiled(network, tmp_path, compiled, store):
    if store == "a file":
        (tmp_path / store).write_text("no folder")
    before = sorted(tmp_path.iterdir())
    wanted = run(network, None)
    for _ in range(3):
        assert np.array_equal(run(network, tmp_path / store / "compiled"), wanted)
    assert len(compiled) == 4
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_or_damaged_network_is_still_an_error(network, cache):
    keep(network, cache)
    network.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(NetworkError, match=r"cannot load the network .*network\.xml"):
        run(network, cache)
    network.unlink()
    with pytest.raises(NetworkError, match=r"cannot load the network .*network\.xml"):
        run(network, cache)


def test_of_the_same_content_one_is_kept_wherever_its_file_lies(network, cache, compiled, tmp_path):
    wanted = run(network, None)
    compiled.clear()
    for name, times in (("a", 1), ("b", 2), ("c", 2)):
        path = tmp_path / name / "network.xml"
        path.parent.mkdir()
        for suffix in (".xml", ".bin"):
            shutil.copyfile(network.with_suffix(suffix), path.with_suffix(suffix))
        kept = NetworkCache.of_store(cache.parent, "the network")
        engine = OpenVINOEngine(path, SIDE, Precision.F32, output="vectors", cache=kept)
        assert np.array_equal(engine.run_all(make_pixels()), wanted)
        assert len(compiled) == times
    assert len([*cache.iterdir()]) == 1
    path.with_suffix(".bin").unlink()
    with pytest.raises(NetworkError, match=r"cannot load the network .*network\.xml"):
        OpenVINOEngine(path, SIDE, Precision.F32, output="vectors", cache=kept)


def test_those_that_were_not_used_the_longest_are_removed(network, cache):
    core = openvino.Core()

    def compile(name, most_bytes):
        options = {"NUM_STREAMS": "1"}
        make = lambda: core.read_model(network)  # noqa: E731
        kept = NetworkCache(cache, most_bytes=most_bytes)
        compile_cached(core, network, Precision.F32, options, (name,), make, kept)

    for name in ("first", "second", "first", "second"):
        compile(name, 1 << 30)
    first, second = sorted(cache.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    compile("first", 1 << 30)  # is used again
    size = first.stat().st_size
    for _ in range(2):
        compile("third", int(2.5 * size))
    assert first.exists()
    assert not second.exists()
    assert len([*cache.iterdir()]) == 2


def test_one_that_is_too_large_is_never_written(network, cache):
    core = openvino.Core()
    for most_bytes, kept in ((10, 0), (1 << 20, 1)):
        for _ in range(3):
            compile_cached(
                core,
                network,
                Precision.F32,
                {},
                (),
                lambda: core.read_model(network),
                NetworkCache(cache, most_bytes=most_bytes),
            )
        assert len([*cache.glob("*")]) == kept


@pytest.mark.parametrize("channels_first", [False, True])
def test_features_that_were_kept_are_the_same(tmp_path, cache, compiled, channels_first):
    path = write_network(tmp_path / "net.xml", channels_first=channels_first)
    options = {"output": "vectors", "flip": False}
    pixels = make_pixels(1)[0]
    wanted = open_features(path, SIDE, Precision.F32, **options)(pixels)
    assert wanted.shape == (SIDE, SIDE, 8)
    compiled.clear()
    for times in (1, 2, 2):
        see = open_features(path, SIDE, Precision.F32, cache=NetworkCache(cache), **options)
        assert np.array_equal(see(pixels), wanted)
        assert len(compiled) == times
