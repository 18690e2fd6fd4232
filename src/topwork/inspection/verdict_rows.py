"""The images of an inspection that need a person's verdict, as rows of a fix list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.fix_list import FixListRow, write_label
from topwork.data.labels import SEPARATOR
from topwork.data.listing import Split
from topwork.inspection.issues import LabelIssue
from topwork.vectors.duplicates import Likeness

if TYPE_CHECKING:
    from topwork.inspection.inspect import Inspection


def list_verdict_rows(found: Inspection) -> list[FixListRow]:
    """Returns the images that need a person's verdict, each once, the most doubtful first.

    Labels in doubt come first; then images in other splits or with other labels that show the
    same picture; then other copies, and outliers. One image of each picture is not listed: it
    stays when all others are dropped.
    """
    rows: dict[int, FixListRow] = {}

    def add(index: int, why: str) -> None:
        row = rows.get(index) or _make_row(found, index)
        rows[index] = replace(row, why=f"{row.why}; {why}" if row.why else why)

    for issue in found.label_issues:
        add(issue.index, _say_issue(found.dataset, issue))
        rows[issue.index] = _suggest(found.dataset, rows[issue.index], issue)
    for index, why in _list_spare_copies(found):
        add(index, why)
    for outlier in found.outliers:
        add(outlier.index, "unlike all others of its class")
    return list(rows.values())


def _make_row(found: Inspection, index: int) -> FixListRow:
    return FixListRow(
        image=found.dataset.names[index],
        sha256=found.hashes[index],
        split=str(found.dataset.splits[index]),
        label=found.label_texts[index],
    )


def _say_issue(dataset: Dataset, issue: LabelIssue) -> str:
    if dataset.task is not Task.LABELS:
        return f"looks like {issue.suggested}, not {issue.given}"
    if issue.given in dataset.classes:
        return f"seems not to be {issue.given}"
    return f"seems to be {issue.suggested}"


def _suggest(dataset: Dataset, row: FixListRow, issue: LabelIssue) -> FixListRow:
    """Adds how doubtful a label is, and the whole label that the image would have."""
    suggested = ""
    if dataset.task is Task.LABELS:
        # After what other issues of the same image have suggested.
        suggested = _change_labels(dataset, row.suggested or row.label, issue)
    elif dataset.task is not Task.NUMBER:
        suggested = write_label(issue.suggested)
    score = row.score if row.score is not None else issue.score
    return replace(row, suggested=suggested, score=score)


def _change_labels(dataset: Dataset, text: str, issue: LabelIssue) -> str:
    present = {*text.split(SEPARATOR)}
    present ^= {issue.given if issue.given in dataset.classes else issue.suggested}
    # A separator alone says that there is no label; an empty verdict says nothing.
    return SEPARATOR.join(name for name in dataset.classes if name in present) or SEPARATOR


def _list_spare_copies(found: Inspection) -> Iterator[tuple[int, str]]:
    """Yields all images of each picture but one, and of which other image each is a copy."""
    splits, texts = found.dataset.splits, found.label_texts
    copies: dict[int, list[tuple[int, Likeness]]] = {}
    for pair in found.pairs:
        copies.setdefault(pair.first, []).append((pair.second, pair.likeness))
        copies.setdefault(pair.second, []).append((pair.first, pair.likeness))
    pictures: list[tuple[bool, list[tuple[int, str]]]] = []
    reached = set[int]()
    # What tests is kept: what is learnt from can be spared.
    for start in sorted(copies, key=lambda index: (splits[index] == Split.TRAIN, index)):
        if start in reached:
            continue
        reached.add(start)
        spare, pending, serious = list[tuple[int, str]](), [start], False
        while pending:
            kept = pending.pop()
            for index, likeness in copies[kept]:
                if index not in reached:
                    reached.add(index)
                    pending.append(index)
                    spare.append((index, _say_copy(found, index, kept, likeness)))
                    serious |= splits[kept] != splits[index] or texts[kept] != texts[index]
        pictures.append((bool(serious), spare))
    pictures.sort(key=lambda picture: not picture[0])
    for _, spare in pictures:
        yield from spare


def _say_copy(found: Inspection, index: int, kept: int, likeness: Likeness) -> str:
    splits, texts = found.dataset.splits, found.label_texts
    how = {
        Likeness.SAME: "the same file as",
        Likeness.MIRRORED: "a mirror image of",
        Likeness.CHANGED: "a cut, turned or recolored version of",
    }
    why = f"{how.get(likeness, 'the same picture as')} {found.dataset.names[kept]}"
    why += f" in {splits[kept]}" if splits[kept] != splits[index] else ""
    return why + (f", which is {texts[kept] or 'none'}" if texts[kept] != texts[index] else "")
