"""The command inspect: what is wrong with labelled images."""

from __future__ import annotations

import time
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from topwork.cli.app import app
from topwork.cli.options import (
    VECTOR_SETTINGS,
    Data,
    Json,
    Overrides,
    Store,
    Strict,
    check_page,
    name_after,
    open_store,
    print_json,
    with_settings,
)
from topwork.core.config import Settings
from topwork.core.errors import printable

InspectionPage = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default=False,
        help="HTML page with the findings and small pictures [DATA's name + .inspect.html].",
    ),
]
FixList = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="CSV of the suspects, with a column for your verdicts; train, tune and evaluate "
        "take it as --overrides.",
    ),
]


@app.command()
@with_settings(*VECTOR_SETTINGS, "preset", "seed", data=True)
def inspect(
    data: Data,
    columns: dict[str, Any],
    output: InspectionPage = None,
    fix_list: FixList = None,
    overrides: Overrides = None,
    store: Store = None,
    strict: Strict = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Look for what is wrong with labelled images: copies, leakage, labels in doubt, and more."""
    from topwork.cli.show_results import show_inspection
    from topwork.data.fix_list import check_fix_list, read_verdicts
    from topwork.inspection.inspect import inspect as run_inspection
    from topwork.recipes.console import make_console
    from topwork.recipes.open_data import open_data
    from topwork.recipes.pages import write_inspection
    from topwork.recipes.progress import Screen

    started = time.perf_counter()
    settings = Settings.create(**values, strict=strict)
    verdicts = None if overrides is None else read_verdicts(overrides)
    if fix_list is not None:
        check_fix_list(fix_list)
    page = output or Path(f"{name_after(data)}.inspect.html")
    check_page(page)
    folder = open_store(store)
    console = make_console(stderr=as_json)
    with Screen(console) as screen:
        dataset = open_data(data, columns, folder, screen, strict=strict)
        found = run_inspection(dataset, settings, folder, screen, verdicts=verdicts)
        screen.on_wait("drawing the page")
        suspects = write_inspection(found, page, fix_list)
    show_inspection(console, found)
    console.print(f"Took {time.perf_counter() - started:.1f} s.")
    console.print(f"Page with pictures: {printable(page)}", style="bold", soft_wrap=True)
    if fix_list is not None:
        many = f"{suspects} image{'' if suspects == 1 else 's'}"
        console.print(f"{many} to judge: {printable(fix_list)}", style="bold", soft_wrap=True)
    if fix_list is not None and suspects:
        command = f"topwork train {quote(printable(data))} --overrides {quote(str(fix_list))}"
        console.print("Next: fill in its column verdict, then", style="bold cyan")
        console.print(f"  {printable(command)}", style="bold cyan", soft_wrap=True)
    if as_json:
        about = {"page": str(page), "fix_list": None if fix_list is None else str(fix_list)}
        print_json(about | found.to_json())
