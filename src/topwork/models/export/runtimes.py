"""In the child process: ONNX and LiteRT files, run by the programs that they are for."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from topwork.models.export.batches import Arrays, run_batches

LITERT_SIGNATURE = "serving_default"


def run_onnx(path: str, pixels: str, **inputs: NDArray[Any]) -> Arrays:
    """Runs an ONNX file in ONNX Runtime; see `batches.run_batches`."""
    session = open_onnx(path)
    return run_batches(lambda batch: session.run(["logits"], batch)[0], inputs, pixels)


def open_onnx(path: str) -> Any:
    """Returns an ONNX Runtime session on the processor."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run_litert(path: str, pixels: str, **inputs: NDArray[Any]) -> Arrays:
    """Runs a LiteRT file in LiteRT; see `batches.run_batches`."""
    run = open_litert(path)
    return run_batches(lambda batch: run(**batch)["logits"], inputs, pixels)


def open_litert(path: str) -> Any:
    """Returns the signature of a LiteRT file, ready to run on all cores."""
    from ai_edge_litert.interpreter import Interpreter

    from topwork.core.runtime import cores

    interpreter = Interpreter(model_path=path, num_threads=cores())
    return interpreter.get_signature_runner(LITERT_SIGNATURE)
