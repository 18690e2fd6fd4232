"""What every engine offers: a frozen network that turns a stream of pixels into vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Tag = TypeVar("Tag")


class Engine(Protocol):
    """A frozen network, ready to run.

    Attributes:
        image_size: S, the side of its input in pixels.
        ahead: images that should be decoded before it asks for them.
        outruns_threads: whether it may run more images a second than threads can decode.
    """

    image_size: int
    ahead: int
    outruns_threads: bool

    def run(self, images: Iterable[tuple[Tag, Pixels]]) -> Iterator[tuple[Tag, Floats]]:
        """Runs the network over a stream of images.

        Args:
            images: pairs of a tag and pixels (S, S, 3) uint8 RGB.

        Yields:
            Pairs of a tag and a vector (D,) float32, in the order of the images.

        Raises:
            NetworkError: it cannot be run.
        """
