import json
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from logits import make_logits

from topwork.core.errors import DatasetError, SettingsError
from topwork.metrics.calibration import softmax
from topwork.metrics.conformal import (
    Residuals,
    conformal_threshold,
    coverage_of,
    find_residuals,
    label_sets,
    nonconformity,
    thinned,
)

COUNTS = st.integers(1, 80)
CLASSES = st.integers(2, 6)
SEEDS = st.integers(0, 10_000)
COVERAGES = st.floats(0.01, 0.99)


class TestLabelSets:
    def test_a_label_scores_what_its_probability_lacks_and_the_top_class_nothing(self):
        rows = np.float32([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])
        scores = nonconformity(rows, np.array([0, 1, 1]))
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, [0, 0.7, 0.6], rtol=1e-6)

    def test_sets_hold_the_labels_up_to_the_threshold_and_never_none(self):
        rows = np.float32([[0.9, 0.06, 0.04], [0.5, 0.3, 0.2], [0.4, 0.35, 0.25]])
        assert label_sets(rows, 0).sum(axis=1).tolist() == [1, 1, 1]
        assert label_sets(rows, 0.7).tolist() == [
            [True, False, False], [True, True, False], [True, True, False],
        ]  # fmt: skip
        assert label_sets(rows, 0.94).sum(axis=1).tolist() == [2, 3, 3]
        assert label_sets(rows, math.inf).all()

    @given(COUNTS, CLASSES, SEEDS, COVERAGES, COVERAGES)
    def test_more_coverage_gives_larger_sets_and_none_is_empty(
        self, count, classes, seed, one, other
    ):
        logits, labels = make_logits(count, classes, seed=seed)
        rows, (less, more) = softmax(logits), sorted((one, other))
        scores = nonconformity(rows, labels)
        small, large = (label_sets(rows, conformal_threshold(scores, c)) for c in (less, more))
        assert small.any(axis=1).all()
        assert (small <= large).all()
        # What the threshold was made from is covered as promised, to the last float.
        assert coverage_of(large, labels)[0] >= more

    @given(st.integers(1, 300), st.integers(1, 99))
    @example(49, 56)
    def test_the_threshold_is_the_score_of_the_corrected_rank(self, count, percent):
        scores = np.random.default_rng(count).permutation(count).astype(np.float32)
        rank = -(-(count + 1) * percent // 100)
        wanted = rank - 1 if rank <= count else math.inf
        assert conformal_threshold(scores, percent / 100) == wanted

    @pytest.mark.parametrize(("coverage", "enough"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19)])
    def test_too_few_images_promise_nothing(self, coverage, enough):
        scores = np.linspace(1, 0, enough, dtype=np.float32)
        assert conformal_threshold(scores, coverage) == 1
        assert conformal_threshold(scores, coverage + 0.001) == math.inf

    @pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
    @pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
    def test_new_images_are_covered_as_often_as_promised(self, temperature, coverage):
        repeats, count = 300, 59
        logits, labels = make_logits(repeats * 2 * count, temperature=temperature, seed=3)
        logits = logits.reshape(repeats, 2, count, -1)
        labels = labels.reshape(repeats, 2, count)
        shares = []
        for (known, new), (known_labels, new_labels) in zip(logits, labels, strict=True):
            threshold = conformal_threshold(nonconformity(softmax(known), known_labels), coverage)
            shares.append(coverage_of(label_sets(softmax(new), threshold), new_labels)[0])
        accuracy = (logits.argmax(axis=-1) == labels).mean()
        noise = 3 * np.std(shares) / math.sqrt(repeats)
        # 60 ranks divide each of these coverages, so without ties it is reached exactly; the
        # top class alone may cover more.
        assert np.mean(shares) >= coverage - noise
        assert np.mean(shares) <= max(coverage, accuracy) + noise

    def test_sets_are_smaller_than_those_of_summed_probabilities(self):
        logits, labels = make_logits(4000, classes=8, seed=5)
        rows = softmax(logits)
        order = np.argsort(-rows, axis=1)
        sums = np.take_along_axis(rows, order, axis=1).cumsum(axis=1)
        summed = np.empty_like(sums)
        np.put_along_axis(summed, order, sums, axis=1)
        threshold = np.sort(summed[np.arange(4000), labels])[math.ceil(4001 * 0.9) - 1]
        _, adaptive = coverage_of(summed <= threshold, labels)
        own = label_sets(rows, conformal_threshold(nonconformity(rows, labels), 0.9))
        share, size = coverage_of(own, labels)
        assert share == pytest.approx(0.9, abs=0.002)
        assert size < 0.9 * adaptive

    def test_coverage_and_size_of_given_sets(self):
        sets = np.array([[True, False, True], [False, True, False], [True, True, True]])
        assert coverage_of(sets, np.array([0, 0, 2])) == pytest.approx((2 / 3, 2))


