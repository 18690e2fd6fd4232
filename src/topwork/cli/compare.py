"""The command compare: models tested on the same images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.cli.app import app
from topwork.cli.options import (
    Json,
    SplitName,
    Store,
    Strict,
    check_split,
    open_store,
    print_json,
    with_settings,
)
from topwork.core.errors import SettingsError, counted, printable
from topwork.core.task import Task

if TYPE_CHECKING:
    from rich.console import Console

    from topwork.models.compare import Comparison, Difference, ModelResult

SHOWN_IMAGES = 3
# Of a terminal's 80 columns, what a model's name may take.
LONGEST_NAME = 24


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
    from topwork.recipes.console import make_console
    from topwork.recipes.open_data import open_model_data
    from topwork.recipes.progress import Screen
    from topwork.recipes.show_training import show_skipped

    class Quiet(Screen):
        """Shows bars alone: what there is to say is the same for every model."""

        def on_embedded(self, dataset: Any, vectors: Any) -> None:
            self._stop()

    names = name_models(models)
    loaded = [load_model(path) for path in models]
    comparison.check_models(loaded, names)
    first = loaded[0]
    data = data or first.find_data()
    folder = open_store(store)
    console = make_console(stderr=as_json)
    with Quiet(console) as screen:
        dataset = open_model_data(first, data, columns, folder, screen, strict=strict)
        found = comparison.compare(
            loaded, names, dataset, split, folder, strict=strict, callback=screen
        )
    show_skipped(console, found.skipped)
    show_comparison(console, found)
    if as_json:
        print_json({"data": data, **found.to_json()})


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

    for result in found.results:
        if result.predictions.seen and found.split in ("test", "all"):
            line = (
                f"{printable(result.name)} was trained or chosen on {result.predictions.seen} of "
                "these images: its figures are too good to be honest"
            )
            console.print(Text(line), style="bold yellow")
    if found.split in ("validation", "train"):
        line = f"Models are trained or chosen on {found.split} images: the figures are too good"
        console.print(Text(line), style="yellow")
    if found.split == "validation":
        for result in found.results:
            if result.model.data.refitted:
                line = f"{printable(result.name)} learnt from them in the end: it is far too good"
                console.print(Text(line), style="bold yellow")
    console.print(Text(f"{counted(len(found), f'{found.split} image')}"), style="bold")
    _show_figures(console, found)
    for difference in found.differences:
        _show_difference(console, found, difference)


def _show_figures(console: Console, found: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    from topwork.metrics.scores import say_number

    results = found.results
    number = results[0].model.task is Task.NUMBER
    say = say_number if number else "{:.1%}".format
    names = {
        Task.NUMBER: ("mean abs. error", "R²", "r2"),
        Task.LABELS: ("accuracy", "macro F1", "macro_f1"),
    }
    metric, second, key = names.get(results[0].model.task, ("accuracy", "macro", "macro_accuracy"))
    figures = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    figures.add_column("model", overflow="ellipsis", no_wrap=True, max_width=LONGEST_NAME)
    for title in (metric, "95 % interval", second, *([] if number else ["calib. error"])):
        figures.add_column(title, justify="right")
    for result in results:
        low, high = result.report.interval
        row = [say(result.report.value), f"{say(low)} to {say(high)}"]
        figure = result.report.figures[key]
        said = f"{figure:.1%}" if key == "macro_accuracy" else f"{figure:.3f}"
        # A macro average is none where some classes have no images.
        row.append("–" if math.isnan(figure) else said)
        if result.calibration_error is not None:
            row.append(f"{result.calibration_error:.3f}")
        figures.add_row(Text(printable(result.name)), *row)
    console.print(figures)
    console.print()
    nature = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    nature.add_column("model", overflow="ellipsis", no_wrap=True, max_width=LONGEST_NAME)
    nature.add_column("base, size", overflow="fold")
    for title in ("vector", "parameters"):
        nature.add_column(title, justify="right")
    for result in results:
        nature.add_row(Text(printable(result.name)), *_describe_nature(result))
    console.print(nature)


def _describe_nature(result: ModelResult) -> list[str]:
    bases = result.model.bases
    names = " + ".join(f"{base.space.base} {base.space.image_size} px" for base in bases)
    return [names, str(result.model.vector_length), f"{sum(base.parameters for base in bases):,}"]


def _show_difference(console: Console, found: Comparison, one: Difference) -> None:
    """Prints what a model does better or worse than the first, and on which images."""
    from rich.text import Text

    first, other = found.results[0], found.results[one.other]
    console.print()
    title = f"{printable(other.name)} against {printable(first.name)}"
    console.print(Text(title), style="bold")
    console.print(Text(say_difference(found, one)), style="green" if one.certain else "")
    kinds = [("better", [odd for odd in one.disagreements if odd.gain > 0])]
    kinds += [("worse", [odd for odd in one.disagreements if odd.gain < 0])]
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

    first = found.results[0]
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
    said += (
        f" on {counted(one.better, 'image')} where the other is not, and the reverse on "
        f"{one.worse}. "
    )
    share = "p < 0.001" if one.p_value < 0.001 else f"p = {one.p_value:.3f}"
    many = len(found.differences)
    corrected = f", corrected for {many} comparisons" if many > 1 else ""
    tested = f"({share}, {one.test}{corrected})"
    if one.certain:
        better = (one.value > 0) != (task is Task.NUMBER)
        return said + f"That is {'better' if better else 'worse'} by more than chance {tested}."
    return said + f"That could be chance {tested}."
