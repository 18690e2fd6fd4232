"""An inspection: everything that looks wrong with a dataset, from pixels, vectors and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from topwork.core import warm_up
from topwork.core.arrays import Floats32
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Settings
from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.apply_fixes import correct
from topwork.data.checks import count_unlabelled
from topwork.data.dataset import Dataset
from topwork.data.fix_list import FixListRow, Verdicts
from topwork.data.listing import Split
from topwork.data.pixel_kinds import settle_pixels
from topwork.images.thumbnails import make_thumbnail
from topwork.inspection.cache import remember
from topwork.inspection.image_issues import find_image_issues
from topwork.inspection.image_stats import ImageStats, measure
from topwork.inspection.issues import ClassOverlap, ImageIssue, LabelIssue, Outlier, Shift
from topwork.inspection.label_issues import cross_predict, rank_classes, rank_labels, rank_numbers
from topwork.inspection.outliers import find_class_overlaps, find_outliers, find_shifts
from topwork.inspection.verdict_rows import list_verdict_rows
from topwork.reports.inspection_page import render_page
from topwork.vectors.duplicates import Pair, group_duplicates
from topwork.vectors.embed import embed_images
from topwork.vectors.extractors import make_extractors, prepare_networks
from topwork.vectors.known_duplicates import find_duplicates_cached
from topwork.vectors.quantize import fit_networks

FOLDS = 5
MOST_OUTLIERS = 50
# Of each list, for a report of a model.
REMEMBERED = 5
# Measures whose distribution is compared between splits.
COMPARED = ("width", "height", "brightness", "contrast", "sharpness")
# A difference may be beyond chance and too small to matter.
LEAST_SHIFT = 0.1


@dataclass(frozen=True)
class Inspection:
    """What was found. Lists are ranked, the worst first.

    Attributes:
        dataset: the images that could be used.
        hashes: SHA-256 of each image's bytes, hex.
        measures: sizes, brightness and so on of each image.
        image_issues: images that are not like the others, or not as they seem.
        pairs: images that show the same picture.
        label_issues: images whose labels the vectors contradict.
        judged: how many images' labels could be compared with the vectors.
        outliers: images that are unlike all others of their class.
        class_overlaps: classes that cannot be told apart.
        shifts: what differs between the splits.
        divided_groups: how many groups the data itself divides between splits.
        ranges: which values are black and white in images of more than 8 bits; see `core.ranges`.
    """

    dataset: Dataset
    hashes: tuple[str, ...]
    measures: ImageStats
    image_issues: tuple[ImageIssue, ...]
    pairs: tuple[Pair, ...]
    label_issues: tuple[LabelIssue, ...]
    judged: int
    outliers: tuple[Outlier, ...]
    class_overlaps: tuple[ClassOverlap, ...]
    shifts: tuple[Shift, ...]
    divided_groups: int
    ranges: str = ""

    @cached_property
    def label_texts(self) -> tuple[str, ...]:
        """The label of each image, as text."""
        return self.dataset.label_texts

    @property
    def leaks(self) -> tuple[Pair, ...]:
        """The pairs of images in different splits."""
        splits = self.dataset.splits
        return tuple(pair for pair in self.pairs if splits[pair.first] != splits[pair.second])

    @property
    def contradictions(self) -> tuple[Pair, ...]:
        """The pairs of images with different labels."""
        texts = self.label_texts
        return tuple(pair for pair in self.pairs if texts[pair.first] != texts[pair.second])

    def to_json(self) -> dict[str, Any]:
        """Returns what `topwork inspect --json` prints; a figure that is not finite is None."""
        dataset, texts = self.dataset, self.label_texts

        def about(index: int, prefix: str = "") -> dict[str, Any]:
            return {
                f"{prefix}name": dataset.names[index],
                f"{prefix}split": str(dataset.splits[index]),
                f"{prefix}label": texts[index],
            }

        def with_name(found: ImageIssue | LabelIssue | Outlier) -> dict[str, Any]:
            figures = _finite(asdict(found))
            return {"place": figures.pop("index"), **figures, **about(found.index)}

        leaks = {id(pair) for pair in self.leaks}
        measures = self.measures
        return {
            "data": str(dataset.root or "images"),
            "task": str(dataset.task),
            "images": len(dataset),
            "classes": list(dataset.classes),
            "counts": dataset.counts(),
            "measures": {name: _finite(getattr(measures, name).tolist()) for name in COMPARED},
            "unmeasured": [
                {"path": dataset.names[index], "reason": reason}
                for index, reason in sorted(measures.failed.items())
            ],
            "oddities": [with_name(found) for found in self.image_issues],
            "pairs": [
                {"first": pair.first, **about(pair.first, "first_")}
                | {"second": pair.second, **about(pair.second, "second_")}
                | {
                    "likeness": str(pair.likeness),
                    "similarity": pair.similarity,
                    "leak": id(pair) in leaks,
                }
                for pair in self.pairs
            ],
            "divided_groups": self.divided_groups,
            "judged": self.judged,
            "suspects": [with_name(found) for found in self.label_issues],
            "outliers": [with_name(found) for found in self.outliers],
            "alike": [_finite(asdict(found)) for found in self.class_overlaps],
            "shifts": [_finite(asdict(found)) for found in self.shifts],
            "skipped": [asdict(item) for item in dataset.skipped],
            "notes": [note.text for note in dataset.notes],
        }

    def summary(self) -> dict[str, Any]:
        """Returns counts and the worst few of each list: what a report of a model shows."""
        content = self.to_json()
        texts = {
            "leaks": [_say_pair(pair) for pair in content["pairs"] if pair["leak"]],
            "pairs": [_say_pair(pair) for pair in content["pairs"] if not pair["leak"]],
            "suspects": [
                f"{row['name']}: {row['given']}, looks like {row['suggested']}"
                for row in content["suspects"]
            ],
            "alike": [
                f"{row['first']} and {row['second']}: {row['error']:.0%} mistaken"
                for row in content["alike"]
            ],
            "shifts": [
                f"{row['split']}, {row['what']}: {row['detail']}" for row in content["shifts"]
            ],
            "outliers": [f"{row['name']}: {row['label']}" for row in content["outliers"]],
            "oddities": [
                f"{row['name']}: {row['kind']}, {row['detail']}" for row in content["oddities"]
            ],
            "skipped": [f"{row['path']}: {row['reason']}" for row in content["skipped"]],
        }
        return {
            "data": content["data"],
            "images": content["images"],
            "findings": {
                name: {"count": len(rows), "worst": rows[:REMEMBERED]}
                for name, rows in texts.items()
            },
        }

    def to_html(self) -> str:
        """Returns one page that needs nothing else, with small pictures of what is named."""
        sources = self.dataset.sources
        content = self.to_json()

        def draw(index: int) -> bytes:
            return make_thumbnail(sources[index], ranges=self.ranges)

        title = f"Inspection of {Path(content['data']).name}"
        return render_page(content, draw, title)

    def fix_list(self) -> list[FixListRow]:
        """Returns the images that need a person's verdict, as `verdict_rows` lists them."""
        return list_verdict_rows(self)


