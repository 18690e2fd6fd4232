from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from topwork.core.errors import ModelError
from topwork.core.task import Task
from topwork.models.predictions import (
    ANSWERS_FILE,
    LabeledPredictions,
    load_predictions,
    write_predictions,
)


def test_some_are_taken_in_the_order_asked():
    answers = LabeledPredictions(
        "test", ("a", "b", "c"), ("1", "2", "3"), np.array([0, 1, 2]),
        np.arange(6, dtype=np.float32).reshape(3, 2), (b"x", None, b"z"), 2,
    )  # fmt: skip
    taken = answers.take(np.array([2, 0]))
    assert len(answers) == 3 and len(taken) == 2
    assert taken.names == ("c", "a")
    assert taken.hashes == ("3", "1")
    assert taken.labels.tolist() == [2, 0]
    assert taken.logits.tolist() == [[4, 5], [0, 1]]
    assert taken.sources == (b"z", b"x")
    assert (taken.split, taken.seen) == ("test", 2)
    assert len(answers.take(np.zeros(0, np.int64))) == 0


TRUTHS = {
    Task.CLASSES: np.array([2, 0, 1], np.int32),
    Task.BINARY: np.array([1, 0, 1], np.int32),
    Task.LABELS: np.array([[True, False], [False, False], [True, True]]),
    Task.NUMBER: np.array([[1.5, -2e9], [0, 3], [1e-7, 0.1]]),
}


def make(task):
    outputs = {Task.CLASSES: 3, Task.BINARY: 1}.get(task, 2)
    logits = np.random.default_rng(0).normal(size=(3, outputs)).astype(np.float32)
    names = ("a/1.jpg", "b\udcff.png", "名.png")
    return LabeledPredictions(
        "validation", names, ("0a", "1b", "2c"), TRUTHS[task], logits, (None,) * 3, 3
    )


@pytest.mark.parametrize("task", list(Task))
def test_answers_are_read_as_they_were_written(task, tmp_path):
    answers = make(task)
    write_predictions(answers, tmp_path / ANSWERS_FILE)
    found = load_predictions(tmp_path, task)
    assert (found.split, found.seen, found.hashes) == ("validation", 3, answers.hashes)
    assert found.names == ("a/1.jpg", "b\\udcff.png", "名.png")
    for array, wanted in ((found.labels, answers.labels), (found.logits, answers.logits)):
        assert array.dtype == wanted.dtype
        np.testing.assert_array_equal(array, wanted)
    assert found.sources == (None, None, None)


@pytest.mark.parametrize("task", list(Task))
def test_answers_of_before_a_head_was_refitted_are_kept_beside_its_own(task, tmp_path):
    answers = make(task)
    before = -answers.logits
    write_predictions(replace(answers, unseen_logits=before), tmp_path / ANSWERS_FILE)
    found = load_predictions(tmp_path, task)
    np.testing.assert_array_equal(found.logits, answers.logits)
    np.testing.assert_array_equal(found.judged_logits, before)
    np.testing.assert_array_equal(found.take(np.array([2, 0])).judged_logits, before[[2, 0]])
    # Without such it is judged by its own.
    np.testing.assert_array_equal(answers.judged_logits, answers.logits)


def test_a_model_that_kept_no_answers_has_none(tmp_path):
    assert load_predictions(tmp_path, Task.CLASSES) is None


@pytest.mark.parametrize("damage", ["cut", "text", "other table"])
def test_damaged_answers_are_named(damage, tmp_path):
    path = tmp_path / ANSWERS_FILE
    write_predictions(make(Task.CLASSES), path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "text":
        path.write_text("no table")
    else:
        pq.write_table(pa.table({"name": ["a"]}), path)
    with pytest.raises(ModelError, match=r"answers\.parquet is damaged: .*train it again"):
        load_predictions(tmp_path, Task.CLASSES)


def test_a_saved_model_keeps_what_it_said_of_its_validation_images(trained, saved):
    found, wanted = load_predictions(saved, trained.model.task), trained.predictions
    assert (found.names, found.hashes) == (wanted.names, wanted.hashes)
    np.testing.assert_array_equal(found.logits, wanted.logits)
    np.testing.assert_array_equal(found.labels, wanted.labels)
    right = (found.logits.argmax(axis=1) == found.labels).mean()
    assert right == trained.model.validation.value
