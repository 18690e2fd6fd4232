"""In the child process: NNCF makes the convolutions of a network compute with bytes.

Ranges of the values between layers are fitted to training images. From the pooling on all stays
in f32: that is little work, and what is lost there no later layer makes good.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from topwork.export.formats import Input
from topwork.runtime import import_openvino

POOLING = ("ReduceMean", "GlobalAveragePool")


def quantize_openvino(
    source: str, path: str, pixels: str, facts: str, **images: NDArray[Any]
) -> None:
    """Writes an OpenVINO file in int8.

    Args:
        source: `model.xml` of a saved model.
        path: ends in `.xml`.
        pixels: type of the input.
        facts: JSON, goes to the runtime information.
        images: (N, S, S, 3) uint8 by the name of the input, to fit the ranges to.
    """
    nncf = _import_nncf()
    from topwork.export.openvino_file import fuse, open_logits, save_openvino

    model = open_logits(Path(source), Input(pixels))
    fuse(model)
    graph = {
        node.get_friendly_name(): (
            node.get_type_name(),
            [value.get_node().get_friendly_name() for value in node.input_values()],
        )
        for node in model.get_ordered_ops()
    }
    names = _find_head(graph, [node.get_friendly_name() for node in model.get_results()])
    save_openvino(_quantize(nncf, model, names, images, pixels), Path(path), facts)


def quantize_onnx(source: str, path: str, pixels: str, facts: str, **images: NDArray[Any]) -> None:
    """Writes an ONNX file in int8; arguments as for `quantize_openvino`."""
    nncf = _import_nncf()
    import onnx

    from topwork.export.onnx_files import save_onnx

    model = onnx.load(source)
    makers = {name: node for node in model.graph.node for name in node.output}
    graph = {
        node.name: (node.op_type, [makers[name].name for name in node.input if name in makers])
        for node in model.graph.node
    }
    names = _find_head(graph, [makers[output.name].name for output in model.graph.output])
    # ONNX Runtime has no kernel for a range of each channel, which depthwise layers would get.
    save_onnx(_quantize(nncf, model, names, images, pixels, per_channel=False), path, facts)


def _quantize(
    nncf: Any,
    model: Any,
    kept: list[str],
    images: dict[str, NDArray[Any]],
    pixels: str,
    *,
    per_channel: bool | None = None,
) -> Any:
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        QuantizationParameters,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    count = len(next(iter(images.values())))

    def take(row: int) -> dict[str, NDArray[Any]]:
        return {name: array[row : row + 1].astype(pixels) for name, array in images.items()}

    return nncf.quantize(
        model,
        nncf.Dataset(list(range(count)), take),
        subset_size=count,
        # Not all layers end in ReLU: the sums of residual blocks lie on both sides of 0.
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            # A few outliers would widen the range that all others share.
            activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM,
            activations_quantization_params=QuantizationParameters(per_channel=per_channel),
        ),
    )


def _find_head(graph: dict[str, tuple[str, list[str]]], ends: list[str]) -> list[str]:
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


def _import_nncf() -> Any:
    """Imports NNCF without the telemetry that it shares with OpenVINO; see `runtime`."""
    import_openvino()
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import nncf

    return nncf
