"""The command report: makes the report of a model again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from topwork.cli.app import app
from topwork.cli.options import (
    Json,
    ModelPath,
    Overrides,
    SplitName,
    Store,
    check_page,
    check_split,
    open_store,
    print_json,
    with_settings,
)
from topwork.core.errors import printable

LabelledData = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="The labelled images, as for train [those it was trained on, if they are still "
        "there].",
    ),
]
ReportPage = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default=False,
        help="HTML page to write [report.html in MODEL].",
    ),
]


@app.command()
@with_settings(data=True)
def report(
    model: ModelPath,
    columns: dict[str, Any],
    data: LabelledData = None,
    overrides: Overrides = None,
    split: SplitName = "validation",
    output: ReportPage = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Write a page about a model: its mistakes with pictures, curves, settings, and more."""
    check_split(split)
    page = output or model / "report.html"
    check_page(page)
    from topwork.data.fix_list import read_verdicts
    from topwork.metrics.scores import describe_report, say_report
    from topwork.models.folder import load_model
    from topwork.recipes.console import make_console
    from topwork.recipes.pages import find_answers, render_page, write_report
    from topwork.recipes.progress import Screen
    from topwork.reports.report import judge

    verdicts = None if overrides is None else read_verdicts(overrides)
    loaded = load_model(model)
    folder = open_store(store)
    console = make_console(stderr=as_json)
    with Screen(console) as screen:
        answers = find_answers(model, loaded, data, columns, split, folder, verdicts, screen)
        at_hand = sum(source is not None for source in answers.sources)
        screen.on_wait("drawing the page")
        html = render_page(model, loaded, answers, folder)
    write_report(page, html)
    found = judge(loaded, answers).report
    where = f"{split[0].upper()}{split[1:]} images:"
    console.print(say_report(where, found, loaded.classes), style="bold")
    if answers.unseen_logits is not None:
        console.print(
            "These are answers of the head before it learnt from these images too.", style="dim"
        )
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
