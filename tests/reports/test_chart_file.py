import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.reports.chart_file import Entry, Panel, level_key, line_key, render_file
from topwork.reports.pages.charts import Line, draw_lines
from topwork.reports.pages.palettes import DARK, LIGHT, PAPER
from topwork.reports.pages.templates import load_template

SVG = "{http://www.w3.org/2000/svg}"


def make(title="A title", heading="loss", words=("one", "two")):
    chart = draw_lines([Line("a", [1.0, 2.0])], "epoch", heading, "in words")
    legend = [Entry(line_key(n), line) for n, line in enumerate(words)]
    return render_file(title, [Panel(heading, chart, legend)] * 2)


def texts(drawn, name):
    return [part.text for part in drawn.iter(f"{SVG}text") if part.get("class") == name]


def test_a_file_says_its_size_and_is_a_picture_by_itself():
    drawn = ET.fromstring(make())
    width, height = int(drawn.get("width")), int(drawn.get("height"))
    assert drawn.get("viewBox") == f"0 0 {width} {height}"
    assert 800 < width < 1000 and 300 < height < 400
    assert drawn.find(f"{SVG}title").text == "A title"
    assert texts(drawn, "title") == ["A title"]
    assert texts(drawn, "heading") == ["loss", "loss"]
    ground = drawn.find(f"{SVG}rect")
    assert (ground.get("width"), ground.get("height")) == (str(width), str(height))
    assert not re.search(r"url\(|@import|<script|href|foreignObject", make())


def test_charts_stand_side_by_side_with_legends_below():
    drawn = ET.fromstring(make(words=("one", "two", "words " * 20)))
    charts = [
        tuple(map(int, re.findall(r"\d+", part.get("transform"))))
        for part in drawn.findall(f"{SVG}g")
    ]
    (left, top), (right, same), *entries = charts
    assert top == same and right >= left + 420
    assert [y - entries[0][1] for _, y in entries] == [0, 18, 36] * 2
    assert entries[0][1] > top + 260
    lowest = entries[2][1] + 2 * 18
    assert lowest < int(drawn.get("height"))


def read_rules(style):
    return dict(re.findall(r"([^{}\n]+) \{ ([^{}]+)\}", style))


def test_a_dark_screen_has_the_colours_of_the_dark_page():
    style = ET.fromstring(make()).find(f"{SVG}style").text
    light, dark = style.split("@media screen and (prefers-color-scheme: dark) {")
    # Programs that know no variables would draw everything in black.
    assert "var(" not in style
    light, dark = read_rules(light), read_rules(dark)
    assert light.keys() == dark.keys()
    for number in range(5):
        assert LIGHT[f"s{number}"] in light[f".plot .l{number}"]
        assert DARK[f"s{number}"] in dark[f".plot .m{number}"]
    assert LIGHT["card"] in light[".ground"] and DARK["card"] in dark[".ground"]
    assert DARK["soft"] in dark[".plot text"]


def test_a_page_has_the_rules_of_a_file_and_all_colours():
    rules = load_template("pages/charts.css.j2").render()
    assert rules in load_template("report/style.css.j2").render()
    assert LIGHT.keys() == DARK.keys() == PAPER.keys()
    page = load_template("pages/style.css.j2").render()
    for palette in (LIGHT, DARK, PAPER):
        assert all(f"--{name}: {color};" in page for name, color in palette.items())
    assert set(re.findall(r"var\(--([\w-]+)\)", rules + page)) <= LIGHT.keys()


@given(st.text(max_size=300), st.text(max_size=100))
def test_any_words_make_a_whole_file(title, words):
    drawn = ET.fromstring(make(title, words, (words, title)).encode())
    assert all(len(line) <= 98 for line in texts(drawn, "title"))


@pytest.mark.parametrize(
    "evil", ["</text><script>x</script>", "]]>&\"'", "a\x00\x1b[31m\udcff\ufffe"]
)
def test_words_are_only_text(evil):
    file = make(evil, evil, (evil,))
    drawn = ET.fromstring(file.encode())
    shown = {"a\x00\x1b[31m\udcff\ufffe": "a\\x00\\x1b[31m\\udcff\\ufffe"}.get(evil, evil)
    assert {drawn.find(f"{SVG}title").text, *texts(drawn, "title")} == {shown}
    assert set(texts(drawn, "heading")) == {shown}
    assert [part.tag for part in drawn.iter() if "script" in part.tag] == []


def test_long_words_are_divided_and_cut_off():
    drawn = ET.fromstring(make("word " * 500, words=("x" * 1000,)))
    assert len(texts(drawn, "title")) == 3 and texts(drawn, "title")[-1].endswith("…")
    entry = next(part for part in drawn.iter(f"{SVG}g") if part.get("class") == "entry")
    assert len(list(entry.iter(f"{SVG}text"))) == 3
    # Letters that are twice as wide are half as many.
    wide = texts(ET.fromstring(make("漢字" * 60)), "title")
    assert max(map(len, wide)) <= 50 and "".join(wide) == "漢字" * 60


def test_a_key_looks_like_what_it_explains():
    marked, plain = line_key(3, wide=True), line_key(3, marks=False)
    assert 'class="l3 wide"' in marked and 'class="m3"' in marked
    assert 'class="l3"' in plain and "m3" not in plain
    assert 'class="level"' in level_key()
