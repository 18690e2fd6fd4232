"""Asks Keras, or NNCF, for something in a child process, so that this one never imports it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from topwork.errors import NetworkError, StoreError, WeightsError
from topwork.files import open_scratch

ERRORS = {error.__name__: error for error in (NetworkError, StoreError, WeightsError)}


def ask_keras(task: str, request: dict[str, Any]) -> dict[str, Any]:
    """Runs one task of `child` and returns its answer.

    Args:
        task: name of the function in `child`.
        request: its arguments, as JSON.

    Raises:
        NetworkError, StoreError, WeightsError: as the child raised them; NetworkError also when
            it broke, with the last line it wrote.
    """
    return _ask("topwork.bases.child", "Keras", {"task": task, "request": request})


def ask_nncf(request: dict[str, Any]) -> None:
    """Lets `quantizing` make an int8 network; arguments as JSON.

    Raises:
        NetworkError: it broke, with the last line it wrote.
    """
    _ask("topwork.bases.quantizing", "NNCF", {"request": request})


def _ask(module: str, library: str, content: dict[str, Any]) -> dict[str, Any]:
    with open_scratch() as folder:
        answer = folder / "answer.json"
        # The answer has a file of its own: libraries write what they like on the streams.
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(content | {"answer": str(answer)}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "KERAS_BACKEND": "openvino", "TF_CPP_MIN_LOG_LEVEL": "3"},
            check=False,
        )
        if not answer.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise NetworkError(f"the process that runs {library} broke: {lines[-1]}")
        result = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in result:
        raise ERRORS[result["error"]](result["message"])
    return dict(result["result"])
