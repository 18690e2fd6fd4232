"""Engines run a base over batches of pixels."""

from topwork.engines.features import open_features
from topwork.engines.openvino import OpenVINOEngine, resolve_precision, run_file

__all__ = ["OpenVINOEngine", "open_features", "resolve_precision", "run_file"]
