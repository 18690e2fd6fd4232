"""A folder of labelled images, or lists of them, as an index: classes, splits, what was left out.

Only names are looked at here. Whether a file can be decoded shows when its vector is made.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topwork.errors import DatasetError
from topwork.images import SUFFIXES, Source, encode_array

# What other programs leave in folders, besides everything that is hidden.
_LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx", "ehthumbs.db"))
SHOWN = 10


class Split(StrEnum):
    """What an image is for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


_SPLIT_FOLDERS = {
    "train": Split.TRAIN,
    "validation": Split.VALIDATION,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "test": Split.TEST,
}


@dataclass(frozen=True)
class Skipped:
    """A file or class that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class SplitMade:
    """How Topwork made the validation split: the share of the training images, and the seed."""

    fraction: float
    seed: int


@dataclass(frozen=True)
class Dataset:
    """Labelled images. N: images, C: classes.

    Attributes:
        root: the folder; None for images that were given one by one.
        classes: names of the C classes, sorted.
        sources: N paths, or encoded images in memory.
        names: N names to show: the path within the folder, or the place in the list.
        labels: (N,) int32, an index into `classes` for each image.
        splits: (N,) of `train`, `validation` or `test`.
        skipped: what was left out.
        split_made: how the validation split was made; None if it was in the data.
        has_split_folders: whether the folder itself is divided into splits.
    """

    root: Path | None
    classes: tuple[str, ...]
    sources: tuple[Source, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int32]
    splits: NDArray[np.str_]
    skipped: tuple[Skipped, ...] = ()
    split_made: SplitMade | None = None
    has_split_folders: bool = False

    def __len__(self) -> int:
        return len(self.sources)

    @classmethod
    def from_folder(cls, path: Path | str, *, strict: bool = False) -> Dataset:
        """Indexes a folder with one folder per class, or with split folders that hold those.

        Split folders are `train`, `validation` (or `val`, `valid`) and `test`, in any case.
        Images may lie any number of folders deep within their class.

        Args:
            path: the folder.
            strict: raise at the first file that is not an image, instead of leaving it out.

        Raises:
            DatasetError: there is no such folder, it holds no images or only one class, or its
                splits contradict each other.
        """
        root = Path(path)
        if not root.is_dir():
            what = "it is a file" if root.exists() else "there is no such folder"
            raise DatasetError(f"{root} must be a folder with one folder per class: {what}")
        folders, loose = _list_top(root)
        splits = {name: split for name in folders if (split := _SPLIT_FOLDERS.get(name.lower()))}
        # A class may be called "test"; a data set is divided if all its folders are splits.
        divided = bool(splits) and len(splits) == len(folders)
        if not divided and Split.TRAIN in splits.values():
            others = ", ".join(sorted(folders - splits.keys())[:SHOWN])
            raise DatasetError(
                f"{root} holds the split {' and '.join(sorted(splits))} beside other folders "
                f"({others}); keep either splits or classes in it"
            )
        skipped = [Skipped(name, "it lies beside the class folders") for name in loose]
        index = _Index(root)
        if divided:
            _check_split_names(root, splits)
            for folder, split in sorted(splits.items()):
                names, stray = _list_top(root / folder)
                skipped += [
                    Skipped(f"{folder}/{name}", "it lies beside the class folders")
                    for name in stray
                ]
                index.add(split, {name: f"{folder}/{name}" for name in names})
        else:
            index.add(Split.TRAIN, {name: name for name in folders})
        return index.finish(skipped, divided, strict)

    @classmethod
    def from_sources(cls, sources: Iterable[Any], labels: ArrayLike | None = None) -> Dataset:
        """Makes a dataset of images given one by one; all of them are for training.

        Args:
            sources: N paths, encoded images as bytes, or uint8 arrays (H, W) or (H, W, 3).
            labels: N texts or numbers; their sorted text becomes the classes. None for images
                without labels, which can only be predicted: no classes, labels of -1.

        Raises:
            DatasetError: no images, lengths that differ, labels that cannot be sorted, or
                fewer than two classes.
            SettingsError: an array of another shape or dtype.
        """
        if isinstance(sources, str | bytes | os.PathLike):
            raise DatasetError(f"a list of images is needed, received one: {sources!r:.80}")
        read = tuple(as_source(source) for source in sources)
        if not read:
            raise DatasetError("at least one image is needed, received none")
        classes, numbers = ([], np.full(len(read), -1)) if labels is None else _number(labels)
        if len(numbers) != len(read):
            raise DatasetError(
                f"every image needs one label, received {len(read)} images and "
                f"{len(numbers)} labels"
            )
        if labels is not None:
            _check_class_count("the labels", classes)
        return cls(
            root=None,
            classes=tuple(classes),
            sources=read,
            names=tuple(
                str(source) if isinstance(source, Path) else f"image {place}"
                for place, source in enumerate(read)
            ),
            labels=numbers.astype(np.int32),
            splits=np.full(len(read), str(Split.TRAIN)),
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns the number of images by split and class name; absent pairs count 0."""
        pairs = Counter(zip(self.splits.tolist(), self.labels.tolist(), strict=True))
        return {
            str(split): {name: pairs[str(split), n] for n, name in enumerate(self.classes)}
            for split in Split
        }

    def select(self, chosen: NDArray[np.bool_]) -> Dataset:
        """Returns the images where `chosen` (N,) is true; the classes stay as they are."""
        places = np.flatnonzero(chosen)
        return replace(
            self,
            sources=tuple(self.sources[i] for i in places),
            names=tuple(self.names[i] for i in places),
            labels=self.labels[places],
            splits=self.splits[places],
        )

    def drop(self, reasons: Mapping[int, str]) -> Dataset:
        """Returns the dataset without some images, which are then in `skipped`.

        Args:
            reasons: why, by the image's place.
        """
        kept = np.ones(len(self), bool)
        kept[list(reasons)] = False
        left_out = tuple(Skipped(self.names[n], reason) for n, reason in sorted(reasons.items()))
        return replace(self.select(kept), skipped=self.skipped + left_out)

    def with_validation(self, fraction: float, seed: int) -> Dataset:
        """Returns a dataset that can be trained on: with images to train and to validate.

        Without a validation split, a stratified share of the training images becomes one. A
        class with a single image keeps it for training.

        Args:
            fraction: of the training images, above 0 and below 1.
            seed: the same seed divides the same dataset in the same way.

        Raises:
            DatasetError: no training images, a class that only validation or test has, or too
                few images to divide.
        """
        training = self.splits == Split.TRAIN
        where = f" in {self.root}" if self.root else ""
        if not training.any():
            raise DatasetError(f"there are no training images{where}; add a folder train/")
        self._check_split_classes(training)
        if (self.splits == Split.VALIDATION).any():
            return self
        chosen = _choose_validation(self.labels, np.flatnonzero(training), fraction, seed)
        splits = self.splits.astype(f"<U{len(Split.VALIDATION)}")
        splits[chosen] = str(Split.VALIDATION)
        return replace(self, splits=splits, split_made=SplitMade(fraction, seed))

    def _check_split_classes(self, training: NDArray[np.bool_]) -> None:
        known = {*self.labels[training].tolist()}
        for split in (Split.VALIDATION, Split.TEST):
            strange = {*self.labels[self.splits == split].tolist()} - known
            if strange:
                names = ", ".join(self.classes[n] for n in sorted(strange)[:SHOWN])
                raise DatasetError(
                    f"{split} has images of {names}, but train has none; a class cannot be "
                    f"learnt from {split} alone. Add training images, or take the class out"
                )
        if len(known) < 2:
            only = self.classes[known.pop()]
            raise DatasetError(
                f"training needs at least 2 classes, received images of {only} alone"
            )


