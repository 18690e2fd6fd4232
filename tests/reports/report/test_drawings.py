import math
import re
from dataclasses import replace

import numpy as np
import pytest

from topwork.core.task import Task
from topwork.metrics.calibration import calibration_error, reliability
from topwork.metrics.history import History
from topwork.reports.report.drawings import (
    EPOCHS,
    NUMBERS,
    draw_calibration,
    draw_curves,
    draw_numbers,
)
from topwork.reports.report.judging import judge


def history(val_loss, metric="accuracy", best=2):
    count = len(val_loss)
    loss = [1 / (n + 1) for n in range(count)]
    rising = [0.5 + 0.4 * n / count for n in range(count)]
    return History(
        {"loss": loss, metric: rising, "val_loss": val_loss, f"val_{metric}": rising}, best
    )


def test_an_overfitting_head_is_shaded_from_where_it_turns():
    curves = draw_curves(history([1.0, 0.5, 0.7, 0.9]))
    assert "overfits from epoch 3" in curves.verdict
    assert "Epoch 2 of 4 was kept" in curves.verdict
    assert [name for name, _ in curves.charts] == ["accuracy", "loss"]
    assert all('class="span"' in chart for _, chart in curves.charts)
    assert "at the kept epoch 2 0.500" in curves.charts[1][1]
    assert [row[0] for row in curves.rows] == [1, 2, 3, 4]


def test_a_head_that_does_not_overfit_is_not_shaded():
    curves = draw_curves(history([1.0, 0.9, 0.8, 0.7]))
    assert "does not overfit" in curves.verdict
    assert not any('class="span"' in chart for _, chart in curves.charts)


def test_a_single_step_has_figures_and_no_chart():
    curves = draw_curves(history([0.4], best=1))
    assert curves.charts == []
    assert len(curves.rows) == 1
    assert "single step" in curves.verdict


def test_a_training_that_diverged_says_so():
    curves = draw_curves(history([1.0, 0.9, math.nan]))
    assert "from epoch 3 the loss is not finite" in curves.verdict


def test_numbers_have_their_own_words_and_long_trainings_few_rows():
    found = draw_curves(history([1.0 / (n + 1) for n in range(900)], "mae", 777))
    assert found.charts[0][0] == "mean absolute error"
    assert "lowest validation loss" in found.verdict
    assert len(found.rows) <= EPOCHS + 1
    assert 777 in [row[0] for row in found.rows]
    assert found.names[-1] == "validation mean absolute error"


@pytest.mark.parametrize("task", [Task.CLASSES, Task.BINARY, Task.LABELS])
def test_the_calibration_chart_is_that_of_calibration(make, task):
    made = make(task, 200)
    found = judge(made.model, made.predictions)
    calibrated = draw_calibration(found)
    truth, chances = found.truth, found.chances
    if task is Task.LABELS:
        truth = truth.ravel().astype(int)
        chances = np.stack([1 - chances.ravel(), chances.ravel()], axis=1)
    assert calibrated.here[1] == pytest.approx(calibration_error(chances, truth), abs=1e-6)
    table = reliability(chances, truth)
    assert [item.count for item in calibrated.bins] == table.count[table.count > 0].tolist()
    right = np.array([item.accuracy * item.count for item in calibrated.bins]).sum()
    assert right == pytest.approx((chances.argmax(axis=1) == truth).sum())
    assert len(re.findall('class="m0"', calibrated.chart)) == len(calibrated.bins)
    assert calibrated.unit == ("decisions" if task is Task.LABELS else "images")
    calibration = made.model.calibration
    assert calibrated.fitted == (calibration.error_before, calibration.error_after)


def test_before_is_without_the_temperature(make):
    made = make(Task.CLASSES, 200)
    cooled = replace(
        made.predictions, logits=made.predictions.logits / np.float32(made.model.temperature)
    )
    calibrated = draw_calibration(judge(made.model, cooled))
    first = draw_calibration(judge(made.model, made.predictions))
    assert calibrated.here[0] == pytest.approx(first.here[1], abs=1e-6)


def test_numbers_have_ranges_that_cover(make):
    made = make(Task.NUMBER, 500)
    charts = draw_numbers(judge(made.model, made.predictions))
    assert [chart.name for chart in charts] == ["price", "kilos"]
    assert all(chart.covered > 0.85 for chart in charts)
    assert draw_calibration(judge(made.model, made.predictions)) is None
    few = make(Task.NUMBER, 3)
    assert draw_numbers(judge(few.model, few.predictions))[0].half_width == ""
    names = tuple(f"n{n}" for n in range(NUMBERS + 3))
    many = make(Task.NUMBER, 9, names=names)
    assert len(draw_numbers(judge(many.model, many.predictions))) == NUMBERS
