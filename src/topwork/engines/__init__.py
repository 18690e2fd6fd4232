"""Engines run a base over batches of pixels."""

from topwork.engines.openvino import OpenVINOEngine, resolve_precision

__all__ = ["OpenVINOEngine", "resolve_precision"]