def _number(labels: ArrayLike) -> tuple[list[str], NDArray[np.intp]]:
    """Returns the sorted classes as text, and each label's place among them."""
    values = np.asarray(labels)
    if values.ndim != 1:
        raise DatasetError(f"labels must be a list of texts or numbers, received {values.ndim}-d")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DatasetError("every image needs a label, received NaN or infinity among them")
    try:
        classes, numbers = np.unique(values, return_inverse=True)
    except TypeError as error:
        raise DatasetError(f"labels must be all texts or all numbers: {error}") from None
    return [str(name) for name in classes], numbers


def as_source(image: Any) -> Source:
    """Returns an image as a path or as encoded bytes.

    Args:
        image: a path (`str` or `Path`), encoded bytes, or a uint8 array.

    Raises:
        SettingsError: an array of another shape or dtype.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return Path(image)
    return encode_array(np.asarray(image))


def list_images(folder: Path) -> list[Path]:
    """Returns the images in a folder and below, sorted, told by their suffixes."""
    return sorted(folder / name for name in _walk(folder, "") if _is_image_name(name))


class _Index:
    """Collects images while folders are walked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: list[tuple[str, str, Split]] = []  # name, class, split
        self.skipped: list[Skipped] = []

    def add(self, split: Split, folders: dict[str, str]) -> None:
        """Adds class folders: path within the root, by class name."""
        for label, folder in sorted(folders.items()):
            before = len(self.rows)
            for name in sorted(_walk(self.root / folder, f"{folder}/")):
                if _is_image_name(name):
                    self.rows.append((name, label, split))
                else:
                    self.skipped.append(Skipped(name, "its name does not end like an image's"))
            if len(self.rows) == before:
                self.skipped.append(Skipped(f"{folder}/", "the class has no images"))

    def finish(self, skipped: list[Skipped], divided: bool, strict: bool) -> Dataset:
        skipped = skipped + self.skipped
        if strict and skipped:
            first = skipped[0]
            raise DatasetError(
                f"{self.root / first.path}: {first.reason}; remove it, or leave out --strict"
            )
        if not self.rows:
            raise DatasetError(_explain_empty(self.root, skipped))
        classes = sorted({label for _, label, _ in self.rows})
        if any(split is Split.TRAIN for _, _, split in self.rows):
            _check_class_count(str(self.root), classes)
        number = {label: n for n, label in enumerate(classes)}
        root = str(self.root)
        return Dataset(
            root=self.root,
            classes=tuple(classes),
            sources=tuple(Path(root, name) for name, _, _ in self.rows),
            names=tuple(name for name, _, _ in self.rows),
            labels=np.array([number[label] for _, label, _ in self.rows], np.int32),
            splits=np.array([str(split) for _, _, split in self.rows]),
            skipped=tuple(skipped),
            has_split_folders=divided,
        )


