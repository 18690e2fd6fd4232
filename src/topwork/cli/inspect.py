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
    name_after,
    open_data,
    open_store,
    print_json,
    with_settings,
)
from topwork.core.config import Settings
from topwork.core.errors import DatasetError, SettingsError, printable


@app.command()
@with_settings(*VECTOR_SETTINGS, "preset", "seed", data=True)
def inspect(
    data: Data,
    columns: dict[str, Any],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            show_default=False,
            help="HTML page with the findings and small pictures [DATA's name + .inspect.html].",
        ),
    ] = None,
    fix_list: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="CSV of the suspects, with a column for your verdicts; train, tune and evaluate "
            "take it as --overrides.",
        ),
    ] = None,
    overrides: Overrides = None,
    store: Store = None,
    strict: Strict = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Look for what is wrong with labelled images: copies, leakage, labels in doubt, and more."""
    from topwork.cli.show_results import show_inspection
    from topwork.core.files import write_file
    from topwork.data.fix_list import check_fix_list, read_verdicts, write_fix_list
    from topwork.inspection.inspect import inspect as run_inspection
    from topwork.recipes.progress import Screen, make_console

    started = time.perf_counter()
    settings = Settings.create(**values, strict=strict)
    verdicts = None if overrides is None else read_verdicts(overrides)
    if fix_list is not None:
        check_fix_list(fix_list)
    page = output or Path(f"{name_after(data)}.inspect.html")
    if page.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"output: must end in .html, received {page}")
    folder = open_store(store)
    console = make_console(stderr=as_json)
    with Screen(console) as screen:
        dataset = open_data(data, columns, folder, screen, strict=strict)
        found = run_inspection(dataset, settings, folder, screen, verdicts=verdicts)
        screen.on_wait("drawing the page")
        html = found.to_html().encode()
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_file(page, lambda file: file.write(html))
    except OSError as error:
        raise DatasetError(f"cannot write {page}: {error.strerror or error}") from error
    doubts = found.fix_list()
    if fix_list is not None:
        write_fix_list(fix_list, doubts)
    show_inspection(console, found)
    console.print(f"Took {time.perf_counter() - started:.1f} s.")
    console.print(f"Page with pictures: {printable(page)}", style="bold", soft_wrap=True)
    if fix_list is not None:
        many = f"{len(doubts)} image{'' if len(doubts) == 1 else 's'}"
        console.print(f"{many} to judge: {printable(fix_list)}", style="bold", soft_wrap=True)
    if fix_list is not None and doubts:
        command = f"topwork train {quote(printable(data))} --overrides {quote(str(fix_list))}"
        console.print("Next: fill in its column verdict, then", style="bold cyan")
        console.print(f"  {printable(command)}", style="bold cyan", soft_wrap=True)
    if as_json:
        about = {"page": str(page), "fix_list": None if fix_list is None else str(fix_list)}
        print_json(about | found.to_json())
