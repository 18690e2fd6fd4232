"""What runs in the child process of `keras`: a network on Keras' JAX backend.

`python -m topwork.bases.engines.keras_child` reads a request, one line of JSON, from stdin and
writes an answer, one line of JSON, to stdout. From then on each line that it reads is the number
of a slot of the ring that holds a batch, and each line that it writes the number of one whose
vectors are there. It ends when its input does, which is also when its parent is killed.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from topwork.core.child_process import receive_line, watch_parent
from topwork.core.errors import first_line
from topwork.core.runtime import hide
from topwork.core.shared_memory import Ring

# Keras' name for arithmetic in bf16 with weights and statistics in f32.
BF16_POLICY = "mixed_bfloat16"
# Name of the layer that scales pixels, if the base does not do so itself.
PREPROCESSING = "preprocess"
# How XLA's message starts when a device has too little memory.
MEMORY_SHORT = "RESOURCE_EXHAUSTED"
ZEROS = {"module": "keras.initializers", "class_name": "Zeros", "config": {}}

Run = Callable[[Any], Any]


class LoadError(Exception):
    """Keras does not open the network's files."""


def main() -> None:
    """Serves one parent, to its end."""
    watch_parent()
    hide("matplotlib", "pandas", "sklearn", "tensorflow", "torch")
    # Libraries may write to stdout: it becomes stderr, and answers get their own descriptor.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        serve(json.loads(receive_line()), answers)
    except Exception as error:
        stage = "load" if isinstance(error, LoadError) else "run"
        _write(answers, {"error": first_line(error), "stage": stage})
    # XLA may take seconds to shut down, and nobody waits for it.
    os._exit(0)


def serve(request: dict[str, Any], answers: IO[str]) -> None:
    """Opens the network that a request names, then runs a batch for each further line.

    Args:
        request: `folder`, `image_size`, `precision`, `flip`, `batch_size` and `memory`, as for
            `KerasEngine` and `Ring`; or nothing, to be told the device only.
        answers: where the answers go.
    """
    if not request:
        _write(answers, {"device": describe_devices(find_devices())})
        return
    size = request["image_size"]
    run, batch_size, length, device = open_network(request)
    ring = Ring(request["memory"], batch_size, size, length)
    _write(answers, {"device": device, "batch_size": batch_size, "vector_length": length})
    running: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    threading.Thread(target=_finish, args=(running, ring, answers), daemon=True).start()
    while True:
        slot = int(receive_line())
        # `run` returns at once: the next batch is sent while the device runs this one.
        running.put((slot, run(ring.pixels[slot])))


def _finish(running: queue.SimpleQueue[tuple[int, Any]], ring: Ring, answers: IO[str]) -> None:
    """Waits for one batch after the other, stores its vectors, and answers with its slot."""
    while True:
        slot, vectors = running.get()
        try:
            ring.vectors[slot] = np.asarray(vectors)
        except Exception as error:
            _write(answers, {"error": first_line(error), "stage": "run"})
            os._exit(0)
        answers.write(f"{slot}\n")
        answers.flush()


def find_devices() -> list[Any]:
    """Returns the devices that JAX runs on: all of this machine that are like the first."""
    import jax

    devices = jax.local_devices()
    return [device for device in devices if device.device_kind == devices[0].device_kind]


def describe_devices(devices: list[Any]) -> str:
    """Returns devices in words: `cpu`, `gpu: NVIDIA H100`, `gpu: 4 × NVIDIA H100`."""
    platform, kind = devices[0].platform, devices[0].device_kind
    count = f"{len(devices)} × " if len(devices) > 1 else ""
    return f"{platform}" if kind == platform and not count else f"{platform}: {count}{kind}"


