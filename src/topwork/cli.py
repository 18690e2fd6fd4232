"""The command line: parse, call, print, exit code. Everything else is imported when needed."""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.config import AUTO, Search, Settings, Tracker, default_store
from topwork.errors import DatasetError, SettingsError, TopworkError, printable

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from topwork.model import Predictions
    from topwork.pipeline import Trained

INTERRUPTED = 130
KEYWORD = inspect.Parameter.KEYWORD_ONLY
# `strict` has an option of its own, that other commands share.
ALL_SETTINGS = ("preset", *(n for n in Settings.model_fields if n not in ("preset", "strict")))
METAVARS = {
    "base": "NAME",
    "weights": "FILE",
    "learning_rate": "RATE",
    "penalty": "PENALTY",
    "budget": "BUDGET",
}
UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="Folder with one folder per class, or with train/, validation/ and test/ folders.",
    ),
]
ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", show_default=False, help="Folder of a trained model.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="MODEL", help="Folder to save to [DATA's name + .model]."
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="Where vectors and built networks are kept [$TOPWORK_STORE, or the user's cache].",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, the rest on stderr.")]
AbstainBelow = Annotated[
    float | None,
    typer.Option(
        metavar="P", help="Say `not sure` where the top probability is below P, 0 to 1 [never]."
    ),
]
Coverage = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Give sets of labels that hold the true one for this share of images, such as 0.95 "
        "[no sets].",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help=Settings.model_fields["strict"].description)]


def with_settings(
    *names: str, plan: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command an option for each of these settings, as `config` defines them.

    The command takes as `**values` those that were given on the command line.

    Args:
        names: of fields of `Settings`.
        plan: whether to add those of `Search` too.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        fields = {name: Settings.model_fields[name] for name in names}
        fields |= Search.model_fields if plan else {}
        options = [_make_option(name, field) for name, field in fields.items()]
        context = inspect.Parameter("context", KEYWORD, annotation=typer.Context)

        @functools.wraps(command)
        def run(context: typer.Context, **values: Any) -> None:
            given = {
                name: value
                for name, value in values.items()
                if name not in fields or _is_given(context, name)
            }
            command(**given)

        parameters = [p.replace(kind=KEYWORD) for p in (context, *own, *options)]
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _make_option(name: str, field: FieldInfo) -> inspect.Parameter:
    kind: Any = field.annotation
    flag = f"--{name.replace('_', '-')}"
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=field.description,
        show_default=field.default is not None and kind is not bool,
        metavar=METAVARS.get(name),
    )
    # A number that may be left to auto is read as text, and checked with the others.
    taken = str if type(field.default) is str and field.default == AUTO else kind
    return inspect.Parameter(
        name, KEYWORD, default=field.default, annotation=Annotated[taken, option]
    )


@app.callback()
def topwork() -> None:
    """Graft a new classifier onto a network pretrained on ImageNet.

    Start with: topwork train DATA
    """


