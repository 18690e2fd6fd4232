"""What a training came to, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from topwork.metrics.calibration import Calibration
from topwork.metrics.conformal import Residuals
from topwork.metrics.history import History
from topwork.metrics.scores import Report, say_number, say_report
from topwork.models.model import Model


def verdict(
    history: History,
    report: Report,
    *,
    solved: bool = False,
    classes: Sequence[str] = (),
    kept_by: str | None = None,
) -> list[str]:
    """Says in words what the curve and the validation figures mean.

    Args:
        history: the record of the training.
        report: the kept epoch on the validation split.
        solved: whether the head was solved to its optimum, in no epochs.
        classes: names of the classes or labels, to name those without images.
        kept_by: what chose the epoch, where the validation figures tell nothing of it; None where
            these chose it.
    """
    best = history.row(history.best_epoch)
    number = history.metric == "mae"
    why = (
        "the lowest validation loss"
        if number
        else f"the highest validation {history.metric} (ties go to the lower loss)"
    )
    kept = (
        "Solved to its optimum: there are no epochs to choose from."
        if solved
        else f"Kept epoch {history.best_epoch} of {history.epochs}: {kept_by or why}."
    )
    lines = [kept, say_report("Validation", report, classes)]
    if solved or kept_by:
        return lines
    if history.epochs > 1:
        figure = (
            "the error is slightly too small" if number else "the accuracy is slightly too good"
        )
        lines.append(
            f"The epoch was chosen on these images, so {figure}; that of folds is less so, that of "
            "a test not at all."
        )
    found = history.overfitting()
    if found is not None:
        ahead = (
            f"the training error is {-found.gap:.3g} below validation"
            if number
            else f"training accuracy is {found.gap * 100:.0f} points above validation"
        )
        lines.append(
            f"It overfits from epoch {found.from_epoch}: by the last epoch the validation loss has "
            f"risen from {found.lowest_loss:.3g} to {found.last_loss:.3g}, and {ahead}."
        )
    elif (lost := history.diverged()) is not None:
        lines.append(
            f"It diverged: from epoch {lost} the loss is not finite. The learning rate is too high."
        )
    elif history.best_epoch == history.epochs and history.epochs > 1:
        lines.append(
            "It does not overfit, and the last epoch is the best: more may help, as --most-epochs "
            f"{2 * history.epochs} allows."
        )
    else:
        gap = best[history.metric] - best[f"val_{history.metric}"]
        lines.append(
            "It does not overfit: the validation loss has not turned"
            + (
                f", though training accuracy is {gap * 100:.0f} points above."
                if gap > 0.05 and not number
                else "."
            )
        )
    return lines


def say_folds(model: Model) -> list[str]:
    """Says what the chosen recipe reached on folds, if it was chosen there."""
    found = model.search
    if found is None or not found.folds:
        return []
    mean = say_mean(model.validation.metric, found.mean, found.error)
    return [f"By folds of the training images: {model.validation.metric} {mean}."]


def say_refit(model: Model) -> list[str]:
    """Says that the validation images are not unseen any more, if it is so."""
    if not model.data.refitted:
        return []
    figure = " The figure to give is that of a test, or of the folds." if say_folds(model) else ""
    return [
        "Then it learnt from the validation images too: what is said of them is of the head before "
        f"that.{figure}"
    ]


def say_calibration(found: Calibration | Residuals) -> str:
    """Says how sure probabilities are, or how wide ranges of numbers, and measured on what."""
    where = "folds" if found.source == "folds" else "the validation images"
    if isinstance(found, Residuals):
        widths = found.half_widths(0.9)
        if not np.isfinite(widths).all():
            return f"Ranges: {len(found.scores)} images are too few to promise any."
        said = ", ".join(map(say_number, widths))
        return f"Ranges: 9 of 10 numbers lie within ± {said} of the truth, measured on {where}."
    return (
        f"Probabilities: calibrated on {where} with temperature {found.temperature:.2f}; expected "
        f"calibration error {found.error_before:.3f} before, {found.error_after:.3f} after."
    )


def say_mean(metric: str, mean: float, error: float | None) -> str:
    """Says a mean of `accuracy` or `mae` with its standard error; None where that is not known."""
    if metric == "mae":
        return say_number(mean) + ("" if error is None else f" ± {say_number(error)}")
    return f"{mean * 100:.1f}" + ("" if error is None else f" ± {error * 100:.1f}") + " %"
