"""In the child process: a `.keras` file that takes bytes."""

from __future__ import annotations

from topwork.core.runtime import import_openvino


def wrap_keras(keras_file: str, path: str) -> None:
    """Writes a `.keras` file whose inputs are uint8 in place of float32.

    Args:
        keras_file: of the model.
        path: ends in `.keras`.
    """
    import_openvino()  # before Keras does
    import keras

    model = keras.saving.load_model(keras_file, compile=False, safe_mode=True)
    given = model.input if isinstance(model.input, dict) else {"image": model.input}
    images = {
        name: keras.Input(tensor.shape[1:], dtype="uint8", name=name)
        for name, tensor in given.items()
    }
    # A scaling by one is the layer that turns bytes into floats on every backend.
    floats = {
        name: keras.layers.Rescaling(1.0, name=f"{name}_float")(image)
        for name, image in images.items()
    }
    several = len(images) > 1
    logits = model(floats if several else floats["image"])
    keras.Model(images if several else images["image"], logits, name="topwork_uint8").save(path)