def inspect(
    dataset: Dataset,
    settings: Settings,
    store: Path,
    callback: Callback = SILENT,
    *,
    verdicts: Verdicts | None = None,
) -> Inspection:
    """Looks at a dataset for what is wrong with it.

    Args:
        dataset: images with labels, divided or not; all splits are looked at.
        settings: the base; its vectors are those that `train` makes with the same settings.
        store: where vectors, figures and networks are kept.
        callback: hears how it gets on.
        verdicts: what the user made of suspects before, applied first.

    Raises:
        TopworkError: any of its kinds; see `errors`.
    """
    _check_labels(dataset)
    warm_up.inspecting()
    if verdicts is not None:
        dataset, correction = correct(dataset, verdicts, strict=settings.strict, callback=callback)
        callback.on_corrected(correction)
    callback.on_found(dataset)
    callback.on_wait(f"preparing {settings.base}")
    stack = prepare_networks(settings, store)
    dataset, settings = settle_pixels(dataset, settings, callback, store)
    fitted = fit_networks(stack, dataset, settings, store, callback)
    dataset, vectors = embed_images(
        fitted.dataset,
        make_extractors(fitted.stack, fitted.settings, store),
        strict=settings.strict,
        # Neighbours and held-out heads look at all of them, again and again.
        held_bytes=math.inf,
        callback=callback,
    )
    callback.on_embedded(dataset, vectors)
    found = _look_at(dataset, vectors.hashes, vectors.values[:], settings, store, callback)
    hashes = zip(found.hashes, found.dataset.splits, strict=True)
    remember(store, (image for image, split in hashes if split != Split.TEST), found.summary())
    return found


