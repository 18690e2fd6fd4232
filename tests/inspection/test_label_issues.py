import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from topwork.core.errors import DatasetError, SettingsError
from topwork.core.task import Task
from topwork.data.splits import assign_strata, make_folds
from topwork.inspection.label_issues import (
    NUMBER_PENALTY,
    PENALTY,
    count_confident,
    cross_predict,
    rank_classes,
    rank_labels,
    rank_numbers,
    score_labels,
)
from topwork.inspection.label_noise import find_concentration, weigh_by_noise
from topwork.inspection.outliers import LIMIT

NAMES = ("dress", "hat", "shirt")


def blobs(count=120, classes=3, *, seed=0, spread=0.5):
    """Vectors that lie around one point for each class, and the classes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    middles = generator.normal(size=(classes, 12)) * 2
    vectors = middles[labels] + generator.normal(0, spread, (count, 12))
    return vectors.astype(np.float32), labels


def guesses(count, classes, seed=0):
    """Probabilities that mostly agree with random labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes)) + 2 * np.eye(classes)[labels]
    return softmax(logits, axis=1).astype(np.float32), labels


def test_each_fold_is_predicted_by_a_head_of_the_others():
    vectors, labels = blobs(spread=2)
    got = cross_predict(vectors, labels, Task.CLASSES, 3, seed=4)
    scaled = StandardScaler().fit_transform(vectors)
    for held in make_folds(labels, None, 5, 4):
        seen = np.setdiff1d(np.arange(120), held)
        head = LogisticRegression(C=1 / (PENALTY * 12 * len(seen)), max_iter=5000, tol=1e-8)
        expected = head.fit(scaled[seen], labels[seen]).predict_proba(scaled[held])
        np.testing.assert_allclose(got[held], expected, atol=0.02)


def test_numbers_are_predicted_by_ridge_regressions_of_the_other_folds():
    vectors, _ = blobs(100)
    numbers = np.stack([vectors[:, 0] * 30 + 500, vectors[:, 1] - 2], axis=1)
    got = cross_predict(vectors, numbers, Task.NUMBER, 2)
    scaled = StandardScaler().fit_transform(vectors)
    for held in make_folds(assign_strata(Task.NUMBER, numbers), None, 5, 0):
        seen = np.setdiff1d(np.arange(100), held)
        # The mean squared error of two numbers, and half the sum of squares.
        head = Ridge(alpha=NUMBER_PENALTY * 12 / 2 * 80 * 2).fit(scaled[seen], numbers[seen])
        np.testing.assert_allclose(got[held], head.predict(scaled[held]), rtol=1e-4)


def test_no_head_has_seen_what_it_predicts():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(80, 200)).astype(np.float32)
    labels = generator.integers(0, 2, 80)
    answers = cross_predict(vectors, labels, Task.CLASSES, 2)
    # With so many values a head is right about everything that it saw, and about chance else.
    assert (answers.argmax(axis=1) == labels).mean() < 0.7


def test_a_group_is_kept_from_the_heads_of_its_images():
    generator = np.random.default_rng(0)
    vectors = np.repeat(generator.normal(size=(60, 100)), 2, axis=0).astype(np.float32)
    labels, groups = np.repeat(generator.integers(0, 2, 60), 2), np.repeat(np.arange(60), 2)
    leaky = cross_predict(vectors, labels, Task.CLASSES, 2).argmax(axis=1) == labels
    kept = cross_predict(vectors, labels, Task.CLASSES, 2, groups=groups).argmax(axis=1) == labels
    assert leaky.mean() > 0.75
    assert kept.mean() < 0.65


