"""The command explain: which places of an image speak for a class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topwork.cli.app import app
from topwork.cli.options import (
    Images,
    ModelPath,
    Strict,
    find_images,
    print_json,
)
from topwork.core.errors import DatasetError, ImageError, SettingsError, printable
from topwork.core.task import Task

ENDING = ".explain.png"


PictureOutput = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PLACE",
        show_default=False,
        help="PNG to write; for several images the folder of their PNGs [image's name + "
        ".explain.png, in the working directory].",
    ),
]
AskedClasses = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        metavar="NAME",
        show_default=False,
        help="Class, label or number to explain; may be given several times [the top ones].",
    ),
]
Top = Annotated[int, typer.Option(help="How many of the most probable to explain.", min=1)]
JsonLines = Annotated[
    bool, typer.Option("--json", help="Print a JSON object per image and line, with the maps.")
]


@app.command()
def explain(
    model: ModelPath,
    images: Images,
    output: PictureOutput = None,
    classes: AskedClasses = None,
    top: Top = 3,
    strict: Strict = False,
    as_json: JsonLines = False,
) -> None:
    """Show which places of an image speak for a class and which against it."""
    from topwork.cli.show_results import show_prediction
    from topwork.models import explain as explaining
    from topwork.models.answers import answer
    from topwork.models.folder import load_model
    from topwork.recipes.console import make_console

    paths = find_images(images)
    loaded = load_model(model)
    asked = explaining.find_answers(loaded, classes or [])
    pictures = name_pictures(paths, output)
    explainer = explaining.Explainer(loaded)
    console, errors = make_console(stderr=False), make_console(stderr=True)
    good = 0
    for path, picture in zip(paths, pictures, strict=True):
        try:
            found = explainer.explain(path)
            predictions = asked or explaining.rank_answers(found, top)
            explaining.draw(
                found, path, loaded.classes, predictions, picture, path.name, loaded.ranges
            )
        except ImageError as error:
            if strict:
                raise DatasetError(f"{path}: {error}; mend it, or leave out --strict") from error
            failed = {"error": str(error)}
            if as_json:
                print_json({"path": str(path)} | failed)
            else:
                show_prediction(errors, path, failed)
            continue
        except OSError as error:
            raise DatasetError(f"cannot write {picture}: {error.strerror or error}") from error
        good += 1
        if as_json:
            about = explaining.describe(found, loaded.classes, predictions)
            print_json({"path": str(path), "picture": str(picture)} | about)
        else:
            said = dict(answer(loaded, found.predictions, top))
            show_prediction(console, path, said[0])
            console.print(f"  maps: {printable(picture)}", style="bold", soft_wrap=True)
    if not good:
        raise DatasetError(f"none of the {len(paths)} images could be read")
    if not as_json:
        what = "number" if loaded.task is Task.NUMBER else "logit"
        console.print(f"{explaining.say_exactness(loaded.head.linear, what)}.", style="dim")


def name_pictures(paths: list[Path], output: Path | None) -> list[Path]:
    """Returns where the picture of each image goes; folders are made.

    Raises:
        SettingsError: a file there is not a picture of ours, or there is no place for it.
    """
    from topwork.models.heatmap import is_ours

    single = len(paths) == 1 and output is not None and not output.is_dir()
    if single and output is not None:
        if output.suffix.lower() != ".png":
            raise SettingsError(f"output: must end in .png, or be a folder; received {output}")
        pictures = [output]
    else:
        folder = output or Path()
        if folder.suffix.lower() == ".png" and not folder.is_dir():
            raise SettingsError(
                f"output: must be a folder for {len(paths)} images, received {output}"
            )
        taken: set[str] = set()
        pictures = [folder / _name_picture(path, taken) for path in paths]
    for picture in pictures:
        if picture.exists() and not is_ours(picture):
            raise SettingsError(
                f"output: {picture} exists and is not a picture of topwork explain; choose another "
                "place with -o, or move it"
            )
    folder = pictures[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"output: cannot make the folder {folder}: {error.strerror or error}"
        ) from error
    return pictures


def _name_picture(path: Path, taken: set[str]) -> str:
    """Returns a name that no other image's picture has, on any file system."""
    name, number = f"{path.stem}{ENDING}", 2
    while name.casefold() in taken:
        name, number = f"{path.stem}-{number}{ENDING}", number + 1
    taken.add(name.casefold())
    return name
