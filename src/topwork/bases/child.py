# ruff: noqa: E402
"""Builds networks with Keras, on its OpenVINO backend; runs in a child process.

In: one request, a task with its arguments. Out: files in a folder, and an answer in JSON.
`python -m topwork.bases.child` answers one request of `child_process`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from topwork.core.child_process import receive, reply, watch_parent
from topwork.core.runtime import hide, import_openvino

if __name__ == "__main__":
    watch_parent()
    hide("jax", "matplotlib", "pandas", "sklearn", "tensorflow", "torch")
import_openvino()  # before Keras does

import keras
import numpy as np
from keras import layers

from topwork.bases.graph import mend_graph
from topwork.bases.lite import build_lite, set_lite_weights
from topwork.bases.spec import BaseSpec, Preprocessing, get_base
from topwork.bases.torch_state import read_torch_state
from topwork.core.errors import NetworkError, StoreError, WeightsError, first_line

Task = Callable[[dict[str, Any]], dict[str, Any]]

DOWNLOAD_TIMEOUT_S = 30
# How many copies of the weights, in float32, lie on the disk while a base is built.
COPIES = 3.2
# Instead of the date, so that the same network gives the same file; in Keras' format.
SAVED = "1980-01-01@00:00:00"
# Per channel, RGB. Source: ImageNet's statistics as in `keras.applications.imagenet_utils`.
MEAN_RGB = (0.485, 0.456, 0.406)
DEVIATION_RGB = (0.229, 0.224, 0.225)
MEAN_BGR_255 = (103.939, 116.779, 123.68)


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Builds a base with preprocessing and pooling and writes its files into a folder.

    Args:
        request: `name`, `image_size`, `weights` (path or null), `seed` (or null), `folder`.

    Returns:
        `feature_shape`, `vector_length` and `parameters`.
    """
    folder, size = Path(request["folder"]), request["image_size"]
    spec, base = make_base(request)
    _check_room(folder, base.count_params())
    image = keras.Input((size, size, 3), name="image")
    vectors = join_layers(spec, base, pooling="vectors")(image)
    keras.Model(image, vectors).export(
        str(folder / "network.xml"), format="openvino", verbose=False
    )
    mend_graph(folder / "network.xml")
    _write_template(image, vectors, folder)
    return {
        "feature_shape": list(base.output_shape[1:]),
        "vector_length": vectors.shape[1],
        "parameters": base.count_params(),
    }


def compose(request: dict[str, Any]) -> dict[str, Any]:
    """Puts bases side by side and writes the parts of a `.keras` file into a folder.

    Args:
        request: `parts`, each as `build` takes it but for the folder; `inputs`, sizes by name;
            `flip`, whether to average the vectors of an image and of its mirror; `folder`.
    """
    folder, parts = Path(request["folder"]), request["parts"]
    bases = [make_base(part) for part in parts]
    _check_room(folder, sum(base.count_params() for _, base in bases))
    names = {size: name for name, size in request["inputs"].items()}
    images = {size: keras.Input((size, size, 3), name=name) for size, name in names.items()}
    mirrored = {}
    if request["flip"]:
        mirrored = {size: mirror(image, f"mirror_{names[size]}") for size, image in images.items()}
    vectors = []
    for number, (spec, base) in enumerate(bases, 1):
        end, size = f"_{number}" if len(parts) > 1 else "", base.input_shape[1]
        base.name += end
        pooling = f"pooling{end}" if mirrored else f"vectors{end}"
        run = join_layers(spec, base, pooling=pooling, end=end)
        found = run(images[size])
        if mirrored:
            found = layers.Average(name=f"vectors{end}")([found, run(mirrored[size])])
        vectors.append(found)
    whole = layers.Concatenate(name="vectors")(vectors) if len(parts) > 1 else vectors[0]
    # A dict, because a model that Keras exports as OpenVINO does not match a list to its inputs.
    several = {image.name: image for image in images.values()}
    _write_template(several if len(several) > 1 else images[size], whole, folder)
    return {}


def make_base(part: dict[str, Any]) -> tuple[BaseSpec, keras.Model]:
    """Returns a base, filled and frozen: `name`, `image_size`, `weights`, `seed`."""
    spec = get_base(part["name"])
    if part["weights"] is None:
        keras.utils.set_random_seed(part["seed"])
    base = build_base(spec, part["image_size"], top=False)
    if part["weights"] is not None:
        load_weights(base, spec, Path(part["weights"]))
    freeze(base)
    return spec, base


