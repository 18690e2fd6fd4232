import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.inspection.cache import recall, remember

CONTENT = {"images": 3, "findings": {"leaks": {"count": 1, "worst": ["a and b"]}}}


def test_what_was_found_is_found_again_in_any_order(tmp_path):
    assert recall(tmp_path, ["a", "b"]) is None
    remember(tmp_path, ["a", "b", "a"], CONTENT)
    assert recall(tmp_path, iter(["b", "a", "a"])) == CONTENT
    remember(tmp_path, ["b", "a", "a"], {"images": 4})
    assert recall(tmp_path, ["a", "a", "b"]) == {"images": 4}


@pytest.mark.parametrize("other", [[], ["a"], ["a", "b", "c"], ["ab"], ["a", "c"]])
def test_other_images_have_another_inspection(tmp_path, other):
    remember(tmp_path, ["a", "b"], CONTENT)
    assert recall(tmp_path, other) is None


@given(st.binary(max_size=30))
def test_a_damaged_file_is_none(tmp_path_factory, data):
    store = tmp_path_factory.mktemp("store")
    remember(store, ["a"], CONTENT)
    (path,) = (store / "inspections").iterdir()
    path.write_bytes(data)
    found = recall(store, ["a"])
    assert found is None or found == json.loads(data)


def test_what_is_no_dict_is_none(tmp_path):
    remember(tmp_path, ["a"], CONTENT)
    (path,) = (tmp_path / "inspections").iterdir()
    for text in ("[1]", "null", '"x"', "[" * 100_000):
        path.write_text(text)
        assert recall(tmp_path, ["a"]) is None


def test_a_store_that_cannot_be_written_is_no_failure(tmp_path):
    store = tmp_path / "file"
    store.write_text("in the way")
    remember(store, ["a"], CONTENT)
    assert recall(store, ["a"]) is None


def test_what_json_cannot_say_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        remember(tmp_path, ["a"], {"x": float("nan")})
