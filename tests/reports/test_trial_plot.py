import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest

from topwork.core.config import HeadSettings
from topwork.heads.examples import HeadFit
from topwork.heads.tuning.trials import Trial
from topwork.reports.pages.axes import BOTTOM, HEIGHT, LEFT, RIGHT, SERIES, TOP, WIDTH, Frame
from topwork.reports.trial_plot import DEPTH, compare_trials, describe_recipe, draw_trials

RATES = (0.0001, 0.001, 0.01, 0.1)
NAN = math.nan


def make_trial(score, *, replicates=3, epochs=10, lost=False, **values):
    """A trial whose accuracy rises to `score` in its last epoch but one."""
    settings = HeadSettings(**({"epochs": epochs} | values))
    length = 1 if settings.head == "logistic" else epochs
    fits = []
    for n in range(replicates):
        curve = score - 0.01 * np.abs(np.arange(length) - max(length - 2, 0)) + 0.01 * n
        losses = [NAN] * length if lost else (1 - curve).tolist()
        figures = {"loss": losses, "accuracy": curve.tolist(), "val_loss": losses}
        fits.append(HeadFit(settings, None, 1, figures | {"val_accuracy": curve.tolist()}))
    return Trial(settings, tuple(fits))


def dense(**options):
    return [
        make_trial(0.8 - 0.03 * abs(n - 2), learning_rate=rate, **options)
        for n, rate in enumerate(RATES)
    ]


def logistic(**options):
    return [
        make_trial(0.78 - 0.02 * n, head="logistic", penalty=p, normalize=True, **options)
        for n, p in enumerate((0.03, 0.1, 1.0))
    ]


def searched():
    """What a search leaves: many families, of many recipes or of one."""
    return [
        *dense(),
        *dense(normalize=True),
        *(
            make_trial(0.79, learning_rate=0.01, label_smoothing=s, class_weight=c)
            for s in (0.05, 0.1, 0.2)
            for c in ("none", "balanced")
        ),
        make_trial(0.795, learning_rate=0.01, epochs=40, inner_units=1000, dropout=0.5),
        *logistic(),
    ]


@pytest.fixture
def draw(tmp_path):
    """Draws, checks that the file says what the data do, and returns the data of both charts."""

    def draw(trials, chosen):
        path = tmp_path / "tuning.svg"
        draw_trials(trials, chosen.settings, path)
        charts = compare_trials(trials, chosen.settings)
        drawn = ET.fromstring(path.read_bytes())
        plots = [part for part in drawn.iter(f"{SVG}svg") if part.get("class") == "plot"][1:]
        for chart, plot in zip(charts, plots, strict=True):
            check(chart, plot)
        check_legends(charts, drawn)
        return charts

    return draw


SVG = "{http://www.w3.org/2000/svg}"


def find(plot, name):
    return [part for part in plot.iter() if part.get("class", "").split()[:1] == [name]]


def places(path):
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


