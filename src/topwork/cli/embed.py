"""Commands about vectors: neighbours, embed."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from topwork.cli.app import app
from topwork.cli.options import (
    VECTOR_SETTINGS,
    Data,
    Images,
    Json,
    Store,
    Strict,
    find_images,
    open_store,
    print_json,
    with_settings,
)
from topwork.core.config import Settings
from topwork.core.errors import DatasetError, SettingsError, printable


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
    from topwork.recipes.console import make_console
    from topwork.recipes.neighbors import open_index, open_model_index
    from topwork.recipes.open_data import open_data
    from topwork.recipes.progress import Screen

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
    from topwork.recipes.console import make_console
    from topwork.recipes.open_data import open_data
    from topwork.recipes.progress import Screen

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
