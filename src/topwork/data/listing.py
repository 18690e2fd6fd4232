"""What readers find in a folder, table or archive: images, their labels, what was left out.

Labels are as they were written; `Dataset` makes classes, sets of labels or numbers of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from topwork.core.errors import DatasetError
from topwork.images.decode import Source

# How many names a message lists.
SHOWN = 10


class Split(StrEnum):
    """What an image is for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


SPLIT_NAMES = {
    "train": Split.TRAIN,
    "validation": Split.VALIDATION,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "test": Split.TEST,
}


@dataclass(frozen=True)
class Skipped:
    """A file, row or class that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """Images and labels as they were found. N: images.

    Attributes:
        root: the folder, table or archive, for messages.
        names: N names to show, such as the path within the folder.
        sources: where the bytes of each come from.
        labels: N texts; tuples of L texts where the data has several label columns; None for an
            image without a label.
        label_columns: names of the L label columns; empty where there is one, or folders.
        splits: what each is for; None where the data is not divided.
        groups: names of what must not be divided between splits; an empty one is a group of its
            own. None where the data has none.
        weights: how much each counts in training, 0 or more; None where all count the same.
        lines: the line or row, counted from 1, that each comes from; None for folders.
        unit: what `lines` counts, `line` or `row`.
        separator: what stands between the labels of an image that came as a list; None where
            labels did not.
        skipped: what was left out.
    """

    root: str
    names: Sequence[str]
    sources: Sequence[Source]
    labels: Sequence[str | tuple[str, ...] | None]
    label_columns: tuple[str, ...] = ()
    splits: Sequence[Split] | None = None
    groups: Sequence[str] | None = None
    weights: Sequence[float] | None = None
    lines: Sequence[int] | None = None
    unit: str = "line"
    separator: str | None = None
    skipped: tuple[Skipped, ...] = ()

    def where(self, index: int) -> str:
        """Names an image so that a user finds it."""
        if self.lines is None:
            return self.names[index]
        return f"{self.root} {self.unit} {self.lines[index]}: {self.names[index]}"


def check_strict(skipped: Sequence[Skipped], strict: bool) -> None:
    """Refuses to go on without what was left out.

    Raises:
        DatasetError: `strict`, and something was.
    """
    if strict and skipped:
        first = skipped[0]
        raise DatasetError(
            f"{first.path}: {first.reason}; mend or remove it, or leave out --strict"
        )


def make_writable(name: str) -> str:
    """Escapes what is not Unicode, as in undecodable names of files: no model could hold it."""
    return name.encode("utf-8", "backslashreplace").decode()
