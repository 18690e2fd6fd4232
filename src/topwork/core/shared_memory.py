"""Batches of pixels and of vectors in memory that two processes share.

The memory is a file without a name: it is passed on as a descriptor, and however the two processes
end, nothing of it is left. Named shared memory would remain after a kill, and is limited to 64 MB
in many containers.
"""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

# One batch is run, one waits, and one is being filled.
SLOTS = 3


def open_memory() -> int:
    """Returns the descriptor of an empty file without a name, in memory if the system can."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("topwork")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Ring:
    """Slots for a few batches of pixels and for their vectors.

    Args:
        memory: as `open_memory` returned it; both processes give the same sizes.
        batch_size: B.
        image_size: S, in pixels.
        vector_length: D.

    Attributes:
        pixels: (SLOTS, B, S, S, 3) uint8.
        vectors: (SLOTS, B, D) float32.
    """

    def __init__(self, memory: int, batch_size: int, image_size: int, vector_length: int) -> None:
        shapes = {
            "vectors": (SLOTS, batch_size, vector_length),
            "pixels": (SLOTS, batch_size, image_size, image_size, 3),
        }
        floats = 4 * int(np.prod(shapes["vectors"]))
        total = floats + int(np.prod(shapes["pixels"]))
        os.ftruncate(memory, total)
        mapped = mmap.mmap(memory, total)
        self.vectors: NDArray[np.float32] = np.ndarray(shapes["vectors"], np.float32, mapped)
        self.pixels: NDArray[np.uint8] = np.ndarray(shapes["pixels"], np.uint8, mapped, floats)
