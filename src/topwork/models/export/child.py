"""What runs in the child process: one task, whose module imports what the task needs.

`python -m topwork.models.export.child` answers one request of `child_process`.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from numpy.typing import NDArray

from topwork.core.child_process import receive, reply, watch_parent

# Each task and the module that has it as a function.
TASKS = {
    "write_saved_model": "tensorflow_files",
    "write_litert": "tensorflow_files",
    "write_onnx": "tensorflow_files",
    "run_saved_model": "tensorflow_files",
    "wrap_keras": "keras_wrapper",
    "quantize_openvino": "quantizing",
    "quantize_onnx": "quantizing",
    "run_onnx": "runtimes",
    "run_litert": "runtimes",
}


def main() -> None:
    """Answers one request, or breaks with a traceback, whose last line the parent shows."""
    watch_parent()
    warnings.simplefilter("ignore")
    content, arrays = receive()
    reply(content, {}, _answer(content["task"], content["request"], arrays))


def _answer(
    task: str, request: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    module = importlib.import_module(f"topwork.models.export.{TASKS[task]}")
    found: dict[str, NDArray[Any]] | None = getattr(module, task)(**request, **arrays)
    return found or {}


if __name__ == "__main__":
    main()
