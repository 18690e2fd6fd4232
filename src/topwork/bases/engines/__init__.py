"""Engines, which run a base: pixels (S, S, 3) uint8 in, vectors (D,) float32 out.

`openvino` runs it on the CPU, `keras` on a GPU or TPU in a child process (`keras_child`); `engine`
says what both offer, and `features` gives what a base sees before its pooling. `network_cache`
keeps what OpenVINO compiled.
"""

from topwork.bases.engines.engine import Engine
from topwork.bases.engines.features import open_features
from topwork.bases.engines.keras import KerasEngine, has_accelerator
from topwork.bases.engines.network_cache import NetworkCache
from topwork.bases.engines.openvino import OpenVINOEngine, resolve_precision, run_file, run_outputs

__all__ = [
    "Engine",
    "KerasEngine",
    "NetworkCache",
    "OpenVINOEngine",
    "has_accelerator",
    "open_features",
    "resolve_precision",
    "run_file",
    "run_outputs",
]
