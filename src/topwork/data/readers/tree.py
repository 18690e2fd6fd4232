"""Folders and files by their names; the tree may lie on a disk, in an archive or elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from topwork.images.decode import SUFFIXES, Source

# Files that other programs leave in folders; hidden ones are ignored too.
_LITTER = frozenset((
    "#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recycle", "@tmp", "__macosx",
    "__pycache__", "desktop.ini", "ehthumbs.db", "icon\r", "lost+found", "recycler",
    "system volume information", "thumbs.db",
))  # fmt: skip


class Tree(Protocol):
    """Folders and files. Paths are relative to the root, with `/` between names."""

    @property
    def root(self) -> str:
        """Where it lies, for messages."""

    def top(self, folder: str) -> tuple[set[str], list[str]]:
        """Returns the names of the folders and of the files directly in a folder; "" the root."""

    def walk(self, folder: str) -> Iterator[str]:
        """Yields the paths of all files in a folder and below."""

    def is_image(self, name: str) -> bool:
        """Whether a file is an image, as far as that is told without reading it."""

    def source(self, name: str) -> Source:
        """Returns the source of a file."""


class NameTree:
    """A tree that is built from the paths of its files.

    Args:
        root: where it lies, for messages.
        names: the files; those that end with `/` are folders.
        source: returns the source of a file.
    """

    def __init__(self, root: str, names: Iterable[str], source: Callable[[str], Source]) -> None:
        self.root = root
        self.source = source
        self._folders: dict[str, tuple[set[str], list[str]]] = {"": (set(), [])}
        for name in names:
            *above, last = name.split("/")
            litter = next((n for n, part in enumerate(above) if is_litter(part)), None)
            # A folder is there even if there is nothing but litter in it.
            _, files = self._add_folder("/".join(above[:litter]))
            if litter is None and last and not is_litter(last):
                files.append(last)

    def is_image(self, name: str) -> bool:
        """Whether a file's name ends like an image's."""
        return is_image_name(name)

    def _add_folder(self, path: str) -> tuple[set[str], list[str]]:
        if path not in self._folders:
            above, _, name = path.rpartition("/")
            self._add_folder(above)[0].add(name)
            self._folders[path] = (set(), [])
        return self._folders[path]

    def top(self, folder: str) -> tuple[set[str], list[str]]:
        """Returns the names of the folders and of the files directly in a folder."""
        folders, files = self._folders.get(folder, (set(), []))
        return set(folders), list(files)

    def walk(self, folder: str) -> Iterator[str]:
        """Yields the paths of all files in a folder and below."""
        prefix = f"{folder}/" if folder else ""
        folders, files = self._folders[folder]
        yield from (f"{prefix}{name}" for name in files)
        for name in folders:
            yield from self.walk(f"{prefix}{name}")


def is_litter(name: str) -> bool:
    """Whether a path is hidden, or belongs to what other programs leave in folders."""
    return any(part.startswith(".") or part.lower() in _LITTER for part in name.split("/") if part)


def is_image_name(name: str) -> bool:
    """Whether a name ends like an image's."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (fast for 100,000 names)
