"""The terminal that recipes and commands write to."""

from __future__ import annotations

from rich.console import Console

WIDTH = 80


def make_console(stderr: bool) -> Console:
    """Returns a console of at most 80 columns; plain text when it is not a terminal."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    return console
