"""What holds for every base, with stock Keras as the reference.

An application's weights are random in every array: no preprocessing, statistic or bias can hide.
"""

import shutil

import numpy as np
import pytest

from topwork.bases import find_weights, list_bases, network, prepare, write_keras_file
from topwork.bases.engines import OpenVINOEngine, open_features
from topwork.bases.spec import Preprocessing
from topwork.core.config import Precision

pytestmark = pytest.mark.system

SMALLEST = {}
for _spec in list_bases():
    SMALLEST.setdefault(_spec.family, _spec)
SMALLEST["MobileNetV3"] = next(spec for spec in list_bases() if spec.name == "mobilenetv3small")
# Variance of an array's values times its inputs. With 2 deep networks of swish turn rounding
# into chaos: stock Keras in f32 and in f64 then differ as much.
GAINS = {
    **dict.fromkeys([f"efficientnetb{n}" for n in (3, 4, 5, 6)], 1.6),
    "efficientnetb7": 1.5,
    **dict.fromkeys([f"efficientnetv2b{n}" for n in range(4)], 1.4),
    **dict.fromkeys([f"efficientnetv2{size}" for size in "sml"], 1.1),
}
# Relative to the largest value.
TOLERANCE = 1e-4


def make_pixels(size):
    """Three images (3, S, S, 3) of noise: bright, dark, and with little red."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    pixels[1] //= 2
    pixels[2, ..., 0] //= 8
    return pixels


def close(found, wanted):
    return np.abs(found - wanted).max() < TOLERANCE * np.abs(wanted).max()


def check_base(spec, folder, worker, size=None):
    """Compares a base with the application of stock Keras; returns the built network."""
    size = size or spec.min_size
    pixels = make_pixels(size)
    np.save(folder / "pixels.npy", pixels)
    if spec.application is None:
        base = prepare(spec, size, find_weights(spec), folder)
    else:
        facts = worker.ask(
            "reference",
            {
                "application": spec.application,
                "size": size,
                "folder": str(folder),
                "gain": GAINS.get(spec.name, 2),
            },
        )
        base = prepare(spec, size, find_weights(spec, str(folder / "weights.h5")), folder)
        assert facts["file"] == spec.weights_file
        assert facts["own_size"] == spec.image_size
        assert facts["smallest"] == spec.min_size
        assert list(base.feature_shape) == facts["feature_shape"]
        assert base.parameters == facts["parameters"]
    assert base.vector_length == spec.vector_length == base.feature_shape[2]

    # A batch of two, and one that is not full.
    engine = OpenVINOEngine(base.openvino_path, size, Precision.F32, batch_size=2, streams=1)
    vectors = engine.run_all(pixels)
    assert vectors.shape == (3, spec.vector_length)
    assert vectors.std(axis=0).max() > 10 * TOLERANCE * np.abs(vectors).max()
    if spec.application is not None:
        assert close(vectors, np.load(folder / "reference.npy"))
    check_features(base, pixels, vectors)
    return base, vectors


def check_features(base, pixels, vectors):
    """A vector is the mean of the features over all places."""
    see = open_features(base.openvino_path, base.image_size, Precision.F32, output=None, flip=False)
    features = np.stack([see(image) for image in pixels])
    assert features.shape[1:] == base.feature_shape
    assert close(features.mean(axis=(1, 2)), vectors)


def check_one_by_one(base, vectors, folder):
    engine = OpenVINOEngine(base.openvino_path, base.image_size, Precision.F32, batch_size=1)
    pixels = np.load(folder / "pixels.npy")
    assert close(np.concatenate([engine.run_all(image[None]) for image in pixels]), vectors)


def check_file(base, vectors, folder, worker):
    """Reopens the base's `.keras` file in stock Keras, which then trains its head only."""
    random = np.random.default_rng(1)
    kernel = random.normal(0, 1 / np.abs(vectors).max(), (base.vector_length, 4))
    bias = random.normal(0, 1, 4).astype(np.float32)
    path = folder / "whole.keras"
    write_keras_file(base.folder, [(kernel.astype(np.float32), bias)], path)
    files = {"pixels": folder / "pixels.npy", "output": folder / "logits.npy", "path": path}
    facts = worker.ask("reload", {name: str(file) for name, file in files.items()})
    assert facts == {"trainable": ["head/kernel", "head/bias"], "same": True}
    wanted = vectors @ kernel + bias
    for logits in np.load(folder / "logits.npy"):
        assert close(logits, wanted)


# The deepest ones take ten seconds each, and are slow tests.
DEEP = {"nasnetmobile", "convnexttiny", "efficientnetb0", "densenet121", "efficientnetv2b0"}


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, id=spec.name, marks=[pytest.mark.slow] if spec.name in DEEP else [])
        for spec in SMALLEST.values()
    ],
)
def test_each_family_agrees_with_stock_keras(spec, tmp_path, workers, monkeypatch):
    worker = workers("openvino")
    monkeypatch.setattr(network, "ask_keras", worker.ask)
    base, vectors = check_base(spec, tmp_path, worker)
    # Of what scales pixels in a layer of its own, and of what has dropout.
    if spec.name in ("efficientnet-lite0", "vgg16", "efficientnetb0"):
        check_one_by_one(base, vectors, tmp_path)
        check_file(base, vectors, tmp_path, worker)
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("spec", list_bases(), ids=lambda spec: spec.name)
def test_each_base_agrees_with_stock_keras(spec, tmp_path, workers):
    # JAX shares nothing with OpenVINO, but takes minutes to compile the large ones.
    worker = workers("jax" if spec in SMALLEST.values() else "openvino")
    base, vectors = check_base(spec, tmp_path, worker)
    check_one_by_one(base, vectors, tmp_path)
    check_file(base, vectors, tmp_path, worker)
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(Preprocessing))
def test_at_another_size_each_preprocessing_agrees_with_stock_keras(kind, tmp_path, workers):
    spec = next(spec for spec in SMALLEST.values() if spec.preprocessing is kind)
    check_base(spec, tmp_path, workers("openvino"), size=spec.min_size + 65)
