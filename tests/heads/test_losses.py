import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_expit, log_softmax, softmax

from topwork.core.task import Task
from topwork.heads.losses import loss_of_rows, metric_of_rows

EXTREMES = [[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [90, -90, 50], [0, 0, 0], [1e-6, 0, -1e-6]]
RANDOM = np.random.default_rng(0).normal(0, 4, (60, 3))
LOGITS = np.concatenate([EXTREMES, RANDOM]).astype(np.float32)
CLASSES = np.arange(len(LOGITS), dtype=np.int32) % 3
LABELS = np.random.default_rng(1).integers(0, 2, LOGITS.shape).astype(np.float32)
NUMBERS = np.random.default_rng(2).normal(0, 4, LOGITS.shape).astype(np.float32)
WIDE = LOGITS.astype(np.float64)


def cross_entropy(logits, labels):
    return -(labels * log_expit(logits) + (1 - labels) * log_expit(-logits))


CASES = [
    (Task.CLASSES, LOGITS, CLASSES, -log_softmax(WIDE, axis=1)[np.arange(len(WIDE)), CLASSES]),
    (Task.BINARY, LOGITS[:, :1], LABELS[:, :1], cross_entropy(WIDE, LABELS)[:, 0]),
    (Task.LABELS, LOGITS, LABELS, cross_entropy(WIDE, LABELS).mean(axis=1)),
    (Task.NUMBER, LOGITS, NUMBERS, ((WIDE - NUMBERS) ** 2).mean(axis=1)),
]


@pytest.mark.parametrize(("task", "logits", "targets", "wanted"), CASES)
def test_the_loss_of_each_row_is_the_formula(task, logits, targets, wanted):
    found = loss_of_rows(task, jnp.asarray(logits), jnp.asarray(targets))
    assert found.shape == (len(logits),)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def smooth(share):
    """Returns the cases with targets of which a share is spread evenly over the outputs."""
    one_hot = np.eye(3)[CLASSES] * (1 - share) + share / 3
    evened = LABELS * (1 - share) + share / 2
    logs = log_softmax(WIDE, axis=1)
    return [
        (Task.CLASSES, LOGITS, CLASSES, -(one_hot * logs).sum(axis=1)),
        (Task.BINARY, LOGITS[:, :1], LABELS[:, :1], cross_entropy(WIDE, evened)[:, 0]),
        (Task.LABELS, LOGITS, LABELS, cross_entropy(WIDE, evened).mean(axis=1)),
        (Task.NUMBER, LOGITS, NUMBERS, ((WIDE - NUMBERS) ** 2).mean(axis=1)),
    ]


@pytest.mark.parametrize("share", [0.1, 0.6])
@pytest.mark.parametrize("place", range(4))
def test_smoothing_spreads_a_share_of_each_target(place, share):
    task, logits, targets, wanted = smooth(share)[place]
    found = loss_of_rows(task, jnp.asarray(logits), jnp.asarray(targets), jnp.float32(share))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "logits", "targets", "wanted"),
    [
        (Task.CLASSES, LOGITS, CLASSES, softmax(WIDE, axis=1) - np.eye(3)[CLASSES]),
        (Task.BINARY, LOGITS[:, :1], LABELS[:, :1], (expit(WIDE) - LABELS)[:, :1]),
        (Task.LABELS, LOGITS, LABELS, (expit(WIDE) - LABELS) / 3),
        (Task.NUMBER, LOGITS, NUMBERS, 2 * (WIDE - NUMBERS) / 3),
    ],
)
def test_the_gradient_is_finite_and_right_at_any_logit(task, logits, targets, wanted):
    found = jax.grad(lambda x: loss_of_rows(task, x, jnp.asarray(targets)).sum())(logits)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_metric_of_each_row():
    def metric(task, logits, targets):
        return metric_of_rows(task, jnp.array(logits), jnp.array(targets)).tolist()

    assert metric(Task.CLASSES, [[1.0, 2], [3, 3], [0, -1]], [1, 1, 0]) == [1, 0, 1]
    # A logit of 0 is a probability of 0.5, which Keras too counts as no.
    assert metric(Task.BINARY, [[0.1], [-0.1], [0.0], [0.0]], [[1.0], [1], [0], [1]]) == [
        1,
        0,
        1,
        0,
    ]
    rows = metric(Task.LABELS, [[1.0, -1, 5, 2], [-1, -1, -1, -1]], [[1.0, 0, 1, 0], [1, 1, 1, 1]])
    assert rows == [0.75, 0]
    assert metric(Task.NUMBER, [[1.0, -2]], [[3.0, -3]]) == [1.5]
