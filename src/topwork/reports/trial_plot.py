"""A search as a picture: the metric against the learning rate, and the curves of the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.config import HeadKind, HeadSettings
from topwork.heads.tuning.trials import PLAIN, Trial, rank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#1f5f8b", "#c2571a", "#3d7a3d", "#8a3b6b", "#6b6b6b")
LOGISTIC = "#222222"
EPOCHS = HeadSettings.model_fields["epochs"].default
DEPTH = 0.15
ERROR_DEPTH = 2.0
LABEL_INCHES = 0.5
MARK: dict[str, Any] = {
    "ls": "none",
    "marker": "o",
    "ms": 13,
    "mfc": "none",
    "mec": "#222222",
    "mew": 1.8,
}


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


def draw_trials(trials: Sequence[Trial], chosen: HeadSettings, path: Path) -> None:
    """Writes a PNG with two plots side by side; needs no display.

    On the left the metric against the learning rate, a line for each of the best families of
    recipes; on the right the epochs of the best recipe of each. Where all heads are logistic,
    the metric and the loss against the penalty.

    Args:
        trials: at least one.
        chosen: the recipe that was chosen.
        path: the file.
    """
    from matplotlib.figure import Figure
    from matplotlib.transforms import ScaledTranslation

    dense = [trial for trial in trials if trial.settings.head is HeadKind.DENSE]
    solved = [trial for trial in trials if trial.settings.head is HeadKind.LOGISTIC]
    name = "learning_rate" if dense else "penalty"
    families = _find_families(dense or solved, chosen, name)
    figure = Figure(figsize=(11, 6), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_numbers(left, families, name)
    if dense:
        _draw_epochs(right, families, chosen)
    else:
        _draw_losses(right, families)
    if dense and solved:
        _draw_solved((left, right), solved, chosen)
    for family in families:
        if family.best.settings == chosen:
            left.plot([getattr(chosen, name)], [family.best.figures.mean()], label="chosen", **MARK)
    for ax in (left, right):
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        # Below, where it hides nothing.
        below = ax.transAxes + ScaledTranslation(0, -LABEL_INCHES, figure.dpi_scale_trans)
        ax.legend(
            loc="upper left",
            bbox_to_anchor=(0, 0),
            bbox_transform=below,
            frameon=False,
            fontsize=9,
        )
    figure.savefig(path)


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
    return [first, *others[: len(COLORS) - 1]]


def _draw_numbers(ax: Axes, families: Sequence[Family], name: str) -> None:
    """Draws the mean against the learning rate or the penalty, with a band of one error."""
    trials = [trial for family in families for trial in family.trials]
    for color, family in zip(COLORS, families, strict=False):
        numbers = [float(getattr(trial.settings, name)) for trial in family.trials]
        means = np.array([trial.figures.mean() for trial in family.trials])
        errors = np.array([trial.error for trial in family.trials])
        ax.plot(numbers, means, "o-", ms=4, color=color, label=family.label)
        if np.isfinite(errors).all():
            ax.fill_between(numbers, means - errors, means + errors, color=color, alpha=0.2, lw=0)
    ax.set_xscale("log")
    ax.set(xlabel=name.replace("_", " "), ylabel=f"{trials[0].metric} on held-out images")
    several = len(trials[0].fits) > 1
    ax.set_title(
        "mean over folds and seeds, band: one standard error" if several else "on held-out images",
        fontsize=10,
    )
    _look_at_best(ax, trials[0].metric, np.array([trial.figures.mean() for trial in trials]))


def _draw_epochs(ax: Axes, families: Sequence[Family], chosen: HeadSettings) -> None:
    """Draws the curve of the best recipe of each family; of a single family, of its best few."""
    from matplotlib.ticker import MaxNLocator

    shown = [family.best for family in families]
    if len(families) == 1:
        ranked = sorted(families[0].trials, key=rank, reverse=True)
        ranked.sort(key=lambda trial: trial.settings != chosen)
        shown = ranked[: len(COLORS)]
    for color, trial in zip(COLORS, shown, strict=False):
        curve = _curve(trial)
        wide, above = (2.4, 3) if trial.settings == chosen else (1.2, 2)
        label = describe_recipe(trial.settings)
        epochs = range(1, len(curve) + 1)
        ax.plot(epochs, curve, color=color, lw=wide, zorder=above, label=label)
        best = curve[trial.epoch - 1]
        ax.plot([trial.epoch], [best], "o", color=color, ms=6)
        if trial.settings == chosen:
            ax.plot([trial.epoch], [best], **MARK)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel=f"{shown[0].metric} on held-out images")
    ax.set_title("the best recipes, dots: their best epochs", fontsize=10)
    _look_at_best(ax, shown[0].metric, np.concatenate([_curve(trial) for trial in shown]))


def _draw_losses(ax: Axes, families: Sequence[Family]) -> None:
    """Draws the held-out loss of logistic heads against the penalty."""
    for color, family in zip(COLORS, families, strict=False):
        numbers = [float(trial.settings.penalty) for trial in family.trials]
        losses = [trial.loss for trial in family.trials]
        ax.plot(numbers, losses, "o-", ms=4, color=color, label=family.label)
    ax.set_xscale("log")
    ax.set(xlabel="penalty", ylabel="loss on held-out images")


def _draw_solved(axes: Sequence[Axes], trials: Sequence[Trial], chosen: HeadSettings) -> None:
    """Draws the best logistic head, which has neither learning rate nor epochs, as a line."""
    best = max(trials, key=lambda trial: (trial.settings == chosen, *rank(trial)))
    label = describe_recipe(best.settings)
    if best.settings == chosen:
        label += " (chosen)"
    for ax in axes:
        ax.axhline(best.figures.mean(), color=LOGISTIC, lw=1.4, ls="--", label=label)


def _curve(trial: Trial) -> NDArray[np.float64]:
    """Returns the mean metric (E,); of an accuracy that had diverged, 0."""
    shown = trial.metrics if trial.metric == "mae" else trial.curves
    return np.asarray(shown.mean(axis=0))


def _look_at_best(ax: Axes, metric: str, values: NDArray[np.float64]) -> None:
    """Leaves out of the picture what is far from the best; it would flatten all the rest."""
    values = values[np.isfinite(values)]
    if metric == "mae":
        if values.size and values.max() > ERROR_DEPTH * values.min():
            ax.set_ylim(top=ERROR_DEPTH * values.min())
    elif values.min() < values.max() - DEPTH:
        ax.set_ylim(bottom=values.max() - DEPTH)