def open_network(request: dict[str, Any]) -> tuple[Run, int, int, str]:
    """Loads a network and compiles it for all devices of this machine.

    Args:
        request: as for `serve`.

    Returns:
        A function from pixels (B, S, S, 3) uint8 to vectors (B, D) float32 on the device, which
        returns at once; B, that is `batch_size` for each device, or less where they have too
        little memory; D; and the devices in words.
    """
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    bf16 = request["precision"] == "bf16"
    if not bf16:
        # By default, accelerators multiply f32 in TF32 or bf16.
        jax.config.update("jax_default_matmul_precision", "highest")  # type: ignore[no-untyped-call]
    size, flip = request["image_size"], request["flip"]
    try:
        model = load_model(Path(request["folder"]), bf16)
    except Exception as error:
        raise LoadError(first_line(error)) from error
    if model.input.shape[1:] != (size, size, 3):
        raise ValueError(f"it takes images of {model.input.shape[1:]}, not of {(size, size, 3)}")
    length = model.output.shape[-1]

    def compute(weights: Any, pixels: Any) -> Any:
        if flip:
            # Interleaved, so that each device gets its images and their mirrors.
            pixels = jnp.stack([pixels, pixels[:, :, ::-1]], 1).reshape(-1, size, size, 3)
        images = pixels.astype(jnp.float32)
        vectors, _ = model.stateless_call(*weights, images, training=False)
        return vectors.reshape(-1, 2, length).mean(1) if flip else vectors

    devices = find_devices()
    mesh = Mesh(np.array(devices), ("device",))
    everywhere = NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]
    divided = NamedSharding(mesh, PartitionSpec("device"))  # type: ignore[no-untyped-call]
    variables = (model.trainable_variables, model.non_trainable_variables)
    weights = jax.device_put([[found.value for found in group] for group in variables], everywhere)
    program = jax.jit(compute)

    def run(pixels: Any) -> Any:
        return program(weights, jax.device_put(pixels, divided))

    def try_batch(batch_size: int) -> None:
        run(np.zeros((batch_size, size, size, 3), np.uint8)).block_until_ready()

    each = choose_batch(try_batch, request["batch_size"], len(devices))
    return run, each * len(devices), length, describe_devices(devices)


def choose_batch(try_batch: Callable[[int], None], batch_size: int, devices: int = 1) -> int:
    """Returns how many images each device takes at a time: as wanted, or as it has memory for.

    Args:
        try_batch: runs a batch of that many images on all devices together.
        batch_size: wanted for each device, at least 1.
        devices: how many there are.
    """
    while True:
        try:
            try_batch(batch_size * devices)
            return batch_size
        except Exception as error:
            if MEMORY_SHORT not in str(error) or batch_size == 1:
                raise
        batch_size //= 2


def load_model(folder: Path, bf16: bool) -> Any:
    """Returns the network from images (N, S, S, 3) float32 in 0..255 to vectors (N, D) float32.

    Args:
        folder: of a network, with the parts of a `.keras` file.
        bf16: whether to compute in bf16, from the scaled image to the pooling.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _empty(config)

    import keras

    # A user's own Keras settings must not change what is run.
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    whole = keras.saving.deserialize_keras_object(config, safe_mode=True)
    whole.load_weights(folder / "model.weights.h5")
    vectors = whole.get_layer("head").input
    if bf16:
        exact = (keras.layers.InputLayer, keras.layers.Rescaling, keras.layers.Normalization)
        ends = (PREPROCESSING, vectors._keras_history.operation.name)
        for layer in whole._flatten_layers(include_self=False):
            if layer.name not in ends and not isinstance(layer, exact):
                layer.dtype_policy = BF16_POLICY
    return keras.Model(whole.input, vectors)


def _empty(config: Any) -> None:
    """Makes all initializers zeros: JAX takes 20 s to draw weights that are then overwritten."""
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        if isinstance(value, dict) and isinstance(key, str) and key.endswith("_initializer"):
            config[key] = dict(ZEROS)
        elif isinstance(value, dict | list):
            _empty(value)


def _write(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
