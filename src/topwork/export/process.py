"""Asks a child process for what needs TensorFlow, NNCF or another program's runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.errors import ModelError

Arrays = dict[str, NDArray[Any]]


def ask_child(
    task: str, request: dict[str, Any], arrays: Arrays | None = None, backend: str = "tensorflow"
) -> Arrays:
    """Runs one task of `child` and returns the arrays that it gives back.

    Args:
        task: name of the task.
        request: its arguments, as JSON.
        arrays: further arguments, by name.
        backend: Keras' backend there.

    Raises:
        ModelError: the child broke, with the last line it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="topwork-") as name:
        folder = Path(name)
        for key, array in (arrays or {}).items():
            # One by one, so that the child may map them instead of reading them.
            np.save(folder / f"{key}.npy", array)
        content = {"task": task, "request": request, "folder": name}
        content["arrays"] = sorted(arrays or {})
        # The answer has a file of its own: libraries write what they like on the streams.
        done = subprocess.run(
            [sys.executable, "-m", "topwork.export.child"],
            input=json.dumps(content),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={
                **os.environ,
                "KERAS_BACKEND": backend,
                "TF_CPP_MIN_LOG_LEVEL": "3",
                # Files are checked for the processor, whatever else this machine has.
                "CUDA_VISIBLE_DEVICES": "-1",
            },
            check=False,
        )
        answer = folder / "answer.json"
        if not answer.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise ModelError(f"the process that does {task} broke: {lines[-1]}")
        result = json.loads(answer.read_text(encoding="utf-8"))
        return {key: np.load(folder / f"answer-{key}.npy") for key in result["arrays"]}
