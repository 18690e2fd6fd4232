"""The fix list: suspects for a person to decide on in a spreadsheet, and the verdicts read back.

The list is CSV in UTF-8 with a byte-order mark, one row per suspect:

    image,sha256,split,label,suggested,score,why,verdict

The last column is the person's. `keep`: the image is right as it is. `drop`: leave it out.
Anything else is the label that it should have; a label that is itself called `keep` or `drop`,
or that a spreadsheet would turn into a date or a number, is written `label:keep`. Empty: no
verdict. Cells that begin like a formula (= + - @) get an apostrophe in front, so that no
spreadsheet runs them; it is taken off again.

An image is identified by its content. Its name only says which of several equal ones to drop.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from topwork.core.errors import DatasetError, printable
from topwork.core.files import write_file
from topwork.data.listing import SHOWN, make_writable
from topwork.data.readers.table import DELIMITERS

COLUMNS = ("image", "sha256", "split", "label", "suggested", "score", "why", "verdict")
LABEL = "label:"
_FORMULA = "=+-@\t\r\n"
_HEX = frozenset("0123456789abcdef")
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}

Action = Literal["keep", "drop", "label"]


@dataclass(frozen=True)
class FixListRow:
    """A suspect: a row of the list without a verdict.

    Attributes:
        image: name to show.
        sha256: of the image's bytes, hex.
        split: that the image is in.
        label: that it has.
        suggested: label that it may have to get; empty if none is suggested.
        score: how doubtful it is; None if there is no number for that.
        why: the reason in words.
    """

    image: str
    sha256: str
    split: str
    label: str
    suggested: str = ""
    score: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a person decided about an image: a row of the list that was filled in.

    Attributes:
        sha256: of the image's bytes, hex.
        name: as the list shows it.
        action: `keep`, `drop` or `label`.
        label: for `label` the new one, several of them as one text; else None.
        line: row in the file, counted from 1 with the header.
    """

    sha256: str
    name: str
    action: Action
    label: str | None
    line: int


@dataclass(frozen=True)
class Verdicts:
    """The rows of a list that were filled in.

    Attributes:
        path: where they were read.
        rows: in the order of the file.
    """

    path: Path
    rows: tuple[Verdict, ...]

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Changes:
    """What verdicts change in a dataset.

    Attributes:
        drop: indices of the images to leave out, ascending.
        relabel: new labels by index, without images that already have the new label.
        missing: verdicts on images that are not in the data.
    """

    drop: tuple[int, ...]
    relabel: Mapping[int, str]
    missing: tuple[Verdict, ...]


def write_fix_list(path: Path, rows: Iterable[FixListRow]) -> None:
    """Writes a list for a person to fill in.

    Args:
        path: the file; a list without verdicts that is there is replaced.
        rows: the most doubtful first.

    Raises:
        DatasetError: it cannot be written, or something else is there: verdicts above all.
    """
    check_fix_list(path)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows:
        known = row.score is not None and math.isfinite(row.score)
        score = f"{row.score:.3f}" if known else ""
        cells = (row.image, row.sha256, row.split, row.label, row.suggested, score, row.why, "")
        writer.writerow([_guard(make_writable(cell)) for cell in cells])
    content = text.getvalue().encode("utf-8-sig")
    try:
        write_file(path, lambda file: file.write(content))
    except OSError as error:
        raise DatasetError(
            f"cannot write the list {path}: {error.strerror or error}; choose another place"
        ) from error


def read_verdicts(path: Path) -> Verdicts:
    """Reads the rows of a list that were filled in, as a spreadsheet may have saved them.

    Commas, semicolons or tabs; UTF-8 or UTF-16; columns in any order, others beside them.

    Raises:
        DatasetError: the file cannot be read, is no such list, or a row cannot be understood or
            contradicts another.
    """
    found: list[Verdict] = []
    for line, row in _read_rows(path):
        text = _unguard(row["verdict"])
        if not text.strip():
            continue
        sha256 = row["sha256"].strip().lower()
        if len(sha256) != 64 or not _HEX.issuperset(sha256):
            raise DatasetError(
                f"{path} line {line}: sha256 must be the 64 hex digits that the list was written "
                f"with, received {printable(row['sha256'])[:80]!r}; copy the row anew from the list"
            )
        action, label = _parse(text)
        if label == "":
            raise DatasetError(f"{path} line {line}: {LABEL} must be followed by a label")
        found.append(Verdict(sha256, _unguard(row.get("image", "")), action, label, line))
    verdicts = Verdicts(path, tuple(found))
    _check_contradictions(verdicts)
    return verdicts


def write_label(label: str) -> str:
    """Returns a label as it is written in the column of verdicts, whatever it is called."""
    said = label.strip().lower() in ("keep", "drop") or label.lower().startswith(LABEL)
    unsafe = label != label.strip() or _guard(label) != label
    return LABEL + label if said or unsafe else label


