"""OpenVINO on a CPU: asynchronous requests over small static batches.

Batches of 4 on one stream a core are the fastest or within a few percent of it on two cores
for every base measured (`benchmarks/engine.py`); 32 is slower for all of them, because
the feature maps of a small batch stay in the cache.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topwork.bases import flip_network
from topwork.bases.engines.compiled import Compiled, open_core
from topwork.bases.engines.engine import Floats, Pixels, Tag
from topwork.bases.engines.network_cache import (
    NetworkCache,
    compile_cached,
    compile_network,
    has_bf16,
)
from topwork.core.config import Precision
from topwork.core.errors import NetworkError, SettingsError
from topwork.core.runtime import cores, import_openvino

BATCH_SIZE = 4


def resolve_precision(wanted: Precision) -> Precision:
    """Returns the precision that this CPU will use: `bf16`, `f32` or `int8`.

    Raises:
        SettingsError: bf16 was asked for and the CPU has no bf16 arithmetic.
    """
    if wanted in (Precision.F32, Precision.INT8):
        return wanted
    able = has_bf16()
    if wanted is Precision.BF16 and not able:
        raise SettingsError(
            "precision: bf16 needs a CPU with bf16 arithmetic (AVX512-BF16 or AMX), and this "
            "one has none; use auto or f32"
        )
    return Precision.BF16 if able else Precision.F32


class OpenVINOEngine:
    """A network file, compiled for this CPU.

    Args:
        path: OpenVINO IR with inputs (N, S, S, 3) of float32 RGB in 0..255.
        image_size: S, the side of its input in pixels.
        precision: `bf16` or `f32`, or `int8` for a file in int8.
        output: name of the output to return, or None for the first. Only the part of the network
            that it needs is compiled, and that must have one input.
        flip: return the mean of the outputs of an image and of its mirror, left to right.
        batch_size: images per request; every request has this static shape.
        streams: requests that run at the same time; one per core if not given.
        threads: cores to use, and not to be pinned to, beside other processes; all if not given.
        cache: keeps it for the next process; None to compile it anew.

    Raises:
        NetworkError: the file is missing, damaged or not such a network.
    """

    def __init__(
        self,
        path: Path,
        image_size: int,
        precision: Precision,
        *,
        output: str | None = None,
        flip: bool = False,
        batch_size: int = BATCH_SIZE,
        streams: int | None = None,
        threads: int | None = None,
        cache: NetworkCache | None = None,
    ) -> None:
        self.image_size = image_size
        self.precision = precision
        self.batch_size = batch_size
        self.streams = streams or threads or cores()
        # A few batches, so that memory stays flat.
        self.ahead = 2 * batch_size * self.streams
        self.outruns_threads = False
        hints = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": str(self.streams),
        }
        if threads:
            # Pinned, the threads of every process would start on the same cores.
            hints |= {"INFERENCE_NUM_THREADS": str(threads), "ENABLE_CPU_PINNING": "NO"}

        openvino = import_openvino()
        shape = [batch_size, image_size, image_size, 3]

        def make(core: Any) -> Any:
            model = prune(core.read_model(path), output)
            _check_size(model, image_size)
            # Pixels are bytes: converting them inside the network moves a quarter of the data.
            edit = openvino.preprocess.PrePostProcessor(model)
            edit.input().tensor().set_element_type(openvino.Type.u8)
            model = edit.build()
            if flip:
                flip_network(model)
            model.reshape(shape)
            return model

        def compile() -> Any:
            core, asked = open_core(), ("vectors", output, flip, *shape)
            with mapped_errors(path):
                return compile_cached(
                    core, path, precision, hints, asked, lambda: make(core), cache
                )

        self._compiled = Compiled(compile)

    def run(self, images: Iterable[tuple[Tag, Pixels]]) -> Iterator[tuple[Tag, Floats]]:
        """Runs the network over a stream of images.

        Args:
            images: pairs of a tag and pixels (S, S, 3) uint8.

        Yields:
            Pairs of a tag and an output (D,) float32, in the order of the images. At most
            `streams + 1` batches are held at a time.
        """
        # Requests are waited for in turn. A queue with callbacks would let OpenVINO's own
        # threads drop the last reference to the network, and abort on joining themselves.
        process = os.getpid()
        idle = [self._compiled.open_request() for _ in range(self.streams + 1)]
        running: deque[tuple[list[Tag], Any]] = deque()
        try:
            for batch in _chunks(images, self.batch_size):
                if not idle:
                    yield from self._finish(running, idle)
                request = idle.pop()
                request.start_async({0: self._stack(batch)})
                running.append(([tag for tag, _ in batch], request))
            while running:
                yield from self._finish(running, idle)
        finally:
            # Not in a process that was forked meanwhile, where nothing runs them.
            for _, request in running if process == os.getpid() else ():
                request.wait()

    def _finish(
        self, running: deque[tuple[list[Tag], Any]], idle: list[Any]
    ) -> Iterator[tuple[Tag, Floats]]:
        """Waits for the oldest request and frees it before its results are used."""
        tags, request = running[0]
        request.wait()
        outputs = request.get_output_tensor(0).data.copy()
        running.popleft()
        idle.append(request)
        return zip(tags, outputs, strict=False)

    def run_all(self, pixels: Pixels) -> Floats:
        """Returns the outputs (N, D) float32 of pixels (N, S, S, 3) uint8, N at least 1."""
        return np.stack([output for _, output in self.run(enumerate(pixels))])

    def open_request(self) -> Callable[[Pixels], Floats]:
        """Returns a function that runs one batch after the other, for a single thread.

        It takes pixels (`batch_size`, S, S, 3) uint8 and gives outputs (`batch_size`, D) float32.
        Opening a request waits for those that run, so whoever runs many batches keeps one.
        """
        request, process = self._compiled.open_request(), os.getpid()

        def run(pixels: Pixels) -> Floats:
            nonlocal request, process
            if process != os.getpid():
                request, process = self._compiled.open_request(), os.getpid()
            request.infer({0: pixels})
            return np.array(request.get_output_tensor(0).data, np.float32)

        return run

    def _stack(self, batch: list[tuple[Any, Pixels]]) -> Pixels:
        pixels = np.empty((self.batch_size, self.image_size, self.image_size, 3), np.uint8)
        for row in range(self.batch_size):
            pixels[row] = batch[min(row, len(batch) - 1)][1]
        return pixels


def run_file(
    path: Path, pixels: dict[str, Pixels], precision: Precision, output: str | None = None
) -> Floats:
    """Runs a network file once, over all of its inputs.

    Args:
        path: OpenVINO IR with inputs (N, S, S, 3) of float32 RGB in 0..255.
        pixels: for the name of each input (N, S, S, 3) uint8, N at least 1; where there is only
            one its name does not matter.
        precision: `bf16`, `f32`, or `int8` for a file in int8.
        output: name of the output to return, or None for the first.

    Returns:
        (N, ...) float32.

    Raises:
        NetworkError: the file is missing or damaged, or has other inputs or outputs.
    """
    found = run_outputs(path, pixels, precision, [output or 0])
    assert found is not None
    return found[0]


def run_outputs(
    path: Path,
    pixels: dict[str, Pixels],
    precision: Precision,
    outputs: Sequence[str | int],
    stop: Callable[[], bool] | None = None,
) -> list[Floats] | None:
    """Runs a network file once and returns several of its outputs, (N, ...) float32 each.

    Args and Raises as for `run_file`.

    Args:
        path: as there.
        pixels: as there.
        precision: as there.
        outputs: their names or numbers.
        stop: asked before each image whether to leave it; the answer is None then.
    """
    core = open_core()
    with mapped_errors(path):
        model = core.read_model(path)
        names = [node.get_friendly_name() for node in model.get_parameters()]
        if len(names) == len(pixels) == 1:
            names = list(pixels)
        if set(names) != set(pixels):
            raise RuntimeError(f"it has the inputs {sorted(names)}, received {sorted(pixels)}")
        compiled = Compiled(lambda: compile_network(core, model, precision, {})).get()
        ports = [compiled.output(output) for output in outputs]
        found: list[list[Floats]] = [[] for _ in ports]
        # One by one: what Keras exports may have the size of its batch written down.
        for row in zip(*(pixels[name] for name in names), strict=True):
            if stop is not None and stop():
                return None
            given = compiled([image[None].astype(np.float32) for image in row])
            for values, port in zip(found, ports, strict=True):
                values.append(given[port])
    return [np.concatenate(values) for values in found]


def prune(model: Any, output: str | None) -> Any:
    """Returns the part of a model that one output needs."""
    chosen = (model.output(output) if output else model.output(0)).get_node().input_value(0)
    needed, waiting = set(), [chosen.get_node()]
    while waiting:
        node = waiting.pop()
        if node.get_name() not in needed:
            needed.add(node.get_name())
            waiting.extend(value.get_node() for value in node.input_values())
    inputs = [node for node in model.get_parameters() if node.get_name() in needed]
    if len(inputs) != 1:
        names = ", ".join(node.get_friendly_name() for node in inputs)
        raise RuntimeError(f"an output of one input is needed, and this one has {names}")
    openvino = import_openvino()
    return openvino.Model([openvino.opset13.result(chosen)], inputs)


def _check_size(model: Any, image_size: int) -> None:
    """Refuses another size than a network is made for: it would give other answers, or none."""
    height = model.inputs[0].get_partial_shape()[1]
    if height.is_static and height.get_length() != image_size:
        raise RuntimeError(
            f"its images have {height.get_length()} pixels along each side, received {image_size}"
        )


@contextlib.contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """Turns what OpenVINO says of a file into an error with the file's name."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise NetworkError(f"cannot load the network {path}: {reason}") from error


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
