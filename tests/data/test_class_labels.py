import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from topwork.data.class_labels import ClassLabels
from topwork.data.labels import name_class, number_labels

NFC, NFD = (unicodedata.normalize(form, "\u00e9t\u00e9") for form in ("NFC", "NFD"))
SCALARS = st.one_of(
    st.lists(st.booleans(), min_size=2),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2),
    st.lists(st.text(max_size=3), min_size=2),
)


def read(labels):
    """The classes, and the label that Python gets back for each of some labels."""
    found = number_labels(labels, None)
    kept = found.class_labels
    if kept is not None:
        kept = ClassLabels.model_validate_json(kept.model_dump_json())
    values = np.array(found.classes) if kept is None else kept.to_array()
    return found.classes, values, values[found.labels]


@pytest.mark.parametrize(
    ("labels", "classes", "values"),
    [
        (["b", "a"], ("a", "b"), ["a", "b"]),
        ([10, 9, 2], ("2", "9", "10"), [2, 9, 10]),
        ([True, False], ("False", "True"), [False, True]),
        ([1.5, -2.0], ("-2.0", "1.5"), [-2.0, 1.5]),
        (np.array([2**64 - 1, 1], np.uint64), ("1", str(2**64 - 1)), [1, 2**64 - 1]),
        (np.array([3, 20], object), ("3", "20"), [3, 20]),
        (np.array(["b", "a"], object), ("a", "b"), ["a", "b"]),
        ([NFD, "z"], ("z", NFC), ["z", NFD]),
        ([NFC, "z"], ("z", NFC), ["z", NFC]),
        ([NFC, NFD, "z"], ("z", NFC), ["z", NFC]),
        (["caf\udce9", "b"], ("b", r"caf\udce9"), ["b", r"caf\udce9"]),
    ],
)
def test_every_class_has_the_label_that_was_given(labels, classes, values):
    found = read(labels)
    assert found[0] == classes
    assert found[1].tolist() == values
    assert [*map(type, found[1].tolist())] == [*map(type, values)]
    if isinstance(labels, np.ndarray):
        assert found[1].dtype == labels.dtype


@given(SCALARS)
def test_labels_come_back_as_they_were(labels):
    given_labels = np.array(labels)
    if len({name_class(str(x)) for x in given_labels.tolist()}) < 2:
        return
    classes, values, back = read(given_labels)
    assert len(values) == len(classes)
    assert given_labels.dtype.kind in ("U", back.dtype.kind)
    for label, other in zip(given_labels.tolist(), back.tolist(), strict=True):
        assert label == other or name_class(label) == name_class(other)


@pytest.mark.parametrize(
    "content",
    [
        {"dtype": "<i8", "values": ["a", "b"]},
        {"dtype": "|i1", "values": [1, 1000]},
        {"dtype": "no", "values": [1, 2]},
        {"dtype": "<i8", "values": [1, 1]},
        {"dtype": "<M8[s]", "values": [1, 2]},
        {"dtype": "O", "values": [1, "a"]},
        {"dtype": "O", "values": [None, "a"]},
        {"dtype": "<i8", "values": [[1], [2]]},
        {"dtype": "<f4,<f4", "values": [1.0, 2.0]},
    ],
)
def test_what_is_no_label_is_refused(content):
    with pytest.raises(ValidationError):
        ClassLabels.model_validate_json(json.dumps(content))