def _list_top(folder: Path) -> tuple[set[str], list[str]]:
    """Returns the names of the folders and of the images in a folder; notes may lie beside."""
    folders, images = set[str](), list[str]()
    for entry in _scan(folder):
        if entry.is_dir():
            folders.add(entry.name)
        elif _is_image_name(entry.name):
            images.append(entry.name)
    return folders, sorted(images)


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    """Yields the files below a folder as paths that start with `prefix`; follows no loops."""
    pending, seen = [(str(folder), prefix)], set[str]()
    while pending:
        path, prefix = pending.pop()
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        for entry in _scan(Path(path)):
            if entry.is_dir():
                pending.append((entry.path, f"{prefix}{entry.name}/"))
            else:
                yield prefix + entry.name


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


def _check_split_names(root: Path, splits: dict[str, Split]) -> None:
    for split in Split:
        same = sorted(name for name, kind in splits.items() if kind is split)
        if len(same) > 1:
            raise DatasetError(
                f"{root} has more than one {split} folder: {', '.join(same)}; keep one of them"
            )


def _check_class_count(where: str, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise DatasetError(
            f"at least 2 classes are needed, received one in {where}: {', '.join(classes)}. "
            "Each class is a folder with its images in it"
        )


def _explain_empty(root: Path, skipped: Sequence[Skipped]) -> str:
    endings = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
    loose = [item.path for item in skipped if _is_image_name(item.path)]
    if loose:
        return (
            f"{root} holds images but no class folders; make one folder per class and put the "
            f"images in them, such as {root}/cat/{Path(loose[0]).name}"
        )
    return f"{root} holds no images; it needs one folder per class with images ({endings})"


def _choose_validation(
    labels: NDArray[np.int32], training: NDArray[np.intp], fraction: float, seed: int
) -> NDArray[np.intp]:
    """Returns the places that go from training to validation."""
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels[training])
    several = training[counts[labels[training]] > 1]
    classes = len(np.unique(labels[several]))
    wanted = round(fraction * len(several))
    # Each class needs an image on either side, or else it cannot be stratified.
    size = min(max(wanted, classes), len(several) - classes)
    if size < 1:
        raise DatasetError(
            "too few images to set some aside for validation: at least one class needs 2 images, "
            f"received {len(training)} images of {np.count_nonzero(counts)} classes. Add images, "
            "or a folder validation/"
        )
    _, chosen = train_test_split(
        several, test_size=size, random_state=seed, stratify=labels[several]
    )
    return np.sort(chosen)
