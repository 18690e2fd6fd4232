"""From what a row of a table calls its image to where its bytes are.

A path is looked for as it is written. Where there is no such file, one whose name differs in its
suffix alone, or in how its accents are encoded, is meant: tables often list ids. A folder that the
user pointed at is searched for it, with all that is in it.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Protocol

from topwork.core.errors import ImageError, counted
from topwork.data.listing import Note
from topwork.data.readers.folder import DiskTree
from topwork.data.readers.tree import is_image_name
from topwork.data.remote import urls
from topwork.data.remote.cache import is_url
from topwork.images.decode import Source

# How many files a message names, where several may be meant.
_NAMED = 3


class ImageFinder(Protocol):
    """Finds images by what rows call them: a `Resolve`."""

    def __call__(self, text: str) -> Source:
        """Returns the source of an image.

        Raises:
            ImageError: there is none, or several may be meant.
        """

    def notes(self) -> list[Note]:
        """Returns what was guessed."""


class NameIndex:
    """Images by the ends of their paths.

    Args:
        names: their paths, with `/` between the parts.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._named = defaultdict[str, list[str]](list)
        for name in names:
            last = _compose(name.rpartition("/")[2])
            self._named[last].append(name)
            stem = os.path.splitext(last)[0]  # noqa: PTH122 (fast for 100,000 names)
            if is_image_name(last) and stem != last:
                self._named[stem].append(name)

    def find(self, text: str) -> str | None:
        """Returns the image whose path ends with `text`, but for its suffix; None without any.

        Raises:
            ImageError: several do.
        """
        wanted = "/" + _compose(text)
        found = [
            name
            for name in self._named.get(wanted.rpartition("/")[2], ())
            if _ends(f"/{_compose(name)}", wanted)
        ]
        if len(found) > 1:
            raise ImageError(
                f"several files may be meant: {', '.join(sorted(found)[:_NAMED])}; write the whole "
                "path, or say with --images which folder they are in"
            )
        return found[0] if found else None


def _ends(path: str, wanted: str) -> bool:
    return path.endswith(wanted) or os.path.splitext(path)[0].endswith(wanted)  # noqa: PTH122


def _compose(text: str) -> str:
    # Programs encode the same accent in two ways.
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class _Finder:
    """What finders have in common: they remember one path that they completed."""

    def __init__(self, find_url: Callable[[str], Source]) -> None:
        self._find_url = find_url
        self._completed = 0
        self._example = "", ""

    def _complete(self, text: str, found: str) -> None:
        self._completed += 1
        if self._completed == 1:
            self._example = text, found

    def notes(self) -> list[Note]:
        """Returns what was guessed."""
        if not self._completed:
            return []
        text, found = self._example
        return [
            Note(
                f"{counted(self._completed, 'image')} found by other names than those of their "
                f"files: {text} is read as {found}"
            )
        ]


class DiskFinder(_Finder):
    """Finds images in a folder on the disk.

    Args:
        folder: that paths are relative to.
        find_url: returns the source of a URL.
        below: whether to search all folders in it too.
        beside: another folder to try; None for none.
    """

    def __init__(
        self,
        folder: Path,
        find_url: Callable[[str], Source],
        *,
        below: bool = False,
        beside: Path | None = None,
    ) -> None:
        super().__init__(find_url)
        self._folders = [folder] if beside is None else [folder, beside]
        self._below = below
        self._all: NameIndex | None = None
        self._listed = dict[Path, NameIndex]()

    def __call__(self, text: str) -> Source:
        """Returns the source of an image; where there is none, the path that was looked for."""
        if is_url(text):
            return self._find_url(text)
        # A path that was written under Windows, unless a file here has such a name.
        spellings = [text, text.replace("\\", "/")] if "\\" in text else [text]
        for folder in self._folders:
            for spelling in spellings:
                path = folder / spelling
                if os.path.isfile(path):  # noqa: PTH113 (pathlib raises for some names)
                    return path
        for folder in self._folders:
            path = folder / spellings[-1]
            name = self._list(path.parent).find(path.name) if path.name else None
            if name is not None:
                self._complete(text, str(path.parent / name))
                return path.parent / name
        if self._below and not os.path.isabs(text):  # noqa: PTH117 (a text)
            name = self._search(posixpath.normpath(spellings[-1]))
            if name is not None:
                self._complete(text, name)
                return self._folders[0] / name
        return self._folders[0] / spellings[-1]

    def _list(self, folder: Path) -> NameIndex:
        index = self._listed.get(folder)
        if index is None:
            try:
                names = os.listdir(folder)  # noqa: PTH208 (names alone)
            except (OSError, ValueError):
                names = []
            index = self._listed[folder] = NameIndex(filter(is_image_name, names))
        return index

    def _search(self, text: str) -> str | None:
        if self._all is None:
            tree = DiskTree(self._folders[0])
            self._all = NameIndex(filter(is_image_name, tree.walk("")))
        return self._all.find(text)


class ArchiveFinder(_Finder):
    """Finds images in an archive, and nowhere else.

    Args:
        files: names of its files.
        source: returns the source of one.
        folder: that paths are relative to, such as `photos/`; it is searched too.
        find_url: returns the source of a URL.
    """

    def __init__(
        self,
        files: Collection[str],
        source: Callable[[str], Source],
        folder: str,
        find_url: Callable[[str], Source],
    ) -> None:
        super().__init__(find_url)
        self._files, self._source, self._folder = files, source, folder
        self._composed = {_compose(name): name for name in files}
        self._all: NameIndex | None = None

    def __call__(self, text: str) -> Source:
        """Returns the source of an image.

        Raises:
            ImageError: there is no such file, or several may be meant.
        """
        if is_url(text):
            return self._find_url(text)
        folder = self._folder
        for name in (folder + text, folder + tidy(text), tidy(folder + text)):
            found = name if name in self._files else self._composed.get(_compose(name))
            if found is not None:
                return self._source(found)
        if self._all is None:
            inside = (name for name in self._files if name.startswith(folder))
            self._all = NameIndex(name for name in inside if is_image_name(name))
        found = self._all.find(tidy(text))
        if found is None:
            raise ImageError("there is no such file in the archive")
        self._complete(text, found)
        return self._source(found)


class UrlFinder(_Finder):
    """Finds images on another machine, where only the whole path will do.

    Args:
        folder: URL that paths are relative to.
        find_url: returns the source of a URL.
    """

    def __init__(self, folder: str, find_url: Callable[[str], Source]) -> None:
        super().__init__(find_url)
        self._folder = folder

    def __call__(self, text: str) -> Source:
        """Returns the source of an image; it is asked for when it is read."""
        return self._find_url(text if is_url(text) else urls.join(self._folder, tidy(text)))


def tidy(text: str) -> str:
    """Returns a relative path without `.` and `..`, with `/` for the separator of Windows."""
    return posixpath.normpath(text.replace("\\", "/"))
