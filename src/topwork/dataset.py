"""Labelled images, from a folder or a list: sources, classes, splits, what was left out.

Whether an image can be decoded shows when its vector is made.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topwork.errors import DatasetError
from topwork.folder import read_folder
from topwork.images import Source, encode_array
from topwork.listing import SHOWN, Skipped, Split, make_writable


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
        divided: whether the folder itself is divided into splits.
    """

    root: Path | None
    classes: tuple[str, ...]
    sources: tuple[Source, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int32]
    splits: NDArray[np.str_]
    skipped: tuple[Skipped, ...] = ()
    split_made: SplitMade | None = None
    divided: bool = False

    def __len__(self) -> int:
        return len(self.sources)

    @classmethod
    def from_folder(cls, path: Path | str, *, strict: bool = False) -> Dataset:
        """Indexes a folder with one folder per class, or with split folders that hold those.

        Split folders are `train`, `validation` (or `val`, `valid`) and `test`, in any case.
        Images may lie any number of folders deep within their class. Folders whose names look
        the same, whichever way their accents are encoded, are one class.

        Args:
            path: the folder.
            strict: raise at the first file that is not an image, instead of leaving it out.

        Raises:
            DatasetError: there is no such folder, it holds no images or only one class, or its
                splits contradict each other.
        """
        found = read_folder(Path(path), strict)
        classes = sorted({image.label for image in found.images})
        if any(image.split is Split.TRAIN for image in found.images):
            _check_class_count(str(found.root), classes)
        number = {label: n for n, label in enumerate(classes)}
        root = str(found.root)
        return cls(
            root=found.root,
            classes=tuple(classes),
            sources=tuple(Path(root, image.name) for image in found.images),
            names=tuple(image.name for image in found.images),
            labels=np.array([number[image.label] for image in found.images], np.int32),
            splits=np.array([str(image.split) for image in found.images]),
            skipped=found.skipped,
            divided=found.divided,
        )

    @classmethod
    def from_sources(cls, sources: Iterable[Any], labels: ArrayLike | None = None) -> Dataset:
        """Makes a dataset of images given one by one; all of them are for training.

        Args:
            sources: N paths, encoded images as bytes, or uint8 arrays (H, W) or (H, W, 3).
            labels: N texts or numbers; sorted, as text, they become the classes. None for images
                without labels, which can only be predicted: no classes, labels of -1.

        Raises:
            DatasetError: no images, lengths that differ, labels that are missing or neither
                all texts nor all numbers, or fewer than two classes.
            SettingsError: an array of another shape or dtype.
        """
        if _is_one_image(sources):
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


def _is_one_image(sources: Any) -> bool:
    if isinstance(sources, str | bytes | bytearray | memoryview | os.PathLike):
        return True
    # Rows of (W, 3) would pass for grey images.
    colour = isinstance(sources, np.ndarray) and sources.ndim == 3 and sources.shape[2] in (3, 4)
    return colour or not isinstance(sources, Iterable)


def _number(labels: ArrayLike) -> tuple[list[str], NDArray[np.intp]]:
    """Returns the sorted classes as text, and each label's place among them."""
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
    return [make_writable(str(name)) for name in classes], numbers


def _check_labels(values: NDArray[Any], given: ArrayLike) -> None:
    if values.dtype.kind not in "biufUTO":
        raise DatasetError(f"labels must be texts or numbers, received {values.dtype}")
    # NumPy makes texts of numbers that lie among them, and "nan" of a missing label.
    objects = np.asarray(given, object) if values.dtype.kind in "UTO" else values
    others = [label for label in objects.tolist() if not isinstance(label, str)]
    if any(label is None or _is_not_finite(label) for label in others):
        raise DatasetError("every image needs a label, received None, NaN or infinity among them")
    if 0 < len(others) < len(objects):
        raise DatasetError(
            f"labels must be all texts or all numbers, received both, such as {others[0]!r}"
        )


def _is_not_finite(label: Any) -> bool:
    return isinstance(label, float | np.floating) and not np.isfinite(label)


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


def _check_class_count(where: str, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise DatasetError(
            f"at least 2 classes are needed, received one in {where}: {', '.join(classes)}. "
            "Each class is a folder with its images in it"
        )


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
