"""A model's head as NumPy arrays, for those who have vectors already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from topwork.core.arrays import Floats32
from topwork.core.errors import ModelError
from topwork.heads.dense import Dense, Head
from topwork.models.export.batches import Arrays, run_batches
from topwork.models.export.facts import KEY


def write_head(head: Head, classes: tuple[str, ...], path: Path, facts: str) -> None:
    """Writes `kernel`, `bias`, of an inner layer `inner_kernel` and `inner_bias`, and `classes`.

    Args:
        head: of the model.
        classes: in the order of the logits.
        path: ends in `.npz`.
        facts: JSON, goes to `topwork`.

    Raises:
        OSError: it cannot be written.
    """
    *inner, last = head.layers
    arrays: dict[str, Any] = {"kernel": last.kernel, "bias": last.bias}
    for layer in inner:
        arrays |= {"inner_kernel": layer.kernel, "inner_bias": layer.bias}
    with path.open("wb") as file:
        np.savez(file, **arrays | {"classes": np.array(classes), KEY: np.array(facts)})


def read_head(path: Path) -> Head:
    """Returns the head that a file holds.

    Raises:
        ModelError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            layers = [Dense(file["kernel"], file["bias"])]
            if "inner_kernel" in file:
                layers.insert(0, Dense(file["inner_kernel"], file["inner_bias"]))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is damaged: {error}; export the model again") from error
    return Head(tuple(layers))


def run_head(path: Path, vectors: Floats32) -> Arrays:
    """Returns the logits of vectors (N, D), with the head read back; see `run_batches`."""
    head = read_head(path)
    return run_batches(lambda batch: head.logits(batch["vectors"]), {"vectors": vectors}, "float32")
