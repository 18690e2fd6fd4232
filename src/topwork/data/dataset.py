"""Labelled images, from wherever they are: sources, labels, groups, splits, what was left out.

No image is read here; one that cannot be decoded is noticed when its vector is made.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import default_store
from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.checks import check_training
from topwork.data.class_labels import ClassLabels
from topwork.data.given_images import take_images
from topwork.data.label_doubts import doubt_labels
from topwork.data.labels import LARGEST, SEPARATOR, number_labels, read_labels
from topwork.data.listing import Listing, Note, Skipped, Split, check_strict, make_writable
from topwork.data.readers.folder import read_folder
from topwork.data.splits import number_groups
from topwork.data.validation import SplitMade, find_units, set_aside
from topwork.images.decode import Source


@dataclass(frozen=True)
class Dataset:
    """Labelled images. N: images, C: classes.

    Attributes:
        root: the folder, table or archive; None for images that were given one by one.
        classes: names of the C classes or labels, sorted; of the C numbers, as given.
        sources: N paths, encoded images in memory, or objects that read them elsewhere.
        names: N names to show: the path within the data, or the index in the list.
        labels: what each image is. One of many or of two: (N,) int32, an index into `classes`,
            -1 for none. Many labels: (N, C) bool. Numbers: (N, C) float64.
        splits: (N,) of `train`, `validation` or `test`.
        skipped: what was left out.
        split_made: how the validation split was made; None if it was in the data.
        divided: whether the data itself is divided into splits.
        task: what the labels mean.
        groups: (N,) int64, equal for images that must not be divided; None without groups.
        copies: (N,) int64, equal for images that show nearly the same picture, if there are any.
        weights: (N,) float32, how much each counts in training; None where all count the same.
        hashes: SHA-256 of each image's bytes, hex; None until they were read.
        traits: (N,) uint8, of each image's pixels, see `images.traits`; None likewise.
        read_as: how a table was read, and what its labels mean; None where nothing was said.
        class_labels: the classes as Python was given them; None where that is by their names.
        notes: what was guessed of the data.
    """

    root: Path | str | None
    classes: tuple[str, ...]
    sources: tuple[Source, ...]
    names: tuple[str, ...]
    labels: NDArray[Any]
    splits: NDArray[np.str_]
    skipped: tuple[Skipped, ...] = ()
    split_made: SplitMade | None = None
    divided: bool = False
    task: Task = Task.CLASSES
    groups: NDArray[np.int64] | None = None
    copies: NDArray[np.int64] | None = None
    weights: NDArray[np.float32] | None = None
    hashes: tuple[str, ...] | None = None
    traits: NDArray[np.uint8] | None = None
    read_as: DataSettings | None = None
    class_labels: ClassLabels | None = None
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.sources)

    def __repr__(self) -> str:
        where = f"{len(self)} images" + (f" of {self.root}" if self.root is not None else "")
        outputs = {Task.LABELS: "labels", Task.NUMBER: "numbers"}.get(self.task, "classes")
        left_out = f", {len(self.skipped)} left out" if self.skipped else ""
        return f"<Dataset: {where}, {len(self.classes)} {outputs}, {self.split_sizes()}{left_out}>"

    @property
    def targets(self) -> NDArray[Any]:
        """What a head learns: (N,) int32 for one class of many, else (N, outputs) float32."""
        match self.task:
            case Task.CLASSES:
                return self.labels
            case Task.BINARY:
                return self.labels[:, None].astype(np.float32)
            case Task.LABELS | Task.NUMBER:
                return self.labels.astype(np.float32)

    @property
    def outputs(self) -> int:
        """How many logits a head has: one for two classes, else one for each class or number."""
        return 1 if self.task is Task.BINARY else len(self.classes)

    @property
    def sources_by_name(self) -> dict[str, Source]:
        """The sources by name, with names written as a saved model has them."""
        return dict(zip(map(make_writable, self.names), self.sources, strict=True))

    @property
    def label_texts(self) -> tuple[str, ...]:
        """Each image's label as text, (N,); many labels with `|` between them."""
        match self.task:
            case Task.CLASSES | Task.BINARY:
                names = (*self.classes, "")  # label -1, for none, is the last
                return tuple(names[label] for label in self.labels.tolist())
            case Task.LABELS:
                return tuple(
                    SEPARATOR.join(self.classes[n] for n in np.flatnonzero(row))
                    for row in self.labels
                )
            case Task.NUMBER:
                # 15 digits tell any two numbers of a table apart; an empty text is no label.
                rows = (["" if math.isnan(x) else f"{x:.15g}" for x in row] for row in self.labels)
                return tuple(SEPARATOR.join(row) for row in rows)

    @classmethod
    def open(
        cls,
        location: Path | str,
        *,
        strict: bool = False,
        labelled: bool = True,
        cache: Path | None = None,
        callback: Callback = SILENT,
        **columns: Any,
    ) -> Dataset:
        """Reads labelled images from wherever they are.

        Args:
            location: a folder (see `from_folder`); a table of paths and labels (CSV, JSON lines,
                Parquet), or a folder without class folders that holds one; a folder that Hugging
                Face `datasets` saved; a zip or tar file of any of these; `-` for a table on
                standard input; or the URL of any of them.
            strict: raise at the first file or row that cannot be used, instead of leaving it out.
            labelled: whether every image needs a label.
            cache: folder for what comes from other machines or has to be unpacked; None for
                one in the user's cache.
            callback: `on_received` is called with the number of bytes that came from other
                machines, now and when images are read; from any thread.
            columns: fields of `DataSettings`: how a table is read, and what its labels mean.

        Raises:
            DatasetError: nothing can be read there, or it contradicts itself.
            SettingsError: an option is wrong, or a package for such data is missing.
        """
        from topwork.data.readers.reading import read_data

        settings = DataSettings.create(**columns)
        listing = read_data(
            str(location),
            settings,
            cache or default_store(),
            strict=strict,
            labelled=labelled,
            callback=callback,
        )
        return cls.from_listing(listing, settings, strict=strict)

    @classmethod
    def from_folder(cls, path: Path | str, *, strict: bool = False) -> Dataset:
        """Indexes a folder with one folder per class, or with split folders that hold those.

        Split folders are named like `train`, `validation` and `test`; see `split_names`.
        Images may lie any number of folders deep within their class. Folders whose names look
        the same, whichever way their accents are encoded, are one class.

        Args:
            path: the folder.
            strict: raise at the first file that is not an image, instead of leaving it out.

        Raises:
            DatasetError: there is no such folder, it holds no images, its splits contradict
                each other, or its folders may be classes as well as splits.
        """
        listing = read_folder(Path(path), strict)
        return replace(cls.from_listing(listing, DataSettings.create()), root=Path(path))

    @classmethod
    def from_listing(
        cls,
        listing: Listing,
        settings: DataSettings,
        *,
        strict: bool = False,
    ) -> Dataset:
        """Turns the labels that a reader found into classes, sets of labels or numbers.

        Args:
            listing: at least one image.
            settings: what the labels mean.
            strict: raise at the first label that cannot be used.

        Raises:
            DatasetError: labels of which none fits.
        """
        task, classes, labels, bad = read_labels(listing, settings)
        for n, weight in enumerate(listing.weights or ()):
            if weight > LARGEST:
                bad.setdefault(n, f"its weight {weight:g} is too large")
        lost = tuple(Skipped(listing.where(n), reason) for n, reason in sorted(bad.items()))
        check_strict(lost, strict)
        if len(bad) == len(listing.names):
            raise DatasetError(f"{lost[0].path}: {lost[0].reason}; so are all others")
        dataset = cls(
            root=listing.root,
            classes=classes,
            sources=tuple(listing.sources),
            names=tuple(listing.names),
            labels=labels,
            splits=np.array(list(map(str, listing.splits or [Split.TRAIN] * len(labels)))),
            skipped=listing.skipped,
            divided=listing.splits is not None,
            task=task,
            read_as=settings,
            groups=None if listing.groups is None else number_groups(listing.groups),
            notes=listing.notes + doubt_labels(task, classes, guessed=settings.task is None),
            weights=None
            if listing.weights is None
            else np.minimum(listing.weights, LARGEST).astype(np.float32),
        )
        if not bad:
            return dataset
        kept = np.ones(len(dataset), bool)
        kept[list(bad)] = False
        return replace(dataset.select(kept), skipped=listing.skipped + lost)

    @classmethod
    def from_sources(
        cls, sources: Iterable[Any], labels: Any = None, *, task: Task | str | None = None
    ) -> Dataset:
        """Makes a dataset of images given one by one; all of them are for training.

        Args:
            sources: N paths, bytes, images of Pillow, or arrays (H, W) or (H, W, 3) RGB, uint8.
            labels: N texts or numbers, or a column of them (N, 1); sorted, as text, they become
                the classes. N lists of texts, or an array or a frame (N, C) of 0 and 1, for many
                labels at once. None for images without labels, which can only be predicted: no
                classes, labels of -1.
            task: what the labels mean; None to tell by their form. `number` for numbers (N,) or
                (N, C) that are to be estimated.

        Raises:
            DatasetError: no images, lengths that differ, or labels that are missing or neither
                all texts nor all numbers.
            SettingsError: an array of another shape or dtype, or there is no such task.
        """
        read = take_images(sources)
        found = number_labels(labels, DataSettings.create(task=task).task, len(read))
        return cls(
            root=None,
            classes=found.classes,
            sources=read,
            names=tuple(
                str(source) if isinstance(source, Path) else f"image {index}"
                for index, source in enumerate(read)
            ),
            labels=found.labels,
            splits=np.full(len(read), str(Split.TRAIN)),
            task=found.task,
            class_labels=found.class_labels,
            notes=doubt_labels(found.task, found.classes, guessed=False),
        )

    @classmethod
    def from_huggingface(cls, data: Any, **columns: Any) -> Dataset:
        """Takes the images of a `Dataset` or `DatasetDict` of Hugging Face's `datasets`.

        Args:
            data: with a column of images, and one of labels.
            columns: fields of `DataSettings`.

        Raises:
            DatasetError: there is no such column, or nothing in it can be used.
        """
        from topwork.data.readers.arrow_folder import read_arrow_object

        settings = DataSettings.create(**columns)
        listing = read_arrow_object(data, settings, strict=False, labelled=True)
        return cls.from_listing(listing, settings)

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns the number of images by split and class name; absent pairs count 0.

        An image of many labels counts for each. Numbers have no classes: `all` counts them.
        """
        found: dict[str, dict[str, int]] = {}
        for split in Split:
            rows = self.labels[self.splits == split]
            if self.task is Task.NUMBER:
                found[str(split)] = {"all": len(rows)}
                continue
            if self.task is Task.LABELS:
                counts = rows.sum(axis=0)
            else:
                counts = np.bincount(rows[rows >= 0], minlength=len(self.classes))
            found[str(split)] = dict(zip(self.classes, counts.tolist(), strict=True))
        return found

    def divided_groups(self) -> int:
        """Returns how many groups have images in more than one split, which flatters scores."""
        if self.groups is None:
            return 0
        pairs = {*zip(self.groups.tolist(), self.splits.tolist(), strict=True)}
        return sum(count > 1 for count in Counter(group for group, _ in pairs).values())

    def split_sizes(self) -> dict[str, int]:
        """Returns the number of images of each split that has any."""
        sizes = {str(split): int((self.splits == split).sum()) for split in Split}
        return {split: size for split, size in sizes.items() if size}

    def select(self, chosen: NDArray[np.bool_]) -> Dataset:
        """Returns the images where `chosen` (N,) is true; the classes stay as they are."""
        indices = np.flatnonzero(chosen)
        return replace(
            self,
            sources=tuple(self.sources[i] for i in indices),
            names=tuple(self.names[i] for i in indices),
            labels=self.labels[indices],
            splits=self.splits[indices],
            groups=None if self.groups is None else self.groups[indices],
            copies=None if self.copies is None else self.copies[indices],
            weights=None if self.weights is None else self.weights[indices],
            hashes=None if self.hashes is None else tuple(self.hashes[i] for i in indices),
            traits=None if self.traits is None else self.traits[indices],
        )

    def drop(self, reasons: Mapping[int, str]) -> Dataset:
        """Returns the dataset without some images, which are then in `skipped`.

        Args:
            reasons: why, by the image's index.
        """
        kept = np.ones(len(self), bool)
        kept[list(reasons)] = False
        left_out = tuple(Skipped(self.names[n], reason) for n, reason in sorted(reasons.items()))
        return replace(self.select(kept), skipped=self.skipped + left_out)

    def check_training(self) -> None:
        """Raises `DatasetError` if nothing can be trained on this; see `checks`."""
        check_training(self)

    def units(self, least: int) -> NDArray[np.int64] | None:
        """Returns what a division must keep on one side, (N,); see `validation.find_units`."""
        return find_units(self, least)

    def with_validation(self, fraction: float, seed: int) -> Dataset:
        """Returns a dataset that can be trained on: with images to train and to validate.

        Without a validation split, a stratified share of the training images becomes one. Groups
        are not divided, and near copies only where a class would be on one side alone. A class
        with a single image, or group, keeps it for training.

        Args:
            fraction: of the training images, above 0 and below 1.
            seed: the same seed divides the same dataset in the same way.

        Raises:
            DatasetError: no training images, a class that only validation or test has, or too
                few images to divide.
        """
        self.check_training()
        return set_aside(self, fraction, seed)
