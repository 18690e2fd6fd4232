from itertools import product

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2_contingency, fisher_exact, ks_2samp, multivariate_hypergeom
from sklearn.neighbors import NearestNeighbors

from topwork.core.errors import DatasetError, SettingsError
from topwork.core.task import Task
from topwork.inspection.outliers import (
    LIMIT,
    _chance,
    find_class_overlaps,
    find_outliers,
    find_shifts,
    robust_scale,
)

NAMES = ("dress", "hat", "shirt")


def near(count, seed=0):
    """Vectors that lie around one direction."""
    generator = np.random.default_rng(seed)
    return (np.eye(8)[0] * 5 + generator.normal(size=(count, 8))).astype(np.float32)


@pytest.mark.parametrize("block", [1, 200, 1 << 24])
def test_distances_are_those_of_scikit_learn(block):
    vectors = near(150)
    vectors[[3, 20, 149]] *= [[-1], [0.01], [-7]]
    vectors[20, 4] = 9
    found = find_outliers(vectors, count=150, neighbors=7, block=block)
    tree = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(vectors)
    means = tree.kneighbors()[0].mean(axis=1)
    above = means - np.median(means)
    scores = above / (1.4826 * np.median(np.abs(above)))
    assert found
    assert {o.index for o in found} == set(np.flatnonzero(scores > LIMIT))
    for outlier in found:
        assert outlier.distance == pytest.approx(means[outlier.index], abs=1e-5)
        assert outlier.score == pytest.approx(scores[outlier.index], rel=1e-3)
    assert [o.score for o in found] == sorted((o.score for o in found), reverse=True)
    assert find_outliers(vectors, count=2, neighbors=7, block=block) == found[:2]


def test_an_image_is_compared_with_its_own_class():
    first, second = near(40), -near(40, seed=1)
    vectors = np.concatenate([first, second])
    labels = np.repeat([0, 1], 40)
    labels[0] = 1  # an ordinary image of one class among those of the other
    assert find_outliers(vectors, labels)[0].index == 0
    assert 0 not in {o.index for o in find_outliers(vectors)}


def test_a_class_of_images_that_differ_is_no_class_of_outliers():
    vectors = np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)
    vectors[:90, 0] += 40
    assert find_outliers(vectors)
    assert find_outliers(vectors, np.repeat([0, 1], [90, 30])) == []


def test_an_image_that_is_alone_in_its_class_is_not_judged():
    vectors = near(40)
    vectors[0] = -vectors[0]
    labels = np.zeros(40, int)
    assert find_outliers(vectors, labels)[0].index == 0
    labels[0] = 1
    assert 0 not in {o.index for o in find_outliers(vectors, labels)}
    assert find_outliers(vectors[:1]) == []


@pytest.mark.parametrize("value", [0, 3, 1e30, 1e-30])
def test_constant_vectors_have_no_outlier_but_the_one_that_differs(value):
    vectors = np.full((30, 4), value, np.float32)
    assert find_outliers(vectors) == []
    vectors[5] = [1, -1, 1, -1]
    found = find_outliers(vectors)
    if value:
        assert [o.index for o in found] == [5]
        assert found[0].distance == pytest.approx(1, abs=1e-5)
    else:  # zeros are at distance 1 from everything
        assert found == []


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 12), st.integers(1, 3)),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    ),
    st.lists(st.integers(0, 3), min_size=12, max_size=12),
    st.integers(1, 20),
)
def test_outliers_are_sound_whatever_the_vectors(vectors, labels, neighbours):
    found = find_outliers(vectors, np.array(labels[: len(vectors)]), neighbors=neighbours)
    assert len({o.index for o in found}) == len(found)
    for outlier in found:
        assert 0 <= outlier.index < len(vectors)
        assert 0 <= outlier.distance <= 2
        assert LIMIT < outlier.score < np.inf


