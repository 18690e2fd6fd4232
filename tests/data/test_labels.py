import math
import unicodedata
from datetime import date
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.preprocessing import LabelEncoder, MultiLabelBinarizer

from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.labels import LARGEST, name_class, number_labels, parse_number, read_labels
from topwork.data.listing import Listing, Skipped

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))


def listing(labels, **kept):
    count = len(labels)
    return Listing("t.csv", [f"{n}.jpg" for n in range(count)], [b"x"] * count, labels, **kept)


def read(labels, columns=(), separator=None, **settings):
    found = listing(labels, label_columns=columns, separator=separator)
    return read_labels(found, DataSettings.create(**settings))


def names(found):
    """The labels of each image by name."""
    _, classes, labels, _ = found
    return [{classes[n] for n in np.flatnonzero(row)} for row in labels]


def test_a_text_is_a_class_and_two_classes_are_binary():
    task, classes, labels, bad = read(["b", "c", "a", "b"])
    assert (task, classes, bad) == (Task.CLASSES, ("a", "b", "c"), {})
    assert labels.tolist() == [1, 2, 0, 1]
    assert labels.dtype == np.int32
    task, classes, labels, _ = read(["b", "a", "b"])
    assert (task, classes, labels.tolist()) == (Task.BINARY, ("a", "b"), [1, 0, 1])


def test_a_task_that_is_said_goes_before_the_number_of_classes():
    assert read(["b", "a"], task="classes")[0] is Task.CLASSES
    assert read(["b", "a"], task="binary")[0] is Task.BINARY


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["a", "a"]])
def test_binary_needs_two_classes(labels):
    with pytest.raises(DatasetError, match=f"needs 2 classes, received {len(set(labels))}: a"):
        read(labels, task="binary")


def test_an_image_without_a_label_is_none_of_the_classes():
    assert read(["a", None, "b"])[2].tolist() == [0, -1, 1]
    assert read([None, None])[1] == ()
    assert names(read(["a|b", None], task="labels")) == [{"a", "b"}, set()]
    assert names(read([("1", "0"), None], ("x", "y"))) == [{"x"}, set()]
    assert np.isnan(read(["1", None], task="number")[2]).tolist() == [[False], [True]]


@pytest.mark.parametrize(
    ("labels", "columns", "separator", "settings"),
    [
        (["b; a", "", "a;a;"], (), None, {"label_separator": ";"}),
        (["b|a", "", "a"], (), "|", {}),
        (["b| a ", "", "a"], (), None, {"task": "labels"}),
        ([("b", "a"), ("", ""), ("", "a")], ("first", "second"), None, {}),
        ([("1", "yes"), ("0", "0.0"), (" TRUE", "")], ("a", "b"), None, {}),
    ],
)
def test_many_labels_come_separated_or_in_columns(labels, columns, separator, settings):
    found = read(labels, columns, separator, **settings)
    assert found[:2] == (Task.LABELS, ("a", "b"))
    assert names(found) == [{"a", "b"}, set(), {"a"}]
    assert found[2].dtype == bool


def test_a_cell_that_is_neither_yes_nor_no_is_named_and_makes_no_labels_of_all_others():
    found = read([("1", "0"), ("maybe", "1"), ("0", "1")], ("wet", "dry"))
    assert found[1] == ("wet", "dry")
    assert found[3] == {1: "its wet must be 1 or 0, or yes or no, received 'maybe'"}


def test_columns_of_labels_may_have_one_that_is_called_like_a_flag():
    assert read([("yes", "cat"), ("dog", "cat")], ("p", "q"))[1] == ("cat", "dog", "yes")


def test_several_columns_are_no_classes():
    with pytest.raises(DatasetError, match=r"2 label columns .* --task classes; choose one"):
        read([("a", "b")], ("p", "q"), task="classes")


