"""Commands that look into models: explain, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.cli.answers import find_images
from topwork.cli.app import app
from topwork.cli.options import (
    Images,
    Json,
    ModelPath,
    SplitName,
    Store,
    Strict,
    check_split,
    open_model_data,
    open_store,
    print_json,
    with_settings,
)
from topwork.core.errors import DatasetError, ImageError, SettingsError, printable
from topwork.core.task import Task

if TYPE_CHECKING:
    from rich.console import Console

    from topwork.models.compare import Comparison, Difference, Entry

ENDING = ".explain.png"
SHOWN_IMAGES = 3
# Of a terminal's 80 columns, what a model's name may take.
LONGEST_NAME = 24


@app.command()
def explain(
    model: ModelPath,
    images: Images,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PLACE",
            show_default=False,
            help="PNG to write; for several images the folder of their PNGs [image's name + "
            ".explain.png, in the working directory].",
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            show_default=False,
            help="Class, label or number to explain; may be given several times [the top ones].",
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="How many of the most probable to explain.", min=1)] = 3,
    strict: Strict = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print a JSON object per image and line, with the maps."),
    ] = False,
) -> None:
    """Show which places of an image speak for a class and which against it."""
    from topwork.cli.show_results import show_prediction
    from topwork.models import evaluate as evaluation
    from topwork.models import explain as explaining
    from topwork.models.folder import load_model
    from topwork.recipes.progress import make_console

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
            answers = asked or explaining.rank_answers(found, top)
            explaining.draw(found, path, loaded.classes, answers, picture, path.name)
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
            about = explaining.describe(found, loaded.classes, answers)
            print_json({"path": str(path), "picture": str(picture)} | about)
        else:
            said = dict(evaluation.answer(loaded, found.predictions, top))
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


@app.command()
@with_settings(data=True)
def compare(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...",
            show_default=False,
            help="Folders of trained models; each is compared with the first.",
        ),
    ],
    columns: dict[str, Any],
    *,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            show_default=False,
            help="Labelled images, as for train [those that the first model was trained on].",
        ),
    ] = None,
    split: SplitName = "test",
    store: Store = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Test models on the same images, and say whether they differ by more than chance."""
    check_split(split)
    from topwork.models import compare as comparison
    from topwork.models.folder import load_model
    from topwork.recipes.progress import Screen, make_console
    from topwork.recipes.show_training import show_skipped

    class Quiet(Screen):
        """Shows bars alone: what there is to say is the same for every model."""

        def on_embedded(self, dataset: Any, vectors: Any) -> None:
            self._stop()

    names = name_models(models)
    loaded = [load_model(path) for path in models]
    comparison.check_models(loaded, names)
    first = loaded[0]
    place = data or first.find_data()
    folder = open_store(store)
    console = make_console(stderr=as_json)
    with Quiet(console) as screen:
        dataset = open_model_data(first, place, columns, folder, screen, strict=strict)
        found = comparison.compare(
            loaded, names, dataset, split, folder, strict=strict, callback=screen
        )
    show_skipped(console, found.skipped)
    show_comparison(console, found)
    if as_json:
        print_json({"data": place, **found.to_json()})


def name_models(paths: list[Path]) -> list[str]:
    """Returns a name for each model: its folder's, or its path where others have that name."""
    names = [path.absolute().name for path in paths]
    names = [
        name if names.count(name) == 1 else str(path)
        for name, path in zip(names, paths, strict=True)
    ]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SettingsError(f"compare: each model once, received {twice[0]} several times")
    return names


def show_comparison(console: Console, found: Comparison) -> None:
    """Prints the models, a row each, and what is to be said of each difference."""
    from rich.text import Text

    from topwork.core.errors import counted

    for entry in found.entries:
        if entry.answers.seen and found.split in ("test", "all"):
            line = (
                f"{printable(entry.name)} was trained or chosen on {entry.answers.seen} of these "
                "images: its figures are too good to be honest"
            )
            console.print(Text(line), style="bold yellow")
    if found.split in ("validation", "train"):
        line = f"Models are trained or chosen on {found.split} images: the figures are too good"
        console.print(Text(line), style="yellow")
    console.print(Text(f"{counted(len(found), f'{found.split} image')}"), style="bold")
    _show_figures(console, found)
    for difference in found.differences:
        _show_difference(console, found, difference)


