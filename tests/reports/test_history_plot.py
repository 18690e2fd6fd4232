import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from topwork.core.task import Task
from topwork.metrics.history import History
from topwork.models.model_facts import ValidationScore
from topwork.reports.history_plot import draw_history, render_history
from topwork.reports.pages.axes import Axis, Frame

SVG = "{http://www.w3.org/2000/svg}"


def make(val_loss, best=2, metric="accuracy"):
    count = len(val_loss)
    return History(
        {
            "loss": [1 / (n + 1) for n in range(count)],
            metric: [0.9 - 0.3 / (n + 1) for n in range(count)],
            "val_loss": list(val_loss),
            f"val_{metric}": [0.8 - 0.2 / (n + 1) for n in range(count)],
        },
        best,
    )


def read(history, title="Two charts"):
    drawn = ET.fromstring(render_history(history, title).encode())
    plots = [part for part in drawn.iter(f"{SVG}svg") if part.get("class") == "plot"][1:]
    return drawn, dict(zip((history.metric, "loss"), plots, strict=True))


def find(plot, name):
    return [part for part in plot.iter() if part.get("class") == name]


def places(path):
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


def words(drawn):
    return [part.text for part in drawn.iter(f"{SVG}text")]


def frame_of(history, name):
    both = history.history[name], history.history[f"val_{name}"]
    return Frame(Axis.around("epoch", [1, history.epochs], whole=True), Axis.around(name, *both))


@pytest.mark.parametrize("epochs", [2, 3, 60, 1000])
def test_curves_go_through_the_figures_and_the_kept_epoch_is_marked(epochs):
    history = make([0.5 + 0.001 * abs(n - epochs // 3) for n in range(epochs)], epochs // 2)
    drawn, plots = read(history)
    for name, plot in plots.items():
        frame = frame_of(history, name)
        for number, key in enumerate((f"val_{name}", name)):
            values = history.history[key]
            found = places(find(plot, f"l{number}")[0].get("d"))
            assert len(found) == min(epochs, 400) or (epochs > 400 and len(found) <= 401)
            at = dict(found)
            for epoch in (1, history.best_epoch, epochs):
                x = float(f"{frame.right(epoch):.1f}")
                assert at[x] == pytest.approx(frame.down(values[epoch - 1]), abs=0.06)
            if epochs <= 60:
                wanted = [(frame.right(n), frame.down(v)) for n, v in enumerate(values, 1)]
                np.testing.assert_allclose(found, wanted, atol=0.06)
            assert len(find(plot, f"m{number}")) == (epochs <= 60)
        (ring,) = find(plot, "l0 ring")
        kept = history.history[f"val_{name}"][history.best_epoch - 1]
        place = float(ring.get("cx")), float(ring.get("cy"))
        assert place == pytest.approx((frame.right(history.best_epoch), frame.down(kept)), abs=0.06)
        assert f"kept: epoch {history.best_epoch}, validation {kept:.3f}" in words(drawn)
    assert len(render_history(history, "")) < 60_000


def test_the_span_begins_where_it_overfits():
    history = make([0.9, 0.5, 0.7, 0.9])
    drawn, plots = read(history)
    for name, plot in plots.items():
        (span,) = find(plot, "span")
        frame = frame_of(history, name)
        assert float(span.get("x")) == pytest.approx(frame.right(3), abs=0.06)
    assert words(drawn).count("overfits from epoch 3") == 2
    drawn, plots = read(make([0.9, 0.5, 0.5, 0.5]))
    assert not any(find(plot, "span") for plot in plots.values())
    assert not any("overfits" in text for text in words(drawn))


def test_a_single_epoch_is_drawn_as_two_bars_with_their_figures():
    history = make([0.75], 1)
    drawn, plots = read(history)
    for name, plot in plots.items():
        values = history.history[f"val_{name}"][0], history.history[name][0]
        frame = Frame(Axis.around(name, [0, 1], values), Axis("", 0, 1, ()))
        for number, (where, value) in enumerate(
            zip(("validation", "training"), values, strict=True)
        ):
            (bar,) = find(plot, f"m{number}")
            end = float(bar.get("x")) + float(bar.get("width"))
            assert end == pytest.approx(frame.right(value), abs=0.06)
            assert f"{where}: {value:.3f}" in words(plot)
    assert not find(drawn, "entry")


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_losses_that_are_not_finite_leave_a_gap_and_are_said(wrong):
    history = make([0.9, wrong, 0.8, 0.7])
    drawn, plots = read(history)
    assert len(places(find(plots["loss"], "l0")[0].get("d"))) == 3
    assert not find(plots["loss"], "l0 ring") and find(plots["accuracy"], "l0 ring")
    assert "kept: epoch 2, validation not finite" in words(drawn)
    assert not re.search(r'"[^"]*\b(nan|inf)\b', render_history(history, ""))
    for lost in ([wrong], [wrong] * 3):
        _, plots = read(make(lost, 1))
        assert not find(plots["loss"], "l0 ring")


def test_numbers_have_their_own_words():
    history = make([9e6, 8e6, 7e6], metric="mae")
    drawn, _ = read(history)
    assert words(drawn).count("mean absolute error") == 2
    assert "kept: epoch 2, validation 8000000" in words(drawn)


def test_a_model_is_said_above_its_curve(trained, tmp_path):
    model = trained.model
    draw_history(model, tmp_path / "h.svg")
    drawn = ET.fromstring((tmp_path / "h.svg").read_bytes())
    title = drawn.find(f"{SVG}title").text
    low, high = model.validation.interval
    assert title == (
        f"{model.bases[0].space.base}, 32 px: validation accuracy {model.validation.value:.3f} "
        f"(95 % interval {low:.3f} to {high:.3f})"
    )


def test_several_numbers_are_said_by_what_is_explained(trained, tmp_path):
    found = trained.model.validation.model_copy(update={"figures": {"r2": 0.5}})
    assert isinstance(found, ValidationScore)
    model = replace(trained.model, task=Task.NUMBER, classes=("price", "kilos"), validation=found)
    draw_history(model, tmp_path / "h.svg")
    title = ET.fromstring((tmp_path / "h.svg").read_bytes()).find(f"{SVG}title").text
    assert title.endswith("px: validation R² 0.500")


@pytest.mark.parametrize("evil", ["</svg><script>alert(1)</script>", "a\x1b[31m&\"'\x00"])
def test_a_hostile_base_name_is_only_text(trained, tmp_path, evil):
    (base,) = trained.model.bases
    space = replace(base.space, base=evil)
    model = replace(trained.model, bases=(base.model_copy(update={"space": space}),))
    draw_history(model, tmp_path / "h.svg")
    drawn = ET.fromstring((tmp_path / "h.svg").read_bytes())
    shown = evil.replace("\x1b", "\\x1b").replace("\x00", "\\x00")
    assert drawn.find(f"{SVG}title").text.startswith(f"{shown}, 32 px")
    assert not [part for part in drawn.iter() if "script" in part.tag]
