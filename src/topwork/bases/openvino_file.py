"""The whole network for OpenVINO: the base's own file with a trained head grafted on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topwork.runtime import import_openvino

Floats = NDArray[np.float32]


def write_openvino_file(network: Path, kernel: Floats, bias: Floats, path: Path) -> None:
    """Writes base and head as OpenVINO IR in f32.

    Args:
        network: IR of the base, pixels to vectors (N, D).
        kernel: (D, C) float32.
        bias: (C,) float32.
        path: ends in `.xml`; its outputs are `logits` (N, C) and `vectors` (N, D).

    Raises:
        OSError: it cannot be written.
    """
    openvino = import_openvino()
    ops = openvino.opset13
    model = openvino.Core().read_model(network)
    vectors = model.output(0).get_node().input_value(0)
    product = ops.matmul(vectors, ops.constant(kernel), False, False)
    logits = ops.add(product, ops.constant(bias[None]))
    results = [ops.result(logits, name="logits"), ops.result(vectors, name="vectors")]
    whole = openvino.Model(results, model.get_parameters(), "topwork")
    whole.output(0).get_tensor().set_names({"logits"})
    whole.output(1).get_tensor().set_names({"vectors"})
    try:
        openvino.save_model(whole, path, compress_to_fp16=False)
    except RuntimeError as error:
        # OpenVINO does not say why; a full disk is the likeliest reason.
        needed = network.with_suffix(".bin").stat().st_size / 1e6
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            f"OpenVINO could not write {path.name}, which needs {needed:.0f} MB; {free:.0f} MB are "
            "free there"
        ) from error
