"""The command line: parse, call, print, exit code. Everything else is imported when needed."""

from __future__ import annotations

import io
import os
import sys

import typer

# Commands register when they are imported.
from topwork.cli import (  # noqa: F401
    answers,
    data,
    exporting,
    networks,
    reporting,
    seeing,
    serving,
    storing,
    training,
)
from topwork.cli.app import app
from topwork.errors import TopworkError, printable

__all__ = ["INTERRUPTED", "app", "main", "run"]

INTERRUPTED = 130
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _fail(message: str, code: int) -> int:
    sys.stderr.write(printable(" ".join(f"topwork: {message}".split())) + "\n")
    return code


def run() -> None:
    """The command `topwork`: runs `main` and is gone.

    Everything is written by then, and the libraries would take a good part of a second to put
    themselves away.
    """
    code = main()
    clusters, files = map(sys.modules.get, ("topwork.cluster", "topwork.files"))
    if clusters is not None:
        clusters.leave_clusters()
    if files is not None:
        files.remove_scratch()
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
