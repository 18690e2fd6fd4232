"""The application that commands register with."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

ORDER = (
    "train", "tune", "evaluate", "predict", "explain", "report", "compare", "export", "serve",
    "inspect", "neighbours", "embed", "describe", "bases", "store", "demo",
)  # fmt: skip


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        """Lists the commands in the order in which a user meets them."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


@app.callback()
def topwork() -> None:
    """Graft a new classifier onto a network pretrained on ImageNet.

    Start with: topwork train DATA
    """
