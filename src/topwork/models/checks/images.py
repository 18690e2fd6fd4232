"""The real images that the files of a model are run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import Floats32, Pixels
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Interpolation
from topwork.core.errors import ImageError
from topwork.core.parallel import in_threads
from topwork.images.decode import Source, decode
from topwork.images.verify import read_unchanged


@dataclass(frozen=True)
class CheckImages:
    """Real images to compare a saved model on, and the vectors it was trained on.

    Attributes:
        sources: N images, at least one.
        hashes: SHA-256 of each image's bytes, hex.
        vectors: (N, D) float32, the stored vectors of those images.
    """

    sources: tuple[Source, ...]
    hashes: tuple[str, ...]
    vectors: Floats32


@dataclass(frozen=True)
class DecodedImages:
    """Images as the networks of a model take them.

    Attributes:
        pixels: (N, S, S, 3) uint8 for the name of each input; empty if N is 0.
        rows: (N,) int64, which of the images that were asked for they are.
        lost: why the others cannot be used, by row.
    """

    pixels: dict[str, Pixels]
    rows: NDArray[np.int64]
    lost: dict[int, str]

    def __len__(self) -> int:
        return len(self.rows)


def decode_images(
    sources: Sequence[Source | None],
    hashes: Sequence[str],
    rows: NDArray[np.int64],
    sizes: dict[str, int],
    interpolation: Interpolation,
    ranges: str,
    *,
    changed: str,
    callback: Callback = SILENT,
) -> DecodedImages:
    """Decodes some images, if their bytes are still what they were.

    Args:
        sources: all images; None for one that is gone.
        hashes: SHA-256 that the bytes of each must have, hex.
        rows: which of them to decode.
        sizes: in pixels, by the name of each input.
        interpolation: how images are brought to size.
        ranges: as for `images.decode.decode`.
        changed: what is said of an image with other bytes.
        callback: hears how many are read, and of how many.
    """

    def load(row: int) -> dict[str, Pixels] | str:
        source = sources[row]
        if source is None:
            return "not in the data any more"
        try:
            data = read_unchanged(source, hashes[row], changed)
            return decode_sizes(data, sizes, interpolation, ranges)
        except ImageError as error:
            return str(error)

    decoded: list[dict[str, Pixels]] = []
    kept: list[int] = []
    lost: dict[int, str] = {}
    wanted = rows.tolist()
    for count, (row, image) in enumerate(zip(wanted, in_threads(load, wanted), strict=True), 1):
        if isinstance(image, str):
            lost[row] = image
        else:
            decoded.append(image)
            kept.append(row)
        callback.on_read(count, len(wanted))
    return DecodedImages(stack_images(decoded), np.array(kept, np.int64), lost)


def decode_sizes(
    data: bytes, sizes: dict[str, int], interpolation: Interpolation, ranges: str
) -> dict[str, Pixels]:
    """Decodes an encoded image at each of some sizes, by the name of the input.

    Raises:
        ImageError: it cannot be decoded.
    """
    return {name: decode(data, size, interpolation, ranges=ranges) for name, size in sizes.items()}


def stack_images(images: Sequence[dict[str, Pixels]]) -> dict[str, Pixels]:
    """Returns N decoded images as one array (N, S, S, 3) for each input; no arrays if N is 0."""
    names = images[0] if images else {}
    return {name: np.stack([image[name] for image in images]) for name in names}
