from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.core.errors import DatasetError
from topwork.data.dataset import Dataset
from topwork.data.validation import find_lacking


def make(labels, *, copies=None, groups=None, hashes=None, task=None):
    """A dataset of images that are never read."""
    made = Dataset.from_sources(
        [bytes([n % 250 + 1]) for n in range(len(labels))], labels, task=task
    )
    return replace(
        made,
        copies=None if copies is None else np.array(copies),
        groups=None if groups is None else np.array(groups),
        hashes=tuple(map(str, range(len(labels)))) if hashes is None else tuple(hashes),
    )


def held(dataset, fraction=0.2, seed=0):
    made = dataset.with_validation(fraction, seed)
    return made, made.counts()["validation"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "copies",
    [
        [0] * 30 + [*range(1, 31)],  # all of good are nearly the same
        [0] * 30 + [1] * 30,  # all of either, as the frames of two films
        [0] * 60,  # all of both
        [0] * 29 + [1] * 2 + [*range(2, 31)],  # one of good is like one of scratched
    ],
)
def test_near_copies_give_way_where_a_class_would_be_on_one_side_alone(copies, seed):
    dataset = make(["good"] * 30 + ["scratched"] * 30, copies=copies)
    made, counts = held(dataset, seed=seed)
    assert min(counts.values()) > 0 and min(made.counts()["train"].values()) > 0
    assert find_lacking(made.counts(), "validation") == ()


def test_only_the_class_that_needs_it_is_divided_and_it_is_named():
    made, _ = held(make(["good"] * 30 + ["bad"] * 30, copies=[0] * 30 + [*range(1, 16)] * 2))
    assert made.split_made.copied == ("good",)
    pairs = made.splits[30:].reshape(2, 15)
    assert (pairs[0] == pairs[1]).all()


def test_copies_stay_together_where_no_class_needs_them_apart():
    made, _ = held(make(list("ab") * 30, copies=np.arange(60) // 6))
    assert made.split_made.copied == ()
    assert all(len({*made.splits[n : n + 6]}) == 1 for n in range(0, 60, 6))


def test_groups_of_the_data_never_give_way():
    labels, groups = ["hat"] * 20 + ["dress"] * 20, [*range(20), *[99] * 20]
    for copies in (None, [*range(20), *[50] * 20]):
        made, counts = held(make(labels, groups=groups, copies=copies))
        assert counts["dress"] == 0 and made.divided_groups() == 0
        assert find_lacking(made.counts(), "validation") == ("dress",)


def test_equal_images_stay_together_though_near_copies_do_not():
    hashes = [str(n // 5) for n in range(40)]
    made, counts = held(make(["a"] * 20 + ["b"] * 20, copies=[0] * 20 + [1] * 20, hashes=hashes))
    assert min(counts.values()) >= 5
    assert all(len({*made.splits[n : n + 5]}) == 1 for n in range(0, 40, 5))


def test_equal_images_alone_cannot_be_divided_and_no_group_is_spoken_of():
    dataset = make(["a"] * 5 + ["b"] * 5, copies=[0] * 5 + [1] * 5, hashes=["x"] * 5 + ["y"] * 5)
    with pytest.raises(DatasetError) as error:
        dataset.with_validation(0.2, 0)
    assert "too few images" in str(error.value) and "group" not in str(error.value)


def test_numbers_and_labels_are_divided_though_all_are_nearly_the_same():
    made = make(np.arange(20.0), copies=[0] * 20, task="number").with_validation(0.2, 0)
    assert made.split_sizes() == {"train": 16, "validation": 4}
    labels = [["x"], ["x", "y"]] * 10
    made, counts = held(make(labels, copies=[0] * 20, task="labels"))
    assert min(counts.values()) > 0 and made.split_made.copied == ("x", "y")


def test_folds_need_as_many_units_as_there_are_folds():
    dataset = make(["a"] * 8 + ["b"] * 8, copies=[0, 0, 0, 0, 1, 1, 1, 1, *range(2, 10)])
    assert len({*dataset.units(2)[:8]}) == 2
    assert len({*dataset.units(3)[:8]}) == 5
    assert len({*dataset.units(8)[:8]}) == 8
    assert make(list("ab")).units(2) is None


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.integers(0, 6)),
        min_size=4,
        max_size=50,
    ),
    st.integers(2, 5),
)
def test_units_join_what_they_may_and_never_part_a_group(rows, least):
    labels, copies, groups = zip(*rows, strict=True)
    if len({*labels}) < 2:
        return
    dataset = make(list(labels), copies=copies, groups=groups)
    units = dataset.units(least)
    for group in {*groups}:
        assert len({*units[np.array(groups) == group]}) == 1
    for label in {*labels}:
        own = np.array(labels) == label
        assert len({*units[own]}) >= min(least, len({*np.array(groups)[own]}))


@pytest.mark.parametrize(
    ("counts", "lacking"),
    [
        ({"train": {"a": 3, "b": 1}, "validation": {"a": 1, "b": 0}}, ("b",)),
        ({"train": {"a": 3, "b": 0}, "validation": {"a": 1, "b": 0}}, ()),
        ({"train": {"a": 3, "b": 1}}, ()),
        ({"train": {"all": 3}, "validation": {"all": 1}}, ()),
    ],
)
def test_what_training_knows_and_validation_does_not_is_lacking(counts, lacking):
    assert find_lacking(counts, "validation") == lacking
