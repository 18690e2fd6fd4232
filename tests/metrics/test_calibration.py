import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logits import make_logits

from topwork.core.errors import DatasetError, SettingsError
from topwork.metrics.calibration import (
    Calibration,
    abstain,
    as_pairs,
    calibrate,
    calibration_error,
    chance_error,
    fit_temperature,
    reliability,
    selective,
    softmax,
)
from topwork.metrics.conformal import conformal_threshold, coverage_of, label_sets, nonconformity

COUNTS = st.integers(1, 80)
CLASSES = st.integers(2, 6)
SEEDS = st.integers(0, 10_000)


def cross_entropy(logits, labels, temperature):
    from scipy.special import log_softmax

    rows = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return -rows[np.arange(len(labels)), labels].mean()


def certain(count, margin=100.0, classes=3):
    """Logits of a head that is right every time, by a margin."""
    labels = np.arange(count) % classes
    return (margin * np.eye(classes)[labels]).astype(np.float32), labels


class TestTemperature:
    def test_agrees_with_scikit_learn(self):
        from sklearn.base import BaseEstimator, ClassifierMixin
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.frozen import FrozenEstimator

        class Given(ClassifierMixin, BaseEstimator):
            def fit(self, x, y):
                self.classes_ = np.unique(y)
                return self

            def predict(self, x):
                return x.argmax(axis=1)

            def decision_function(self, x):
                return x

        logits, labels = make_logits(3000, temperature=2.5)
        head = FrozenEstimator(Given().fit(logits, labels))
        reference = CalibratedClassifierCV(head, method="temperature")
        wanted = reference.fit(logits.astype(np.float64), labels).predict_proba(logits)
        found = softmax(logits, fit_temperature(logits, labels))
        np.testing.assert_allclose(found, wanted, atol=1e-3)

    @pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 3.0])
    def test_is_the_lowest_point_of_the_cross_entropy(self, temperature):
        logits, labels = make_logits(1000, temperature=temperature)
        grid = np.geomspace(0.05, 20, 600)
        lowest = grid[np.argmin([cross_entropy(logits, labels, t) for t in grid])]
        assert fit_temperature(logits, labels) == pytest.approx(lowest, rel=0.015)

    @pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
    def test_recovers_what_logits_were_scaled_with(self, temperature):
        logits, labels = make_logits(20_000, temperature=temperature)
        assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)

    def test_is_the_same_whatever_is_added_to_an_images_logits(self):
        logits, labels = make_logits(500, temperature=2.0)
        shifted = logits + np.arange(500, dtype=np.float32)[:, None]
        assert fit_temperature(shifted, labels) == pytest.approx(
            fit_temperature(logits, labels), rel=1e-3
        )

    def test_images_that_are_all_right_do_not_make_a_model_certain(self):
        logits, labels = certain(20, margin=3.0)
        top = softmax(logits, fit_temperature(logits, labels)).max()
        assert 1 - 1 / 20 < top < 1 - 1 / 2000

    @pytest.mark.parametrize("margin", [0.0, 100.0, 1e30])
    def test_keeps_the_heads_scale_where_the_images_say_nothing(self, margin):
        assert fit_temperature(*certain(30, margin)) == pytest.approx(1, abs=1e-4)

    def test_stays_within_its_bounds(self):
        logits, labels = certain(30_000, margin=0.02)
        assert fit_temperature(logits, labels) == pytest.approx(0.05, rel=1e-4)
        assert fit_temperature(logits * 1e5, (labels + 1) % 3) == pytest.approx(20, rel=1e-4)

    def test_lies_nearer_to_1_the_fewer_the_images(self):
        logits, labels = make_logits(4000, temperature=6.0)
        repeated = [fit_temperature(np.tile(logits[:6], (n, 1)), np.tile(labels[:6], n))
                    for n in (1, 5, 100)]  # fmt: skip
        gaps = [abs(math.log(t)) for t in repeated]
        assert gaps == sorted(gaps) and gaps[0] < gaps[-1]

    def test_does_not_change_its_input(self):
        logits, labels = make_logits(20)
        before = logits.copy()
        fit_temperature(logits, labels)
        assert np.array_equal(logits, before)


