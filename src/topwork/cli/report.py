"""The command report: makes the report of a model again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.cli.app import app
from topwork.cli.options import (
    Json,
    ModelPath,
    Overrides,
    SplitName,
    Store,
    check_split,
    open_model_data,
    open_store,
    print_json,
    with_settings,
)
from topwork.core.errors import DatasetError, ModelError, SettingsError, printable

if TYPE_CHECKING:
    from topwork.data.dataset import Dataset
    from topwork.data.fix_list import Verdicts
    from topwork.models.model import Model
    from topwork.models.predictions import Answers
    from topwork.recipes.progress import Screen


@app.command()
@with_settings(data=True)
def report(
    model: ModelPath,
    columns: dict[str, Any],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            show_default=False,
            help="The labelled images, as for train [those it was trained on, if they are still "
            "there].",
        ),
    ] = None,
    overrides: Overrides = None,
    split: SplitName = "validation",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default=False,
            help="HTML page to write [report.html in MODEL].",
        ),
    ] = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Write a page about a model: its mistakes with pictures, curves, settings, and more."""
    check_split(split)
    page = output or model / "report.html"
    if page.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"output: must end in .html, received {page}")
    from topwork.data.fix_list import read_verdicts
    from topwork.inspection.cache import recall
    from topwork.metrics.scores import describe_report, say_report
    from topwork.models.explain import Explainer
    from topwork.models.folder import load_model
    from topwork.recipes.progress import Screen, make_console
    from topwork.recipes.save import TRIALS_PLOT
    from topwork.reports.report import judge, render_report

    verdicts = None if overrides is None else read_verdicts(overrides)
    loaded = load_model(model)
    folder = open_store(store)
    console = make_console(stderr=as_json)
    with Screen(console) as screen:
        answers = _find_answers(loaded, model, data, columns, split, folder, verdicts, screen)
        at_hand = sum(source is not None for source in answers.sources)
        screen.on_wait("drawing the page")
        trials = model / TRIALS_PLOT
        html = render_report(
            loaded,
            answers,
            title=f"Report of {model.resolve().name}",
            explainer=Explainer(loaded) if at_hand else None,
            inspection=recall(folder, loaded.images.hashes),
            trials_png=trials.read_bytes() if trials.is_file() else None,
        )
    _write(page, html)
    found = judge(loaded, answers).report
    where = f"{split[0].upper()}{split[1:]} images:"
    console.print(say_report(where, found), style="bold")
    if at_hand < len(answers):
        console.print(
            f"{len(answers) - at_hand} of {len(answers)} images are not at hand, and only named in "
            "the page. With DATA there are pictures.",
            style="yellow",
        )
    console.print(f"Page: {printable(page)}", style="bold", soft_wrap=True)
    if as_json:
        print_json(
            {
                "model": str(model),
                "report": str(page),
                "task": str(loaded.task),
                "classes": loaded.classes,
                "split": split,
                "images": len(answers),
                "at_hand": at_hand,
                "seen": answers.seen,
                **describe_report(found),
            }
        )


def _find_answers(
    loaded: Model,
    model: Path,
    data: str | None,
    columns: dict[str, Any],
    split: str,
    folder: Path,
    verdicts: Verdicts | None,
    screen: Screen,
) -> Answers:
    """Returns the answers that were kept, with their images; or new ones."""
    from topwork.models.evaluate import evaluate
    from topwork.models.predictions import load_answers
    from topwork.reports.report import find_sources

    dataset = _open(loaded, data, columns, folder, screen)
    kept = None
    if data is None and verdicts is None and split == "validation":
        # What was measured in training: verdicts on labels are in it.
        kept = load_answers(model, loaded.task)
    if kept is not None:
        return kept if dataset is None else find_sources(kept, dataset)
    if dataset is None:
        raise DatasetError(
            f"the images of {model} are needed for this, and are not where they were"
            f"{_say_place(loaded)}; name them: topwork report MODEL DATA"
        )
    found = evaluate(loaded, dataset, split, folder, verdicts=verdicts, callback=screen)
    return found.answers


def _open(
    loaded: Model, data: str | None, given: dict[str, Any], folder: Path, screen: Screen
) -> Dataset | None:
    """Returns the data that was named, or that the model was made of if it can still be read."""
    if data is not None:
        return open_model_data(loaded, data, given, folder, screen, strict=False)
    place = loaded.making.data if loaded.making else None
    if place is None:
        return None
    try:
        return open_model_data(loaded, place, given, folder, screen, strict=False)
    except (DatasetError, SettingsError):
        if given:
            raise
        # Moved, or on a machine that is out of reach: the kept answers are still there.
        return None


def _say_place(loaded: Model) -> str:
    place = loaded.making.data if loaded.making else None
    return "" if place is None else f", {place}"


def _write(page: Path, html: str) -> None:
    from topwork.core.files import write_file

    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_file(page, lambda file: file.write(html.encode()))
    except OSError as error:
        raise ModelError(
            f"cannot write {page}: {error.strerror or error}; choose another place with -o"
        ) from error
