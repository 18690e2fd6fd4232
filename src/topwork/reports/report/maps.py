"""Class activation maps laid over small pictures, in colours and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from topwork.core.arrays import Floats32
from topwork.core.errors import ImageError
from topwork.images.decode import Source, read_bytes
from topwork.images.thumbnails import data_uri, encode_webp, fit, read_header
from topwork.models.explain import Explainer
from topwork.models.heatmap import AGAINST, FOR

# The page makes it larger, and smooth: a map has some seven places a side.
MAP_PX = 48
STRONGEST = 0.8
_ROWS = ("above", "half-way down", "below")
_COLUMNS = ("on the left", "in the middle", "on the right")


@dataclass(frozen=True)
class HeatMap:
    """What speaks for an answer.

    Attributes:
        answer: its name.
        uri: a transparent picture of the same proportions as the image.
        words: where it is strongest, for whoever does not see it.
    """

    answer: str
    uri: str
    words: str


def draw_maps(
    explainer: Explainer, source: Source, asked: Sequence[tuple[int, str]]
) -> list[HeatMap]:
    """Draws what speaks for some answers about an image; nothing if it cannot be read.

    Args:
        explainer: of the model.
        source: the image.
        asked: answers by index, and their names. Their maps have one scale.
    """
    try:
        data = read_bytes(source)
        header = read_header(data)
        explanation = explainer.explain(data)
    except ImageError:
        return []
    size = fit(header.width, header.height, MAP_PX)
    heats = [explanation.heat(answer, *size) for answer, _ in asked]
    most = max((float(np.abs(heat).max()) for heat in heats), default=0.0) or 1.0
    return [
        HeatMap(name, data_uri(encode_webp(colorize(heat, most))), say_place(heat))
        for (_, name), heat in zip(asked, heats, strict=True)
    ]


def colorize(heat: Floats32, most: float) -> Image.Image:
    """Returns a map as a picture: transparent where it is 0, strongest at `most`.

    Args:
        heat: (height, width) in units of the logit.
        most: above 0.
    """
    pixels = np.zeros((*heat.shape, 4), np.uint8)
    pixels[heat >= 0, :3] = FOR
    pixels[heat < 0, :3] = AGAINST
    pixels[..., 3] = np.rint(255 * STRONGEST * np.clip(np.abs(heat) / most, 0, 1))
    return Image.fromarray(pixels, "RGBA")


def say_place(heat: Floats32) -> str:
    """Says in which ninth of an image a map is highest."""
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    row, column = (3 * int(at) // side for at, side in zip((y, x), heat.shape, strict=True))
    return f"strongest {_ROWS[row]} {_COLUMNS[column]}"
