import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    hamming_loss,
    mean_absolute_error,
    mean_squared_error,
    median_absolute_error,
    precision_recall_fscore_support,
    r2_score,
)

from topwork.core.task import Task
from topwork.metrics.intervals import mean_interval, share_interval, wilson_interval
from topwork.metrics.scores import (
    describe_report,
    make_report,
    report_classes,
    report_labels,
    report_numbers,
    say_number,
    say_report,
)


@given(st.integers(1, 200), st.integers(2, 7), st.integers(0, 1000))
def test_report_agrees_with_scikit_learn(count, classes, seed):
    true, predicted = np.random.default_rng(seed).integers(0, classes, (2, count))
    report = report_classes(true, predicted, classes)
    labels = range(classes)
    precision, recall, _, support = precision_recall_fscore_support(
        true, predicted, labels=labels, zero_division=np.nan
    )
    assert report.accuracy == pytest.approx(accuracy_score(true, predicted))
    assert np.array_equal(report.confusion, confusion_matrix(true, predicted, labels=labels))
    assert np.array_equal(report.support, support)
    np.testing.assert_allclose(report.recall, recall)
    np.testing.assert_allclose(report.precision, precision)


def test_macro_accuracy_counts_each_class_that_occurs_the_same():
    true, predicted = np.array([0, 0, 0, 0, 2]), np.array([0, 0, 0, 1, 2])
    report = report_classes(true, predicted, 4)
    assert report.macro_accuracy == pytest.approx((0.75 + 1) / 2)
    present = balanced_accuracy_score(np.array([0, 0, 1]), np.array([0, 1, 1]))
    report = report_classes(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    assert report.macro_accuracy == pytest.approx(present)


@given(st.integers(1, 3000), st.floats(0, 1))
def test_wilson_interval_agrees_with_scipy(count, share):
    from scipy.stats import binomtest

    right = round(share * count)
    wanted = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson_interval(right, count) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_the_interval_covers_the_truth_95_times_in_a_hundred():
    draws = np.random.default_rng(0).binomial(341, 0.85, 4000)
    covered = [low <= 0.85 <= high for low, high in (wilson_interval(int(d), 341) for d in draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def make_labels(count, classes, seed):
    """Returns sets of labels, some of which nobody has, and chances that say something of them."""
    rng = np.random.default_rng(seed)
    true = rng.random((count, classes)) < rng.choice([0, 0.1, 0.5, 1], classes)
    chances = np.round(np.clip(rng.normal(0.35 + 0.3 * true, 0.25), 0, 1), 2).astype(np.float32)
    return true, chances > 0.5, chances


@given(st.integers(1, 60), st.integers(1, 6), st.integers(0, 1000))
def test_the_report_of_labels_agrees_with_scikit_learn(count, classes, seed):
    true, said, chances = make_labels(count, classes, seed)
    report = report_labels(true, said, chances)
    precision, recall, _, _ = precision_recall_fscore_support(
        true, said, average=None, zero_division=np.nan
    )
    assert (report.count, report.metric) == (count, "accuracy")
    assert report.value == report.accuracy == pytest.approx(1 - hamming_loss(true, said))
    # One label is taken for a column of classes, and sets of one are equal just the same.
    assert report.exact == pytest.approx((true == said).all(axis=1).mean())
    if classes > 1:
        assert report.exact == pytest.approx(accuracy_score(true, said))
        np.testing.assert_allclose(report.precision, precision)
        np.testing.assert_allclose(report.recall, recall)
        np.testing.assert_allclose(
            report.f1, f1_score(true, said, average=None, zero_division=np.nan)
        )
    assert np.array_equal(report.support, true.sum(axis=0))
    known = true.any(axis=0)
    wanted = [average_precision_score(true[:, n], chances[:, n]) for n in np.flatnonzero(known)]
    np.testing.assert_allclose(report.average_precision[known], wanted)
    assert np.isnan(report.average_precision[~known]).all()
    figures = report.figures
    assert set(figures) == {"accuracy", "exact", "macro_f1", "mean_average_precision"}
    if known.any():
        assert figures["mean_average_precision"] == pytest.approx(np.mean(wanted))
        each = [f1_score(true[:, n], said[:, n]) for n in np.flatnonzero(known)]
        assert figures["macro_f1"] == pytest.approx(np.mean(each))
    else:
        assert math.isnan(figures["macro_f1"])
    low, high = report.interval
    assert 0 <= low <= report.accuracy + 1e-9 and report.accuracy - 1e-9 <= high <= 1
    assert high - low > 0


@pytest.mark.parametrize("labels", [1, 2, 7])
@pytest.mark.parametrize("count", [1, 2, 15, 341])
def test_labels_that_are_all_right_or_all_wrong_have_an_interval(count, labels):
    true = np.random.default_rng(0).random((count, labels)) < 0.4
    right = report_labels(true, true, true.astype(float))
    assert right.accuracy == 1 and right.interval == wilson_interval(count, count)
    wrong = report_labels(true, ~true, true.astype(float))
    assert wrong.accuracy == 0 and wrong.interval == wilson_interval(0, count)


@given(st.integers(1, 300), st.integers(0, 300))
def test_a_single_decision_about_each_image_has_wilsons_interval(count, right):
    shares = np.arange(count) < right
    wanted = wilson_interval(int(shares.sum()), count)
    found = share_interval(shares.astype(float), 1)
    assert found == pytest.approx(wanted, abs=2e-4)


def draw_shares(rng, share, together, count, decisions):
    """Returns (1000, count) shares of right decisions; those of an image go wrong together."""
    if together == 1:
        return (rng.random((1000, count)) < share).astype(float)
    chances = share
    if together:
        scale = (1 - together) / together
        chances = rng.beta(share * scale, (1 - share) * scale, (1000, count))
    return rng.binomial(decisions, chances, (1000, count)) / decisions


@pytest.mark.parametrize("together", [0, 0.2, 1])
@pytest.mark.parametrize("share", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("count", "decisions"), [(50, 6), (341, 3), (341, 20)])
def test_the_interval_of_labels_covers_the_truth_95_times_in_a_hundred(
    share, together, count, decisions
):
    rng = np.random.default_rng(0)
    draws = draw_shares(rng, share, together, count, decisions)
    ends = [share_interval(draw, decisions) for draw in draws]
    covered = np.mean([low <= share <= high for low, high in ends])
    # Wilson's own, of 50 images that are right 99 times in 100, covers 0.91.
    least = 0.895 if together == 1 and count * (1 - share) < 1 else 0.925
    assert covered >= least
    # And it is not much wider than it need be.
    usual = np.mean([mean_interval(draw) for draw in draws], axis=0)
    if count * (1 - share) > 10:
        assert np.diff(np.mean(ends, axis=0)) < 1.1 * np.diff(usual)


@given(st.integers(2, 60), st.integers(1, 4), st.integers(0, 1000))
def test_the_report_of_numbers_agrees_with_scikit_learn(count, outputs, seed):
    rng = np.random.default_rng(seed)
    true = rng.normal(50, 1, (count, outputs)) * 10.0 ** np.arange(outputs)
    found = (true + rng.normal(0, 0.7, true.shape) * 10.0 ** np.arange(outputs)).astype(np.float32)
    report = report_numbers(true, found)
    assert (report.count, report.metric) == (count, "mae")
    assert report.value == report.mae == pytest.approx(mean_absolute_error(true, found))
    assert report.rmse == pytest.approx(math.sqrt(mean_squared_error(true, found)))
    assert report.r2 == pytest.approx(r2_score(true, found))
    each = mean_absolute_error(true, found, multioutput="raw_values")
    np.testing.assert_allclose(report.maes, each)
    np.testing.assert_allclose(report.r2s, r2_score(true, found, multioutput="raw_values"))
    assert report.median == pytest.approx(np.median(np.abs(found - true)))
    if outputs == 1:
        assert report.median == pytest.approx(median_absolute_error(true, found))
    low, high = report.interval
    errors = np.abs(found.astype(np.float64) - true).mean(axis=1)
    wanted = stats.t.interval(0.95, count - 1, errors.mean(), stats.sem(errors))
    assert (low, high) == pytest.approx((max(0, wanted[0]), wanted[1]))


def test_numbers_that_are_all_the_same_have_no_share_of_variance():
    report = report_numbers(np.array([[5.0, 1], [5, 3]]), np.array([[5.0, 1], [6, 3]]))
    assert math.isnan(report.r2s[0]) and report.r2s[1] == 1
    assert report.r2 == 1
    assert math.isnan(report_numbers(np.array([[5.0], [5]]), np.array([[5.0], [6]])).r2)


@pytest.mark.parametrize("value", [0.1, 0.3, -7.7, 1e-9, 1 / 3, 1e9 + 0.1, np.float32(0.1)])
@pytest.mark.parametrize("count", [1, 3, 10, 999])
def test_the_mean_of_equal_numbers_is_rounded_and_they_do_not_vary(value, count):
    true = np.full((count, 2), value)
    true[:, 1] = np.arange(count) * value
    report = report_numbers(true, true + 0.01 * np.abs(value))
    assert math.isnan(report.r2s[0])
    assert count == 1 or report.r2 == pytest.approx(1 - 0.0001 / np.arange(count).var(), rel=1e-3)
    alone = report_numbers(true[:, :1], true[:, :1] + 1)
    assert math.isnan(alone.r2) and describe_report(alone)["r2"] is None
    assert "no R², all true numbers are the same." in say_report("Test", alone)


def test_numbers_that_differ_by_their_rounding_are_one():
    true = np.array([[0.3], [0.1 + 0.2], [0.3]])
    assert math.isnan(report_numbers(true, true + 1).r2)
    true[0] += 1e-9
    assert report_numbers(true, true).r2 == 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_the_interval_of_a_mean_is_that_of_student(values):
    values = np.array(values)
    wanted = stats.t.interval(0.95, len(values) - 1, values.mean(), values.std(ddof=1) / math.sqrt(
        len(values)) or 1e-300)  # fmt: skip
    assert mean_interval(values) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_the_interval_of_a_mean_covers_it_95_times_in_a_hundred():
    rng = np.random.default_rng(0)
    ends = [mean_interval(rng.normal(3, 2, 12)) for _ in range(4000)]
    assert np.mean([low <= 3 <= high for low, high in ends]) == pytest.approx(0.95, abs=0.012)


REPORTS = {
    Task.CLASSES: (np.array([1]), np.array([1])),
    Task.BINARY: (np.array([0]), np.array([1])),
    Task.LABELS: (np.array([[True, False, False]]), np.array([[True, True, False]])),
    Task.NUMBER: (np.array([[3.0, 4]]), np.array([[5.0, 4]])),
}


@pytest.mark.parametrize("task", Task)
def test_one_image_has_a_report_that_json_can_hold(task):
    true, said = REPORTS[task]
    report = make_report(task, true, said, said.astype(np.float32), 3 if task != "binary" else 2)
    assert report.count == 1 and report.metric == task.metric
    found = json.loads(json.dumps(describe_report(report), allow_nan=False))
    assert found[report.metric] == report.value == report.figures[report.metric]
    if task is Task.NUMBER:
        assert found["interval"] == [0, None] and found["r2"] is None
        assert found["each"] == {"mae": [2, 0], "r2": [None, None]}
    if task is Task.LABELS:
        assert found["interval"] == pytest.approx([0.094, 0.975], abs=1e-3)
        assert found["support"] == [1, 0, 0]
        assert found["average_precision"] == [1, None, None]
    assert "(1 images)" in say_report("Test", report)


def test_sentences_say_the_figures():
    true, said, chances = make_labels(50, 3, 3)
    report = report_labels(true, said, chances)
    text = say_report("Test", report)
    assert text.startswith(f"Test accuracy {report.accuracy:.1%} of all decisions, 95 % interval ")
    assert f"all labels right for {report.exact:.1%} of the images" in text
    numbers = report_numbers(np.array([[20_000.0], [40_000]]), np.array([[21_000.0], [37_000]]))
    assert say_report("Test", numbers) == (
        "Test mean absolute error 2000, 95 % interval 0 to 14706 (2 images); half of the errors "
        "are below 2000, root mean square 2236, R² 0.950."
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (-0.001234567, "-0.001235"), (1234.5678, "1235"), (-12345.6, "-12346"),
     (231093.4, "231093"), (1e-7, "1e-07"), (2.5e13, "2.5e+13"), (math.inf, "inf")],
)  # fmt: skip
def test_a_number_is_said_as_a_person_would(value, said):
    assert say_number(value) == said


@pytest.mark.parametrize(
    ("true", "missing", "words"),
    [
        ([0, 0, 2], [1], "Validation has no images of: bee; the figures say nothing of it."),
        ([2], [0, 1], "Validation has no images of: ant, bee; the figures say nothing of them."),
    ],
)
def test_a_class_without_images_is_named_and_the_macro_average_is_not_one_over_all(
    true, missing, words
):
    report = report_classes(np.array(true), np.array(true), 3)
    assert report.missing.tolist() == missing
    said = say_report("Validation", report, ("ant", "bee", "cow"))
    assert said.endswith(
        f"macro average 100.0% over {3 - len(missing)} of 3 classes alone. {words}"
    )
    assert math.isnan(report.figures["macro_accuracy"])
    found = describe_report(report)
    assert found["macro_accuracy"] is None and found["missing"] == missing


def test_a_label_without_images_is_named():
    true = np.array([[1, 0], [0, 0]], bool)
    report = report_labels(true, true, true.astype(np.float32))
    said = say_report("All images:", report, ("ant", "bee"))
    assert "over 1 of 2 labels alone. The data has no images of: bee; " in said


def test_where_every_class_has_images_nothing_is_added():
    report = report_classes(np.array([0, 1]), np.array([0, 1]), 2)
    assert say_report("Test", report, "ab").endswith("macro average 100.0%.")
    assert report.figures["macro_accuracy"] == 1
