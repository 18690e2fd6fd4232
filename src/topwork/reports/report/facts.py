"""What a model says of itself: how good it is, its shapes, its settings, where it comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topwork.core.config import HeadKind, Settings
from topwork.core.errors import counted
from topwork.core.task import Task
from topwork.data.listing import Split
from topwork.data.validation import find_lacking
from topwork.metrics.missing import say_missing
from topwork.metrics.scores import NumberReport, say_number
from topwork.models.model import Model
from topwork.models.predictions import LabeledPredictions
from topwork.models.trust import say_trust
from topwork.reports.report.judging import Judged

# Figures of a report besides the metric: what they are called, and what of.
SHARES = {
    "macro_accuracy": ("macro average", "every class counts the same"),
    "exact": ("all labels right", "share of the images"),
}
SCORES = {
    "macro_f1": ("macro F1", "mean over the labels"),
    "mean_average_precision": ("mean average precision", "mean over the labels"),
    "r2": ("R²", "share of the variance explained"),
}
# What an inspection looks for, in the order of the page.
FINDINGS = {
    "leaks": "the same picture in two splits",
    "suspects": "labels in doubt",
    "pairs": "duplicates within a split",
    "alike": "pairs of classes alike",
    "shifts": "differences between splits",
    "outliers": "outliers",
    "oddities": "odd files",
    "skipped": "files left out",
}


@dataclass(frozen=True)
class Tile:
    """A figure that is seen first: what, how much, and how certain."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Stage:
    """One stage from pixels to logits: shape of a batch, weights, whether they were trained."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    note: str


@dataclass(frozen=True)
class Setting:
    """A setting, its value, and the default; `changed` if the two differ."""

    name: str
    value: str
    default: str

    @property
    def changed(self) -> bool:
        """Whether it is not the default."""
        return self.value != self.default


@dataclass(frozen=True)
class Finding:
    """Something that an inspection looked for: how many there are, and the worst in words."""

    what: str
    count: int
    worst: Sequence[str]


def say_task(model: Model) -> str:
    """Says what a model tells of an image."""
    count = len(model.classes)
    match model.task:
        case Task.LABELS:
            return f"which of {count:,} labels an image has"
        case Task.NUMBER:
            return "a number" if count == 1 else f"{count:,} numbers"
        case _:
            return f"which of {count:,} classes an image is of"


def list_tiles(model: Model, found: Judged | None) -> list[Tile]:
    """Returns the metric with its interval, and what else says how good the model is."""
    if found is not None:
        report = found.report
        low, high = report.interval
        value, figures, count = report.value, dict(report.figures), report.count
    else:
        known = model.validation
        low, high = (math.nan if end is None else end for end in known.interval)
        value, count = known.value, None
        figures = {name: math.nan if v is None else v for name, v in known.figures.items()}
    number = model.task is Task.NUMBER
    say = say_number if number else "{:.1%}".format
    metric = "mean absolute error" if number else "accuracy"
    metric += " of all decisions" if model.task is Task.LABELS else ""
    note = f"95 % interval {say(low)} to {say(high)}"
    if not math.isfinite(high):
        note = "too few images for an interval"
    tiles = [Tile(metric, say(value), note)]
    by_folds = model.search
    if by_folds is not None and by_folds.folds and (found is None or _is_of_training(found)):
        error = "" if by_folds.error is None else f" ± {say(by_folds.error)}"
        note = "mean over folds of the training images"
        tiles.append(Tile(f"{model.validation.metric} by folds", say(by_folds.mean) + error, note))
    for name, (said, about) in SHARES.items():
        if math.isfinite(figures.get(name, math.nan)):
            tiles.append(Tile(said, f"{figures[name]:.1%}", about))
    for name, (said, about) in SCORES.items():
        if math.isfinite(figures.get(name, math.nan)):
            tiles.append(Tile(said, f"{figures[name]:.3f}", about))
    if number and math.isfinite(figures.get("median_error", math.nan)):
        tiles.append(Tile("median error", say_number(figures["median_error"]), "half are below"))
    if number and len(model.classes) > 1:
        # Several numbers have no unit in common: what has none comes first.
        tiles.sort(key=lambda tile: tile.name != SCORES["r2"][0])
    if count is not None and found is not None:
        tiles.append(Tile("images", f"{count:,}", f"of the split {found.predictions.split}"))
    return tiles


def _is_of_training(found: Judged) -> bool:
    """Whether the answers are those that were kept of the training."""
    predictions = found.predictions
    return predictions.split == Split.VALIDATION and predictions.seen == len(predictions)


def say_honesty(model: Model, predictions: LabeledPredictions | None) -> str:
    """Says whether the figures are those of images that the model never saw."""
    split = predictions.split if predictions is not None else str(Split.VALIDATION)
    if predictions is not None and not predictions.seen:
        return "The model saw none of these images in training or validation: an honest test."
    if split == Split.TRAIN:
        return "The model learnt from these images: figures on them say nothing about others."
    advice = " For an honest test run topwork evaluate on images that were set aside."
    if model.data.refitted and split == Split.VALIDATION:
        known = predictions is None or predictions.unseen_logits is not None
        chosen = model.settings.head is not HeadKind.LOGISTIC and known
        also = f" {_say_unlearnt(model)}" if chosen and not _lacks_classes(model) else ""
        return _say_refitted(predictions) + also + advice
    if split != Split.VALIDATION and predictions is not None:
        return (
            f"{predictions.seen:,} of these {counted(len(predictions), 'image')} were used in "
            "training or validation: the figures are too good to be honest."
        )
    return _say_unlearnt(model) + advice


def _say_unlearnt(model: Model) -> str:
    """Says what figures on validation images are that the head did not learn from."""
    if _lacks_classes(model):
        return "The head did not learn from these images, and nothing was chosen by them."
    if model.settings.head is HeadKind.LOGISTIC:
        return (
            "The head did not learn from these images. Whoever compares models on them chooses by "
            "them, and the figures become slightly too good."
        )
    return "The kept epoch was chosen on these images, so the figures are slightly too good."


def _lacks_classes(model: Model) -> bool:
    return bool(find_lacking(model.data.counts, Split.VALIDATION))


def _say_refitted(predictions: LabeledPredictions | None) -> str:
    """Says what figures on validation images are that were learnt from in the end."""
    if predictions is not None and predictions.unseen_logits is None:
        return (
            "The model learnt from these images in the end: figures on them say nothing about "
            "others."
        )
    return (
        "These are the answers of the head before it learnt from these images too. The model as it "
        "is has learnt from them and from the training images."
    )


def list_doubts(model: Model, found: Judged | None) -> list[str]:
    """Says which classes the figures tell nothing of, and what else they cannot tell."""
    if found is None:
        split = str(Split.VALIDATION)
        names = list(find_lacking(model.data.counts, split))
    else:
        split, report = found.predictions.split, found.report
        missing = [] if isinstance(report, NumberReport) else report.missing.tolist()
        names = [model.classes[n] for n in missing]
    said = say_missing(split.capitalize(), names).strip()
    trust = say_trust(model) if split == Split.VALIDATION else []
    return [said, *trust] if said else trust


def list_stages(model: Model) -> list[Stage]:
    """Returns the shapes of a batch on its way, and how many weights each stage has."""
    batch = model.settings.batch_size
    stages = []
    for base in model.bases:
        size = base.space.image_size
        stages.append(Stage("INPUTS", (batch, size, size, 3), 0, "pixels, RGB"))
        note = f"{base.space.base}, frozen"
        stages.append(Stage("BASE", (batch, *base.feature_shape), base.parameters, note))
    side = ", side by side" if len(model.bases) > 1 else ""
    stages.append(Stage("VECTORS", (batch, model.vector_length), 0, f"mean over all places{side}"))
    *inner, last = model.head.layers
    for layer in inner:
        weights = layer.kernel.size + layer.bias.size
        stages.append(Stage("INNER", (batch, len(layer.bias)), weights, "trained, with ReLU"))
    weights = last.kernel.size + last.bias.size
    stages.append(Stage("OUTPUTS", (batch, len(last.bias)), weights, "trained, logits"))
    return stages


def list_settings(settings: Settings) -> list[Setting]:
    """Returns all settings beside their defaults."""
    fields = type(settings).model_fields
    return [
        Setting(name, _say_value(getattr(settings, name)), _say_value(field.default))
        for name, field in fields.items()
    ]


def list_origins(model: Model) -> list[tuple[str, str]]:
    """Returns where a model comes from: networks, data, versions."""
    rows = []
    for base in model.bases:
        space = base.space
        rows.append((
            f"{space.base} at {space.image_size} px",
            f"weights {space.weights_sha256 or 'unknown'}, {space.precision}, "
            f"{space.interpolation}, view {space.view}",
        ))  # fmt: skip
    made = model.data.split
    split = "by the data"
    if made.get("made_by") != "data":
        split = f"{made.get('fraction', 0):.0%} of the training images, seed {made.get('seed')}"
    rows += [
        ("data", (model.provenance.data if model.provenance else None) or "not known"),
        ("fingerprint of the images, labels and splits", model.data.fingerprint),
        ("validation split", split),
        ("files left out", f"{model.data.skipped:,}"),
        *((f"{name} version", version) for name, version in model.versions.items()),
    ]
    return rows


def list_findings(inspection: Mapping[str, Any] | None) -> list[Finding] | None:
    """Returns what an inspection found, as `Inspection.summary` has it; None if there was none."""
    if inspection is None:
        return None
    found = inspection.get("findings", {})
    return [
        Finding(what, found[name]["count"], found[name]["worst"])
        for name, what in FINDINGS.items()
        if name in found
    ]


def say_search(model: Model) -> str:
    """Says how the head was chosen among others; nothing if it was not."""
    found = model.search
    if found is None:
        return ""
    where = (
        f"{found.replicates} folds of the training images"
        if found.folds
        else "the validation images"
    )
    # Errors have the unit of the number; other metrics are shares.
    say = say_number if model.task is Task.NUMBER else "{:.1%}".format
    error = "" if found.error is None else f" ± {say(found.error)}"
    return (
        f"{counted(found.heads, 'head')} of {counted(found.recipes, 'recipe')} were compared on "
        f"{where}. The chosen one has a mean {model.validation.metric} of {say(found.mean)}{error} "
        "there."
    )


def _say_value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