def check(chart, plot):
    """Everything of a chart is drawn where its axes say, in its own colour and in the box."""
    frame = Frame(chart.x, chart.y)
    assert len(chart.series) <= SERIES
    for number, series in enumerate(chart.series):
        (line,) = find(plot, f"l{number}")
        known = np.isfinite(series.y)
        wanted = [
            (frame.right(x), frame.down(y))
            for x, y in zip(series.x[known], series.y[known], strict=True)
        ]
        found = np.reshape(places(line.get("d")), (-1, 2))
        np.testing.assert_allclose(found, np.reshape(wanted, (-1, 2)), atol=0.06)
        assert ("wide" in line.get("class")) == series.chosen
        (marks,) = find(plot, f"m{number}")
        dots = [(series.x[n], series.y[n]) for n in series.dots if chart.y.holds(series.y[n])]
        corners = places(marks.get("d"))
        assert len(corners) == len(dots)
        for (x, y), corner in zip(dots, corners, strict=True):
            assert corner == pytest.approx((frame.right(x), frame.down(y)), abs=4.1)
            assert LEFT - 4.1 <= corner[0] <= WIDTH - RIGHT + 4.1
            assert TOP - 4.1 <= corner[1] <= HEIGHT - BOTTOM + 4.1
        bands = find(plot, f"b{number}")
        assert len(bands) == (series.errors is not None)
        for band in bands:
            edges = [*(series.y + series.errors), *(series.y - series.errors)[::-1]]
            heights = [y for _, y in places(band.get("d"))]
            np.testing.assert_allclose(heights, [frame.down(y) for y in edges], atol=0.06)
    rings = find(plot, "chosen")
    assert len(rings) == (chart.ring is not None)
    for ring in rings:
        place = (frame.right(chart.ring[0]), frame.down(chart.ring[1]))
        assert (float(ring.get("cx")), float(ring.get("cy"))) == pytest.approx(place, abs=0.06)
    levels = find(plot, "level")
    assert len(levels) == (chart.level is not None)
    for level in levels:
        heights = [y for _, y in places(level.get("d"))]
        assert heights == pytest.approx([frame.down(chart.level[1])] * 2, abs=0.06)
    # Lines and bands are cut off at the box, by an SVG of the same size.
    (box,) = [part for part in plot.iter(f"{SVG}svg") if part is not plot]
    sides = (LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    assert tuple(int(box.get(name)) for name in ("x", "y", "width", "height")) == sides
    assert box.get("viewBox") == " ".join(map(str, sides))
    drawn = {part.get("class") for part in box}
    assert {f"l{n}" for n in range(len(chart.series))} <= {name.split()[0] for name in drawn}


def check_legends(charts, drawn):
    """Each chart has its legend below it, one line an entry, with nothing over another."""
    entries = [part for part in drawn.iter(f"{SVG}g") if part.get("class") == "entry"]
    said = [" ".join(text.text for text in entry.iter(f"{SVG}text")) for entry in entries]
    assert said == [words for chart in charts for words in labels(chart)]
    rows = {}
    for entry in entries:
        x, y = map(float, re.findall(r"[\d.]+", entry.get("transform")))
        rows.setdefault(x, []).append((y, y + 18 * len(list(entry.iter(f"{SVG}text")))))
        for text in entry.iter(f"{SVG}text"):
            # Half a font size is a usual letter's width, and the other chart begins at 450.
            end = x + float(text.get("x")) + 6.5 * len(text.text)
            assert end <= (450 if x < 450 else float(drawn.get("width")))
    for lines in rows.values():
        assert all(below[0] >= above[1] for above, below in pairwise(lines))
        assert lines[0][0] > 260 and lines[-1][1] - 9 <= float(drawn.get("height"))


def labels(chart):
    words = [series.label for series in chart.series]
    words += [] if chart.level is None else [chart.level[0]]
    return words + ([] if chart.ring is None else ["chosen"])


def line(chart, label):
    (found,) = [series for series in chart.series if series.label == label]
    return found


def test_the_metric_is_drawn_against_the_learning_rate_with_a_band(draw):
    trials = dense()
    left, _ = draw(trials, trials[1])
    plain = line(left, "plain head")
    assert plain.x.tolist() == list(RATES)
    assert plain.y == pytest.approx([trial.mean for trial in trials])
    assert plain.errors == pytest.approx([trial.error for trial in trials])
    assert left.x.logarithmic and left.x.name == "learning rate"
    assert [left.x.say(tick) for tick in left.x.ticks] == ["0.0001", "0.001", "0.01", "0.1"]
    assert "band: one standard error" in left.heading


def test_all_of_the_bands_near_the_best_are_in_sight(draw):
    trials = [make_trial(0.9 + 0.0001 * n, learning_rate=rate) for n, rate in enumerate(RATES)]
    left, _ = draw(trials, trials[0])
    (series,) = left.series
    assert np.ptp(series.y) < series.errors.min()
    assert all(map(left.y.holds, [*(series.y - series.errors), *(series.y + series.errors)]))


@pytest.mark.parametrize("place", (0, 3, 5, 9, 14, 15, 17))
def test_whatever_was_chosen_is_marked(draw, place):
    trials = searched()
    chosen = trials[place]
    left, right = draw(trials, chosen)
    if chosen.settings.head == "logistic":
        name = f"{describe_recipe(chosen.settings)} (chosen)"
        for chart in (left, right):
            assert chart.level == (name, chosen.mean)
            assert chart.ring is None
    else:
        assert left.ring == (chosen.settings.learning_rate, chosen.mean)
        assert right.ring == (chosen.epoch, pytest.approx(chosen.mean))
        (wide,) = [series for series in right.series if series.chosen]
        assert wide.label == describe_recipe(chosen.settings)
        assert wide.y == pytest.approx(chosen.curves.mean(axis=0))


def test_curves_are_those_of_the_best_of_each_family_with_their_best_epochs(draw):
    trials = searched()
    _, right = draw(trials, trials[2])
    for trial in (trials[2], trials[6], trials[14]):
        curve = line(right, describe_recipe(trial.settings))
        assert curve.y == pytest.approx(trial.curves.mean(axis=0))
        assert [(curve.x[n], curve.y[n]) for n in curve.dots] == [
            (trial.epoch, pytest.approx(trial.mean))
        ]
    assert right.x.high == 40


def test_a_family_has_one_colour_in_both_plots(draw):
    trials = searched()
    left, right = draw(trials, trials[0])
    for family, recipe in (("plain head", "rate 0.0001"), ("normalized", "rate 0.01, normalized")):
        assert labels(left).index(family) == labels(right).index(recipe)


def test_a_single_family_shows_its_best_few_epoch_by_epoch(draw):
    trials = [*dense(), *(make_trial(0.7, learning_rate=0.02 + n / 100) for n in range(4))]
    _, right = draw(trials, trials[-1])
    assert len(right.series) == SERIES
    assert {"rate 0.05", "rate 0.01", "rate 0.1"} <= set(labels(right))


def test_logistic_heads_alone_are_drawn_against_the_penalty(draw):
    trials = logistic()
    left, right = draw(trials, trials[1])
    assert left.x.name == right.x.name == "penalty"
    assert line(left, "normalized").x.tolist() == [0.03, 0.1, 1.0]
    assert left.ring == (0.1, trials[1].mean)
    assert right.series[0].y == pytest.approx([trial.loss for trial in trials])


def test_a_single_replicate_has_no_band(draw):
    trials = dense(replicates=1)
    left, _ = draw(trials, trials[2])
    assert all(series.errors is None for series in left.series)
    assert "error" not in left.heading


def test_a_single_trial_is_a_picture_too(draw):
    trials = dense(epochs=1)[:1]
    left, right = draw(trials, trials[0])
    assert left.ring == (RATES[0], trials[0].mean)
    assert right.ring == (1, pytest.approx(trials[0].mean))


@pytest.mark.parametrize("make", [dense, logistic])
def test_a_trial_that_diverged_does_not_flatten_the_others(draw, make):
    trials = make()
    values = trials[-1].settings.model_dump() | {"learning_rate": 0.5, "penalty": 0.001}
    trials.append(make_trial(0.5, lost=True, **values))
    assert trials[-1].mean == 0
    left, _ = draw(trials, trials[0])
    best = max(trial.mean for trial in trials)
    # The axis ends at a tick.
    step = left.y.ticks[1] - left.y.ticks[0]
    assert best < left.y.high < best + 2 * step
    assert best - DEPTH - step < left.y.low < best - 0.05
    assert not left.y.holds(0)


def test_if_all_diverged_there_is_a_picture(draw):
    trials = [make_trial(0.5, lost=True, learning_rate=rate) for rate in RATES]
    left, _ = draw(trials, trials[0])
    assert set(line(left, "plain head").y) == {0}


def test_a_recipe_with_every_option_has_room_in_the_legend(draw):
    every = {
        "weight_decay": 0.03, "label_smoothing": 0.05, "dropout": 0.5, "inner_units": 1000,
        "class_weight": "balanced", "normalize": True, "epochs": 40, "learning_rate": 0.00032,
    }  # fmt: skip
    trials = [*dense(), make_trial(0.8, **every)]
    _, right = draw(trials, trials[-1])
    assert len(labels(right)[1]) > 80


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": 0.0032}, "rate 0.0032"),
        ({"learning_rate": 0.01, "weight_decay": 0.1}, "rate 0.01, decay 0.1"),
        ({"learning_rate": 0.01, "label_smoothing": 0.1}, "rate 0.01, smoothing 0.1"),
        ({"learning_rate": 0.01, "dropout": 0.5}, "rate 0.01, dropout 0.5"),
        ({"learning_rate": 0.01, "class_weight": "balanced"}, "rate 0.01, balanced"),
        ({"learning_rate": 0.01, "normalize": True}, "rate 0.01, normalized"),
        ({"learning_rate": 0.01, "epochs": 40}, "rate 0.01, 40 epochs"),
        ({"learning_rate": 0.01, "inner_units": 100}, "rate 0.01, inner 100"),
        ({"head": "logistic", "penalty": 0.1}, "logistic, penalty 0.1"),
        (
            {"head": "logistic", "penalty": 0.1, "normalize": True, "class_weight": "balanced"},
            "logistic, penalty 0.1, balanced, normalized",
        ),
    ],
)
def test_a_recipe_is_said_by_what_differs_from_a_plain_head(values, words):
    assert describe_recipe(HeadSettings(**values)) == words


