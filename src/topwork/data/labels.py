"""From labels as they were written to class indices, sets of labels or numbers.

In: the texts of a `Listing`, or Python values. Out: the task, names of classes, and an array.
Labels that look the same, however their accents are encoded, are one label.

N: images, C: classes, labels or numbers.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.class_labels import KINDS, ClassLabels
from topwork.data.listing import Listing, make_writable

YES = frozenset(("1", "1.0", "true", "yes"))
NO = frozenset(("0", "0.0", "false", "no", ""))
SEPARATOR = "|"
# The largest number that is finite in single precision, in which heads are trained.
LARGEST = float(np.finfo(np.float32).max)

_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
# Of pandas, which need not be installed.
_MISSING = ("NAType", "NaTType")

Labels = NDArray[Any]
Text = str | tuple[str, ...] | None


def read_labels(
    listing: Listing, settings: DataSettings
) -> tuple[Task, tuple[str, ...], Labels, dict[int, str]]:
    """Interprets the labels of a listing.

    Args:
        listing: with labels as texts.
        settings: the task, if it is set, and the separator between the labels of one image.

    Returns:
        The task; names of the C classes; labels as `Dataset.labels` has them; and the reasons why
        labels cannot be used, by the index of their image.

    Raises:
        DatasetError: a task that such labels cannot have.
    """
    texts = listing.labels
    several = len(listing.label_columns) > 1
    separator = settings.label_separator or listing.separator
    task = settings.task or (Task.LABELS if several or separator is not None else None)
    if task is Task.NUMBER:
        names = listing.label_columns or (settings.label_column or listing.label_name or "number",)
        names = tuple(map(name_class, names))
        return task, names, *_read_numbers(texts, names)
    if task is Task.LABELS:
        if several and _are_flags(texts):
            return task, *_read_flags(texts, listing.label_columns)
        return task, *_read_sets(texts, separator or SEPARATOR), {}
    if several:
        raise DatasetError(
            f"{len(listing.label_columns)} label columns are for --task labels or number, received "
            f"--task {task}; choose one with --label-column"
        )
    return *_read_classes(texts, task), {}


def name_class(text: str) -> str:
    """Returns the name of a class as a model stores it."""
    # The same accent may be encoded in two ways.
    return make_writable(unicodedata.normalize("NFC", text))


def _read_classes(texts: Sequence[Text], task: Task | None) -> tuple[Task, tuple[str, ...], Labels]:
    named = {text: name_class(text) for text in set(texts) if isinstance(text, str)}
    classes = sorted({*named.values()})
    number = {name: n for n, name in enumerate(classes)}
    index_of: dict[Any, int] = {text: number[name] for text, name in named.items()} | {None: -1}
    labels = np.array([index_of[text] for text in texts], np.int32)
    return _choose_task(task, classes), tuple(classes), labels


def _choose_task(task: Task | None, classes: Sequence[str]) -> Task:
    if task is Task.BINARY and len(classes) != 2:
        raise DatasetError(
            f"--task binary needs 2 classes, received {len(classes)}: {', '.join(classes[:10])}"
        )
    return task or (Task.BINARY if len(classes) == 2 else Task.CLASSES)


def _are_flags(texts: Sequence[Text]) -> bool:
    """Whether at least half of the cells of several label columns say yes or no."""
    cells = [cell for text in texts if isinstance(text, tuple) for cell in text if cell.strip()]
    return 2 * sum(map(_is_flag, cells)) >= len(cells)


def _is_flag(cell: str) -> bool:
    return cell.strip().lower() in YES | NO


def _read_flags(
    texts: Sequence[Text], columns: tuple[str, ...]
) -> tuple[tuple[str, ...], Labels, dict[int, str]]:
    """Reads columns of yes and no; the columns are the labels."""
    labels = np.zeros((len(texts), len(columns)), bool)
    bad: dict[int, str] = {}
    for index, text in enumerate(texts):
        for n, cell in enumerate(text or ()):
            if not _is_flag(cell):
                bad.setdefault(
                    index, f"its {columns[n]} must be 1 or 0, or yes or no, received {cell[:40]!r}"
                )
            labels[index, n] = cell.strip().lower() in YES
    return tuple(map(name_class, columns)), labels, bad


def _read_sets(texts: Sequence[Text], separator: str) -> tuple[tuple[str, ...], Labels]:
    """Reads columns of labels, or one text with separators."""
    rows = [text if isinstance(text, tuple) else (text or "").split(separator) for text in texts]
    sets = [{name_class(label.strip()) for label in row} - {""} for row in rows]
    classes = sorted(set().union(*sets))
    index_of = {name: n for n, name in enumerate(classes)}
    labels = np.zeros((len(sets), len(classes)), bool)
    for row, names in zip(labels, sets, strict=True):
        row[[index_of[name] for name in names]] = True
    return tuple(classes), labels


def _read_numbers(texts: Sequence[Text], columns: Sequence[str]) -> tuple[Labels, dict[int, str]]:
    numbers = np.full((len(texts), len(columns)), np.nan)
    bad: dict[int, str] = {}
    for index, text in enumerate(texts):
        cells = (text,) if isinstance(text, str) else text or ()
        for n, cell in enumerate(cells):
            value = parse_number(cell)
            if value is None:
                which = f"{columns[n]}" if len(columns) > 1 else "label"
                bad.setdefault(index, f"its {which} {cell[:40]!r} is not a finite number")
            else:
                numbers[index, n] = value
    return numbers, bad


def parse_number(text: str) -> float | None:
    """Returns a finite number, or None for any other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    # Python reads `1_2` as a number; in data it is a name.
    return value if abs(value) <= LARGEST and "_" not in text else None


