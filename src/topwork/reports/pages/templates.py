"""Templates of the package, with everything escaped and the same words for the same figures."""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from topwork.core.errors import printable
from topwork.reports.pages.palettes import DARK, LIGHT, PAPER

if TYPE_CHECKING:
    import jinja2


@cache
def load_template(name: str) -> jinja2.Template:
    """Returns a template.

    Its filters are `text` for what a user or a file says, `figure`, `percent`, `share` and
    `number`. A figure that is None or not finite is an empty text. All know the `palettes`.

    Args:
        name: its path within `topwork/reports`, such as `report/page.html.j2`.
    """
    return _environment().get_template(name)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_read),
    )
    environment.filters.update(
        text=_text, percent=_percent, share=_share, figure=say_figure, number=_number
    )
    environment.globals["palettes"] = {"light": LIGHT, "dark": DARK, "paper": PAPER}
    return environment


def _read(name: str) -> str:
    return resources.files("topwork.reports").joinpath(*name.split("/")).read_text("utf-8")


def say_figure(value: float | None, digits: int = 2) -> str:
    """Says a figure with so many digits behind the point; nothing for one that is not finite."""
    return f"{value:,.{digits}f}" if value is not None and math.isfinite(value) else ""


def _text(value: object) -> str:
    return "" if value is None else printable(value)


def _percent(value: float | None) -> str:
    return f"{value:.0%}" if value is not None and math.isfinite(value) else ""


def _share(value: float | None) -> str:
    return f"{value:.1%}" if value is not None and math.isfinite(value) else ""


def _number(count: int) -> str:
    return f"{count:,}"
