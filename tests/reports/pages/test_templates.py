import math

import pytest
from jinja2 import UndefinedError

from topwork.reports.pages.templates import _environment, load_template, say_figure


def render(text, **values):
    return _environment().from_string(text).render(**values)


@pytest.mark.parametrize("filter_", ["figure", "percent", "share"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_a_figure_that_is_none_is_empty(filter_, value):
    assert render(f"[{{{{ value|{filter_} }}}}]", value=value) == "[]"


def test_figures_are_said_as_they_are():
    text = "{{ a|figure }} {{ a|figure(0) }} {{ b|percent }} {{ b|share }} {{ 1234|number }}"
    words = render(text, a=1234.567, b=0.1234)
    assert words == "1,234.57 1,235 12% 12.3% 1,234"
    assert say_figure(2.0, 3) == "2.000"


def test_text_is_only_text():
    evil = "<b>\"'&\x1b[31m\u202e"
    words = render("{{ value|text }}", value=evil)
    assert words == "&lt;b&gt;&#34;&#39;&amp;\\x1b[31m\\u202e"
    assert render("[{{ value|text }}]", value=None) == "[]"


def test_what_is_missing_is_an_error():
    with pytest.raises(UndefinedError):
        render("{{ nothing }}")


def test_pages_are_loaded_once_and_extend_the_base():
    page = load_template("inspection.html.j2")
    assert load_template("inspection.html.j2") is page
    assert set(page.blocks) <= set(load_template("pages/base.html.j2").blocks)