def test_the_same_seed_gives_the_same_answers():
    vectors, labels = blobs(spread=2)
    first, again, other = (
        cross_predict(vectors, labels, Task.CLASSES, 3, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("columns", [False, True])
def test_two_classes_have_two_probabilities(columns):
    vectors, labels = blobs(60, 2)
    targets = labels[:, None].astype(np.float32) if columns else labels
    answers = cross_predict(vectors, targets, Task.BINARY, 1)
    np.testing.assert_array_equal(
        answers, cross_predict(vectors, labels, Task.CLASSES, 2), strict=True
    )
    assert (answers.argmax(axis=1) == labels).all()


def test_a_class_with_fewer_images_than_folds_is_not_judged():
    vectors, labels = blobs()
    labels[:4] = 3
    answers = cross_predict(vectors, labels, Task.CLASSES, 5)
    assert np.isnan(answers[:4]).all()
    np.testing.assert_allclose(answers[4:].sum(axis=1), 1, atol=1e-6)
    assert (answers[4:, 3:] == 0).all()
    names = (*NAMES, "rare", "none")
    scores = score_labels(answers, labels)
    assert np.isnan(scores[:4]).all()
    assert not np.isnan(scores[4:]).any()
    assert all(s.index >= 4 for s in rank_classes(answers, labels, names))
    assert not np.isnan(cross_predict(vectors, labels, Task.CLASSES, 5, folds=4)).any()


def test_a_class_in_too_few_groups_is_not_judged():
    vectors, labels = blobs()
    groups = np.where(labels == 2, 1000 + np.arange(120) % 2, np.arange(120))
    answers = cross_predict(vectors, labels, Task.CLASSES, 3, groups=groups)
    np.testing.assert_array_equal(np.isnan(answers).any(axis=1), labels == 2)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("task", list(Task))
def test_too_few_images_cannot_be_judged(task, count):
    vectors = np.ones((count, 4), np.float32)
    outputs = 1 if task is Task.BINARY else 2
    targets = np.zeros(count, int) if task is Task.CLASSES else np.zeros((count, outputs))
    answers = cross_predict(vectors, targets, task, outputs)
    assert answers.shape == (count, 2)
    assert np.isnan(answers).all()


def test_a_label_that_hardly_any_image_has_or_lacks_is_not_judged():
    vectors, labels = blobs()
    targets = np.eye(5, dtype=np.float32)[labels]
    targets[:4, 3] = 1  # four have it
    targets[:, 4] = 1  # all have it
    answers = cross_predict(vectors, targets, Task.LABELS, 5)
    assert np.isnan(answers[:, 3:]).all()
    assert ((answers[:, :3] > 0.5) == targets[:, :3]).all()
    assert rank_labels(answers, targets, (*NAMES, "rare", "all")) == []


def test_vectors_that_are_all_equal_say_nothing():
    labels = np.arange(30) % 3
    answers = cross_predict(np.full((30, 4), 7, np.float32), labels, Task.CLASSES, 3)
    np.testing.assert_allclose(answers, 1 / 3, atol=0.03)


def test_flipped_labels_are_found():
    vectors, true = blobs(300)
    labels = true.copy()
    flipped = np.array([3, 50, 77, 120, 299])
    labels[flipped] = (labels[flipped] + 1) % 3
    suspects = rank_classes(cross_predict(vectors, labels, Task.CLASSES, 3), labels, NAMES)
    assert {s.index for s in suspects} == set(flipped)
    for suspect in suspects:
        assert suspect.given == NAMES[labels[suspect.index]]
        assert suspect.suggested == NAMES[true[suspect.index]]
        assert suspect.suggested_probability > 0.5 > suspect.given_probability


def test_labels_that_are_missing_or_too_many_are_found():
    vectors, true = blobs(300)
    targets = np.eye(3)[true]
    targets[0], targets[1] = [0, 0, 0], [0, 1, 1]  # should be dress; should be hat alone
    answers = cross_predict(vectors, targets, Task.LABELS, 3)
    suspects = rank_labels(answers, targets, NAMES)
    assert {(s.index, s.given, s.suggested) for s in suspects} == {
        (0, "not dress", "dress"),
        (1, "shirt", "not shirt"),
    }
    scores = [s.score for s in suspects]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[1]


def test_numbers_that_are_far_off_are_found():
    vectors, _ = blobs(200)
    numbers = vectors[:, :1].astype(np.float64) * 10
    numbers[7] += 400
    numbers[9] -= 900
    predicted = cross_predict(vectors, numbers, Task.NUMBER, 1)[:, 0]
    suspects = rank_numbers(predicted, numbers[:, 0], "price")
    assert [s.index for s in suspects[:2]] == [9, 7]
    assert suspects[0].given == f"price {numbers[9, 0]:g}"
    assert suspects[0].suggested == f"price {predicted[9]:g}"
    assert np.isnan([suspects[0].given_probability, suspects[0].suggested_probability]).all()


def test_a_number_is_far_off_beyond_three_and_a_half_robust_deviations():
    predicted = np.zeros(101)
    errors = np.arange(-50.0, 51)  # median 0, median size 25
    errors[0], errors[-1] = np.array([-1.01, 0.99]) * 1.4826 * 25 * LIMIT
    (suspect,) = rank_numbers(predicted, errors, "price")
    assert suspect.index == 0
    assert suspect.score == pytest.approx(1.01 / 2.01)
    # What all are off by alike is no mistake of any of them.
    (same,) = rank_numbers(predicted, errors + 1000, "price")
    assert same.index == 0
    predicted[0] = np.nan
    assert rank_numbers(predicted, errors, "price") == []


@pytest.mark.parametrize("errors", [[0, 0, 0], [5, 5, 5], [3], []])
def test_numbers_that_are_all_alike_are_no_suspects(errors):
    assert rank_numbers(np.zeros(len(errors)), np.array(errors, float), "price") == []


def test_the_confident_joint_is_that_of_cleanlab():
    # Of `cleanlab.count.compute_confident_joint(labels, p, calibrate=False)`, cleanlab 2.9.0.
    generator = np.random.default_rng(7)
    labels = generator.integers(0, 4, 200)
    p = generator.dirichlet(np.full(4, 0.5), 200)
    sure = np.where(generator.random(200) < 0.2, generator.integers(0, 4, 200), labels)
    joint = count_confident((p + 1.5 * np.eye(4)[sure]) / 2.5, labels)
    expected = [[30, 3, 1, 2], [2, 39, 5, 1], [3, 4, 42, 4], [2, 4, 2, 42]]
    np.testing.assert_array_equal(joint, expected)


def test_the_confident_joint_by_hand():
    p = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.95, 0.05], [0.1, 0.9]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    # To be sure of class 0 takes 0.6, of class 1 (0.6 + 0.05 + 0.9) / 3 = 0.52.
    np.testing.assert_array_equal(count_confident(p, labels), [[2, 1], [1, 2]])


def test_as_many_suspects_as_the_joint_counts_and_they_rank_first():
    p, labels = guesses(400, 3)
    joint, scores = count_confident(p, labels), score_labels(p, labels)
    suspects = rank_classes(p, labels, NAMES)
    assert len(suspects) == joint.sum() - np.trace(joint)
    best = np.argsort(-scores, kind="stable")[: len(suspects)]
    assert [s.index for s in suspects] == best.tolist()


def test_a_score_weighs_the_given_label_against_the_best_other():
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0, 1, 0], [np.nan] * 3])
    scores = score_labels(p, np.array([0, 1, 0, 2]))
    np.testing.assert_allclose(scores, [1 / 3, 0.75, 1, np.nan])


