import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, softmax

from topwork.heads import Head, Task, init_head, probabilities

LOGITS = arrays(np.float32, (3, 4), elements=st.floats(-1e4, 1e4, width=32))


@pytest.mark.parametrize(("length", "outputs"), [(2048, 10), (64, 1), (1, 1)])
def test_first_weights_are_glorot_uniform(length, outputs):
    kernels = np.stack([init_head(length, outputs, seed).kernel for seed in range(300)])
    limit = np.sqrt(6 / (length + outputs))
    assert kernels.shape == (300, length, outputs)
    assert kernels.dtype == np.float32
    assert np.abs(kernels).max() <= limit
    assert kernels.max() > 0.98 * limit
    assert kernels.min() < -0.98 * limit
    assert kernels.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)


def test_first_weights_follow_the_seed_and_the_bias_is_zero():
    head = init_head(7, 3, 5)
    assert np.array_equal(head.kernel, init_head(7, 3, 5).kernel)
    assert not np.array_equal(head.kernel, init_head(7, 3, 6).kernel)
    assert head.bias.dtype == np.float32
    assert head.bias.tolist() == [0, 0, 0]


def test_logits_are_the_product_and_the_bias():
    rng = np.random.default_rng(0)
    head = Head(*(rng.normal(size=size).astype(np.float32) for size in ((5, 3), (3,))))
    vectors = rng.normal(size=(4, 5)).astype(np.float32)
    wanted = [
        [sum(v[d] * head.kernel[d, c] for d in range(5)) + head.bias[c] for c in range(3)]
        for v in vectors.astype(np.float64)
    ]
    assert head.logits(vectors).dtype == np.float32
    np.testing.assert_allclose(head.logits(vectors), wanted, atol=1e-5)
    assert head.logits(vectors[:0]).shape == (0, 3)


@given(LOGITS)
def test_probabilities_of_one_of_many_are_the_softmax(logits):
    found = probabilities(Task.CLASSES, logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(logits.astype(np.float64), axis=1), atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1, dtype=np.float64), 1, atol=1e-6)


@pytest.mark.parametrize("task", [Task.BINARY, Task.LABELS])
@given(logits=LOGITS)
def test_probabilities_of_labels_are_the_sigmoid(task, logits):
    found = probabilities(task, logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expit(logits.astype(np.float64)), atol=1e-7)


def test_extreme_logits_give_0_and_1_and_a_number_stays():
    extreme = np.array([[1e4, -1e4], [-1e4, 1e4], [3e38, 3e38]], np.float32)
    assert probabilities(Task.CLASSES, extreme).tolist() == [[1, 0], [0, 1], [0.5, 0.5]]
    assert probabilities(Task.LABELS, extreme).tolist() == [[1, 0], [0, 1], [1, 1]]
    assert np.array_equal(probabilities(Task.NUMBER, extreme), extreme)
    assert extreme[0, 0] == 1e4


@pytest.mark.parametrize("task", Task)
def test_no_logits_give_no_probabilities(task):
    assert probabilities(task, np.empty((0, 4), np.float32)).shape == (0, 4)