def _look_at(
    dataset: Dataset,
    hashes: tuple[str, ...],
    vectors: Floats32,
    settings: Settings,
    store: Path,
    callback: Callback,
) -> Inspection:
    """Finds all that is wrong with images whose vectors are known."""
    divided, ranges = dataset.divided_groups(), settings.range or ""
    measures = measure(dataset.sources, hashes, store, ranges=ranges, callback=callback)
    callback.on_wait("looking for copies")
    pairs = find_duplicates_cached(
        hashes, vectors, dataset.sources, store, ranges=ranges, callback=callback
    )
    if pairs:
        dataset = replace(dataset, copies=group_duplicates(pairs, len(dataset)))
    callback.on_wait("comparing labels with vectors")
    chances = _predict(dataset, vectors, settings.seed)
    picks_one, labels = dataset.task.picks_one, dataset.labels
    compared = picks_one and not _has_one_class(dataset)
    overlaps = find_class_overlaps(chances, labels, dataset.classes) if compared else []
    outliers = find_outliers(vectors, labels if picks_one else None, count=MOST_OUTLIERS)
    return Inspection(
        dataset=dataset,
        hashes=hashes,
        measures=measures,
        ranges=ranges,
        image_issues=tuple(find_image_issues(measures)),
        pairs=tuple(pairs),
        label_issues=() if _has_one_class(dataset) else tuple(_rank(dataset, chances)),
        judged=int(np.isfinite(chances).any(axis=1).sum()),
        outliers=tuple(outliers),
        class_overlaps=tuple(overlaps),
        shifts=tuple(_compare_splits(dataset, measures)),
        divided_groups=divided,
    )


def _compare_splits(dataset: Dataset, measures: ImageStats) -> list[Shift]:
    """Returns what differs between the splits by more than chance, and enough to matter."""
    figures = {name: getattr(measures, name) for name in COMPARED}
    known = np.isfinite(np.stack(list(figures.values()))).all(axis=0)
    shifts = find_shifts(
        dataset.splits[known],
        dataset.labels[known],
        dataset.classes,
        {name: values[known].astype(np.float64) for name, values in figures.items()},
        dataset.task,
    )
    return [shift for shift in shifts if shift.distance >= LEAST_SHIFT]


def _check_labels(dataset: Dataset) -> None:
    """Refuses images without a label.

    Raises:
        DatasetError: with their number.
    """
    unlabelled = count_unlabelled(dataset)
    if unlabelled:
        raise DatasetError(
            f"an inspection needs a label for every image, received {unlabelled} of "
            f"{len(dataset)} without one; label them or leave them out"
        )


def _say_pair(pair: dict[str, Any]) -> str:
    return f"{pair['first_name']} and {pair['second_name']}"


def _finite(value: Any) -> Any:
    """Returns figures with None for those that are not finite: JSON has no number for them."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _predict(dataset: Dataset, vectors: Floats32, seed: int) -> Floats32:
    """Returns held-out probabilities of all images, groups and copies kept on one side.

    With a single class there is nothing to compare: NaN.
    """
    if _has_one_class(dataset):
        return np.full((len(dataset), len(dataset.classes)), np.nan, np.float32)
    return cross_predict(
        vectors,
        dataset.targets,
        dataset.task,
        len(dataset.classes),
        folds=FOLDS,
        seed=seed,
        groups=dataset.units(2),
    )


def _has_one_class(dataset: Dataset) -> bool:
    return dataset.task.picks_one and len(dataset.classes) < 2


def _rank(dataset: Dataset, chances: Floats32) -> Sequence[LabelIssue]:
    match dataset.task:
        case Task.CLASSES | Task.BINARY:
            return rank_classes(chances, dataset.labels, dataset.classes)
        case Task.LABELS:
            return rank_labels(chances, dataset.labels, dataset.classes)
        case Task.NUMBER:
            found = [
                issue
                for n, name in enumerate(dataset.classes)
                for issue in rank_numbers(chances[:, n], dataset.labels[:, n], name)
            ]
            return sorted(found, key=lambda issue: -issue.score)
