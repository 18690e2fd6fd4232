import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
)

from topwork.metrics import make_report, wilson_interval


@given(st.integers(1, 200), st.integers(2, 7), st.integers(0, 1000))
def test_report_agrees_with_scikit_learn(count, classes, seed):
    true, predicted = np.random.default_rng(seed).integers(0, classes, (2, count))
    report = make_report(true, predicted, classes)
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
    report = make_report(true, predicted, 4)
    assert report.macro_accuracy == pytest.approx((0.75 + 1) / 2)
    present = balanced_accuracy_score(np.array([0, 0, 1]), np.array([0, 1, 1]))
    report = make_report(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
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
