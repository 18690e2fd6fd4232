"""Several bases side by side: their concatenated vectors are the vector of an image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from topwork.bases.network import (
    KERAS_FILES,
    Network,
    build_folder,
    make_request,
    prepare,
    read_folder,
)
from topwork.bases.spec import BaseSpec
from topwork.bases.weights import Weights
from topwork.core.errors import SettingsError

RECORD = "stack.json"

# A base, its image size in pixels, and its weights.
StackPart = tuple[BaseSpec, int, Weights]


@dataclass(frozen=True)
class Stack:
    """Frozen networks side by side, each with an image size of its own.

    Attributes:
        networks: in the order in which their vectors are concatenated.
        flip: whether a vector is the mean of those of the image and of its mirror, left to right.
        folder: holds the parts of a `.keras` file with an untrained head.
    """

    networks: tuple[Network, ...]
    flip: bool
    folder: Path

    @property
    def inputs(self) -> dict[str, int]:
        """The size in pixels of each input by its name, ascending."""
        return name_inputs([network.image_size for network in self.networks])

    def input_of(self, network: Network) -> str:
        """Returns the name of the input that a network of the stack reads."""
        return next(name for name, size in self.inputs.items() if size == network.image_size)

    @property
    def vector_length(self) -> int:
        """Length of the concatenated vector."""
        return sum(network.vector_length for network in self.networks)


def prepare_stack(parts: Sequence[StackPart], flip: bool, store: Path) -> Stack:
    """Returns networks side by side, built now or found in the store.

    Args:
        parts: base, image size in pixels and weights of each, in the order of their vectors.
        flip: whether a vector is the mean of those of the image and of its mirror.
        store: the store's folder.

    Raises:
        SettingsError: there is no part, a part is there twice, or a size is too small.
        WeightsError: the weights do not fit.
        NetworkError: Keras cannot build it.
        StoreError: the store cannot be written.
    """
    _check_parts(parts)
    built = tuple(prepare(*part, store) for part in parts)
    if len(built) == 1 and not flip:
        return Stack(built, flip, built[0].folder)
    # The name of a network's folder depends on everything that the network does.
    key = json.dumps([[network.folder.name for network in built], flip])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    stack = Stack(built, flip, store / "bases" / f"stack-{digest}")
    if read_folder(stack.folder, KERAS_FILES, RECORD) is None:
        request = {
            "parts": [make_request(*part) for part in parts],
            "inputs": stack.inputs,
            "flip": flip,
        }
        build_folder(stack.folder, "compose", request, KERAS_FILES, RECORD)
    return stack


def _check_parts(parts: Sequence[StackPart]) -> None:
    if not parts:
        raise SettingsError("base: at least one base is needed, received none")
    seen = set()
    for spec, size, weights in parts:
        part = (spec.name, size, weights.sha256)
        if part in seen:
            raise SettingsError(
                f"base: {spec.name} at {size} pixels is there twice; leave one out, or give it "
                "another size"
            )
        seen.add(part)


def name_inputs(sizes: Iterable[int]) -> dict[str, int]:
    """Returns the size in pixels of each input of a network by its name, ascending."""
    ascending = sorted(set(sizes))
    if len(ascending) == 1:
        return {"image": ascending[0]}
    return {f"image_{size}": size for size in ascending}