def join_layers(
    spec: BaseSpec, base: keras.Model, *, pooling: str, end: str = ""
) -> Callable[[Any], Any]:
    """Returns a function from pixels (N, S, S, 3) to vectors (N, D), as Keras tensors.

    It may be called more than once; the layers are the same each time.

    Args:
        spec: of the base.
        base: the base.
        pooling: name of the last layer.
        end: suffix of the first layer's name.
    """
    scaling = make_preprocessing(spec.preprocessing, f"preprocess{end}")
    pool = layers.GlobalAveragePooling2D(name=pooling)

    def run(image: Any) -> Any:
        return pool(base(image if scaling is None else scaling(image), training=False))

    return run


def mirror(image: Any, name: str) -> Any:
    """Swaps left and right by a product with a matrix, which is exact for whole numbers.

    Unlike an operation on slices, a layer can be saved and reloaded, and runs on every backend.
    """
    size = image.shape[2]
    turn = layers.EinsumDense("bhwc,wv->bhvc", image.shape[1:], trainable=False, name=name)
    turned = turn(image)
    turn.set_weights([np.eye(size, dtype=np.float32)[::-1]])
    return turned


def _write_template(images: Any, vectors: Any, folder: Path) -> None:
    """Writes the parts of a `.keras` file with a head of one output, all zeros.

    The same network gives the same bytes, whenever and wherever it is built.
    """
    head = layers.Dense(1, name="head")
    whole = keras.Model(images, head(vectors), name="topwork")
    head.set_weights([np.zeros_like(array) for array in head.get_weights()])
    whole.save(folder / "network.keras")
    with zipfile.ZipFile(folder / "network.keras") as archive:
        archive.extractall(folder)
    (folder / "network.keras").unlink()
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    dated = json.dumps(metadata | {"date_saved": SAVED})
    (folder / "metadata.json").write_text(dated, encoding="utf-8")
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(_number_objects(config), encoding="utf-8")


def _number_objects(config: str) -> str:
    """Returns a configuration in which objects that layers share are numbered from 1.

    Keras numbers them by their addresses in memory, which differ from run to run.
    """
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return f"{found[1]}{numbers.setdefault(found[2], len(numbers) + 1)}"

    return re.sub(r'("shared_object_id": )(\d+)', number, config)


def _check_room(folder: Path, parameters: int) -> None:
    """Raises if the disk is too small: the errors of OpenVINO and HDF5 would not say why."""
    needed, free = parameters * 4 * COPIES, shutil.disk_usage(folder).free
    if free < needed:
        raise StoreError(
            f"the base needs {needed / 1e6:.0f} MB in the store {folder.parent}, and "
            f"{free / 1e6:.0f} MB are free; make room or choose another place with --store"
        )


def reopen(request: dict[str, Any]) -> dict[str, Any]:
    """Opens a `.keras` file as any user would and writes it as OpenVINO IR.

    Args:
        request: `path` of the file, `output`, the path of the `.xml` to write.
    """
    model = keras.saving.load_model(request["path"], compile=False, safe_mode=True)
    model.export(request["output"], format="openvino", verbose=False)
    return {}


def download(request: dict[str, Any]) -> dict[str, Any]:
    """Lets Keras download the weights of an application into its cache."""
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        getattr(keras.applications, request["application"])(weights="imagenet", include_top=False)
    except Exception as error:
        raise NetworkError(str(error).strip().splitlines()[-1]) from error
    return {}


def build_base(spec: BaseSpec, image_size: int, *, top: bool) -> keras.Model:
    """Returns the network with fresh weights, features (N, s, s, D) as its output without top."""
    if spec.application is None:
        return build_lite(spec.name, image_size)
    # Names of layers count up within a process; weights are matched by name.
    keras.utils.clear_session()
    make = getattr(keras.applications, spec.application)
    size = spec.image_size if top else image_size
    return make(weights=None, include_top=top, input_shape=(size, size, 3))


def freeze(base: keras.Model) -> None:
    """Makes a base the same function in training and in inference.

    Keras passes `training=True` on to the base of a reopened file, whatever it was called with
    here: a frozen normalization keeps its statistics nevertheless, but dropout would be active.
    """
    base.trainable = False
    for layer in base.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0


