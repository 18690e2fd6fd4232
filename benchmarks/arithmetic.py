"""The arithmetic limit of a CPU: operations of a network, and the most a convolution reaches."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from topwork.bases.engines.network_cache import compile_network
from topwork.core.config import Precision
from topwork.core.runtime import cores, import_openvino

CHANNELS, SIDE, LAYERS = 1024, 28, 6
ROUNDS = 7


def count_operations(path: Path, size_px: int) -> float:
    """Returns the operations for one image, in 10^9: two for each product that is summed up.

    Those of convolutions and matrix products; everything else is less than a hundredth.
    """
    model = import_openvino().Core().read_model(path)
    model.reshape([1, size_px, size_px, 3])
    total = 0
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind in ("Convolution", "GroupConvolution", "MatMul"):
            weights = list(node.input_value(1).get_shape())
            # (O, I, H, W), and for groups (G, O, I, H, W): products for each output.
            each = weights[-3:] if kind != "MatMul" else weights[:1]
            total += 2 * int(np.prod(list(node.get_output_shape(0)))) * int(np.prod(each))
    return total / 1e9


def measure_peak(precision: Precision) -> float:
    """Returns the operations per second, in 10^9, of large 1 × 1 convolutions on all cores."""
    openvino = import_openvino()
    model = _make_convolutions(openvino, precision)
    streams = cores()
    hints = {"NUM_STREAMS": str(streams), "PERFORMANCE_HINT": "THROUGHPUT"}
    compiled = compile_network(openvino.Core(), model, precision, hints)
    requests = [compiled.create_infer_request() for _ in range(streams)]
    rates = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for request in requests:
            request.start_async()
        for request in requests:
            request.wait()
        operations = 2 * LAYERS * CHANNELS * CHANNELS * SIDE * SIDE * 4 * streams
        rates.append(operations / 1e9 / (time.perf_counter() - started))
    # The best is what the machine can do; noise only takes away.
    return max(rates[1:])


def _make_convolutions(openvino: Any, precision: Precision) -> Any:
    ops = openvino.opset13
    image = ops.parameter([4, CHANNELS, SIDE, SIDE], np.float32)
    values, numbers = image, np.random.default_rng(0)
    ends = [np.float32(0), np.float32(6)]
    for _ in range(LAYERS):
        weights = numbers.normal(0, 0.02, (CHANNELS, CHANNELS, 1, 1)).astype(np.float32)
        kernel = ops.constant(weights)
        if precision is Precision.INT8:
            values = ops.fake_quantize(values, *ends, *ends, 256)
            most = np.float32(np.abs(weights).max())
            kernel = ops.fake_quantize(kernel, -most, most, -most, most, 255)
        values = ops.convolution(values, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
        values = ops.clamp(values, 0.0, 6.0)
    pooled = ops.reduce_mean(values, np.array([2, 3]))
    return openvino.Model([ops.result(pooled)], [image], "convolutions")


def main() -> None:
    for precision in (Precision.F32, Precision.BF16, Precision.INT8):
        peaks = [measure_peak(precision) for _ in range(3)]
        print(f"{precision}: {median(peaks):.0f} · 10^9 operations a second")


if __name__ == "__main__":
    main()