def test_vectors_that_are_not_finite_are_refused():
    vectors = near(10)
    vectors[4, 2] = np.nan
    with pytest.raises(DatasetError, match=r"NaN or infinity in 1 of 10 rows, .* row 4"):
        find_outliers(vectors)
    with pytest.raises(DatasetError, match="as many labels"):
        find_outliers(near(10), np.zeros(9, int))
    for wrong in ({"neighbors": 0}, {"count": -1}):
        with pytest.raises(SettingsError, match="neighbours must be 1 or more, and count 0"):
            find_outliers(near(10), **wrong)


def test_the_robust_scale_of_normal_values_is_their_deviation():
    values = np.random.default_rng(0).normal(0, 3, 100_000)
    assert robust_scale(values) == pytest.approx(3, rel=0.02)
    values[:1000] = 1e9
    assert robust_scale(values) == pytest.approx(3, rel=0.05)
    assert robust_scale(np.array([0, 0, 0, 4.0])) == pytest.approx(1.2533)
    assert robust_scale(np.zeros(3)) == 0


def answers(confusion):
    """Probabilities and labels whose confusion is the given one."""
    pairs = [(i, j) for i, row in enumerate(confusion) for j, n in enumerate(row) for _ in range(n)]
    labels, taken = np.array(pairs).T
    return np.eye(len(confusion))[taken] * 0.7 + 0.1, labels


def test_classes_that_are_mistaken_for_each_other_are_found():
    p, labels = answers([[50, 2, 48], [1, 99, 0], [50, 0, 50]])
    (pair,) = find_class_overlaps(p, labels, NAMES)
    assert (pair.first, pair.second, pair.mistaken, pair.count) == ("dress", "shirt", 98, 198)
    assert pair.error == pytest.approx((48 / 98 + 50 / 100) / 2)
    low, high = pair.interval
    assert 0.4 < low < pair.error < high < 0.6
    p[labels == 2] = np.nan
    assert find_class_overlaps(p, labels, NAMES) == []


def test_the_interval_holds_the_true_error_as_often_as_it_says():
    generator = np.random.default_rng(0)
    held = []
    for _ in range(300):
        a, b = generator.binomial(400, 0.3), generator.binomial(30, 0.4)
        (pair,) = find_class_overlaps(*answers([[400 - a, a], [b, 30 - b]]), NAMES[:2], share=0)
        held.append(pair.interval[0] <= 0.35 <= pair.interval[1])
    assert 0.91 < np.mean(held) < 0.99


def test_a_rare_class_that_is_never_answered_is_found():
    p, labels = answers([[1000, 0], [20, 0]])
    (pair,) = find_class_overlaps(p, labels, NAMES[:2])
    assert pair.error == 0.5
    assert pair.mistaken / pair.count < 0.02


def test_few_mistakes_prove_nothing():
    assert find_class_overlaps(*answers([[4, 1], [1, 4]]), NAMES[:2]) == []
    assert find_class_overlaps(*answers([[40, 10], [10, 40]]), NAMES[:2])
    assert find_class_overlaps(*answers([[1, 0, 0], [0, 1, 0], [0, 0, 0]]), NAMES) == []
    assert len(find_class_overlaps(*answers([[95, 5], [5, 95]]), NAMES[:2], share=0.01)) == 1


def test_probabilities_must_fit_the_classes():
    with pytest.raises(DatasetError, match="a column for each of 3 classes"):
        find_class_overlaps(np.ones((2, 2)), np.zeros(2, int), NAMES)
    with pytest.raises(DatasetError, match=r"0\.\.2, received 3\.\.3"):
        find_class_overlaps(np.ones((2, 3)), np.full(2, 3), NAMES)


def divided(train, validation, test):
    return np.repeat(["train", "validation", "test"], [train, validation, test])


