from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.core.errors import SettingsError
from topwork.heads.examples import RowSplit
from topwork.heads.tuning.folds import FEW_VALIDATION, make_replicates, split_folds

CLASSES = ["ant", "bee", "cow", "dog"]


def make(counts, *, views=1, validation=7, seed=0):
    """Returns targets and a split: training images in no order, validation images among them."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int32)
    everything = len(labels) + validation
    places = rng.permutation(everything).astype(np.int32)
    training, held_out = places[validation:], places[:validation]
    targets = np.zeros(everything, np.int32)
    targets[training] = labels
    rows = [training]
    for view in range(1, views):
        rows.append(everything + (view - 1) * len(labels) + np.arange(len(labels), dtype=np.int32))
    return np.concatenate([targets, *[labels] * (views - 1)]), RowSplit(np.stack(rows), held_out)


def ask(counts, folds=None, seeds=None, *, validation=7, **options):
    targets, split = make(counts, validation=validation)
    labels = targets[split.training[0]]
    classes = CLASSES[: len(counts)]
    return make_replicates(split, labels, folds, seeds, 5, classes=classes, **options)


def held_out(split):
    return split.held_out[split.held_out >= 0]


@given(
    st.lists(st.integers(2, 12), min_size=2, max_size=4),
    st.integers(2, 12),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_every_training_image_is_held_out_once_and_learnt_from_in_no_view_then(
    counts, folds, views, seed
):
    folds = min(folds, *counts)
    targets, split = make(counts, views=views)
    cut = split_folds(
        split, targets[split.training[0]], folds, seed, classes=CLASSES[: len(counts)]
    )

    assert len(cut) == folds
    assert sorted(np.concatenate([held_out(one) for one in cut])) == sorted(split.training[0])
    image_of = {row: n for view in split.training for n, row in enumerate(view)}
    for one in cut:
        assert one.training.dtype == one.held_out.dtype == np.int32
        learnt = [{image_of[row] for row in view} for view in one.training]
        unseen = {image_of[row] for row in held_out(one)}
        assert len(learnt) == views and all(images == learnt[0] for images in learnt)
        assert one.training.shape == (views, len(learnt[0]))
        assert learnt[0].isdisjoint(unseen)
        assert learnt[0] | unseen == set(range(sum(counts)))
        # Each view keeps to its own rows, in the same order of images.
        for view, whole in zip(one.training, split.training, strict=True):
            assert set(view) <= set(whole)
            assert [image_of[row] for row in view] == [image_of[row] for row in one.training[0]]


@given(st.lists(st.integers(2, 30), min_size=2, max_size=4), st.integers(2, 6))
def test_every_fold_holds_out_its_share_of_each_class(counts, folds):
    folds = min(folds, *counts)
    targets, split = make(counts)
    for one in split_folds(
        split, targets[split.training[0]], folds, 0, classes=CLASSES[: len(counts)]
    ):
        shares = np.bincount(targets[held_out(one)], minlength=len(counts))
        assert (abs(shares - np.array(counts) / folds) < 1).all()


def test_held_out_rows_are_filled_up_at_the_end_to_one_length():
    targets, split = make([5, 6])
    cut = split_folds(split, targets[split.training[0]], 3, 0, classes=CLASSES[:2])
    lengths = [len(held_out(one)) for one in cut]
    assert sorted(lengths) == [3, 4, 4]
    for one, length in zip(cut, lengths, strict=True):
        assert one.held_out.shape == (4,)
        assert (one.held_out[length:] == -1).all() and (one.held_out[:length] >= 0).all()


def test_the_seed_decides_the_folds():
    targets, split = make([20, 20])

    def rows(seed):
        return [
            one.held_out.tolist()
            for one in split_folds(split, targets[split.training[0]], 4, seed, classes=CLASSES[:2])
        ]

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


@pytest.mark.parametrize("folds", [1, -1, 4, 100])
def test_folds_that_the_smallest_class_does_not_allow_name_it_and_its_count(folds):
    with pytest.raises(SettingsError) as error:
        ask([9, 3, 8], folds)
    text = str(error.value)
    assert "2 to 3" in text and "class bee has 3 training images" in text
    assert f"received {folds}" in text


@pytest.mark.parametrize("folds", [1, 2])
def test_a_class_of_one_image_leaves_the_validation_images(folds):
    with pytest.raises(SettingsError) as error:
        ask([9, 1], folds)
    assert "must be 0 for the validation images" in str(error.value)
    assert "class bee has 1 training image, received" in str(error.value)


def test_no_folds_are_no_folds_of_anything():
    targets, split = make([9, 9])
    with pytest.raises(SettingsError):
        split_folds(split, targets[split.training[0]], 0, 0, classes=CLASSES[:2])


@pytest.mark.parametrize(
    ("counts", "validation", "options", "folds"),
    [
        ([9, 9], 7, {}, 5),
        ([9, 9], FEW_VALIDATION - 1, {}, 5),
        ([9, 9], FEW_VALIDATION, {}, 0),
        ([9, 9], 7, {"most_folds": 3}, 3),
        ([9, 9], FEW_VALIDATION, {"most_folds": 3}, 0),
        ([9, 4], 7, {}, 4),
        ([2, 9], 7, {"most_folds": 3}, 2),
        ([9, 1], 7, {}, 0),
    ],
)
def test_folds_are_chosen_by_the_number_of_images(counts, validation, options, folds):
    chosen = ask(counts, validation=validation, **options)
    assert len(chosen) == (folds or 5)
    assert all(one.is_fold == bool(folds) for one in chosen)


def test_what_is_asked_for_wins():
    assert [one.is_fold for one in ask([9, 9], 2, validation=FEW_VALIDATION)] == [True, True]
    assert [one.is_fold for one in ask([9, 9], 3, most_folds=2)] == [True] * 3
    assert not any(one.is_fold for one in ask([9, 9], 0))


def test_seeds_are_five_on_the_validation_images_and_one_on_folds():
    assert [one.seed for one in ask([9, 9], 0)] == [5, 6, 7, 8, 9]
    assert [one.seed for one in ask([9, 9], 3)] == [5, 5, 5]
    assert [one.seed for one in ask([9, 9], 0, 1)] == [5]


def test_each_seed_sees_the_same_folds_and_every_replicate_has_its_own_name():
    chosen = ask([9, 9], 3, 2)
    assert [one.seed for one in chosen] == [5, 5, 5, 6, 6, 6]
    for first, second in zip(chosen[:3], chosen[3:], strict=True):
        assert np.array_equal(first.split.held_out, second.split.held_out)
        assert np.array_equal(first.split.training, second.split.training)
    assert len({one.name for one in chosen}) == 6
    assert chosen[4].name == "fold 2 of 3, seed 6"


def test_without_folds_the_parts_are_the_validation_images():
    targets, split = make([9, 9])
    for one in make_replicates(split, targets[split.training[0]], 0, 2, 0, classes=CLASSES[:2]):
        assert one.split is split


def ask_lacking(counts, folds=None, **options):
    """Asks where the validation images lack a class."""
    targets, split = make(counts)
    split = replace(split, decides=False)
    labels = targets[split.training[0]]
    return make_replicates(split, labels, folds, 1, 5, classes=CLASSES[: len(counts)], **options)


@pytest.mark.parametrize(
    ("counts", "folds"),
    [([9, 9], 5), ([9, 9, 1], 5), ([9, 3, 1], 3), ([9, 1], 0), ([1, 1], 0), ([20, 2, 1, 1], 2)],
)
def test_validation_images_that_lack_a_class_choose_nothing(counts, folds):
    found = ask_lacking(counts)
    assert [one.is_fold for one in found] == [True] * folds
    if folds:
        held = np.concatenate([held_out(one.split) for one in found])
        assert len(held) == sum(counts)
        assert all(one.split.decides for one in found)


def test_not_even_asked_for_they_choose():
    assert ask_lacking([9, 9], 0) == []
    assert len(ask([9, 9], 0)) == 5