class TestCalibrationError:
    @given(COUNTS, CLASSES, SEEDS, st.integers(1, 20))
    def test_agrees_with_a_loop_over_the_bins(self, count, classes, seed, bins):
        logits, labels = make_logits(count, classes, seed=seed)
        rows = softmax(logits)
        total = 0.0
        for index in range(bins):
            low, high = index / bins, (index + 1) / bins
            own = [i for i in range(count) if low < rows[i].max() <= high]
            if own:
                accuracy = sum(rows[i].argmax() == labels[i] for i in own) / len(own)
                confidence = sum(float(rows[i].max()) for i in own) / len(own)
                total += len(own) / count * abs(accuracy - confidence)
        assert calibration_error(rows, labels, bins) == pytest.approx(total, abs=1e-9)

    def test_is_nearly_0_for_a_head_that_is_right_about_itself(self):
        logits, labels = make_logits(50_000)
        assert calibration_error(softmax(logits), labels) < 0.01

    def test_is_the_gap_of_a_head_that_is_always_as_sure(self):
        rows = np.tile(np.float32([0.95, 0.05]), (1000, 1))
        labels = (np.arange(1000) >= 700).astype(np.int64)
        assert calibration_error(rows, labels) == pytest.approx(0.25, abs=1e-6)

    def test_a_certain_head_is_wrong_as_often_as_it_errs(self):
        rows = np.tile(np.float32([1, 0]), (4, 1))
        assert calibration_error(rows, np.array([0, 0, 0, 1])) == pytest.approx(0.25)

    def test_reliability_counts_every_image_once_and_leaves_empty_bins_undefined(self):
        rows = np.float32([[0.5, 0.5], [0.7, 0.3], [0.72, 0.28], [1, 0]])
        found = reliability(rows, np.array([0, 0, 1, 0]), bins=10)
        np.testing.assert_allclose(found.edges, np.arange(11) / 10)
        assert found.count.tolist() == [0, 0, 0, 0, 1, 0, 1, 1, 0, 1]
        nan = np.nan
        np.testing.assert_allclose(
            found.confidence, [nan, nan, nan, nan, 0.5, nan, 0.7, 0.72, nan, 1], rtol=1e-6
        )
        np.testing.assert_allclose(
            found.accuracy, [nan, nan, nan, nan, 1, nan, 1, 0, nan, 1], rtol=1e-6
        )


