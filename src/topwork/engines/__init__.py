"""Engines run a base over batches of pixels."""

from topwork.engines.openvino import OpenVINOEngine, resolve_precision, run_file

__all__ = ["OpenVINOEngine", "resolve_precision", "run_file"]
