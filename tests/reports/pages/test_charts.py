import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.reports.pages.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Frame
from topwork.reports.pages.charts import (
    BARS,
    MOST_MARKS,
    MOST_POINTS,
    Line,
    choose_steps,
    draw_bars,
    draw_lines,
    draw_points,
    make_histogram,
)

wide = st.floats(-1e12, 1e12, allow_nan=False)


def read(chart):
    return ET.fromstring(str(chart))


def places(path):
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


def find(svg, name):
    return [part for part in svg.iter() if part.get("class") == name]


def test_lines_go_through_their_values():
    train, validation = [0.5, 0.7, 0.9, 0.95], [0.6, 0.8, 0.7, 0.65]
    chart = draw_lines(
        [Line("validation", validation), Line("training", train)],
        "epoch", "accuracy", "in words", kept=2, span=(3, 4),
    )  # fmt: skip
    svg = read(chart)
    assert svg.get("aria-label") == "in words"
    frame = Frame(
        Axis.around("epoch", [1, 4], whole=True), Axis.around("accuracy", train, validation)
    )
    for name, values in (("l0", validation), ("l1", train)):
        wanted = [(frame.right(n), frame.down(value)) for n, value in enumerate(values, 1)]
        np.testing.assert_allclose(places(find(svg, name)[0].get("d")), wanted, atol=0.06)
    ring = find(svg, "l0 ring")[0]
    assert float(ring.get("cx")) == pytest.approx(frame.right(2), abs=0.06)
    assert float(ring.get("cy")) == pytest.approx(frame.down(0.8), abs=0.06)
    span = find(svg, "span")[0]
    assert float(span.get("x")) == pytest.approx(frame.right(3), abs=0.06)
    assert float(span.get("width")) == pytest.approx(frame.right(4) - frame.right(3), abs=0.06)


def test_a_span_of_the_last_epoch_alone_is_seen_within_the_box():
    chart = draw_lines([Line("a", [1, 2, 3])], "epoch", "loss", "", span=(3, 3))
    span = find(read(chart), "span")[0]
    assert float(span.get("width")) >= 5
    assert float(span.get("x")) + float(span.get("width")) <= WIDTH - RIGHT + 0.1


def test_what_is_not_finite_leaves_a_gap():
    line = Line("loss", [1.0, math.nan, 3.0, 4.0, math.inf])
    path = find(read(draw_lines([line], "epoch", "loss", "", kept=2)), "l0")[0].get("d")
    assert [pen for pen in path if pen in "ML"] == ["M", "M", "L"]
    lost = draw_lines([Line("loss", [math.nan] * 3)], "epoch", "loss", "", kept=1)
    assert find(read(lost), "l0")[0].get("d") == ""


@given(st.integers(1, 5000), st.integers(1, 100), st.data())
def test_steps_are_few_and_have_both_ends_and_the_kept_one(count, most, data):
    kept = data.draw(st.integers(1, count))
    steps = choose_steps(count, most, kept)
    assert kept in steps
    assert len(steps) <= min(count, most) + 1
    assert steps == sorted(set(steps))
    assert steps[0] == 1
    assert most == 1 or steps[-1] == count


def test_a_long_training_is_drawn_in_few_points():
    chart = draw_lines([Line("loss", list(range(100_000)))], "epoch", "loss", "")
    assert len(str(chart)) < 20_000


@pytest.mark.parametrize("count", [MOST_MARKS, MOST_MARKS + 1])
def test_only_a_short_training_has_a_mark_for_each_epoch(count):
    lines = [Line("a", list(range(count))), Line("b", [0.1 * n for n in range(count)])]
    svg = read(draw_lines(lines, "epoch", "loss", ""))
    marks = [part.get("d").count("M") for name in ("m0", "m1") for part in find(svg, name)]
    assert marks == ([count, count] if count == MOST_MARKS else [])


def test_bars_are_as_long_as_their_figures():
    svg = read(draw_bars([("a: 0.5", 0.5), ("b: lost", math.nan), ("c: 4", 4.0)], "loss", "words"))
    frame = Frame(Axis.around("loss", [0, 0.5, 4]), Axis("", 0, 1, ()))
    for name, value in (("m0", 0.5), ("m2", 4.0)):
        (bar,) = find(svg, name)
        assert float(bar.get("x")) == LEFT
        assert LEFT + float(bar.get("width")) == pytest.approx(frame.right(value), abs=0.06)
        assert TOP < float(bar.get("y")) < HEIGHT - BOTTOM - float(bar.get("height")) + 0.1
    assert not find(svg, "m1")
    words = {text.text: float(text.get("y")) for text in svg.iter("text")}
    assert words["a: 0.5"] < words["b: lost"] < words["c: 4"]
    assert words["c: 4"] < float(find(svg, "m2")[0].get("y"))


def test_points_lie_where_they_belong_and_are_bounded():
    true, said = np.array([1.0, 5.0, 9.0]), np.array([2.0, 5.0, 1.0])
    svg = read(draw_points(true, said, "true", "predicted", "words"))
    axis = Axis.around("", true, said)
    frame = Frame(axis, axis)
    wanted = [(frame.right(a), frame.down(b)) for a, b in zip(true, said, strict=True)]
    np.testing.assert_allclose(places(find(svg, "dots")[0].get("d")), wanted, atol=0.06)
    many = np.arange(100_000.0)
    assert str(draw_points(many, many, "", "", "")).count("h0") == MOST_POINTS


@pytest.mark.parametrize("evil", ['"><script>', "</text>", "a & b"])
def test_names_are_only_text(evil):
    chart = draw_points(np.ones(2), np.ones(2), f"true {evil}", evil, evil)
    svg = read(chart)
    assert svg.get("aria-label") == evil
    assert evil in [text.text for text in svg.iter("text")]
    assert "<script" not in str(chart)


def test_histograms_count_what_numpy_counts():
    values = np.random.default_rng(0).uniform(0, 1, 500)
    counts, _ = np.histogram(values, BARS, (0, 1))
    drawn = make_histogram("x", values, 2, (0, 1))
    assert [int(bar[4].split(": ")[1]) for bar in drawn.bars] == counts.tolist()
    np.testing.assert_allclose([bar[3] for bar in drawn.bars], 40 * counts / counts.max())
    assert drawn.summary == "Median {:.2f}; 9 of 10 from {:.2f} to {:.2f}.".format(
        *np.quantile(values, (0.5, 0.05, 0.95))
    )


@given(st.lists(wide, min_size=1, max_size=30))
def test_histograms_hold_every_value(values):
    drawn = make_histogram("x", np.array(values), 1)
    assert sum(int(bar[4].split(": ")[1]) for bar in drawn.bars) == len(values)


def test_no_value_makes_no_histogram():
    assert make_histogram("x", np.array([math.nan, math.inf]), 1) is None
