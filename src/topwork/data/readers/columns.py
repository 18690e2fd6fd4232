"""Which column of a table holds images, labels, splits, groups and weights.

The settings say it, or else well-known names, compared without regard to case, spaces and hyphens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NoReturn

from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError, SettingsError
from topwork.data.listing import SHOWN, make_writable

IMAGE_NAMES = (
    "image", "images", "path", "paths", "file", "files", "filename", "file_name", "filepath",
    "file_path", "image_path", "image_file", "image_filename", "image_url", "url", "img",
    "img_path", "img_url",
)  # fmt: skip
# Of columns that hold images' names where no column has one of the names above.
ID_NAMES = ("id", "image_id", "img_id", "id_code", "image_name", "img_name")
LABEL_NAMES = (
    "label", "labels", "class", "classes", "category", "categories", "target", "targets", "tag",
    "tags", "y",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "subset", "partition", "set")
GROUP_NAMES = ("group", "group_id")
WEIGHT_NAMES = ("weight", "sample_weight")
KNOWN_NAMES = frozenset(
    IMAGE_NAMES + ID_NAMES + LABEL_NAMES + SPLIT_COLUMNS + GROUP_NAMES + WEIGHT_NAMES
)


@dataclass(frozen=True)
class ColumnRoles:
    """Indices of the columns that are used; None for a role that no column has."""

    image: int
    labels: tuple[int, ...]
    split: int | None = None
    group: int | None = None
    weight: int | None = None

    def indices(self) -> tuple[int, ...]:
        """Returns the indices of all columns in use, image first, each once."""
        others = (self.split, self.group, self.weight)
        used = (self.image, *self.labels, *(index for index in others if index is not None))
        return tuple(dict.fromkeys(used))


def simplify(name: str) -> str:
    """Returns a column's name as guesses compare it: `Image Path ` is `image_path`."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def is_used(columns: DataSettings) -> Callable[[str], bool]:
    """Returns a function that tells whether a column of some name may be given a role."""
    asked = (columns.image_column, columns.split_column, columns.group_column)
    chosen = {simplify(name) for name in (*asked, columns.weight_column) if name}
    chosen |= KNOWN_NAMES | {simplify(name) for name in columns.label_columns}
    return lambda name: simplify(name) in chosen


def choose_columns(
    location: str,
    names: Sequence[str],
    columns: DataSettings,
    *,
    labelled: bool = True,
    pictures: Collection[int] = (),
    classes: Collection[int] = (),
    divided: bool = False,
) -> ColumnRoles:
    """Chooses the column of each role: as the settings say, or else by well-known names.

    A setting that is an empty text means that there is no such column. If one single column is
    left over, it holds the labels. Without labels, weights are not guessed.

    Args:
        location: of the table, for messages.
        names: of its columns.
        columns: the settings.
        labelled: whether there must be labels.
        pictures: indices of columns that hold images themselves; they go before names.
        classes: indices of columns that are known to hold classes, whatever they are called.
        divided: whether the splits are known already, so that no column is guessed for them.

    Raises:
        DatasetError: a column is needed and cannot be guessed, or several might be meant.
        SettingsError: a column that the settings name is not there.
    """
    asked = [columns.image_column, columns.split_column, columns.group_column]
    asked += [columns.weight_column, *columns.label_columns]
    table = _Names(location, names, {name for name in asked if name})
    labels = _choose_labels(table, columns, labelled, classes, pictures)

    def extra(option: str, known: Sequence[str], guess: bool) -> int | None:
        wanted = getattr(columns, option)
        if wanted:
            return table.find(wanted, option)
        return table.guess(known, option) if wanted is None and guess else None

    if columns.image_column:
        image: int | None = table.find(columns.image_column, "image_column")
    else:
        image = table.guess(IMAGE_NAMES, "image_column", pictures)
        if image is None:
            image = table.guess(ID_NAMES, "image_column")
    if image is None:
        table.fail(IMAGE_NAMES, "image_column")
    return ColumnRoles(
        image,
        labels,
        extra("split_column", SPLIT_COLUMNS, not divided),
        extra("group_column", GROUP_NAMES, True),
        extra("weight_column", WEIGHT_NAMES, labelled),
    )


def _choose_labels(
    table: _Names,
    columns: DataSettings,
    labelled: bool,
    classes: Collection[int],
    pictures: Collection[int],
) -> tuple[int, ...]:
    try:
        if columns.label_columns:
            return tuple(table.find(name, "label_column") for name in columns.label_columns)
        label = table.guess(LABEL_NAMES, "label_column")
        if label is None and len(classes) == 1:
            label = next(iter(classes))
        if label is None and labelled:
            label = table.left_over(pictures)
        if label is None:
            table.fail(LABEL_NAMES, "label_column")
    except (DatasetError, SettingsError):
        if labelled:
            raise
        return ()
    return (label,)


class _Names:
    """The names of a table's columns, to be looked up by the settings and by guess."""

    def __init__(self, location: str, names: Sequence[str], asked: Collection[str]) -> None:
        self._location = location
        self._names = [name.strip() for name in names]
        self._simple = [simplify(name) for name in names]
        self._asked = {simplify(name) for name in asked}

    def find(self, wanted: str, option: str) -> int:
        """Returns the index of a column that the settings name."""
        exact = [n for n, name in enumerate(self._names) if name == wanted.strip()]
        found = exact or [n for n, name in enumerate(self._simple) if name == simplify(wanted)]
        if len(found) != 1:
            how_many = "no column" if not found else f"{len(found)} columns"
            raise SettingsError(
                f"{_flag(option)}: {self._location} has {how_many} called {wanted!r}; "
                f"its columns are {self._list()}"
            )
        return found[0]

    def guess(
        self, known: Collection[str], option: str, certain: Collection[int] = ()
    ) -> int | None:
        """Returns the one column of a well-known name; `certain` ones go before names."""
        free = [n for n, name in enumerate(self._simple) if name not in self._asked]
        able = [n for n in free if n in certain]
        found = [n for n in able or free if self._simple[n] in known]
        if len(able) == 1:
            return able[0]
        if len(found) > 1 or (able and not found):
            several = ", ".join(make_writable(self._names[n]) for n in found or able)
            raise DatasetError(
                f"{self._location} has several columns that may be meant: {several}. "
                f"Say which with {_flag(option)}"
            )
        return found[0] if found else None

    def left_over(self, pictures: Collection[int]) -> int | None:
        """Returns the only column without a known role, besides pictures; None if not one."""
        ids = () if {*IMAGE_NAMES} & {*self._simple} or pictures else ID_NAMES
        told = {*IMAGE_NAMES, *ids, *SPLIT_COLUMNS, *GROUP_NAMES, *WEIGHT_NAMES, *self._asked}
        rest = [n for n, name in enumerate(self._simple) if name not in told and n not in pictures]
        return rest[0] if len(rest) == 1 else None

    def fail(self, known: Sequence[str], option: str) -> NoReturn:
        what = "images" if option == "image_column" else "labels"
        raise DatasetError(
            f"{self._location} must have a column of {what}, called {', '.join(known[:4])} or the "
            f"like; its columns are {self._list()}. Say which it is with {_flag(option)}; if "
            "these are not names but the first row, put a line of names such as path,label "
            "above it"
        )

    def _list(self) -> str:
        shown = ", ".join(make_writable(name) or "''" for name in self._names[:SHOWN])
        more = len(self._names) - SHOWN
        return f"{shown} and {more} more" if more > 0 else shown


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
