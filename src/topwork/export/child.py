"""What runs in the child process: one task, whose module imports what the task needs.

`python -m topwork.export.child` reads a request from stdin and writes its answer to a file.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    warnings.simplefilter("ignore")
    content = json.loads(sys.stdin.read())
    folder = Path(content["folder"])
    arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in content["arrays"]}
    answer = _answer(content["task"], content["request"], arrays)
    for key, array in answer.items():
        np.save(folder / f"answer-{key}.npy", array)
    (folder / "answer.json").write_text(json.dumps({"arrays": sorted(answer)}), encoding="utf-8")


def _answer(
    task: str, request: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    module = importlib.import_module(f"topwork.export.{TASKS[task]}")
    found: dict[str, NDArray[Any]] | None = getattr(module, task)(**request, **arrays)
    return found or {}


if __name__ == "__main__":
    main()
