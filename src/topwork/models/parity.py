"""Whether the files of a saved model say what was trained: measured and said, never in the way.

In a saved model the networks are copies of those in the store. The first time that networks are
saved with a head of as many layers the copies are run: OpenVINO's in its own runtime, Keras' by
stock Keras in a process of its own, which may begin while there is other work to do. What they
gave is kept beside the networks, and after that only the head of a file is read back.

In f32 nothing may differ, and what does is a doubt. In bf16 and int8 numbers differ by nature:
there it counts how many answers are those of the vectors that the head was trained on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

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
from topwork.bases.engines import run_file, run_outputs
from topwork.bases.keras_file import Layer
from topwork.core.config import Interpolation, Precision
from topwork.core.errors import ImageError
from topwork.core.files import open_scratch, write_file
from topwork.core.runtime import find_version
from topwork.core.task import Task
from topwork.heads.dense import Floats, Head
from topwork.images.decode import RECIPE as DECODER
from topwork.images.decode import Source, decode, read_bytes
from topwork.images.verify import read_unchanged
from topwork.models.agreement import Agreement, compare_logits

Pixels = NDArray[np.uint8]
Found = TypeVar("Found")
# From an image's pixels (S, S, 3), for each size of the networks, to its logits (1, C).
Answer = Callable[[dict[int, Pixels]], Floats]

# Largest difference of a logit where nothing may differ, as a share of the largest logit.
EXACT = 1e-4
# How many images the networks are run over at every save.
SEEN_AGAIN = 8


@dataclass(frozen=True)
class Samples:
    """Real images to compare a saved model on, and the vectors it was trained on.

    Attributes:
        sources: N images, at least one.
        hashes: SHA-256 of each image's bytes, hex.
        vectors: (N, D) float32, the stored vectors of those images.
    """

    sources: tuple[Source, ...]
    hashes: tuple[str, ...]
    vectors: Floats


class Check:
    """Compares the files of a model that is being saved with what was trained.

    What cannot be compared, or differs where nothing may, is a doubt, in words. Nothing is
    raised but `KeyboardInterrupt`.

    Args:
        stack: its networks.
        head: its head.
        task: what its logits mean.
        samples: images and their vectors.
        interpolation: how images are brought to size.
        trained_in: what the stored vectors were computed in.

    Attributes:
        doubts: what a person should know of the files.
    """

    def __init__(
        self,
        stack: Stack,
        head: Head,
        task: Task,
        samples: Samples,
        interpolation: Interpolation,
        trained_in: Precision,
    ) -> None:
        self._stack, self._head, self._task = stack, head, task
        self._trained_in = trained_in
        self._samples, self._interpolation = samples, interpolation
        self.doubts: list[str] = []

    def compare_openvino(
        self, path: Path, precision: Precision, stop: Callable[[], bool]
    ) -> Agreement | None:
        """Compares a model in OpenVINO IR with the stored vectors.

        Args:
            path: the file.
            precision: what its networks compute in, on this machine.
            stop: whether to leave it.

        Returns:
            How its answers compare; None if that is not known.
        """

        def compare() -> Agreement | None:
            if not _has_head(read_openvino_head(path), self._head):
                self.doubts.append(f"{path.name} holds another head than the one that was trained")
            found = self._run_openvino(path, precision, stop)
            if found is None:
                return None
            rows, vectors = found
            given, wanted = (self._head.logits(v) for v in (vectors, self._samples.vectors[rows]))
            agreement = compare_logits(self._task, given, wanted, str(precision))
            if self._is_exact(precision) and not agreement.difference <= EXACT:
                self._say_difference(path.name, agreement.difference, "the stored vectors say")
            return agreement

        return self._try(f"{path.name} could not be compared with what was trained", compare)

    def compare_networks(self, answer: Answer, precision: Precision) -> Agreement | None:
        """Compares what the networks make of images, as they see them now, with the store.

        Args:
            answer: runs the networks and the head over an image.
            precision: what it computes in.
        """

        def compare() -> Agreement | None:
            few = np.linspace(0, len(self._samples.sources) - 1, SEEN_AGAIN).round().astype(int)
            rows, pixels = self._load(np.unique(few))
            if not len(rows):
                return None
            sizes = self._stack.inputs
            found = [
                answer({sizes[name]: array[n] for name, array in pixels.items()})
                for n in range(len(rows))
            ]
            wanted = self._head.logits(self._samples.vectors[rows])
            agreement = compare_logits(self._task, np.concatenate(found), wanted, str(precision))
            exact = agreement.difference <= EXACT or not self._is_exact(precision)
            if not (agreement.holds and exact):
                self.doubts.append(
                    "the networks do not see in images what the store says of them: "
                    f"{agreement.share:.0%} of the answers are the same, and a logit differs by "
                    f"{agreement.difference:.2g} of the largest; try again with an empty store "
                    "(--store DIR), and please report it"
                )
            return agreement

        return self._try("the networks could not be compared with the stored vectors", compare)

    def compare_keras(self, path: Path, begun: Future[float] | None = None) -> float | None:
        """Returns how far the Keras file is from what OpenVINO computes in f32, as it does.

        Args:
            path: the file.
            begun: what `begin_keras_check` returned.

        Returns:
            Largest difference of a logit, as a share of the largest; None if that is not known.
        """

        def compare() -> float | None:
            if not _has_head(read_keras_head(path), self._head):
                self.doubts.append(f"{path.name} holds another head than the one that was trained")
            found = self._wait_for_keras(begun)
            if found is not None and not found <= EXACT:
                self._say_difference(path.name, found, "OpenVINO computes in f32")
            return found

        return self._try(f"whether Keras opens {path.name} could not be checked", compare)

    def _is_exact(self, precision: Precision) -> bool:
        """Whether nothing may differ."""
        return self._trained_in is precision is Precision.F32

    def _wait_for_keras(self, begun: Future[float] | None) -> float | None:
        if begun is not None:
            # A disk that was full then may have room now.
            with contextlib.suppress(OSError):
                return begun.result()
        few = np.arange(min(SEEN_AGAIN, len(self._samples.sources)))
        rows, pixels = self._load(few)
        return check_keras(self._stack, self._head, pixels) if len(rows) else None

    def _run_openvino(
        self, path: Path, precision: Precision, stop: Callable[[], bool]
    ) -> tuple[NDArray[np.int64], Floats] | None:
        """Returns which samples were run, and their vectors as the file computes them."""
        record = _Vectors(self._stack, self._head, precision, self._interpolation)
        known = record.read(self._samples.hashes)
        if known is not None:
            return np.arange(len(known)), known
        rows, pixels = self._load(np.arange(len(self._samples.sources)))
        if not len(rows):
            return None
        count = len(self._stack.networks)
        names = [f"vectors_{n}" for n in range(1, count + 1)] if count > 1 else ["vectors"]
        found = run_outputs(path, pixels, precision, ["logits", *names], stop)
        if found is None:
            return None
        logits, vectors = found[0], np.concatenate(found[1:], axis=1)
        own = compare_logits(self._task, logits, self._head.logits(vectors), "")
        wanted = self._head.logits(self._samples.vectors[rows])
        if not own.difference <= EXACT:
            self._say_difference(path.name, own.difference, "its own vectors and the head say")
        elif compare_logits(self._task, logits, wanted, "").holds:
            # What is not right is looked at again the next time.
            record.write([self._samples.hashes[row] for row in rows], vectors)
        return rows, vectors

    def _load(self, chosen: NDArray[Any]) -> tuple[NDArray[np.int64], dict[str, Pixels]]:
        """Reads some of the samples; those that are gone by now are left out, and said."""
        rows: list[int] = []
        images: list[dict[str, Pixels]] = []
        gone: list[str] = []
        for row in chosen.tolist():
            try:
                source, sha256 = self._samples.sources[row], self._samples.hashes[row]
                data = read_unchanged(source, sha256, "it has changed since its vector was made")
                images.append(_decode(data, self._stack, self._interpolation))
                rows.append(row)
            except ImageError as error:
                gone.append(str(error))
        if gone:
            said = f"{len(gone)} of {len(chosen)} images could not be read any more: {gone[0]}"
            doubt = f"the model was compared without some of its images: {said}"
            if not rows:
                doubt = f"the model could not be compared with its images: {said}"
            if doubt not in self.doubts:
                self.doubts.append(doubt)
        names = images[0] if images else {}
        pixels = {name: np.stack([found[name] for found in images]) for name in names}
        return np.array(rows, np.int64), pixels

    def _say_difference(self, name: str, difference: float, other: str) -> None:
        self.doubts.append(
            f"{name} does not say what {other}: a logit differs by {difference:.2g} of the "
            f"largest, where {EXACT:g} is expected; please report this with the name of the base"
        )

    def _try(self, what: str, compare: Callable[[], Found | None]) -> Found | None:
        """Makes a doubt of whatever goes wrong: a check never costs a person their run."""
        try:
            return compare()
        except Exception as error:
            self.doubts.append(f"{what}: {str(error) or type(error).__name__}")
            return None


def check_keras(stack: Stack, head: Head, pixels: dict[str, Pixels]) -> float:
    """Lets stock Keras open networks with a head, the first time for a head of as many layers.

    Args:
        stack: the networks.
        head: any head for their vectors.
        pixels: (N, S, S, 3) uint8 by the name of each input.

    Returns:
        Largest difference of a logit from what OpenVINO computes in f32, as a share of the
        largest.

    Raises:
        NetworkError: Keras does not open the file.
        OSError: there is no room for it.
    """
    record = _Record(stack, head)
    known = record.read()
    if known is not None:
        return known
    with open_scratch() as folder, ThreadPoolExecutor(1) as pool:
        keras, openvino = folder / "model.keras", folder / "model.xml"
        write_keras_file(stack.folder, head.layers, keras)
        # Keras has a process of its own: the other file is run while it starts.
        reopening = pool.submit(reopen_keras_file, keras, folder)
        write_openvino_file(without_int8(stack), head.layers, openvino)
        exact = run_file(openvino, pixels, Precision.F32, output="logits")
        logits = run_file(reopening.result(), pixels, Precision.F32)
    found = float(np.abs(logits - exact).max() / max(np.abs(exact).max(), 1e-6))
    if found <= EXACT:
        record.write(found)
    return found


def without_int8(stack: Stack) -> Stack:
    """Returns the networks of a stack as they were before they were made to compute in int8."""
    plain = tuple(replace(network, int8=None) for network in stack.networks)
    return replace(stack, networks=plain)


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
    if _Record(stack, head).read() is not None:
        return None
    try:
        images = [_decode(read_bytes(source), stack, interpolation) for source in sources]
    except ImageError:
        return None  # whoever makes the vectors names it; there is time to check later
    pixels = {name: np.stack([found[name] for found in images]) for name in stack.inputs}
    pool = ThreadPoolExecutor(1)
    checking = pool.submit(check_keras, stack, head, pixels)
    pool.shutdown(wait=False)
    return checking


def _decode(data: bytes, stack: Stack, interpolation: Interpolation) -> dict[str, Pixels]:
    return {name: decode(data, size, interpolation) for name, size in stack.inputs.items()}


class _Record:
    """What was found when networks with a head of so many layers were run, beside the networks."""

    def __init__(self, stack: Stack, head: Head) -> None:
        run = f"keras-openvino-{find_version('openvino')}"
        self._path = stack.folder / f"parity-{len(head.layers)}-{run}.json"

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


# What NumPy and zip say of a file that is damaged.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, BadZipFile)


class _Vectors:
    """The vectors of images as a saved file with these networks computed them, beside them."""

    def __init__(
        self, stack: Stack, head: Head, precision: Precision, interpolation: Interpolation
    ) -> None:
        int8 = [network.int8.calibration for network in stack.networks if network.int8]
        runtime = ["openvino", find_version("openvino"), precision]
        run = "-".join([*runtime, *int8, interpolation, DECODER])
        self._path = stack.folder / f"parity-{len(head.layers)}-{run}.npz"
        self._length = stack.vector_length

    def read(self, hashes: Sequence[str]) -> Floats | None:
        """Returns those (N, D) of N images, or None unless all are there."""
        try:
            with self._path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                there = file["hashes"].tolist()
                vectors = np.asarray(file["vectors"], np.float32)
            known = {name: row for row, name in enumerate(there)}
            rows = [known[name] for name in hashes]
        except _DAMAGE:
            return None
        return vectors[rows] if vectors.shape == (len(there), self._length) else None

    def write(self, hashes: Sequence[str], vectors: Floats) -> None:
        """Keeps vectors, unless nothing can be written to the store."""
        with contextlib.suppress(OSError):
            write_file(
                self._path,
                lambda file: np.savez(file, hashes=np.array(hashes), vectors=vectors),
            )


def _has_head(layers: Sequence[Layer], head: Head) -> bool:
    arrays = ([array for layer in found for array in layer] for found in (layers, head.layers))
    return len(layers) == len(head.layers) and all(
        np.array_equal(*pair) for pair in zip(*arrays, strict=True)
    )
