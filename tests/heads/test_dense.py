from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, softmax

from topwork.core.task import Task
from topwork.heads.dense import Dense, Head, decide, init_head, probabilities

LOGITS = arrays(np.float32, (3, 4), elements=st.floats(-1e4, 1e4, width=32))


@pytest.mark.parametrize(
    ("length", "units", "outputs"), [(2048, 0, 10), (64, 0, 1), (1, 0, 1), (64, 16, 3)]
)
def test_first_weights_are_glorot_uniform(length, units, outputs):
    heads = [init_head(length, outputs, seed, units) for seed in range(300)]
    sizes = [length, units, outputs] if units else [length, outputs]
    assert len(heads[0].layers) == len(sizes) - 1
    for place, (inputs, out) in enumerate(pairwise(sizes)):
        kernels = np.stack([head.layers[place].kernel for head in heads])
        limit = np.sqrt(6 / (inputs + out))
        assert kernels.shape == (300, inputs, out)
        assert kernels.dtype == np.float32
        assert np.abs(kernels).max() <= limit
        assert kernels.max() > 0.98 * limit
        assert kernels.min() < -0.98 * limit
        assert kernels.std() == pytest.approx(limit / np.sqrt(3), rel=0.1)


@pytest.mark.parametrize("units", [0, 4])
def test_first_weights_follow_the_seed_and_the_biases_are_zero(units):
    head, same, other = (init_head(7, 3, seed, units) for seed in (5, 5, 6))
    assert head.outputs == 3
    for layer, again, another in zip(head.layers, same.layers, other.layers, strict=True):
        assert np.array_equal(layer.kernel, again.kernel)
        assert not np.array_equal(layer.kernel, another.kernel)
        assert layer.bias.dtype == np.float32
        assert not layer.bias.any()


def random_head(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    pairs = [(rng.normal(size=pair), rng.normal(size=pair[1:])) for pair in pairwise(sizes)]
    return Head(tuple(Dense(*(array.astype(np.float32) for array in pair)) for pair in pairs))


def logits_by_hand(head, vectors):
    """Returns the logits in float64, one product at a time."""
    rows = vectors.astype(np.float64).tolist()
    for place, (kernel, bias) in enumerate(head.layers):
        rows = [
            [
                sum(row[d] * float(kernel[d, c]) for d in range(len(kernel))) + float(bias[c])
                for c in range(len(bias))
            ]
            for row in rows
        ]
        if place < len(head.layers) - 1:
            rows = [[max(value, 0) for value in row] for row in rows]
    return np.array(rows)


SIZES = [(5, 3), (5, 4, 3)]
VECTORS = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)


@pytest.mark.parametrize("sizes", SIZES)
def test_logits_are_products_and_biases_with_relu_between(sizes):
    head = random_head(*sizes)
    found = head.logits(VECTORS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, logits_by_hand(head, VECTORS), atol=1e-5)
    assert head.logits(VECTORS[:0]).shape == (0, 3)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_head_on_raw_vectors_does_what_it_did_on_standardised_ones(sizes):
    head = random_head(*sizes)
    mean = np.float32([0, 3, -2, 0.5, 100])
    deviation = np.float32([1, 0.01, 5, 0.3, 20])
    raw = (VECTORS * deviation + mean).astype(np.float32)
    folded = head.on_raw(mean, deviation)
    assert {array.dtype for layer in folded.layers for array in layer} == {np.dtype(np.float32)}
    scaled = (raw.astype(np.float64) - mean) / deviation
    np.testing.assert_allclose(folded.logits(raw), logits_by_hand(head, scaled), atol=1e-3)


@pytest.mark.parametrize("temperature", [0.5, 1, 3.7])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_cooled_head_divides_its_logits(sizes, temperature):
    head = random_head(*sizes)
    cooled = head.cooled(temperature).logits(VECTORS)
    assert cooled.dtype == np.float32
    wanted = logits_by_hand(head, VECTORS) / temperature
    np.testing.assert_allclose(cooled, wanted, rtol=1e-5, atol=1e-5)


@given(LOGITS)
def test_probabilities_of_one_of_many_are_the_softmax(logits):
    found = probabilities(Task.CLASSES, logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(logits.astype(np.float64), axis=1), atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1, dtype=np.float64), 1, atol=1e-6)


@given(logits=LOGITS)
def test_probabilities_of_labels_are_the_sigmoid(logits):
    found = probabilities(Task.LABELS, logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expit(logits.astype(np.float64)), atol=1e-7)


@given(logits=LOGITS)
def test_a_single_logit_gives_both_classes_a_probability(logits):
    one = logits[:, :1]
    found, second = probabilities(Task.BINARY, one), expit(one.astype(np.float64))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.hstack([1 - second, second]), atol=1e-7)


@given(logits=LOGITS)
def test_the_answer_is_what_is_most_probable(logits):
    assert np.array_equal(decide(Task.CLASSES, logits), logits.argmax(axis=1))
    one = logits[:, :1]
    assert np.array_equal(decide(Task.BINARY, one), one[:, 0] > 0)
    assert np.array_equal(decide(Task.LABELS, logits), logits > 0)
    assert np.array_equal(decide(Task.NUMBER, logits), logits)


@pytest.mark.parametrize("sizes", [(5, 3), (5, 4, 3)])
def test_a_head_on_another_scale_gives_other_numbers(sizes):
    head, mean = random_head(*sizes), np.float32([100, -3, 0])
    deviation = np.float32([12.5, 0.001, 1])
    found = head.on_scale(mean, deviation).logits(VECTORS)
    wanted = head.logits(VECTORS) * deviation + mean
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


def test_extreme_logits_give_0_and_1_and_a_number_stays():
    extreme = np.array([[1e4, -1e4], [-1e4, 1e4], [3e38, 3e38]], np.float32)
    assert probabilities(Task.CLASSES, extreme).tolist() == [[1, 0], [0, 1], [0.5, 0.5]]
    assert probabilities(Task.LABELS, extreme).tolist() == [[1, 0], [0, 1], [1, 1]]
    assert np.array_equal(probabilities(Task.NUMBER, extreme), extreme)
    assert extreme[0, 0] == 1e4


@pytest.mark.parametrize("task", Task)
def test_no_logits_give_no_probabilities(task):
    columns = 1 if task is Task.BINARY else 4
    found = probabilities(task, np.empty((0, columns), np.float32))
    assert found.shape == (0, 2 if task is Task.BINARY else 4)
