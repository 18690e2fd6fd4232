"""Small copies of images for pages: each is in a page's file once, however often it is shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image

from topwork.core import warm_up
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Interpolation
from topwork.core.errors import ImageError
from topwork.images.decode import Source, decode, find_formats, read_bytes
from topwork.images.orientation import read_orientation, upright_size
from topwork.images.repair import retry_repaired
from topwork.images.tiff import refuse_channels

THUMBNAIL_PX = 160
THREADS = 4

MakeThumbnail = Callable[[int], bytes]


class Header(NamedTuple):
    """What an encoded image says of itself.

    Attributes:
        width: pixels, after the EXIF orientation is applied.
        height: pixels, likewise.
        frames: 1 for a still picture.
        orientation: EXIF's number; 1 for upright.
        mode: Pillow's name, such as `RGB` or `CMYK`.
        format: Pillow's name, such as `JPEG`; None if it has none.
    """

    width: int
    height: int
    frames: int
    orientation: int
    mode: str
    format: str | None


def read_header(data: bytes) -> Header:
    """Reads what an encoded image says of itself, without decoding its pixels.

    Raises:
        ImageError: it cannot be read.
    """
    return retry_repaired(_read_header, data)


def _read_header(data: bytes) -> Header:
    refuse_channels(data)
    try:
        with Image.open(io.BytesIO(data), formats=find_formats(data)) as image:
            orientation = read_orientation(image)
            width, height = upright_size(image, orientation)
            frames = _count_frames(image)
            return Header(width, height, frames, orientation, image.mode, image.format)
    except ImageError:
        raise
    except Exception as error:
        # Pillow's plugins raise whatever a damaged file leads them to.
        raise ImageError(f"damaged or cut off ({error})") from None


def fit(width: int, height: int, side_px: int) -> tuple[int, int]:
    """Returns width and height, at least 1, of a picture whose longer side is `side_px`."""
    scale = side_px / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def open_upright(source: Source, side_px: int, ranges: str = "") -> Image.Image:
    """Returns a photograph in its own proportions, upright as its EXIF says.

    Args:
        source: the image.
        side_px: its longer side.
        ranges: as for `decode`.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    data = read_bytes(source)
    square = Image.fromarray(decode(data, side_px, Interpolation.BILINEAR, ranges=ranges))
    header = read_header(data)
    return square.resize(fit(header.width, header.height, side_px), Image.Resampling.BILINEAR)


def make_thumbnail(source: Source, side_px: int = THUMBNAIL_PX, ranges: str = "") -> bytes:
    """Makes a small upright WebP of a picture, with the colors that the base gets.

    Args:
        source: the image.
        side_px: its longer side.
        ranges: as for `decode`.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    return encode_webp(open_upright(source, side_px, ranges))


def encode_webp(image: Image.Image) -> bytes:
    """Encodes a picture as WebP, in few bytes and still looking good."""
    file = io.BytesIO()
    # Half the time of the default method, for a twentieth more bytes.
    image.save(file, "WEBP", quality=70, method=2)
    return file.getvalue()


def data_uri(data: bytes) -> str:
    """Returns a JPEG, PNG, WebP or SVG as an address that holds the whole picture."""
    kind = {b"RIFF": "webp", b"\x89PNG": "png", b"<svg": "svg+xml"}.get(data[:4], "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class ThumbnailSet:
    """The pictures that a page shows, each made once.

    Args:
        make: makes a small JPEG, PNG or WebP of the image at an index, in any thread. An
            `ImageError` leaves the picture empty.
        most: how many pictures the page may have; later ones are not shown.

    Attributes:
        found: data URIs by index; None for a picture that is not made yet, or could not be.
    """

    def __init__(self, make: MakeThumbnail, most: int) -> None:
        self.make = make
        self.most = most
        self.found: dict[int, str | None] = {}

    def add(self, index: int) -> bool:
        """Asks for the picture of an image, and returns whether the page shows it."""
        if index not in self.found and len(self.found) < self.most:
            self.found[index] = None
        return index in self.found

    def draw(self, callback: Callback = SILENT) -> None:
        """Makes all pictures that were asked for.

        Args:
            callback: `on_drawn` is called, in the caller's thread, with how many are made, and
                of how many.
        """
        warm_up.decoding()
        indices = list(self.found)
        with ThreadPoolExecutor(THREADS) as pool:
            for done, uri in enumerate(pool.map(self._encode, indices), 1):
                self.found[indices[done - 1]] = uri
                callback.on_drawn(done, len(indices))

    def _encode(self, index: int) -> str | None:
        try:
            return data_uri(self.make(index))
        except ImageError:
            return None


def _count_frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:
        # Pillow's plugins raise whatever damaged later frames lead them to.
        return 1