def test_recipes_that_differ_are_said_differently():
    said = [describe_recipe(trial.settings) for trial in searched()]
    assert len(set(said)) == len(said)


def make_number_trial(error, *, replicates=3, epochs=10, lost=False, **values):
    """A trial whose error in thousands falls to `error` in its last epoch but one."""
    settings = HeadSettings(**({"epochs": epochs} | values))
    length = 1 if settings.head == "logistic" else epochs
    fits = []
    for n in range(replicates):
        curve = error * (1 + 0.05 * np.abs(np.arange(length) - max(length - 2, 0)) + 0.02 * n)
        losses = [NAN] * length if lost else (curve**2).tolist()
        curve = [NAN] * length if lost else curve.tolist()
        figures = {"loss": losses, "mae": curve, "val_loss": losses, "val_mae": curve}
        fits.append(HeadFit(settings, None, 0 if lost else 1, figures))
    return Trial(settings, tuple(fits))


def number_trials():
    return [
        make_number_trial(2e6, learning_rate=1.0),
        make_number_trial(1, learning_rate=5.0, lost=True),
        *(make_number_trial(3000 + 900 * n, learning_rate=rate) for n, rate in enumerate(RATES)),
        *(
            make_number_trial(3500 + 50 * n, head="logistic", penalty=p)
            for n, p in enumerate((0.1, 1.0))
        ),
    ]


