"""Whether the files of a saved model say what was trained.

In a saved model the networks are copies of those in the store. The first time that networks are
saved with a head of as many layers the copies are run: OpenVINO's in its own runtime, Keras' by
stock Keras in a process of its own, which may begin while there is other work to do. It is written
down beside the networks, and after that only the head of a file is read back. What the networks
make of real images is compared with the stored vectors every time.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topwork.bases import (
    Stack,
    read_keras_head,
    read_openvino_head,
    reopen_keras_file,
    write_keras_file,
    write_openvino_file,
)
from topwork.bases.keras_file import Layer
from topwork.config import Interpolation, Precision
from topwork.engines import run_file
from topwork.errors import ImageError, ModelError
from topwork.files import open_scratch, write_file
from topwork.heads import Floats, Head
from topwork.images import Source, read_pixels
from topwork.runtime import find_version

Pixels = NDArray[np.uint8]
# From an image's pixels (S, S, 3), for each size of the networks, to its logits (1, C).
Answer = Callable[[dict[int, Pixels]], Floats]

# Largest difference of a logit, as a share of the largest logit of the checked images.
TOLERANCE = {Precision.F32: 1e-3, Precision.BF16: 5e-2, Precision.INT8: 5e-2}
OPENVINO, KERAS = "openvino", "keras"
WRONG = "the {} file does not predict what was trained"


@dataclass(frozen=True)
class Samples:
    """Real images to check a saved model with, and the vectors it was trained on.

    Attributes:
        sources: N images, at least one.
        vectors: (N, D) float32, the stored vectors of those images.
    """

    sources: tuple[Source, ...]
    vectors: Floats


class Check:
    """Compares a model that is being saved with what was trained.

    A difference is the largest of a logit, as a share of the largest logit.

    Args:
        stack: its networks.
        head: its head.
        samples: images and their vectors.
        interpolation: how images are brought to size.
        precision: what the networks compute in, on this machine.

    Raises:
        ImageError: a sample can no longer be read.
    """

    def __init__(
        self,
        stack: Stack,
        head: Head,
        samples: Samples,
        interpolation: Interpolation,
        precision: Precision,
    ) -> None:
        self._stack, self._head, self._precision = stack, head, precision
        self._pixels = _load(samples.sources, stack, interpolation)
        self._wanted = head.logits(samples.vectors)

    def check_answers(self, answer: Answer) -> float:
        """Returns how far the logits of the networks, as they see now, are from the store's.

        Raises:
            ModelError: the difference is beyond `TOLERANCE`.
        """
        sizes = self._stack.inputs
        found = [
            answer({sizes[name]: pixels[n] for name, pixels in self._pixels.items()})
            for n in range(len(self._wanted))
        ]
        difference = _difference(np.concatenate(found), self._wanted)
        _check(
            "the networks do not see in images what the store says of them",
            difference,
            TOLERANCE[self._precision],
            "try again with an empty store (--store DIR), and please report this",
        )
        return difference

    def check_openvino(self, path: Path) -> float:
        """Returns how far the model in OpenVINO IR is from the stored vectors.

        Raises:
            ModelError: the difference is beyond `TOLERANCE`, or the head is not the model's.
        """
        record = _Record(self._stack, self._head, _name_run(self._stack, self._precision))
        found = record.read()
        if found is None:
            logits = run_file(path, self._pixels, self._precision, output="logits")
            found = _difference(logits, self._wanted)
            _check(WRONG.format(OPENVINO), found, TOLERANCE[self._precision])
            record.write(found)
        _compare_heads(OPENVINO, read_openvino_head(path), self._head)
        return found

    def check_keras(self, path: Path, begun: Future[float] | None = None) -> float:
        """Returns how far the Keras file is from what OpenVINO computes in f32, as it does.

        Args:
            path: the file.
            begun: what `begin_keras_check` returned.

        Raises:
            ModelError: the difference is beyond `TOLERANCE`, or the head is not the model's.
            NetworkError: Keras does not open it.
        """
        _compare_heads(KERAS, read_keras_head(path), self._head)
        if begun is not None:
            # What a full disk did to it is said in the words of saving, which checks again.
            with contextlib.suppress(OSError):
                return begun.result()
        return check_keras(self._stack, self._head, self._pixels)


def check_keras(stack: Stack, head: Head, pixels: dict[str, Pixels]) -> float:
    """Lets stock Keras open networks with a head, the first time for a head of as many layers.

    Args:
        stack: the networks.
        head: any head for their vectors.
        pixels: (N, S, S, 3) uint8 by the name of each input.

    Returns:
        As `Check.check_keras`.

    Raises:
        ModelError: the difference is beyond `TOLERANCE`.
        NetworkError: Keras does not open the file.
        OSError: there is no room for it.
    """
    record = _Record(stack, head, KERAS)
    known = record.read()
    if known is not None:
        return known
    with open_scratch() as folder, ThreadPoolExecutor(1) as pool:
        keras, openvino = folder / "model.keras", folder / "model.xml"
        write_keras_file(stack.folder, head.layers, keras)
        # Keras has a process of its own: the other file is run while it starts.
        reopening = pool.submit(reopen_keras_file, keras, folder)
        plain = tuple(replace(network, int8=None) for network in stack.networks)
        write_openvino_file(replace(stack, networks=plain), head.layers, openvino)
        exact = run_file(openvino, pixels, Precision.F32, output="logits")
        logits = run_file(reopening.result(), pixels, Precision.F32)
    found = _difference(logits, exact)
    _check(WRONG.format(KERAS), found, TOLERANCE[Precision.F32])
    record.write(found)
    return found


def begin_keras_check(
    stack: Stack, head: Head, sources: Sequence[Source], interpolation: Interpolation
) -> Future[float] | None:
    """Begins `check_keras` in a thread, so that nobody has to wait for it later.

    Args:
        stack: the networks.
        head: any head with as many layers as the one to come.
        sources: images; nothing is begun if one of them cannot be read.
        interpolation: how images are brought to size.

    Returns:
        What `check_keras` returns or raises; None if nothing is begun.
    """
    if _Record(stack, head, KERAS).read() is not None:
        return None
    try:
        pixels = _load(sources, stack, interpolation)
    except ImageError:
        return None  # whoever makes the vectors names it; there is time to check later
    pool = ThreadPoolExecutor(1)
    checking = pool.submit(check_keras, stack, head, pixels)
    pool.shutdown(wait=False)
    return checking


def _load(
    sources: Sequence[Source], stack: Stack, interpolation: Interpolation
) -> dict[str, Pixels]:
    return {
        name: np.stack([read_pixels(source, size, interpolation) for source in sources])
        for name, size in stack.inputs.items()
    }


class _Record:
    """What was found when networks with a head of so many layers were run, beside the networks."""

    def __init__(self, stack: Stack, head: Head, name: str) -> None:
        self._path = stack.folder / f"parity-{len(head.layers)}-{name}.json"

    def read(self) -> float | None:
        """Returns the largest difference, or None if they were not run yet."""
        try:
            return float(json.loads(self._path.read_text(encoding="utf-8"))["difference"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, difference: float) -> None:
        """Writes down the largest difference, unless nothing can be written to the store."""
        content = json.dumps({"difference": difference}).encode()
        with contextlib.suppress(OSError):
            write_file(self._path, lambda file: file.write(content))


def _name_run(stack: Stack, precision: Precision) -> str:
    """Returns what decides how OpenVINO runs a copy of the networks."""
    int8 = [network.int8.calibration for network in stack.networks if network.int8]
    return "-".join([OPENVINO, find_version("openvino"), precision, *int8])


def _compare_heads(name: str, layers: Sequence[Layer], head: Head) -> None:
    arrays = ([array for layer in found for array in layer] for found in (layers, head.layers))
    pairs = list(zip(*arrays, strict=False))
    same = len(layers) == len(head.layers) and all(np.array_equal(a, b) for a, b in pairs)
    _check(WRONG.format(name), 0.0 if same else math.inf, 0.0)


def _difference(found: Floats, wanted: Floats) -> float:
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-6))


def _check(what: str, difference: float, limit: float, advice: str = "please report this") -> None:
    if not difference <= limit:
        raise ModelError(
            f"{what}: a logit differs by {difference:.2g} of the largest, at most {limit:.2g} is "
            f"allowed. The model was not saved; {advice} with the name of the base"
        )
