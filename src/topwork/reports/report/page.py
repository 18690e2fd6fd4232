"""The report as one HTML file that needs nothing else: no network, no scripts.

A model and its answers go in. Answers are judged and put into tables and charts; the images that
are named get small pictures, and the worst mistakes maps of what the networks saw. Everything is
bounded, so that data of any size makes a page of a few megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import ImageError
from topwork.images.thumbnails import THUMBNAIL_PX, ThumbnailSet, data_uri, make_thumbnail
from topwork.metrics.scores import ClassReport, LabelReport, NumberReport
from topwork.models.explain import Explainer
from topwork.models.model import Model
from topwork.models.predictions import LabeledPredictions
from topwork.models.trust import say_kept
from topwork.reports.pages.balance import count_classes
from topwork.reports.pages.templates import load_template
from topwork.reports.report.cases import Case, Cases, Group, find_groups, find_unsure, find_worst
from topwork.reports.report.drawings import draw_calibration, draw_curves, draw_numbers
from topwork.reports.report.facts import (
    list_doubts,
    list_findings,
    list_origins,
    list_settings,
    list_stages,
    list_tiles,
    say_honesty,
    say_search,
    say_task,
)
from topwork.reports.report.judging import Judged, judge
from topwork.reports.report.maps import draw_maps
from topwork.reports.report.tables import (
    FIRST,
    MOST_ROWS,
    list_classes,
    list_labels,
    list_numbers,
    make_confusion,
)

# Of some 4 kB each, a third more in HTML: the file stays below 3 MB.
PICTURES = 300
# One image is run at a time, by all cores; another is decoded meanwhile.
MAP_THREADS = 2


@dataclass(frozen=True)
class PageLimits:
    """How much a page shows at most.

    Attributes:
        pictures: of images.
        rows: of classes, labels or numbers.
    """

    pictures: int = PICTURES
    rows: int = MOST_ROWS


LIMITS = PageLimits()


def render_report(
    model: Model,
    predictions: LabeledPredictions | None,
    *,
    title: str,
    limits: PageLimits = LIMITS,
    explainer: Explainer | None = None,
    inspection: Mapping[str, Any] | None = None,
    trials_svg: bytes | None = None,
    callback: Callback = SILENT,
) -> str:
    """Renders what a person should see of a model.

    Args:
        model: a trained model.
        predictions: what it says of some images, at least one; None if that is not known. Pictures
            are shown of those that have a source; one that cannot be read stays empty.
        title: of the page.
        limits: how much it shows at most.
        explainer: of the model, for the maps; None for none.
        inspection: what an inspection of its images found, as `Inspection.summary` has it.
        trials_svg: the plot of what was compared to choose the head.
        callback: hears, in the caller's thread, how many small pictures are made, and of how
            many.

    Returns:
        HTML.
    """
    found = judge(model, predictions) if predictions is not None and len(predictions) else None
    content = _describe_model(model)
    pictures = ThumbnailSet(lambda index: b"", 0)
    worst = unsure = None
    groups: list[Group] = []
    if found is not None:
        worst, unsure = find_worst(found), find_unsure(found)
        behind = find_groups(found)
        groups = list(behind.values())
        content |= _list_answers(found, behind, limits.rows)
        pictures = _draw_pictures(
            found.predictions, worst, unsure, groups, limits.pictures, model.ranges, callback
        )
        if explainer is not None:
            _add_maps(explainer, found.predictions, worst.rows)
    return load_template("report/page.html.j2").render(
        title=title,
        model=model,
        predictions=predictions,
        found=found,
        tiles=list_tiles(model, found),
        honesty=say_honesty(model, predictions),
        doubts=list_doubts(model, found),
        findings=list_findings(inspection),
        trials=data_uri(trials_svg) if trials_svg else None,
        worst=worst,
        unsure=unsure,
        groups=groups,
        pictures=pictures,
        first=FIRST,
        side=THUMBNAIL_PX,
        **content,
    )


def _describe_model(model: Model) -> dict[str, Any]:
    return {
        "task": say_task(model),
        "exact": model.head.linear,
        "command": model.provenance.command if model.provenance else None,
        "stages": list_stages(model),
        "curves": draw_curves(model.history, say_kept(model)),
        "settings": list_settings(model.settings),
        "origins": list_origins(model),
        "search": say_search(model),
        "balance": count_classes(
            {split: row for split, row in model.data.counts.items() if any(row.values())}
        ),
    }


def _list_answers(
    found: Judged, behind: Mapping[tuple[int, int], Group], most_rows: int
) -> dict[str, Any]:
    rows: Any = None
    confusion = None
    match found.report:
        case ClassReport():
            rows = list_classes(found.classes, found.report, most=most_rows)
            confusion = make_confusion(found.classes, found.report, behind)
        case LabelReport():
            rows = list_labels(found.classes, found.report, behind, most=most_rows)
        case NumberReport():
            rows = list_numbers(found.classes, found.report, most=most_rows)
    return {
        "rows": rows,
        "confusion": confusion,
        "sureness": draw_calibration(found),
        "numbers": draw_numbers(found),
    }


def _draw_pictures(
    predictions: LabeledPredictions,
    worst: Cases,
    unsure: Cases | None,
    groups: Sequence[Group],
    most: int,
    ranges: str,
    callback: Callback,
) -> ThumbnailSet:
    """Makes the pictures of all cases that have an image, the worst first, up to the limit."""

    def make(index: int) -> bytes:
        source = predictions.sources[index]
        if source is None:
            raise ImageError("it is not at hand")
        return make_thumbnail(source, ranges=ranges)

    pictures = ThumbnailSet(make, most)
    lists = (worst, unsure, *(group.cases for group in groups))
    for case in (case for cases in lists if cases is not None for case in cases.rows):
        if predictions.sources[case.index] is not None:
            pictures.add(case.index)
    pictures.draw(callback)
    return pictures


def _add_maps(explainer: Explainer, predictions: LabeledPredictions, cases: Sequence[Case]) -> None:
    def add(case: Case) -> None:
        source = predictions.sources[case.index]
        if source is not None:
            case.maps.extend(draw_maps(explainer, source, case.asked))

    with ThreadPoolExecutor(MAP_THREADS) as pool:
        list(pool.map(add, cases))