def make_numbers(count, widths, seed=0):
    """Predicted and true numbers whose errors have these deviations, and tails."""
    rng = np.random.default_rng(seed)
    true = rng.normal(100, 30, (count, len(widths)))
    errors = rng.standard_t(4, (count, len(widths))) * widths
    return (true + errors).astype(np.float32), true


class TestResiduals:
    @pytest.mark.parametrize("widths", [(5,), (0.01, 3, 400)])
    @pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95])
    def test_ranges_hold_the_truth_as_often_as_promised(self, widths, coverage):
        shares = []
        for seed in range(200):
            predicted, true = make_numbers(59 + 500, np.array(widths), seed)
            found = find_residuals(predicted[:59], true[:59], "folds")
            reach = found.half_widths(coverage)
            inside = np.abs(predicted[59:] - true[59:]) <= reach
            shares.append(inside.all(axis=1).mean())
        # 60 ranks divide each of these coverages. The errors' own scales take part in the fit.
        slack = 3 * np.std(shares) / math.sqrt(len(shares)) + (len(widths) > 1) * 0.01
        assert np.mean(shares) == pytest.approx(coverage, abs=slack)

    def test_each_of_several_numbers_has_a_range_of_its_own_size(self):
        predicted, true = make_numbers(4000, np.array([0.01, 3, 400]))
        reach = find_residuals(predicted, true, "folds").half_widths(0.9)
        assert reach.shape == (3,)
        np.testing.assert_allclose(reach / reach[1], [0.01 / 3, 1, 400 / 3], rtol=0.15)

    def test_one_number_has_its_absolute_errors_in_order(self):
        predicted, true = np.float32([[3], [1], [10]]), np.array([[1.0], [1.5], [9.0]])
        found = find_residuals(predicted, true, "validation")
        assert found.scores.tolist() == [0.5, 1, 2]
        assert found.scales.tolist() == [1]
        assert found.half_widths(0.5).tolist() == [1]

    def test_a_number_that_is_always_right_has_a_range_too(self):
        true = np.array([[1.0, 5.0], [2.0, 6.0]])
        found = find_residuals(
            true.astype(np.float32) + np.float32([[0, 1], [0, 1]]), true, "folds"
        )
        assert found.scales.tolist() == [1, 1]
        assert found.half_widths(0.5).tolist() == [1, 1]

    @pytest.mark.parametrize(("coverage", "enough"), [(0.5, 1), (0.9, 9), (0.95, 19)])
    def test_too_few_images_promise_nothing(self, coverage, enough):
        predicted, true = make_numbers(enough, np.array([2.0]))
        found = find_residuals(predicted, true, "folds")
        assert np.isfinite(found.half_widths(coverage)).all()
        assert found.half_widths(coverage + 0.001).tolist() == [math.inf]

    @pytest.mark.parametrize("coverage", [0, 1, -1, math.nan])
    def test_a_coverage_must_lie_between_0_and_1(self, coverage):
        found = find_residuals(*make_numbers(30, np.array([2.0])), "folds")
        with pytest.raises(SettingsError, match=f"between 0 and 1.*got {coverage}"):
            found.half_widths(coverage)

    @pytest.mark.parametrize("widths", [(5,), (0.01, 3)])
    def test_they_come_back_from_json(self, widths):
        found = find_residuals(*make_numbers(1500, np.array(widths)), "folds")
        again = Residuals.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
        assert len(found.scores) == 1000
        assert np.array_equal(again.scores, found.scores)
        assert np.array_equal(again.scales, found.scales)
        assert again.source == "folds"

    @pytest.mark.parametrize("name", ["scores", "scales", "source"])
    @pytest.mark.parametrize(
        "value",
        [None, "x", True, -1, math.nan, [], [0.5, 0.1, "x"], [0.1, None], [-1.0], [math.nan], {},
         [[0.1]], [10**400]],
    )  # fmt: skip
    def test_damaged_content_is_refused(self, name, value):
        data = find_residuals(*make_numbers(30, np.array([2.0])), "validation").to_json()
        with pytest.raises((KeyError, TypeError, ValueError, OverflowError)):
            Residuals.from_json(data | {name: value})

    @pytest.mark.parametrize("scores", [[0.5, 0.1], [0.0] * 1001])
    def test_scores_ascend_and_are_a_thousand_at_most(self, scores):
        data = {"scores": scores, "scales": [1.0], "source": "folds"}
        with pytest.raises(ValueError, match="ascending"):
            Residuals.from_json(data)

    @given(st.integers(1, 2500), st.floats(0.001, 0.998))
    def test_a_thousand_scores_promise_no_less_than_all(self, count, coverage):
        scores = np.sort(np.random.default_rng(count).random(count))
        kept = thinned(scores)
        assert len(kept) == min(count, 1000)
        found = conformal_threshold(kept, coverage)
        assert found >= conformal_threshold(scores, coverage)
        higher = min(coverage + 1 / 1000 + 1 / count, 0.9999)
        assert found <= conformal_threshold(scores, higher)