def test_numbers_may_be_several():
    task, classes, labels, bad = read(
        [("1", "-2.5e3"), (" 0 ", "7")], ("w", DECOMPOSED), task="number"
    )
    assert (task, classes, bad) == (Task.NUMBER, ("w", COMPOSED), {})
    assert labels.tolist() == [[1, -2500], [0, 7]]
    assert read(["1"], task="number", label_column="price")[1] == ("price",)


@pytest.mark.parametrize("text", ["x", "", "nan", "inf", "-Infinity", "1e39", "1_0", "1,5"])
def test_what_is_no_finite_number_is_named_where_it_stands(text):
    found = listing(["1", text, "2"], lines=[2, 3, 5])
    dataset = Dataset.from_listing(found, DataSettings.create(task="number"))
    assert dataset.labels.tolist() == [[1], [2]]
    reason = f"its label {text!r} is not a finite number"
    assert dataset.skipped == (Skipped("t.csv line 3: 1.jpg", reason),)
    with pytest.raises(DatasetError, match=r"line 3: 1.jpg: its label .*leave out --strict"):
        Dataset.from_listing(found, DataSettings.create(task="number"), strict=True)


def test_a_bad_number_of_several_is_named_by_its_column():
    bad = read([("1", "x"), ("1", "2")], ("w", "h"), task="number")[3]
    assert bad == {0: "its h 'x' is not a finite number"}


def test_if_no_number_can_be_used_the_first_is_named():
    with pytest.raises(DatasetError, match=r"t.csv: 0.jpg: its label 'a' .*; so are all others"):
        Dataset.from_listing(
            Listing("t.csv", ["t.csv: 0.jpg"], [b""], ["a"]), DataSettings.create(task="number")
        )


@pytest.mark.parametrize(
    "found",
    [
        read([DECOMPOSED, COMPOSED, "b"]),
        read([f"{DECOMPOSED}|b", COMPOSED], separator="|"),
        read([(DECOMPOSED, "b"), (COMPOSED, "")], ("p", "q")),
        read([("1", "0"), ("1", "1")], (DECOMPOSED, "b")),
        number_labels([DECOMPOSED, COMPOSED, "b"], None),
        number_labels([[DECOMPOSED, "b"], [COMPOSED]], None),
    ],
)
def test_one_name_in_two_encodings_is_one_label(found):
    assert found[1] == (COMPOSED, "b")


def test_undecodable_names_are_escaped_and_never_two_classes_of_one_name():
    assert read(["caf\udce9", r"caf\udce9", "b"])[1] == ("b", r"caf\udce9")


LABELS = st.lists(st.text(max_size=4), min_size=1, max_size=12)


@given(LABELS)
def test_classes_are_those_of_a_label_encoder(labels):
    task, classes, found, bad = read(labels)
    # NumPy's own texts lose a NUL at the end.
    named = np.array([name_class(label) for label in labels], object)
    encoder = LabelEncoder().fit(named)
    assert classes == tuple(encoder.classes_)
    assert found.tolist() == encoder.transform(named).tolist()
    assert (task is Task.BINARY) == (len(classes) == 2)
    assert not bad


@given(st.lists(st.sets(st.text(min_size=1, max_size=3)), min_size=1, max_size=8))
def test_sets_are_those_of_a_label_binarizer(sets):
    separator = "\0sep\0"
    clean = [{name_class(x.strip()) for x in one if separator not in x} - {""} for one in sets]
    found = read([separator.join(sorted(one)) for one in sets], label_separator=separator)
    binarizer = MultiLabelBinarizer().fit([sorted(one) for one in clean])
    assert found[1] == tuple(binarizer.classes_)
    assert found[2].tolist() == binarizer.transform(clean).astype(bool).tolist()


@given(st.text(max_size=8) | st.floats().map(str) | st.integers().map(str))
def test_a_number_is_what_single_precision_can_hold(text):
    value = parse_number(text)
    assert value is None or (abs(value) <= LARGEST and value == float(text))
    with np.errstate(over="ignore"):
        assert value is None or math.isfinite(np.float32(value))


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary()


