"""Quantizes the convolutions of a network to int8 with NNCF; runs in a child process.

Ranges of the values between layers are fitted to training images. From the pooling on, everything
stays in floating point: that is little work, and no later layer could compensate an error there.

`python -m topwork.bases.quantizing` answers one request of `child_process`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from topwork.core.child_process import receive, reply, watch_parent
from topwork.core.runtime import import_openvino

POOLING = ("ReduceMean", "GlobalAveragePool")
# Batch size while ranges are measured: twice as fast as single images.
WATCHED = 8


def quantize(
    model: Any,
    kept: list[str],
    count: int,
    take: Callable[[int], Any],
    *,
    per_channel: bool | None = None,
    thorough: bool = True,
) -> Any:
    """Returns a model in int8.

    Args:
        model: of OpenVINO or ONNX.
        kept: names of the nodes that stay in floating point.
        count: how many batches to fit the ranges to.
        take: returns one of them, for the model's inputs.
        per_channel: whether each channel has its own range; None to let NNCF choose.
        thorough: fit ranges to whole distributions instead of their ends, and correct what
            rounding does to the means: takes five times as long.
    """
    nncf = import_nncf()
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        QuantizationParameters,
    )
    from nncf.quantization.range_estimator import (
        RangeEstimatorParameters,
        RangeEstimatorParametersSet,
    )

    # A few outliers would widen the range that all others share.
    ranges = RangeEstimatorParametersSet.HISTOGRAM if thorough else RangeEstimatorParameters()
    return nncf.quantize(
        model,
        nncf.Dataset(range(count), take),
        subset_size=count,
        # Not all layers end in ReLU: the sums of residual blocks lie on both sides of 0.
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            disable_bias_correction=not thorough,
            activations_range_estimator_params=ranges,
            activations_quantization_params=QuantizationParameters(per_channel=per_channel),
        ),
    )


def find_head(graph: dict[str, tuple[str, list[str]]], ends: list[str]) -> list[str]:
    """Returns the nodes from the ends of a graph back to the pooling, and that too.

    Args:
        graph: for the name of each node its kind, and the names of those that it reads.
        ends: names of the last nodes.
    """
    found: set[str] = set()
    waiting = list(ends)
    while waiting:
        name = waiting.pop()
        kind, inputs = graph[name]
        if name not in found:
            found.add(name)
            waiting.extend(inputs if kind not in POOLING else [])
    return sorted(found)


def find_openvino_head(model: Any) -> list[str]:
    """Returns the names of the nodes of an OpenVINO model from its pooling on."""
    graph = {
        node.get_friendly_name(): (
            node.get_type_name(),
            [value.get_node().get_friendly_name() for value in node.input_values()],
        )
        for node in model.get_ordered_ops()
    }
    return find_head(graph, [node.get_friendly_name() for node in model.get_results()])


def round_pixels(model: Any) -> None:
    """Makes a model round its inputs to whole pixels in 0..255, as bytes are.

    The steps of its first layer's range are not those of pixels. OpenVINO leaves out its rounding
    to them for inputs of bytes, but not for the same pixels as floats.

    Args:
        model: an `openvino.Model` with inputs of float32 RGB in 0..255.
    """
    ops = import_openvino().opset13
    for port in model.inputs:
        readers = port.get_target_inputs()
        whole = ops.round(ops.clamp(port, 0.0, 255.0), "half_to_even")
        pixels = ops.convert(ops.convert(whole, "u8"), "f32")
        for reader in readers:
            reader.replace_source_output(pixels.output(0))
    model.validate_nodes_and_infer_types()


def fuse(model: Any) -> None:
    """Folds each normalization into the convolution before it, as the runtime does.

    Weights and ranges must be those that are computed with afterwards.
    """
    import_openvino()
    # There is no public function for it: OpenVINO's own converter imports this one too.
    from openvino._offline_transformations import apply_moc_transformations

    apply_moc_transformations(model, cf=True)


def import_nncf() -> Any:
    """Imports NNCF without the telemetry that it shares with OpenVINO; see `runtime`."""
    import_openvino()
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import nncf

    return nncf


def quantize_network(source: Path, pixels: Path, target: Path) -> None:
    """Writes a network in int8.

    Args:
        source: OpenVINO IR with an input (N, S, S, 3) of float32 RGB in 0..255.
        pixels: NumPy file with (N, S, S, 3) uint8, to fit the ranges to.
        target: ends in `.xml`.
    """
    openvino = import_openvino()
    images = np.load(pixels)
    model = openvino.Core().read_model(source)
    fuse(model)
    model.reshape([-1, *images.shape[1:]])
    # One range for all channels: as good, and what the processor's kernels are made for.
    quantized = quantize(
        model,
        find_openvino_head(model),
        -(-len(images) // WATCHED),
        lambda batch: images[batch * WATCHED : (batch + 1) * WATCHED].astype(np.float32),
        per_channel=False,
        thorough=False,
    )
    round_pixels(quantized)
    openvino.save_model(quantized, target, compress_to_fp16=False)


def main() -> None:
    """Answers one request, or ends with a traceback, whose last line the parent shows."""
    watch_parent()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    content, _ = receive()
    quantize_network(*(Path(content["request"][name]) for name in ("source", "pixels", "target")))
    reply(content, {"result": {}})


if __name__ == "__main__":
    main()
