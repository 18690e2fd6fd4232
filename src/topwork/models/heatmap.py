"""Maps laid over a photograph, as a picture.

Drawn with one scale around 0: orange speaks for an answer, blue against it, and where a map is 0
the photograph is seen as it is, in grey.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from topwork.core.arrays import Floats64
from topwork.core.errors import printable
from topwork.core.files import write_file

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Told apart by those who do not see red and green.
FOR, AGAINST = (255, 120, 0), (20, 80, 255)
STRONGEST = 0.85
COLUMNS = 4
CELL_INCHES = 2.7
# Very long or tall photographs are drawn smaller, not in a very long or tall picture.
SHAPES = (0.4, 2.0)
LONGEST_LABEL = 30
# To an inch, of any kind.
LETTERS = 11
# What is written in fonts that have the script, in this order, where they are installed.
FONTS = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP",
    "Noto Sans KR", "WenQuanYi Zen Hei", "IPAGothic", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Noto Sans",
    "Noto Sans Devanagari", "Noto Sans Thai", "Nirmala UI", "Leelawadee UI", "Arial Unicode MS",
)  # fmt: skip
# Whether a PNG is one of ours is said in this text of it. Source: PNG 1.2, 11.3.4.2.
SOFTWARE = "topwork explain"


@dataclass(frozen=True)
class Panel:
    """One map.

    Attributes:
        label: what it is a map of.
        caption: figures.
        heat: (height, width) of the photograph, finite.
    """

    label: str
    caption: str
    heat: Any


def draw_panels(
    photo: Image.Image,
    panels: Sequence[Panel],
    path: Path,
    *,
    name: str,
    note: str,
    unit: str,
    together: bool,
) -> None:
    """Writes a PNG with a photograph and maps laid over it; needs no display.

    Args:
        photo: RGB.
        panels: at least one.
        path: the file; written whole or not at all.
        name: of the photograph.
        note: what is shown, below.
        unit: of the maps.
        together: whether all maps have one scale; else each its own.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    count = len(panels) + 1
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    tall = CELL_INCHES * float(np.clip(photo.height / photo.width, *SHAPES))
    width = columns * CELL_INCHES + (0.8 if together else 0.8 * columns)
    figure = Figure(figsize=(width, rows * (tall + 0.5) + 0.6), dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    text = {"parse_math": False, "family": _find_fonts()}
    for ax in axes:
        ax.set(xticks=[], yticks=[], frame_on=False)
    axes[0].imshow(photo)
    axes[0].set_title("photograph", fontsize=10, color="#555555")
    grey = np.asarray(photo.convert("L").convert("RGB"))
    limits = [float(np.abs(panel.heat).max()) for panel in panels]
    if together:
        limits = [max(limits)] * len(panels)
    colors = make_colors()
    for ax, panel, limit in zip(axes[1:], panels, limits, strict=False):
        most = limit or 1.0  # a map of zeros
        ax.imshow(grey)
        drawn = ax.imshow(panel.heat, cmap=colors, vmin=-most, vmax=most)
        ax.set_title(show_text(panel.label, LONGEST_LABEL), fontsize=10, **text)
        ax.set_xlabel(panel.caption, fontsize=9)
        if not together:
            figure.colorbar(drawn, ax=ax, shrink=0.9).ax.tick_params(labelsize=8)
    if together:
        bar = figure.colorbar(drawn, ax=list(axes), shrink=0.9, pad=0.02, aspect=25 * rows)
        bar.set_label(f"added to the {unit}", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    figure.suptitle(show_text(name, int(LETTERS * width)), fontsize=10, **text)
    figure.supxlabel(fill(note, int(LETTERS * width)), fontsize=8.5, color="#555555")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    metadata = {"Software": SOFTWARE}
    write_file(path, lambda file: figure.savefig(file, format="png", metadata=metadata))


def is_ours(path: Path) -> bool:
    """Whether a file is a picture that `draw_panels` wrote."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return bool(image.info.get("Software") == SOFTWARE)
    except Exception:
        # Whatever Pillow makes of it, it is something else.
        return False


@cache
def make_colors() -> Colormap:
    """Returns the colours of a map: transparent in the middle, strongest at both ends."""
    from matplotlib.colors import ListedColormap

    steps: Floats64 = np.linspace(-1, 1, 257)
    rgb = np.where(steps[:, None] < 0, AGAINST, FOR)
    return ListedColormap(np.column_stack([rgb / 255, STRONGEST * np.abs(steps)]))


def show_text(text: str, longest: int) -> str:
    """Returns text as a picture can show it: one line, not too long, in letters that it has."""
    known = _find_letters()
    shown = "".join(
        char if ord(char) in known else char.encode("unicode_escape").decode()
        for char in printable(text)
    )
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


@cache
def _find_fonts() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return tuple(name for name in FONTS if name in there)


@cache
def _find_letters() -> frozenset[int]:
    """Returns the code points that can be drawn."""
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    return frozenset(
        code
        for name in _find_fonts()
        for code in get_font(fontManager.findfont(FontProperties(family=name))).get_charmap()
    )