def test_errors_of_numbers_are_drawn_as_such_with_the_lowest_in_sight(draw):
    trials = number_trials()
    left, right = draw(trials, trials[2])
    for chart in (left, right):
        assert chart.y.name == "mae on held-out images"
        # The lowest error is there; what is far above it is left out.
        assert chart.y.low <= 3000 * 1.02 <= chart.y.high < 20_000
    plain = line(left, "plain head")
    shown = dict(zip(plain.x, plain.y, strict=True))
    assert shown[RATES[0]] == pytest.approx(3000 * 1.02)
    assert math.isnan(shown[5.0])
    assert left.ring[1] == pytest.approx(3000 * 1.02)
    assert left.level[0].startswith("logistic")
    assert left.level[1] == pytest.approx(3500 * 1.02)
    assert right.series[0].y[8] == pytest.approx(3000 * 1.02)


def test_solved_heads_of_numbers_alone_are_drawn_with_their_losses(draw):
    trials = [t for t in number_trials() if t.settings.head == "logistic"]
    left, right = draw(trials, trials[0])
    assert left.y.name == "mae on held-out images"
    wanted = [trial.loss for trial in trials]
    assert right.series[0].y.tolist() == pytest.approx(wanted)


def test_numbers_that_were_all_lost_are_drawn_too(tmp_path):
    trials = [make_number_trial(1, learning_rate=rate, lost=True) for rate in RATES]
    draw_trials(trials, trials[0].settings, tmp_path / "tuning.svg")
    drawn = ET.fromstring((tmp_path / "tuning.svg").read_bytes())
    assert all(part.get("d") == "" for part in find(drawn, "l0")[:1])
    assert "nan" not in (tmp_path / "tuning.svg").read_text(encoding="utf-8")
