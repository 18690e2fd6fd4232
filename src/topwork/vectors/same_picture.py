"""Whether two images show the same picture, decided by their pixels.

Vectors say which images may show one picture, pixels say which do. A network finds two grey
T-shirts on one table alike, and so does the correlation of their pixels; a copy differs from its
original nowhere. What is found here: other qualities, formats and sizes, and mirror images of
these. `registration` finds what was cut, turned, or made grey, darker or brighter.

The figures beside the constants were measured on 150 photographs of clothes (400 x 500 pixels)
in 15 versions each, and on all pairs of 3,781 such photographs, of which one pair shows one
picture.
"""

from __future__ import annotations

import numpy as np

from topwork.core.arrays import Floats32, Pixels
from topwork.core.config import Interpolation
from topwork.images.decode import decode

# Correlation of grey pictures of 32 x 32. Of copies 0.991 and more, decoded fast, which is enough
# to rule most pairs out; 0.997 and more, decoded well. Unrelated pairs reach 0.979.
LEAST_CORRELATION = 0.95
CORRELATION = 0.98
# How far two pictures may differ, averaged over the colors, in any cell of a grid of so many
# cells a side, in levels of 0..255. Of copies at most 19, 8 and 4, at half the size and quality 30
# 37, 13 and 5; unrelated pairs that correlate at 0.94 differ by 53, 44 and 30 or more.
DIFFERENCES = {64: 48.0, 32: 24.0, 16: 12.0}
# The standard deviation below which a picture shows nothing but noise to tell a copy by.
UNIFORM = 2.0

# Sides of the two small pictures that are compared.
COARSE = 32
FINE = 64
# Decoded at this side, then averaged: at 64 a JPEG would be shrunk while it is decoded, and a
# copy of another size would be shrunk otherwise and differ by up to 76 levels.
_DECODED_PX = 256
_SQUARE_PX = 128
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


def make_coarse(data: bytes, ranges: str = "") -> Pixels:
    """Returns a small grey picture (32, 32) uint8 of an encoded image, fast.

    Raises:
        ImageError: it cannot be decoded.
    """
    pixels = decode(data, 2 * COARSE, Interpolation.BILINEAR, ranges=ranges)
    return np.rint(average(pixels @ _GREY, COARSE)).astype(np.uint8)


def open_square(data: bytes, ranges: str = "") -> Floats32:
    """Returns an encoded image stretched to a square, (128, 128, 3) float32, 0..255.

    Raises:
        ImageError: it cannot be decoded.
    """
    return decode(data, _SQUARE_PX, Interpolation.BILINEAR, ranges=ranges).astype(np.float32)


def make_fine(data: bytes, ranges: str = "") -> Floats32:
    """Returns a small picture (64, 64, 3) float32, 0..255, of an encoded image.

    Raises:
        ImageError: it cannot be decoded.
    """
    pixels = decode(data, _DECODED_PX, Interpolation.BILINEAR, ranges=ranges)
    return average(pixels.astype(np.float32), FINE)


def correlate_coarse(first: Pixels, second: Pixels) -> Floats32:
    """Returns the correlations (P,) of coarse pictures, or of their mirror images if higher.

    Args:
        first: (P, 1024), one picture of each pair.
        second: (P, 1024), the other one.
    """
    left, right = first.astype(np.float32), second.astype(np.float32)
    mirrored = right.reshape(-1, COARSE, COARSE)[:, :, ::-1].reshape(len(right), -1)
    return np.maximum(correlate(left, right), correlate(left, mirrored))


def compare_pictures(one: Floats32, other: Floats32) -> float | None:
    """Decides whether two fine pictures are the same.

    Args:
        one: (64, 64, 3), as `make_fine` returns it.
        other: the same of the other image.

    Returns:
        The correlation of their grey pictures, or None if they differ somewhere.
    """
    for cells, most in DIFFERENCES.items():
        differences = np.abs(average(one - other, cells)).mean(axis=2)
        if differences.max() > most:
            return None
    small = [average(picture @ _GREY, COARSE).reshape(1, -1) for picture in (one, other)]
    similarity = float(correlate(*small)[0])
    return similarity if similarity >= CORRELATION else None


def correlate(left: Floats32, right: Floats32) -> Floats32:
    """Returns the correlation of each row with its counterpart, (P,), -1..1.

    A row of equal values correlates at 0.

    Args:
        left: (P, V).
        right: (P, V).
    """
    left = left - left.mean(axis=1, keepdims=True)
    right = right - right.mean(axis=1, keepdims=True)
    products = np.einsum("pv,pv->p", left, right)
    squares = np.einsum("pv,pv->p", left, left) * np.einsum("pv,pv->p", right, right)
    return np.asarray(products / np.sqrt(np.where(squares > 0, squares, 1)), np.float32)


def average(pixels: Floats32, cells: int) -> Floats32:
    """Averages a square picture over the cells of a grid.

    Args:
        pixels: (S, S) or (S, S, C); S a multiple of `cells`.
        cells: cells a side.

    Returns:
        (cells, cells) or (cells, cells, C).
    """
    step = len(pixels) // cells
    shape = cells, step, cells, step, *pixels.shape[2:]
    return np.asarray(pixels.reshape(shape).mean(axis=(1, 3)), np.float32)
