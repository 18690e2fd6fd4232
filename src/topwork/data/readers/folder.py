"""Labelled images in a folder on a disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from topwork.core.errors import DatasetError
from topwork.data.listing import Listing
from topwork.data.readers.class_folders import read_tree
from topwork.data.readers.layout import descend
from topwork.data.readers.tree import is_image_name, is_litter
from topwork.images.traits import FIRST_BYTES, looks_like_image


class DiskTree:
    """The folders and files below a folder, without what is hidden."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)

    def top(self, folder: str) -> tuple[set[str], list[str]]:
        """Returns the names of the folders and of the files directly in a folder."""
        folders, files = set[str](), list[str]()
        for entry in _scan(Path(self.root, folder)):
            if _is_folder(entry):
                folders.add(entry.name)
            else:
                files.append(entry.name)
        return folders, files

    def walk(self, folder: str) -> Iterator[str]:
        """Yields the paths of all files in a folder and below."""
        return _walk(Path(self.root, folder), f"{folder}/" if folder else "")

    def is_image(self, name: str) -> bool:
        """Whether a file is an image: by its name, or by its content if that has no suffix."""
        return _is_image(Path(self.root), name)

    def source(self, name: str) -> Path:
        """Returns the path of a file."""
        return Path(self.root, name)


def read_folder(root: Path, strict: bool, *, labelled: bool = True) -> Listing:
    """Lists the images of a folder; see `Dataset.from_folder`.

    Args:
        root: the folder.
        strict: raise at the first file that is not an image, instead of leaving it out.
        labelled: as for `read_tree`.

    Raises:
        DatasetError: there is no such folder, it holds no images, or its splits contradict
            each other.
    """
    if not os.path.isdir(root):  # noqa: PTH112 (pathlib raises for some names)
        what = "it is a file" if os.path.exists(root) else "there is no such folder"  # noqa: PTH110
        raise DatasetError(f"{root} must be a folder with one folder per class: {what}")
    tree = DiskTree(root)
    return read_tree(tree, strict, descend(tree, lambda name: False), labelled=labelled)


def list_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the images in a folder and below, and the other files, each sorted.

    Images are told by their suffixes; those without one by their first bytes.
    """
    images, others = list[Path](), list[Path]()
    for name in _walk(folder, ""):
        (images if _is_image(folder, name) else others).append(folder / name)
    return sorted(images), sorted(others)


def _is_image(root: Path, name: str) -> bool:
    if "." in name.rpartition("/")[2]:
        return is_image_name(name)
    try:
        # To open a pipe may wait for ever.
        path = root / name
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return looks_like_image(file.read(FIRST_BYTES))
    except OSError:
        return False


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    """Yields the files below a folder as paths that start with `prefix`; follows no loops."""
    pending = [(str(folder), prefix)]
    seen = {str(above) for above in Path(os.path.realpath(folder)).parents}
    while pending:
        path, prefix = pending.pop()
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        for entry in sorted(_scan(Path(path)), key=lambda entry: entry.name):
            if _is_folder(entry):
                pending.append((entry.path, f"{prefix}{entry.name}/"))
            else:
                yield prefix + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or to where there is no permission to read.
        return False


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_litter(entry.name):
                    yield entry
    except OSError as error:
        raise DatasetError(f"cannot read the folder {folder}: {error.strerror}") from error
