"""Which pictures are unlike the others in what was measured of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import Bools, Floats32
from topwork.inspection.image_stats import SIDE_PX, ImageStats, Ints64
from topwork.inspection.issues import ImageIssue

_TURNED = {
    2: "mirrored", 3: "turned half round", 4: "mirrored", 5: "turned and mirrored",
    6: "turned to its side", 7: "turned and mirrored", 8: "turned to its side",
}  # fmt: skip
_HOW_READ = {
    "CMYK": "turned into RGB without its colour profile",
    "RGBA": "transparency laid on paper",
    "LA": "transparency laid on paper",
    "PA": "transparency laid on paper",
    "L": "grey",
    "1": "black and white",
    "P": "a palette",
}
_MOVING = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")

# Rare: one image, or this share of them.
RARE = 0.05
# One level of 255: a picture shows nothing, even among others that do not either.
NO_CONTRAST = 1 / 255
_CLEAR = ("RGBA", "LA", "PA", "La", "RGBa")
# Ratios end here, so that black is not infinitely dark.
_LEAST = 1e-3


def find_image_issues(measures: ImageStats) -> list[ImageIssue]:
    """Finds the images that are unlike the others in a way that likely makes them useless.

    A bound holds for all data (20 pixels show little), yet where most of the data is beyond it,
    that is what the data is: each rule asks that an image is beyond the bound and far from the
    median; a picture without any contrast is odd in any company. Modes, moving pictures and turned
    ones are odd where they are rare.

    Returns:
        First those furthest beyond their bounds, then the rare ones. An image may be there more
        than once, but one of a single colour is not called dark, bright or blurred as well.
    """
    good = measures.width > 0
    found: list[tuple[float, ImageIssue]] = []
    plain = np.zeros(len(measures), bool)
    for rule in _RULES:
        excess = rule.excess(measures, good & ~plain if rule.of_light else good)
        odd = [int(index) for index in np.flatnonzero(excess > 0)]
        found += [
            (float(excess[index]), ImageIssue(index, rule.kind, rule.detail(measures, index)))
            for index in odd
        ]
        if rule.kind == "uniform":
            plain[odd] = True
    found.sort(key=lambda pair: (-pair[0], pair[1].index))
    return [oddity for _, oddity in found] + _find_rare(measures, good)


@dataclass(frozen=True)
class _Rule:
    """Which images are odd in one way.

    Attributes:
        kind: of the oddity.
        excess: of all images and which of them to look at, by how many doublings each is beyond
            the bound; above 0 is odd.
        detail: the figure in words.
        of_light: whether a picture of a single colour is beyond it anyway.
    """

    kind: str
    excess: Callable[[ImageStats, Bools], Floats32]
    detail: Callable[[ImageStats, int], str]
    of_light: bool = False


def _below(
    values: NDArray[Any], look: Bools, bound: float, share: float, always: float = 0
) -> Floats32:
    """Returns by how many doublings values are below a bound and a share of the median.

    What is below `always` is odd even if all others are too.
    """
    known = look & np.isfinite(values)
    if not known.any():
        return np.zeros(len(values), np.float32)
    limit = max(min(bound, share * float(np.median(values[known]))), always)
    beyond = np.log2(max(limit, _LEAST) / np.maximum(values, _LEAST))
    return np.where(known, beyond, 0).astype(np.float32)


def _above(values: NDArray[Any], look: Bools, bound: float, times: float) -> Floats32:
    """Returns by how many doublings values are above a bound and so many times the median."""
    if not look.any():
        return np.zeros(len(values), np.float32)
    limit = max(bound, times * float(np.median(values[look])))
    return np.where(look, np.log2(np.maximum(values, 1) / limit), 0).astype(np.float32)


def _shorter_side(measures: ImageStats) -> Ints64:
    return np.minimum(measures.width, measures.height)


def _aspect(measures: ImageStats) -> Floats32:
    longer = np.maximum(measures.width, measures.height)
    return (longer / np.maximum(_shorter_side(measures), 1)).astype(np.float32)


def _own_sharpness(measures: ImageStats) -> Floats32:
    """Returns the sharpness that small pictures, which were enlarged, have by their own pixels."""
    enlarged = SIDE_PX / np.maximum(_shorter_side(measures), 1)
    return (measures.sharpness * np.maximum(enlarged, 1)).astype(np.float32)


def _say_size(measures: ImageStats, index: int) -> str:
    return f"{measures.width[index]} x {measures.height[index]} pixels"


def _say_contrast(measures: ImageStats, index: int) -> str:
    said, mode = (
        f"nearly one colour: contrast {measures.contrast[index]:.3f}",
        measures.modes[index],
    )
    if mode.startswith("I") or mode == "F":
        said += "; see --range"
    elif mode in _CLEAR:
        said += "; transparent"
    return said


def _say_sharpness(measures: ImageStats, index: int) -> str:
    median = np.nanmedian(measures.sharpness)
    return f"sharpness {measures.sharpness[index]:.2f}, the median is {median:.2f}"


_RULES = (
    _Rule(
        "uniform",
        lambda m, look: _below(m.contrast, look, bound=0.02, share=1 / 3, always=NO_CONTRAST),
        _say_contrast,
    ),
    _Rule(
        "dark",
        lambda m, look: _below(m.high, look, bound=0.2, share=1 / 2),
        lambda m, n: f"95 % of it is darker than {m.high[n]:.0%} of white",
        of_light=True,
    ),
    _Rule(
        "bright",
        lambda m, look: _below(1 - m.low, look, bound=0.15, share=1 / 2),
        lambda m, n: f"95 % of it is brighter than {m.low[n]:.0%} of white",
        of_light=True,
    ),
    _Rule(
        "blurred",
        lambda m, look: _below(_own_sharpness(m), look, bound=1, share=1 / 2),
        _say_sharpness,
        of_light=True,
    ),
    # Networks see 224 pixels and more: smaller ones are enlarged twice.
    _Rule(
        "small",
        lambda m, look: _below(_shorter_side(m), look, bound=112, share=1 / 2),
        _say_size,
    ),
    # These take longest to read and gain nothing.
    _Rule(
        "large",
        lambda m, look: _above(m.width * m.height, look, bound=24e6, times=16),
        _say_size,
    ),
    # Pictures are stretched to squares.
    _Rule(
        "long",
        lambda m, look: _above(_aspect(m), look, bound=3, times=2),
        lambda m, n: f"{_say_size(m, n)}, {_aspect(m)[n]:.1f} to 1",
    ),
)


def _find_rare(measures: ImageStats, good: Bools) -> list[ImageIssue]:
    """Finds rare modes, moving pictures and turned ones."""
    most = max(1, int(RARE * np.count_nonzero(good)))
    rows = [int(index) for index in np.flatnonzero(good)]
    counts = Counter(measures.modes[n] for n in rows)
    usual = counts.most_common(1)[0][0] if counts else ""
    found = [
        ImageIssue(n, "mode", f"{mode}, {_HOW_READ.get(mode, 'turned into RGB')}")
        for n in rows
        if (mode := measures.modes[n]) != usual and counts[mode] <= most
    ]
    moving = [n for n in rows if measures.frames[n] > 1 and measures.formats[n] in _MOVING]
    turned = [n for n in rows if measures.orientation[n] != 1]
    if len(moving) <= most:
        found += [
            ImageIssue(n, "animated", f"{measures.frames[n]} frames, the first of which is taken")
            for n in moving
        ]
    if len(turned) <= most:
        found += [
            ImageIssue(
                n,
                "turned",
                f"{_TURNED[int(measures.orientation[n])]} by its EXIF orientation, which other "
                "programs may ignore",
            )
            for n in turned
        ]
    return found
