"""Commands that make a model: train, tune, demo."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.cli.app import app
from topwork.cli.options import (
    ALL_SETTINGS,
    Data,
    Json,
    Output,
    Overrides,
    Store,
    Strict,
    locate_data,
    name_after,
    open_store,
    print_json,
    said_command,
    with_settings,
)
from topwork.core.config import Search, Settings, Tracker
from topwork.core.errors import SettingsError, printable
from topwork.core.leftovers import sweep_beside

if TYPE_CHECKING:
    from topwork.recipes.result import TrainResult

Trials = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Where every head is written down, a JSON object a line; a search that was "
        "interrupted goes on from it [MODEL's name + .trials.jsonl].",
    ),
]
Track = Annotated[
    Tracker | None,
    typer.Option(show_default=False, help="Show every head in this program as well."),
]
TrackTo = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE",
        show_default=False,
        help="Its folder, database or server [MODEL's name + the program's].",
    ),
]


@dataclass(frozen=True)
class _Request:
    """What a command that makes a model is asked for.

    Attributes:
        data: as the user names it.
        columns: how it is read; the given ones of `DataSettings`.
        path: folder to save the model to.
        overrides: file with verdicts on suspects; None for none.
        store: where vectors are kept; None where the user does not say.
        strict: stop at the first image that cannot be used.
        as_json: print JSON on stdout.
    """

    data: str
    columns: dict[str, Any]
    path: Path
    overrides: Path | None
    store: str | None
    strict: bool
    as_json: bool


@app.command()
@with_settings(*ALL_SETTINGS, data=True)
def train(
    data: Data,
    columns: dict[str, Any],
    output: Output = None,
    overrides: Overrides = None,
    store: Store = None,
    strict: Strict = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Train a classifier on labelled images."""
    settings = Settings.create(**values, strict=strict)
    path = output or Path(f"{name_after(data)}.model")
    _train(_Request(data, columns, path, overrides, store, strict, as_json), settings)


def _train(request: _Request, settings: Settings) -> None:
    from topwork.recipes import train as pipeline

    def recipe(dataset: Any, folder: Path, verdicts: Any, screen: Any) -> TrainResult:
        return pipeline.train(
            dataset, settings, folder, verdicts=verdicts, callback=screen, will_save=True
        )

    _make_model(request, recipe)


@app.command()
@with_settings(*ALL_SETTINGS, data=True, plan=True)
def tune(
    data: Data,
    columns: dict[str, Any],
    output: Output = None,
    overrides: Overrides = None,
    trials: Trials = None,
    track: Track = None,
    track_to: TrackTo = None,
    store: Store = None,
    strict: Strict = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Try many ways to train the classifier at once, choose by folds, and save the best.

    What is given as an option stays as it is; all other options of the head are searched.
    """
    from topwork.heads.tuning.trackers import tracked
    from topwork.heads.tuning.trials import Journal
    from topwork.recipes import train as pipeline

    if track_to is not None and track is None:
        raise SettingsError("track_to: say with --track which program is to show the heads")
    plan = Search.create(
        **{name: values.pop(name) for name in [*values] if name in Search.model_fields}
    )
    settings = Settings.create(**values, strict=strict)
    path = output or Path(f"{name_after(data)}.model")
    trials = trials or path.with_name(f"{path.name}.trials.jsonl")
    journal = Journal(trials)

    def recipe(dataset: Any, folder: Path, verdicts: Any, screen: Any) -> TrainResult:
        return pipeline.tune(
            dataset,
            settings,
            folder,
            pipeline.Tuning(plan, frozenset(values), journal),
            verdicts=verdicts,
            callback=screen,
            will_save=True,
        )

    request = _Request(data, columns, path, overrides, store, strict, as_json)
    # Saving is inside: what a server says in the end must not cost the model.
    with tracked(journal, track, track_to or f"{path}.{track}", path.stem):
        _make_model(request, recipe, trials)


def _make_model(
    request: _Request,
    recipe: Callable[[Any, Path, Any, Any], TrainResult],
    trials: Path | None = None,
) -> None:
    """Runs a recipe that makes a model, shows it and saves it.

    Args:
        request: what the command is asked for.
        recipe: makes the model of a dataset, the store's folder, verdicts and a callback.
        trials: file that every head was written to; None for none.
    """
    started = time.perf_counter()
    from rich.text import Text

    from topwork.core.callbacks import Callback
    from topwork.core.interrupts import interrupt_waits
    from topwork.data.fix_list import read_verdicts
    from topwork.data.listing import Split
    from topwork.models.folder import check_target
    from topwork.models.model_facts import Provenance
    from topwork.recipes.console import make_console
    from topwork.recipes.open_data import open_data
    from topwork.recipes.progress import Screen
    from topwork.recipes.show_training import show_trained

    path = request.path
    # What was there before a run was killed may come back.
    sweep_beside(path)
    check_target(path)
    folder = open_store(request.store)
    console = make_console(stderr=request.as_json)
    verdicts = None if request.overrides is None else read_verdicts(request.overrides)
    with Screen(console) as screen:
        dataset = open_data(request.data, request.columns, folder, screen, strict=request.strict)
        trained = recipe(dataset, folder, verdicts, screen)
    saving = time.perf_counter()

    class Ending(Callback):
        """Says that the model is saved, if that is where it ends."""

        def on_saved(self) -> None:
            if interrupt_waits():
                line = f"Model saved in {printable(path)}, without its curves and its report"
                console.print(Text(line, style="bold"), soft_wrap=True)

    provenance = Provenance(command=said_command(), data=locate_data(request.data))
    saved = trained.save(path, provenance, Ending())
    ended = time.perf_counter()
    trained.seconds.update(save=ended - saving, total=ended - started)
    has_test = bool((dataset.splits == Split.TEST).any())
    show_trained(console, trained, saved, path, has_test=has_test, data=request.data, trials=trials)
    if request.as_json:
        print_json({"model": str(path), **trained.to_json(), **saved.to_json()})


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where to write images and model.")
    ] = Path("topwork-demo"),
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Train on 1,797 scans of handwritten digits; needs no network."""
    from topwork.data.demo import write_digits
    from topwork.recipes.console import make_console

    console = make_console(stderr=as_json)
    folder = printable(output / "digits")
    console.print(f"Writing scikit-learn's handwritten digits to {folder}")
    data = write_digits(output / "digits")
    request = _Request(str(data), {}, output / "model", None, store, False, as_json)
    _train(request, Settings.create())
