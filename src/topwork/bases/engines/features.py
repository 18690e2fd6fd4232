"""A network cut off before its pooling: the features at each position of an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.bases import flip_network
from topwork.bases.engines.compiled import Compiled, open_core
from topwork.bases.engines.network_cache import NetworkCache, compile_cached
from topwork.bases.engines.openvino import mapped_errors, prune
from topwork.core.config import Precision
from topwork.core.runtime import import_openvino

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

# Says of an output in which order its axes are, also after the network was kept.
_CHANNELS_FIRST = "channels_first"


def open_features(
    path: Path,
    image_size: int,
    precision: Precision,
    *,
    output: str | None,
    flip: bool,
    cache: NetworkCache | None = None,
) -> Callable[[Pixels], Floats]:
    """Compiles a network up to the features that its vectors are the mean of.

    Args:
        path: OpenVINO IR with inputs (N, S, S, 3) of float32 RGB in 0..255.
        image_size: S, the side of its input in pixels.
        precision: `bf16`, `f32`, or `int8` for a file in int8.
        output: name of the output with its vectors, or None for the first.
        flip: whether to take the mean over an image and its mirror, if the file does not do so.
        cache: keeps it for the next process; None to compile it anew.

    Returns:
        A function, for any thread, from pixels (S, S, 3) uint8 to features (s, s, D) float32.
        Where a vector is a mean over image and mirror so are they, the mirror turned back.

    Raises:
        NetworkError: the file is missing or damaged, or has no pooling.
    """
    openvino = import_openvino()

    def make(core: Any) -> Any:
        model = prune(core.read_model(path), output)
        if flip:
            flip_network(model)
        pooling = _find_pooling(model)
        features = pooling.input_value(0)
        axes = pooling.input_value(1).get_node().get_data()
        model = openvino.Model([openvino.opset13.result(features)], model.get_parameters())
        edit = openvino.preprocess.PrePostProcessor(model)
        edit.input().tensor().set_element_type(openvino.Type.u8)
        edit.output().tensor().set_element_type(openvino.Type.f32)
        model = edit.build()
        model.reshape([1, image_size, image_size, 3])
        if sorted(int(axis) % 4 for axis in axes) == [2, 3]:
            model.output(0).set_names({_CHANNELS_FIRST})
        return model

    def compile() -> Any:
        core, hints = open_core(), {"PERFORMANCE_HINT": "LATENCY"}
        asked = "features", output, flip, image_size
        with mapped_errors(path):
            return compile_cached(core, path, precision, hints, asked, lambda: make(core), cache)

    compiled = Compiled(compile)

    def run(pixels: Pixels) -> Floats:
        request = compiled.open_request()
        request.infer({0: pixels[None]})
        found = request.get_output_tensor(0).data
        if _CHANNELS_FIRST in compiled.get().output(0).get_names():
            found = found.transpose(0, 2, 3, 1)
        if len(found) == 2:
            return np.asarray((found[0] + found[1, :, ::-1]) / 2, np.float32)
        return np.array(found[0], np.float32)

    return run


def _find_pooling(model: Any) -> Any:
    """Returns the last mean over height and width."""
    for node in reversed(model.get_ordered_ops()):
        if node.get_type_name() == "ReduceMean":
            shape = node.input_value(0).get_partial_shape()
            axes = np.atleast_1d(node.input_value(1).get_node().get_data())
            if shape.rank.get_length() == 4 and len(axes) == 2:
                return node
    raise RuntimeError("it has no global average pooling")
