"""Options and arguments that several commands share, each defined once."""

from __future__ import annotations

import functools
import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.core.config import AUTO, Search, Settings, VectorSettings
from topwork.core.data_settings import DataSettings
from topwork.core.errors import SettingsError, counted, printable
from topwork.core.leftovers import sweep
from topwork.data.remote.urls import show, show_text
from topwork.vectors.backends import find_store

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


KEYWORD = inspect.Parameter.KEYWORD_ONLY
# `strict` has an option of its own, that other commands share.
ALL_SETTINGS = ("preset", *(n for n in Settings.model_fields if n not in ("preset", "strict")))
METAVARS = {
    "base": "NAME",
    "weights": "FILE",
    "range": "LOW..HIGH",
    "learning_rate": "RATE",
    "penalty": "PENALTY",
    "budget": "BUDGET",
    "image_column": "NAME",
    "label_column": "NAME",
    "label_separator": "TEXT",
    "split_column": "NAME",
    "group_column": "NAME",
    "weight_column": "NAME",
    "image_folder": "DIR",
    "encoding": "NAME",
}
# Where an option's name is not the setting's.
FLAGS = {"image_folder": "--images"}

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="Folder with one folder per class, or with train/, validation/ and test/ folders; a "
        "table of paths and labels (CSV, JSON lines, Parquet; - for standard input); a zip or "
        "tar file; or the URL of one.",
    ),
]
ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", show_default=False, help="Folder of a trained model.")
]
SPLITS = ("train", "validation", "test", "all")
SplitName = Annotated[
    str, typer.Option("--split", help="Which images: train, validation, test or all.")
]
Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...",
        show_default=False,
        help="Files, folders or globs; - for a path a line on standard input.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="MODEL", help="Folder to save to [DATA's name + .model]."
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="Where vectors and built networks are kept, or s3://BUCKET/PREFIX for the vectors "
        "[$TOPWORK_STORE, or the user's cache].",
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
# Of commands that need vectors and train nothing.
VECTOR_SETTINGS = tuple(n for n in VectorSettings.model_fields if n != "views")


Overrides = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Verdicts on suspects: the file of topwork inspect --fix-list, filled in.",
    ),
]


def with_settings(
    *names: str, data: bool = False, plan: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command an option for each of these settings, as `config` defines them.

    The command takes as `**values` those that were given on the command line.

    Args:
        names: of fields of `Settings`.
        data: whether to add those of `DataSettings`, which the command takes as `columns`.
        plan: whether to add those of `Search` too.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [
            p
            for p in signature.parameters.values()
            if p.kind is not p.VAR_KEYWORD and p.name != "columns"
        ]
        fields = {name: Settings.model_fields[name] for name in names}
        fields |= Search.model_fields if plan else {}
        columns = DataSettings.model_fields if data else {}
        options = [_make_option(name, field) for name, field in (fields | columns).items()]
        context = inspect.Parameter("context", KEYWORD, annotation=typer.Context)

        @functools.wraps(command)
        def run(context: typer.Context, **values: Any) -> None:
            given = {
                name: value
                for name, value in values.items()
                if name not in fields | columns or _is_given(context, name)
            }
            if data:
                given["columns"] = {name: given.pop(name) for name in columns if name in given}
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
    flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
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


def open_store(store: str | None) -> Path:
    """Returns the store's folder; this process keeps its compiled programs there too.

    What killed processes left there, and among the temporary files, is removed.
    """
    folder = find_store(store)
    sweep(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder.absolute() / "programs"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    return folder


def name_after(data: str) -> str:
    """Returns what to call what is made of some data, if the user does not say."""
    if data == "-":
        return "stdin"
    path = Path(data.partition("?")[0])
    name = path.absolute().name
    # Of a table or archive, the name without the suffix.
    return name if path.is_dir() else name.partition(".")[0] or name


def locate_data(data: str) -> str | None:
    """Returns where some data is, for whoever looks for it from elsewhere; None if nowhere."""
    if data == "-":
        return None
    return str(Path(data).absolute()) if Path(data).exists() else show(data)


def said_command() -> str:
    """Returns the command line of this process, without the secrets of URLs."""
    return printable(shlex.join(["topwork", *map(show_text, sys.argv[1:])]))


def check_split(split: str) -> None:
    """Refuses what is no split.

    Raises:
        SettingsError: with those that there are.
    """
    if split not in SPLITS:
        raise SettingsError(f"split: must be train, validation, test or all, received {split!r}")


def check_page(page: Path) -> None:
    """Refuses a name that a browser would not open as a page.

    Raises:
        SettingsError: with the name.
    """
    if page.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"output: must end in .html, received {page}")


def print_json(content: Any) -> None:
    """Prints a JSON object on a line of stdout."""
    sys.stdout.write(json.dumps(content, allow_nan=False) + "\n")
    sys.stdout.flush()


def _find_file(text: str) -> Path:
    """Returns a path; refuses a URL, of which a path would lose a slash.

    Raises:
        SettingsError: with the URL.
    """
    from topwork.data.remote.urls import is_url

    if is_url(text):
        raise SettingsError(
            f"IMAGE: must be a file on this machine, received {show(text)}; download it first"
        )
    return Path(text)


def _say_left_out(folder: Path, others: list[Path]) -> None:
    from topwork.data.listing import SHOWN

    names = ", ".join(str(path.relative_to(folder)) for path in others[:SHOWN])
    more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
    are = "is no image by its name or first bytes"
    if len(others) > 1:
        are = "are no images by their names or first bytes"
    typer.echo(
        printable(f"{folder}: left out {counted(len(others), 'file')} that {are}: {names}{more}"),
        err=True,
    )


def find_images(patterns: list[str]) -> list[Path]:
    """Returns the files that are meant by files, folders and globs, each once."""
    import glob

    from topwork.data.readers.folder import list_images

    found: dict[Path, None] = {}
    for pattern in patterns:
        if pattern == "-":
            lines = [os.fsdecode(line) for line in sys.stdin.buffer.read().splitlines() if line]
            if not lines:
                raise SettingsError("IMAGE: - reads a path a line on standard input, received none")
            found.update(dict.fromkeys(_find_file(line) for line in lines))
            continue
        path = _find_file(pattern)
        if path.is_dir():
            matches, others = list_images(path)
            if others:
                _say_left_out(path, others)
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
