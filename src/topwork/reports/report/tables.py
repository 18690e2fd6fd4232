"""Tables of a report: a row per class or label, and what is taken for what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from topwork.metrics.intervals import wilson_interval
from topwork.metrics.scores import ClassReport, LabelReport, NumberReport, say_number
from topwork.reports.report.cases import Group

# Rows that are shown at once, and rows at all.
FIRST = 40
MOST_ROWS = 1000
# A matrix of more classes is too wide to be read.
MATRIX = 25
CONFUSIONS = 40

Groups = Mapping[tuple[int, int], Group]


@dataclass(frozen=True)
class Share:
    """So many out of so many, with the 95 % interval; NaN and None where there are none."""

    part: int
    whole: int

    @property
    def value(self) -> float:
        """The share, 0..1."""
        return self.part / self.whole if self.whole else math.nan

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval."""
        return wilson_interval(self.part, self.whole) if self.whole else None


@dataclass(frozen=True)
class ClassRow:
    """How well a class or a label is told.

    Attributes:
        name: of the class.
        recall: share of its images that were found.
        precision: share of right ones among the images that were said to be of it.
        f1: harmonic mean of both; None for classes.
        average_precision: area under precision against recall; None for classes.
        missed: what is behind the images that were not found; None where nothing is shown.
        wrong: the same for those that were wrongly said to be of it.
    """

    name: str
    recall: Share
    precision: Share
    f1: float | None = None
    average_precision: float | None = None
    missed: Group | None = None
    wrong: Group | None = None


@dataclass(frozen=True)
class NumberRow:
    """How well a number is told: mean absolute error, and share of the variance explained."""

    name: str
    mae: float
    r2: float

    @property
    def error(self) -> str:
        """The mean absolute error in words."""
        return say_number(self.mae)


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix: images, their share of the row, and what is behind it."""

    count: int
    share: float
    right: bool
    words: str
    group: Group | None


@dataclass(frozen=True)
class Confusion:
    """What is taken for what.

    Attributes:
        rows: the matrix, a row per true class; none of many classes.
        frequent: the most frequent mistakes: images, true class, predicted class, what is behind.
        total: how many pairs of classes are mistaken at all.
    """

    rows: Sequence[tuple[str, Sequence[Cell]]]
    frequent: Sequence[tuple[int, str, str, Group | None]]
    total: int


def list_classes(
    classes: Sequence[str], report: ClassReport, *, most: int = MOST_ROWS
) -> list[ClassRow]:
    """Returns a row for at most so many classes, the least found first, without images last."""
    right = np.diag(report.confusion).tolist()
    support, said = report.support.tolist(), report.confusion.sum(axis=0).tolist()
    rows = [
        ClassRow(name, Share(right[n], support[n]), Share(right[n], said[n]))
        for n, name in enumerate(classes)
    ]
    return sorted(rows, key=_by_recall)[:most]


def list_labels(
    classes: Sequence[str], report: LabelReport, groups: Groups, *, most: int = MOST_ROWS
) -> list[ClassRow]:
    """Returns a row for at most so many labels, the lowest average precision first."""
    f1, areas = report.f1.tolist(), report.average_precision.tolist()
    rows = [
        ClassRow(
            name,
            Share(int(report.found[n]), int(report.support[n])),
            Share(int(report.found[n]), int(report.said[n])),
            f1[n],
            areas[n],
            groups.get((n, 1)),
            groups.get((n, 0)),
        )
        for n, name in enumerate(classes)
    ]
    return sorted(rows, key=_by_area)[:most]


def list_numbers(
    names: Sequence[str], report: NumberReport, *, most: int = MOST_ROWS
) -> list[NumberRow]:
    """Returns a row for at most so many numbers."""
    figures = zip(names, report.maes.tolist(), report.r2s.tolist(), strict=True)
    return [NumberRow(*row) for row in figures][:most]


def make_confusion(classes: Sequence[str], report: ClassReport, groups: Groups) -> Confusion:
    """Arranges the confusion matrix; of many classes only the most frequent mistakes."""
    counts = report.confusion
    rows = []
    if len(classes) <= MATRIX:
        for true, (name, row) in enumerate(zip(classes, counts.tolist(), strict=True)):
            whole = sum(row) or 1
            rows.append((name, [
                Cell(count, count / whole, true == said,
                     f"{count} {name}, found" if true == said else f"{count} {name}, taken for "
                     f"{classes[said]}", groups.get((true, said)))
                for said, count in enumerate(row)
            ]))  # fmt: skip
    mistakes = counts.copy()
    np.fill_diagonal(mistakes, 0)
    frequent = []
    for flat in np.argsort(-mistakes, axis=None, kind="stable")[:CONFUSIONS].tolist():
        true, said = divmod(flat, len(classes))
        if not mistakes[true, said]:
            break
        group = groups.get((true, said))
        frequent.append((int(mistakes[true, said]), classes[true], classes[said], group))
    return Confusion(rows, frequent, int(np.count_nonzero(mistakes)))


def _by_recall(row: ClassRow) -> tuple[bool, float]:
    return not row.recall.whole, row.recall.value if row.recall.whole else 0.0


def _by_area(row: ClassRow) -> tuple[bool, float]:
    area = row.average_precision
    known = area is not None and math.isfinite(area)
    return not known, area if known and area is not None else 0.0
