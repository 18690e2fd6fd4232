"""Keras, TensorFlow and NNCF run in child processes: how one is asked, and how it answers.

Keras' backend is fixed for a whole process, and to import any of them takes seconds. A child gets
one line of JSON on stdin, and leaves its answer in a file: libraries write what they like on the
streams. Its stdin stays open for as long as it is waited for, so that it hears when nobody waits
any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.errors import ModelError, NetworkError, StoreError, WeightsError
from topwork.core.files import open_scratch
from topwork.core.interrupts import before_leaving, hold_interrupts

Arrays = dict[str, NDArray[Any]]

ERRORS = {error.__name__: error for error in (NetworkError, StoreError, WeightsError)}

# How long a child that was killed is waited for.
END_S = 1.0

_living: set[subprocess.Popen[bytes]] = set()


class _BrokenError(Exception):
    """A child ended without an answer; the message is the last line that it wrote."""


def ask_keras(task: str, request: dict[str, Any]) -> dict[str, Any]:
    """Runs one task of `bases.child` and returns its answer.

    Args:
        task: name of the function there.
        request: its arguments, as JSON.

    Raises:
        NetworkError, StoreError, WeightsError: as the child raised them; NetworkError also when
            it broke, with the last line it wrote.
    """
    content = {"task": task, "request": request}
    return _ask_for_network("topwork.bases.child", "Keras", content)


def ask_nncf(request: dict[str, Any]) -> None:
    """Lets `bases.quantizing` make an int8 network; arguments as JSON.

    Raises:
        NetworkError: it broke, with the last line it wrote.
    """
    _ask_for_network("topwork.bases.quantizing", "NNCF", {"request": request})


def _ask_for_network(module: str, library: str, content: dict[str, Any]) -> dict[str, Any]:
    try:
        answer, _ = _ask(module, content, {}, {"KERAS_BACKEND": "openvino"})
    except _BrokenError as error:
        raise NetworkError(f"the process that runs {library} broke: {error}") from None
    if "error" in answer:
        raise ERRORS[answer["error"]](answer["message"])
    return dict(answer["result"])


def ask_child(
    task: str, request: dict[str, Any], arrays: Arrays | None = None, backend: str = "tensorflow"
) -> Arrays:
    """Runs one task of `export.child` and returns the arrays that it gives back.

    Args:
        task: name of the task.
        request: its arguments, as JSON.
        arrays: further arguments, by name.
        backend: Keras' backend there.

    Raises:
        ModelError: the child broke, with the last line it wrote.
    """
    content = {"task": task, "request": request}
    # Files are checked for the processor, whatever else this machine has.
    environment = {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        return _ask("topwork.models.export.child", content, arrays or {}, environment)[1]
    except _BrokenError as error:
        raise ModelError(f"the process that does {task} broke: {error}") from None


def _ask(
    module: str, content: dict[str, Any], arrays: Arrays, environment: dict[str, str]
) -> tuple[dict[str, Any], Arrays]:
    with open_scratch() as folder:
        for key, array in arrays.items():
            # One by one, so that the child may map them instead of reading them.
            np.save(folder / f"{key}.npy", array)
        content = content | {"folder": str(folder), "arrays": sorted(arrays)}
        # What libraries leave there is removed with everything else.
        environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
        errors = folder / "errors.log"
        with _start(module, environment, errors) as process:
            assert process.stdin is not None
            # One that ends before it reads says why.
            with contextlib.suppress(OSError):
                process.stdin.write(json.dumps(content).encode() + b"\n")
                process.stdin.flush()
            code = process.wait()
        answer = folder / "answer.json"
        if not answer.is_file():
            raise _BrokenError(last_line(errors.read_bytes()) or f"exit code {code}")
        found = json.loads(answer.read_text(encoding="utf-8"))
        given = {key: np.load(folder / f"answer-{key}.npy") for key in found["arrays"]}
        return found["answer"], given


def last_line(log: bytes) -> str:
    """Returns the last line that a child wrote on stderr before it broke; empty for no line."""
    lines = log.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


@contextlib.contextmanager
def _start(
    module: str, environment: dict[str, str], errors: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a child, which ends when this is left or when this process ends, however it does."""
    with contextlib.ExitStack() as stack:
        with errors.open("wb") as stream, hold_interrupts():
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                # A file does not fill up as a pipe does that nobody reads.
                stderr=stream,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
                # An interrupt from the keyboard is for this process, which ends the other.
                process_group=0,
            )
            _living.add(process)
            stack.callback(_end, process)
        yield process


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill(process)
    process.wait()
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    _living.discard(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    try:
        # With what it has started itself.
        os.killpg(process.pid, signal.SIGKILL)
    except (AttributeError, OSError):  # Windows has none
        process.kill()


def end_children() -> None:
    """Ends all children that are waited for, for a process that ends without these waiting."""
    for process in tuple(_living):
        _kill(process)
    for process in tuple(_living):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)


before_leaving(end_children)


_lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()


def watch_parent() -> None:
    """In a child: ends this process as soon as its parent has ended, or waits no more.

    A child that imports for seconds calls it before that.
    """
    threading.Thread(target=_listen, daemon=True).start()


def _listen() -> None:
    # Not through `sys.stdin`, whose lock would be held when this process ends by itself.
    rest = b""
    while True:
        *lines, rest = (rest + _read_or_end()).split(b"\n")
        for line in lines:
            _lines.put(line)


def _read_or_end() -> bytes:
    piece = os.read(0, 2**16)
    if not piece:
        os._exit(1)
    return piece


def receive_line() -> str:
    """In a child that watches its parent: waits for the next line that the parent sends."""
    return _lines.get().decode()


def receive() -> tuple[dict[str, Any], Arrays]:
    """In a child that watches its parent: waits for the request; returns it and its arrays."""
    content = json.loads(receive_line())
    folder = Path(content["folder"])
    arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in content["arrays"]}
    return content, arrays


def reply(content: dict[str, Any], answer: dict[str, Any], arrays: Arrays | None = None) -> None:
    """In a child: leaves the answer to a request where its parent looks for it.

    Args:
        content: the request, as it was received.
        answer: as JSON.
        arrays: what else there is, by name.
    """
    folder, arrays = Path(content["folder"]), arrays or {}
    for key, array in arrays.items():
        np.save(folder / f"answer-{key}.npy", array)
    whole = json.dumps({"answer": answer, "arrays": sorted(arrays)})
    (folder / "answer.part").write_text(whole, encoding="utf-8")
    (folder / "answer.part").replace(folder / "answer.json")
