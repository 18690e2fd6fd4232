from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multinomial, permutation_test

from topwork.metrics.intervals import share_interval, wilson_interval
from topwork.metrics.significance import (
    flip_signs,
    holm,
    mcnemar,
    paired_interval,
    paired_share_interval,
)


@pytest.mark.parametrize("worse", range(7))
@pytest.mark.parametrize("better", range(7))
def test_mcnemar_counts_all_divisions_as_uneven(worse, better):
    count = worse + better
    divisions = [comb(count, k) / 2**count for k in range(count + 1)]
    gap = abs(better - worse)
    wanted = sum(share for k, share in enumerate(divisions) if abs(2 * k - count) >= gap)
    assert mcnemar(worse, better) == pytest.approx(wanted)


def test_the_interval_of_newcombes_example():
    # Newcombe 1998, table II: 20, 12, 2 and 16 of 50 give 0.0562 to 0.3292 by method 10.
    low, high = paired_interval(20, 2, 12, 16)
    assert (low, high) == (pytest.approx(0.0562, abs=1e-4), pytest.approx(0.3292, abs=3e-4))


counts = st.integers(0, 60)


@given(counts, counts, counts, counts)
def test_an_interval_holds_the_difference_and_turns_round_with_it(both, worse, better, neither):
    count = both + worse + better + neither
    if not count:
        return
    low, high = paired_interval(both, worse, better, neither)
    assert -1 <= low <= (better - worse) / count + 1e-12
    assert (better - worse) / count - 1e-12 <= high <= 1
    assert paired_interval(both, better, worse, neither) == (
        pytest.approx(-high), pytest.approx(-low)
    )  # fmt: skip
    assert paired_interval(neither, worse, better, both) == (
        pytest.approx(low), pytest.approx(high)
    )  # fmt: skip


def test_without_anything_in_common_it_is_that_of_independent_shares():
    # Phi is 0 where one of the margins is: Newcombe's interval for unpaired shares.
    low, high = paired_interval(0, 0, 6, 4)
    first, other = wilson_interval(0, 10), wilson_interval(6, 10)
    assert low == pytest.approx(0.6 - np.hypot(0.6 - other[0], first[1]))
    assert high == pytest.approx(0.6 + np.hypot(other[1] - 0.6, 0 - first[0]))


@pytest.mark.parametrize(
    ("shares", "most"),
    # Where models hardly ever differ, the interval is wider than it need be.
    [((0.7, 0.1, 0.1, 0.1), 0.99), ((0.6, 0.05, 0.2, 0.15), 0.99), ((0.9, 0.02, 0.05, 0.03), 1)],
)
def test_intervals_hold_the_truth_nineteen_times_in_twenty(shares, most):
    count = 24
    truth = shares[2] - shares[1]
    tables = [t for t in product(range(count + 1), repeat=3) if sum(t) <= count]
    held = 0.0
    for table in tables:
        whole = (*table, count - sum(table))
        low, high = paired_interval(*whole)
        if low <= truth <= high:
            held += multinomial.pmf(whole, count, shares)
    assert 0.94 < held < most


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_few_signs_are_flipped_in_all_ways(count, seed):
    gains = np.random.default_rng(seed).normal(0.5, 1, count).round(1)
    gains = gains[gains != 0]
    sums = [abs(np.dot(signs, gains)) for signs in product((-1, 1), repeat=len(gains))]
    wanted = np.mean([found >= abs(gains.sum()) - 1e-9 for found in sums])
    assert flip_signs(gains) == pytest.approx(wanted)
    assert flip_signs(np.concatenate([gains, np.zeros(50)])) == pytest.approx(wanted)


@pytest.mark.parametrize("mean", [0.0, 0.1, 0.3])
def test_many_signs_are_flipped_by_chance(mean):
    gains = np.random.default_rng(5).normal(mean, 1, 80)
    wanted = permutation_test(
        (gains,), np.mean, permutation_type="samples", n_resamples=50_000, vectorized=True
    ).pvalue
    assert flip_signs(gains) == pytest.approx(wanted, abs=0.015)
    assert flip_signs(gains) == flip_signs(gains)
    assert flip_signs(-gains) == pytest.approx(flip_signs(gains), abs=0.01)


def test_no_chance_is_never_said():
    assert flip_signs(np.ones(1000)) == pytest.approx(1e-4)
    assert flip_signs(np.zeros(5)) == flip_signs(np.zeros(0)) == 1
    assert mcnemar(0, 0) == 1


def test_many_images_fit_in_memory():
    gains = np.random.default_rng(0).normal(0.02, 1, 500)
    whole = flip_signs(gains)
    assert flip_signs(gains, block=499) == pytest.approx(whole, abs=0.02)


def test_holms_own_correction():
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1, 1]


@given(st.lists(st.floats(0, 1), max_size=6))
def test_corrected_p_values_reject_as_holm_says(p_values):
    found = holm(p_values)
    rejected = set()
    for step, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        if p_values[place] * (len(p_values) - step) >= 0.05:
            break
        rejected.add(place)
    assert {n for n, p in enumerate(found) if p < 0.05} == rejected
    assert all(p <= q <= 1 for p, q in zip(p_values, found, strict=True))


@given(counts, counts, counts, counts)
def test_shares_of_single_decisions_differ_about_as_newcombe_says(both, worse, better, neither):
    numbers = both, worse, better, neither
    if not sum(numbers):
        return
    first, other = (np.repeat(right, numbers) for right in ([1.0, 1, 0, 0], [1.0, 0, 1, 0]))
    low, high = paired_share_interval(first, other, 1)
    value = (better - worse) / sum(numbers)
    assert -1 <= low <= value + 1e-9 and value - 1e-9 <= high <= 1
    # Newcombe takes a little less together than they are, for that they are whole.
    assert (low, high) == pytest.approx(paired_interval(*numbers), abs=0.5 / sum(numbers) + 1e-3)


def test_two_models_that_decide_everything_right_may_still_differ():
    low, high = paired_share_interval(np.ones(40), np.ones(40), 5)
    end, _ = share_interval(np.ones(40), 5)
    assert low == pytest.approx(end - 1) and high == pytest.approx(1 - end)


@pytest.mark.parametrize(("share", "loss"), [(0.9, 0.0), (0.9, 0.05), (0.99, 0.005), (0.99, 0.05)])
def test_the_interval_of_paired_labels_holds_the_truth(share, loss):
    rng = np.random.default_rng(1)
    held = []
    for _ in range(600):
        marks, common = rng.random((200, 8)), rng.random((200, 1))
        first = np.where(rng.random((200, 8)) < 0.3, common, marks)
        other = np.where(rng.random((200, 8)) < 0.7, first, rng.random((200, 8)))
        rights = [(first < share).mean(axis=1), (other < share - loss).mean(axis=1)]
        low, high = paired_share_interval(*rights, 8)
        held.append(low <= -loss <= high)
    assert np.mean(held) > 0.92