class TestAbstain:
    def test_below_the_threshold_there_is_no_answer(self):
        rows = np.float32([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
        assert abstain(rows, 0.8).tolist() == [False, True, False]
        assert abstain(rows, 0.9).tolist() == [False, True, True]
        assert not abstain(rows, 0).any()

    def test_selective_agrees_with_a_count(self):
        logits, labels = make_logits(500)
        rows = softmax(logits)
        answers = [(r.argmax(), y) for r, y in zip(rows, labels, strict=True) if r.max() >= 0.7]
        right = sum(found == true for found, true in answers)
        wanted = (len(answers) / 500, right / len(answers))
        assert selective(rows, labels, 0.7) == pytest.approx(wanted)
        assert selective(rows, labels, 0)[0] == 1

    def test_without_an_answer_there_is_no_accuracy(self):
        share, accuracy = selective(np.float32([[0.6, 0.4]]), np.array([0]), 1)
        assert share == 0 and math.isnan(accuracy)


class TestCalibration:
    def test_mends_a_head_that_is_too_sure(self):
        logits, labels = make_logits(3000, temperature=4.0)
        found = calibrate(logits, labels, "folds")
        assert found.error_before > 0.1
        assert found.error_after < 0.03
        assert found.temperature == fit_temperature(logits, labels)
        rows = found.probabilities(logits)
        assert np.array_equal(rows, softmax(logits, found.temperature))
        assert np.array_equal(rows.argmax(axis=1), logits.argmax(axis=1))
        assert found.error_before == calibration_error(softmax(logits), labels)

    def test_the_error_after_is_that_of_temperatures_fitted_on_other_images(self):
        logits, labels = make_logits(50, temperature=3.0, seed=1)
        order = np.argsort(labels, kind="stable")
        rows = np.empty_like(logits)
        for fold in range(5):
            own = order[fold::5]
            others = np.setdiff1d(order, own)
            rows[own] = softmax(logits[own], fit_temperature(logits[others], labels[others]))
        found = calibrate(logits, labels, "validation")
        assert found.error_after == pytest.approx(calibration_error(rows, labels), abs=1e-6)
        flattered = calibration_error(found.probabilities(logits), labels)
        assert found.error_after != pytest.approx(flattered, abs=1e-6)

    def test_covers_new_images_though_the_scores_share_the_temperatures_images(self):
        shares = []
        for seed in range(150):
            logits, labels = make_logits(1040, temperature=3.0, seed=seed)
            found = calibrate(logits[:39], labels[:39], "validation")
            sets = label_sets(found.probabilities(logits[39:]), found.threshold(0.9))
            shares.append(coverage_of(sets, labels[39:])[0])
        assert np.mean(shares) == pytest.approx(0.9, abs=0.015)

    @pytest.mark.parametrize("count", [1, 2, 4, 5, 6])
    def test_a_handful_of_images_is_enough(self, count):
        found = calibrate(*make_logits(count), "validation")
        assert math.isfinite(found.temperature) and len(found.scores) == count
        assert 0 <= found.error_after <= 1
        assert found.threshold(0.95) == math.inf

    @pytest.mark.parametrize("count", [999, 1000, 1001, 1500, 4321])
    def test_keeps_a_thousand_scores_that_promise_no_less_than_all(self, count):
        logits, labels = make_logits(count, seed=count)
        found = calibrate(logits, labels, "folds")
        scores = nonconformity(found.probabilities(logits), labels)
        assert len(found.scores) == min(count, 1000)
        assert (np.diff(found.scores) >= 0).all()
        for coverage in np.linspace(0.4, 0.998, 300):
            threshold = found.threshold(coverage)
            assert threshold >= conformal_threshold(scores, coverage)
            higher = min(coverage + 1 / 1000 + 1 / count, 0.9999)
            assert threshold <= conformal_threshold(scores, higher)

    def test_is_the_same_again(self):
        first, second = (calibrate(*make_logits(200), "folds").to_json() for _ in range(2))
        assert first == second


class TestJson:
    def test_comes_back_as_it_was(self):
        found = calibrate(*make_logits(300), "folds")
        data = json.loads(json.dumps(found.to_json(), allow_nan=False))
        again = Calibration.from_json(data)
        assert again.scores.dtype == np.float32
        assert np.array_equal(again.scores, found.scores)
        assert replace(again, scores=found.scores) == found

    @pytest.mark.parametrize("name", ["temperature", "error_before", "error_after", "source",
                                      "scores"])  # fmt: skip
    @pytest.mark.parametrize(
        "value", [None, "x", True, -1, 10**400, math.nan, math.inf, [], [0.5, 0.1], [0.1, None],
                  [2.0], [math.nan], [0.0] * 1001, {}, {"a": 1}, [[0.1]]],
    )  # fmt: skip
    def test_damaged_content_is_refused(self, name, value):
        data = calibrate(*make_logits(30), "validation").to_json()
        with pytest.raises((KeyError, TypeError, ValueError)):
            Calibration.from_json(data | {name: value})

    @pytest.mark.parametrize("data", [None, [], "x", 3, {}])
    def test_what_is_not_a_calibration_at_all_is_refused(self, data):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Calibration.from_json(data)

    @pytest.mark.parametrize("name", ["temperature", "error_before", "error_after", "source",
                                      "scores"])  # fmt: skip
    def test_what_is_missing_is_named(self, name):
        data = calibrate(*make_logits(30), "validation").to_json()
        del data[name]
        with pytest.raises(KeyError, match=name):
            Calibration.from_json(data)


class TestBadInput:
    @pytest.mark.parametrize("coverage", [0, 1, 1.5, -0.1, math.nan, math.inf])
    def test_a_coverage_must_lie_between_0_and_1(self, coverage):
        found = calibrate(*make_logits(30), "validation")
        with pytest.raises(SettingsError, match=f"between 0 and 1.*got {coverage}"):
            found.threshold(coverage)

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
    def test_a_threshold_of_answers_must_be_a_probability(self, threshold):
        logits, labels = make_logits(3)
        with pytest.raises(SettingsError, match=r"probability in 0\.\.1"):
            abstain(softmax(logits), threshold)
        with pytest.raises(SettingsError, match=r"probability in 0\.\.1"):
            selective(softmax(logits), labels, threshold)

    def test_there_must_be_a_bin(self):
        logits, labels = make_logits(3)
        with pytest.raises(SettingsError, match="at least 1, got 0"):
            calibration_error(softmax(logits), labels, bins=0)

    def test_a_source_must_be_known(self):
        with pytest.raises(SettingsError, match="validation, folds; got 'test'"):
            calibrate(*make_logits(3), "test")

    @pytest.mark.parametrize(
        "logits", [np.zeros((0, 3)), np.zeros(3), np.zeros((3, 1)), np.zeros((3, 3), int)]
    )
    def test_logits_must_be_images_by_classes(self, logits):
        with pytest.raises(DatasetError, match="logits must be"):
            fit_temperature(logits, np.zeros(len(logits), int))

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_logits_must_be_finite(self, value):
        logits, labels = make_logits(9)
        logits[4, 1] = value
        with pytest.raises(DatasetError, match="1 of 9 images are not, first in row 4"):
            calibrate(logits, labels, "validation")

    @pytest.mark.parametrize(
        "labels", [[0, 1], [0, 1, 5], [0, 1, -1], [[0], [1], [2]], [0.0, 1.0, 2.0]]
    )
    def test_labels_must_be_classes_of_the_images(self, labels):
        logits, labels = make_logits(3)[0], np.array(labels)
        rows = softmax(logits)
        for call in (
            lambda: fit_temperature(logits, labels),
            lambda: calibration_error(rows, labels),
            lambda: selective(rows, labels, 0.5),
        ):
            with pytest.raises(DatasetError, match="labels must be"):
                call()

    @pytest.mark.parametrize("sign", [1, -1])
    def test_logits_are_not_taken_for_probabilities(self, sign):
        logits, labels = make_logits(3)
        logits = sign * np.abs(logits)
        for call in (
            lambda: calibration_error(logits, labels),
            lambda: abstain(logits, 0.5),
        ):
            with pytest.raises(DatasetError, match="apply `softmax`"):
                call()

    def test_probabilities_must_not_be_negative(self):
        with pytest.raises(DatasetError, match="0 or more and sum to 1"):
            abstain(np.float32([[1.5, -0.5]]), 0.5)


@pytest.mark.parametrize(("count", "bins"), [(50, 15), (372, 15), (2000, 10)])
def test_chance_alone_opens_the_gaps_that_an_exact_model_shows(count, bins):
    rng = np.random.default_rng(0)
    shown = softmax(rng.normal(0, 3, (count, 5)).astype(np.float32))
    errors = []
    for _ in range(300):
        labels = (shown.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1).clip(0, 4)
        errors.append(calibration_error(shown, labels, bins))
    assert chance_error(shown, bins) == pytest.approx(np.mean(errors), rel=0.08)


def test_a_single_logit_is_as_sure_as_the_pair_of_it_and_0():
    logits, labels = make_logits(2000, classes=2, temperature=3.0)
    single = logits[:, 1:] - logits[:, :1]
    pairs = as_pairs(single)
    assert pairs.shape == (2000, 2) and not pairs[:, 0].any()
    np.testing.assert_allclose(softmax(pairs), softmax(logits), atol=1e-6)
    assert fit_temperature(pairs, labels) == pytest.approx(
        fit_temperature(logits, labels), rel=1e-4
    )
