"""Stock Keras in a process of its own: a reference, and the builder of many bases in a row.

Reads a job a line from stdin, `[task, arguments]` as JSON, and answers each with a line.
"""

import contextlib
import functools
import inspect
import json
import os
import sys
import traceback
from pathlib import Path

import h5py
import keras
import numpy as np
from keras.src.applications import imagenet_utils
from keras.src.legacy.saving import legacy_h5_format
from keras.src.utils import file_utils

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def reference(application, size, folder, gain):
    """Publishes weights as Keras does, and runs the application over `pixels.npy` with them."""
    folder = Path(folder)
    make = getattr(keras.applications, application)
    # Where an application asks for neither, its published weights are of 224 pixels.
    facts = {"own_size": 224}

    def obtain(*args, **kwargs):
        facts.update(own_size=kwargs["default_size"])
        return original(*args, **kwargs)

    def get_file(name, *_, **__):
        facts["file"] = name
        return str(folder / "weights.h5")

    def load_weights(network, path, *args, **kwargs):
        # Published at the moment that Keras reads them: the network is there, and built once.
        publish(network, folder, gain)
        return load(network, path, *args, **kwargs)

    original, load = imagenet_utils.obtain_input_shape, keras.Model.load_weights
    imagenet_utils.obtain_input_shape, file_utils.get_file = obtain, get_file
    keras.Model.load_weights = load_weights
    try:
        network = build_smallest(make)
        facts["smallest"] = network.input_shape[1]
        if size != facts["smallest"]:
            network = make(weights="imagenet", include_top=False, input_shape=(size, size, 3))
    finally:
        imagenet_utils.obtain_input_shape, keras.Model.load_weights = original, load
    module = sys.modules[inspect.unwrap(make).__module__]
    pixels = np.load(folder / "pixels.npy").astype(np.float32)
    features = network.predict(module.preprocess_input(pixels), verbose=0)
    np.save(folder / "reference.npy", features.mean((1, 2)))
    return {
        **facts,
        "feature_shape": features.shape[1:],
        "parameters": network.count_params(),
    }


def build_smallest(make):
    """Returns the smallest network that Keras does not refuse, of those near a known bound."""
    for size in (31, 32, 70, 71, 74, 75):
        with contextlib.suppress(ValueError):
            return make(weights="imagenet", include_top=False, input_shape=(size, size, 3))
    return None


def publish(network, folder, gain):
    """Writes random weights that show every array, in the layout of the published files."""
    random = np.random.default_rng(0)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.set_weights([np.array(MEAN), np.array(DEVIATION) ** 2, np.array(1)])
            continue
        for weight in layer.weights:
            name, shape = weight.path.rsplit("/")[-1], tuple(weight.shape)
            if name in ("gamma", "moving_variance"):
                values = random.uniform(0.5, 1.5, shape)
            elif "kernel" in name:
                deep = name == "depthwise_kernel" or isinstance(layer, keras.layers.DepthwiseConv2D)
                fan_in = np.prod(shape[:2] if deep else shape[:-1])
                values = random.normal(0, np.sqrt(gain / fan_in), shape)
            else:
                values = random.normal(0, 0.1, shape)
            weight.assign(values.astype(np.float32))
    with h5py.File(folder / "weights.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)


class Told(keras.Model):
    """Runs a network as `fit` would: told to train."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def call(self, pixels):
        return self.network(pixels, training=True)


def reload(path, pixels, output):
    """Opens a `.keras` file in safe mode and runs it, told to train and not to.

    Pixels are an array for the only input, or an archive of one for the name of each.
    """
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    pixels = np.load(pixels)
    if isinstance(pixels, np.ndarray):
        pixels = pixels.astype(np.float32)
    else:
        pixels = {name: array.astype(np.float32) for name, array in pixels.items()}
    before = [np.array(weight) for weight in model.get_weights()]
    np.save(output, [net.predict(pixels, verbose=0) for net in (model, Told(model))])
    same = all(map(np.array_equal, before, model.get_weights()))
    return {"trainable": [weight.path for weight in model.trainable_weights], "same": same}


def make_pixels():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8).astype(np.float32)


def write_files(folder):
    """Writes a MobileNetV3Small in every layout."""
    folder = Path(folder)
    pixels = make_pixels()
    apps = keras.applications
    whole = apps.MobileNetV3Small(weights=None, input_shape=(32, 32, 3))
    publish(whole, folder, 2)
    (folder / "weights.h5").rename(folder / "top.h5")
    keras.utils.clear_session()
    base = apps.MobileNetV3Small(weights=None, include_top=False, input_shape=(32, 32, 3))
    copy(whole, base)
    with h5py.File(folder / "notop.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, base)
    for name, model in (("notop", base), ("top", whole)):
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"{name}.weights.h5")
    whole.save(folder / "model.h5")
    np.save(folder / "vectors.npy", base.predict(pixels, verbose=0).mean((1, 2)))
    return {}


def write_efficientnets(folder):
    """Writes an EfficientNetB0 in two versions: one's own, and as Keras publishes it."""
    folder = Path(folder)
    pixels = make_pixels()
    apps = keras.applications
    own = apps.EfficientNetB0(weights=None, include_top=False, input_shape=(32, 32, 3))
    publish(own, folder, 2)
    file_utils.get_file = lambda *_, **__: str(folder / "weights.h5")
    # Its layers' names count up from those of the one before.
    published = apps.EfficientNetB0(include_top=False, input_shape=(32, 32, 3))
    own.save(folder / "own.keras")
    published.save(folder / "published.keras")
    vectors = [net.predict(pixels, verbose=0).mean((1, 2)) for net in (own, published)]
    np.save(folder / "efficientnet.npy", vectors)
    return {}


def copy(whole, base):
    arrays = whole.get_weights()
    base.set_weights(arrays[: len(base.weights)])


def as_child(name):
    """Returns a task of Topwork's child process, which imports Keras as this one does."""

    def task(**request):
        from topwork.bases import child

        return child.TASKS[name](request)

    return task


def main():
    if keras.config.backend() == "openvino":
        import openvino

        # Left to itself OpenVINO takes bf16 where the CPU has it.
        hints = {"INFERENCE_PRECISION_HINT": "f32"}
        openvino.compile_model = functools.partial(openvino.compile_model, config=hints)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    tasks = {
        **{task.__name__: task for task in (reference, reload, write_files, write_efficientnets)},
        **{name: as_child(name) for name in ("build", "compose", "reopen")},
    }
    for line in sys.stdin:
        task, request = json.loads(line)
        try:
            answer = {"result": tasks[task](**request)}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)}
            traceback.print_exc()
        print(json.dumps(answer), file=answers, flush=True)
        keras.utils.clear_session()


if __name__ == "__main__":
    main()
