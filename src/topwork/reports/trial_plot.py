"""A search as a picture: the metric against the learning rate, and the curves of the best.

`compare_trials` says what is drawn, as data; `draw_trials` draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import Floats64
from topwork.core.config import HeadKind, HeadSettings
from topwork.core.errors import counted
from topwork.heads.tuning.trials import PLAIN, Trial, rank
from topwork.reports.chart_file import (
    Entry,
    Panel,
    level_key,
    line_key,
    render_file,
    ring_key,
)
from topwork.reports.pages.axes import SERIES, Axis, Frame, clip
from topwork.reports.pages.charts import MOST_STEPS, choose_steps

EPOCHS = HeadSettings.model_fields["epochs"].default
# How far below the best accuracy, and at how many times the lowest error, a chart ends.
DEPTH = 0.15
ERROR_DEPTH = 2.0


@dataclass(frozen=True)
class Family:
    """Recipes that differ in one number alone.

    Attributes:
        label: what they have in common.
        trials: at least one, by that number.
        best: the chosen one if it is among them, else the best.
    """

    label: str
    trials: list[Trial]
    best: Trial


@dataclass(frozen=True)
class Series:
    """A line of a chart; its place among the others decides its colour.

    Attributes:
        label: of the recipes, or the recipe, that it is of.
        x: (N,) learning rates, penalties or epochs.
        y: (N,) metric or loss; NaN where it was not finite.
        errors: (N,) by how much the band is above and below; None for no band.
        dots: indices of the points that have a mark.
        chosen: whether it is of the chosen recipe alone.
    """

    label: str
    x: Floats64
    y: Floats64
    errors: Floats64 | None
    dots: Sequence[int]
    chosen: bool = False


@dataclass(frozen=True)
class TrialChart:
    """A chart of a search.

    Attributes:
        heading: what is shown.
        x: to the right.
        y: upwards; what is far from the best lies beyond its ends.
        series: at most five.
        ring: where the chosen recipe is; None where that is not a point of this chart.
        level: words and height of the best logistic head, which has neither learning rate nor
            epochs; None where there is none.
    """

    heading: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    ring: tuple[float, float] | None = None
    level: tuple[str, float] | None = None


def draw_trials(trials: Sequence[Trial], chosen: HeadSettings, path: Path) -> None:
    """Draws a search into an SVG file.

    Args:
        trials: at least one.
        chosen: the recipe that was chosen.
        path: the file.
    """
    title = f"Choice of the head: {counted(len(trials), 'recipe')} compared"
    panels = [_draw(chart) for chart in compare_trials(trials, chosen)]
    path.write_text(render_file(title, panels), encoding="utf-8")


def compare_trials(trials: Sequence[Trial], chosen: HeadSettings) -> tuple[TrialChart, TrialChart]:
    """Returns two charts of a search.

    The first has the metric against the learning rate, a line for each of the best families of
    recipes; the second the epochs of the best recipe of each. Where all heads are logistic, the
    metric and the loss against the penalty.

    Args:
        trials: at least one.
        chosen: the recipe that was chosen.
    """
    dense = [trial for trial in trials if trial.settings.head is HeadKind.DENSE]
    solved = [trial for trial in trials if trial.settings.head is HeadKind.LOGISTIC]
    name = "learning_rate" if dense else "penalty"
    families = _find_families(dense or solved, chosen, name)
    level = _find_level(solved, chosen) if dense and solved else None
    left = _compare_numbers(families, name, chosen, level)
    if dense:
        return left, _compare_epochs(families, chosen, level)
    return left, _compare_losses(families)


def describe_recipe(recipe: HeadSettings) -> str:
    """Says a recipe in a few words: what differs from a plain head."""
    if recipe.head is HeadKind.LOGISTIC:
        number = f"logistic, penalty {recipe.penalty:g}"
    else:
        number = f"rate {recipe.learning_rate:g}"
    return ", ".join([number, *_describe_options(recipe)])


def _describe_options(recipe: HeadSettings) -> list[str]:
    words = []
    if recipe.head is HeadKind.DENSE and recipe.inner_units:
        words.append(f"inner {recipe.inner_units}")
    for name, plain in PLAIN.items():
        value = getattr(recipe, name)
        if value != plain:
            said = {"normalize": "normalized", "class_weight": "balanced"}.get(name)
            words.append(said or f"{name.split('_')[-1]} {value:g}")
    if recipe.head is HeadKind.DENSE and recipe.epochs != EPOCHS:
        words.append(f"{recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}")
    return words


def _find_families(trials: Sequence[Trial], chosen: HeadSettings, name: str) -> list[Family]:
    """Returns the recipes that differ in `name` alone: the first, the chosen one's, the best."""
    found: dict[HeadSettings, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.settings.model_copy(update={name: 1.0}), []).append(trial)
    families = []
    for key, members in found.items():
        members.sort(key=lambda trial: float(getattr(trial.settings, name)))
        best = max(members, key=lambda trial: (trial.settings == chosen, *rank(trial)))
        families.append(Family(", ".join(_describe_options(key)) or "plain head", members, best))
    first, *others = families
    others.sort(key=lambda f: (f.best.settings == chosen, *rank(f.best)), reverse=True)
    return [first, *others[: SERIES - 1]]


