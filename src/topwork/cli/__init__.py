"""The command line: parse, call, print, exit code. Everything else is imported when needed."""

from __future__ import annotations

import io
import os
import sys

import typer

# Commands register when they are imported.
from topwork.cli import (  # noqa: F401
    bases,
    compare,
    embed,
    evaluate,
    explain,
    export,
    inspect,
    predict,
    report,
    serve,
    store,
    train,
)
from topwork.cli.app import app
from topwork.core import interrupts
from topwork.core.errors import TopworkError, printable

__all__ = ["INTERRUPTED", "app", "main", "run"]

INTERRUPTED = 130
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _fail(message: str, code: int) -> int:
    sys.stderr.write(printable(" ".join(f"topwork: {message}".split())) + "\n")
    return code


def _fail_interrupted() -> int:
    message, code = interrupts.describe_end()
    return _fail(message, code) if message else code


def run() -> None:
    """The command `topwork`: runs `main`, cleans, and is gone."""
    interrupts.watch()
    code = 1
    try:
        try:
            interrupts.show_stacks(os.environ.get(interrupts.DUMP_VARIABLE))
            code = main()
        finally:
            interrupts.stop_raising()
    except KeyboardInterrupt:  # it came when `main` was about to return
        code = _fail_interrupted()
    except TopworkError as error:
        code = _fail(str(error), error.exit_code)
    except Exception:
        sys.excepthook(*sys.exc_info())
    interrupts.leave(code)


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
        if code != INTERRUPTED:  # how typer hands on a Ctrl-C
            return code
    except TopworkError as error:
        if not interrupts.was_interrupted():
            return _fail(str(error), error.exit_code)
    except UsageError as error:
        where = getattr(getattr(error, "ctx", None), "command_path", "topwork")
        said = getattr(error, "format_message", error.__str__)()
        return _fail(f"{said} (see {where} --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        pass
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return _fail_interrupted()
