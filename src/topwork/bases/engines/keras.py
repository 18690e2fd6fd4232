"""Keras on JAX: a network on a GPU or a TPU.

Keras' backend is fixed for a whole process, so the network runs in a child process. A few batches
of pixels and vectors are in shared memory; only the numbers of batches go through pipes. While the
device runs one batch, the next one is already there.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from topwork.bases.engines.engine import Floats, Pixels, Tag
from topwork.core.child_process import last_line
from topwork.core.config import Precision
from topwork.core.errors import NetworkError, SettingsError
from topwork.core.shared_memory import SLOTS, Ring, open_memory

# Images on each device at a time; the child takes fewer if a device has too little memory.
BATCH_SIZE = 128

# How long a child that was told to end is waited for before it is killed.
END_TIMEOUT_S = 5

# Files that show that there is a device, by a part of the name of JAX's plugin for it.
# `/dev/dxg` is a GPU under WSL. Not `/proc/driver/nvidia`, which containers without a GPU have too.
DEVICE_FILES = {
    "cuda": ("nvidia[0-9]*", "dxg"),
    "rocm": ("kfd",),
    "libtpu": ("accel[0-9]*", "vfio/[0-9]*"),
}
DEVICES = Path("/dev")


def has_accelerator(devices: Path = DEVICES) -> bool:
    """Guesses whether JAX has a GPU or a TPU here, in milliseconds and without importing it.

    Args:
        devices: folder of the system's devices.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms.split(",")[0].strip() == "cpu":
        return False
    there = {
        name
        for name, patterns in DEVICE_FILES.items()
        if any(any(devices.glob(pattern)) for pattern in patterns)
    }
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        there.discard("cuda")
    if not there:
        return False
    plugins = [entry.name for entry in importlib.metadata.entry_points(group="jax_plugins")]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        plugins.append(importlib.metadata.distribution("libtpu").name)
    return any(name in plugin for plugin in plugins for name in there)


def describe_device() -> str | None:
    """Says what JAX runs on: `gpu: NVIDIA H100`, `gpu: 4 × NVIDIA H100`, `cpu`; None for nothing.

    It asks a child process, which takes seconds.
    """
    try:
        with contextlib.closing(_Child({}, "say what it runs on")) as child:
            return str(child.answer["device"])
    except NetworkError:
        return None


