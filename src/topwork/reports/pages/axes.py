"""The box of a chart as SVG: data become places in it, beside ticks and names; marks and colours.

Nothing here says a colour: the page or the file around a chart does, by classes. A series has a
number, 0 to 4, which is that of its colour (`l0` for lines, `m0` for marks, `b0` for bands) and of
the shape of its marks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from topwork.core.errors import printable

# The box in the units of the SVG, and what is around it for ticks and names.
WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 74, 26, 10, 42
TICKS = 6
# Series that have a colour and a shape of their own.
SERIES = 5
# Of the length of a logarithmic axis, what is left free at both ends.
LOG_ROOM = 0.04


@dataclass(frozen=True)
class Axis:
    """One direction of a chart.

    Attributes:
        name: what is measured, with its unit.
        low: the least value that is shown.
        high: the greatest, above `low`.
        ticks: values that are written beside it, ascending.
        logarithmic: whether equal factors are equally far; values are above 0 then.
    """

    name: str
    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    @classmethod
    def around(cls, name: str, *values: Any, whole: bool = False) -> Axis:
        """Makes an axis that holds values and ends at ticks.

        Args:
            name: what is measured.
            values: arrays; what is not finite does not count.
            whole: whether ticks are whole numbers, and the axis ends where the values do.
        """
        joined = np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in values])
        joined = joined[np.isfinite(joined)]
        low, high = (float(joined.min()), float(joined.max())) if len(joined) else (0.0, 1.0)
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            room = 0.5 if whole else abs(low) / 2 or 0.5
            low, high = low - room, high + room
        step = _step(low, high)
        step = max(1.0, math.ceil(step)) if whole else step
        first, last = math.floor(low / step), math.ceil(high / step)
        ticks = tuple(n * step for n in range(first, last + 1))
        if whole:
            return cls(name, low, high, tuple(tick for tick in ticks if low <= tick <= high))
        return cls(name, ticks[0], ticks[-1], ticks)

    @classmethod
    def by_factors(cls, name: str, values: Any) -> Axis:
        """Makes a logarithmic axis around values, with ticks at powers of ten.

        Where these are fewer than two, twice and five times such a power are ticks too.

        Args:
            name: what is measured.
            values: at least one, all above 0.
        """
        first, last = float(np.min(values)), float(np.max(values))
        # Between values that are near each other there may be no tick.
        room = (last / first) ** LOG_ROOM if last > 3 * first else 2.0
        low, high = first / room, last * room
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [tick for n in powers if low <= (tick := float(f"1e{n}")) <= high]
        if len(ticks) < 2:
            finer = (float(f"{digit}e{n}") for n in powers for digit in (1, 2, 5))
            ticks = [tick for tick in finer if low <= tick <= high]
        return cls(name, low, high, tuple(ticks[:: math.ceil(len(ticks) / TICKS) or 1]), True)

    def share(self, value: float) -> float:
        """Returns how far along a value is, 0 at the low end and 1 at the high one."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def holds(self, value: float) -> bool:
        """Whether a value is on the axis; one that is not finite is not."""
        return -1e-9 <= self.share(value) <= 1 + 1e-9

    def say(self, value: float) -> str:
        """Says a tick, with digits enough to tell it from the next."""
        if self.logarithmic:
            return f"{value:g}"
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        if max(abs(self.low), abs(self.high)) >= 1e7 or step < 1e-5:
            return f"{value:.3g}"
        digits = next(n for n in range(8) if math.isclose(round(step, n), step, rel_tol=1e-6))
        return f"{value:,.{digits}f}"


