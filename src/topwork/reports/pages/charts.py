"""Small charts as SVG inside a page or a file: drawn without a script, coloured by classes.

`draw_lines`, `draw_bars` and `draw_points` put something into a `Frame`. A histogram is only bars,
which the template draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from topwork.reports.pages.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Frame, write
from topwork.reports.pages.templates import say_figure

Values = NDArray[np.floating[Any]]

# Points of a line, and of a cloud, that a chart draws.
MOST_STEPS = 400
MOST_POINTS = 2000
BARS = 24
# Values of a series that each have a mark.
MOST_MARKS = 60


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
        points = [(step, line.values[step - 1]) for step in shown]
        parts.append(f'<path class="l{number}" d="{frame.trace(points)}"/>')
        if count <= MOST_MARKS:
            parts.append(f'<path class="m{number}" d="{frame.mark(points, number)}"/>')
        value = line.values[kept - 1] if kept is not None else math.nan
        if kept is not None and math.isfinite(value):
            x, y = frame.right(kept), frame.down(value)
            parts.append(f'<circle class="l{number} ring" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
    return frame.draw(parts, label)


def choose_steps(count: int, most: int, kept: int | None = None) -> list[int]:
    """Returns at most `most` numbers of 1 to `count`, evenly, and one that must be among them."""
    chosen = {int(n) for n in np.linspace(1, count, min(count, most)).round()}
    return sorted(chosen | ({kept} if kept is not None else set()))


def draw_bars(values: Sequence[tuple[str, float]], name: str, label: str) -> Markup:
    """Draws a few bars from 0 on, each below its words.

    Args:
        values: words and figures, not negative; one that is not finite has no bar.
        name: what is measured.
        label: the chart in words.
    """
    frame = Frame(Axis.around(name, [0, 1], [value for _, value in values]), Axis("", 0, 1, ()))
    height = (HEIGHT - TOP - BOTTOM) / len(values)
    parts = []
    for number, (words, value) in enumerate(values):
        top = TOP + number * height
        parts.append(write(LEFT + 8, top + 0.3 * height, words, "start"))
        if math.isfinite(value):
            parts.append(
                f'<rect class="m{number}" x="{LEFT}" y="{top + 0.4 * height:.1f}" '
                f'width="{frame.right(value) - LEFT:.1f}" height="{0.4 * height:.1f}"/>'
            )
    return frame.draw(parts, label)


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
