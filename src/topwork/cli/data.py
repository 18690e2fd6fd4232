"""Commands that look at data: inspect, neighbours, embed."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from topwork.cli.answers import find_images
from topwork.cli.app import app
from topwork.cli.options import (
    Data,
    Images,
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
from topwork.core.config import Settings, VectorSettings
from topwork.core.errors import DatasetError, SettingsError, printable

VECTOR_SETTINGS = tuple(n for n in VectorSettings.model_fields if n != "views")


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


@app.command()
@with_settings(*VECTOR_SETTINGS, "preset", data=True)
def neighbours(
    known: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|DATA",
            show_default=False,
            help="A trained model, for the images it was trained on; or data as for train, with "
            "or without labels.",
        ),
    ],
    columns: dict[str, Any],
    images: Images,
    count: Annotated[int, typer.Option(help="How many to show for each image.", min=1)] = 5,
    store: Store = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object per image and line on stdout.")
    ] = False,
    **values: Any,
) -> None:
    """Find the images that are most like a given one."""
    from topwork.cli.show_results import show_neighbors
    from topwork.models.folder import load_model
    from topwork.recipes.neighbors import open_index, open_model_index
    from topwork.recipes.progress import Screen, make_console

    settings = Settings.create(**values)
    if known == "-" and "-" in images:
        raise SettingsError("IMAGE: standard input has the data already; name images")
    paths = find_images(images)
    folder = open_store(store)
    console, errors = make_console(stderr=as_json), make_console(stderr=True)
    with Screen(errors) as screen:
        if os.path.isfile(os.path.join(known, "model.json")):  # noqa: PTH113, PTH118 (raises)
            if values or columns:
                name = next(iter(values | columns))
                raise SettingsError(f"{name}: is the model's own; leave it out, or name the data")
            index = open_model_index(load_model(Path(known)), folder)
        else:
            dataset = open_data(known, columns, folder, screen, strict=False, labelled=False)
            index = open_index(dataset, settings, folder, screen)
    good = 0
    for row, found in index.find(paths, count):
        failed = isinstance(found, str)
        good += not failed
        if as_json:
            said = found if isinstance(found, str) else [asdict(one) for one in found]
            print_json({"path": str(paths[row]), "error" if failed else "neighbours": said})
        else:
            show_neighbors(errors if failed else console, paths[row], found)
    if not good:
        raise DatasetError(f"none of the {len(paths)} images could be read")


@app.command()
@with_settings(*VECTOR_SETTINGS, "preset", data=True)
def embed(
    data: Data,
    columns: dict[str, Any],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Parquet file to write.")
    ] = Path("vectors.parquet"),
    store: Store = None,
    strict: Strict = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Write the vectors of images, with names, labels, splits and hashes, as a table."""
    from topwork.recipes import embed as embedding
    from topwork.recipes.progress import Screen, make_console

    embedding.check_table(output)
    settings = Settings.create(**values, strict=strict)
    folder = open_store(store)
    console = make_console(stderr=as_json)
    with Screen(console) as screen:
        dataset = open_data(data, columns, folder, screen, strict=strict, labelled=False)
        found = embedding.embed(dataset, settings, folder, screen)
        screen.on_wait("writing the table")
        embedding.write_vectors(output, found)
    rows, length = found.vectors.values.shape
    console.print(
        f"{rows} vectors of {length} values in {printable(output)}", style="bold", soft_wrap=True
    )
    if as_json:
        skipped = [asdict(item) for item in found.dataset.skipped]
        print_json(
            {"table": str(output), "images": rows, "vector_length": length, "skipped": skipped}
        )
