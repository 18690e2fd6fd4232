import math

import numpy as np
import pytest
from scipy.stats import norm, t

from topwork.metrics.standard_error import error_of_differences, standard_error


@pytest.mark.parametrize(("images", "folds"), [(240, 3), (240, 5), (1200, 3), (3000, 5)])
@pytest.mark.parametrize("share", [0.7, 0.85, 0.97])
def test_mean_and_error_hold_the_truth_as_often_as_one_standard_error(images, folds, share):
    random = np.random.default_rng(images + folds)
    drawn = random.binomial(images // folds, share, (4000, folds)) / (images // folds)
    errors = np.array([standard_error(values, images) for values in drawn])
    held = np.abs(drawn.mean(axis=1) - share) <= errors
    assert 0.66 < held.mean() < 0.77
    # The spread alone says next to nothing, where there are three folds.
    spread = drawn.std(axis=1, ddof=1) / math.sqrt(folds)
    assert (np.abs(drawn.mean(axis=1) - share) <= spread).mean() < 0.66
    assert np.quantile(errors, 0.05) > 0.5 * math.sqrt(share * (1 - share) / images)


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
def test_the_error_of_numbers_is_widened_for_few_occasions(folds):
    random = np.random.default_rng(folds)
    drawn = random.normal(20, 3, (4000, folds))
    errors = np.array([standard_error(values) for values in drawn])
    assert (np.abs(drawn.mean(axis=1) - 20) <= errors).mean() == pytest.approx(0.683, abs=0.025)


def test_an_error_is_never_below_that_of_so_many_images():
    equal = np.array([0.8, 0.8, 0.8])
    assert standard_error(equal, 300) == pytest.approx(math.sqrt(0.8 * 0.2 / 300), rel=0.01)
    assert standard_error(equal[:1], 300) == pytest.approx(standard_error(equal, 300))
    # Folds that differ by more, as groups of images make them, say more.
    unlike = np.array([0.5, 0.9, 0.7])
    assert standard_error(unlike, 300) == pytest.approx(unlike.std(ddof=1) / math.sqrt(3))
    # All right is not certain; one value of something else says nothing.
    assert 0 < standard_error(np.ones(3), 10) < 0.15
    assert math.isnan(standard_error(np.ones(1)))


@pytest.mark.parametrize("folds", [3, 5])
@pytest.mark.parametrize("others", [1, 4, 7])
def test_equal_candidates_are_called_different_as_often_as_one_error_says(folds, others):
    random = np.random.default_rng(10 * folds + others)
    different = []
    for _ in range(3000):
        scores = random.normal(0.8, 0.02, folds) + random.normal(0, 0.01, (others + 1, folds))
        # Of any two; which is the best is not known before.
        differences = scores[0] - scores[1:]
        error = error_of_differences(differences)
        different.append(abs(differences[0].mean()) > error)
    assert np.mean(different) == pytest.approx(0.33, abs=0.07)


def test_the_error_of_differences_is_that_of_the_nearer_half():
    rows = np.array([[0.0, 0.01, 0.02], [0.3, 0.9, 0.0], [0.01, 0.03, 0.05], [0.2, 0.1, 0.5]])
    near = rows[[0, 2]]
    variance = np.median(near.var(axis=1, ddof=1))
    widened = t.ppf(norm.cdf(1), 4)
    assert error_of_differences(rows) == pytest.approx(widened * math.sqrt(variance / 3))
    assert math.isnan(error_of_differences(rows[:, :1]))
    assert error_of_differences(np.zeros((2, 3))) == 0
