"""What a network sees before its pooling, on networks that are small enough to check by hand."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from topwork.bases.engines import OpenVINOEngine, open_features
from topwork.core.config import Precision
from topwork.core.errors import NetworkError

SIDE = 4
KERNEL = np.random.default_rng(0).normal(0, 1, (3, 5)).astype(np.float32)


def write_network(path, *, channels_first=False, pooled=True, squeeze=False):
    """A network whose features are each pixel times a kernel."""
    pixels = ops.parameter([-1, SIDE, SIDE, 3], np.float32, name="image")
    features = ops.matmul(pixels, ops.constant(KERNEL), False, False)
    if squeeze:  # a pooling within the network, as squeeze-excite has
        scale = ops.reduce_mean(features, ops.constant([1, 2]), True)
        features = ops.multiply(features, scale)
    axes = [1, 2]
    if channels_first:
        features, axes = ops.transpose(features, ops.constant([0, 3, 1, 2])), [2, 3]
    found = ops.reduce_mean(features, ops.constant(axes), False) if pooled else features
    second = ops.reduce_max(features, ops.constant(axes), False)
    results = [ops.result(found), ops.result(second)]
    model = openvino.Model(results, [pixels], "tiny")
    for result, name in zip(model.outputs, ("vectors", "other"), strict=True):
        result.get_tensor().set_names({name})
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def make_pixels(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def see(path, flip=False, output="vectors"):
    return open_features(path, SIDE, Precision.F32, output=output, flip=flip)


@pytest.mark.parametrize("channels_first", [False, True])
def test_features_are_what_is_pooled(channels_first, tmp_path):
    path = write_network(tmp_path / "net.xml", channels_first=channels_first)
    pixels = make_pixels()
    found = see(path)(pixels)
    assert (found.shape, found.dtype) == ((SIDE, SIDE, 5), np.float32)
    np.testing.assert_allclose(found, pixels @ KERNEL, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_their_mean_is_the_vector(flip, channels_first, tmp_path):
    path = write_network(tmp_path / "net.xml", channels_first=channels_first)
    engine = OpenVINOEngine(path, SIDE, Precision.F32, output="vectors", flip=flip)
    pixels = make_pixels()
    found = see(path, flip)(pixels).mean(axis=(0, 1))
    np.testing.assert_allclose(found, engine.run_all(pixels[None])[0], rtol=1e-5, atol=1e-3)


def test_with_flip_the_mirror_is_turned_back(tmp_path):
    path = write_network(tmp_path / "net.xml")
    pixels = make_pixels()
    # Every place is seen by itself, so turned back the mirror says the same.
    np.testing.assert_allclose(see(path, True)(pixels), see(path)(pixels), rtol=1e-5, atol=1e-3)


def test_the_last_pooling_is_the_one(tmp_path):
    path = write_network(tmp_path / "net.xml", squeeze=True)
    pixels = make_pixels()
    plain = pixels @ KERNEL
    wanted = plain * plain.mean(axis=(0, 1))
    np.testing.assert_allclose(see(path)(pixels), wanted, rtol=1e-4)


def test_threads_do_not_get_in_each_others_way(tmp_path):
    run = see(write_network(tmp_path / "net.xml"))
    images = [make_pixels(seed) for seed in range(50)]
    with ThreadPoolExecutor(8) as pool:
        for pixels, found in zip(images, pool.map(run, images), strict=True):
            np.testing.assert_allclose(found, pixels @ KERNEL, rtol=1e-5, atol=1e-3)


def test_what_is_returned_is_not_overwritten_by_the_next_image(tmp_path):
    run = see(write_network(tmp_path / "net.xml"))
    first = run(make_pixels(0))
    run(make_pixels(1))
    np.testing.assert_allclose(first, make_pixels(0) @ KERNEL, rtol=1e-5, atol=1e-3)


def test_a_network_without_pooling_is_refused(tmp_path):
    path = write_network(tmp_path / "net.xml", pooled=False)
    with pytest.raises(NetworkError, match=r"net\.xml: it has no global average pooling"):
        see(path)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(NetworkError, match=r"cannot load the network .*gone\.xml"):
        see(tmp_path / "gone.xml")
    path = tmp_path / "net.xml"
    path.write_text("<net")
    with pytest.raises(NetworkError, match=r"cannot load the network .*net\.xml"):
        see(path)