class Frame:
    """The box of a chart.

    Args:
        x: to the right.
        y: upwards.
    """

    def __init__(self, x: Axis, y: Axis) -> None:
        self.x, self.y = x, y

    def right(self, value: float) -> float:
        """Returns where a value of x lies, in units of the SVG."""
        return LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT)

    def down(self, value: float) -> float:
        """Returns where a value of y lies, in units of the SVG.

        One far outside lies at most ten boxes away: programs draw nothing well that is farther.
        """
        share = min(max(self.y.share(value), -10.0), 11.0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def trace(self, points: Iterable[tuple[float, float]]) -> str:
        """Returns the path through points; one that is not finite leaves a gap."""
        path, pen = "", "M"
        for x, y in points:
            if math.isfinite(y):
                path += f"{pen}{self.right(x):.1f} {self.down(y):.1f}"
                pen = "L"
            else:
                pen = "M"
        return path

    def mark(self, points: Iterable[tuple[float, float]], number: int) -> str:
        """Returns a path with the shape of a series at all points that are in the box."""
        return "".join(
            draw_mark(self.right(x), self.down(y), number)
            for x, y in points
            if self.x.holds(x) and self.y.holds(y)
        )

    def draw(self, parts: Iterable[str], label: str) -> Markup:
        """Draws the axes and what is in the box.

        Args:
            parts: elements of SVG.
            label: what the chart shows, in words, for whoever does not see it.
        """
        left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
        lines = []
        for tick in self.y.ticks:
            at = self.down(tick)
            lines.append(f'<path class="grid" d="M{left} {at:.1f}H{right}"/>')
            lines.append(write(left - 6, at + 4, self.y.say(tick), "end"))
        for tick in self.x.ticks:
            at = self.right(tick)
            lines.append(f'<path class="grid" d="M{at:.1f} {top}V{bottom}"/>')
            lines.append(write(at, bottom + 16, self.x.say(tick), "middle"))
        lines.append(write((left + right) / 2, HEIGHT - 6, self.x.name, "middle"))
        turned = f"rotate(-90 12 {(top + bottom) / 2:.0f})"
        lines.append(write(12, (top + bottom) / 2, self.y.name, "middle", turned))
        lines.append(f'<path class="axis" d="M{left} {top}V{bottom}H{right}"/>')
        start = Markup(
            '<svg class="plot" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" '
            'aria-label="{2}">'
        )
        return Markup("").join(
            (
                start.format(WIDTH, HEIGHT, printable(label)),
                Markup("".join((*lines, *parts))),
                Markup("</svg>"),
            )
        )


def clip(parts: Iterable[str]) -> str:
    """Returns parts of a chart, cut off where the box ends."""
    x, y, width, height = LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    # An SVG within another shows nothing outside itself, and needs no name as a `clipPath` does.
    return (
        f'<svg x="{x}" y="{y}" width="{width}" height="{height}" '
        f'viewBox="{x} {y} {width} {height}">{"".join(parts)}</svg>'
    )


def draw_mark(x: float, y: float, number: int) -> str:
    """Returns the shape of a series around a place: circle, square, diamond, two triangles."""
    match number % SERIES:
        case 0:
            return f"M{x - 3:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0"
        case 1:
            return f"M{x - 2.5:.1f} {y - 2.5:.1f}h5v5h-5z"
        case 2:
            return f"M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z"
        case 3:
            return f"M{x:.1f} {y - 4:.1f}l3.8 6.6h-7.6z"
        case _:
            return f"M{x:.1f} {y + 4:.1f}l3.8 -6.6h-7.6z"


def write(x: float, y: float, words: str, anchor: str, turned: str = "") -> str:
    """Returns a line of text.

    Args:
        x: of its anchor.
        y: of its baseline.
        words: what a user or a file says, too.
        anchor: `start`, `middle` or `end`.
        turned: a transform of SVG.
    """
    turn = f' transform="{turned}"' if turned else ""
    return str(
        Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(
            x, y, anchor, Markup(turn), printable(words)
        )
    )


def _step(low: float, high: float) -> float:
    """Returns the least of 1, 2 and 5 times a power of ten that needs at most so many ticks."""
    wanted = (high - low) / (TICKS - 1)
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= wanted * (1 - 1e-9))
