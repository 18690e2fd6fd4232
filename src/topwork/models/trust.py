"""How far a model's validation figures can be trusted, where its data leave doubts."""

from __future__ import annotations

from topwork.core.config import HeadKind
from topwork.data.listing import Split
from topwork.data.validation import find_lacking
from topwork.metrics.missing import list_names
from topwork.models.model import Model


def say_trust(model: Model) -> list[str]:
    """Says in sentences what a model's validation images cannot tell; none if there is no doubt."""
    lines = []
    lacking = find_lacking(model.data.counts, Split.VALIDATION)
    if lacking:
        lines.append(_say_choice(model, len(lacking)))
    training = model.data.counts.get(str(Split.TRAIN), {})
    single = [name for name in lacking if training.get(name) == 1]
    if single:
        it = "it" if len(single) == 1 else "each"
        lines.append(
            f"No figure judges {list_names(single)}: there is one image of {it} alone, to learn "
            "from."
        )
    copied = model.data.split.get("copied")
    if copied:
        lines.append(
            f"Nearly the same picture of {list_names(copied)} is on both sides of the division: "
            "without that a class would be on one side alone. The figures say how well these "
            "pictures are known again, not how well new ones are; take some on other occasions."
        )
    return lines


def say_kept(model: Model) -> str | None:
    """Says why an epoch was kept, where validation lacks a class and so chose nothing; else None.

    It goes on after "kept: ".
    """
    if not find_lacking(model.data.counts, Split.VALIDATION):
        return None
    if model.search is None:
        return "the last, since nothing was chosen"
    return "folds chose how many, and the last is kept"


def _say_choice(model: Model, lacking: int) -> str:
    """Says what was chosen where validation lacks some classes, and by what."""
    solved = model.settings.head is HeadKind.LOGISTIC
    lacks = "Validation lacks " + ("a class" if lacking == 1 else f"{lacking} classes")
    if model.search is not None:
        epoch = " and the calibration" if solved else ", the epoch and the calibration"
        said = (
            f"{lacks}, so it chose nothing: what was left open{epoch} come from folds of the "
            "training images."
        )
    else:
        epoch = "" if solved else "the last epoch is kept, "
        said = (
            f"{lacks}, and too few images can be divided into folds, so nothing was chosen: "
            f"settings left to auto have their usual values, {epoch}probabilities are not "
            "calibrated, and label sets hold every class."
        )
    if not solved and model.settings.most_epochs is not None:
        said += " --most-epochs is for validation that has every class."
    return said