@given(
    st.lists(ANY | st.lists(ANY, max_size=3), min_size=1, max_size=6),
    st.sampled_from([None, *Task]),
)
def test_any_python_values_are_labels_of_finite_values_or_a_dataset_error(given_labels, task):
    try:
        found, classes, labels, _ = number_labels(given_labels, task)
    except DatasetError as error:
        assert str(error)
        return
    assert found is task or task is None
    assert len(labels) == len(given_labels)
    if found.picks_one:
        assert sorted({*labels.tolist()}) == list(range(len(classes)))
    else:
        assert labels.shape == (len(given_labels), len(classes))
        assert np.isfinite(labels.astype(np.float32)).all()


@pytest.mark.parametrize("labels", [[[], []], np.zeros((2, 0), int)])
def test_lists_without_a_single_label_are_refused(labels):
    with pytest.raises(DatasetError, match="at least one image needs a label"):
        number_labels(labels, None)


@pytest.mark.parametrize("labels", [[1.0, 1e39], [1.0, float("nan")], [[1.0], [float("inf")]]])
def test_numbers_that_a_head_cannot_learn_are_refused(labels):
    with pytest.raises(DatasetError, match="must be finite numbers"):
        number_labels(labels, Task.NUMBER)


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (np.array([[3], [1], [3]]), ("1", "3"), [1, 0, 1]),
        (np.array([["b"], ["a"], ["b"]]), ("a", "b"), [1, 0, 1]),
        (np.array([["b"], ["a"], ["b"]], object), ("a", "b"), [1, 0, 1]),
        (np.array([[1], [0], [1]], bool), ("False", "True"), [1, 0, 1]),
        (pd.DataFrame({"kind": ["b", "a", "b"]}, [4, 5, 6]), ("a", "b"), [1, 0, 1]),
    ],
)
def test_a_column_of_labels_is_one_label_of_each_image(labels, classes, numbers):
    with pytest.warns(UserWarning, match=r"labels of shape \(3, 1\) are taken for one class"):
        found = number_labels(labels, None)
    assert found.classes == classes
    assert found.labels.tolist() == numbers


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([[1, 0], [0, 1]]), ("0", "1")),
        (csr_matrix([[1, 0], [0, 1]]), ("0", "1")),
        (pd.DataFrame({"wet": [1, 0], "dry": [0, 1]}), ("wet", "dry")),
        (pd.DataFrame({"wet": [True, False], "dry": [0, 1]}), ("wet", "dry")),
        (pd.DataFrame([[1, 0], [0, 1]], columns=["a", "a"]), ("0", "1")),
    ],
)
def test_flags_in_columns_are_many_labels(labels, classes):
    found = number_labels(labels, None, 2)
    assert (found.task, found.classes) == (Task.LABELS, classes)
    assert found.labels.tolist() == [[True, False], [False, True]]
    numbers = number_labels(labels, Task.NUMBER, 2)
    assert numbers.labels.tolist() == [[1, 0], [0, 1]]


def test_a_single_label_that_an_image_has_or_has_not_may_be_asked_for():
    assert number_labels(np.array([[1], [0]]), Task.LABELS).labels.tolist() == [[True], [False]]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (pd.Series([1, None], dtype="Int64"), "every image needs a label"),
        (pd.Series(["a", pd.NA], dtype="string"), "every image needs a label"),
        (pd.Series([pd.Timestamp(0), pd.NaT], dtype=object), "every image needs a label"),
        ([date(2020, 1, 1), date(2021, 1, 1)], "received date, such as .*with str"),
        ([Decimal("1.5"), Decimal(2)], "received Decimal"),
        ([{"a": 1}, {"a": 2}], "received dict"),
        ([1 + 2j, 3], "texts or numbers, received complex128"),
        (pd.DataFrame({"a": [1, 2], "b": [0, 1]}), "an array .* of 0 and 1"),
        (np.array(5), "2 images and 1 labels"),
        ("ab c", "2 images and 4 labels"),
    ],
)
def test_labels_that_are_none_are_refused_in_words(labels, reason):
    with pytest.raises(DatasetError, match=reason):
        number_labels(labels, None, 2)
