"""In the child process: a `.keras` file through TensorFlow to SavedModel, LiteRT and ONNX."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from topwork.core.files import open_beside
from topwork.models.export.batches import Arrays, run_batches
from topwork.models.export.facts import KEY

# What LiteRT calls the pooling and the dense layers.
_KEPT = ("MEAN", "FULLY_CONNECTED")
SIGNATURE = "serving_default"
# The first with all that networks of today need, so that old runtimes open the file too.
OPSET = 17


def write_saved_model(keras_file: str, path: str, pixels: str, facts: str) -> None:
    """Writes a TensorFlow SavedModel.

    Args:
        keras_file: of the model.
        path: the folder.
        pixels: type of the input.
        facts: JSON, goes to `assets.extra/topwork.json`.
    """
    import tensorflow as tf

    model, serve = _open(keras_file, pixels)
    module = tf.Module()
    # What is not reachable from the module is not saved.
    module.model, module.serve = model, serve
    tf.saved_model.save(module, path, signatures={SIGNATURE: serve})
    extra = Path(path) / "assets.extra"
    extra.mkdir()
    (extra / f"{KEY}.json").write_text(facts, encoding="utf-8")


def write_litert(
    keras_file: str, path: str, pixels: str, facts: str, numbers: str, **images: NDArray[Any]
) -> None:
    """Writes a LiteRT file.

    Args:
        keras_file: of the model.
        path: ends in `.tflite`.
        pixels: type of the input.
        facts: JSON, goes to `topwork.json` in the zip archive at the file's end.
        numbers: `f32`; `f16` for weights of half the size; `int8`.
        images: for int8 (N, S, S, 3) uint8 by the name of the input, to fit the ranges to.
    """
    import tensorflow as tf

    _, serve = _open(keras_file, pixels)
    with open_beside(Path(path)) as scratch:
        _save_frozen(serve, str(scratch))
        converter = tf.lite.TFLiteConverter.from_saved_model(str(scratch))
        if numbers != "f32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if numbers == "f16":
            converter.target_spec.supported_types = [tf.float16]
        whole = _quantize(converter, images, pixels) if numbers == "int8" else converter.convert()
        Path(path).write_bytes(whole)
    # As LiteRT's own metadata tools do: a file that belongs to the model is appended as a zip.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{KEY}.json", facts)


def _quantize(converter: Any, images: dict[str, NDArray[Any]], pixels: str) -> bytes:
    """Returns a LiteRT model whose convolutions compute with bytes.

    From the pooling on all stays in float32, as with NNCF: that is little work, and what is lost
    there no later layer makes good.
    """
    import tensorflow as tf

    sets = tf.lite.OpsSet
    converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS_INT8, sets.TFLITE_BUILTINS]
    converter.representative_dataset = lambda: _each(images, pixels)
    # The converter itself has no way to leave layers out.
    tools = tf.lite.experimental
    debugger = tools.QuantizationDebugger(
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=tools.QuantizationDebugOptions(denylisted_ops=list(_KEPT)),
    )
    return bytes(debugger.get_nondebug_quantized_model())


def write_onnx(keras_file: str, path: str, pixels: str, facts: str, numbers: str) -> None:
    """Writes an ONNX file.

    Args:
        keras_file: of the model.
        path: ends in `.onnx`.
        pixels: type of the input.
        facts: JSON, goes to the metadata `topwork`.
        numbers: `f32`, or `f16` for weights of half the size.
    """
    import tf2onnx

    from topwork.models.export.onnx_files import save_onnx, shrink_weights

    _, serve = _open(keras_file, pixels)
    model, _ = tf2onnx.convert.from_function(
        serve, input_signature=serve.input_signature, opset=OPSET
    )
    if numbers == "f16":
        shrink_weights(model)
    save_onnx(model, path, facts)


def run_saved_model(path: str, pixels: str, **inputs: NDArray[Any]) -> Arrays:
    """Runs a SavedModel in TensorFlow; see `batches.run_batches`."""
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    serve = loaded.signatures[SIGNATURE]

    def run(batch: Arrays) -> Any:
        return serve(**{name: tf.constant(array) for name, array in batch.items()})["logits"]

    return run_batches(run, inputs, pixels)


def _open(keras_file: str, pixels: str) -> tuple[Any, Any]:
    """Returns the Keras model, and a function from pixels of a type to its logits."""
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(keras_file, compile=False, safe_mode=True)
    inputs = model.input if isinstance(model.input, dict) else {"image": model.input}
    specs = [
        tf.TensorSpec(tensor.shape, tf.as_dtype(pixels), name=name)
        for name, tensor in inputs.items()
    ]

    def serve(*images: Any) -> Any:
        floats = [tf.cast(image, tf.float32) for image in images]
        given = dict(zip(inputs, floats, strict=True)) if len(floats) > 1 else floats[0]
        return {"logits": model(given, training=False)}

    return model, tf.function(serve, input_signature=specs)


def _save_frozen(serve: Any, folder: str) -> None:
    """Writes a SavedModel with constants in place of variables.

    LiteRT's converter does not find the values of Keras' variables by itself.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    frozen = convert_variables_to_constants_v2(serve.get_concrete_function())

    def run(*images: Any) -> Any:
        found = frozen(*images)
        return {"logits": found[0] if isinstance(found, list | tuple) else found}

    module = tf.Module()
    module.run = tf.function(run, input_signature=serve.input_signature)
    tf.saved_model.save(module, folder, signatures=module.run.get_concrete_function())


def _each(images: Arrays, pixels: str) -> Iterator[dict[str, NDArray[Any]]]:
    for row in range(len(next(iter(images.values())))):
        yield {name: array[row : row + 1].astype(pixels) for name, array in images.items()}
