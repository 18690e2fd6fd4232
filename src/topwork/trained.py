"""What training made: the model, what it was compared with, and how it is saved."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from topwork.answers import Answers
from topwork.bases import Stack
from topwork.bundle import REPORT_FILE, save_model
from topwork.explain import Explainer, See
from topwork.gallery import GALLERY_FILE, write_gallery
from topwork.heads import Floats
from topwork.images import Source
from topwork.listing import Skipped
from topwork.metrics import Report, describe_report
from topwork.model import (
    Making,
    Model,
)
from topwork.parity import Pixels, Samples
from topwork.quantization import Quantization
from topwork.report import render_report
from topwork.trial_plot import draw_trials
from topwork.trials import Trial

TRIALS_PLOT = "tuning.png"


@dataclass(frozen=True)
class Carried:
    """Training images to be shown beside those that are like them.

    Attributes:
        names: N names.
        labels: N labels as text.
        sources: N images.
        vectors: (N, D) float32.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    sources: tuple[Source, ...]
    vectors: Floats


@dataclass(frozen=True)
class Trained:
    """What `train` made, and how long it took.

    Attributes:
        model: the model.
        stack: its networks, as built for their sizes.
        samples: a few of its images and their vectors, to check a saved model with.
        answers: what it says of its validation images.
        carried: images that the saved model carries small pictures of.
        inspection: what an inspection of the same images found, if there was one.
        report: the kept epoch on the validation split.
        trials: what was compared to choose the head; none if nothing was.
        embedded: images run through a base.
        reused: images whose vectors were there already.
        skipped: files that were left out, with the reasons.
        seconds: wall time of `vectors`, `search` and `head`; the caller may add `save` and
            `total`.
        quantization: what int8 costs; None for another precision.
        opening: its networks, being compiled for the report's maps, if that was begun.
        checking: the check that stock Keras opens its networks, if that was begun.
        lost: images to be carried that could no longer be read when the model was saved.
    """

    model: Model
    stack: Stack
    samples: Samples
    answers: Answers
    carried: Carried | None
    inspection: dict[str, Any] | None
    report: Report
    trials: tuple[Trial, ...]
    embedded: int
    reused: int
    skipped: tuple[Skipped, ...]
    seconds: dict[str, float]
    quantization: Quantization | None = None
    opening: Future[list[See]] | None = None
    checking: Future[float] | None = None
    lost: list[Skipped] = field(default_factory=list)

    def save(self, path: Path, making: Making | None = None) -> dict[str, float]:
        """Writes the model folder; see `bundle.save_model`.

        Args:
            path: the folder to make.
            making: the command that made it.
        """
        model = replace(self.model, making=making)

        def add(folder: Path) -> None:
            plot = folder / TRIALS_PLOT
            if len(self.trials) > 1:
                draw_trials(self.trials, model.settings.head_settings(), plot)
            if self.carried is not None:
                few = self.carried
                self.lost[:] = write_gallery(
                    folder / GALLERY_FILE,
                    few.names,
                    few.labels,
                    few.sources,
                    few.vectors,
                    most=len(few.names),
                )
            html = render_report(
                model,
                self.answers,
                title=f"Report of {path.absolute().name}",
                explainer=opening.result(),
                inspection=self.inspection,
                trials_png=plot.read_bytes() if plot.exists() else None,
            )
            (folder / REPORT_FILE).write_text(html, encoding="utf-8")

        def answer(pixels: dict[int, Pixels]) -> Floats:
            return opening.result().explain_pixels(pixels).logits

        # Compiling needs no Python, which has files to write and a curve to draw meanwhile.
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(self._explain, model)
            return save_model(
                model, self.stack, path, self.samples, self.answers, answer, self.checking, add
            )

    def _explain(self, model: Model) -> Explainer:
        return Explainer(model, self.opening.result() if self.opening else None)

    def to_json(self) -> dict[str, Any]:
        """Returns what `topwork train --json` prints, besides the model's path."""
        report, history = self.report, self.model.history
        found = history.overfitting()
        chosen = self.model.search
        sureness = self.model.calibration
        return {
            "task": str(self.model.task),
            "settings": self.model.settings.model_dump(mode="json"),
            "classes": self.model.classes,
            **history.to_json(),
            "overfitting": None if found is None else asdict(found),
            "validation": describe_report(report),
            "search": chosen.model_dump(mode="json") if chosen else None,
            "calibration": sureness.to_json(),
            "quantization": self.quantization.to_json() if self.quantization else None,
            "images": {
                "embedded": self.embedded,
                "reused": self.reused,
                "skipped": len(self.skipped),
            },
            "skipped": [asdict(item) for item in self.skipped],
            "seconds": self.seconds,
        }
