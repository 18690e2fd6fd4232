"""What training made: the model, what it was compared with, and how it is saved."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from topwork.bases import Stack
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Precision
from topwork.core.errors import ModelError
from topwork.core.files import open_scratch
from topwork.core.interrupts import hold_interrupts, interrupt_waits
from topwork.data.listing import Skipped
from topwork.heads.dense import Floats
from topwork.heads.tuning.trials import Trial
from topwork.images.decode import Source
from topwork.metrics.scores import Report, describe_report
from topwork.models.explain import Explainer, See
from topwork.models.folder import KERAS_FILE, PLOT_FILE, REPORT_FILE
from topwork.models.gallery import GALLERY_FILE, write_gallery
from topwork.models.model import Making, Model
from topwork.models.parity import Check, Samples
from topwork.models.predictions import Answers
from topwork.models.save import Core, Saved, add_file, complete, draw_history, save_core
from topwork.reports.report import render_report
from topwork.reports.trial_plot import draw_trials
from topwork.vectors.quantize import Quantization

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
class TrainResult:
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

    def save(
        self,
        path: Path,
        making: Making | None = None,
        callback: Callback = SILENT,
    ) -> Saved:
        """Writes the model folder: first what makes it a model, then what there is to look at.

        Once the first is written nothing costs the model any more: what cannot be checked or
        drawn is a doubt of what is returned. An interrupt waits until then.

        Args:
            path: the folder to make; an older Topwork model there is replaced.
            making: the command that made it.
            callback: hears of it as soon as the model is safe.

        Returns:
            What is known of its files.

        Raises:
            ModelError: the folder is not ours to replace, or the disk is full.
        """
        model = replace(self.model, making=making)
        doubts: list[str] = []
        with ExitStack() as exits:
            # Compiling needs no Python, which has files to write and a curve to draw meanwhile.
            pool = exits.enter_context(ThreadPoolExecutor(2))
            opening = pool.submit(self._explain, model)
            drawing: Future[list[str]] | None = None
            try:
                scratch = exits.enter_context(open_scratch())
                drawing = pool.submit(self._draw, model, path, opening, scratch)
            except OSError as error:
                doubts.append(f"there is no room to draw anything: {error.strerror or error}")
            with hold_interrupts():
                core = save_core(
                    model, self.stack, path, self.samples, self.answers, doubts, interrupt_waits
                )
                callback.on_saved()
            if core.model.members != model.members:
                opening = pool.submit(Explainer, core.model)
                if drawing is not None:
                    drawing.result()  # of a model that was given up
                    drawing = pool.submit(self._draw, core.model, path, opening, scratch)
            saved = self._check(path, core, opening, doubts)
            if drawing is not None:
                doubts += drawing.result()
                doubts += _add_files(path, core, scratch)
            saved = replace(saved, doubts=tuple(doubts))
            complete(path, core, saved)
        return saved

    def _check(
        self, path: Path, core: Core, opening: Future[Explainer], doubts: list[str]
    ) -> Saved:
        """Checks what a model can be saved without."""
        model = core.model
        trained_in = self.model.precision
        check = Check(
            core.stack, model.head, model.task, self.samples, model.interpolation, trained_in
        )
        parity = {}
        if core.agreement is not None:
            parity["openvino"] = core.agreement.difference
        found = check.compare_networks(
            lambda pixels: opening.result().explain_pixels(pixels).logits,
            Precision(model.members[0].local_space.precision),
        )
        if found is not None:
            parity["openvino"] = max(found.difference, parity.get("openvino", 0.0))
        keras = check.compare_keras(path / KERAS_FILE, self.checking)
        if keras is not None:
            parity["keras"] = keras
        doubts += [doubt for doubt in check.doubts if doubt not in doubts]
        return Saved(parity, core.agreement, ())

    def _draw(
        self, model: Model, path: Path, opening: Future[Explainer], folder: Path
    ) -> list[str]:
        """Draws what there is to look at into a folder, and says what could not be drawn."""
        plot = folder / TRIALS_PLOT

        def draw_choice() -> None:
            if len(self.trials) > 1:
                draw_trials(self.trials, model.settings.head_settings(), plot)

        def carry() -> None:
            if self.carried is not None:
                few, target = self.carried, folder / GALLERY_FILE
                self.lost[:] = write_gallery(
                    target, few.names, few.labels, few.sources, few.vectors, most=len(few.names)
                )

        def report() -> None:
            html = render_report(
                model,
                self.answers,
                title=f"Report of {path.absolute().name}",
                explainer=opening.result(),
                inspection=self.inspection,
                trials_png=plot.read_bytes() if plot.exists() else None,
            )
            (folder / REPORT_FILE).write_text(html, encoding="utf-8")

        steps = {
            PLOT_FILE: lambda: draw_history(model, folder / PLOT_FILE),
            TRIALS_PLOT: draw_choice,
            GALLERY_FILE: carry,
            REPORT_FILE: report,
        }
        lost = []
        for name, step in steps.items():
            try:
                step()
            except Exception as error:
                # Half of it may be there.
                (folder / name).unlink(missing_ok=True)
                lost.append(f"{name} could not be made: {str(error) or type(error).__name__}")
        return lost

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


def _add_files(path: Path, core: Core, folder: Path) -> list[str]:
    """Adds all files of a folder to a model, and says what could not be added."""
    lost = []
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        return [f"what was drawn is gone: {error.strerror or error}"]
    for file in files:
        try:
            add_file(path, core, file)
        except (OSError, ModelError) as error:
            reason = getattr(error, "strerror", None) or error
            lost.append(f"{file.name} could not be written: {reason}")
    return lost
