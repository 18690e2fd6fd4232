"""TIFFs that Pillow does not read: what they hold, in words.

Source: TIFF 6.0, sections 2 and 8; BigTIFF.
"""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import TiffImagePlugin

from topwork.core.errors import ImageError

_PLAIN = (b"II*\0", b"MM\0*")
_BIG = (b"II+\0", b"MM\0+")
_CHANNELS, _BITS, _FORM = 277, 258, 339
_FORMS = {1: "uint", 2: "int", 3: "float"}


class _Layout(NamedTuple):
    """How many channels a TIFF has, and of which numbers, such as `float32`."""

    channels: int
    numbers: str


def refuse_channels(data: bytes) -> None:
    """Refuses a TIFF of so many channels that Pillow would complain on the terminal.

    Raises:
        ImageError: with their number.
    """
    layout = _read_layout(data)
    if layout is not None and layout.channels > TiffImagePlugin.MAX_SAMPLESPERPIXEL:
        raise ImageError(_describe(layout))


def describe_tiff(data: bytes) -> str | None:
    """Says what a TIFF holds that Pillow does not read; None if it is none, or is damaged."""
    layout = _read_layout(data)
    return None if layout is None else _describe(layout)


def _describe(layout: _Layout) -> str:
    if layout.channels in (1, 3) and layout.numbers == "uint8":
        return "a TIFF of a kind that is not supported; save it as PNG"
    channels = "1 channel" if layout.channels == 1 else f"{layout.channels} channels"
    return (
        f"a TIFF with {channels} of {layout.numbers}, which is not supported; save the channels "
        "to look at as a grey picture, or as RGB of 8 or 16 bits"
    )


def _read_layout(data: bytes) -> _Layout | None:
    if not data.startswith((*_PLAIN, *_BIG)):
        return None
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data.startswith(_BIG) else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        if not len(tags):
            return None
        bits, form = tags.get(_BITS, (1,)), tags.get(_FORM, (1,))
        return _Layout(int(tags.get(_CHANNELS, 1)), f"{_FORMS.get(form[0], 'number')}{bits[0]}")
    except Exception:
        # Pillow raises whatever a damaged file leads it to.
        return None