def _find_level(solved: Sequence[Trial], chosen: HeadSettings) -> tuple[str, float]:
    best = max(solved, key=lambda trial: (trial.settings == chosen, *rank(trial)))
    words = describe_recipe(best.settings)
    if best.settings == chosen:
        words += " (chosen)"
    return words, float(best.figures.mean())


def _compare_numbers(
    families: Sequence[Family],
    name: str,
    chosen: HeadSettings,
    level: tuple[str, float] | None,
) -> TrialChart:
    """Compares the mean at each learning rate or penalty, with a band of one error."""
    series, ring = [], None
    for family in families:
        errors = np.array([trial.error for trial in family.trials])
        found = Series(
            family.label,
            np.array([float(getattr(trial.settings, name)) for trial in family.trials]),
            np.array([trial.figures.mean() for trial in family.trials]),
            errors if np.isfinite(errors).all() else None,
            range(len(family.trials)),
        )
        series.append(found)
        if family.best.settings == chosen:
            at = family.trials.index(family.best)
            ring = float(found.x[at]), float(found.y[at])
    first = families[0].trials[0]
    several = len(first.fits) > 1
    return TrialChart(
        "mean over folds and seeds, band: one standard error" if several else "on held-out images",
        Axis.by_factors(name.replace("_", " "), np.concatenate([found.x for found in series])),
        _look_at_best(first.metric, series, level),
        series,
        ring,
        level,
    )


def _compare_epochs(
    families: Sequence[Family], chosen: HeadSettings, level: tuple[str, float] | None
) -> TrialChart:
    """Compares the best recipe of each family by epochs; of a single family, its best few."""
    shown = [family.best for family in families]
    if len(families) == 1:
        ranked = sorted(families[0].trials, key=rank, reverse=True)
        ranked.sort(key=lambda trial: trial.settings != chosen)
        shown = ranked[:SERIES]
    series, ring = [], None
    for trial in shown:
        curve = _curve(trial)
        epochs = np.arange(1, len(curve) + 1, dtype=np.float64)
        label, is_chosen = describe_recipe(trial.settings), trial.settings == chosen
        series.append(Series(label, epochs, curve, None, [trial.epoch - 1], is_chosen))
        if is_chosen:
            ring = float(trial.epoch), float(curve[trial.epoch - 1])
    return TrialChart(
        "the best recipes, marked at their best epochs",
        Axis.around("epoch", [1], *(found.x for found in series), whole=True),
        _look_at_best(shown[0].metric, series, level),
        series,
        ring,
        level,
    )


