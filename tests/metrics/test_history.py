import json
import math

import matplotlib.pyplot as plt
import pytest

from topwork.metrics.history import History


def make(val_loss, val_accuracy=None, loss=None, best=1):
    epochs = len(val_loss)
    return History(
        {
            "loss": loss or [1 - 0.05 * n for n in range(epochs)],
            "accuracy": [0.5 + 0.04 * n for n in range(epochs)],
            "val_loss": val_loss,
            "val_accuracy": val_accuracy or [0.6] * epochs,
        },
        best,
    )


def test_overfitting_starts_after_the_lowest_validation_loss():
    found = make([0.9, 0.5, 0.6, 0.8]).overfitting()
    assert found.from_epoch == 3
    assert (found.lowest_loss, found.last_loss) == (0.5, 0.8)
    assert found.gap == pytest.approx(0.5 + 0.04 * 3 - 0.6)


@pytest.mark.parametrize(
    "history",
    [
        make([0.9, 0.8, 0.7]),  # still falling
        make([0.9, 0.8, 0.81]),  # flat
        make([0.5]),  # a single epoch
        make([0.5, 0.9], loss=[0.5, 0.6]),  # diverging, which is another trouble
    ],
)
def test_no_overfitting_where_the_curve_has_not_turned(history):
    assert history.overfitting() is None


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_training_that_diverged_is_not_called_overfitting(wrong):
    history = make([0.9, 0.5, wrong, 0.9])
    assert history.diverged() == 3
    assert history.overfitting() is None
    assert make([0.9, 0.5]).diverged() is None


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_json_has_no_numbers_that_are_not_finite(wrong):
    history = make([0.9, wrong])
    text = json.dumps(history.to_json(), allow_nan=False)
    assert math.isnan(History.from_json(json.loads(text)).history["val_loss"][1])


def test_json_and_back():
    history = make([0.9, 0.5], best=2)
    assert History.from_json(history.to_json()) == history


@pytest.mark.parametrize(
    "change",
    [
        {"best_epoch": 3},
        {"best_epoch": 0},
        {"history": {"loss": [1.0]}},
        {"history": {"loss": [1.0], "val_loss": [1.0, 2.0]}},
        {"history": None},
    ],
)
def test_what_is_no_history_is_refused(change):
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        History.from_json(make([0.9, 0.5], best=2).to_json() | change)


def test_plot_draws_both_curves_and_marks_the_kept_epoch():
    ax = make([0.9, 0.5, 0.7], [0.5, 0.7, 0.6], best=2).plot()
    training, validation, *_ = ax.get_lines()
    assert list(training.get_xdata()) == [1, 2, 3]
    assert list(validation.get_ydata()) == [0.5, 0.7, 0.6]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["training", "validation", "kept: epoch 2, 0.700"]
    assert ax.get_ylabel() == "accuracy"
    plt.close(ax.figure)


def test_plot_draws_where_it_is_told_to():
    _, mine = plt.subplots()
    assert make([0.9, 0.8]).plot(mine, values="loss") is mine
    assert mine.get_ylabel() == "loss"
    plt.close(mine.figure)


def test_a_single_epoch_is_drawn_as_two_bars():
    _, mine = plt.subplots()
    ax = make([0.75]).plot(mine, values="loss")
    assert [bar.get_width() for bar in ax.patches][1] == 0.75
    assert [label.get_text() for label in ax.get_yticklabels()] == ["training", "validation"]
    plt.close(mine.figure)
