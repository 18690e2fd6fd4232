import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression, Ridge

from topwork.core.errors import TopworkError
from topwork.core.task import Task
from topwork.heads.logistic import TOLERANCE, solve
from topwork.heads.logistic_on_disk import solve_streamed

# Two classes as such, five, one logit for two classes, four labels, one number and three.
KINDS = [
    (Task.CLASSES, 2),
    (Task.CLASSES, 5),
    (Task.BINARY, 1),
    (Task.LABELS, 4),
    (Task.NUMBER, 1),
    (Task.NUMBER, 3),
]
LOGISTIC = KINDS[:4]


def make(task, outputs, count, *, scale=1.0, offset=0.3, seed=0):
    """Returns vectors of 20 values, and targets that are not equally frequent."""
    rng = np.random.default_rng(seed)
    vectors = ((offset + rng.normal(size=(count, 20))) * scale).astype(np.float32)
    if task is Task.CLASSES:
        shares = np.arange(1, outputs + 1) / np.arange(1, outputs + 1).sum()
        labels = np.append(np.arange(outputs), rng.choice(outputs, count - outputs, p=shares))
        return vectors, labels.astype(np.int32)
    scores = vectors / scale @ rng.normal(size=(20, outputs)) + rng.normal(size=(count, outputs))
    if task is Task.NUMBER:
        return vectors, (7 + 3 * scores).astype(np.float32)
    targets = scores > 1
    targets[0], targets[1] = True, False
    return vectors, targets.astype(np.float32)


def slopes(task, head, vectors, targets, penalty, weights):
    """Returns the gradient of the objective by the kernel and by the bias, in float64.

    The objective is the mean of weighted losses + penalty / 2 · (sum of squares): of
    cross-entropies, their sum over the labels; of squared errors, their mean over the numbers.
    """
    ((kernel, bias),) = head.layers
    kernel, vectors = kernel.astype(np.float64), vectors.astype(np.float64)
    logits = vectors @ kernel + bias
    match task:
        case Task.CLASSES:
            wrong = softmax(logits, axis=1) - np.eye(len(bias))[targets]
        case Task.BINARY | Task.LABELS:
            wrong = expit(logits) - targets
        case Task.NUMBER:
            wrong = 2 * (logits - targets) / len(bias)
    weights = weights if weights.ndim == 2 else weights[:, None]
    wrong *= weights / weights.sum(axis=0)
    return vectors.T @ wrong + penalty * kernel, wrong.sum(axis=0)


def some_weights(kind, targets, count):
    """Returns weights with a mean of 1 of some kind, as `solve` takes them and as numbers."""
    rng = np.random.default_rng(5)
    if kind == "none":
        return None, np.ones(count)
    shape = (count,)
    if kind == "each label":
        shape = targets.shape
    weights = rng.uniform(0.2, 3, shape)
    weights[2] = 0
    weights /= weights.mean(axis=0)
    return weights.astype(np.float32), weights


@pytest.mark.parametrize(
    ("task", "outputs", "weighing"),
    [(*kind, weighing) for kind in KINDS for weighing in ("none", "each image")]
    + [(Task.BINARY, 1, "each label"), (Task.LABELS, 4, "each label")],
)
@pytest.mark.parametrize("count", [12, 300])
@pytest.mark.parametrize("penalty", [1e-4, 0.1, 30])
def test_the_objective_is_flat_at_the_answer(task, outputs, weighing, count, penalty):
    vectors, targets = make(task, outputs, count)
    given, used = some_weights(weighing, targets, count)
    head = solve(task, vectors, targets, outputs, penalty, given)
    assert [array.shape for array in head.layers[0]] == [(20, outputs), (outputs,)]
    assert {array.dtype for array in head.layers[0]} == {np.dtype(np.float32)}
    for slope in slopes(task, head, vectors, targets, penalty, used):
        assert np.abs(slope).max() < 3 * TOLERANCE


@pytest.mark.parametrize(("task", "outputs"), KINDS)
def test_large_vectors_are_solved_as_well(task, outputs):
    vectors, targets = make(task, outputs, 300, scale=30, offset=5)
    head = solve(task, vectors, targets, outputs, 100)
    # Heads are in single precision, and large vectors magnify its last digit.
    for slope in slopes(task, head, vectors, targets, 100, np.ones(300)):
        assert np.abs(slope).max() < 20 * TOLERANCE