def _compare_losses(families: Sequence[Family]) -> TrialChart:
    """Compares the held-out loss of logistic heads at each penalty."""
    series = [
        Series(
            family.label,
            np.array([float(trial.settings.penalty) for trial in family.trials]),
            np.array([trial.loss for trial in family.trials]),
            None,
            range(len(family.trials)),
        )
        for family in families
    ]
    return TrialChart(
        "loss",
        Axis.by_factors("penalty", np.concatenate([found.x for found in series])),
        Axis.around("loss on held-out images", *(found.y for found in series)),
        series,
    )


def _curve(trial: Trial) -> NDArray[np.float64]:
    """Returns the mean metric (E,); of an accuracy that had diverged, 0."""
    shown = trial.metrics if trial.metric == "mae" else trial.curves
    return np.asarray(shown.mean(axis=0))


def _look_at_best(metric: str, series: Sequence[Series], level: tuple[str, float] | None) -> Axis:
    """Returns the axis of a metric without what is far from the best; it would flatten the rest."""
    values = np.concatenate([found.y for found in series])
    reach = [values] if level is None else [values, np.array([level[1]])]
    for found in series:
        if found.errors is not None:
            reach += [found.y - found.errors, found.y + found.errors]
    finite = values[np.isfinite(values)]
    if not len(finite):
        low, high = -np.inf, np.inf
    elif metric == "mae":
        low, high = -np.inf, ERROR_DEPTH * finite.min()
    else:
        low, high = finite.max() - DEPTH, np.inf
    return Axis.around(f"{metric} on held-out images", np.clip(np.concatenate(reach), low, high))


def _draw(chart: TrialChart) -> Panel:
    """Draws a chart, and its legend."""
    frame = Frame(chart.x, chart.y)
    lines, marks = [], []
    legend = [
        Entry(line_key(number, wide=found.chosen), found.label)
        for number, found in enumerate(chart.series)
    ]
    # The chosen one's line lies above the others.
    for number, found in sorted(enumerate(chart.series), key=lambda one: one[1].chosen):
        if found.errors is not None:
            lines.append(_draw_band(frame, found, found.errors, number))
        kind = f"l{number} wide" if found.chosen else f"l{number}"
        steps = choose_steps(len(found.x), MOST_STEPS)
        points = [(float(found.x[n - 1]), float(found.y[n - 1])) for n in steps]
        lines.append(f'<path class="{kind}" d="{frame.trace(points)}"/>')
        dots = [(float(found.x[n]), float(found.y[n])) for n in found.dots]
        marks.append(f'<path class="m{number}" d="{frame.mark(dots, number)}"/>')
    if chart.level is not None:
        words, height = chart.level
        if frame.y.holds(height):
            ends = ((end, height) for end in (frame.x.low, frame.x.high))
            lines.append(f'<path class="level" d="{frame.trace(ends)}"/>')
        legend.append(Entry(level_key(), words))
    if chart.ring is not None:
        x, y = chart.ring
        if frame.y.holds(y):
            marks.append(
                f'<circle class="chosen" cx="{frame.right(x):.1f}" cy="{frame.down(y):.1f}" r="8"/>'
            )
        legend.append(Entry(ring_key("chosen"), "chosen"))
    drawn = frame.draw([clip(lines), *marks], _say(chart))
    return Panel(chart.heading, drawn, legend)


def _draw_band(frame: Frame, series: Series, errors: Floats64, number: int) -> str:
    """Draws a band: along its upper edge, and back along its lower one."""
    x = np.concatenate([series.x, series.x[::-1]])
    y = np.concatenate([series.y + errors, (series.y - errors)[::-1]])
    outline = frame.trace(zip(x.tolist(), y.tolist(), strict=True))
    return f'<path class="b{number}" d="{outline}Z"/>'


def _say(chart: TrialChart) -> str:
    """Says a chart in words."""
    said = f"{chart.y.name} against {chart.x.name}: {', '.join(s.label for s in chart.series)}"
    return said if chart.level is None else f"{said}, {chart.level[0]}"
