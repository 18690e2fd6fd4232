"""Labels that may not be meant as they are written: pointed out, and left as they are."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from topwork.core.errors import counted
from topwork.core.task import Task
from topwork.data.listing import SHOWN, Note

# So many different numbers are rather amounts than names of classes.
MANY_NUMBERS = 20
# With fractions, so few are enough.
MANY_FRACTIONS = 5


def doubt_labels(task: Task, classes: Sequence[str], *, guessed: bool) -> tuple[Note, ...]:
    """Returns notes on labels that may be one, and on numbers that may be amounts.

    Args:
        task: what the labels mean.
        classes: the names of the classes or labels.
        guessed: whether the task was told by the labels' form.
    """
    if task is Task.NUMBER:
        return ()
    notes = []
    if alike := find_alike(classes):
        some = "; ".join(" and ".join(map(_quote, names)) for names in alike[:SHOWN])
        text = (
            "Classes that differ only in case, spaces, hyphens or invisible characters, and may "
            f"be meant as one: {some}. Write them alike to make them one"
        )
        notes.append(Note(text, doubtful=True))
    if guessed and task.picks_one and _may_be_amounts(classes):
        text = (
            f"{len(classes)} different numbers are taken as the names of classes; --task number "
            "estimates amounts"
        )
        notes.append(Note(text, doubtful=True))
    return tuple(notes)


def doubt_copies(
    names: Sequence[str], labels: Sequence[str], pairs: Iterable[tuple[int, int]]
) -> tuple[Note, ...]:
    """Returns a note on pictures that are there twice, under different labels.

    Args:
        names: of N images.
        labels: N texts.
        pairs: indices of images that show the same picture.
    """
    found = [pair for pair in pairs if labels[pair[0]] != labels[pair[1]]]
    if not found:
        return ()
    first, second = (f"{names[n]} ({labels[n] or 'none'})" for n in found[0])
    text = (
        f"Two labels: {counted(len(found), 'pair')} of one picture with different labels, such as "
        f"{first} and {second}: one of them teaches, or tests, what is wrong. See topwork inspect"
    )
    return (Note(text, doubtful=True),)


def find_alike(classes: Iterable[str]) -> list[tuple[str, ...]]:
    """Returns the classes, together, that look the same or nearly so."""
    found = defaultdict[str, list[str]](list)
    for name in classes:
        found[simplify_label(name)].append(name)
    return [tuple(names) for names in found.values() if len(names) > 1]


def simplify_label(name: str) -> str:
    """Returns a label without what the eye passes over: case, spaces, hyphens and the like."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    kept = (c for c in plain if unicodedata.category(c) not in ("Cc", "Cf", "Pd", "Pc", "Zs"))
    # A label of such characters alone stays what it is.
    return "".join(c for c in kept if not c.isspace()) or plain


def _may_be_amounts(classes: Sequence[str]) -> bool:
    try:
        values = [float(name) for name in classes]
    except ValueError:
        return False
    if any("_" in name for name in classes):
        return False
    fractions = any(not value.is_integer() for value in values)
    return len(values) >= (MANY_FRACTIONS if fractions else MANY_NUMBERS)


def _quote(name: str) -> str:
    return name if name.isprintable() and name == name.strip() else ascii(name)
