"""What can be measured of pictures without knowing what they show.

Measured once per image: the figures are kept in the store under the hash of its bytes. N: images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from topwork.core import warm_up
from topwork.core.arrays import Floats32
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Interpolation
from topwork.core.errors import ImageError, StoreError
from topwork.core.parallel import in_threads
from topwork.images.decode import DECODER_VERSION, Source, decode
from topwork.images.thumbnails import read_header
from topwork.images.verify import read_unchanged
from topwork.vectors.embed import ATTEMPTS
from topwork.vectors.embed_job import PART_VECTORS
from topwork.vectors.space import Space
from topwork.vectors.store import DamagedPartError, VectorStore

Ints64 = NDArray[np.int64]

# Part of the figures' key: raise it when the same picture would be measured otherwise.
MEASURES = "1"

# Brightness and edges are measured at this side, so that photos of all sizes compare. Networks
# see 224 to 320 px: blur that is gone at this size they do not see either.
SIDE_PX = 256
# Edges are measured in the tiles of the picture that have the most: a background that is out of
# focus, or plain, is no blur.
TILES = 8
SHARPEST = 8
# Below this the steps of 8 bits are all that there is.
FAINT = 1e-5

FIGURES = (
    "width", "height", "brightness", "contrast", "low", "high", "sharpness", "size_bytes",
    "frames", "orientation", "mode", "format",
)  # fmt: skip
# A store keeps numbers: the index in one of these, or one past the end.
_MODES = (
    "1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "RGBX",
    "RGBa", "La", "I;16", "I;16L", "I;16B", "I;16N",
)  # fmt: skip
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "AVIF", "TIFF", "PPM", "MPO", "HEIF")
OTHER = "other"


@dataclass(frozen=True)
class ImageStats:
    """Figures of N pictures, after the EXIF orientation is applied.

    Attributes:
        width: (N,) pixels; 0 where the image could not be measured.
        height: (N,) pixels; 0 likewise.
        brightness: (N,) mean luma, 0..1; NaN where the image could not be measured.
        contrast: (N,) standard deviation of the luma, 0..0.5; NaN likewise.
        low: (N,) the luma that 5 % of the picture are below, 0..1; NaN likewise.
        high: (N,) the luma that 5 % of the picture are above, 0..1; NaN likewise.
        sharpness: (N,) how steep the steepest edges are, see `edge_sharpness`; NaN likewise, and
            where there are no edges.
        size_bytes: (N,) of the file, to 1 in 16 million.
        frames: (N,) 1 for a still picture.
        orientation: (N,) EXIF's number; 1 for upright.
        modes: N of Pillow's names, such as `RGB` or `CMYK`; `other` where unknown.
        formats: N of Pillow's names, such as `JPEG`.
        failed: why, by index, of images that could not be measured.
    """

    width: Ints64
    height: Ints64
    brightness: Floats32
    contrast: Floats32
    low: Floats32
    high: Floats32
    sharpness: Floats32
    size_bytes: Ints64
    frames: Ints64
    orientation: Ints64
    modes: tuple[str, ...]
    formats: tuple[str, ...]
    failed: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.width)


def measure(
    sources: Sequence[Source],
    hashes: Sequence[str],
    store: Path,
    *,
    ranges: str = "",
    callback: Callback = SILENT,
) -> ImageStats:
    """Measures images, or finds their figures in the store.

    Args:
        sources: N images.
        hashes: N, SHA-256 of each image's bytes, hex.
        store: the store's folder.
        ranges: as for `images.decode.decode`.
        callback: hears, in the caller's thread after every image that was read, how many were
            and how many have to be.

    Returns:
        The figures; images that cannot be read or decoded any more are in its `failed`.

    Raises:
        StoreError: the figures cannot be written, or stay unreadable.
    """
    space = Space(
        base="pixels",
        weights_sha256="",
        image_size=SIDE_PX,
        network=f"measures {MEASURES}",
        decoder=DECODER_VERSION,
        interpolation=str(Interpolation.LANCZOS),
        precision="f32",
        ranges=ranges,
    )
    kept = VectorStore(store, space, len(FIGURES))
    failed: dict[str, str] = {}
    for _ in range(ATTEMPTS):
        kept.refresh()
        _complete(kept, sources, hashes, failed, callback)
        there = [index for index, image in enumerate(hashes) if image not in failed]
        try:
            figures = kept.read([hashes[index] for index in there])
        except DamagedPartError:
            continue
        values = np.full((len(hashes), len(FIGURES)), np.nan, np.float32)
        values[there] = figures
        bad = {index: failed[image] for index, image in enumerate(hashes) if image in failed}
        return _name_columns(values, bad)
    raise StoreError(
        f"figures in {kept.folder} are damaged as soon as they are written; check the disk or "
        "choose another place with --store"
    )


def measure_image(data: bytes, ranges: str = "") -> Floats32:
    """Measures one encoded image.

    Args:
        data: the image.
        ranges: as for `images.decode.decode`.

    Returns:
        (12,) float32, in the order of `FIGURES`; a sharpness of 0 says that there are no edges.

    Raises:
        ImageError: it cannot be decoded.
    """
    rgb = Image.fromarray(decode(data, SIDE_PX, Interpolation.LANCZOS, ranges=ranges))
    luma = np.asarray(rgb.convert("L"), np.float32) / np.float32(255)
    header = read_header(data)
    light = (luma.mean(), luma.std(), *np.quantile(luma, (0.05, 0.95)))
    kinds = (_find(header.mode, _MODES), _find(header.format, _FORMATS))
    return np.array(
        [
            *(header.width, header.height, *light, edge_sharpness(luma), len(data)),
            *(header.frames, header.orientation, *kinds),
        ],
        np.float32,
    )


def edge_sharpness(luma: Floats32) -> float:
    """Returns how steep the edges are, by the eighth of a picture's tiles with the most of them.

    The root of the ratio of the squared Laplacian to the squared gradient, each summed over
    those tiles. A step that is blurred by a Gaussian of s pixels gives 1 / (sqrt(2) s), whatever
    its height: contrast does not matter, nor does a plain background. Photos in focus have 1.3 to
    3 at 256 px, those visibly out of focus less than 1.

    Args:
        luma: (S, S) float32, 0..1, S at least 10.

    Returns:
        0 and more; 0 where there are no edges.

    Source: for g(x) = exp(-x^2 / 2 s^2), the gradient across such a step, the integral of g'^2
    is that of g^2 over 2 s^2.
    """
    centre = luma[1:-1, 1:-1]
    beside = (luma[1:-1, 2:], luma[1:-1, :-2], luma[2:, 1:-1], luma[:-2, 1:-1])
    laplacian = beside[0] + beside[1] + beside[2] + beside[3] - 4 * centre
    gradient = ((beside[0] - beside[1]) ** 2 + (beside[2] - beside[3]) ** 2) / 4
    slopes, bends = _mean_tiles(gradient), _mean_tiles(laplacian**2)
    most = np.argsort(slopes)[-SHARPEST:]
    slope = float(slopes[most].mean())
    return float(np.sqrt(bends[most].mean() / slope)) if slope > FAINT else 0.0


def _complete(
    kept: VectorStore,
    sources: Sequence[Source],
    hashes: Sequence[str],
    failed: dict[str, str],
    callback: Callback,
) -> None:
    """Measures what the store lacks and has not failed, and writes it in parts."""
    indices: dict[str, list[int]] = {}
    missing = kept.missing(hashes)
    for index, image in enumerate(hashes):
        if missing[index] and image not in failed:
            indices.setdefault(image, []).append(index)
    work = list(indices.items())
    warm_up.decoding()
    finished: list[tuple[str, Floats32]] = []

    def look(item: tuple[str, list[int]]) -> Floats32 | ImageError:
        return _measure_any([sources[index] for index in item[1]], item[0], kept.space.ranges)

    try:
        for done, (result, (image, _)) in enumerate(
            zip(in_threads(look, work), work, strict=True), start=1
        ):
            if isinstance(result, ImageError):
                failed[image] = str(result)
            else:
                finished.append((image, result))
            callback.on_measured(done, len(work))
            if len(finished) >= PART_VECTORS:
                _write(kept, finished)
                finished = []
    finally:
        # What was finished before an interruption is worth keeping.
        if finished:
            _write(kept, finished)


def _write(kept: VectorStore, finished: list[tuple[str, Floats32]]) -> None:
    images, figures = zip(*finished, strict=True)
    kept.write(images, np.stack(figures))


def _measure_any(sources: Sequence[Source], image: str, ranges: str) -> Floats32 | ImageError:
    """Measures the first of equal images that is still there."""
    problem = ImageError("there is no such file")
    for source in sources:
        try:
            return measure_image(read_unchanged(source, image), ranges)
        except ImageError as error:
            problem = error
    return problem


def _name_columns(values: Floats32, failed: Mapping[int, str]) -> ImageStats:
    column = dict(zip(FIGURES, values.T, strict=True))
    whole = {
        name: np.nan_to_num(column[name]).astype(np.int64)
        for name in ("width", "height", "size_bytes", "frames", "orientation", "mode", "format")
    }
    sharpness = np.where(column["sharpness"] > 0, column["sharpness"], np.nan)
    return ImageStats(
        width=whole["width"],
        height=whole["height"],
        brightness=column["brightness"],
        contrast=column["contrast"],
        low=column["low"],
        high=column["high"],
        sharpness=sharpness.astype(np.float32),
        size_bytes=whole["size_bytes"],
        frames=whole["frames"],
        orientation=whole["orientation"],
        modes=tuple((*_MODES, OTHER)[number] for number in whole["mode"]),
        formats=tuple((*_FORMATS, OTHER)[number] for number in whole["format"]),
        failed=failed,
    )


def _find(name: str | None, names: Sequence[str]) -> int:
    return names.index(name) if name in names else len(names)


def _mean_tiles(values: NDArray[np.floating[Any]]) -> Floats32:
    """Returns the means (TILES * TILES,) over the tiles of a square."""
    side = len(values) // TILES
    cut = values[: side * TILES, : side * TILES]
    return np.asarray(cut.reshape(TILES, side, TILES, side).mean((1, 3)).ravel(), np.float32)