@pytest.mark.parametrize("weighing", ["none", "each image"])
@pytest.mark.parametrize("penalty", [0.003, 0.3])
def test_classes_are_those_of_scikit_learn(weighing, penalty):
    vectors, labels = make(Task.CLASSES, 5, 200)
    weights, used = some_weights(weighing, labels, 200)
    wanted = LogisticRegression(C=1 / (penalty * 200), tol=1e-8, max_iter=5000)
    wanted.fit(vectors.astype(np.float64), labels, used)
    found = solve(Task.CLASSES, vectors, labels, 5, penalty, weights)
    np.testing.assert_allclose(
        softmax(found.logits(vectors), axis=1), wanted.predict_proba(vectors), atol=2e-3
    )


@pytest.mark.parametrize(("task", "outputs"), [(Task.BINARY, 1), (Task.LABELS, 4)])
@pytest.mark.parametrize("weighing", ["none", "each image", "each label"])
@pytest.mark.parametrize("penalty", [0.003, 0.3])
def test_each_label_is_that_of_scikit_learn(task, outputs, weighing, penalty):
    vectors, targets = make(task, outputs, 200)
    weights, used = some_weights(weighing, targets, 200)
    found = solve(task, vectors, targets, outputs, penalty, weights).logits(vectors)
    for n in range(outputs):
        own = used[:, n] if used.ndim == 2 else used
        wanted = LogisticRegression(C=1 / (penalty * own.sum()), tol=1e-8, max_iter=5000)
        wanted.fit(vectors.astype(np.float64), targets[:, n], own)
        np.testing.assert_allclose(
            expit(found[:, n]), wanted.predict_proba(vectors)[:, 1], atol=2e-3
        )


class Held:
    """Vectors in memory that are given out block by block."""

    def __init__(self, vectors):
        self.vectors, self.shape = vectors, vectors.shape

    def blocks(self):
        return iter(np.array_split(np.arange(len(self.vectors)), 3))

    def __getitem__(self, rows):
        return self.vectors[rows]


def make_wide(task, outputs, *, size=1.0, seed=0):
    """Returns fewer vectors than they are long, few directions of which are large, as real ones."""
    rng = np.random.default_rng(seed)
    spread = np.exp(-np.arange(60) / 8)
    turned = np.linalg.qr(rng.normal(size=(90, 60)))[0]
    hidden = rng.normal(size=(50, 60))
    vectors = (size * (hidden * spread) @ turned.T * 12).astype(np.float32)
    logits = hidden[:, :outputs] + 0.5 * rng.normal(size=(50, outputs))
    if task is Task.CLASSES:
        return vectors, np.append(np.arange(outputs), logits.argmax(1)[outputs:]).astype(np.int32)
    return vectors, (logits > 0).astype(np.float32)


@pytest.mark.parametrize(("task", "outputs"), LOGISTIC)
@pytest.mark.parametrize("penalty", [pytest.param(1e-4, marks=pytest.mark.slow), 0.01])
@pytest.mark.parametrize("size", [0.1, 10])
@pytest.mark.parametrize("streamed", [False, True])
def test_small_penalties_are_solved_to_the_end(task, outputs, penalty, size, streamed):
    vectors, targets = make_wide(task, outputs, size=size)
    if streamed:
        head = solve_streamed(task, Held(vectors), targets, outputs, penalty)
    else:
        head = solve(task, vectors, targets, outputs, penalty)
    others, _ = make_wide(task, outputs, size=size, seed=1)
    found = head.logits(others).astype(np.float64)
    wanted = np.empty_like(found)
    columns = [targets] if task is Task.CLASSES else targets.T
    for n, own in enumerate(columns):
        exact = LogisticRegression(
            C=(2 if outputs == 2 and task is Task.CLASSES else 1) / (penalty * 50),
            solver="newton-cholesky", tol=1e-9, max_iter=500,
        )  # fmt: skip
        logits = exact.fit(vectors.astype(np.float64), own).decision_function(others)
        if task is not Task.CLASSES:
            wanted[:, n] = logits
        elif outputs == 2:
            wanted[:] = np.outer(logits, [-0.5, 0.5])
        else:
            wanted[:] = logits
    if task is Task.CLASSES:
        found -= found.mean(axis=1, keepdims=True)
        wanted -= wanted.mean(axis=1, keepdims=True)
    assert np.abs(found - wanted).max() < 5e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("weighing", ["none", "each image"])
