"""Engines run a base over batches of pixels."""

from topwork.engines.engine import Engine, cores
from topwork.engines.features import open_features
from topwork.engines.openvino import OpenVINOEngine, resolve_precision, run_file

__all__ = ["Engine", "OpenVINOEngine", "cores", "open_features", "resolve_precision", "run_file"]
