"""What was found when networks were run before, kept beside them for the next model.

In the networks' folder lies `parity-<layers of the head>-<how it was run>`: a `.json` with the
difference of the Keras file, and an `.npz` with vectors as the OpenVINO file computed them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from zipfile import BadZipFile

import numpy as np

from topwork.bases import Stack
from topwork.core.arrays import Floats32
from topwork.core.config import Interpolation, Precision
from topwork.core.files import write_file
from topwork.core.runtime import find_version
from topwork.heads.dense import Head
from topwork.images.decode import DECODER_VERSION

# What NumPy and zip say of a file that is damaged.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, BadZipFile)


class DifferenceRecord:
    """How far the Keras file of networks with a head of so many layers was from OpenVINO's."""

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


class VectorRecord:
    """The vectors of images as a saved OpenVINO file with these networks computed them."""

    def __init__(
        self,
        stack: Stack,
        head: Head,
        precision: Precision,
        interpolation: Interpolation,
        ranges: str,
    ) -> None:
        int8 = [network.int8.calibration for network in stack.networks if network.int8]
        runtime = ["openvino", find_version("openvino"), precision]
        read_as = [hashlib.sha256(ranges.encode()).hexdigest()[:8]] if ranges else []
        run = "-".join([*runtime, *int8, interpolation, DECODER_VERSION, *read_as])
        self._path = stack.folder / f"parity-{len(head.layers)}-{run}.npz"
        self._length = stack.vector_length

    def read(self, hashes: Sequence[str]) -> Floats32 | None:
        """Returns those (N, D) of N images, or None unless all are there."""
        try:
            with self._path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                there = file["hashes"].tolist()
                vectors = np.asarray(file["vectors"], np.float32)
            row_of = {name: row for row, name in enumerate(there)}
            rows = [row_of[name] for name in hashes]
        except _DAMAGE:
            return None
        return vectors[rows] if vectors.shape == (len(there), self._length) else None

    def write(self, hashes: Sequence[str], vectors: Floats32) -> None:
        """Keeps vectors, unless nothing can be written to the store."""
        with contextlib.suppress(OSError):
            write_file(
                self._path,
                lambda file: np.savez(file, hashes=np.array(hashes), vectors=vectors),
            )
