"""Charts as an SVG file that needs nothing else: a title, charts side by side, legends below them.

It has the look of the pages, light or dark as the viewer's screen is. Its style sheet names plain
colours, since programs other than browsers know neither variables nor dark screens.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from markupsafe import Markup

from topwork.core.errors import printable
from topwork.reports.pages.axes import HEIGHT, LEFT, RIGHT, WIDTH, draw_mark
from topwork.reports.pages.palettes import DARK, LIGHT
from topwork.reports.pages.templates import load_template

# In the units of the SVG, which are the pixels of a screen.
MARGIN, GAP = 10, 20
TITLE_ROW, HEADING_ROW, ROW = 20, 8, 18
KEY_WIDTH, INDENT = 28, 38
# A letter of the title and of a legend, in usual fonts.
TITLE_LETTER, LEGEND_LETTER = 9.0, 6.5
# Lines of a title, and of an entry of a legend.
TITLE_LINES, ENTRY_LINES = 3, 3


@dataclass(frozen=True)
class Entry:
    """A line of a legend.

    Attributes:
        key: what it explains, as SVG 28 wide around the height 0.
        words: the explanation.
    """

    key: Markup
    words: str

    @property
    def lines(self) -> list[str]:
        """The explanation as it fits below a chart; what is very long is cut off."""
        return _wrap(self.words, int((WIDTH - LEFT - INDENT) / LEGEND_LETTER), ENTRY_LINES)


@dataclass(frozen=True)
class Panel:
    """A chart with what is around it.

    Attributes:
        heading: one line above it.
        chart: as a `Frame` draws it.
        legend: lines below it.
    """

    heading: str
    chart: Markup
    legend: Sequence[Entry]


def line_key(number: int, *, marks: bool = True, wide: bool = False) -> Markup:
    """Draws the key of a series: its line, and its mark."""
    kind = f"l{number} wide" if wide else f"l{number}"
    line = Markup('<path class="{}" d="M0 0H{}"/>').format(kind, KEY_WIDTH)
    shape = draw_mark(KEY_WIDTH / 2, 0, number)
    return line + (Markup('<path class="m{}" d="{}"/>').format(number, shape) if marks else "")


def ring_key(kind: str) -> Markup:
    """Draws the key of a ring of a class."""
    return Markup('<circle class="{}" cx="{}" cy="0" r="6"/>').format(kind, KEY_WIDTH // 2)


def level_key() -> Markup:
    """Draws the key of a dashed line."""
    return Markup('<path class="level" d="M0 0H{}"/>').format(KEY_WIDTH)


def span_key() -> Markup:
    """Draws the key of coloured ground."""
    return Markup('<rect class="span" x="0" y="-6" width="{}" height="12"/>').format(KEY_WIDTH)


def render_file(title: str, panels: Sequence[Panel]) -> str:
    """Returns an SVG document with charts side by side.

    Args:
        title: above all; it becomes several lines where it is long.
        panels: at least one.
    """
    width = 2 * MARGIN + len(panels) * WIDTH + (len(panels) - 1) * GAP
    titles = _wrap(title, int(width / TITLE_LETTER), TITLE_LINES)
    lines = [(width / 2, MARGIN + (n + 1) * TITLE_ROW - 4, line) for n, line in enumerate(titles)]
    top = MARGIN + len(titles) * TITLE_ROW + GAP
    placed = [(MARGIN + n * (WIDTH + GAP), top, panel) for n, panel in enumerate(panels)]
    entries, bottom = [], 0
    for x, _, panel in placed:
        y = top + HEADING_ROW + HEIGHT + ROW
        for entry in panel.legend:
            entries.append((x + LEFT, y, entry))
            y += ROW * len(entry.lines)
        bottom = max(bottom, y)
    return load_template("chart_file.svg.j2").render(
        title=title,
        width=width,
        height=bottom - ROW // 2 + MARGIN,
        light=_write_style(LIGHT),
        dark=_write_style(DARK),
        lines=lines,
        panels=placed,
        entries=entries,
        middle=(LEFT + WIDTH - RIGHT) / 2,
        below=HEADING_ROW,
        indent=INDENT,
        row=ROW,
    )


def _write_style(palette: Mapping[str, str]) -> Markup:
    return Markup(re.sub(r"var\(--([\w-]+)\)", lambda found: palette[found[1]], _read_style()))


@cache
def _read_style() -> str:
    return load_template("chart_file.css.j2").render()


def _wrap(text: str, letters: int, most: int) -> list[str]:
    """Divides text into lines, at most so many."""
    shown = printable(text)
    if any(unicodedata.east_asian_width(char) in "WF" for char in shown):
        letters //= 2
    return textwrap.wrap(shown, letters, max_lines=most, placeholder=" …")
