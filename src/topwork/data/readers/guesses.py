"""What was guessed of a table's columns: said, and not believed where it cannot be meant.

N: images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from topwork.core.data_settings import DataSettings
from topwork.core.task import Task
from topwork.data.listing import SHOWN, Listing, Note, Split, make_writable
from topwork.data.readers.columns import ColumnRoles

# An image that counts more than this many times what another counts is rather heavier than it.
MOST_RATIO = 100


def judge_columns(
    listing: Listing, names: Sequence[str], roles: ColumnRoles, columns: DataSettings
) -> Listing:
    """Returns a table's listing with notes on its columns.

    A column that is only called like one of weights or groups is not used where it can hardly
    be meant so: weights that differ by more than a hundred times, or are 0 for a whole class;
    groups that are the classes. A column that the user names is used all the same.

    Args:
        listing: of the table.
        names: of its columns.
        roles: which column says what.
        columns: the settings.
    """

    def name(index: int) -> str:
        return make_writable(names[index].strip())

    doubts = list[Note]()
    if roles.weight is not None and (why := _doubt_weights(listing, columns.task)):
        listing, note = _doubt(
            listing, "weights", "weight", name(roles.weight), why, columns.weight_column
        )
        doubts.append(note)
    if roles.group is not None and (why := _doubt_groups(listing)):
        listing, note = _doubt(
            listing, "groups", "group", name(roles.group), why, columns.group_column
        )
        doubts.append(note)
    said = list[str]()
    if not columns.image_column:
        said.append(f"images from {name(roles.image)}")
    if roles.labels and not columns.label_column:
        said.append(f"labels from {name(roles.labels[0])}")
    if roles.split is not None and not columns.split_column:
        found = sorted(set(listing.splits or ()), key=list(Split).index)
        said.append(f"splits from {name(roles.split)} ({', '.join(found)})")
    if roles.group is not None and not columns.group_column and listing.groups is not None:
        said.append(f"groups from {name(roles.group)} ({len({*listing.groups}):,})")
    if roles.weight is not None and not columns.weight_column and listing.weights is not None:
        least, most = min(listing.weights), max(listing.weights)
        text = (
            f"How much an image counts in training is read from the column {name(roles.weight)} "
            f"({least:g} to {most:g}); --weight-column '' makes all count the same"
        )
        doubts.append(Note(text, doubtful=least != most))
    notes = [Note(f"Columns, guessed: {', '.join(said)}")] if said else []
    return replace(listing, notes=(*listing.notes, *notes, *doubts))


def _doubt(
    listing: Listing, what: str, role: str, name: str, why: str, asked: str | None
) -> tuple[Listing, Note]:
    if asked:
        return listing, Note(f"The column {name} is used for {what}, as asked, but {why}", True)
    text = f"The column {name} is not used for {what}: {why}; --{role}-column {name} uses it"
    dropped = replace(listing, weights=None) if what == "weights" else replace(listing, groups=None)
    return dropped, Note(text, doubtful=True)


def _doubt_weights(listing: Listing, task: Task | None) -> str:
    """Returns why weights can hardly be meant as such; nothing where they can."""
    weights = listing.weights or []
    positive = [weight for weight in weights if weight > 0]
    if positive and max(positive) > MOST_RATIO * min(positive):
        return f"it goes from {min(positive):g} to {max(positive):g}"
    if task is Task.NUMBER:
        return ""
    most = defaultdict[object, float](float)
    for weight, label, split in zip(
        weights, listing.labels, listing.splits or [Split.TRAIN] * len(weights), strict=True
    ):
        if split is Split.TRAIN and isinstance(label, str):
            most[label] = max(most[label], weight)
    lost = sorted(str(label) for label, weight in most.items() if not weight)
    if positive and lost and len(most) < len(weights):
        return f"it is 0 for every image of {', '.join(lost[:SHOWN])}"
    return ""


def _doubt_groups(listing: Listing) -> str:
    """Returns that groups are the classes by another name, where they are."""
    pairs = {*zip(listing.groups or (), listing.labels, strict=False)}
    groups, labels = {group for group, _ in pairs}, {label for _, label in pairs}
    if "" in groups or not 1 < len(pairs) == len(groups) == len(labels) < len(listing.labels):
        return ""
    return "each of its values is one class, and no class could be divided"
