"""An inspection: everything that looks wrong with a dataset, from pixels, vectors and labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from topwork.core import warm_up
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Settings
from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.apply_fixes import correct
from topwork.data.dataset import Dataset
from topwork.data.fix_list import Doubt, Verdicts, write_label
from topwork.data.hashing import hash_images
from topwork.data.labels import SEPARATOR
from topwork.data.listing import Split
from topwork.heads.dense import Floats
from topwork.images.thumbnails import make_thumbnail
from topwork.inspection.cache import remember
from topwork.inspection.image_issues import find_oddities
from topwork.inspection.image_stats import Measures, measure
from topwork.inspection.issues import Alike, Oddity, Outlier, Shift, Suspect
from topwork.inspection.label_issues import cross_predict, rank_classes, rank_labels, rank_numbers
from topwork.inspection.outliers import find_alike, find_outliers, find_shifts
from topwork.reports.inspection_page import render_page
from topwork.vectors.duplicates import Likeness, Pair, find_duplicates_cached, group_duplicates
from topwork.vectors.embed import embed_images
from topwork.vectors.extractors import make_extractors, prepare_networks
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
    """What was found. Lists are ranked, the worst first; a place is an image's index.

    Attributes:
        dataset: the images that could be used.
        hashes: SHA-256 of each image's bytes, hex.
        measures: sizes, brightness and so on of each image.
        oddities: images that are not like the others, or not as they seem.
        pairs: images that show the same picture.
        suspects: images whose labels the vectors contradict.
        judged: how many images' labels could be compared with the vectors.
        outliers: images that are unlike all others of their class.
        alike: classes that cannot be told apart.
        shifts: what differs between the splits.
        divided_groups: how many groups the data itself divides between splits.
    """

    dataset: Dataset
    hashes: tuple[str, ...]
    measures: Measures
    oddities: tuple[Oddity, ...]
    pairs: tuple[Pair, ...]
    suspects: tuple[Suspect, ...]
    judged: int
    outliers: tuple[Outlier, ...]
    alike: tuple[Alike, ...]
    shifts: tuple[Shift, ...]
    divided_groups: int

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        return self.dataset.label_texts

    @property
    def leaks(self) -> tuple[Pair, ...]:
        """The pairs of images in different splits."""
        splits = self.dataset.splits
        return tuple(pair for pair in self.pairs if splits[pair.first] != splits[pair.second])

    @property
    def contradictions(self) -> tuple[Pair, ...]:
        """The pairs of images with different labels."""
        texts = self._texts
        return tuple(pair for pair in self.pairs if texts[pair.first] != texts[pair.second])

    def to_json(self) -> dict[str, Any]:
        """Returns what `topwork inspect --json` prints; a figure that is not finite is None."""
        dataset, texts = self.dataset, self._texts

        def about(place: int, prefix: str = "") -> dict[str, Any]:
            return {
                f"{prefix}name": dataset.names[place],
                f"{prefix}split": str(dataset.splits[place]),
                f"{prefix}label": texts[place],
            }

        def with_place(found: Any) -> dict[str, Any]:
            return {**_finite(asdict(found)), **about(found.place)}

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
                {"path": dataset.names[place], "reason": reason}
                for place, reason in sorted(measures.failed.items())
            ],
            "oddities": [with_place(found) for found in self.oddities],
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
            "suspects": [with_place(found) for found in self.suspects],
            "outliers": [with_place(found) for found in self.outliers],
            "alike": [_finite(asdict(found)) for found in self.alike],
            "shifts": [_finite(asdict(found)) for found in self.shifts],
            "skipped": [asdict(item) for item in dataset.skipped],
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
        title = f"Inspection of {Path(content['data']).name}"
        return render_page(content, lambda place: make_thumbnail(sources[place]), title)

    def fix_list(self) -> list[Doubt]:
        """Returns the images that need a person's verdict, each once, the most doubtful first.

        Labels in doubt come first; then images in other splits or with other labels that show
        the same picture; then other copies, and outliers. One image of each picture is not
        listed: it stays when all others are dropped.
        """
        rows: dict[int, Doubt] = {}

        def add(place: int, why: str) -> None:
            known = rows.get(place) or self._describe(place)
            rows[place] = replace(known, why=f"{known.why}; {why}" if known.why else why)

        for suspect in self.suspects:
            add(suspect.place, self._say_suspect(suspect))
            self._suggest(rows, suspect)
        for place, why in self._spare_copies():
            add(place, why)
        for outlier in self.outliers:
            add(outlier.place, "unlike all others of its class")
        return list(rows.values())

    def _describe(self, place: int) -> Doubt:
        dataset = self.dataset
        return Doubt(
            image=dataset.names[place],
            sha256=self.hashes[place],
            split=str(dataset.splits[place]),
            label=self._texts[place],
        )

    def _say_suspect(self, suspect: Suspect) -> str:
        if self.dataset.task is not Task.LABELS:
            return f"looks like {suspect.suggested}, not {suspect.given}"
        if suspect.given in self.dataset.classes:
            return f"seems not to be {suspect.given}"
        return f"seems to be {suspect.suggested}"

    def _suggest(self, rows: dict[int, Doubt], suspect: Suspect) -> None:
        """Writes down how doubtful a label is, and the whole label that the image would have."""
        row, task = rows[suspect.place], self.dataset.task
        text = ""
        if task is Task.LABELS:
            # After what other suspects of the same image have suggested.
            text = self._change_labels(row.suggested or row.label, suspect)
        elif task is not Task.NUMBER:
            text = write_label(suspect.suggested)
        score = row.score if row.score is not None else suspect.score
        rows[suspect.place] = replace(row, suggested=text, score=score)

    def _change_labels(self, text: str, suspect: Suspect) -> str:
        present = {*text.split(SEPARATOR)}
        present ^= {suspect.given if suspect.given in self.dataset.classes else suspect.suggested}
        # A separator alone says that there is no label; an empty verdict says nothing.
        return SEPARATOR.join(n for n in self.dataset.classes if n in present) or SEPARATOR

    def _spare_copies(self) -> Iterator[tuple[int, str]]:
        """Yields all images of each picture but one, and of which other image each is a copy."""
        splits, texts = self.dataset.splits, self._texts
        beside: dict[int, list[tuple[int, Likeness]]] = {}
        for pair in self.pairs:
            beside.setdefault(pair.first, []).append((pair.second, pair.likeness))
            beside.setdefault(pair.second, []).append((pair.first, pair.likeness))
        found: list[tuple[bool, list[tuple[int, str]]]] = []
        reached = set[int]()
        # What tests is kept: what is learnt from can be spared.
        for start in sorted(beside, key=lambda place: (splits[place] == Split.TRAIN, place)):
            if start in reached:
                continue
            reached.add(start)
            rows, pending, serious = list[tuple[int, str]](), [start], False
            while pending:
                kept = pending.pop()
                for place, likeness in beside[kept]:
                    if place not in reached:
                        reached.add(place)
                        pending.append(place)
                        rows.append((place, self._say_copy(place, kept, likeness)))
                        serious |= splits[kept] != splits[place] or texts[kept] != texts[place]
            found.append((bool(serious), rows))
        found.sort(key=lambda group: not group[0])
        for _, rows in found:
            yield from rows

    def _say_copy(self, place: int, kept: int, likeness: Likeness) -> str:
        splits, texts = self.dataset.splits, self._texts
        how = {Likeness.SAME: "the same file as", Likeness.MIRRORED: "a mirror image of"}
        why = f"{how.get(likeness, 'the same picture as')} {self.dataset.names[kept]}"
        why += f" in {splits[kept]}" if splits[kept] != splits[place] else ""
        return why + (f", which is {texts[kept] or 'none'}" if texts[kept] != texts[place] else "")


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
    fitted = fit_networks(stack, dataset, settings, store, callback)
    dataset = hash_images(fitted.dataset, settings.strict, callback)
    dataset, vectors = embed_images(
        dataset,
        make_extractors(fitted.stack, fitted.settings, store),
        strict=settings.strict,
        # Neighbours and held-out heads look at all of them, again and again.
        held_bytes=math.inf,
        callback=callback,
    )
    callback.on_embedded(dataset, vectors)
    divided = dataset.divided_groups()
    hashes, values = vectors.hashes, vectors.values[:]
    measures = measure(dataset.sources, hashes, store, callback=callback)
    callback.on_wait("looking for copies")
    pairs = find_duplicates_cached(hashes, values, dataset.sources, store, callback=callback)
    if pairs:
        dataset = dataset.together(group_duplicates(pairs, len(dataset)))
    callback.on_wait("comparing labels with vectors")
    # Only a hint is wanted where there are labels to compare.
    chances = _predict(dataset, values, settings.seed)
    suspects = _rank(dataset, chances)
    one_of = dataset.task in (Task.CLASSES, Task.BINARY)
    good = np.isfinite(np.stack([getattr(measures, name) for name in COMPARED])).all(axis=0)
    found = Inspection(
        dataset=dataset,
        hashes=hashes,
        measures=measures,
        oddities=tuple(find_oddities(measures)),
        pairs=tuple(pairs),
        suspects=tuple(suspects),
        judged=int(np.isfinite(chances).any(axis=1).sum()),
        outliers=tuple(
            find_outliers(values, dataset.labels if one_of else None, count=MOST_OUTLIERS)
        ),
        alike=tuple(find_alike(chances, dataset.labels, dataset.classes) if one_of else ()),
        shifts=tuple(
            shift
            for shift in find_shifts(
                dataset.splits[good],
                dataset.labels[good],
                dataset.classes,
                {name: getattr(measures, name)[good].astype(np.float64) for name in COMPARED},
                dataset.task,
            )
            if shift.distance >= LEAST_SHIFT
        ),
        divided_groups=divided,
    )
    pairs_of = zip(hashes, dataset.splits, strict=True)
    remember(store, (image for image, split in pairs_of if split != Split.TEST), found.summary())
    return found


def _check_labels(dataset: Dataset) -> None:
    """Refuses images without a label.

    Raises:
        DatasetError: with their number.
    """
    if dataset.task is Task.LABELS:
        bare = 0 if dataset.classes else len(dataset)
    else:
        lost = np.isnan(dataset.labels) if dataset.task is Task.NUMBER else dataset.labels < 0
        bare = int(lost.reshape(len(dataset), -1).any(axis=1).sum())
    if bare:
        raise DatasetError(
            f"an inspection needs a label for every image, received {bare} of {len(dataset)} "
            "without one; label them or leave them out"
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


def _predict(dataset: Dataset, vectors: Floats, seed: int) -> Floats:
    """Returns held-out probabilities of all images, groups and copies kept on one side."""
    return cross_predict(
        vectors,
        dataset.targets,
        dataset.task,
        len(dataset.classes),
        folds=FOLDS,
        seed=seed,
        groups=dataset.groups,
    )


def _rank(dataset: Dataset, chances: Floats) -> Sequence[Suspect]:
    match dataset.task:
        case Task.CLASSES | Task.BINARY:
            return rank_classes(chances, dataset.labels, dataset.classes)
        case Task.LABELS:
            return rank_labels(chances, dataset.labels, dataset.classes)
        case Task.NUMBER:
            found = [
                suspect
                for n, name in enumerate(dataset.classes)
                for suspect in rank_numbers(chances[:, n], dataset.labels[:, n], name)
            ]
            return sorted(found, key=lambda suspect: -suspect.score)