def test_shares_that_differ_are_found_and_those_that_do_not_are_not():
    counts = np.array([[300, 200, 100], [60, 40, 20], [20, 50, 50]])
    labels = np.concatenate([np.repeat([0, 1, 2], row) for row in counts])
    (shift,) = find_shifts(divided(600, 120, 120), labels, NAMES, {}, Task.CLASSES)
    assert (shift.split, shift.what) == ("test", "classes")
    # Two comparisons: Holm doubles the smaller p-value.
    assert shift.p_value == pytest.approx(2 * chi2_contingency(counts[[0, 2]]).pvalue)
    assert shift.distance == pytest.approx(1 / 2 - 1 / 6)
    assert shift.detail.startswith("dress is 16.7% of test, 50.0% of train; shirt is 41.7%")


@pytest.mark.parametrize(
    "counts", [[[60, 70, 2], [5, 9, 4]], [[12, 4], [1, 5]], [[9, 0, 1, 3], [2, 5, 3, 3]]]
)
def test_rare_classes_are_compared_by_dealing_out_anew(counts):
    counts = np.array(counts)
    totals, size = counts.sum(axis=0), counts[1].sum()
    ways = np.array([w for w in product(*(range(n + 1) for n in totals)) if sum(w) == size])
    unlike = ((ways - totals * size / totals.sum()) ** 2 @ (1 / totals)).round(9)
    chances = multivariate_hypergeom.pmf(ways, totals, size)
    exact = chances[unlike >= unlike[(ways == counts[1]).all(axis=1)]].sum()
    assert _chance(counts) == pytest.approx(exact, abs=0.0005 + 0.1 * exact)


def test_a_new_class_is_found_though_it_is_rare():
    labels = np.concatenate([np.repeat([0, 1, 2], row) for row in ([300, 300, 0], [60, 60, 8])])
    (shift,) = find_shifts(divided(600, 0, 128), labels, NAMES, {}, Task.CLASSES)
    assert shift.p_value == 1 / 10_000
    assert shift.detail.startswith("shirt is 6.2% of test, 0.0% of train")


@pytest.mark.parametrize(
    ("labels", "splits"),
    [
        ([0] * 20, divided(10, 0, 10)),  # a single class
        ([0, 1, 2], divided(1, 1, 1)),
        ([0, 1, 2], divided(3, 0, 0)),
        ([0, 1, 2], divided(0, 1, 2)),
        ([], divided(0, 0, 0)),
    ],
)
def test_what_cannot_be_compared_is_no_shift(labels, splits):
    labels = np.array(labels, int)
    numbers = {"brightness": np.zeros(len(labels))}
    assert find_shifts(splits, labels, NAMES, numbers, Task.CLASSES) == []


def test_a_measure_that_differs_is_found():
    generator = np.random.default_rng(0)
    splits = divided(500, 100, 100)
    bright = generator.normal(0.5, 0.1, 700)
    bright[splits == "test"] += 0.08
    measures = {"brightness": bright, "sharpness": generator.normal(size=700)}
    (shift,) = find_shifts(splits, np.zeros(700, int), NAMES, measures, Task.CLASSES)
    assert (shift.split, shift.what) == ("test", "brightness")
    train, test = bright[:500], bright[600:]
    # Four comparisons; a single class is none.
    assert shift.p_value == pytest.approx(4 * ks_2samp(train, test, method="asymp").pvalue)
    spread = np.sqrt((train.var() + test.var()) / 2)
    assert shift.distance == pytest.approx((test.mean() - train.mean()) / spread)
    assert shift.detail == f"mean {test.mean():.3g} in test, {train.mean():.3g} in train"


