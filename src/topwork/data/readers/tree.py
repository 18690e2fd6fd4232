"""Labelled images in a tree of folders: which files, of which class, for which split.

Only names are looked at, and on a disk the first bytes of files without a suffix. The tree may lie
on a disk, in an archive or on another machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from topwork.core.errors import DatasetError
from topwork.data.listing import SHOWN, SPLIT_NAMES, Listing, Skipped, Split
from topwork.images.decode import SUFFIXES, Source

# Files that other programs leave in folders; hidden ones are ignored too.
_LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx", "ehthumbs.db"))


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


class _Image(NamedTuple):
    """An image by its path within the tree, with its label, if any."""

    name: str
    label: str | None
    split: Split


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


def read_tree(tree: Tree, strict: bool, base: str = "", *, labelled: bool = True) -> Listing:
    """Lists the labelled images of a tree; see `Dataset.from_folder`.

    Args:
        tree: the folders.
        strict: raise at the first file that is not an image, instead of leaving it out.
        base: where they are in it, such as `photos/`.
        labelled: whether images that lie beside class folders, or where there are none, are
            left out. If not, they have no label.

    Raises:
        DatasetError: it holds no images, or its splits contradict each other.
    """
    folders, loose = _list_top(tree, base)
    splits = _find_splits(folders)
    divided = _is_divided(folders)
    beside = folders - splits.keys()
    if not divided and _holds_splits(tree, base, splits, beside):
        raise DatasetError(
            f"{tree.root} holds the split {' and '.join(sorted(splits))} beside other folders "
            f"({', '.join(sorted(beside)[:SHOWN])}); keep either splits or classes in it"
        )
    if divided:
        _check_split_names(tree.root, splits)
        inner = {folder: _list_top(tree, base + folder) for folder in sorted(splits)}
        loose += [f"{folder}/{name}" for folder, (_, stray) in inner.items() for name in stray]
        classes = [
            (splits[folder], f"{folder}/{name}")
            for folder, (names, _) in inner.items()
            for name in sorted(names)
        ]
    else:
        classes = [(Split.TRAIN, name) for name in sorted(folders)]
    images, skipped = list[_Image](), list[Skipped]()
    if labelled:
        skipped += [Skipped(base + name, "it lies beside the class folders") for name in loose]
    else:
        split_of = {name: splits.get(name.partition("/")[0], Split.TRAIN) for name in loose}
        images += [_Image(base + name, None, split_of[name]) for name in loose]
    for split, folder in classes:
        names, others = _read_class(tree, base + folder)
        images += [_Image(name, folder.rpartition("/")[2], split) for name in names]
        skipped += others
    if strict and skipped:
        first = skipped[0]
        raise DatasetError(
            f"{_join(tree.root, first.path)}: {first.reason}; remove it, or leave out --strict"
        )
    if not images:
        raise DatasetError(_explain_empty(tree.root, skipped))
    return Listing(
        root=tree.root,
        names=[image.name for image in images],
        sources=[tree.source(image.name) for image in images],
        labels=[image.label for image in images],
        splits=[image.split for image in images] if divided else None,
        skipped=tuple(skipped),
    )


def descend(tree: Tree, is_table: Callable[[str], bool]) -> str:
    """Returns the path, with a `/` at its end, of the folder that holds the data.

    Programs pack a folder with its name: one that is alone and holds folders or a table is only
    a wrapper.
    """
    base = ""
    while True:
        folders, files = tree.top(base.rstrip("/"))
        if len(folders) != 1 or any(is_image_name(name) or is_table(name) for name in files):
            return base
        (only,) = folders
        inner, beside = tree.top(base + only)
        if only.lower() in SPLIT_NAMES or not (inner or any(map(is_table, beside))):
            return base
        base += f"{only}/"


def has_classes(tree: Tree, base: str = "") -> bool:
    """Whether a tree has class folders at all; one folder of images does not make classes."""
    folders, _ = tree.top(base.rstrip("/"))
    if _is_divided(folders):
        return any(tree.top(base + name)[0] for name in folders)
    return len(folders) > 1


def _find_splits(folders: Iterable[str]) -> dict[str, Split]:
    return {name: split for name in folders if (split := SPLIT_NAMES.get(name.lower()))}


def _is_divided(folders: set[str]) -> bool:
    # A class may be called "test"; a data set is divided if all its folders are splits.
    return bool(folders) and len(_find_splits(folders)) == len(folders)


def _read_class(tree: Tree, folder: str) -> tuple[list[str], list[Skipped]]:
    """Lists the images of one class; `folder` is its path within the root."""
    images, skipped = list[str](), list[Skipped]()
    for name in sorted(tree.walk(folder)):
        if tree.is_image(name):
            images.append(name)
        else:
            skipped.append(Skipped(name, "its name does not end like an image's"))
    if not images:
        skipped.append(Skipped(f"{folder}/", "the class has no images"))
    return images, skipped


def _list_top(tree: Tree, folder: str) -> tuple[set[str], list[str]]:
    """Returns the names of the folders and of the images in a folder; other files are ignored."""
    folder = folder.rstrip("/")
    folders, files = tree.top(folder)
    prefix = f"{folder}/" if folder else ""
    return folders, sorted(name for name in files if tree.is_image(prefix + name))


def is_image_name(name: str) -> bool:
    """Whether a name ends like an image's."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (fast for 100,000 names)


def _holds_splits(tree: Tree, base: str, splits: dict[str, Split], classes: set[str]) -> bool:
    """Whether folders that are named like splits are splits, though other folders lie beside them.

    `train` is one, and so is one that has folders of the same names as those beside it.
    """
    return any(
        split is Split.TRAIN or _list_top(tree, base + name)[0] & classes
        for name, split in splits.items()
    )


def _check_split_names(root: str, splits: dict[str, Split]) -> None:
    for split in Split:
        same = sorted(name for name, kind in splits.items() if kind is split)
        if len(same) > 1:
            raise DatasetError(
                f"{root} has more than one {split} folder: {', '.join(same)}; keep one of them"
            )


def _explain_empty(root: str, skipped: Sequence[Skipped]) -> str:
    endings = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    loose = [item.path for item in skipped if is_image_name(item.path)]
    if loose:
        above, _, name = loose[0].rpartition("/")
        example = _join(root, f"{above}/cat/{name}" if above else f"cat/{name}")
        return (
            f"{root} holds images but no class folders; make one folder per class and put the "
            f"images in them, such as {example}"
        )
    return f"{root} holds no images; it needs one folder per class with images ({endings})"


def _join(root: str, name: str) -> str:
    return f"{root.rstrip('/')}/{name}"
