"""A file's logits for real images, by batches of several sizes; here and in the child process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], NDArray[Any]]

# Batches that all images are run in, and those that must not matter.
SIZE, SIZES = 8, (8, 3, 1)
# How many images are run in each of them.
FEW = 8


def run_batches(run: Run, inputs: Arrays, dtype: str) -> dict[str, NDArray[np.float32]]:
    """Runs all images, and a few of them by batches of 8, 3 and 1.

    Args:
        run: from a batch (n, ...) of each input to (n, C), for any n.
        inputs: (N, ...) by the name of the input, N at least 1.
        dtype: what a batch is turned into before it is run.

    Returns:
        `logits` (N, C) and `batch_8`, `batch_3`, `batch_1` (8, C), float32. Where there are fewer
        than 8 images they are taken more than once.
    """
    count = len(next(iter(inputs.values())))
    few = {name: array[np.arange(FEW) % count] for name, array in inputs.items()}
    found = {f"batch_{size}": _run(run, few, dtype, size) for size in SIZES}
    return {"logits": _run(run, inputs, dtype, SIZE), **found}


def _run(run: Run, inputs: Arrays, dtype: str, size: int) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(next(iter(inputs.values()))), size):
        # Batch by batch, since floats are four times as large.
        batch = {name: array[start : start + size].astype(dtype) for name, array in inputs.items()}
        parts.append(np.array(run(batch), np.float32))
    return np.concatenate(parts)
