"""What lies in a folder of labelled images: which files, of which class, for which split.

Only names are looked at; no file is opened.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from topwork.errors import DatasetError
from topwork.images import SUFFIXES
from topwork.listing import SHOWN, SPLIT_NAMES, Skipped, Split, make_writable

# What other programs leave in folders, besides everything that is hidden.
_LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx", "ehthumbs.db"))


class Image(NamedTuple):
    """An image file: its path within the folder, the name of its class, what it is for."""

    name: str
    label: str
    split: Split


@dataclass(frozen=True)
class Folder:
    """What was found.

    Attributes:
        root: the folder.
        images: at least one.
        skipped: files and classes that were left out.
        divided: whether the folder holds splits, and these the classes.
    """

    root: Path
    images: tuple[Image, ...]
    skipped: tuple[Skipped, ...]
    divided: bool


def read_folder(root: Path, strict: bool) -> Folder:
    """Lists the images of a folder; see `Dataset.from_folder`.

    Args:
        root: the folder.
        strict: raise at the first file that is not an image, instead of leaving it out.

    Raises:
        DatasetError: there is no such folder, it holds no images, or its splits contradict
            each other.
    """
    if not os.path.isdir(root):  # noqa: PTH112 (pathlib raises for some names)
        what = "it is a file" if os.path.exists(root) else "there is no such folder"  # noqa: PTH110
        raise DatasetError(f"{root} must be a folder with one folder per class: {what}")
    folders, loose = _list_top(root)
    splits = {name: split for name in folders if (split := SPLIT_NAMES.get(name.lower()))}
    # A class may be called "test"; a data set is divided if all its folders are splits.
    divided = bool(splits) and len(splits) == len(folders)
    beside = folders - splits.keys()
    if not divided and _holds_splits(root, splits, beside):
        raise DatasetError(
            f"{root} holds the split {' and '.join(sorted(splits))} beside other folders "
            f"({', '.join(sorted(beside)[:SHOWN])}); keep either splits or classes in it"
        )
    if divided:
        _check_split_names(root, splits)
        inner = {folder: _list_top(root / folder) for folder in sorted(splits)}
        loose += [f"{folder}/{name}" for folder, (_, stray) in inner.items() for name in stray]
        classes = [
            (splits[folder], f"{folder}/{name}")
            for folder, (names, _) in inner.items()
            for name in sorted(names)
        ]
    else:
        classes = [(Split.TRAIN, name) for name in sorted(folders)]
    images: list[Image] = []
    skipped = [Skipped(name, "it lies beside the class folders") for name in loose]
    for split, folder in classes:
        found, others = _read_class(root, folder, split)
        images += found
        skipped += others
    if strict and skipped:
        first = skipped[0]
        raise DatasetError(f"{root / first.path}: {first.reason}; remove it, or leave out --strict")
    if not images:
        raise DatasetError(_explain_empty(root, skipped))
    return Folder(root, tuple(images), tuple(skipped), divided)


def list_images(folder: Path) -> list[Path]:
    """Returns the images in a folder and below, sorted, told by their suffixes."""
    return sorted(folder / name for name in _walk(folder, "") if _is_image_name(name))


def _read_class(root: Path, folder: str, split: Split) -> tuple[list[Image], list[Skipped]]:
    """Lists the images of one class; `folder` is its path within the root."""
    label = _name_class(folder.rpartition("/")[2])
    images, skipped = list[Image](), list[Skipped]()
    for name in sorted(_walk(root / folder, f"{folder}/")):
        if _is_image_name(name):
            images.append(Image(name, label, split))
        else:
            skipped.append(Skipped(name, "its name does not end like an image's"))
    if not images:
        skipped.append(Skipped(f"{folder}/", "the class has no images"))
    return images, skipped


def _name_class(folder: str) -> str:
    # Programs and systems encode an accent in two ways; it is the same name.
    return make_writable(unicodedata.normalize("NFC", folder))


def _list_top(folder: Path) -> tuple[set[str], list[str]]:
    """Returns the names of the folders and of the images in a folder; notes may lie beside."""
    folders, images = set[str](), list[str]()
    for entry in _scan(folder):
        if _is_folder(entry):
            folders.add(entry.name)
        elif _is_image_name(entry.name):
            images.append(entry.name)
    return folders, sorted(images)


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
        # A link to itself, or to where we may not look.
        return False


def _is_image_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 (fast for 100,000 names)


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name.lower() not in _LITTER:
                    yield entry
    except OSError as error:
        raise DatasetError(f"cannot read the folder {folder}: {error.strerror}") from error


def _holds_splits(root: Path, splits: dict[str, Split], classes: set[str]) -> bool:
    """Whether folders named like splits are some: `train` is, and one that has the classes too."""
    return any(
        split is Split.TRAIN or _list_top(root / name)[0] & classes
        for name, split in splits.items()
    )


def _check_split_names(root: Path, splits: dict[str, Split]) -> None:
    for split in Split:
        same = sorted(name for name, kind in splits.items() if kind is split)
        if len(same) > 1:
            raise DatasetError(
                f"{root} has more than one {split} folder: {', '.join(same)}; keep one of them"
            )


def _explain_empty(root: Path, skipped: Sequence[Skipped]) -> str:
    endings = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    loose = [item.path for item in skipped if _is_image_name(item.path)]
    if loose:
        first = Path(loose[0])
        return (
            f"{root} holds images but no class folders; make one folder per class and put the "
            f"images in them, such as {root / first.parent / 'cat' / first.name}"
        )
    return f"{root} holds no images; it needs one folder per class with images ({endings})"