class TestBadInput:
    @pytest.mark.parametrize("threshold", [-0.1, math.nan])
    def test_a_threshold_of_sets_must_not_be_negative(self, threshold):
        with pytest.raises(SettingsError, match="threshold must be 0 or more"):
            label_sets(softmax(make_logits(3)[0]), threshold)

    @pytest.mark.parametrize("scores", [[], [[0.1]], [0.1, math.nan]])
    def test_scores_must_be_a_row_of_numbers(self, scores):
        with pytest.raises(DatasetError, match="scores must be"):
            conformal_threshold(np.array(scores, np.float32), 0.9)

    @pytest.mark.parametrize("sets", [np.zeros((2, 3)), np.zeros(3, bool), np.zeros((0, 3), bool)])
    def test_sets_must_be_bool(self, sets):
        with pytest.raises(DatasetError, match="sets must be"):
            coverage_of(sets, np.zeros(len(sets), int))

    @pytest.mark.parametrize("coverage", [0, 1, 1.5, -0.1, math.nan, math.inf])
    def test_a_coverage_must_lie_between_0_and_1(self, coverage):
        with pytest.raises(SettingsError, match=f"between 0 and 1.*got {coverage}"):
            conformal_threshold(np.float32([0.1, 0.5]), coverage)

    @pytest.mark.parametrize(
        "labels", [[0, 1], [0, 1, 5], [0, 1, -1], [[0], [1], [2]], [0.0, 1.0, 2.0]]
    )
    def test_labels_must_be_classes_of_the_images(self, labels):
        rows, labels = softmax(make_logits(3)[0]), np.array(labels)
        for call in (
            lambda: nonconformity(rows, labels),
            lambda: coverage_of(rows > 0.1, labels),
        ):
            with pytest.raises(DatasetError, match="labels must be"):
                call()

    @pytest.mark.parametrize("sign", [1, -1])
    def test_logits_are_not_taken_for_probabilities(self, sign):
        logits, labels = make_logits(3)
        logits = sign * np.abs(logits)
        for call in (lambda: nonconformity(logits, labels), lambda: label_sets(logits, 0.5)):
            with pytest.raises(DatasetError, match="apply `softmax`"):
                call()
