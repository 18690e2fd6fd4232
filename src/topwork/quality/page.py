"""An inspection as one HTML file that needs nothing else: no network, no scripts.

What `render_page` takes is the inspection as JSON has it. Every list may be missing, which says
that it was not looked for, and may be shorter than `<list>_total`, which says how many there are:

    {"data": str, "task": str, "images": int, "classes": [str],
     "counts": {split: {class: images}},
     "measures": {"width": [N], "height": [N], "brightness": [N], "sharpness": [N]},
     "oddities": [{"place", "name", "kind", "detail"}],
     "pairs": [{"first", "first_name", "first_split", "first_label",
                "second", "second_name", "second_split", "second_label",
                "likeness", "similarity", "leak"}],
     "suspects": [{"place", "name", "split", "given", "suggested",
                   "given_probability", "suggested_probability", "score"}],
     "outliers": [{"place", "name", "split", "label", "distance", "score"}],
     "alike": [{"first", "second", "mistaken", "count", "error", "interval": [low, high]}],
     "shifts": [{"split", "what", "distance", "p_value", "detail"}],
     "skipped": [{"path", "reason"}]}

Figures may be None or NaN where there are none.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from topwork.config import Interpolation
from topwork.errors import ImageError, printable
from topwork.images import Source, decode, read_bytes
from topwork.quality.measures import read_header

if TYPE_CHECKING:
    import jinja2

THUMBNAIL_PX = 160
# Of some 4 kB each: the file stays below 3 MB.
PICTURES = 400
# Rows and pairs that a section shows; the worst come first, and the whole list is elsewhere.
SHOWN = {"pairs": 40, "suspects": 80, "outliers": 40, "oddities": 80, "alike": 20, "skipped": 100}
# Classes that are shown at once; the others unfold.
CLASSES = 40
BARS = 24

Thumbnails = Callable[[int], bytes]
Finding = Mapping[str, Any]


def make_thumbnail(source: Source, side_px: int = THUMBNAIL_PX) -> bytes:
    """Makes a small WebP of a picture, upright, as the base sees its colours.

    Args:
        source: the image.
        side_px: its longer side.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    data = read_bytes(source)
    square = Image.fromarray(decode(data, side_px, Interpolation.BILINEAR))
    header = read_header(data)
    scale = side_px / max(header.width, header.height)
    size = (max(1, round(header.width * scale)), max(1, round(header.height * scale)))
    file = io.BytesIO()
    square.resize(size, Image.Resampling.BILINEAR).save(file, "WEBP", quality=70)
    return file.getvalue()


def render_page(inspection: Finding, thumbnails: Thumbnails, title: str) -> str:
    """Renders an inspection.

    Args:
        inspection: see above.
        thumbnails: makes a small JPEG, PNG or WebP of the image in a place; called once for each
            that is shown. An `ImageError` leaves the picture empty.
        title: of the page.

    Returns:
        HTML.
    """
    pairs = inspection.get("pairs")
    lists = {name: inspection.get(name) for name in (*SHOWN, "shifts", "leaks")}
    if pairs is not None:
        lists["leaks"] = [pair for pair in pairs if pair["leak"]]
        lists["pairs"] = [pair for pair in pairs if not pair["leak"]]
    pictures = _Pictures(thumbnails)
    sections = {name: _cut(name, found, inspection) for name, found in lists.items()}
    for name in ("leaks", "suspects", "pairs", "oddities", "outliers"):
        for finding in sections[name].rows or ():
            pictures.add(finding)
    return _load_template().render(
        title=title,
        inspection=inspection,
        sections=sections,
        pictures=pictures,
        classes=_count_classes(inspection.get("counts") or {}),
        first_classes=CLASSES,
        histograms=_draw_histograms(inspection.get("measures") or {}),
        side=THUMBNAIL_PX,
    )


@cache
def _load_template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(text=_text, percent=_percent, figure=_figure, number=_number)
    text = resources.files(__package__).joinpath("page.html.j2").read_text("utf-8")
    return environment.from_string(text)


