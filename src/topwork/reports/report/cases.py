"""Single images of a report: the worst mistakes, the least sure answers, what is behind a figure.

Every list is bounded; each says how many there are. N: images, C: classes, labels or numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import AnyInts
from topwork.core.task import Task
from topwork.metrics.conformal import Residuals
from topwork.metrics.scores import say_number
from topwork.reports.report.judging import Judged
from topwork.reports.report.maps import HeatMap

WORST = 12
UNSURE = 12
# Images of a cell of the confusion matrix, and cells that can be opened.
BEHIND = 12
GROUPS = 150
# Answers that an image is not sure between.
RIVALS = 3


@dataclass(frozen=True)
class Fact:
    """Something about an image: what it is, in words, and how probable the model finds it."""

    term: str
    words: str
    chance: float | None = None


@dataclass(frozen=True)
class Case:
    """An image and what the model says of it.

    Attributes:
        index: its index among the answers.
        name: of the image.
        facts: truth and answer, in the order in which they are read.
        asked: answers, by index, and their names, that a map may show.
        maps: what speaks for them; filled in later, empty where nothing can be shown.
    """

    index: int
    name: str
    facts: tuple[Fact, ...]
    asked: tuple[tuple[int, str], ...] = ()
    maps: list[HeatMap] = field(default_factory=list)


@dataclass(frozen=True)
class Cases:
    """The first of some images, and how many there are."""

    rows: Sequence[Case]
    total: int


@dataclass(frozen=True)
class Group:
    """The images behind a figure.

    Attributes:
        id: of the part of the page that shows them.
        title: what they are.
        cases: the first of them.
    """

    id: str
    title: str
    cases: Cases


def find_worst(found: Judged) -> Cases:
    """Returns the mistakes that the model was most sure of; for numbers the largest errors."""
    match found.task:
        case Task.NUMBER:
            return _worst_numbers(found)
        case Task.LABELS:
            wrong = found.said != found.truth
            return _decisions(found, np.where(wrong, -np.abs(found.logits), np.inf), WORST)
    wrong = np.flatnonzero(found.said != found.truth)
    order = wrong[np.argsort(-found.chances.max(axis=1)[wrong], kind="stable")]
    return Cases([_mistake(found, int(index)) for index in order[:WORST]], len(order))


def find_unsure(found: Judged) -> Cases | None:
    """Returns the answers that the model was least sure of; None for numbers."""
    if found.task is Task.NUMBER:
        return None
    if found.task is Task.LABELS:
        return _decisions(found, np.abs(found.logits), UNSURE)
    order = np.argsort(found.chances.max(axis=1), kind="stable")[:UNSURE]
    return Cases([_rivals(found, int(index)) for index in order], len(found.predictions))


def find_groups(found: Judged) -> dict[tuple[int, int], Group]:
    """Returns the images behind the cells of a confusion matrix, or of the table of labels.

    Returns:
        By true and predicted class; by label and 0 for images that lack it and were said to
        have it, 1 for those that have it and were not. Mistakes come before right answers, and
        more before fewer.
    """
    if found.task is Task.NUMBER:
        return {}
    if found.task is Task.LABELS:
        return dict(islice(_label_groups(found), GROUPS))
    pairs = found.truth.astype(np.int64) * len(found.classes) + found.said
    return dict(islice(_class_groups(found, pairs), GROUPS))


def _class_groups(found: Judged, pairs: AnyInts) -> Iterator[tuple[tuple[int, int], Group]]:
    kinds, counts = np.unique(pairs, return_counts=True)
    true, said = np.divmod(kinds, len(found.classes))
    top = found.chances.max(axis=1)
    for n in np.lexsort((-counts, true == said)):
        key = (int(true[n]), int(said[n]))
        behind = np.flatnonzero(pairs == kinds[n])
        right = key[0] == key[1]
        # Of right answers the doubtful ones are worth a look, of wrong ones the sure ones.
        order = behind[np.argsort(top[behind] if right else -top[behind], kind="stable")]
        name, other = (found.classes[part] for part in key)
        count = len(order)
        title = f"{count} of {name}, found" if right else f"{count} of {name}, taken for {other}"
        rows = [_mistake(found, int(index)) for index in order[:BEHIND]]
        yield key, Group(f"images-{key[0]}-{key[1]}", title, Cases(rows, count))


def _label_groups(found: Judged) -> Iterator[tuple[tuple[int, int], Group]]:
    wrong = found.said != found.truth
    sizes = np.stack([wrong & ~found.truth, wrong & found.truth]).sum(axis=1)
    for flat in np.argsort(-sizes, axis=None, kind="stable").tolist():
        has, label = divmod(flat, len(found.classes))
        count = int(sizes[has, label])
        if not count:
            return
        behind = np.flatnonzero(wrong[:, label] & (found.truth[:, label] == has))
        order = behind[np.argsort(-np.abs(found.logits[behind, label]), kind="stable")]
        what = "missed" if has else "wrongly said"
        rows = [_decision(found, int(index), label) for index in order[:BEHIND]]
        title = f"{found.classes[label]}, {what}: {count}"
        yield (label, has), Group(f"images-{label}-{has}", title, Cases(rows, count))


def _mistake(found: Judged, index: int) -> Case:
    true, said = int(found.truth[index]), int(found.said[index])
    row, names = found.chances[index], found.classes
    facts = [Fact("is", names[true], float(row[true]))]
    if true != said:
        facts.append(Fact("taken for", names[said], float(row[said])))
    # Of two classes, what speaks for the one speaks against the other.
    both = found.task is Task.CLASSES and true != said
    asked = ((said, names[said]), *(((true, names[true]),) if both else ()))
    return Case(index, found.predictions.names[index], tuple(facts), asked)


def _rivals(found: Judged, index: int) -> Case:
    row, names, true = found.chances[index], found.classes, int(found.truth[index])
    order = np.argsort(-row, kind="stable")[:RIVALS].tolist()
    rivals = (Fact("or" if n else "perhaps", names[c], float(row[c])) for n, c in enumerate(order))
    said = (order[0], names[order[0]])
    facts = (Fact("is", names[true]), *rivals)
    return Case(index, found.predictions.names[index], facts, (said,))


def _decisions(found: Judged, scores: NDArray[Any], most: int) -> Cases:
    """Returns the decisions (N, C) about labels with the lowest finite scores."""
    total = int(np.isfinite(scores).sum())
    flat = scores.ravel()
    few = min(most, total)
    chosen = np.argpartition(flat, few - 1)[:few] if few else np.zeros(0, np.int64)
    chosen = chosen[np.lexsort((chosen, flat[chosen]))]
    rows, labels = np.divmod(chosen, scores.shape[1])
    pairs = zip(rows.tolist(), labels.tolist(), strict=True)
    return Cases([_decision(found, index, label) for index, label in pairs], total)


def _decision(found: Judged, index: int, label: int) -> Case:
    name, chance = found.classes[label], float(found.chances[index, label])
    is_, said = bool(found.truth[index, label]), bool(found.said[index, label])
    facts = (
        Fact("is", name if is_ else f"not {name}"),
        Fact("said to be", name if said else f"not {name}", chance if said else 1 - chance),
    )
    return Case(index, found.predictions.names[index], facts, ((label, name),))


def _worst_numbers(found: Judged) -> Cases:
    """Returns the images with the largest errors, each number in units of its usual error."""
    calibration, errors = found.model.calibration, found.errors()
    scales = calibration.scales if isinstance(calibration, Residuals) else np.ones(errors.shape[1])
    parts = np.abs(errors) / scales
    order = np.argsort(-parts.max(axis=1), kind="stable")[:WORST]
    rows = []
    for index in order.tolist():
        number = int(parts[index].argmax())
        name = found.classes[number]
        true, said = (float(values[index, number]) for values in (found.truth, found.logits))
        facts = (
            Fact(f"{name} is", say_number(true)),
            Fact("said", say_number(said)),
            Fact("error", f"{'+' if said > true else ''}{say_number(said - true)}"),
        )
        rows.append(Case(index, found.predictions.names[index], facts, ((number, name),)))
    return Cases(rows, len(errors))
