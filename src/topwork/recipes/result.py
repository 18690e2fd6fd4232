"""What training made: the model, what it was compared with, and what it is saved with."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from topwork.bases import Stack
from topwork.core.arrays import Floats32
from topwork.core.callbacks import SILENT, Callback
from topwork.data.listing import Note, Skipped
from topwork.heads.tuning.trials import Trial
from topwork.images.decode import Source
from topwork.metrics.scores import Report, describe_report
from topwork.models.checks.images import CheckImages
from topwork.models.explain import See
from topwork.models.model import Model
from topwork.models.model_facts import Provenance
from topwork.models.predictions import LabeledPredictions
from topwork.models.save import SaveReport
from topwork.recipes.save import save_result
from topwork.vectors.quantize import Quantization


class GalleryImages(NamedTuple):
    """Training images that a saved model carries, to show those that are like an image.

    Attributes:
        names: N names.
        labels: N labels as text.
        sources: N images.
        vectors: (N, D) float32.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    sources: tuple[Source, ...]
    vectors: Floats32


@dataclass(frozen=True)
class ImageCounts:
    """What became of the images.

    Attributes:
        embedded: vectors that were made now.
        reused: vectors that were there already.
        skipped: files that were left out, with the reasons.
        notes: what was guessed of the data, or is doubtful about it.
    """

    embedded: int
    reused: int
    skipped: tuple[Skipped, ...]
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Checks:
    """What a saved model is checked with.

    Attributes:
        images: a few of its images and their vectors.
        sample: enough of its validation images to tell how many answers a precision changes.
        opening: its networks, being compiled for the report's maps, if that was begun.
        checking: the check that stock Keras opens its networks, if that was begun.
    """

    images: CheckImages
    sample: CheckImages
    opening: Future[list[See]] | None = None
    checking: Future[float] | None = None


@dataclass(frozen=True)
class Extras:
    """What is saved beside a model, to be looked at.

    Attributes:
        gallery: images that it carries small pictures of; None for none.
        inspection: what an inspection of the same images found, if there was one.
    """

    gallery: GalleryImages | None
    inspection: dict[str, Any] | None


@dataclass(frozen=True)
class TrainResult:
    """What training made, and how long it took.

    Attributes:
        model: the model.
        stack: its networks, as built for their sizes.
        report: the kept epoch on the validation split.
        predictions: what the model says of its validation images.
        trials: what was compared to choose the head; none if nothing was.
        images: how many were used, and which were not.
        seconds: wall time of `vectors`, `search` and `head`; the caller may add `save` and
            `total`.
        quantization: what int8 costs; None for another precision.
        checks: what the saved model is checked with.
        extras: what is saved beside the model.
        went_on_from: how many epochs were asked for, where it went on to more; else None.
    """

    model: Model
    stack: Stack
    report: Report
    predictions: LabeledPredictions
    trials: tuple[Trial, ...]
    images: ImageCounts
    seconds: dict[str, float]
    quantization: Quantization | None
    checks: Checks
    extras: Extras
    went_on_from: int | None = None

    def save(
        self, path: Path, provenance: Provenance | None = None, callback: Callback = SILENT
    ) -> SaveReport:
        """Writes the model folder, as `save_result` does."""
        return save_result(self, path, provenance, callback)

    def to_json(self) -> dict[str, Any]:
        """Returns what `topwork train --json` prints, besides the model's path."""
        report, history = self.report, self.model.history
        found = history.overfitting()
        chosen = self.model.search
        return {
            "task": str(self.model.task),
            "settings": self.model.settings.model_dump(mode="json"),
            "classes": self.model.classes,
            **history.to_json(),
            "overfitting": None if found is None else asdict(found),
            "validation": describe_report(report),
            "refitted": self.model.data.refitted,
            "search": chosen.model_dump(mode="json") if chosen else None,
            "calibration": self.model.calibration.to_json(),
            "quantization": self.quantization.to_json() if self.quantization else None,
            "images": {
                "embedded": self.images.embedded,
                "reused": self.images.reused,
                "skipped": len(self.images.skipped),
            },
            "skipped": [asdict(item) for item in self.images.skipped],
            "notes": [note.text for note in self.images.notes],
            "seconds": self.seconds,
        }
