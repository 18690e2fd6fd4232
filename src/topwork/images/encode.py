"""Images of Pillow become encoded images, so that they go the same way as files."""

from __future__ import annotations

import io

from PIL import Image, ImageFile

from topwork.core.errors import SettingsError
from topwork.core.ranges import Kind
from topwork.images.decode import FORMATS
from topwork.images.depth import find_kind
from topwork.images.orientation import read_orientation, turn_upright

# Modes that a PNG keeps as they are, with the transparent color that they may have.
_KEPT = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_NEAREST = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA", "I;16L": "I;16", "I;16B": "I;16"}


def encode_image(image: Image.Image) -> bytes:
    """Encodes an image of Pillow: upright, with its transparency, bits and palette.

    One that was opened and not loaded yet gives the bytes of its file, and so exactly its answers.

    Args:
        image: of any mode.

    Raises:
        SettingsError: it cannot be read.
    """
    if 0 in image.size:
        raise SettingsError(f"an image must have pixels, received one of {image.size}")
    try:
        return _read_file(image) or _encode(image)
    except Exception as error:
        # Pillow raises whatever a damaged or closed file leads it to.
        raise SettingsError(f"{image!r:.80} cannot be read: {error}") from None


def _read_file(image: Image.Image) -> bytes | None:
    """Returns the bytes of an image's file, if nobody can have changed its pixels since."""
    if not isinstance(image, ImageFile.ImageFile) or image.format not in FORMATS:
        return None
    file = image.fp
    if not image.tile or file is None or image.tell():
        return None
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    return data


def _encode(image: Image.Image) -> bytes:
    kind = find_kind(image)
    image.load()
    upright = turn_upright(image, read_orientation(image))
    if kind is Kind.UINT16 and image.mode == "I":
        upright = upright.convert("I;16")
    mode = _NEAREST.get(upright.mode, upright.mode)
    if mode not in (*_KEPT, "I", "F"):
        mode = "RGB"
    upright = upright if mode == upright.mode else upright.convert(mode)
    file = io.BytesIO()
    if mode in ("I", "F"):
        upright.save(file, "TIFF")
    else:
        upright.save(file, "PNG", compress_level=0, exif=b"", icc_profile=None)
    return file.getvalue()