class PythonLabels(NamedTuple):
    """Labels that were given as Python values.

    Attributes:
        task: what they mean.
        classes: names of the C classes, labels or numbers.
        labels: as `Dataset.labels` has them.
        class_labels: the classes as they were given; None where that is by their names.
    """

    task: Task
    classes: tuple[str, ...]
    labels: Labels
    class_labels: ClassLabels | None


def number_labels(given: Any, task: Task | None, count: int | None = None) -> PythonLabels:
    """Interprets labels that are Python values.

    Args:
        given: N texts or numbers, N lists of texts, or an array or frame (N, C); None for N
            images without labels.
        task: what they mean; None to tell it from their form.
        count: N, if it is known.

    Raises:
        DatasetError: labels that are missing, mixed, or do not fit the task.

    Warns:
        UserWarning: an array (N, 1) is taken for one label of each image.
    """
    if given is None and count is not None:
        return PythonLabels(Task.CLASSES, (), np.full(count, -1, np.int32), None)
    given, columns = _unwrap(given)
    found = len(given) if isinstance(given, Sized) and getattr(given, "ndim", None) != 0 else 1
    if count not in (None, found):
        raise DatasetError(
            f"every image needs one label, received {count} images and {found} labels"
        )
    if task is Task.NUMBER:
        return PythonLabels(task, *_take_numbers(given), None)
    if task is not Task.LABELS and getattr(given, "ndim", 1) == 2 and given.shape[1] == 1:
        warnings.warn(
            f"labels of shape {given.shape} are taken for one class of each image; give (N,), or "
            "for a single label that an image has or has not lists of texts",
            UserWarning,
            stacklevel=2,
        )
        given = given[:, 0]
    if task in (None, Task.LABELS) and _is_nested(given):
        classes, labels = _take_sets(given)
        if not classes:
            raise DatasetError("at least one image needs a label, received empty lists alone")
        return PythonLabels(Task.LABELS, columns or classes, labels, None)
    if task is Task.LABELS:
        raise DatasetError("for many labels at once, every image needs a list of them")
    names, numbers, class_labels = _number(given)
    return PythonLabels(
        _choose_task(task, names), tuple(names), numbers.astype(np.int32), class_labels
    )


