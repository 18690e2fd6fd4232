"""The recipes report and inspect, from what they found to the files that a person reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from topwork.core.callbacks import Callback
from topwork.core.errors import DatasetError, ModelError, SettingsError
from topwork.core.files import write_file
from topwork.data.dataset import Dataset
from topwork.data.fix_list import Verdicts, write_fix_list
from topwork.inspection.cache import recall
from topwork.inspection.inspect import Inspection
from topwork.models.evaluate import evaluate
from topwork.models.explain import Explainer
from topwork.models.match_data import apply_verdicts
from topwork.models.model import Model
from topwork.models.predictions import LabeledPredictions, load_predictions
from topwork.recipes.open_data import open_model_data
from topwork.recipes.save import TRIALS_PLOT
from topwork.reports.report import find_sources, render_report


def find_answers(
    path: Path,
    model: Model,
    data: str | None,
    columns: dict[str, Any],
    split: str,
    store: Path,
    verdicts: Verdicts | None,
    callback: Callback,
) -> LabeledPredictions:
    """Returns the predictions that were kept with a model, with their images; or new ones.

    Args:
        path: the model's folder.
        model: what is in it.
        data: labelled images; None for those that the model was trained on.
        columns: how they are read, where that is not as the model's were.
        split: which of them.
        store: where vectors are kept.
        verdicts: what the user made of suspects; None for none.
        callback: hears how it gets on.

    Raises:
        DatasetError: images are needed, and not where they were; or they cannot be used.
        SettingsError: an option does not fit the data.
    """
    dataset = _open(model, data, columns, store, callback)
    kept = None
    if data is None and verdicts is None and split == "validation":
        # What was measured in training: verdicts on labels are in it.
        kept = load_predictions(path, model.task)
    if kept is not None:
        return kept if dataset is None else find_sources(kept, dataset)
    if dataset is None:
        where = _find_data(model)
        raise DatasetError(
            f"the images of {path} are needed for this, and are not where they were"
            f"{'' if where is None else f', {where}'}; name them: topwork report MODEL DATA"
        )
    dataset = apply_verdicts(model, dataset, verdicts, callback=callback)
    return evaluate(model, dataset, split, store, callback=callback).predictions


def _open(
    model: Model, data: str | None, columns: dict[str, Any], store: Path, callback: Callback
) -> Dataset | None:
    """Returns the data that was named, or that the model was made of if it can still be read."""
    if data is not None:
        return open_model_data(model, data, columns, store, callback, strict=False)
    where = _find_data(model)
    if where is None:
        return None
    try:
        return open_model_data(model, where, columns, store, callback, strict=False)
    except (DatasetError, SettingsError):
        if columns:
            raise
        # Moved, or on a machine that is out of reach: the kept predictions are still there.
        return None


def _find_data(model: Model) -> str | None:
    return model.provenance.data if model.provenance else None


def render_page(path: Path, model: Model, predictions: LabeledPredictions, store: Path) -> str:
    """Returns the report of a saved model as HTML.

    Args:
        path: the model's folder.
        model: what is in it.
        predictions: what it says of some images; those that are at hand are shown.
        store: where an inspection of its images may be kept.
    """
    at_hand = any(source is not None for source in predictions.sources)
    trials = path / TRIALS_PLOT
    return render_report(
        model,
        predictions,
        title=f"Report of {path.resolve().name}",
        explainer=Explainer(model) if at_hand else None,
        inspection=recall(store, model.images.hashes),
        trials_svg=trials.read_bytes() if trials.is_file() else None,
    )


def write_report(page: Path, html: str) -> None:
    """Writes the page about a model.

    Raises:
        ModelError: it cannot be written.
    """
    try:
        _write_page(page, html)
    except OSError as error:
        raise ModelError(
            f"cannot write {page}: {error.strerror or error}; choose another place with -o"
        ) from error


def write_inspection(found: Inspection, page: Path, fix_list: Path | None) -> int:
    """Writes the page with the findings, and the suspects as CSV.

    Args:
        found: by an inspection.
        page: the HTML file.
        fix_list: the CSV file; None for none.

    Returns:
        How many images there are to judge.

    Raises:
        DatasetError: one of them cannot be written.
    """
    try:
        _write_page(page, found.to_html())
    except OSError as error:
        raise DatasetError(f"cannot write {page}: {error.strerror or error}") from error
    suspects = found.fix_list()
    if fix_list is not None:
        write_fix_list(fix_list, suspects)
    return len(suspects)


def _write_page(page: Path, html: str) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    write_file(page, lambda file: file.write(html.encode()))
