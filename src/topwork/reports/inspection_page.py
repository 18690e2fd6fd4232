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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from topwork.images.thumbnails import THUMBNAIL_PX, MakeThumbnail, ThumbnailSet
from topwork.reports.pages.balance import count_classes
from topwork.reports.pages.charts import Histogram, make_histogram
from topwork.reports.pages.templates import load_template

# Of some 4 kB each: the file stays below 3 MB.
PICTURES = 400
# Rows and pairs that a section shows; the worst come first, and the whole list is elsewhere.
SHOWN = {"pairs": 40, "suspects": 80, "outliers": 40, "oddities": 80, "alike": 20, "skipped": 100}
# Classes that are shown at once; the others unfold.
CLASSES = 40

Finding = Mapping[str, Any]


def render_page(
    inspection: Finding, thumbnails: MakeThumbnail, title: str, *, most_pictures: int = PICTURES
) -> str:
    """Renders an inspection.

    Args:
        inspection: see above.
        thumbnails: makes a small JPEG, PNG or WebP of the image with an index; called once for each
            that is shown, in any thread. An `ImageError` leaves the picture empty.
        title: of the page.
        most_pictures: the most pictures that it shows.

    Returns:
        HTML.
    """
    pairs = inspection.get("pairs")
    lists = {name: inspection.get(name) for name in (*SHOWN, "shifts", "leaks")}
    if pairs is not None:
        lists["leaks"] = [pair for pair in pairs if pair["leak"]]
        lists["pairs"] = [pair for pair in pairs if not pair["leak"]]
    pictures = ThumbnailSet(thumbnails, most_pictures)
    sections = {name: _cut(name, found, inspection) for name, found in lists.items()}
    for name in ("leaks", "suspects", "pairs", "oddities", "outliers"):
        for finding in sections[name].rows or ():
            for key in ("place", "first", "second"):
                if isinstance(finding.get(key), int):
                    pictures.add(finding[key])
    pictures.draw()
    return load_template("inspection.html.j2").render(
        title=title,
        inspection=inspection,
        sections=sections,
        pictures=pictures,
        classes=count_classes(inspection.get("counts") or {}),
        first_classes=CLASSES,
        histograms=_draw_histograms(inspection.get("measures") or {}),
        side=THUMBNAIL_PX,
    )


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


def _draw_histograms(measures: Mapping[str, Sequence[float | None]]) -> list[Histogram]:
    columns = {
        name: np.array([np.nan if value is None else value for value in values], np.float64)
        for name, values in measures.items()
    }
    drawn = []
    if "width" in columns and "height" in columns:
        shorter = np.minimum(columns["width"], columns["height"])
        drawn.append(
            make_histogram("Shorter side, in pixels", shorter[shorter > 0], 0, logarithmic=True)
        )
    if "brightness" in columns:
        drawn.append(
            make_histogram("Brightness, 0 black to 1 white", columns["brightness"], 2, (0, 1))
        )
    if "contrast" in columns:
        drawn.append(
            make_histogram("Contrast, 0 a single colour", columns["contrast"], 2, (0, 0.5))
        )
    if "sharpness" in columns:
        drawn.append(
            make_histogram("Sharpness, below 1 looks blurred", columns["sharpness"], 1, (0, None))
        )
    return [histogram for histogram in drawn if histogram is not None]
