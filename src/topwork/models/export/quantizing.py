"""In the child process: files in int8, fitted to training images; see `bases.quantizing`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from topwork.bases.quantizing import find_head, find_openvino_head, fuse, import_nncf, quantize
from topwork.models.export.formats import Input


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
    import_nncf()
    from topwork.models.export.openvino_file import open_logits, save_openvino

    model = open_logits(Path(source), Input(pixels))
    fuse(model)
    whole = quantize(model, find_openvino_head(model), *_rows(images, pixels))
    save_openvino(whole, Path(path), facts)


def quantize_onnx(source: str, path: str, pixels: str, facts: str, **images: NDArray[Any]) -> None:
    """Writes an ONNX file in int8; arguments as for `quantize_openvino`."""
    import_nncf()
    import onnx

    from topwork.models.export.onnx_files import save_onnx

    model = onnx.load(source)
    makers = {name: node for node in model.graph.node for name in node.output}
    graph = {
        node.name: (node.op_type, [makers[name].name for name in node.input if name in makers])
        for node in model.graph.node
    }
    names = find_head(graph, [makers[output.name].name for output in model.graph.output])
    # ONNX Runtime has no kernel for a range of each channel, which depthwise layers would get.
    whole = quantize(model, names, *_rows(images, pixels), per_channel=False)
    save_onnx(whole, path, facts)


def _rows(
    images: dict[str, NDArray[Any]], pixels: str
) -> tuple[int, Callable[[int], dict[str, NDArray[Any]]]]:
    """Returns how many images there are, and a function that takes one."""
    count = len(next(iter(images.values())))
    return count, lambda row: {
        name: array[row : row + 1].astype(pixels) for name, array in images.items()
    }