def apply(
    verdicts: Verdicts,
    hashes: Sequence[str],
    names: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str] | None = None,
) -> Changes:
    """Returns what verdicts change in N images.

    A new label is given to all images of that content. Of equal images the one of that name is
    dropped; all of them if none has that name (any more). A dropped image gets no new label.

    Args:
        verdicts: from `read_verdicts`.
        hashes: N, SHA-256 of each image's bytes, hex.
        names: N names as the list shows them.
        labels: N texts.
        classes: what a new label may be; None for anything, as for numbers and joined labels.

    Raises:
        DatasetError: a label that no class has.
    """
    indices: dict[str, list[int]] = {}
    for index, image in enumerate(hashes):
        indices.setdefault(image, []).append(index)
    drop, relabel, missing = set[int](), dict[int, str](), list[Verdict]()
    for verdict in verdicts:
        label = None
        if verdict.label is not None:
            label = _match(verdict, verdicts.path, classes)
        same = indices.get(verdict.sha256, [])
        if not same:
            missing.append(verdict)
        elif verdict.action == "drop":
            drop.update([n for n in same if make_writable(names[n]) == verdict.name] or same)
        elif label is not None:
            relabel.update((n, label) for n in same if labels[n] != label)
    kept = {index: relabel[index] for index in sorted(relabel) if index not in drop}
    return Changes(tuple(sorted(drop)), kept, tuple(missing))


def _guard(cell: str) -> str:
    """Puts an apostrophe before a cell that a spreadsheet may run, and before an apostrophe."""
    return f"'{cell}" if cell.startswith(("'", *_FORMULA)) else cell


def _unguard(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(("'", *_FORMULA)) else cell


def _parse(text: str) -> tuple[Action, str | None]:
    word = text.strip().lower()
    if word == "keep":
        return "keep", None
    if word == "drop":
        return "drop", None
    start = text.lstrip()
    return "label", start[len(LABEL) :] if start.lower().startswith(LABEL) else text.strip()


def _match(verdict: Verdict, path: Path, classes: Sequence[str] | None) -> str:
    """Returns the class that a verdict means: as it stands, or without spaces around it."""
    label = verdict.label or ""
    bare = label.strip()
    if classes is None:
        return label
    for spelling in (label, bare, unicodedata.normalize("NFC", bare)):
        if spelling in classes:
            return spelling
    close = difflib.get_close_matches(bare.lower(), {c.lower(): c for c in classes}, 1)
    meant = next((c for c in classes if close and c.lower() == close[0]), None)
    listed = ", ".join(map(printable, list(classes)[:SHOWN]))
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    raise DatasetError(
        f"{path} line {verdict.line}: the verdict must be keep, drop or one of the classes "
        f"{listed}{more}; received {printable(label)!r}"
        + (f". Is {printable(meant)} meant?" if meant else "; for a new class change the data")
    )


def _check_contradictions(verdicts: Verdicts) -> None:
    """Refuses two verdicts on one row's image, and two labels for one content."""
    first: dict[tuple[str, ...], Verdict] = {}
    for verdict in verdicts:
        keys: list[tuple[str, ...]] = [(verdict.sha256, verdict.name)]
        if verdict.action == "label":
            keys.append((verdict.sha256, LABEL, "label"))
        for key in keys:
            other = first.setdefault(key, verdict)
            if (other.action, other.label) != (verdict.action, verdict.label):
                raise DatasetError(
                    f"{verdicts.path} line {verdict.line}: {printable(verdict.name)} must have one "
                    f"verdict, received {_say(verdict)} and in line {other.line} {_say(other)}; "
                    "empty one of them"
                )


def _say(verdict: Verdict) -> str:
    return printable(verdict.label if verdict.label is not None else verdict.action)


def check_fix_list(path: Path) -> None:
    """Refuses to replace a file that holds verdicts, or is no such list.

    Raises:
        DatasetError: it does, or is none.
    """
    if not path.exists():
        return
    try:
        filled = len(read_verdicts(path))
    except DatasetError as error:
        raise DatasetError(f"{path} is there and is not replaced: {error}") from None
    if filled:
        raise DatasetError(
            f"{path} is there and holds {filled} verdicts, which would be lost; use them, or move "
            "it away, or choose another name"
        )


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Reads lines, counted from 1 with the header, and their cells by the columns' names."""
    text = _read_text(path)
    header, delimiter = _read_header(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    line = 0
    try:
        for line, cells in enumerate(reader, start=1):
            if line > 1:
                padded = [*cells, *[""] * (len(header) - len(cells))]
                yield line, dict(zip(header, padded, strict=False))
    except csv.Error as error:
        raise DatasetError(f"{path} after line {line}: {error}; save it again as CSV") from None


def _read_header(path: Path, text: str) -> tuple[list[str], str]:
    best: list[str] = []
    for delimiter in DELIMITERS:
        try:
            cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        except csv.Error:
            continue
        header = [cell.strip().lower() for cell in cells]
        if header.count("sha256") == header.count("verdict") == 1:
            return header, delimiter
        best = max(best, header, key=len)
    raise DatasetError(
        f"{path} must have one column `sha256` and one `verdict` in its first line, received "
        f"{printable(', '.join(best))[:200] or 'an empty file'!r}; take a list that an inspection "
        "wrote"
    )


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"cannot read the verdicts {path}: {reason}") from error
    if data.startswith(b"PK\x03\x04"):
        raise DatasetError(f"{path} must be CSV, received a workbook; save it as `CSV UTF-8`")
    coding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(coding)
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path} must be UTF-8, byte {error.start} is not; save it as `CSV UTF-8`"
        ) from None
