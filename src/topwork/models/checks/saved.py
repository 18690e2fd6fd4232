"""Whether the files of a saved model say what was trained: measured and said, never in the way.

In a saved model the networks are copies of those in the store. The first time that networks are
saved with a head of as many layers the copies are run: OpenVINO's in its own runtime, Keras' by
stock Keras in a process of its own, which may begin while there is other work to do. What they
gave is kept beside the networks, and after that only the head of a file is read back.

In f32 nothing may differ, and what does is a warning. In bf16 and int8 numbers differ by nature:
there it counts how many answers are those of the vectors that the head was trained on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from topwork.bases import Stack, read_keras_head, read_openvino_head
from topwork.bases.engines import OpenVINOEngine, run_outputs
from topwork.bases.keras_file import Layer
from topwork.core.arrays import Floats32, Pixels
from topwork.core.config import Interpolation, Precision
from topwork.core.task import Task
from topwork.heads.dense import Head
from topwork.models.checks.agreement import Agreement, compare_logits
from topwork.models.checks.images import CheckImages, DecodedImages, decode_images
from topwork.models.checks.keras_file import check_keras, without_int8
from topwork.models.checks.records import VectorRecord
from topwork.models.checks.tolerances import EXACT

Result = TypeVar("Result")
# From an image's pixels (S, S, 3), for each size of the networks, to its logits (1, C).
RunImage = Callable[[dict[int, Pixels]], Floats32]

# How many images the networks are run over at every save.
SEEN_AGAIN = 8


class ModelChecker:
    """Compares the files of a model that is being saved with what was trained.

    What cannot be compared, or differs where nothing may, is a warning, in words. Nothing is
    raised but `KeyboardInterrupt`.

    Args:
        stack: its networks.
        head: its head.
        task: what its logits mean.
        images: real images and their vectors.
        interpolation: how images are brought to size.
        ranges: as for `images.decode.decode`.
        trained_in: what the stored vectors were computed in.

    Attributes:
        warnings: what a person should know of the files.
    """

    def __init__(
        self,
        stack: Stack,
        head: Head,
        task: Task,
        images: CheckImages,
        interpolation: Interpolation,
        ranges: str,
        trained_in: Precision,
    ) -> None:
        self._stack, self._head, self._task = stack, head, task
        self._trained_in = trained_in
        self._images, self._interpolation, self._ranges = images, interpolation, ranges
        self.warnings: list[str] = []

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
                self._say_other_head(path)
            found = self._run_openvino(path, precision, stop)
            if found is None:
                return None
            rows, vectors = found
            logits, wanted = self._head.logits(vectors), self._trained_logits(rows)
            agreement = compare_logits(self._task, logits, wanted, str(precision))
            if self._is_exact(precision) and not agreement.difference <= EXACT:
                self._say_difference(path.name, agreement.difference, "the stored vectors say")
            return agreement

        return self._try(f"{path.name} could not be compared with what was trained", compare)

    def compare_networks(self, run: RunImage, precision: Precision) -> Agreement | None:
        """Compares what the networks make of images, as they see them now, with the store.

        Args:
            run: the networks and the head, over one image.
            precision: what it computes in.
        """

        def compare() -> Agreement | None:
            few = np.linspace(0, len(self._images.sources) - 1, SEEN_AGAIN).round().astype(int)
            images = self._load(np.unique(few))
            if not len(images):
                return None
            sizes = self._stack.inputs
            logits = [
                run({sizes[name]: array[n] for name, array in images.pixels.items()})
                for n in range(len(images))
            ]
            wanted = self._trained_logits(images.rows)
            agreement = compare_logits(self._task, np.concatenate(logits), wanted, str(precision))
            exact = agreement.difference <= EXACT or not self._is_exact(precision)
            if not (agreement.holds and exact):
                self.warnings.append(
                    "the networks do not see in images what the store says of them: "
                    f"{agreement.share:.0%} of the answers are the same, and a logit differs by "
                    f"{agreement.difference:.2g} of the largest; try again with an empty store "
                    "(--store DIR), and please report it"
                )
            return agreement

        return self._try("the networks could not be compared with the stored vectors", compare)

    def compare_precision(self, sample: CheckImages) -> Agreement | None:
        """Compares what the stored vectors say of images with what exact ones would.

        Args:
            sample: images and their stored vectors, enough to tell how many answers change.

        Returns:
            How the answers in the precision that was trained in compare with those in f32; None
            if that was f32, or if it is not known.
        """

        def compare() -> Agreement | None:
            plain = without_int8(self._stack)
            record = VectorRecord(
                plain, self._head, Precision.F32, self._interpolation, self._ranges
            )
            exact, rows = record.read(sample.hashes), np.arange(len(sample.sources))
            if exact is None:
                images = self._load(rows, sample)
                if not len(images):
                    return None
                exact, rows = run_networks(plain, images.pixels), images.rows
                record.write([sample.hashes[row] for row in rows], exact)
            logits, wanted = self._head.logits(sample.vectors[rows]), self._head.logits(exact)
            return compare_logits(self._task, logits, wanted, str(self._trained_in))

        if self._trained_in is Precision.F32:
            return None
        found = self._try(f"what {self._trained_in} changes could not be measured", compare)
        if found is not None and not found.holds:
            self.warnings.append(f"{found.say_change()}; --precision f32 is exact")
        return found

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
                self._say_other_head(path)
            difference = self._wait_for_keras(begun)
            if difference is not None and not difference <= EXACT:
                self._say_difference(path.name, difference, "OpenVINO computes in f32")
            return difference

        return self._try(f"whether Keras opens {path.name} could not be checked", compare)

    def _is_exact(self, precision: Precision) -> bool:
        """Whether nothing may differ."""
        return self._trained_in is precision is Precision.F32

    def _wait_for_keras(self, begun: Future[float] | None) -> float | None:
        if begun is not None:
            # A disk that was full then may have room now.
            with contextlib.suppress(OSError):
                return begun.result()
        images = self._load(np.arange(min(SEEN_AGAIN, len(self._images.sources))))
        return check_keras(self._stack, self._head, images.pixels) if len(images) else None

    def _run_openvino(
        self, path: Path, precision: Precision, stop: Callable[[], bool]
    ) -> tuple[NDArray[np.int64], Floats32] | None:
        """Returns which images were run, and their vectors as the file computes them."""
        record = VectorRecord(self._stack, self._head, precision, self._interpolation, self._ranges)
        known = record.read(self._images.hashes)
        if known is not None:
            return np.arange(len(known)), known
        images = self._load(np.arange(len(self._images.sources)))
        if not len(images):
            return None
        count = len(self._stack.networks)
        names = [f"vectors_{n}" for n in range(1, count + 1)] if count > 1 else ["vectors"]
        outputs = run_outputs(path, images.pixels, precision, ["logits", *names], stop)
        if outputs is None:
            return None
        logits, vectors = outputs[0], np.concatenate(outputs[1:], axis=1)
        own = compare_logits(self._task, logits, self._head.logits(vectors), "")
        wanted = self._trained_logits(images.rows)
        if not own.difference <= EXACT:
            self._say_difference(path.name, own.difference, "its own vectors and the head say")
        elif compare_logits(self._task, logits, wanted, "").holds:
            # What is not right is looked at again the next time.
            record.write([self._images.hashes[row] for row in images.rows], vectors)
        return images.rows, vectors

    def _trained_logits(self, rows: NDArray[np.int64]) -> Floats32:
        """Returns what the head says of the stored vectors of some images."""
        return self._head.logits(self._images.vectors[rows])

    def _load(self, rows: NDArray[Any], images: CheckImages | None = None) -> DecodedImages:
        """Reads some of the images; those that are gone by now are left out, and said."""
        given = images or self._images
        found = decode_images(
            given.sources,
            given.hashes,
            rows,
            self._stack.inputs,
            self._interpolation,
            self._ranges,
            changed="it has changed since its vector was made",
        )
        if found.lost:
            first = next(iter(found.lost.values()))
            said = f"{len(found.lost)} of {len(rows)} images could not be read any more: {first}"
            warning = f"the model was compared without some of its images: {said}"
            if not len(found):
                warning = f"the model could not be compared with its images: {said}"
            if warning not in self.warnings:
                self.warnings.append(warning)
        return found

    def _say_other_head(self, path: Path) -> None:
        self.warnings.append(f"{path.name} holds another head than the one that was trained")

    def _say_difference(self, name: str, difference: float, other: str) -> None:
        self.warnings.append(
            f"{name} does not say what {other}: a logit differs by {difference:.2g} of the "
            f"largest, where {EXACT:g} is expected; please report this with the name of the base"
        )

    def _try(self, what: str, compare: Callable[[], Result | None]) -> Result | None:
        """Makes a warning of whatever goes wrong: a check never costs a person their run."""
        try:
            return compare()
        except Exception as error:
            self.warnings.append(f"{what}: {str(error) or type(error).__name__}")
            return None


def run_networks(stack: Stack, pixels: dict[str, Pixels]) -> Floats32:
    """Returns the vectors (N, D) float32 of images, as networks compute them here in f32.

    Args:
        stack: the networks.
        pixels: (N, S, S, 3) uint8 for each of `stack.inputs`.
    """
    by_size = {size: pixels[name] for name, size in stack.inputs.items()}
    columns = []
    for network in stack.networks:
        size = network.image_size
        engine = OpenVINOEngine(network.vectors_path, size, Precision.F32, flip=stack.flip)
        columns.append(np.stack([vector for _, vector in engine.run(enumerate(by_size[size]))]))
    return np.concatenate(columns, axis=1)


def _has_head(layers: Sequence[Layer], head: Head) -> bool:
    arrays = ([array for layer in found for array in layer] for found in (layers, head.layers))
    return len(layers) == len(head.layers) and all(
        np.array_equal(*pair) for pair in zip(*arrays, strict=True)
    )
