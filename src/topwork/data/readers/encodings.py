"""Text tables in other encodings than UTF-8: recognised, or read as the user says."""

from __future__ import annotations

import io
from typing import Any, cast

from topwork.core.errors import DatasetError
from topwork.data.listing import Note

UTF_8_MARK = b"\xef\xbb\xbf"
# That of UTF-32 begins like that of UTF-16.
_MARKS = {
    b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
}  # fmt: skip
# What Western Windows writes where it does not write Unicode.
_USUAL = "cp1252"
_START_BYTES = 1024


def as_utf8(
    location: str, file: io.BufferedReader, asked: str | None
) -> tuple[io.BufferedReader, Note | None]:
    """Returns a file of text as UTF-8, and what was guessed of it, if anything was.

    Text that is UTF-8 but for some damage stays as it is: its damaged lines can be named.

    Args:
        location: of the file, for messages.
        file: at its start; it can be read again.
        asked: its encoding, if the user says it.

    Raises:
        DatasetError: it is not what the user, or its byte order mark, says.
    """
    known = asked or _find_marked(file.peek(_START_BYTES)[:_START_BYTES])
    encoding = known or (None if _is_utf8(file) else _USUAL)
    if encoding is None:
        return file, None
    errors = "surrogateescape" if "a,\n".encode(encoding) == b"a,\n" else "strict"
    try:
        text = file.read().decode(encoding, errors)
    except UnicodeError as error:
        raise DatasetError(
            f"{location} cannot be read as {encoding}: {error}; name its encoding with --encoding"
        ) from None
    data = text.removeprefix("\ufeff").encode("utf-8", "surrogateescape")
    utf8: Any = io.BufferedReader(cast("io.RawIOBase", io.BytesIO(data)))
    if known:
        return utf8, None
    return utf8, Note(
        f"{location} is not UTF-8 and is read as {encoding}, Windows' Western European; "
        "--encoding names another"
    )


def _find_marked(start: bytes) -> str | None:
    """Returns the encoding that the first bytes of a text show without doubt."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    even, odd = start[0::2].count(0), start[1::2].count(0)
    if max(even, odd) * 4 > len(start) > 1:
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def _is_utf8(file: io.BufferedReader) -> bool:
    """Whether a text is UTF-8, or so much of it that the rest is damage; goes back to its start."""
    good = bad = False
    for line in file:
        if line.isascii():
            continue
        try:
            line.decode()
            good = True
        except UnicodeDecodeError:
            bad = True
    file.seek(0)
    return good or not bad
