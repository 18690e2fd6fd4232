"""What wrong labels look like, and how that ranks them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from topwork.inspection.label_issues import count_confident, rank_classes, score_labels
from topwork.inspection.label_noise import find_concentration, weigh_by_noise


def make_beliefs(kind, classes=6, count=1200, share=0.2, seed=0):
    """Returns what a head believes that is often unsure, given labels, and which are wrong."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, count)
    logits = rng.normal(0, 1.3, (count, classes))
    logits[np.arange(count), true] += 3
    given = true.copy()
    chosen = rng.choice(count, round(share * count), replace=False)
    steps = 1 if kind == "pairs" else rng.integers(1, classes, len(chosen))
    given[chosen] = (given[chosen] + steps) % classes
    # What it learnt of the wrong labels draws it to them a little.
    logits[np.arange(count), given] += 1
    beliefs = np.exp(logits)
    return beliefs / beliefs.sum(axis=1, keepdims=True), given, given != true


@pytest.mark.parametrize("classes", [3, 6, 20])
@pytest.mark.parametrize("seed", range(3))
def test_labels_that_are_wrong_in_any_way_are_not_concentrated(classes, seed):
    beliefs, labels, _ = make_beliefs("uniform", classes, seed=seed)
    joint = count_confident(beliefs, labels)
    assert find_concentration(joint) < 0.1
    assert np.array_equal(weigh_by_noise(beliefs, labels, joint), beliefs)


@pytest.mark.parametrize("classes", [3, 6, 20])
@pytest.mark.parametrize("seed", range(3))
def test_labels_that_are_wrong_in_one_way_are_found_better_by_it(classes, seed):
    beliefs, labels, wrong = make_beliefs("pairs", classes, seed=seed)
    joint = count_confident(beliefs, labels)
    assert find_concentration(joint) > 0.2
    likely = weigh_by_noise(beliefs, labels, joint)
    np.testing.assert_allclose(likely.sum(axis=1), 1)
    before, after = (
        average_precision_score(wrong, score_labels(values, labels)) for values in (beliefs, likely)
    )
    assert after > before


@given(st.lists(st.integers(0, 9), min_size=9, max_size=9))
def test_concentration_is_the_share_of_pairs_that_agree(counts):
    joint = np.array(counts).reshape(3, 3)
    pairs = [
        (one, other)
        for true in range(3)
        for wrong in [[k for k in range(3) if k != true for _ in range(joint[k, true])]]
        for n, one in enumerate(wrong)
        for other in wrong[n + 1 :]
    ]
    agree = np.mean([one == other for one, other in pairs]) if pairs else 0.5
    error = 0.5 / np.sqrt(max(len(pairs), 1))
    assert find_concentration(joint) == pytest.approx(max(0, (agree - 0.5 - 3 * error) / 0.5))


def test_a_few_wrong_labels_say_nothing():
    assert find_concentration(np.array([[9, 0, 0], [3, 9, 0], [0, 0, 9]])) == 0
    assert find_concentration(np.array([[9, 0, 0], [30, 9, 0], [0, 0, 9]])) > 0.8


def test_two_classes_have_one_way_to_be_wrong_alone():
    beliefs, labels, _ = make_beliefs("pairs", 2)
    joint = count_confident(beliefs, labels)
    assert find_concentration(joint) == 0
    assert np.array_equal(weigh_by_noise(beliefs, labels, joint), beliefs)


def test_images_that_were_not_judged_stay_so_and_suspects_are_the_likeliest_first():
    beliefs, labels, wrong = make_beliefs("pairs")
    beliefs[::50] = np.nan
    joint = count_confident(beliefs, labels)
    likely = weigh_by_noise(beliefs, labels, joint)
    assert np.array_equal(np.isnan(likely), np.isnan(beliefs))
    names = list("abcdef")
    issues = rank_classes(beliefs, labels, names)
    assert [issue.score for issue in issues] == sorted((i.score for i in issues), reverse=True)
    assert min(issue.score for issue in issues) > 0.5
    for issue in issues:
        row = likely[issue.index].copy()
        row[labels[issue.index]] = -1
        assert issue.suggested == names[row.argmax()]
        assert issue.suggested_probability == beliefs[issue.index, row.argmax()]
    assert np.mean([wrong[issue.index] for issue in issues]) > 0.7
