"""Engines run a base over batches of pixels."""

from topwork.bases.engines.engine import Engine
from topwork.bases.engines.features import open_features
from topwork.bases.engines.keras import KerasEngine, has_accelerator
from topwork.bases.engines.openvino import OpenVINOEngine, resolve_precision, run_file, run_outputs

__all__ = [
    "Engine",
    "KerasEngine",
    "OpenVINOEngine",
    "has_accelerator",
    "open_features",
    "resolve_precision",
    "run_file",
    "run_outputs",
]