@pytest.mark.parametrize("penalty", [0.003, 3])
def test_numbers_are_those_of_scikit_learn(outputs, weighing, penalty):
    vectors, numbers = make(Task.NUMBER, outputs, 200)
    weights, used = some_weights(weighing, numbers, 200)
    found = solve(Task.NUMBER, vectors, numbers, outputs, penalty, weights).logits(vectors)
    # Each number is a problem of its own: mean of squares / outputs + penalty / 2 · squares.
    for n in range(outputs):
        wanted = Ridge(alpha=penalty / 2 * outputs * used.sum(), solver="svd")
        wanted.fit(vectors.astype(np.float64), numbers[:, n].astype(np.float64), used)
        np.testing.assert_allclose(found[:, n], wanted.predict(vectors), atol=1e-3)


@pytest.mark.parametrize(("task", "outputs"), KINDS)
def test_the_answer_does_not_depend_on_how_often_all_images_occur(task, outputs):
    vectors, targets = make(task, outputs, 60)
    often = np.tile(np.arange(60), 7)
    once = solve(task, vectors, targets, outputs, 0.05, tolerance=1e-7)
    more = solve(task, vectors[often], targets[often], outputs, 0.05, tolerance=1e-7)
    np.testing.assert_allclose(once.logits(vectors), more.logits(vectors), atol=1e-4)


@pytest.mark.parametrize(("task", "outputs"), KINDS)
def test_a_weight_is_as_good_as_copies_and_none_as_good_as_absence(task, outputs):
    vectors, targets = make(task, outputs, 80)
    copies = np.random.default_rng(3).choice([1, 2, 4, 0], 80)
    copies[:outputs] = copies[:2] = 1  # every class stays
    weights = (copies / copies.mean()).astype(np.float32)
    rows = np.repeat(np.arange(80), copies)
    weighted = solve(task, vectors, targets, outputs, 0.05, weights, tolerance=1e-7)
    copied = solve(task, vectors[rows], targets[rows], outputs, 0.05, tolerance=1e-7)
    np.testing.assert_allclose(weighted.logits(vectors), copied.logits(vectors), atol=2e-4)


@pytest.mark.parametrize(("task", "outputs"), KINDS)
def test_the_bias_is_free_of_the_penalty(task, outputs):
    vectors, targets = make(task, outputs, 300)
    logits = solve(task, vectors, targets, outputs, 1e5).logits(vectors)
    match task:
        case Task.CLASSES:
            found, wanted = softmax(logits, axis=1), np.bincount(targets) / 300
        case Task.BINARY | Task.LABELS:
            found, wanted = expit(logits), targets.mean(axis=0)
        case Task.NUMBER:
            found, wanted = logits, targets.mean(axis=0)
    np.testing.assert_allclose(found, np.tile(wanted, (300, 1)), atol=1e-3)


@pytest.mark.parametrize("present", [0, 1])
@pytest.mark.parametrize("weighing", ["none", "each image", "each label"])
def test_a_label_that_all_images_agree_on_is_as_sure_as_they_are_many(present, weighing):
    vectors, targets = make(Task.LABELS, 4, 99)
    targets[:, 1] = present
    weights, _ = some_weights(weighing, targets, 99)
    ((kernel, bias),) = solve(Task.LABELS, vectors, targets, 4, 0.1, weights).layers
    assert not kernel[:, 1].any()
    chance = expit(np.float64(bias[1]))
    assert (chance if present else 1 - chance) == pytest.approx(100 / 101, rel=1e-5)
    # The others are found as if it were not there.
    others = [0, 2, 3]
    own = weights[:, others] if weighing == "each label" else weights
    ((alone, alone_bias),) = solve(Task.LABELS, vectors, targets[:, others], 3, 0.1, own).layers
    assert np.array_equal(kernel[:, others], alone)
    assert np.array_equal(bias[others], alone_bias)


def test_images_without_weight_do_not_make_a_label_undecided():
    vectors, targets = make(Task.BINARY, 1, 50)
    weights = np.float32(targets[:, 0] * 50 / targets.sum())
    ((kernel, bias),) = solve(Task.BINARY, vectors, targets, 1, 0.1, weights).layers
    assert not kernel.any() and bias[0] > 3


@pytest.mark.parametrize(("task", "outputs"), LOGISTIC)
def test_an_optimum_that_is_not_reached_is_an_error_that_says_what_to_do(task, outputs):
    wanted = r"penalty 0\.001 did not .* in 2 steps; try a larger --penalty, or --normalize"
    with pytest.raises(TopworkError, match=wanted):
        solve(task, *make(task, outputs, 300), outputs, 0.001, steps=2)