@dataclass(frozen=True)
class _Section:
    """What a section shows.

    Attributes:
        rows: the worst ones; None if they were not looked for.
        total: how many there are.
    """

    rows: Sequence[Finding] | None
    total: int


def _cut(name: str, found: Sequence[Finding] | None, inspection: Finding) -> _Section:
    if found is None:
        return _Section(None, 0)
    # Pairs are told apart here, so only the whole of them has a total.
    total = inspection.get(f"{name}_total") if name not in ("leaks", "pairs") else None
    most = SHOWN.get("pairs" if name == "leaks" else name, len(found))
    return _Section(found[:most], max(total or 0, len(found)))


class _Pictures:
    """The pictures that are shown, each once however often it is shown."""

    def __init__(self, thumbnails: Thumbnails) -> None:
        self.make = thumbnails
        self.found: dict[int, str | None] = {}

    def add(self, finding: Finding) -> None:
        for key in ("place", "first", "second"):
            place = finding.get(key)
            if isinstance(place, int) and place not in self.found and len(self.found) < PICTURES:
                self.found[place] = self._encode(place)

    def _encode(self, place: int) -> str | None:
        try:
            data = self.make(place)
        except ImageError:
            return None
        kind = {b"RIFF": "webp", b"\x89PNG": "png"}.get(data[:4], "jpeg")
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@dataclass(frozen=True)
class _Class:
    """A class: images for each split, and their shares, in percent, of the largest class."""

    name: str
    counts: Sequence[int]
    widths: Sequence[float]
    total: int


@dataclass(frozen=True)
class _Classes:
    """The classes, largest first, and the splits, with their totals."""

    splits: Sequence[str]
    totals: Sequence[int]
    rows: Sequence[_Class]


def _count_classes(counts: Mapping[str, Mapping[str, int]]) -> _Classes:
    names = list(dict.fromkeys(name for split in counts.values() for name in split))
    table = {name: [split.get(name, 0) for split in counts.values()] for name in names}
    most = max((sum(row) for row in table.values()), default=0) or 1
    rows = [
        _Class(name, row, [100 * count / most for count in row], sum(row))
        for name, row in table.items()
    ]
    rows.sort(key=lambda row: -row.total)
    return _Classes(list(counts), [sum(split.values()) for split in counts.values()], rows)


@dataclass(frozen=True)
class _Histogram:
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


def _draw_histograms(measures: Mapping[str, Sequence[float | None]]) -> list[_Histogram]:
    columns = {
        name: np.array([np.nan if value is None else value for value in values], np.float64)
        for name, values in measures.items()
    }
    drawn = []
    if "width" in columns and "height" in columns:
        shorter = np.minimum(columns["width"], columns["height"])
        drawn.append(_draw("Shorter side, in pixels", shorter[shorter > 0], 0, logarithmic=True))
    if "brightness" in columns:
        drawn.append(_draw("Brightness, 0 black to 1 white", columns["brightness"], 2, (0, 1)))
    if "contrast" in columns:
        drawn.append(_draw("Contrast, 0 a single colour", columns["contrast"], 2, (0, 0.5)))
    if "sharpness" in columns:
        drawn.append(_draw("Sharpness, below 1 looks blurred", columns["sharpness"], 1, (0, None)))
    return [histogram for histogram in drawn if histogram is not None]


def _draw(
    name: str,
    values: np.ndarray[Any, np.dtype[np.float64]],
    digits: int,
    ends: tuple[float | None, float | None] = (None, None),
    *,
    logarithmic: bool = False,
) -> _Histogram | None:
    """Draws the bars of the values that are finite; None where there are none."""
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
    say = partial(_figure, digits=digits)
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
    return _Histogram(name, bars, ticks, f"Median {half}; 9 of 10 from {five} to {ninety}.")


def _text(value: object) -> str:
    return "" if value is None else printable(value)


def _percent(value: float | None) -> str:
    return f"{value:.0%}" if value is not None and math.isfinite(value) else ""


def _figure(value: float | None, digits: int = 2) -> str:
    return f"{value:,.{digits}f}" if value is not None and math.isfinite(value) else ""


def _number(count: int) -> str:
    return f"{count:,}"
