"""How a file's logits are compared with the model's, and what is refused."""

import json

import numpy as np
import pytest

from topwork.core.errors import ModelError
from topwork.core.task import Task
from topwork.models.checks.agreement import find_agreement
from topwork.models.checks.exported import compare_export, find_fault
from topwork.models.export import Numbers
from topwork.models.predictions import LabeledPredictions

EXACT = np.array([[4, 1, 0], [0, 3, 1], [1, 0, 2], [2, 1, 0]], np.float32)
TRUTH = np.array([0, 1, 2, 1])


def as_trained(labels, logits):
    """What the model said when it was trained."""
    count = len(labels)
    names = tuple(f"{n}.png" for n in range(count))
    return LabeledPredictions("validation", names, names, labels, logits, (None,) * count, count)


def compare_classes(exported, batches=None):
    return compare_export(
        "ONNX",
        Task.CLASSES,
        3,
        as_trained(TRUTH, EXACT),
        exported=exported,
        exact=EXACT,
        batches=batches or (exported, exported, exported),
    )


def test_differences_are_shares_of_the_largest_logit():
    other = EXACT.copy()
    other[1, 2] += 0.4
    found = compare_classes(other)
    assert found.difference == pytest.approx(0.4 / 4)
    assert found.agreement == 1
    assert found.exported.accuracy == found.exact.accuracy == 0.75
    assert found.batch_difference == 0
    json.dumps(found.to_json(), allow_nan=False)
    assert found.to_json()["exported"]["interval"] == list(found.exported.interval)


def test_agreement_is_about_answers_and_not_about_the_truth():
    other = EXACT.copy()
    other[3] = [0, 5, 0]  # now right, and not what the model says
    found = compare_classes(other)
    assert (found.agreement, found.exported.accuracy) == (0.75, 1)


def test_an_exact_file_may_change_what_was_said_when_it_was_trained():
    trained = EXACT.copy()
    trained[3] = [0, 5, 0]
    logits = {"exported": EXACT, "exact": EXACT, "batches": (EXACT, EXACT)}
    found = compare_export("ONNX", Task.CLASSES, 3, as_trained(TRUTH, trained), **logits)
    assert (found.agreement, found.kept) == (1, 0.75)
    assert found.to_json()["agreement_as_trained"] == 0.75


@pytest.mark.parametrize(
    ("task", "exact", "found", "share"),
    [
        (Task.BINARY, [[1], [-1], [2], [0.1]], [[9], [-9], [-1], [0.2]], 0.75),
        (Task.LABELS, [[1, -1], [2, 3]], [[1, 1], [2, 3]], 0.75),
        # A range of 10: up to half a unit agrees, far from 0 as well.
        (Task.NUMBER, [[2000], [2004], [2010]], [[2000.4], [2003], [2010]], 2 / 3),
    ],
)
def test_agreement_by_task(task, exact, found, share):
    exact, found = np.array(exact, np.float32), np.array(found, np.float32)
    assert find_agreement(task, found, exact) == pytest.approx(share)


def test_a_number_is_measured_by_its_own_range():
    exact = np.array([[2000, 1e6], [2010, 3e6]], np.float32)
    other = exact + np.array([[0, 0], [1, 0]], np.float32)
    found = compare_export(
        "ONNX",
        Task.NUMBER,
        2,
        as_trained(exact.astype(np.float64), exact),
        exported=other,
        exact=exact,
        batches=(other, other),
    )
    assert found.difference == pytest.approx(0.1)
    assert found.exact.metric == "mae"
    assert find_fault(found, Numbers.F16).startswith("a logit differs by 0.1 of the largest")


@pytest.mark.parametrize(
    ("numbers", "share", "fits"),
    [
        (Numbers.F32, 0.00009, True),
        (Numbers.F32, 0.00011, False),
        (Numbers.F16, 0.009, True),
        (Numbers.F16, 0.011, False),
        (Numbers.BF16, 0.2, True),
        (Numbers.INT8, 0.2, True),
    ],
)
def test_each_kind_of_numbers_has_its_limit(numbers, share, fits):
    other = EXACT.copy()
    other[0, 0] += 4 * share
    fault = find_fault(compare_classes(other), numbers)
    assert fault is None if fits else fault.startswith("a logit differs by ")


@pytest.mark.parametrize("numbers", [Numbers.BF16, Numbers.INT8])
def test_other_arithmetic_is_judged_by_its_answers(numbers):
    other = EXACT.copy()
    other[3] = [0, 5, 0]
    fault = find_fault(compare_classes(other), numbers)
    assert fault.startswith(
        f"in {numbers} 75.0% of its answers are those of the model, at least 95%"
    )


@pytest.mark.parametrize("numbers", Numbers)
def test_answers_must_not_depend_on_the_batch(numbers):
    found = compare_classes(EXACT, (EXACT, EXACT, EXACT + 0.3))
    assert "how many images it is given at once" in find_fault(found, numbers)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    other = EXACT.copy()
    other[2, 1] = value
    with pytest.raises(ModelError, match="not finite"):
        compare_classes(other)
    with pytest.raises(ModelError, match="not finite"):
        compare_classes(EXACT, (EXACT, other))


def test_another_number_of_logits_is_refused():
    with pytest.raises(ModelError, match=r"its logits are \(4, 2\), \(4, 3\) are needed"):
        compare_classes(EXACT[:, :2])
