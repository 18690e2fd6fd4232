"""The command line: parse, call, print, exit code. Everything else is imported when needed."""

from __future__ import annotations

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

from topwork.config import Settings, default_store
from topwork.errors import DatasetError, SettingsError, TopworkError, printable

if TYPE_CHECKING:
    from topwork.model import Predictions

INTERRUPTED = 130
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
Store = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="Where vectors and built networks are kept [$TOPWORK_STORE, or the user's cache].",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, the rest on stderr.")]
Strict = Annotated[bool, typer.Option("--strict", help=Settings.model_fields["strict"].description)]


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command an option for each of these settings, as `config` defines them.

    The command takes them as `**values`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = [_make_option(name) for name in names]
        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *options)]
        )
        command.__annotations__ = {p.name: p.annotation for p in (*own, *options)}
        return command

    return decorate


def _make_option(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        help=field.description,
        show_default=field.default is not None,
        metavar="FILE" if name == "weights" else None,
    )
    kind: Any = field.annotation
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=Annotated[kind, option],
    )


@app.callback()
def topwork() -> None:
    """Graft a new classifier onto a network pretrained on ImageNet.

    Start with: topwork train DATA
    """


@app.command()
@with_settings(*(name for name in Settings.model_fields if name != "strict"))
def train(
    data: Data,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="MODEL", help="Folder to save to [DATA's name + .model]."
        ),
    ] = None,
    store: Store = None,
    strict: Strict = False,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Train a classifier on a folder of labelled images."""
    settings = Settings.create(**values, strict=strict)
    _train(data, output or Path(f"{data.absolute().name}.model"), settings, store, as_json)


def _train(data: Path, path: Path, settings: Settings, store: Path | None, as_json: bool) -> None:
    started = time.perf_counter()
    from topwork import pipeline
    from topwork.bundle import check_target
    from topwork.console import Screen, make_console, show_trained
    from topwork.dataset import Dataset
    from topwork.folder import Split

    check_target(path)
    folder = _open_store(store)
    console = make_console(stderr=as_json)
    with Screen(console) as screen:
        dataset = Dataset.from_folder(data, strict=settings.strict)
        trained = pipeline.train(dataset, settings, folder, screen)
    trained.save(path)
    trained.seconds["total"] = time.perf_counter() - started
    has_test = bool((dataset.splits == Split.TEST).any())
    show_trained(console, trained, path, has_test=has_test, data=str(data))
    if as_json:
        _print_json({"model": str(path), **trained.to_json()})


@app.command()
def evaluate(
    model: ModelPath,
    data: Data,
    *,
    split: Annotated[
        str, typer.Option(help="Which images: train, validation, test or all.")
    ] = "test",
    store: Store = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Test a model on labelled images: accuracy, a row per class, the confusion matrix."""
    if split not in ("train", "validation", "test", "all"):
        raise SettingsError(f"split: must be train, validation, test or all, received {split!r}")
    from topwork import pipeline
    from topwork.bundle import load_model
    from topwork.console import Screen, make_console, show_evaluation
    from topwork.dataset import Dataset

    loaded = load_model(model)
    console = make_console(stderr=as_json)
    with Screen(console) as screen:
        result = pipeline.evaluate(
            loaded,
            Dataset.from_folder(data, strict=strict),
            split,
            _open_store(store),
            strict=strict,
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
    strict: Strict = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object per image and line on stdout.")
    ] = False,
) -> None:
    """Predict the classes of images."""
    from topwork import pipeline
    from topwork.bundle import load_model
    from topwork.console import make_console, show_prediction

    paths = _find_images(images)
    loaded = load_model(model)
    console, errors = make_console(stderr=False), make_console(stderr=True)
    good = 0
    for start, found in pipeline.predict(loaded, paths):
        ranked = dict(_rank(loaded.classes, found, top))
        good += len(ranked)
        for place, path in enumerate(paths[start : start + len(ranked) + len(found.failed)]):
            reason = found.failed.get(place)
            if reason is not None and strict:
                raise DatasetError(f"{path}: {reason}; mend it, or leave out --strict")
            if as_json:
                _print_json({"path": str(path)} | _answer(ranked.get(place), reason))
            else:
                show_prediction(errors if reason else console, path, ranked.get(place), reason)
    if not good:
        raise DatasetError(f"none of the {len(paths)} images could be read")


def _rank(
    classes: tuple[str, ...], found: Predictions, top: int
) -> Iterable[tuple[int, list[tuple[str, float]]]]:
    order = (-found.probabilities).argsort(axis=1, kind="stable")[:, :top]
    for place, row, columns in zip(found.places, found.probabilities, order, strict=True):
        yield int(place), [(classes[column], float(row[column])) for column in columns]


def _answer(ranked: list[tuple[str, float]] | None, reason: str | None) -> dict[str, Any]:
    if ranked is None:
        return {"error": reason}
    return {"predictions": [{"label": label, "probability": p} for label, p in ranked]}


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