def test_numbers_and_many_labels_are_compared_too():
    splits = divided(200, 0, 100)
    numbers = np.arange(300.0)[:, None]
    (shift,) = find_shifts(splits, numbers, ["price"], {}, Task.NUMBER)
    assert (shift.what, shift.detail) == ("price", "mean 250 in test, 99.5 in train")
    decisions = np.zeros((300, 2))
    decisions[::2, 0], decisions[210:, 1] = 1, 1
    (shift,) = find_shifts(splits, decisions, ["red", "blue"], {}, Task.LABELS)
    assert shift.what == "blue"
    assert shift.p_value == pytest.approx(2 * fisher_exact([[0, 200], [90, 10]]).pvalue)
    assert shift.distance == pytest.approx(0.9)
    assert shift.detail == "blue is 90.0% of test, 0.0% of train"


def test_p_values_are_those_of_holm():
    generator = np.random.default_rng(0)
    splits, steps = divided(300, 0, 300), {"a": 0.5, "b": 0.3, "d": 0}
    measures = {
        n: generator.normal(size=600) + step * (splits == "test") for n, step in steps.items()
    }
    measures["c"] = measures["b"]  # twice the same: a step of Holm's that would go down
    plain = sorted(ks_2samp(v[:300], v[300:], method="asymp").pvalue for v in measures.values())
    stepped = np.maximum.accumulate(np.array(plain) * [4, 3, 2, 1])
    found = find_shifts(splits, np.zeros(600, int), NAMES, measures, Task.CLASSES)
    assert (np.diff(np.array(plain) * [4, 3, 2, 1]) < 0).any()  # or else this would show nothing
    np.testing.assert_allclose([s.p_value for s in found], stepped[stepped < 0.05])


def test_chance_alone_seldom_makes_any_shift():
    generator = np.random.default_rng(0)
    splits, wrong = divided(200, 60, 60), 0
    for _ in range(100):
        measures = {"size": generator.normal(size=320)}
        labels = generator.integers(0, 3, 320)
        wrong += bool(find_shifts(splits, labels, NAMES, measures, Task.CLASSES))
    assert wrong <= 11  # 5 are expected; more than 11 in 1 of 200 such tests


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(["train", "validation", "test"]), st.integers(0, 2))))
def test_shifts_are_sound_whatever_the_labels(rows):
    splits = np.array([split for split, _ in rows], "<U10")
    labels = np.array([label for _, label in rows], int)
    for shift in find_shifts(splits, labels, NAMES, {"size": labels * 1.0}, Task.CLASSES):
        assert shift.split in {"validation", "test"}
        assert 0 <= shift.p_value < 0.05
        assert shift.distance >= 0
        assert "nan" not in shift.detail


@pytest.mark.parametrize(
    ("labels", "measures", "task", "message"),
    [
        (np.zeros(3, int), {"size": np.array([1, np.nan, 2])}, Task.CLASSES, "size must be one fi"),
        (np.zeros(3, int), {"size": np.zeros(2)}, Task.CLASSES, "each of 3 images"),
        (np.zeros(2, int), {}, Task.CLASSES, "class index for each of 3"),
        (np.full(3, 3), {}, Task.CLASSES, "received 3"),
        (np.zeros((3, 2)), {}, Task.LABELS, r"\(3, 3\), received \(3, 2\)"),
        (np.full((3, 3), np.nan), {}, Task.NUMBER, "dress must be one finite"),
        (np.zeros((3, 2)), {}, Task.NUMBER, r"\(3, 3\), received \(3, 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(labels, measures, task, message):
    with pytest.raises(DatasetError, match=message):
        find_shifts(divided(1, 1, 1), labels, NAMES, measures, task)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs the reference photographs")
def test_the_reference_has_other_shares_in_test_but_not_in_validation():
    root = SHARED / "data" / "clothing-dataset-small"
    files = [p for split in ("train", "validation", "test") for p in (root / split).glob("*/*")]
    names, labels = np.unique([p.parent.name for p in files], return_inverse=True)
    splits = np.array([p.parent.parent.name for p in files])
    (shift,) = find_shifts(splits, labels, names.tolist(), {}, Task.CLASSES)
    assert shift.split == "test"
    assert shift.detail.startswith("shoes is 19.6% of test, 6.5% of train")
