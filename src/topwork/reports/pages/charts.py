"""Small charts as SVG inside a page: drawn without a script, coloured by the page's own variables.

A `Frame` turns data into places in a box and draws axes; `draw_lines` and `draw_points` put
something in it. A histogram is only bars, which the template draws. The colour of a series is its
number: `--s0` to `--s3` of the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from topwork.core.errors import printable
from topwork.reports.pages.templates import say_figure

Values = NDArray[np.floating[Any]]

# The box in the units of the SVG, and what is around it for ticks and names.
WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 74, 26, 10, 42
TICKS = 6
# Points of a line, and of a cloud, that a chart draws.
MOST_STEPS = 400
MOST_POINTS = 2000
BARS = 24


@dataclass(frozen=True)
class Axis:
    """One direction of a chart.

    Attributes:
        name: what is measured, with its unit.
        low: the least value that is shown.
        high: the greatest, above `low`.
        ticks: values that are written beside it, ascending.
    """

    name: str
    low: float
    high: float
    ticks: tuple[float, ...]

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

    def share(self, value: float) -> float:
        """Returns how far along a value is, 0 at the low end and 1 at the high one."""
        return (value - self.low) / (self.high - self.low)

    def say(self, value: float) -> str:
        """Says a tick, with digits enough to tell it from the next."""
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
        """Returns where a value of y lies, in units of the SVG."""
        return HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)

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
            lines.append(_write(left - 6, at + 4, self.y.say(tick), "end"))
        for tick in self.x.ticks:
            at = self.right(tick)
            lines.append(f'<path class="grid" d="M{at:.1f} {top}V{bottom}"/>')
            lines.append(_write(at, bottom + 16, self.x.say(tick), "middle"))
        lines.append(_write((left + right) / 2, HEIGHT - 6, self.x.name, "middle"))
        turned = f"rotate(-90 12 {(top + bottom) / 2:.0f})"
        lines.append(_write(12, (top + bottom) / 2, self.y.name, "middle", turned))
        lines.append(f'<path class="axis" d="M{left} {top}V{bottom}H{right}"/>')
        start = Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">')
        return Markup("").join(
            (
                start.format(WIDTH, HEIGHT, printable(label)),
                Markup("".join((*lines, *parts))),
                Markup("</svg>"),
            )
        )


@dataclass(frozen=True)
class Line:
    """A series of values at 1, 2, 3 and so on; one that is not finite leaves a gap."""

    name: str
    values: Sequence[float]


def draw_lines(
    lines: Sequence[Line],
    x_name: str,
    y_name: str,
    label: str,
    *,
    kept: int | None = None,
    span: tuple[float, float] | None = None,
) -> Markup:
    """Draws series over their numbers from 1 on, with circles, squares and so on.

    Args:
        lines: at least one, all equally long, of at least two values.
        x_name: what is counted.
        y_name: what is measured.
        label: the chart in words.
        kept: a number to mark.
        span: numbers from and to which the ground is coloured.
    """
    count = len(lines[0].values)
    frame = Frame(
        Axis.around(x_name, [1, count], whole=True),
        Axis.around(y_name, *(line.values for line in lines)),
    )
    parts = []
    top, bottom = TOP, HEIGHT - BOTTOM
    if span is not None:
        left, right = (frame.right(min(max(end, 1), count)) for end in span)
        # A span of one number alone is still seen.
        width = max(right - left, 6.0)
        left = min(left, WIDTH - RIGHT - width)
        parts.append(
            f'<rect class="span" x="{left:.1f}" y="{top}" width="{width:.1f}" '
            f'height="{bottom - top}"/>'
        )
    if kept is not None:
        parts.append(f'<path class="kept" d="M{frame.right(kept):.1f} {top}V{bottom}"/>')
    shown = choose_steps(count, MOST_STEPS, kept)
    for number, line in enumerate(lines):
        parts.append(_draw_line(frame, line, shown, number, dots=count <= 60))
        value = line.values[kept - 1] if kept is not None else math.nan
        if kept is not None and math.isfinite(value):
            x, y = frame.right(kept), frame.down(value)
            parts.append(f'<circle class="l{number} ring" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
    return frame.draw(parts, label)


def choose_steps(count: int, most: int, kept: int | None = None) -> list[int]:
    """Returns at most `most` numbers of 1 to `count`, evenly, and one that must be among them."""
    chosen = {int(n) for n in np.linspace(1, count, min(count, most)).round()}
    return sorted(chosen | ({kept} if kept is not None else set()))


def _draw_line(frame: Frame, line: Line, shown: list[int], number: int, *, dots: bool) -> str:
    path, marks, pen = "", "", "M"
    for step in shown:
        value = line.values[step - 1]
        if not math.isfinite(value):
            pen = "M"
            continue
        x, y = frame.right(step), frame.down(value)
        path += f"{pen}{x:.1f} {y:.1f}"
        pen = "L"
        if number % 2:
            marks += f"M{x - 2.5:.1f} {y - 2.5:.1f}h5v5h-5z"
        else:
            marks += f"M{x - 3:.1f} {y:.1f}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0"
    drawn = f'<path class="l{number}" d="{path}"/>'
    return drawn + (f'<path class="m{number}" d="{marks}"/>' if dots else "")


def draw_points(x: Values, y: Values, x_name: str, y_name: str, label: str) -> Markup:
    """Draws a cloud of points, and the diagonal on which both values are the same.

    Both axes have the same ends.

    Args:
        x: (N,) finite; of more than 2,000 points every so many is drawn.
        y: (N,) finite.
        x_name: what is measured to the right.
        y_name: what is measured upwards.
        label: the chart in words.
    """
    both = Axis.around(x_name, x, y)
    frame = Frame(both, Axis(y_name, both.low, both.high, both.ticks))
    chosen = np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(np.int64)
    dots = "".join(
        f"M{frame.right(a):.1f} {frame.down(b):.1f}h0"
        for a, b in zip(x[chosen].tolist(), y[chosen].tolist(), strict=True)
    )
    return frame.draw([draw_diagonal(frame), f'<path class="dots" d="{dots}"/>'], label)


def draw_diagonal(frame: Frame) -> str:
    """Returns the line from corner to corner."""
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    return f'<path class="even" d="M{left} {bottom}L{right} {top}"/>'


@dataclass(frozen=True)
class Histogram:
    """A measure as bars in a box of 100 by 40.

    Attributes:
        name: of the measure, with its unit.
        bars: left, top, width and height of each, and what it stands for in words.
        ticks: places along the box and figures.
        summary: in words.
    """

    name: str
    bars: Sequence[tuple[float, float, float, float, str]]
    ticks: Sequence[tuple[float, str]]
    summary: str


def make_histogram(
    name: str,
    values: Values,
    digits: int,
    ends: tuple[float | None, float | None] = (None, None),
    *,
    logarithmic: bool = False,
) -> Histogram | None:
    """Makes bars of the values that are finite; None where there are none.

    Args:
        name: of the measure, with its unit.
        values: (N,) float64.
        digits: behind the point.
        ends: least and greatest value that is shown; None for that of the values. What is
            beyond counts for the last bar.
        logarithmic: whether bars are equally wide in the logarithm; values are above 0 then.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low = float(values.min()) if ends[0] is None else ends[0]
    high = float(values.max()) if ends[1] is None else ends[1]
    if high <= low:
        low, high = (low / 2, low * 2) if logarithmic else (low - 0.5, low + 0.5)
    space = np.geomspace if logarithmic else np.linspace
    edges = space(low, high, BARS + 1)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    say = partial(say_figure, digits=digits)
    width, most = 100 / BARS, counts.max()
    bars = []
    for n, count in enumerate(counts.tolist()):
        # A single image among thousands stays visible.
        height = max(0.6, 40 * count / most) if count else 0
        words = f"{say(edges[n])} to {say(edges[n + 1])}: {count}"
        bars.append((n * width, 40 - height, width * 0.86, height, words))
    middle = edges[BARS // 2]
    ticks = [(0.0, say(edges[0])), (50.0, say(middle)), (100.0, say(edges[-1]))]
    five, half, ninety = (say(value) for value in np.quantile(values, (0.05, 0.5, 0.95)))
    return Histogram(name, bars, ticks, f"Median {half}; 9 of 10 from {five} to {ninety}.")


def _step(low: float, high: float) -> float:
    """Returns the least of 1, 2 and 5 times a power of ten that needs at most so many ticks."""
    wanted = (high - low) / (TICKS - 1)
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= wanted * (1 - 1e-9))


def _write(x: float, y: float, words: str, anchor: str, turned: str = "") -> str:
    turn = f' transform="{turned}"' if turned else ""
    return str(
        Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(
            x, y, anchor, Markup(turn), printable(words)
        )
    )
