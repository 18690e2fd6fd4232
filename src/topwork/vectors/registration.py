"""Whether one picture is another that was cut, turned or made darker, grey or paler.

Two small grey pictures are laid over each other and compared where both are. Their spectra, which
no shift changes, tell by how much one is turned and scaled; then correlation tells the shift,
least squares mend all four numbers, and what is left must agree, above all in its finest detail:
two shirts on one table agree in the rest.

Pure functions on arrays. P: pairs; pictures are of `SIDE` pixels a side.

Sources: Reddy and Chatterji, "An FFT-based technique for translation, rotation, and
scale-invariant image registration", 1996; Lucas and Kanade, "An iterative image registration
technique with an application to stereo vision", 1981.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import Bools, Floats32, Pixels

SIDE = 64
# Steps of half a turn, and of the radius, in a spectrum; beyond so many steps of the radius, 1.5
# times, scales are not looked for.
_ANGLES, _RADII, _MOST_STEPS = 64, 40, 7
_INNER, _OUTER = 2.5, 0.45 * SIDE
_STEP = float(np.log(_OUTER / _INNER)) / (_RADII - 1)
# Greys by which the pixels of an even border, as turning a picture leaves in its corners, differ.
_EVEN = 6

# What pairs of pictures must reach, measured on 40 photographs in 24 versions each and on 18,123
# pairs of neighbors among the photographs of `same_picture`. Correlation of the spectra: of copies
# 0.50 and more, of five in six unrelated neighbors less.
LEAST_SPECTRAL = 0.48
# Correlation where both are, at half the size and in the end: of 39 of 40 copies 0.98 and more.
LEAST_ROUGH, LEAST_CORRELATION = 0.9, 0.97
# The same of fine detail: of 39 of 40 copies 0.90 and more, of unrelated neighbors up to 0.90.
LEAST_DETAIL = 0.88
# How far two pictures may differ in any cell of so many pixels a side, in levels of 0..255, once
# their brightness is the same. Of 39 of 40 copies 40, 25 and 14 at most; of unrelated neighbors
# that correlate so highly all differ by more in one of them.
DIFFERENCES = {1: 48.0, 2: 26.0, 4: 15.0}
# The same of color, in cells of 4 pixels. What has less color than that in the mean is grey, and
# may be the grey version of any picture.
MOST_TINGED, GREY = 24.0, 4.0
# Share of the smaller picture that the other one must cover, and the least standard deviation of
# what both show, in levels of 0..255.
LEAST_COVER, LEAST_SPREAD = 0.6, 6.0
# Pairs that are registered at once: they stay within a processor's cache.
_BATCH = 32


class Upright(NamedTuple):
    """Pictures in their own proportions, in the middle of a square.

    Attributes:
        grey: (N, 64, 64) uint8.
        mask: (N, 64, 64) bool, where the picture is, without an even border.
        tinge: (N, 32, 32, 2) int8, by how much red and blue exceed grey, halved.
        spectrum: (N, 64, 40) float16, by angle and by the logarithm of the radius; mean 0 and
            length 1.
    """

    grey: Pixels
    mask: Bools
    tinge: NDArray[np.int8]
    spectrum: NDArray[np.float16]

    @classmethod
    def allocate(cls, count: int) -> Upright:
        """Returns zeros for so many pictures."""
        shape = count, SIDE, SIDE
        spectrum = np.zeros((count, _ANGLES, _RADII), np.float16)
        tinge = np.zeros((count, SIDE // 2, SIDE // 2, 2), np.int8)
        return cls(np.zeros(shape, np.uint8), np.zeros(shape, np.bool_), tinge, spectrum)

    def put(self, row: int, square: Floats32, width: int, height: int) -> None:
        """Writes a picture.

        Args:
            row: which.
            square: (S, S, 3) RGB, 0..255, the picture stretched to a square; S at least 64.
            width: of the picture itself.
            height: likewise.
        """
        from PIL import Image

        scale = SIDE / max(width, height)
        wide, high = (max(1, round(side * scale)) for side in (width, height))
        grey = square @ _GREY
        layers = (grey, square[..., 0] - grey, square[..., 2] - grey)
        small, red, blue = (
            np.asarray(Image.fromarray(layer).resize((wide, high), Image.Resampling.BOX))
            for layer in layers
        )
        left, top = (SIDE - wide) // 2, (SIDE - high) // 2
        pixels = np.rint(small).clip(0, 255).astype(np.uint8)
        tinge = np.zeros((SIDE, SIDE, 2), np.float32)
        tinge[top : top + high, left : left + wide] = np.stack([red, blue], axis=2)
        quarter = tinge.reshape(SIDE // 2, 2, SIDE // 2, 2, 2).mean(axis=(1, 3))
        self.tinge[row] = np.rint(quarter / 2).clip(-127, 127)
        self.grey[row] = round(float(pixels.mean()))
        self.grey[row, top : top + high, left : left + wide] = pixels
        self.mask[row, top : top + high, left : left + wide] = _find_content(pixels)
        self.spectrum[row] = _find_spectrum(_fade(self.grey[row]))


def match_spectra(
    first: NDArray[np.float16], second: NDArray[np.float16]
) -> tuple[Floats32, Floats32, Floats32]:
    """Returns how well spectra match, and by how much the second is turned and scaled, each (P,).

    Args:
        first: (P, 64, 40).
        second: (P, 64, 40).

    Returns:
        The correlation, -1..1; radians, 0 to half a turn; the scale.
    """
    from scipy import fft

    # Padded, so that no scale that is looked for wraps around.
    shape = _ANGLES, _RADII + _MOST_STEPS + 1
    one, other = (fft.rfft2(part.astype(np.float32), shape) for part in (first, second))
    found = fft.irfft2(one * np.conj(other), shape)
    steps = np.arange(-_MOST_STEPS, _MOST_STEPS + 1)
    near = found[:, :, steps].reshape(len(found), -1)
    best = near.argmax(axis=1)
    angle, step = np.divmod(best, len(steps))
    score = np.take_along_axis(near, best[:, None], axis=1)[:, 0]
    return (
        np.asarray(score, np.float32),
        np.asarray(angle * np.pi / _ANGLES, np.float32),
        np.exp(steps[step] * _STEP).astype(np.float32),
    )


def register(pictures: Upright, first: NDArray[np.int64], second: NDArray[np.int64]) -> Floats32:
    """Returns how well pairs of pictures agree where both are, (P,): NaN where they are not one.

    Args:
        pictures: N of them.
        first: (P,) the one of each pair.
        second: (P,) the other.
    """
    found = np.full(len(first), np.nan, np.float32)
    score, angle, scale = match_spectra(pictures.spectrum[first], pictures.spectrum[second])
    likely = np.flatnonzero(score >= LEAST_SPECTRAL)
    for start in range(0, len(likely), _BATCH):
        near = likely[start : start + _BATCH]
        pairs = _Pairs(pictures, first[near], second[near])
        moves = pairs.find_shift(angle[near], scale[near])
        moves, rough = pairs.refine(moves, 2, 8)
        left = rough >= LEAST_ROUGH
        if left.any():
            near = near[left]
            pairs = _Pairs(pictures, first[near], second[near])
            moves, _ = pairs.refine(moves[left], 1, 3)
            found[near] = pairs.compare(moves)
    return found


class _Pairs:
    """Pairs of pictures, and how the second of each is moved onto the first.

    A move (a, b, x, y) takes a point (X, Y) of the first, from its middle, to
    (aX - bY + x, bX + aY + y) of the second.
    """

    def __init__(
        self, pictures: Upright, first: NDArray[np.int64], second: NDArray[np.int64]
    ) -> None:
        self.grey = [pictures.grey[rows].astype(np.float32) for rows in (first, second)]
        self.mask = [pictures.mask[rows].astype(np.float32) for rows in (first, second)]
        self.tinge = [2 * pictures.tinge[rows].astype(np.float32) for rows in (first, second)]

    def find_shift(self, angle: Floats32, scale: Floats32) -> Floats32:
        """Returns moves (P, 4), of the two turns that a spectrum cannot tell apart the better."""
        from scipy import fft

        faded = [_halve(_fade(grey)) for grey in self.grey]
        side = SIDE // 2
        shape = 2 * side, 2 * side
        one = fft.rfft2(faded[0], shape)
        best = np.full(len(angle), -np.inf, np.float32)
        moves = np.zeros((len(angle), 4), np.float32)
        for turn in (0.0, np.pi):
            a, b = scale * np.cos(angle + turn), -scale * np.sin(angle + turn)
            turned = np.stack([a, b, 0 * a, 0 * a], axis=1).astype(np.float32)
            moved = _take(faded[1][..., None], turned)[..., 0]
            found = fft.irfft2(one * np.conj(fft.rfft2(moved, shape)), shape)
            flat = found.reshape(len(found), -1)
            place = flat.argmax(axis=1)
            value = np.take_along_axis(flat, place[:, None], axis=1)[:, 0]
            value = value / np.sqrt((moved**2).sum(axis=(1, 2)) + 1e-6)
            down, right = ((at + side) % (2 * side) - side for at in np.divmod(place, 2 * side))
            turned[:, 2] = -2 * (a * right - b * down)
            turned[:, 3] = -2 * (b * right + a * down)
            better = value > best
            best, moves[better] = np.maximum(best, value), turned[better]
        return moves

    def refine(self, moves: Floats32, step: int, rounds: int) -> tuple[Floats32, Floats32]:
        """Returns moves that least squares have mended, at one pixel of `step`; correlations."""
        from scipy.ndimage import gaussian_filter

        grey = [gaussian_filter(part, (0, step, step))[:, ::step, ::step] for part in self.grey]
        mask = [part[:, ::step, ::step] for part in self.mask]
        # Of these pixels the middle is not that of the picture.
        off = (step - 1) / 2
        down, right = np.gradient(grey[1], axis=(1, 2))
        stack = np.stack([grey[1], right, down, mask[1]], axis=3)
        x, y = _middle(SIDE // step, off / step)
        moves = moves.copy()
        for number in range(rounds + 1):
            taken = _take(stack, moves, step, off)
            used = (taken[..., 3] > 0.99) * mask[0]
            if number == rounds:
                break
            gain, offset = _fit_greys(grey[0], taken[..., 0], used)
            error = (grey[0] - gain * taken[..., 0] - offset) * used
            used = used / (1 + (error / 20) ** 2)
            right, down = gain * taken[..., 1], gain * taken[..., 2]
            slopes = np.stack([right * x + down * y, down * x - right * y, right, down], axis=3)
            flat = slopes.reshape(len(moves), -1, 4)
            weighed = (flat * used.reshape(len(moves), -1, 1)).transpose(0, 2, 1)
            square = weighed @ flat + 1e-2 * np.eye(4, dtype=np.float32)
            sums = weighed @ error.reshape(len(moves), -1, 1)
            change = np.linalg.solve(square, sums)[..., 0]
            change[:, 2:] *= step
            moves += np.clip(change, *_MOST_CHANGE).astype(np.float32)
        return moves, _correlate(_center(grey[0], used)[0], _center(taken[..., 0], used)[0])

    def compare(self, moves: Floats32) -> Floats32:
        """Returns the correlation (P,) of what is in both; NaN where they are not one picture."""
        from scipy.ndimage import gaussian_filter

        grey = [gaussian_filter(part, (0, 0.7, 0.7)) for part in self.grey]
        taken = _take(np.stack([grey[1], self.mask[1]], axis=3), moves)
        used = (taken[..., 1] > 0.99) * self.mask[0]
        count = used.sum(axis=(1, 2))
        area = moves[:, 0] ** 2 + moves[:, 1] ** 2
        sizes = np.minimum(
            self.mask[0].sum(axis=(1, 2)), self.mask[1].sum(axis=(1, 2)) / np.maximum(area, 1e-6)
        )
        (one, spread), (other, breadth) = (_center(part, used) for part in (grey[0], taken[..., 0]))
        whole = _correlate(one, other)
        good = (count >= LEAST_COVER * sizes) & (np.minimum(spread, breadth) >= LEAST_SPREAD)
        good &= whole >= LEAST_CORRELATION
        blurred = gaussian_filter(used, (0, 2, 2)) + 1e-6
        fine = [part - gaussian_filter(part, (0, 2, 2)) / blurred for part in (one, other)]
        good &= _correlate(*(_center(part, used)[0] for part in fine)) >= LEAST_DETAIL
        gain = np.clip(spread / np.maximum(breadth, 1e-6), 0.3, 3.0)[:, None, None]
        rest: Floats32 = np.asarray(one - gain * other, np.float32)[..., None]
        for cells, most in DIFFERENCES.items():
            good &= _largest(rest, cells) <= most
        good &= self._has_color_of(moves, used)
        return np.asarray(np.where(good, whole, np.nan), np.float32)

    def _has_color_of(self, moves: Floats32, used: Floats32) -> Bools:
        """Whether pairs (P,) have the same colors where they are used, or one of them is grey."""
        inside = np.ones_like(self.tinge[1][..., :1])
        taken = _take(np.concatenate([self.tinge[1], inside], axis=3), moves)
        used = used[:, ::2, ::2, None] * (taken[..., 2:] > 0.99)
        one, other = self.tinge[0] * used, taken[..., :2] * used
        count = 2 * used.sum(axis=(1, 2, 3)) + 1e-6
        strength = [np.abs(part).sum(axis=(1, 2, 3)) / count for part in (one, other)]
        products = (one * other).sum(axis=(1, 2, 3)) / ((other**2).sum(axis=(1, 2, 3)) + 1e-6)
        gain = np.clip(products, 0.3, 3.0)[:, None, None, None]
        rest = np.asarray(one - gain * other, np.float32)
        return np.asarray((np.minimum(*strength) <= GREY) | (_largest(rest, 2) <= MOST_TINGED))


# The most that a round of least squares may change a move by: turn and scale, then the shift.
_MOST_CHANGE = (
    np.array([-0.1, -0.1, -4, -4], np.float32),
    np.array([0.1, 0.1, 4, 4], np.float32),
)


def _find_content(pixels: Pixels) -> Bools:
    """Returns where (H, W) there is a picture: not at its edge, nor in an even border."""
    from scipy import ndimage

    grey = pixels.astype(np.int16)
    even = ndimage.maximum_filter(grey, 3) - ndimage.minimum_filter(grey, 3) <= _EVEN
    parts, _ = ndimage.label(even)
    border = np.isin(parts, np.setdiff1d(parts[[0, 0, -1, -1], [0, -1, 0, -1]], 0))
    content = ~ndimage.binary_dilation(border, iterations=2)
    if content.mean() < 0.2:
        content[:] = True
    return np.asarray(ndimage.binary_erosion(content), np.bool_)


def _fade(grey: NDArray[Any]) -> Floats32:
    """Returns pictures (..., 64, 64) with a mean of 0 that fade to 0 at the edges of the square."""
    mean = (grey * _WINDOW).sum(axis=(-2, -1), keepdims=True) / _WINDOW.sum()
    return np.asarray((grey - mean) * _WINDOW, np.float32)


def _find_spectrum(faded: Floats32) -> Floats32:
    """Returns the spectrum (64, 40) of a faded picture; see `Upright`."""
    from scipy import fft
    from scipy.ndimage import map_coordinates

    # Half of it, downwards: the other half is the same.
    whole = np.log1p(np.abs(fft.rfftn(faded, (2 * SIDE, 2 * SIDE), axes=(1, 0))))
    angle = np.arange(_ANGLES)[:, None] * np.pi / _ANGLES
    radius = 2 * _INNER * np.exp(np.arange(_RADII) * _STEP)
    places = np.stack([radius * np.sin(angle), radius * np.cos(angle)])
    polar = map_coordinates(whole, places, order=1, mode="grid-wrap")
    polar -= polar.mean(axis=0)
    return np.asarray(polar / (np.linalg.norm(polar) + 1e-6), np.float32)


def _halve(pictures: Floats32) -> Floats32:
    """Averages pictures (P, S, S) over squares of 2 pixels."""
    count, side, _ = pictures.shape
    shape = count, side // 2, 2, side // 2, 2
    return np.asarray(pictures.reshape(shape).mean(axis=(2, 4)), np.float32)


def _middle(side: int, off: float = 0.0) -> tuple[Floats32, Floats32]:
    """Returns the places (1, S) and (S, 1) of pixels, from the middle of a picture."""
    places = np.arange(side, dtype=np.float32) - (side - 1) / 2 - off
    return places[None, :], places[:, None]


def _take(stack: Floats32, moves: Floats32, step: int | None = None, off: float = 0.0) -> Floats32:
    """Returns values (P, S, S, V) of pictures where moves lead, between pixels; 0 outside.

    Args:
        stack: (P, S, S, V).
        moves: (P, 4), in pixels of the large picture.
        step: pixels of the large picture for one of these; None to tell by the side.
        off: see `_Pairs.refine`.
    """
    count, side = stack.shape[:2]
    step = step or SIDE // side
    a, b, right, down = (moves[:, n, None, None] for n in range(4))
    x, y = _middle(side, off / step)
    middle = (side - 1) / 2 + off / step
    at_x, at_y = a * x - b * y + right / step + middle, b * x + a * y + down / step + middle
    left, top = np.floor(at_x), np.floor(at_y)
    inside = np.flatnonzero((left >= 0) & (top >= 0) & (left < side - 1) & (top < side - 1))
    left, top = left.ravel()[inside], top.ravel()[inside]
    part_x, part_y = at_x.ravel()[inside] - left, at_y.ravel()[inside] - top
    place = inside - inside % (side * side) + (top * side + left).astype(np.int64)
    flat = stack.reshape(count * side * side, -1)

    # In place: these arrays are many times a processor's cache, and most of the time is theirs.
    def mix(one: Floats32, other: Floats32, part: Floats32) -> Floats32:
        one *= 1 - part[:, None]
        other *= part[:, None]
        one += other
        return one

    upper = mix(flat.take(place, axis=0), flat.take(place + 1, axis=0), part_x)
    lower = mix(flat.take(place + side, axis=0), flat.take(place + side + 1, axis=0), part_x)
    taken = np.zeros_like(flat)
    taken[inside] = mix(upper, lower, part_y)
    return taken.reshape(stack.shape)


def _largest(rest: Floats32, cells: int) -> Floats32:
    """Returns the largest mean (P,) over cells of so many pixels a side of (P, S, S, V)."""
    count, side, _, values = rest.shape
    shape = count, side // cells, cells, side // cells, cells, values
    means = np.abs(rest.reshape(shape).mean(axis=(2, 4))).mean(axis=3)
    return np.asarray(means.max(axis=(1, 2)), np.float32)


def _center(grey: Floats32, used: Floats32) -> tuple[Floats32, Floats32]:
    """Returns pictures with a mean of 0 where they are used, and 0 elsewhere; and deviations."""
    count = used.sum(axis=(1, 2), keepdims=True) + 1e-6
    centered = (grey - (grey * used).sum(axis=(1, 2), keepdims=True) / count) * used
    spread = np.sqrt((centered**2).sum(axis=(1, 2)) / count[:, 0, 0])
    return np.asarray(centered, np.float32), np.asarray(spread, np.float32)


def _fit_greys(one: Floats32, other: Floats32, used: Floats32) -> tuple[Floats32, Floats32]:
    """Returns gain and offset (P, 1, 1) that bring the greys of the other to those of the one."""
    left, right = _center(one, used)[0], _center(other, used)[0]
    products = (left * right).sum(axis=(1, 2)) / ((right**2).sum(axis=(1, 2)) + 1e-6)
    gain = np.clip(products, 0.3, 3.0)[:, None, None]
    count = used.sum(axis=(1, 2), keepdims=True) + 1e-6
    offset = ((one - gain * other) * used).sum(axis=(1, 2), keepdims=True) / count
    return np.asarray(gain, np.float32), np.asarray(offset, np.float32)


def _correlate(one: Floats32, other: Floats32) -> Floats32:
    """Returns the correlation (P,) of pictures with a mean of 0."""
    squares = (one**2).sum(axis=(1, 2)) * (other**2).sum(axis=(1, 2))
    return np.asarray((one * other).sum(axis=(1, 2)) / np.sqrt(squares + 1e-6), np.float32)


_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_WINDOW = np.sqrt(np.outer(*[np.hanning(SIDE + 2)[1:-1]] * 2)).astype(np.float32)
