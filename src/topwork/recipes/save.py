"""What training made is saved: first what makes it a model, then what there is to look at."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Precision
from topwork.core.errors import ModelError
from topwork.core.files import open_scratch
from topwork.core.interrupts import hold_interrupts, interrupt_waits
from topwork.data.listing import Skipped
from topwork.models.checks.saved import ModelChecker
from topwork.models.explain import Explainer
from topwork.models.folder import KERAS_FILE, PLOT_FILE, REPORT_FILE
from topwork.models.gallery import GALLERY_FILE, write_gallery
from topwork.models.model import Model
from topwork.models.model_facts import Provenance
from topwork.models.save import (
    SavedModel,
    SaveReport,
    add_file,
    complete,
    save_model,
)
from topwork.reports.history_plot import draw_history
from topwork.reports.report import render_report
from topwork.reports.trial_plot import draw_trials

if TYPE_CHECKING:
    from topwork.recipes.result import TrainResult

TRIALS_PLOT = "tuning.svg"


def save_result(
    result: TrainResult,
    path: Path,
    provenance: Provenance | None = None,
    callback: Callback = SILENT,
) -> SaveReport:
    """Writes the model folder: first what makes it a model, then what there is to look at.

    Once the first is written nothing costs the model any more: what cannot be checked or
    drawn is a warning in what is returned. An interrupt waits until then.

    Args:
        result: what training made.
        path: the folder to make; an older Topwork model there is replaced.
        provenance: the command that made it.
        callback: hears of it as soon as the model is safe.

    Returns:
        What is known of its files.

    Raises:
        ModelError: the folder is not ours to replace, or the disk is full.
    """
    model = replace(result.model, provenance=provenance)
    warnings: list[str] = []
    with ExitStack() as exits:
        # Compiling needs no Python, which has files to write and a curve to draw meanwhile.
        pool = exits.enter_context(ThreadPoolExecutor(2))
        explainer = pool.submit(_open_explainer, model, result)
        drawing = None
        try:
            drawing = _Drawing(result, path, exits.enter_context(open_scratch()))
            drawing.begin(pool, model, explainer)
        except OSError as error:
            warnings.append(f"there is no room to draw anything: {error.strerror or error}")
        images, predictions = result.checks.images, result.predictions
        with hold_interrupts():
            saved = save_model(
                model, result.stack, path, images, predictions, warnings, interrupt_waits
            )
            callback.on_saved()
        if saved.model.bases != model.bases:
            explainer = pool.submit(Explainer, saved.model)
            if drawing is not None:
                drawing.begin(pool, saved.model, explainer)
        report = _check_files(result, path, saved, explainer)
        if drawing is not None:
            drawing.wait()
            missing = [*drawing.warnings, *_add_files(path, saved, drawing.folder)]
            report = replace(
                report, warnings=(*report.warnings, *missing), lost=tuple(drawing.lost)
            )
        complete(path, saved, report)
    return report


def _open_explainer(model: Model, result: TrainResult) -> Explainer:
    opening = result.checks.opening
    return Explainer(model, None if opening is None else opening.result())


def _check_files(
    result: TrainResult, path: Path, saved: SavedModel, explainer: Future[Explainer]
) -> SaveReport:
    """Checks what a model can be saved without."""
    model, checks = saved.model, result.checks
    trained_in = result.model.precision
    checker = ModelChecker(
        saved.stack,
        model.head,
        model.task,
        checks.images,
        model.interpolation,
        model.ranges,
        trained_in,
    )
    parity = {}
    if saved.agreement is not None:
        parity["openvino"] = saved.agreement.difference
    found = checker.compare_networks(
        lambda pixels: explainer.result().explain_pixels(pixels).logits,
        Precision(model.bases[0].local_space.precision),
    )
    if found is not None:
        parity["openvino"] = max(found.difference, parity.get("openvino", 0.0))
    keras = checker.compare_keras(path / KERAS_FILE, checks.checking)
    if keras is not None:
        parity["keras"] = keras
    drift = checker.compare_precision(checks.sample)
    warnings = tuple(dict.fromkeys((*saved.warnings, *checker.warnings)))
    return SaveReport(parity, saved.agreement, warnings, drift=drift)


class _Drawing:
    """Files to look at: drawn beside the checks, each by itself, so that none costs another.

    Attributes:
        folder: where they are drawn.
        warnings: what could not be drawn, in words.
        lost: images that could no longer be read.
    """

    def __init__(self, result: TrainResult, path: Path, folder: Path) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        self.lost: list[Skipped] = []
        self._result = result
        self._title = f"Report of {path.absolute().name}"
        self._work: Future[None] | None = None

    def begin(self, pool: ThreadPoolExecutor, model: Model, explainer: Future[Explainer]) -> None:
        """Draws in a thread; what was drawn of a model that was given up is drawn again."""
        self.wait()
        self.warnings, self.lost = [], []
        self._work = pool.submit(self._draw, model, explainer)

    def wait(self) -> None:
        """Waits until everything is drawn."""
        if self._work is not None:
            self._work.result()

    def _draw(self, model: Model, explainer: Future[Explainer]) -> None:
        steps: dict[str, Callable[[Path], None]] = {
            PLOT_FILE: lambda path: draw_history(model, path),
            TRIALS_PLOT: lambda path: self._draw_trials(model, path),
            GALLERY_FILE: self._write_gallery,
            REPORT_FILE: lambda path: self._write_report(model, explainer, path),
        }
        for name, step in steps.items():
            path = self.folder / name
            try:
                step(path)
            except Exception as error:
                # Half of it may be there.
                path.unlink(missing_ok=True)
                reason = str(error) or type(error).__name__
                self.warnings.append(f"{name} could not be made: {reason}")

    def _draw_trials(self, model: Model, path: Path) -> None:
        if len(self._result.trials) > 1:
            draw_trials(self._result.trials, model.settings.head_settings(), path)

    def _write_gallery(self, path: Path) -> None:
        images = self._result.extras.gallery
        if images is not None:
            self.lost += write_gallery(
                path, *images, most=len(images.names), ranges=self._result.model.ranges
            )

    def _write_report(self, model: Model, explainer: Future[Explainer], path: Path) -> None:
        plot = self.folder / TRIALS_PLOT
        html = render_report(
            model,
            self._result.predictions,
            title=self._title,
            explainer=explainer.result(),
            inspection=self._result.extras.inspection,
            trials_svg=plot.read_bytes() if plot.exists() else None,
        )
        path.write_text(html, encoding="utf-8")


def _add_files(path: Path, saved: SavedModel, folder: Path) -> list[str]:
    """Adds all files of a folder to a model, and says what could not be added."""
    lost = []
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        return [f"what was drawn is gone: {error.strerror or error}"]
    for file in files:
        try:
            add_file(path, saved, file)
        except (OSError, ModelError) as error:
            reason = getattr(error, "strerror", None) or error
            lost.append(f"{file.name} could not be written: {reason}")
    return lost
