"""Views: which augmented versions of an image there are, and what each of them draws.

View 0 is the whole image as it is, the original. View K is drawn from the SHA-256 of the image's
bytes and K alone: it is the same on every machine and for ever, so that its vector can be stored
like any other. This module is arithmetic only; `decode` makes the pixels.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topwork.core.errors import SettingsError

ORIGINAL = "original"
# Part of every view's name, to be raised when the same name would give other pixels.
VIEW_VERSION = "1"

_NAME = re.compile(rf"augmented-{re.escape(VIEW_VERSION)}-([1-9][0-9]*)")

AREA = (0.6, 1.0)
ASPECT = (4 / 5, 5 / 4)
ANGLE_DEG = (-12.0, 12.0)
SHEAR_DEG = (-8.0, 8.0)
COLOR = (0.8, 1.2)
# Brightness of red, green and blue. Source: ITU-R BT.601-7, as in Pillow's mode "L".
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class View:
    """The parameters of one augmented view.

    Lengths are fractions of the picture's sides, x to the right and y down. They refer to the
    picture stretched to a square, which is then cropped, sheared and rotated.

    Attributes:
        flip: whether left and right are swapped.
        width: of the crop, in (0, 1].
        height: of the crop, in (0, 1].
        x: center of the crop, in (0, 1).
        y: center of the crop, in (0, 1).
        angle_deg: by how much the crop is rotated.
        shear_deg: by how much its vertical sides are slanted.
        brightness: factor; 1 changes nothing, as for the next two.
        contrast: factor.
        saturation: factor.
    """

    flip: bool
    width: float
    height: float
    x: float
    y: float
    angle_deg: float
    shear_deg: float
    brightness: float
    contrast: float
    saturation: float

    def affine(self) -> NDArray[np.float64]:
        """Returns the map from the view to the picture.

        Returns:
            (2, 3) float64: its product with (x, y, 1), a point of the view in [0, 1]², is the
            point of the picture, in [0, 1]² too.
        """
        turn = _turn(self.width, self.height, self.angle_deg, self.shear_deg)
        if self.flip:
            turn[:, 0] *= -1
        middle = np.array([self.x, self.y])
        return np.column_stack([turn, middle - turn.sum(axis=1) / 2])

    def colors(self, gray: float) -> NDArray[np.float64]:
        """Returns the map from colors to the view's colors.

        Brightness moves colors from black, then contrast from the mean gray of the view, then
        saturation from the gray of the same brightness. Each is linear, so together they are
        one map, after which values are rounded and clipped once.

        Args:
            gray: mean brightness of the view before its colors change, in [0, 255].

        Returns:
            (3, 4) float64: its product with (red, green, blue, 1) is the new color.
        """
        saturate = self.saturation * np.eye(3) + (1 - self.saturation) * _LUMA
        middle = (1 - self.contrast) * self.brightness * gray
        return np.column_stack([self.brightness * self.contrast * saturate, np.full(3, middle)])


def view_name(number: int) -> str:
    """Returns the name of a view: of the original for 0, of an augmented one from 1 on.

    Raises:
        SettingsError: the number is negative.
    """
    if number < 0:
        raise SettingsError(f"a view's number must be 0 or more, received {number}")
    return f"augmented-{VIEW_VERSION}-{number}" if number else ORIGINAL


def view_number(name: str) -> int:
    """Returns the number of a view, 0 for the original.

    Raises:
        SettingsError: no view of this recipe has that name.
    """
    if name == ORIGINAL:
        return 0
    match = _NAME.fullmatch(name)
    if match is None:
        raise SettingsError(
            f"a view must be '{ORIGINAL}' or 'augmented-{VIEW_VERSION}-' and a number from 1 on, "
            f"received {name!r}; a view of another recipe needs the version that made it"
        )
    return int(match[1])


def draw(sha256: str, number: int) -> View:
    """Draws an augmented view.

    Crops have 0.6 to 1 of the picture's area and 4/5 to 5/4 of its aspect ratio, and are rotated
    by up to 12° and sheared by up to 8°. One that would reach over the picture's edge is shrunk
    until it just fits, so that there are no corners to fill.

    Args:
        sha256: of the image's bytes, hex.
        number: of the view, 1 or more.
    """
    # NumPy guarantees that PCG64's integers stay the same, but not what a Generator draws.
    raw = np.random.PCG64([int(sha256, 16), number]).random_raw(10)
    shares = [int(value >> np.uint64(11)) / 2**53 for value in raw]
    flip, area, aspect, angle, shear, x, y, brightness, contrast, saturation = shares

    angle_deg, shear_deg = _between(ANGLE_DEG, angle), _between(SHEAR_DEG, shear)
    ratio = math.exp(_between((math.log(ASPECT[0]), math.log(ASPECT[1])), aspect))
    side = math.sqrt(_between(AREA, area))
    width, height = side * math.sqrt(ratio), side / math.sqrt(ratio)
    reach = np.abs(_turn(width, height, angle_deg, shear_deg)).sum(axis=1)
    shrink = min(1.0, 1 / float(reach.max()))
    room = 1 - shrink * reach
    return View(
        flip=flip < 0.5,
        width=shrink * width,
        height=shrink * height,
        x=float(0.5 + (x - 0.5) * room[0]),
        y=float(0.5 + (y - 0.5) * room[1]),
        angle_deg=angle_deg,
        shear_deg=shear_deg,
        brightness=_between(COLOR, brightness),
        contrast=_between(COLOR, contrast),
        saturation=_between(COLOR, saturation),
    )


def _turn(width: float, height: float, angle_deg: float, shear_deg: float) -> NDArray[np.float64]:
    """Returns (2, 2), the linear map of a crop around its center: scale, shear, rotate."""
    angle, slant = math.radians(angle_deg), math.tan(math.radians(shear_deg))
    cos, sin = math.cos(angle), math.sin(angle)
    # Written out, since a library's product may be rounded differently on another machine.
    return np.array(
        [
            [cos * width, (cos * slant - sin) * height],
            [sin * width, (sin * slant + cos) * height],
        ]
    )


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + share * (limits[1] - limits[0])
