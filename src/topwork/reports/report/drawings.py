"""Charts of a report: learning curves, sureness against truth, predicted against true numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from topwork.core.arrays import Floats32
from topwork.core.task import Task
from topwork.heads.dense import probabilities
from topwork.metrics.calibration import (
    Calibration,
    as_pairs,
    calibration_error,
    chance_error,
    reliability,
)
from topwork.metrics.conformal import Residuals
from topwork.metrics.history import History
from topwork.metrics.intervals import wilson_interval
from topwork.metrics.scores import say_number
from topwork.reports.pages.axes import Axis, Frame
from topwork.reports.pages.charts import (
    Histogram,
    Line,
    choose_steps,
    draw_bars,
    draw_diagonal,
    draw_lines,
    draw_points,
    make_histogram,
)
from topwork.reports.report.judging import Judged

EPOCHS = 100
NUMBERS = 12
COVERAGE = 0.9
MANY = 10_000


@dataclass(frozen=True)
class Curves:
    """The record of a training.

    Attributes:
        charts: name and drawing of the metric and of the loss; none for a single epoch.
        names: of the columns of `rows`.
        rows: epoch and figures, at most a hundred; the kept one is among them.
        kept: the kept epoch.
        epochs: how many there are.
        verdict: what the curve means, in words.
    """

    charts: Sequence[tuple[str, Markup]]
    names: Sequence[str]
    rows: Sequence[tuple[int, Sequence[float]]]
    kept: int
    epochs: int
    verdict: str


def draw_curves(history: History, kept_by: str | None = None) -> Curves:
    """Draws how metric and loss went, with the kept epoch and where the head overfits.

    Args:
        history: the record of a training.
        kept_by: what chose the epoch, where the validation images did not.
    """
    names = (history.metric, "loss") if history.epochs > 1 else ()
    steps = choose_steps(history.epochs, EPOCHS, history.best_epoch)
    return Curves(
        charts=[(say_name(name), draw_epochs(history, name)) for name in names],
        names=[say_name(name) for name in history.history],
        rows=[(step, list(history.row(step).values())) for step in steps],
        kept=history.best_epoch,
        epochs=history.epochs,
        verdict=_say_curve(history, kept_by),
    )


def draw_epochs(history: History, name: str) -> Markup:
    """Draws training and validation over the epochs; two bars where there is one epoch alone.

    Args:
        history: the record of a training.
        name: `loss`, or the metric's.
    """
    said = say_name(name)
    train, validation = history.history[name], history.history[f"val_{name}"]
    if history.epochs == 1:
        bars = [
            (f"{where}: {say_value(values[0])}", values[0])
            for where, values in (("validation", validation), ("training", train))
        ]
        return draw_bars(bars, said, f"{said}, {', '.join(words for words, _ in bars)}")
    found = history.overfitting()
    label = (
        f"{said} over {history.epochs} epochs: training from {say_value(train[0])} to "
        f"{say_value(train[-1])}, validation from {say_value(validation[0])} to "
        f"{say_value(validation[-1])}, at the kept epoch {history.best_epoch} "
        f"{say_value(validation[history.best_epoch - 1])}"
    )
    return draw_lines(
        [Line("validation", validation), Line("training", train)],
        "epoch",
        said,
        label,
        kept=history.best_epoch,
        span=None if found is None else (float(found.from_epoch), float(history.epochs)),
    )


def say_name(name: str) -> str:
    """Says the name of a figure of a history."""
    where, plain = ("validation ", name[4:]) if name.startswith("val_") else ("", name)
    return where + ("mean absolute error" if plain == "mae" else plain)


def _say_curve(history: History, kept_by: str | None) -> str:
    if history.epochs == 1:
        return "There is a single step, and so no epoch to choose."
    if kept_by is not None:
        return f"Epoch {history.best_epoch} of {history.epochs} was kept: {kept_by}."
    why = "lowest validation loss" if history.metric == "mae" else "highest validation accuracy"
    kept = f"Epoch {history.best_epoch} of {history.epochs} was kept, for its {why}. "
    found, lost = history.overfitting(), history.diverged()
    if lost is not None:
        return f"{kept}It diverged: from epoch {lost} the loss is not finite."
    if found is None:
        return f"{kept}It does not overfit: the validation loss has not turned."
    return (
        f"{kept}It overfits from epoch {found.from_epoch}, which is shaded: the validation loss "
        f"rises from {say_value(found.lowest_loss)} to {say_value(found.last_loss)} while that of "
        "training falls."
    )


@dataclass(frozen=True)
class Bin:
    """Answers that were about as sure: bounds, how many, mean sureness, share right, interval."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class CalibrationChart:
    """How far probabilities can be believed.

    Attributes:
        chart: sureness against share of right answers.
        bins: what it shows.
        unit: what is counted, `images` or `decisions`.
        temperature: what the logits were divided by.
        source: where that was measured, in words.
        fitted: calibration error there, before and after; each image's by a temperature that was
            fitted without it. None where no images could say it.
        here: the same on these images, with the one temperature.
        by_chance: what these images show of it by chance alone.
    """

    chart: Markup
    bins: Sequence[Bin]
    unit: str
    temperature: float
    source: str
    fitted: tuple[float, float] | None
    here: tuple[float, float]
    by_chance: float


