"""What a reader found in a folder, table or archive: images, labels, and what was left out.

Labels are as they were written; `Dataset` turns them into classes, sets of labels or numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from topwork.core.errors import DatasetError
from topwork.images.decode import Source

# How many names a message lists.
SHOWN = 10
# How many reasons it lists.
_REASONS = 3


class Split(StrEnum):
    """What an image is used for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Skipped:
    """A file, row or class that was left out, and why."""

    path: str
    reason: str


class Note(NamedTuple):
    """A sentence about what was guessed of somebody's data, with the option that changes it.

    Attributes:
        text: the sentence.
        doubtful: whether figures are wrong if the guess is.
    """

    text: str
    doubtful: bool = False


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
        splits: of each image; None if the data is not divided.
        groups: name of each image's group, which must not be divided between splits; an image
            with an empty name is a group of its own. None if the data has no groups.
        weights: how much each counts in training, 0 or more; None if all count the same.
        lines: the line or row, counted from 1, that each comes from; None for folders.
        unit: what `lines` counts, `line` or `row`.
        label_name: name of the label column where there is one; empty for folders.
        separator: between the labels of an image that came as a list; None if none did.
        skipped: what was left out.
        notes: what was guessed.
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
    label_name: str = ""
    separator: str | None = None
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[Note, ...] = ()

    def where(self, index: int) -> str:
        """Returns the location of an image for messages: its path, or its line and name."""
        if self.lines is None:
            return self.names[index]
        return f"{self.root} {self.unit} {self.lines[index]}: {self.names[index]}"


def check_strict(skipped: Sequence[Skipped], strict: bool) -> None:
    """Raises for the first file or row that was left out, if nothing may be.

    Raises:
        DatasetError: `strict`, and something was left out.
    """
    if strict and skipped:
        first = skipped[0]
        raise DatasetError(
            f"{first.path}: {first.reason}; mend or remove it, or leave out --strict"
        )


def name_some(skipped: Sequence[Skipped]) -> str:
    """Returns the first few things that were left out, with the reasons, and how many more."""
    some = "; ".join(f"{item.path}: {item.reason}" for item in skipped[:_REASONS])
    more = len(skipped) - _REASONS
    return f"{some}; and {more} more" if more > 0 else some


def say_left_out(skipped: Sequence[Skipped]) -> str:
    """Returns what was left out as the start of a sentence; nothing where nothing was."""
    if not skipped:
        return ""
    what = "1 file or row was" if len(skipped) == 1 else f"{len(skipped):,} files or rows were"
    return f"{what} left out ({name_some(skipped)}); "


def make_writable(name: str) -> str:
    """Escapes what UTF-8 cannot encode, as in file names that could not be decoded."""
    return name.encode("utf-8", "backslashreplace").decode()
