"""Pictures of more than 8 bits a channel: their values, and how these become 8 bits.

Pillow keeps all bits of grey pictures. Of colors it keeps the upper 8 of 16: the lower ones are
read in a second pass, in which it takes the bytes of each value the other way round.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from topwork.core.errors import ImageError
from topwork.core.ranges import FULL, Kind, Ranges

# Source: TIFF 6.0, sections 3 and 19; GDAL, "GTiff", tag 42113.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT, _NO_DATA = 258, 262, 339, 42113
_UNSIGNED, _SIGNED = 1, 2
_WHITE_IS_ZERO = 0
# A file whose values reach a little beyond white, by a resize or by rounding.
_SLACK = 1.05
# Bytes of a value the other way round. Pillow's "N" is this machine's own order.
_SWAPPED = {"L": "B", "B": "L", "N": "L" if np.dtype("=u2") == np.dtype(">u2") else "B"}

Values = NDArray[Any]


def find_kind(image: Image.Image) -> Kind | None:
    """Returns of which numbers a picture is; None for 8 bits, or if the file says what is white.

    Args:
        image: as Pillow opened it, not loaded.
    """
    tags = getattr(image, "tag_v2", {})
    bits, form = tags.get(_BITS_PER_SAMPLE, (16,))[0], tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0]
    if image.mode == "F":
        return Kind.FLOAT32
    if image.mode.startswith("I;16"):
        return Kind.UINT16 if bits == 16 else None
    if image.mode == "I":
        if image.format == "PPM":
            return Kind.UINT16
        if tags and bits == 16:
            return Kind.INT16 if form == _SIGNED else Kind.UINT16
        return Kind.UINT32 if tags and form == _UNSIGNED else Kind.INT32
    raw = _raw_mode(image)
    return Kind.UINT16 if raw.endswith((";16L", ";16B", ";16N")) else None


def read_values(data: bytes, formats: tuple[str, ...]) -> tuple[Kind, Values] | None:
    """Returns the values of a picture of more than 8 bits a channel, for `choose_range`.

    Args:
        data: an encoded image.
        formats: that it may be of.

    Returns:
        Their kind and (V,) values of the visible pixels; None for a picture of 8 bits.

    Raises:
        Exception: whatever Pillow raises for a damaged file.
    """
    with Image.open(io.BytesIO(data), formats=formats) as image:
        kind = find_kind(image)
        if kind is None:
            return None
        if is_gray(image):
            image.load()
            values = _gray_values(image, kind).ravel()
            return kind, values[values != _no_data(image)]
        colors = _color_values(image, data)
    if colors is None:
        return None
    visible = colors[..., 3] > 0 if colors.shape[2] == 4 else ...
    return kind, colors[..., :3][visible].ravel()


def is_gray(image: Image.Image) -> bool:
    """Whether Pillow keeps all bits of a picture, in a mode with one channel."""
    return image.mode.startswith("I") or image.mode == "F"


def scale_gray(image: Image.Image, kind: Kind | None, ranges: Ranges) -> Image.Image:
    """Scales more than 8 bits to 8, from black to white.

    Args:
        image: loaded, of a mode with one channel.
        kind: from `find_kind`.
        ranges: black and white of each kind; what is missing is told by each file's own values.

    Raises:
        ImageError: values that are not finite.
    """
    values = _gray_values(image, kind)
    if not np.isfinite(values).all():
        raise ImageError("it holds numbers that are not finite")
    tags = getattr(image, "tag_v2", {})
    low, top = ranges[kind] if kind is not None and kind in ranges else _range_of(values, image)
    scaled = _scale(values, low, top)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        scaled = 255 - scaled
    if "transparency" in image.info:
        scaled[values == image.info["transparency"]] = 255
    return Image.fromarray(scaled)


def scale_colors(image: Image.Image, data: bytes, ranges: Ranges) -> Image.Image | None:
    """Scales a picture of 16 bits a channel to 8, if black and white are not 0 and 65535.

    Args:
        image: as Pillow opened it, not loaded.
        data: the encoded image.
        ranges: black and white of each kind.

    Returns:
        RGB or RGBA; None for a picture that Pillow scales as well.
    """
    if find_kind(image) is not Kind.UINT16 or ranges.get(Kind.UINT16, FULL) == FULL:
        return None
    values = _color_values(image, data)
    if values is None:
        return None
    colors = _scale(values[..., :3], *ranges[Kind.UINT16])
    if values.shape[2] == 4:
        alpha = (values[..., 3:] >> 8).astype(np.uint8)
        return Image.fromarray(np.concatenate([colors, alpha], axis=2))
    transparent = image.info.get("transparency")
    if transparent is not None:
        shown = (values != np.array(transparent)).any(axis=2, keepdims=True)
        alpha = shown.astype(np.uint8) * np.uint8(255)
        return Image.fromarray(np.concatenate([colors, alpha], axis=2))
    return Image.fromarray(colors)


def _scale(values: Values, low: float, top: float) -> NDArray[np.uint8]:
    scaled = np.clip((values.astype(np.float64) - low) / (top - low) * 255, 0, 255)
    return np.rint(scaled).astype(np.uint8)


def _gray_values(image: Image.Image, kind: Kind | None) -> Values:
    values = np.asarray(image)
    # Pillow has no mode for uint32, and takes the upper half of its values for negative.
    return values.view(np.uint32) if kind is Kind.UINT32 else values


def _color_values(image: Image.Image, data: bytes) -> Values | None:
    """Returns (H, W, 3 or 4) uint16 of a picture of 16 bits; None for one of another layout."""
    raw = _raw_mode(image)
    with Image.open(io.BytesIO(data), formats=(str(image.format),)) as second:
        if raw == "LA;16B":
            # Two values of two bytes are read as four values of one.
            _set_raw_mode(second, "RGBA")
            parts = np.asarray(second).astype(np.uint16)
            gray, alpha = parts[..., 0] << 8 | parts[..., 1], parts[..., 2] << 8 | parts[..., 3]
            return np.stack([gray, gray, gray, alpha], axis=2)
        if raw[:-1] not in ("RGB;16", "RGBA;16"):
            return None
        _set_raw_mode(second, raw[:-1] + _SWAPPED[raw[-1]])
        lower = np.asarray(second)
    upper = np.asarray(image).astype(np.uint16)
    return np.asarray(upper << 8 | lower, np.uint16)


def _raw_mode(image: Image.Image) -> str:
    """Returns how the values of a picture lie in its file, in Pillow's words."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    arguments = tiles[0].args
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) else ""


def _set_raw_mode(image: Any, raw: str) -> None:
    image.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)
        for tile in image.tile
    ]


def _no_data(image: Image.Image) -> float | None:
    """Returns the value of pixels that hold nothing, which a GeoTIFF names."""
    text = getattr(image, "tag_v2", {}).get(_NO_DATA)
    try:
        return None if text is None else float(str(text).strip("\0 "))
    except ValueError:
        return None


def _range_of(values: Values, image: Image.Image) -> tuple[float, float]:
    """Returns the values of black and white for a picture of which only itself is known."""
    tags = getattr(image, "tag_v2", {})
    bits, form = tags.get(_BITS_PER_SAMPLE, (16,))[0], tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0]
    if image.mode.startswith("I;16"):
        return 0.0, 2.0**bits - 1
    if image.format == "PPM" and image.mode == "I":
        return FULL
    if tags and (bits, form) == (16, _SIGNED):
        return (-32768.0 if values.min() < 0 else 0.0), 32767.0
    low, high = min(float(values.min()), 0.0), float(values.max())
    if values.dtype.kind == "f" and high <= _SLACK:
        return low, 1.0
    if high <= (255 * _SLACK if values.dtype.kind == "f" else 255):
        return low, 255.0
    return low, max(65535.0, high)