def _unwrap(given: Any) -> tuple[Any, tuple[str, ...]]:
    """Returns a frame or a sparse matrix as an array, and what columns of flags are called."""
    if hasattr(given, "toarray"):
        return given.toarray(), ()
    if not (hasattr(given, "columns") and hasattr(given, "to_numpy")):
        return given, ()
    names = tuple(name_class(str(name)) for name in given.columns)
    array = np.asarray(given.to_numpy())
    if array.dtype == object and array.shape[1] > 1:
        array = np.array(array.tolist())
    flags = array.dtype.kind in "biuf" and len({*names}) == len(names)
    return array, names if flags else ()


def _is_nested(given: Any) -> bool:
    if isinstance(given, np.ndarray) and given.dtype != object:
        return given.ndim == 2
    kinds = (list, tuple, set, frozenset)
    return len(given) > 0 and all(isinstance(label, kinds) for label in given)


def _take_numbers(given: Any) -> tuple[tuple[str, ...], Labels]:
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"numbers are needed as labels: {error}") from None
    if values.ndim == 1:
        values = values[:, None]
    finite = bool((np.abs(values) <= LARGEST).all())
    if values.ndim != 2 or not values.size or not finite:
        raise DatasetError(
            f"labels must be finite numbers (N,) or (N, C), received shape {values.shape}"
            + ("" if finite else f" with NaN, infinity or beyond {LARGEST:.1e}")
        )
    width = values.shape[1]
    names = ("number",) if width == 1 else tuple(f"number {n}" for n in range(width))
    return names, values


def _take_sets(given: Any) -> tuple[tuple[str, ...], Labels]:
    if all(isinstance(label, str) for row in given for label in row):
        return _read_sets([tuple(row) for row in given], SEPARATOR)
    try:
        flags = np.asarray(given)
    except ValueError:
        flags = np.zeros(0)
    if flags.ndim != 2 or not np.isin(flags, (0, 1)).all():
        raise DatasetError(
            "many labels at once are lists of texts, or an array (N, C) of 0 and 1; received lists "
            "of something else"
        )
    return tuple(map(str, range(flags.shape[1]))), flags.astype(bool)


def _number(labels: ArrayLike) -> tuple[list[str], NDArray[np.intp], ClassLabels | None]:
    """Returns the sorted classes as text, each label's index among them, and how they look."""
    try:
        values = np.asarray(labels)
    except ValueError:
        raise DatasetError("labels must be a list of texts or numbers, received lists") from None
    if values.ndim != 1:
        raise DatasetError(f"labels must be a list of texts or numbers, received {values.ndim}-d")
    _check_labels(values, labels)
    try:
        classes, numbers = np.unique(values, return_inverse=True)
    except TypeError as error:
        raise DatasetError(f"labels must be all texts or all numbers: {error}") from None
    names = [name_class(str(name)) for name in classes]
    once = sorted({*names}) if isinstance(classes[0], str) else list(dict.fromkeys(names))
    index_of = {name: n for n, name in enumerate(once)}
    indices = np.array([index_of[name] for name in names])[numbers]
    return once, indices, ClassLabels.from_values(classes, names, once)


def _check_labels(values: NDArray[Any], given: ArrayLike) -> None:
    if values.dtype.kind not in KINDS:
        raise DatasetError(f"labels must be texts or numbers, received {values.dtype}")
    # NumPy turns numbers among texts into texts, and a missing label into "nan".
    objects = np.asarray(given, object) if values.dtype.kind in "UTO" else values
    others = [label for label in objects.tolist() if not isinstance(label, str)]
    if any(_is_missing(label) for label in others):
        raise DatasetError("every image needs a label, received None, NaN or infinity among them")
    odd = [label for label in others if not isinstance(label, _NUMBERS)]
    if odd:
        raise DatasetError(
            f"labels must be texts or numbers, received {type(odd[0]).__name__}, such as "
            f"{odd[0]!r:.60}; make texts of them with str"
        )
    if 0 < len(others) < len(objects):
        raise DatasetError(
            f"labels must be all texts or all numbers, received both, such as {others[0]!r}"
        )


def _is_missing(label: Any) -> bool:
    if label is None or type(label).__name__ in _MISSING:
        return True
    return isinstance(label, float | np.floating) and not np.isfinite(label)