def make_preprocessing(kind: Preprocessing, name: str) -> Any:
    """Returns the layer from RGB in 0..255 to what the base was trained on; None if it has one."""
    match kind:
        case Preprocessing.TF:
            return layers.Rescaling(1 / 127.5, -1.0, name=name)
        case Preprocessing.LITE:
            return layers.Rescaling(1 / 128, -127 / 128, name=name)
        case Preprocessing.TORCH:
            scale = [1 / (255 * d) for d in DEVIATION_RGB]
            offset = [-m / d for m, d in zip(MEAN_RGB, DEVIATION_RGB, strict=True)]
            return layers.Rescaling(scale, offset, name=name)
        case Preprocessing.CAFFE:
            # A 1 x 1 convolution that reverses RGB: unlike an operation on slices, it can be
            # saved and reloaded, and runs on every backend.
            turn = layers.Conv2D(3, 1, trainable=False, name=name)
            turn.build((None, None, None, 3))
            kernel = np.array([[[[0, 0, 1], [0, 1, 0], [1, 0, 0]]]], np.float32)
            turn.set_weights([kernel, -np.array(MEAN_BGR_255, np.float32)])
            return turn
        case Preprocessing.INSIDE:
            return None


def load_weights(base: keras.Model, spec: BaseSpec, path: Path) -> None:
    """Loads a file of weights, with or without the top, into a base.

    Raises:
        WeightsError: the file is damaged, or is of another network.
    """
    if spec.application is None:
        state = read_torch_state(path)
        try:
            set_lite_weights(base, state)
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"{path} does not hold the weights of {spec.name}: {error}"
            ) from None
        return
    corrected = spec.family == "EfficientNet"
    try:
        if path.suffix == ".keras":
            if not zipfile.is_zipfile(path):
                raise zipfile.BadZipFile("it is no zip archive")
            whole = keras.saving.load_model(path, compile=False, safe_mode=True)
            _copy_weights(whole, base)
            scalings = [layer for layer in whole.layers if isinstance(layer, layers.Rescaling)]
            # A complete network shows by its layers whether it is the published one.
            corrected = corrected and len(scalings) > 1
        else:
            _load_h5(base, spec, path)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{path} is not a file of Keras weights, or is damaged: {first_line(error)}"
        ) from None
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{path} does not hold the weights of {spec.name}: {first_line(error)}"
        ) from None
    if corrected:
        _correct_normalization(base)


def _load_h5(base: keras.Model, spec: BaseSpec, path: Path) -> None:
    try:
        base.load_weights(path)
    except ValueError as without_top:
        whole = build_base(spec, base.input_shape[1], top=True)
        try:
            whole.load_weights(path)
        except ValueError:
            raise without_top from None
        _copy_weights(whole, base)


def _copy_weights(whole: keras.Model, base: keras.Model) -> None:
    """Fills a base from a network that starts with it, in order, since names may differ."""
    there = [layer for layer in whole.layers if layer.weights]
    here = [layer for layer in base.layers if layer.weights]
    if len(there) < len(here):
        raise ValueError(f"it has {len(there)} layers with weights instead of {len(here)}")
    for layer, source in zip(here, there, strict=False):
        layer.set_weights(source.get_weights())


def _correct_normalization(base: keras.Model) -> None:
    """Applies the correction that Keras makes for EfficientNet's published weights.

    They were trained on pixels that were divided by the square root of the deviation once more.
    Keras adds a layer for that when it downloads them; here it goes into the variance.
    """
    layer = next(found for found in base.layers if isinstance(found, layers.Normalization))
    mean, variance, *count = layer.get_weights()
    layer.set_weights([mean, variance * np.array(DEVIATION_RGB, np.float32), *count])
    layer.finalize_state()


TASKS: dict[str, Task] = {task.__name__: task for task in (build, compose, reopen, download)}


def main() -> None:
    """Answers one request."""
    content, _ = receive()
    # A user's own Keras settings must not change what is built.
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    task = TASKS[content["task"]]
    try:
        answer: dict[str, Any] = {"result": task(content["request"])}
    except (NetworkError, StoreError, WeightsError) as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    reply(content, answer)
    # Keras' backends may take a second to shut down; the answer is written.
    os._exit(0)


if __name__ == "__main__":
    main()