class KerasEngine:
    """A network on Keras' JAX backend: on all GPUs or TPUs of this machine, else on its CPU.

    Args:
        folder: of a built network, with the parts of a `.keras` file.
        image_size: S, the side of its input in pixels.
        precision: `bf16`, which leaves weights, the scaling of pixels and the pooling in f32, or
            `f32`, which on a GPU means all of its digits and no TF32.
        flip: return the mean of the vectors of an image and of its mirror, left to right.
        batch_size: images for each device at a time; fewer where it has too little memory.

    Attributes:
        batch_size: images that are run at a time, on all devices together.
        vector_length: D.
        device: what it runs on, such as `gpu: NVIDIA H100`.

    Raises:
        NetworkError: the network is missing or damaged, or cannot be run.
        SettingsError: another precision.
    """

    def __init__(
        self,
        folder: Path,
        image_size: int,
        precision: Precision,
        *,
        flip: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        if precision not in (Precision.BF16, Precision.F32):
            raise SettingsError(
                f"precision: with the engine keras it is bf16 or f32, received {precision}; use "
                "one of these, or --engine openvino"
            )
        self.image_size = image_size
        self.precision = precision
        memory = open_memory()
        request = {
            "folder": str(folder.absolute()),
            "image_size": image_size,
            "precision": str(precision),
            "flip": flip,
            "batch_size": batch_size,
            "memory": memory,
        }
        try:
            self._child = _Child(request, f"run the network in {folder}", memory)
            answer = self._child.answer
            self.batch_size: int = answer["batch_size"]
            self.vector_length: int = answer["vector_length"]
            self.device: str = answer["device"]
            self._ring = Ring(memory, self.batch_size, image_size, self.vector_length)
        finally:
            os.close(memory)
        self.ahead = SLOTS * self.batch_size
        self.outruns_threads = not self.device.startswith("cpu")
        self._busy = False

    def run(self, images: Iterable[tuple[Tag, Pixels]]) -> Iterator[tuple[Tag, Floats]]:
        """Runs the network over a stream of images; one stream at a time.

        Args:
            images: pairs of a tag and pixels (S, S, 3) uint8.

        Yields:
            Pairs of a tag and a vector (D,) float32, in the order of the images. At most `ahead`
            images are held at a time.

        Raises:
            NetworkError: the child process ended.
        """
        if self._busy:
            raise RuntimeError("an engine runs one stream at a time, and another is not finished")
        self._busy = True
        running: deque[tuple[int, list[Tag]]] = deque()
        idle = list(range(SLOTS))
        try:
            tags: list[Tag] = []
            for tag, pixels in images:
                self._ring.pixels[idle[-1], len(tags)] = pixels
                tags.append(tag)
                if len(tags) == self.batch_size:
                    self._start(running, idle, tags)
                    tags = []
                    if not idle:
                        yield from self._finish(running, idle)
            if tags:
                # The rest of the slot holds older pixels, whose vectors are not used.
                self._start(running, idle, tags)
            while running:
                yield from self._finish(running, idle)
        except KeyboardInterrupt:
            # It may have interrupted the reading of an answer.
            self.close()
            raise
        finally:
            with contextlib.suppress(NetworkError):
                for _ in running:
                    self._child.receive()
            self._busy = False

    def close(self) -> None:
        """Ends the child process; what still runs is lost, and the engine runs no more."""
        self._child.close()

    def _start(
        self, running: deque[tuple[int, list[Tag]]], idle: list[int], tags: list[Tag]
    ) -> None:
        slot = idle[-1]
        self._child.send(str(slot))
        running.append((idle.pop(), tags))

    def _finish(
        self, running: deque[tuple[int, list[Tag]]], idle: list[int]
    ) -> Iterator[tuple[Tag, Floats]]:
        """Waits for the oldest batch and frees its slot before its vectors are used."""
        self._child.receive()
        slot, tags = running.popleft()
        vectors = self._ring.vectors[slot, : len(tags)].copy()
        idle.append(slot)
        return zip(tags, vectors, strict=True)


class _Child:
    """The process that runs Keras; it ends with this object, and with this process.

    Args:
        request: as for `keras_child.serve`.
        task: the same in words, for messages.
        memory: file descriptor of the shared memory; None if it needs none.

    Attributes:
        answer: its first answer, once it was ready.
    """

    def __init__(self, request: dict[str, Any], task: str, memory: int | None = None) -> None:
        self._task = task
        # Not a pipe, which would block the child when it is full.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "topwork.bases.engines.keras_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env={
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                **os.environ,
                "KERAS_BACKEND": "jax",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            pass_fds=() if memory is None else (memory,),
            # An interrupt from the keyboard is for this process, which ends the other.
            process_group=0,
        )
        self.close = weakref.finalize(self, _end, self._process, self._errors)
        try:
            self.send(json.dumps(request))
            self.answer: dict[str, Any] = self.receive()
        except BaseException:
            self.close()
            raise

    def send(self, line: str) -> None:
        """Writes a line to the process."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            # Raises the reason, if the child wrote one before it ended.
            self.receive()
            raise NetworkError(self._describe("it ended", "run")) from None

    def receive(self) -> Any:
        """Returns the next answer.

        Raises:
            NetworkError: it says that something went wrong, or it has ended.
        """
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline()
        except ValueError:
            raise NetworkError(self._describe("it was closed before", "run")) from None
        if not line:
            raise NetworkError(self._describe(self._describe_end(), "run"))
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise NetworkError(self._describe(answer["error"], answer["stage"]))
        return answer

    def _describe_end(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        last = last_line(self._errors.read())
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended ({code})"
        return f"the process that runs Keras {end}" + (f": {last}" if last else "")

    def _describe(self, reason: str, stage: str) -> str:
        advice = "use --engine openvino"
        if stage == "load":
            advice = "delete that folder, and it is built again"
        return f"cannot {self._task} with Keras on JAX: {reason}; {advice}"


def _end(process: subprocess.Popen[str], errors: IO[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    errors.close()
