"""How far a model's validation figures can be trusted, where its data leave doubts."""

from __future__ import annotations

from topwork.data.listing import Split
from topwork.data.validation import find_lacking
from topwork.metrics.missing import list_names
from topwork.models.model import Model


def say_trust(model: Model) -> list[str]:
    """Says in sentences what a model's validation images cannot tell; none if there is no doubt."""
    lines = []
    if find_lacking(model.data.counts, Split.VALIDATION):
        lines.append(_say_choice(model))
    copied = model.data.split.get("copied")
    if copied:
        lines.append(
            f"Nearly the same picture of {list_names(copied)} is on both sides of the division: "
            "without that a class would be on one side alone. The figures say how well these "
            "pictures are known again, not how well new ones are; take some on other occasions."
        )
    return lines


def _say_choice(model: Model) -> str:
    """Says what was chosen where validation lacks a class, and by what."""
    if model.search is not None:
        return (
            "Validation lacks a class, so it chose nothing: settings, epoch and calibration come "
            "from folds of the training images."
        )
    return (
        "Validation lacks a class, and too few images can be divided into folds, so nothing was "
        "chosen: settings left to auto have their usual values, the last epoch is kept, "
        "probabilities are not calibrated, and label sets hold every class."
    )
