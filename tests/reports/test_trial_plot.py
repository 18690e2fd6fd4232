import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from topwork.core.config import HeadSettings
from topwork.heads.examples import HeadFit
from topwork.heads.tuning.trials import Trial
from topwork.reports.trial_plot import COLORS, DEPTH, describe_recipe, draw_trials

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
def draw(tmp_path, monkeypatch):
    """Draws, checks that a picture was written, and returns its two plots."""
    drawn = []
    savefig = Figure.savefig

    def keep(figure, *args, **options):
        drawn.append(figure)
        savefig(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(trials, chosen):
        path = tmp_path / "tuning.png"
        draw_trials(trials, chosen.settings, path)
        with Image.open(path) as picture:
            assert picture.format == "PNG" and picture.width > 800
            assert len(picture.convert("L").getcolors()) > 10
        (figure,) = drawn
        return figure.axes

    return draw


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def line(ax, label):
    (found,) = [line for line in ax.lines if line.get_label() == label]
    return found


def bands(ax):
    return [c for c in ax.collections if len(c.get_paths())]


def test_the_metric_is_drawn_against_the_learning_rate_with_a_band(draw):
    trials = dense()
    left, _ = draw(trials, trials[1])
    plain = line(left, "plain head")
    assert plain.get_xdata().tolist() == list(RATES)
    assert plain.get_ydata() == pytest.approx([trial.mean for trial in trials])
    assert left.get_xscale() == "log" and left.get_xlabel() == "learning rate"
    (band,) = bands(left)
    heights = band.get_paths()[0].vertices
    for trial, rate in zip(trials, RATES, strict=True):
        own = heights[heights[:, 0] == rate, 1]
        assert own.min() == pytest.approx(trial.mean - trial.error)
        assert own.max() == pytest.approx(trial.mean + trial.error)


@pytest.mark.parametrize("place", (0, 3, 5, 9, 14, 15, 17))
def test_whatever_was_chosen_is_marked(draw, place):
    trials = searched()
    chosen = trials[place]
    left, right = draw(trials, chosen)
    if chosen.settings.head == "logistic":
        name = f"{describe_recipe(chosen.settings)} (chosen)"
        for ax in (left, right):
            assert set(line(ax, name).get_ydata()) == {chosen.mean}
        assert "chosen" not in labels(left)
    else:
        mark = line(left, "chosen")
        assert mark.get_xdata() == [chosen.settings.learning_rate]
        assert mark.get_ydata() == [chosen.mean]
        thick = max(right.lines, key=lambda one: one.get_linewidth())
        assert thick.get_label() == describe_recipe(chosen.settings)
        assert thick.get_ydata() == pytest.approx(chosen.curves.mean(axis=0))


def test_curves_are_those_of_the_best_of_each_family_with_their_best_epochs(draw):
    trials = searched()
    _, right = draw(trials, trials[2])
    for trial in (trials[2], trials[6], trials[14]):
        curve = line(right, describe_recipe(trial.settings))
        assert curve.get_ydata() == pytest.approx(trial.curves.mean(axis=0))
        dots = [
            (x, y)
            for one in right.lines
            if one.get_marker() == "o" and one.get_color() == curve.get_color()
            for x, y in zip(one.get_xdata(), one.get_ydata(), strict=True)
        ]
        assert dots == [(trial.epoch, trial.mean)]
    assert right.get_xlim()[1] > 40


def test_a_family_has_one_colour_in_both_plots(draw):
    trials = searched()
    left, right = draw(trials, trials[0])
    for family, recipe in (("plain head", "rate 0.0001"), ("normalized", "rate 0.01, normalized")):
        assert line(left, family).get_color() == line(right, recipe).get_color()


def test_a_single_family_shows_its_best_few_epoch_by_epoch(draw):
    trials = [*dense(), *(make_trial(0.7, learning_rate=0.02 + n / 100) for n in range(4))]
    _, right = draw(trials, trials[-1])
    assert len(labels(right)) == len(COLORS)
    assert {"rate 0.05", "rate 0.01", "rate 0.1"} <= set(labels(right))


def test_logistic_heads_alone_are_drawn_against_the_penalty(draw):
    trials = logistic()
    left, right = draw(trials, trials[1])
    assert left.get_xlabel() == right.get_xlabel() == "penalty"
    assert line(left, "normalized").get_xdata().tolist() == [0.03, 0.1, 1.0]
    assert line(left, "chosen").get_xdata() == [0.1]
    assert right.lines[0].get_ydata() == pytest.approx([trial.loss for trial in trials])


def test_a_single_replicate_has_no_band(draw):
    trials = dense(replicates=1)
    left, _ = draw(trials, trials[2])
    assert not bands(left)
    assert "error" not in left.get_title()


def test_a_single_trial_is_a_picture_too(draw):
    trials = dense()[:1]
    left, _ = draw(trials, trials[0])
    assert line(left, "chosen").get_ydata() == [trials[0].mean]


@pytest.mark.parametrize("make", [dense, logistic])
def test_a_trial_that_diverged_does_not_flatten_the_others(draw, make):
    trials = make()
    values = trials[-1].settings.model_dump() | {"learning_rate": 0.5, "penalty": 0.001}
    trials.append(make_trial(0.5, lost=True, **values))
    assert trials[-1].mean == 0
    left, _ = draw(trials, trials[0])
    bottom, top = left.get_ylim()
    best = max(trial.mean for trial in trials)
    assert best < top and best - DEPTH - 0.01 < bottom < best - 0.05


def test_if_all_diverged_there_is_a_picture(draw):
    trials = [make_trial(0.5, lost=True, learning_rate=rate) for rate in RATES]
    left, _ = draw(trials, trials[0])
    assert set(line(left, "plain head").get_ydata()) == {0}


def test_no_legend_covers_a_plot_or_the_other(draw):
    trials = searched()
    axes = draw(trials, trials[14])
    boxes = [ax.get_window_extent() for ax in axes]
    legends = [ax.get_legend().get_window_extent() for ax in axes]
    whole = axes[0].figure.bbox
    assert not any(legend.overlaps(box) for legend in legends for box in boxes)
    assert not legends[0].overlaps(legends[1])
    for legend in legends:
        assert whole.x0 <= legend.x0 and legend.x1 <= whole.x1
        assert whole.y0 <= legend.y0 and legend.y1 <= whole.y1
    assert all(box.height > 0.5 * whole.height for box in boxes)


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
    for ax in (left, right):
        assert ax.get_ylabel() == "mae on held-out images"
        low, high = ax.get_ylim()
        # The lowest error is there; what is far above it is left out.
        assert low <= 3000 * 1.02 <= high < 20_000
    (line,) = [line for line in left.lines if line.get_label() == "plain head"]
    shown = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert shown[RATES[0]] == pytest.approx(3000 * 1.02)
    assert math.isnan(shown[5.0])
    (mark,) = [line for line in left.lines if line.get_label() == "chosen"]
    assert mark.get_ydata()[0] == pytest.approx(3000 * 1.02)
    (solved,) = [line for line in left.lines if line.get_label().startswith("logistic")]
    assert solved.get_ydata()[0] == pytest.approx(3500 * 1.02)
    assert right.lines[0].get_ydata()[8] == pytest.approx(3000 * 1.02)


def test_solved_heads_of_numbers_alone_are_drawn_with_their_losses(draw):
    trials = [t for t in number_trials() if t.settings.head == "logistic"]
    left, right = draw(trials, trials[0])
    assert left.get_ylabel() == "mae on held-out images"
    wanted = [trial.loss for trial in trials]
    assert right.lines[0].get_ydata().tolist() == pytest.approx(wanted)


def test_numbers_that_were_all_lost_are_drawn_too(draw):
    trials = [make_number_trial(1, learning_rate=rate, lost=True) for rate in RATES]
    draw(trials, trials[0])
