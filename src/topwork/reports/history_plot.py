"""A training as a picture: metric and loss over the epochs."""

from __future__ import annotations

import math
from pathlib import Path

from topwork.core.task import Task
from topwork.metrics.history import History
from topwork.metrics.scores import say_explained, say_number
from topwork.models.model import Model
from topwork.reports.chart_file import Entry, Panel, line_key, render_file, ring_key, span_key
from topwork.reports.pages.charts import MOST_MARKS
from topwork.reports.report.drawings import draw_epochs, say_name, say_value


def draw_history(model: Model, path: Path) -> None:
    """Draws the curve of a model's training into an SVG file."""
    bases = " + ".join(f"{m.space.base}, {m.space.image_size} px" for m in model.bases)
    title = f"{bases}: {_say_validation(model)}"
    path.write_text(render_history(model.history, title), encoding="utf-8")


def render_history(history: History, title: str) -> str:
    """Returns an SVG document with the metric and the loss side by side.

    Args:
        history: the record of a training.
        title: above both.
    """
    return render_file(
        title,
        [
            Panel(say_name(name), draw_epochs(history, name), _explain(history, name))
            for name in (history.metric, "loss")
        ],
    )


def _explain(history: History, name: str) -> list[Entry]:
    """Returns the legend of a chart; bars have their names in it."""
    if history.epochs == 1:
        return []
    marks = history.epochs <= MOST_MARKS
    best = history.best_epoch
    kept = say_value(history.history[f"val_{name}"][best - 1])
    legend = [
        Entry(line_key(0, marks=marks), "validation"),
        Entry(line_key(1, marks=marks), "training"),
        Entry(ring_key("l0"), f"kept: epoch {best}, validation {kept}"),
    ]
    found = history.overfitting()
    if found is not None:
        legend.append(Entry(span_key(), f"overfits from epoch {found.from_epoch}"))
    return legend


def _say_validation(model: Model) -> str:
    found = model.validation
    if model.task is Task.NUMBER and len(model.classes) > 1:
        # Several numbers have no unit in common.
        share = found.figures["r2"]
        return f"validation {say_explained(math.nan if share is None else share)}"
    say = say_number if model.task is Task.NUMBER else "{:.3f}".format
    low, high = (say(math.nan if end is None else end) for end in found.interval)
    return f"validation {found.metric} {say(found.value)} (95 % interval {low} to {high})"
