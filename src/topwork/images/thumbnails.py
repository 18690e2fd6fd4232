"""Small copies of images for a page: each is in the file once, however often it is shown."""

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

THUMBNAIL_PX = 160
THREADS = 4

_ORIENTATION = 274  # EXIF 2.32: the tag; 5 to 8 exchange width and height

Thumbnails = Callable[[int], bytes]


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
    try:
        with Image.open(io.BytesIO(data), formats=find_formats(data)) as image:
            # The decoder of HEIC turns the picture itself, and leaves the tag.
            tag = 1 if image.format == "HEIF" else image.getexif().get(_ORIENTATION, 1)
            turn = tag if tag in range(1, 9) else 1
            width, height = image.size if turn < 5 else image.size[::-1]
            return Header(width, height, _count_frames(image), turn, image.mode, image.format)
    except ImageError:
        raise
    except Exception as error:
        # Pillow's plugins raise whatever a damaged file leads them to.
        raise ImageError(f"damaged or cut off ({error})") from None


def fit(width: int, height: int, side_px: int) -> tuple[int, int]:
    """Returns width and height, at least 1, of a picture whose longer side is `side_px`."""
    scale = side_px / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def open_upright(source: Source, side_px: int) -> Image.Image:
    """Returns a photograph in its own proportions, upright as its EXIF says.

    Args:
        source: the image.
        side_px: its longer side.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    data = read_bytes(source)
    square = Image.fromarray(decode(data, side_px, Interpolation.BILINEAR))
    header = read_header(data)
    return square.resize(fit(header.width, header.height, side_px), Image.Resampling.BILINEAR)


def make_thumbnail(source: Source, side_px: int = THUMBNAIL_PX) -> bytes:
    """Makes a small WebP of a picture, upright, as the base sees its colours.

    Args:
        source: the image.
        side_px: its longer side.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    return encode_webp(open_upright(source, side_px))


def encode_webp(image: Image.Image) -> bytes:
    """Encodes a picture as small as it may be without looking bad."""
    file = io.BytesIO()
    # Half the time of the default method, for a twentieth more bytes.
    image.save(file, "WEBP", quality=70, method=2)
    return file.getvalue()


def data_uri(data: bytes) -> str:
    """Returns a JPEG, PNG or WebP as an address that holds the whole picture."""
    kind = {b"RIFF": "webp", b"\x89PNG": "png"}.get(data[:4], "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class Pictures:
    """The pictures that a page shows.

    Args:
        make: makes a small JPEG, PNG or WebP of the image in a place, in any thread. An
            `ImageError` leaves the picture empty.
        most: how many pictures the page may have; later ones are not shown.
    """

    def __init__(self, make: Thumbnails, most: int) -> None:
        self.make = make
        self.most = most
        self.found: dict[int, str | None] = {}

    def add(self, place: int) -> bool:
        """Asks for the picture of an image, and returns whether the page shows it."""
        if place not in self.found and len(self.found) < self.most:
            self.found[place] = None
        return place in self.found

    def draw(self, callback: Callback = SILENT) -> None:
        """Makes all pictures that were asked for.

        Args:
            callback: hears, in the caller's thread, how many are made, and of how many.
        """
        warm_up.decoding()
        places = list(self.found)
        with ThreadPoolExecutor(THREADS) as pool:
            for done, uri in enumerate(pool.map(self._encode, places), 1):
                self.found[places[done - 1]] = uri
                callback.on_drawn(done, len(places))

    def _encode(self, place: int) -> str | None:
        try:
            return data_uri(self.make(place))
        except ImageError:
            return None


def _count_frames(image: Image.Image) -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:
        # The first frame is whole, or it would not have been decoded; plugins raise anything.
        return 1