def draw_calibration(found: Judged) -> CalibrationChart | None:
    """Draws how sure the model was against how often it was right; None for numbers."""
    calibration = found.model.calibration
    if not isinstance(calibration, Calibration):
        return None
    logits, truth = found.logits, found.truth
    before = logits * np.float32(calibration.temperature)
    if found.task is Task.CLASSES:
        shown, first = (probabilities(found.task, values) for values in (logits, before))
    else:
        # Every decision is one of two.
        truth = truth.ravel().astype(np.int64)
        pairs = (as_pairs(values.reshape(-1, 1)) for values in (logits, before))
        shown, first = (probabilities(Task.CLASSES, values) for values in pairs)
    bins = _find_bins(shown, truth)
    return CalibrationChart(
        chart=_draw_bins(bins),
        bins=bins,
        unit="decisions" if found.task is Task.LABELS else "images",
        temperature=calibration.temperature,
        source=_say_source(calibration.source),
        fitted=None
        if calibration.is_withheld
        else (calibration.error_before, calibration.error_after),
        here=(calibration_error(first, truth), calibration_error(shown, truth)),
        by_chance=chance_error(shown),
    )


def _find_bins(
    shown: Floats32, truth: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> list[Bin]:
    table = reliability(shown, truth)
    rows = zip(
        table.edges[:-1].tolist(),
        table.edges[1:].tolist(),
        table.count.tolist(),
        table.confidence.tolist(),
        table.accuracy.tolist(),
        strict=True,
    )
    return [
        Bin(low, high, count, sure, right, wilson_interval(round(right * count), count))
        for low, high, count, sure, right in rows
        if count
    ]


def _draw_bins(bins: Sequence[Bin]) -> Markup:
    ticks = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    frame = Frame(Axis("how sure", 0, 1, ticks), Axis("share right", 0, 1, ticks))
    most = max(found.count for found in bins)
    floor = frame.down(0)
    parts = []
    for found in bins:
        left, right = frame.right(found.low), frame.right(found.high)
        height = max(1.0, 0.25 * (floor - frame.down(1)) * found.count / most)
        parts.append(
            f'<rect class="count" x="{left + 1:.1f}" y="{floor - height:.1f}" '
            f'width="{right - left - 2:.1f}" height="{height:.1f}"/>'
        )
    parts.append(draw_diagonal(frame))
    for found in bins:
        x, y = frame.right(found.confidence), frame.down(found.accuracy)
        low, high = (frame.down(end) for end in found.interval)
        parts.append(f'<path class="l0" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        parts.append(f'<circle class="m0" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    label = "share of right answers by how sure the model was; the table below has the figures"
    return frame.draw(parts, label)


@dataclass(frozen=True)
class NumberChart:
    """A number: predicted against true, and its errors.

    Attributes:
        name: of the number.
        chart: the cloud of points.
        errors: predicted minus true, as bars; None where there are none.
        half_width: how far the range that holds 9 of 10 reaches to either side, in words.
        covered: share of these images whose number lies in it.
    """

    name: str
    chart: Markup
    errors: Histogram | None
    half_width: str
    covered: float | None


def draw_numbers(found: Judged) -> list[NumberChart]:
    """Draws each of the first numbers; none where the answers are classes."""
    calibration = found.model.calibration
    if not isinstance(calibration, Residuals):
        return []
    errors, halves = found.errors(), calibration.half_widths(COVERAGE)
    drawn = []
    for n, name in enumerate(found.classes[:NUMBERS]):
        true, said = found.truth[:, n], found.logits[:, n].astype(np.float64)
        known = np.isfinite(halves[n])
        label = (
            f"predicted against true {name} of {len(true)} images; the mean absolute error is "
            f"{say_number(float(np.abs(errors[:, n]).mean()))}"
        )
        spread = float(np.abs(errors[:, n]).max())
        digits = 0 if spread >= 100 else 1 if spread >= 10 else 2 if spread >= 1 else 4
        drawn.append(
            NumberChart(
                name=name,
                chart=draw_points(true, said, f"true {name}", f"predicted {name}", label),
                errors=make_histogram("Predicted minus true", errors[:, n], digits),
                half_width=say_number(float(halves[n])) if known else "",
                covered=float((np.abs(errors[:, n]) <= halves[n]).mean()) if known else None,
            )
        )
    return drawn


def _say_source(source: str) -> str:
    return "folds of the training images" if source == "folds" else "the validation images"


def say_value(figure: float) -> str:
    """Says a figure of a history."""
    if not math.isfinite(figure):
        return "not finite"
    return f"{figure:.3f}" if abs(figure) < MANY else say_number(figure)