@st.composite
def judged(draw):
    count, classes = draw(st.integers(1, 12)), draw(st.integers(2, 4))
    whole = draw(st.lists(st.integers(0, 3), min_size=count * classes, max_size=count * classes))
    parts = np.reshape(whole, (count, classes)).astype(np.float64)
    parts[parts.sum(axis=1) == 0] = np.nan
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    return parts / parts.sum(axis=1, keepdims=True), np.array(labels)


@given(judged())
def test_suspects_are_sound_whatever_the_probabilities(case):
    p, labels = case
    names = [f"class {n}" for n in range(p.shape[1])]
    suspects = rank_classes(p, labels, names)
    places = [s.index for s in suspects]
    assert len(set(places)) == len(places)
    assert [s.score for s in suspects] == sorted((s.score for s in suspects), reverse=True)
    joint = np.zeros((len(names), len(names)), int)
    for row, label in zip(p, labels, strict=True):
        own = [(row[n], -n) for n in range(len(names)) if _is_sure(p, labels, row, n)]
        if own:
            joint[label, -max(own)[1]] += 1
    np.testing.assert_array_equal(count_confident(p, labels), joint)
    for s in suspects:
        assert s.given == names[labels[s.index]] != s.suggested
        assert s.suggested_probability > s.given_probability
        if find_concentration(joint) == 0:  # else wrong labels mostly go to a less likely class
            assert s.suggested_probability == pytest.approx(p[s.index].max())
        assert 0.5 < s.score <= 1


