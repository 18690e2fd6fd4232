import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.core.data_settings import DataSettings
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.label_doubts import doubt_copies, doubt_labels, find_alike, simplify_label
from topwork.data.listing import Listing


@pytest.mark.parametrize(
    "other",
    [
        "Hat", "HAT", "hat\u200b", "\ufeffhat", "h\u00adat", "ha t", "hat\u00a0", "hat\u2060",
        "h-at", "h_at", "ｈａｔ", "hat\u200f",
    ],
)  # fmt: skip
def test_labels_that_look_alike_are_found_and_stay_as_they_are(other):
    assert find_alike(["boot", "hat", other]) == [("hat", other)]
    labels = ["hat", other, "boot"]
    listing = Listing("t.csv", ["a", "b", "c"], [b"x"] * 3, labels)
    dataset = Dataset.from_listing(listing, DataSettings.create())
    assert set(dataset.classes) == set(labels)
    (note,) = dataset.notes
    assert note.doubtful
    assert "may be meant as one" in note.text
    assert note.text.isprintable()


@pytest.mark.parametrize("other", ["hats", "hat2", "cat", "hat.", "", "帽子", "-", "\u200b"])
def test_other_labels_are_others(other):
    assert find_alike(["hat", other]) == []


def numbers(count, step=1):
    return [f"{n * step:g}" for n in range(count)]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (numbers(20), True), (numbers(400), True), (numbers(19), False), (numbers(5, 0.5), True),
        (numbers(4, 0.5), False), ([*numbers(40), "x"], False), (["1_000", *numbers(40)], False),
        (["-1.5", "2e3", "0", "7", "8"], True),
    ],
)  # fmt: skip
def test_many_numbers_may_be_amounts(classes, said):
    notes = doubt_labels(Task.CLASSES, classes, guessed=True)
    assert ["--task number" in note.text for note in notes] == [True] * said
    assert doubt_labels(Task.CLASSES, classes, guessed=False) == ()
    assert doubt_labels(Task.NUMBER, classes, guessed=True) == ()


@given(st.text(max_size=8))
def test_what_is_simple_stays_so(name):
    assert simplify_label(simplify_label(name)) in (simplify_label(name), name)
    assert find_alike([name]) == []


def test_a_picture_under_two_labels_is_named():
    names, labels = ["a", "b", "c", "d"], ["hat", "cap", "hat", ""]
    assert doubt_copies(names, labels, []) == ()
    assert doubt_copies(names, labels, [(0, 2)]) == ()
    (note,) = doubt_copies(names, labels, [(0, 2), (0, 1), (2, 3)])
    assert note.doubtful
    assert note.text.startswith("Two labels: 2 pairs of one picture with different labels, such as")
    assert "a (hat) and b (cap)" in note.text
    assert "c (hat) and d (none)" in doubt_copies(names, labels, [(2, 3)])[0].text