@app.command()
@with_settings(*ALL_SETTINGS)
def train(
    data: Data,
    output: Output = None,
    store: Store = None,
    strict: Strict = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Train a classifier on a folder of labelled images."""
    settings = Settings.create(**values, strict=strict)
    _train(data, output or _name_model(data), settings, store, as_json)


def _train(data: Path, path: Path, settings: Settings, store: Path | None, as_json: bool) -> None:
    from topwork import pipeline

    def recipe(dataset: Any, folder: Path, screen: Any) -> Trained:
        return pipeline.train(dataset, settings, folder, screen)

    _make_model(data, path, settings.strict, store, as_json, recipe)


@app.command()
@with_settings(*ALL_SETTINGS, plan=True)
def tune(
    data: Data,
    output: Output = None,
    trials: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Where every head is written down, a JSON object a line; a search that was "
            "interrupted goes on from it [MODEL's name + .trials.jsonl].",
        ),
    ] = None,
    track: Annotated[
        Tracker | None,
        typer.Option(show_default=False, help="Show every head in this program as well."),
    ] = None,
    track_to: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            show_default=False,
            help="Its folder, database or server [MODEL's name + the program's].",
        ),
    ] = None,
    store: Store = None,
    strict: Strict = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Try many ways to train the classifier at once, choose by folds, and save the best.

    What is given as an option stays as it is; all other options of the head are searched.
    """
    from topwork import pipeline
    from topwork.tracking import tracked
    from topwork.trials import Journal

    if track_to is not None and track is None:
        raise SettingsError("track_to: say with --track which program is to show the heads")
    plan = Search.create(
        **{name: values.pop(name) for name in [*values] if name in Search.model_fields}
    )
    settings = Settings.create(**values, strict=strict)
    path = output or _name_model(data)
    trials = trials or path.with_name(f"{path.name}.trials.jsonl")
    journal = Journal(trials)

    def recipe(dataset: Any, folder: Path, screen: Any) -> Trained:
        return pipeline.tune(
            dataset,
            settings,
            folder,
            plan=plan,
            pinned=frozenset(values),
            journal=journal,
            listener=screen,
        )

    # Saving is inside: what a server says in the end must not cost the model.
    with tracked(journal, track, track_to or f"{path}.{track}", path.stem):
        _make_model(data, path, strict, store, as_json, recipe, trials)


def _make_model(
    data: Path,
    path: Path,
    strict: bool,
    store: Path | None,
    as_json: bool,
    recipe: Callable[[Any, Path, Any], Trained],
    trials: Path | None = None,
) -> None:
    """Runs a recipe that makes a model, shows it and saves it."""
    started = time.perf_counter()
    from topwork.bundle import check_target
    from topwork.console import Screen, make_console, show_trained
    from topwork.dataset import Dataset
    from topwork.listing import Split

    check_target(path)
    folder = _open_store(store)
    console = make_console(stderr=as_json)
    with Screen(console) as screen:
        dataset = Dataset.from_folder(data, strict=strict)
        trained = recipe(dataset, folder, screen)
    saving = time.perf_counter()
    trained.save(path)
    ended = time.perf_counter()
    trained.seconds.update(save=ended - saving, total=ended - started)
    has_test = bool((dataset.splits == Split.TEST).any())
    show_trained(console, trained, path, has_test=has_test, data=str(data), trials=trials)
    if as_json:
        _print_json({"model": str(path), **trained.to_json()})


def _name_model(data: Path) -> Path:
    return Path(f"{data.absolute().name}.model")


@app.command()
def evaluate(
    model: ModelPath,
    data: Data,
    *,
    split: Annotated[
        str, typer.Option(help="Which images: train, validation, test or all.")
    ] = "test",
    abstain_below: AbstainBelow = None,
    coverage: Coverage = None,
    store: Store = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Test a model on labelled images: accuracy, a row per class, the confusion matrix."""
    if split not in ("train", "validation", "test", "all"):
        raise SettingsError(f"split: must be train, validation, test or all, received {split!r}")
    from topwork import evaluation
    from topwork.bundle import load_model
    from topwork.console import Screen, make_console, show_evaluation
    from topwork.dataset import Dataset

    loaded = load_model(model)
    console = make_console(stderr=as_json)
    with Screen(console) as screen:
        result = evaluation.evaluate(
            loaded,
            Dataset.from_folder(data, strict=strict),
            split,
            _open_store(store),
            strict=strict,
            abstain_below=abstain_below,
            coverage=coverage,
            listener=screen,
        )
    show_evaluation(console, loaded, result)
    if as_json:
        _print_json({"model": str(model), "classes": loaded.classes, **result.to_json()})


@app.command()
def predict(
    model: ModelPath,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", show_default=False, help="Files, folders or globs."),
    ],
    top: Annotated[int, typer.Option(help="How many classes to show per image.", min=1)] = 3,
    abstain_below: AbstainBelow = None,
    coverage: Coverage = None,
    strict: Strict = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object per image and line on stdout.")
    ] = False,
) -> None:
    """Predict the classes of images."""
    from topwork import evaluation
    from topwork.bundle import load_model
    from topwork.console import make_console, show_prediction

    paths = _find_images(images)
    loaded = load_model(model)
    evaluation.check_share("abstain_below", abstain_below)
    threshold = evaluation.find_threshold(loaded, coverage)
    console, errors = make_console(stderr=False), make_console(stderr=True)
    good = 0
    for start, found in evaluation.predict(loaded, paths):
        answers = dict(_answer(loaded.classes, found, top, abstain_below, threshold))
        good += len(answers)
        for place, path in enumerate(paths[start : start + len(answers) + len(found.failed)]):
            reason = found.failed.get(place)
            if reason is not None and strict:
                raise DatasetError(f"{path}: {reason}; mend it, or leave out --strict")
            answer = answers.get(place, {"error": reason})
            if as_json:
                _print_json({"path": str(path)} | answer)
            else:
                show_prediction(errors if reason else console, path, answer)
    if not good:
        raise DatasetError(f"none of the {len(paths)} images could be read")


def _answer(
    classes: tuple[str, ...],
    found: Predictions,
    top: int,
    abstain_below: float | None,
    threshold: float | None,
) -> Iterable[tuple[int, dict[str, Any]]]:
    """Yields the place of each image that could be read, and what to say of it."""
    from topwork.calibration import label_sets

    if not len(found.places):
        return
    order = (-found.probabilities).argsort(axis=1, kind="stable")
    sets = None if threshold is None else label_sets(found.probabilities, threshold)
    for row, place in enumerate(found.places.tolist()):
        shares = found.probabilities[row]
        ranked = [{"label": classes[c], "probability": float(shares[c])} for c in order[row]]
        answer: dict[str, Any] = {"predictions": ranked[:top]}
        if abstain_below is not None:
            answer["abstained"] = bool(shares.max() < abstain_below)
        if sets is not None:
            answer["labels"] = [classes[c] for c in order[row] if sets[row, c]]
        yield place, answer


@app.command()
@with_settings("base", "image_size", "batch_size", "weights")
def describe(
    classes: Annotated[int, typer.Option(help="Number of classes.", min=1)] = 10,
    store: Store = None,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Show the shapes and parameters of a network, from pixels to logits."""
    from dataclasses import asdict

    from topwork import pipeline
    from topwork.console import make_console, show_layers

    layers = pipeline.describe(Settings.create(**values), classes, _open_store(store))
    show_layers(make_console(stderr=as_json), layers)
    if as_json:
        _print_json({"layers": [asdict(layer) for layer in layers]})


@app.command()
def bases(as_json: Json = False) -> None:
    """List the pretrained networks: vector length, own size, licence, where the weights are."""
    from topwork.bases import list_bases, weights_here
    from topwork.console import make_console, show_bases

    rows = [(spec, weights_here(spec)) for spec in list_bases()]
    if not as_json:
        show_bases(make_console(stderr=False), rows)
        return
    _print_json(
        [
            {
                "base": spec.name,
                "family": spec.family,
                "vector_length": spec.vector_length,
                "image_size": spec.image_size,
                "license": spec.license,
                "weights": spec.source,
                "here": here,
            }
            for spec, here in rows
        ]
    )


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where to write images and model.")
    ] = Path("topwork-demo"),
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Train on 1,797 scans of handwritten digits; needs no network."""
    from topwork.console import make_console
    from topwork.digits import write_digits

    console = make_console(stderr=as_json)
    folder = printable(output / "digits")
    console.print(f"Writing scikit-learn's handwritten digits to {folder}")
    data = write_digits(output / "digits")
    _train(data, output / "model", Settings.create(), store, as_json)


def _open_store(store: Path | None) -> Path:
    """Returns the store's folder; this process keeps its compiled programs there too."""
    folder = store or default_store()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder.absolute() / "programs"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    return folder


def _find_images(patterns: list[str]) -> list[Path]:
    """Returns the files that are meant by files, folders and globs, each once."""
    import glob

    from topwork.folder import list_images

    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = list_images(path)
        elif path.exists() or not glob.has_magic(pattern):
            matches = [path]
        else:
            matches = sorted(
                file
                for name in glob.glob(pattern, recursive=True)  # noqa: PTH207 (absolute too)
                if (file := Path(name)).is_file()
            )
        if not matches:
            what = "holds no images" if path.is_dir() else "matches no files"
            raise SettingsError(f"IMAGE: {pattern} {what}")
        found.update(dict.fromkeys(matches))
    return list(found)


def _print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, allow_nan=False) + "\n")
    sys.stdout.flush()


def _fail(message: str, code: int) -> int:
    sys.stderr.write(printable(" ".join(f"topwork: {message}".split())) + "\n")
    return code


def run() -> None:
    """The command `topwork`: runs `main` and is gone.

    Everything is written by then, and the libraries would take a good part of a second to put
    themselves away.
    """
    code = main()
    sys.stderr.flush()
    os._exit(code)


def main() -> int:
    """Runs the command line and returns the exit code: 2 for bad usage, 1 for other errors."""
    import warnings

    if not sys.warnoptions:
        # They are for programmers; what concerns the user is said in words.
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an old terminal shows what it can
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()
        if code == INTERRUPTED:  # how typer hands on a Ctrl-C
            raise KeyboardInterrupt
        return code
    except TopworkError as error:
        return _fail(str(error), error.exit_code)
    except UsageError as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "topwork")
        said = getattr(error, "format_message", error.__str__)()
        return _fail(f"{said} (see {where} --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; finished vectors are kept, run again to go on", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
