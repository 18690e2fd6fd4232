"""EfficientNet-Lite against a plain forward pass, and its published weights at work."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from topwork.bases import find_weights, get_base, prepare
from topwork.bases.engines import OpenVINOEngine
from topwork.bases.torch_state import read_torch_state
from topwork.core.config import Precision

pytestmark = pytest.mark.system


def convolve(x, kernel, stride, groups=1):
    """TensorFlow's "same" convolution of (C, H, W) with a PyTorch kernel (O, C / groups, k, k)."""
    size, length = kernel.shape[-1], x.shape[1]
    out = -(-length // stride)
    pad = max((out - 1) * stride + size - length, 0)
    x = np.pad(x, ((0, 0), *(2 * [(pad // 2, pad - pad // 2)])))
    result = np.zeros((len(kernel), out, out))
    for row in range(out):
        for column in range(out):
            top, left = row * stride, column * stride
            window = x[:, top : top + size, left : left + size]
            if groups == 1:
                result[:, row, column] = np.tensordot(kernel, window, 3)
            else:
                result[:, row, column] = (kernel[:, 0] * window).sum((1, 2))
    return result


def normalize(x, state, name):
    weight, bias, mean, variance = (
        state[f"{name}.{part}"].reshape(-1, 1, 1).astype(float)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + 1e-3) * weight + bias


def run_plainly(state, pixels, repeats):
    """EfficientNet-Lite by its definition: pixels (S, S, 3) to a vector (1280,)."""
    x = (pixels.astype(float).transpose(2, 0, 1) - 127) / 128
    x = normalize(convolve(x, state["_conv_stem.weight"], 2), state, "_bn0").clip(0, 6)
    block = 0
    for stride, count in zip((1, 2, 2, 2, 1, 2, 1), repeats, strict=True):
        for repeat in range(count):
            name, y, step = f"_blocks.{block}", x, stride if repeat == 0 else 1
            if f"{name}._expand_conv.weight" in state:
                y = convolve(y, state[f"{name}._expand_conv.weight"], 1)
                y = normalize(y, state, f"{name}._bn0").clip(0, 6)
            y = convolve(y, state[f"{name}._depthwise_conv.weight"], step, groups=len(y))
            y = normalize(y, state, f"{name}._bn1").clip(0, 6)
            y = convolve(y, state[f"{name}._project_conv.weight"], 1)
            y = normalize(y, state, f"{name}._bn2")
            x = x + y if step == 1 and len(x) == len(y) else y
            block += 1
    x = normalize(convolve(x, state["_conv_head.weight"], 1), state, "_bn1").clip(0, 6)
    return x.mean((1, 2))


@pytest.mark.parametrize(
    ("name", "size", "repeats"),
    [
        ("efficientnet-lite0", 32, (1, 2, 2, 3, 3, 4, 1)),
        # Odd sizes are padded at other sides than even ones.
        pytest.param("efficientnet-lite0", 47, (1, 2, 2, 3, 3, 4, 1), marks=pytest.mark.slow),
        pytest.param("efficientnet-lite1", 64, (1, 3, 3, 4, 4, 5, 1), marks=pytest.mark.slow),
        pytest.param("efficientnet-lite2", 64, (1, 3, 3, 4, 4, 5, 1), marks=pytest.mark.slow),
    ],
)
def test_the_network_is_the_published_one(name, size, repeats, store):
    spec = get_base(name)
    weights = find_weights(spec)
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    pixels[1] = np.sort(pixels[1], axis=0)
    network = prepare(spec, size, weights, store)
    found = OpenVINOEngine(network.openvino_path, size, Precision.F32).run_all(pixels)
    state = read_torch_state(weights.path)
    wanted = np.stack([run_plainly(state, image, repeats) for image in pixels])
    assert wanted.max() > 1
    np.testing.assert_allclose(found, wanted, atol=1e-4 * wanted.max())


def test_parts_of_one_photo_are_closer_than_parts_of_two(store):
    """True of trained weights only, and only if they are in their places."""
    size, spec = 96, get_base("efficientnet-lite0")
    network = prepare(spec, size, find_weights(spec), store)
    boxes = [(0, 0, 320, 320), (160, 100, 480, 420)]
    parts = [
        np.asarray(Image.fromarray(photo).crop(box).resize((size, size), Image.Resampling.BOX))
        for photo in load_sample_images().images
        for box in boxes
    ]
    engine = OpenVINOEngine(network.openvino_path, size, Precision.F32)
    vectors = engine.run_all(np.stack(parts))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = vectors @ vectors.T
    same = np.kron(np.eye(2), np.ones((2, 2))).astype(bool)
    assert likeness[same].min() > likeness[~same].max() + 0.2