def test_a_label_that_the_head_believes_most_is_in_no_doubt_whatever_the_noise():
    """Most labels a are b in truth; the joint counts one more, and the likeliest is a tie."""
    alike = [[0.45, 0.45, 0.1], [0.45, 0.55, 0]]
    p = np.array([[0.9, 0.1, 0]] * 20 + [[0.1, 0.9, 0]] * 60 + alike)
    labels = np.array([0] * 20 + [0] * 30 + [1] * 30 + [0, 1])
    joint = count_confident(p, labels)
    assert joint.sum() - np.trace(joint) == 31
    assert weigh_by_noise(p, labels, joint)[80, 1] > 0.5
    suspects = rank_classes(p, labels, NAMES)
    assert sorted(s.index for s in suspects) == list(range(20, 50))


def _is_sure(p, labels, row, n):
    own = [q[n] for q, label in zip(p, labels, strict=True) if label == n and not np.isnan(q[n])]
    return bool(own) and row[n] >= np.mean(own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": np.full((20, 4), np.nan, np.float32)}, "vectors must be finite.*20 of 20"),
        ({"vectors": np.zeros((0, 4), np.float32)}, "vectors must be floats"),
        ({"targets": np.zeros(19, int)}, "one class index for each of 20"),
        ({"targets": np.full(20, 2)}, r"0\.\.1, received 2\.\.2"),
        ({"targets": np.full(20, -1)}, r"received -1\.\.-1"),
        ({"targets": np.full((20, 1), 0.5), "task": Task.BINARY}, "class index.*float64"),
        ({"targets": np.full((20, 2), 0.5), "task": Task.LABELS}, "must be 0 or 1"),
        ({"targets": np.zeros((20, 3)), "task": Task.LABELS}, r"20 x 2 numbers, .*\(20, 3\)"),
        ({"targets": np.full((20, 2), np.inf), "task": Task.NUMBER}, "must be finite"),
        ({"groups": np.zeros(3, int)}, "groups must be one number for each of 20"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    case = {
        "vectors": np.ones((20, 4), np.float32),
        "targets": np.arange(20) % 2,
        "task": Task.CLASSES,
        "outputs": 2,
    }
    with pytest.raises(DatasetError, match=message):
        cross_predict(**case | change)


def test_a_single_fold_is_refused():
    vectors, labels = blobs(20)
    with pytest.raises(SettingsError, match="2 or more, received 1"):
        cross_predict(vectors, labels, Task.CLASSES, 3, folds=1)


@pytest.mark.parametrize(
    "p", [[[0.5, 0.4]], [[1.5, -0.5]], [[np.nan, 1]], [[1.0]], [0.5, 0.5], [[1, 0]]]
)
def test_what_are_no_probabilities_is_refused(p):
    for judge in (score_labels, count_confident):
        with pytest.raises(DatasetError, match="probabilities must be"):
            judge(np.array(p), np.zeros(1, int))


def test_names_and_numbers_must_fit():
    with pytest.raises(DatasetError, match="a column for each of 3 classes"):
        rank_classes(np.full((2, 2), 0.5), np.zeros(2, int), NAMES)
    with pytest.raises(DatasetError, match="a column for each of 3 classes"):
        rank_labels(np.full((2, 2), 0.5), np.zeros((2, 2)), NAMES)
    with pytest.raises(DatasetError, match="one for each target"):
        rank_numbers(np.zeros(2), np.zeros(3), "price")
    with pytest.raises(DatasetError, match="price must be finite"):
        rank_numbers(np.zeros(2), np.array([1, np.nan]), "price")


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs the reference photographs")
def test_most_flipped_labels_of_the_reference_rank_first(store):
    from topwork.core.config import Settings
    from topwork.data.dataset import Dataset
    from topwork.vectors.embed import embed_images
    from topwork.vectors.extractors import make_extractors, prepare_networks

    dataset = Dataset.from_folder(SHARED / "data" / "clothing-dataset-small")
    dataset = dataset.select(dataset.splits == "train")
    chosen = Settings.create(image_size=224)
    extractors = make_extractors(prepare_networks(chosen, store), chosen, store)
    dataset, vectors = embed_images(dataset, extractors)
    generator = np.random.default_rng(0)
    flipped, labels = generator.choice(3068, 153, replace=False), dataset.labels.copy()
    labels[flipped] = (labels[flipped] + generator.integers(1, 10, 153)) % 10
    scores = score_labels(cross_predict(vectors.values, labels, Task.CLASSES, 10), labels)
    first = np.argsort(-scores, kind="stable")[:153]
    assert np.isin(flipped, first).mean() >= 0.7
