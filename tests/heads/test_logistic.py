import numpy as np
import pytest
from scipy.special import softmax

from topwork.errors import TopworkError
from topwork.heads import logistic
from topwork.heads.logistic import TOLERANCE, solve_logistic


def make(count, outputs, *, scale=1.0, offset=0.3, seed=0):
    """Returns vectors of 20 values, and labels of classes that are not equally frequent."""
    rng = np.random.default_rng(seed)
    vectors = (offset + rng.normal(size=(count, 20))) * scale
    shares = np.arange(1, outputs + 1) / np.arange(1, outputs + 1).sum()
    labels = np.append(np.arange(outputs), rng.choice(outputs, count - outputs, p=shares))
    return vectors.astype(np.float32), labels.astype(np.int32)


def slopes(head, vectors, labels, penalty, weights):
    """Returns the gradient of the objective by the kernel and by the bias, in float64.

    The objective is the mean of weighted cross-entropies + penalty / 2 · (sum of squares).
    """
    ((kernel, bias),) = head.layers
    kernel, vectors = kernel.astype(np.float64), vectors.astype(np.float64)
    wrong = softmax(vectors @ kernel + bias, axis=1) - np.eye(len(bias))[labels]
    wrong *= weights[labels][:, None] / len(labels)
    return vectors.T @ wrong + penalty * kernel, wrong.sum(axis=0)


@pytest.mark.parametrize("outputs", [2, 5])
@pytest.mark.parametrize("count", [12, 300])
@pytest.mark.parametrize("weights", [None, [0.2, 3, 1, 1.5, 0.7]])
@pytest.mark.parametrize("penalty", [1e-4, 0.1, 30])
def test_the_objective_is_flat_at_the_answer(outputs, count, weights, penalty):
    vectors, labels = make(count, outputs)
    given = None if weights is None else np.float32(weights[:outputs])
    used = np.ones(outputs) if weights is None else np.array(weights[:outputs])
    head = solve_logistic(vectors, labels, outputs, penalty, given)
    assert [array.shape for array in head.layers[0]] == [(20, outputs), (outputs,)]
    assert {array.dtype for array in head.layers[0]} == {np.dtype(np.float32)}
    # With weights, the gradient is measured by their sum instead of the number of images.
    for slope in slopes(head, vectors, labels, penalty, used):
        assert np.abs(slope).max() < 3 * TOLERANCE


@pytest.mark.parametrize("outputs", [2, 5])
def test_large_vectors_are_solved_as_well(outputs):
    vectors, labels = make(300, outputs, scale=30, offset=5)
    head = solve_logistic(vectors, labels, outputs, 100)
    for slope in slopes(head, vectors, labels, 100, np.ones(outputs)):
        assert np.abs(slope).max() < 3 * TOLERANCE


@pytest.mark.parametrize("outputs", [2, 5])
def test_the_answer_does_not_depend_on_how_often_all_images_occur(outputs, monkeypatch):
    monkeypatch.setattr(logistic, "TOLERANCE", 1e-7)
    vectors, labels = make(60, outputs)
    once = solve_logistic(vectors, labels, outputs, 0.05)
    often = solve_logistic(np.tile(vectors, (7, 1)), np.tile(labels, 7), outputs, 0.05)
    np.testing.assert_allclose(once.logits(vectors), often.logits(vectors), atol=1e-4)


@pytest.mark.parametrize("outputs", [2, 5])
def test_a_weight_is_as_good_as_copies(outputs, monkeypatch):
    monkeypatch.setattr(logistic, "TOLERANCE", 1e-7)
    vectors, labels = make(60, outputs)
    copies = np.where(labels == 0, 4, 1)
    weights = np.where(np.arange(outputs) == 0, 4, 1) / copies.mean()
    weighted = solve_logistic(vectors, labels, outputs, 0.05, weights.astype(np.float32))
    rows = np.repeat(np.arange(60), copies)
    copied = solve_logistic(vectors[rows], labels[rows], outputs, 0.05)
    np.testing.assert_allclose(weighted.logits(vectors), copied.logits(vectors), atol=1e-4)


@pytest.mark.parametrize("outputs", [2, 5])
def test_the_bias_is_free_of_the_penalty(outputs):
    vectors, labels = make(300, outputs)
    chances = softmax(solve_logistic(vectors, labels, outputs, 1e5).logits(vectors), axis=1)
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(chances, np.tile(shares, (300, 1)), atol=1e-3)


@pytest.mark.parametrize("outputs", [2, 5])
def test_an_optimum_that_is_not_reached_is_an_error_that_says_what_to_do(outputs, monkeypatch):
    monkeypatch.setattr(logistic, "STEPS", 2)
    wanted = r"penalty 0\.001 did not .* in 2 steps; try a larger --penalty, or --normalize"
    with pytest.raises(TopworkError, match=wanted):
        solve_logistic(*make(300, outputs), outputs, 0.001)