def _show_figures(console: Console, found: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    from topwork.metrics.scores import say_number

    entries = found.entries
    number = entries[0].model.task is Task.NUMBER
    say = say_number if number else "{:.1%}".format
    names = {
        Task.NUMBER: ("mean abs. error", "R²", "r2"),
        Task.LABELS: ("accuracy", "macro F1", "macro_f1"),
    }
    metric, second, key = names.get(entries[0].model.task, ("accuracy", "macro", "macro_accuracy"))
    figures = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    figures.add_column("model", overflow="ellipsis", no_wrap=True, max_width=LONGEST_NAME)
    for title in (metric, "95 % interval", second, *([] if number else ["calib. error"])):
        figures.add_column(title, justify="right")
    for entry in entries:
        low, high = entry.report.interval
        row = [say(entry.report.value), f"{say(low)} to {say(high)}"]
        row.append(
            f"{entry.report.figures[key]:.3f}"
            if key != "macro_accuracy"
            else f"{entry.report.figures[key]:.1%}"
        )
        if entry.calibration_error is not None:
            row.append(f"{entry.calibration_error:.3f}")
        figures.add_row(Text(printable(entry.name)), *row)
    console.print(figures)
    console.print()
    nature = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    nature.add_column("model", overflow="ellipsis", no_wrap=True, max_width=LONGEST_NAME)
    nature.add_column("base, size", overflow="fold")
    for title in ("vector", "parameters"):
        nature.add_column(title, justify="right")
    for entry in entries:
        nature.add_row(Text(printable(entry.name)), *_describe_nature(entry))
    console.print(nature)


def _describe_nature(entry: Entry) -> list[str]:
    members = entry.model.members
    bases = " + ".join(f"{m.space.base} {m.space.image_size} px" for m in members)
    return [bases, str(entry.model.vector_length), f"{sum(m.parameters for m in members):,}"]


def _show_difference(console: Console, found: Comparison, one: Difference) -> None:
    """Prints what a model does better or worse than the first, and on which images."""
    from rich.text import Text

    first, other = found.entries[0], found.entries[one.other]
    console.print()
    title = f"{printable(other.name)} against {printable(first.name)}"
    console.print(Text(title), style="bold")
    console.print(Text(say_difference(found, one)), style="green" if one.certain else "")
    kinds = [("better", [odd for odd in one.odd if odd.gain > 0])]
    kinds += [("worse", [odd for odd in one.odd if odd.gain < 0])]
    for kind, odds in kinds:
        for odd in odds[:SHOWN_IMAGES]:
            lines = (
                f"  {kind}: {odd.name}",
                f"    {odd.truth}; {other.name}: {odd.other}; {first.name}: {odd.first}",
            )
            for line in lines:
                text = Text(printable(line), style="dim")
                console.print(text, overflow="ellipsis", no_wrap=True)
    rest = sum(max(0, len(odds) - SHOWN_IMAGES) for _, odds in kinds)
    if rest:
        console.print(f"  and {rest} more; --json lists them all", style="dim")


def say_difference(found: Comparison, one: Difference) -> str:
    """Says a difference, and whether it could be chance, in a few sentences."""
    from topwork.metrics.scores import say_number

    first = found.entries[0]
    task, classes = first.model.task, first.model.classes
    low, high = one.interval
    if task is Task.NUMBER:
        unit = " standard deviations" if len(classes) > 1 else ""
        value, low_, high_ = (
            f"{'+' if v > 0 else ''}{say_number(v)}" for v in (one.value, low, high)
        )
        said = f"Error {value}{unit}, 95 % interval {low_} to {high_}; nearer"
    else:
        said = (
            f"{100 * one.value:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}; "
            + ("right" if task is not Task.LABELS else "more decisions right")
        )
    said += f" on {one.better} images where the other is not, and the reverse on {one.worse}. "
    share = "p < 0.001" if one.p_value < 0.001 else f"p = {one.p_value:.3f}"
    many = len(found.differences)
    corrected = f", corrected for {many} comparisons" if many > 1 else ""
    tested = f"({share}, {one.test}{corrected})"
    if one.certain:
        better = (one.value > 0) != (task is Task.NUMBER)
        return said + f"That is {'better' if better else 'worse'} by more than chance {tested}."
    return said + f"That could be chance {tested}."
