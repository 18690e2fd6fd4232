import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold, train_test_split

from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.splits import (
    assign_strata,
    count_groups,
    hold_out,
    join_groups,
    make_folds,
    merge_rare,
)


def shares(stratum, chosen):
    counts = np.bincount(stratum)
    return np.bincount(stratum[chosen], minlength=len(counts)) / counts


def make(sizes, kinds, *, mixed=False, seed=0):
    """Groups of given sizes; each of one stratum, or of images of any."""
    chance = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    stratum = chance.integers(0, kinds, len(groups) if mixed else len(sizes))
    stratum[:kinds] = range(kinds)
    return (stratum if mixed else stratum[groups]), groups


def test_without_groups_the_chosen_are_those_of_train_test_split():
    stratum = np.random.default_rng(0).permutation(np.repeat([0, 1, 4], [50, 31, 17]))
    _, expected = train_test_split(
        np.arange(98), test_size=20, random_state=np.int64(7), stratify=stratum
    )
    assert hold_out(stratum, None, 0.2, 7).tolist() == sorted(expected)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(2, 5), st.integers(0, 99))
def test_without_groups_the_folds_are_those_of_stratified_k_fold(own, folds, seed):
    counts = np.bincount(own)
    stratum = np.array(
        own + [kind for kind, n in enumerate(counts) for _ in range(max(0, folds - n))]
    )
    expected = StratifiedKFold(folds, shuffle=True, random_state=seed).split(stratum, stratum)
    for found, (_, out) in zip(make_folds(stratum, None, folds, seed), expected, strict=True):
        assert found.tolist() == out.tolist()


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_shares_are_near_the_asked_ones_though_groups_differ_much_in_size(fraction, mixed, seed):
    sizes = np.random.default_rng(seed).lognormal(2, 1, 300).astype(int) + 1
    stratum, groups = make(sizes, 3, mixed=mixed, seed=seed)
    assert sizes.max() > 10 * np.median(sizes)
    chosen = hold_out(stratum, groups, fraction, seed)
    assert np.abs(shares(stratum, chosen) - fraction).max() < 0.02
    assert abs(len(chosen) / len(stratum) - fraction) < 0.02


@pytest.mark.parametrize("mixed", [False, True])
def test_folds_are_of_one_size_though_groups_differ(mixed):
    sizes = np.random.default_rng(0).lognormal(2, 1, 300).astype(int) + 1
    stratum, groups = make(sizes, 3, mixed=mixed)
    for out in make_folds(stratum, groups, 5, 0):
        assert np.abs(shares(stratum, out) - 0.2).max() < 0.03


def test_many_groups_of_few_images_are_as_even_as_images():
    """Extras of each small stratum do not all go to the first fold."""
    groups = np.arange(600)
    groups[1] = 0
    stratum = np.repeat(np.arange(100), 6)
    sizes = [len(out) for out in make_folds(stratum, groups, 5, 0)]
    assert max(sizes) - min(sizes) <= 2
    assert abs(len(hold_out(stratum, groups, 0.2, 0)) - 120) <= 8


def test_one_huge_group_stays_in_training_and_the_others_are_taken():
    groups = np.repeat(np.arange(11), [900, *[10] * 10])
    chosen = hold_out(np.zeros(1000, int), groups, 0.2, 0)
    assert 0 not in groups[chosen]
    assert len(chosen) >= 50


def test_a_large_share_may_leave_only_the_huge_group_for_validation():
    groups = np.repeat(np.arange(11), [900, *[10] * 10])
    chosen = hold_out(np.zeros(1000, int), groups, 0.9, 0)
    assert 0.85 < len(chosen) / 1000 < 1


@pytest.mark.parametrize(
    ("stratum", "groups"),
    [
        ([0], None),
        ([0, 1], None),
        ([0, 0], [5, 5]),
        ([0, 0, 1, 1], [7, 7, 3, 3]),
        ([0, 1, 0, 1], [0, 0, 0, 0]),
    ],
)
def test_if_no_stratum_has_two_groups_nothing_can_be_held_out(stratum, groups):
    groups = None if groups is None else np.array(groups)
    with pytest.raises(DatasetError, match=r"too few images .* Add images"):
        hold_out(np.array(stratum), groups, 0.2, 0)


def test_two_images_of_a_class_are_divided():
    assert len(hold_out(np.array([3, 3]), None, 0.01, 0)) == 1
    assert len(hold_out(np.array([3, 3, 3]), np.array([1, 1, 2]), 0.99, 0)) in (1, 2)


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.95])
def test_a_stratum_with_two_groups_has_one_on_either_side(fraction):
    groups = np.repeat(np.arange(26), [3] * 6 + [1] * 20)
    stratum = np.repeat([0, 1, 2, 3], [6, 6, 6, 20])
    held = shares(stratum, hold_out(stratum, groups, fraction, 0))
    assert held[:3].tolist() == [0.5] * 3
    assert 0 < held[3] < 1


def test_a_stratum_with_a_single_group_keeps_it():
    stratum = np.array([0] * 20 + [1] * 5)
    groups = np.array([*range(20), *[99] * 5])
    for seed in range(5):
        chosen = hold_out(stratum, groups, 0.5, seed)
        assert (stratum[chosen] == 0).all()
        assert len(chosen) >= 8


def test_groups_that_hold_most_images_of_other_strata_are_divided_too():
    """Two patients, each with images of either class: one of them is held out."""
    stratum, groups = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 0, 0, 1, 1, 1])
    assert hold_out(stratum, groups, 0.5, 0).tolist() in ([0, 1, 2], [3, 4, 5])


def test_a_rare_stratum_within_a_group_of_another_is_not_lost():
    """All images of stratum 1 are in one group, where they are the fewer."""
    groups = np.repeat(np.arange(10), 6)
    stratum = np.zeros(60, int)
    stratum[12:14] = 1
    for seed in range(10):
        assert 2 not in groups[hold_out(stratum, groups, 0.5, seed)]
        assert hold_out(stratum, groups, 0.5, seed).size


def test_every_label_of_many_stays_in_training():
    """An image stands for its rarest label only; here the other is lost with it by chance."""
    labels = np.zeros((40, 3), bool)
    labels[:, 0] = True
    labels[:4, 1] = labels[:3, 2] = True
    stratum = assign_strata(Task.LABELS, labels)
    for seed in range(20):
        for fraction in (0.2, 0.9):
            chosen = hold_out(stratum, None, fraction, seed, labels=labels)
            assert np.delete(labels, chosen, axis=0).any(axis=0).all()
    only = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    groups = np.array([0, 0, 1, 1])
    with pytest.raises(DatasetError, match="too few images"):
        hold_out(np.zeros(4, int), groups, 0.5, 0, labels=only)


@st.composite
def groupings(draw):
    count = draw(st.integers(1, 40))
    stratum = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    some = st.lists(st.integers(-5, draw(st.integers(-5, 30))), min_size=count, max_size=count)
    groups = draw(st.none() | some)
    return np.array(stratum), groups if groups is None else np.array(groups)


@given(groupings(), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_groups_are_never_divided_and_no_stratum_is_lost(grouping, fraction, seed):
    stratum, groups = grouping
    try:
        chosen = hold_out(stratum, groups, fraction, seed)
    except DatasetError:
        # A group that has all of a stratum cannot be held out; some other could.
        own = np.arange(len(stratum)) if groups is None else groups
        free = [
            g for g in set(own.tolist()) if set(stratum[own == g]) <= set(stratum[own != g])
        ]  # fmt: skip
        assert not free
        return
    rest = np.setdiff1d(np.arange(len(stratum)), chosen)
    assert len(chosen) == len(set(chosen.tolist())) > 0
    assert {*stratum[rest]} == {*stratum}
    assert groups is None or not {*groups[chosen]} & {*groups[rest]}
    assert chosen.tolist() == hold_out(stratum, groups, fraction, seed).tolist()


@given(groupings(), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_every_image_is_in_one_fold_and_every_group_too(grouping, folds, seed):
    stratum, groups = grouping
    counts = count_groups(stratum, groups)
    if counts[counts > 0].min() < folds:
        with pytest.raises(DatasetError, match=f"{folds} folds need .* choose fewer folds"):
            make_folds(stratum, groups, folds, seed)
        merged = merge_rare(stratum, groups, folds)
        units = len(stratum) if groups is None else len(np.unique(groups))
        if units < folds:
            return
        stratum = merged
    cut = make_folds(stratum, groups, folds, seed)
    assert len(cut) == folds
    assert sorted(np.concatenate(cut).tolist()) == list(range(len(stratum)))
    if groups is not None:
        assert sum(len(np.unique(groups[out])) for out in cut) == len(np.unique(groups))
    # Each has a group of each stratum that has groups of its own in it.
    kinds = np.flatnonzero(count_groups(stratum, groups))
    assert all({*stratum[out]} >= {*kinds.tolist()} for out in cut)
    again = make_folds(stratum, groups, folds, seed)
    assert all(np.array_equal(*pair) for pair in zip(cut, again, strict=True))


@pytest.mark.parametrize("groups", [None, np.arange(200) // 3])
def test_the_seed_decides(groups):
    stratum = np.arange(200) % 4 if groups is None else groups % 4
    chosen = [tuple(hold_out(stratum, groups, 0.2, seed)) for seed in range(5)]
    folds = [tuple(make_folds(stratum, groups, 3, seed)[0]) for seed in range(5)]
    assert len({*chosen}) == len({*folds}) == 5


def test_strata_are_classes_rarest_labels_and_parts_of_numbers():
    assert assign_strata(Task.CLASSES, np.array([2, 0, 2], np.int32)).tolist() == [2, 0, 2]
    sets = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1], [1, 0, 1]], bool)
    assert assign_strata(Task.LABELS, sets).tolist() == [1, 0, 3, 2, 2]
    numbers = np.random.default_rng(0).permutation(100.0 * np.arange(105))[:, None]
    parts = assign_strata(Task.NUMBER, numbers)
    assert sorted(np.bincount(parts)) == [10] * 5 + [11] * 5
    assert np.array_equal(np.argsort(parts[np.argsort(numbers[:, 0])], kind="stable"), range(105))


@pytest.mark.parametrize(("count", "parts"), [(1, 1), (9, 1), (10, 1), (20, 2), (99, 9)])
def test_few_numbers_are_in_few_parts(count, parts):
    numbers = np.arange(count, dtype=float)[:, None]
    assert len(np.unique(assign_strata(Task.NUMBER, numbers))) == parts


def test_equal_numbers_are_one_part():
    assert len({*assign_strata(Task.NUMBER, np.zeros((100, 1)))}) == 1


def test_units_are_images_or_groups_by_their_most_frequent_stratum():
    stratum = np.array([0, 0, 2, 2, 2])
    assert count_groups(stratum, None, 4).tolist() == [2, 0, 3, 0]
    assert count_groups(stratum, np.array([9, 9, 9, 4, 4])).tolist() == [1, 0, 1]
    # Of two that are as frequent, the first.
    assert count_groups(np.array([1, 0]), np.array([0, 0]), 2).tolist() == [1, 0]


def test_a_stratum_that_no_group_stands_for_is_rare_too():
    groups = np.repeat([0, 1, 2], 5)
    stratum = np.array([0, 0, 0, 3, 3, 1, 1, 1, 4, 4, 2, 2, 2, 2, 2])
    assert merge_rare(stratum, groups, 2).tolist() == [0] * 15
    assert merge_rare(stratum, groups, 1) is not stratum
    assert merge_rare(stratum, groups, 1).tolist() == stratum.tolist()


@given(groupings(), st.integers(1, 8))
def test_what_is_rare_is_merged_and_nothing_else(grouping, least):
    stratum, groups = grouping
    before, merged = count_groups(stratum, groups), merge_rare(stratum, groups, least)
    after = count_groups(merged, groups)
    after = after[after > 0]
    units = len(stratum) if groups is None else len(np.unique(groups))
    assert (after.min() >= least) == (units >= least)
    # What had enough keeps its own, but for one that others were added to.
    enough = np.flatnonzero(before >= least)
    apart = {tuple(np.unique(merged[stratum == kind])) for kind in enough}
    assert len(apart) >= len(enough) - 1
    assert {*merged} <= {*stratum}


GROUPS = st.integers(1, 15).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-9, 9), min_size=n, max_size=n)] * 2)
)


@given(GROUPS)
def test_joined_groups_are_what_either_puts_together(pair):
    first, second = (np.array(one) for one in pair)
    groups = join_groups(first, second)
    # By hand: spread the least place until nothing changes.
    least = np.arange(len(first))
    for _ in range(len(first)):
        for kind in (first, second):
            for value in {*kind.tolist()}:
                least[kind == value] = least[kind == value].min()
    same = groups[:, None] == groups[None, :]
    assert np.array_equal(same, least[:, None] == least[None, :])
    assert join_groups(None, second) is second


@pytest.mark.parametrize(("large", "small"), [(40, 2), (100, 3), (500, 2), (25, 5)])
def test_a_small_class_has_an_image_on_either_side(large, small):
    stratum = np.repeat([0, 1], [large, small])
    for seed in range(20):
        held = shares(stratum, hold_out(stratum, None, 0.1, seed))
        assert 0 < held[1] < 1 and 0 < held[0] < 0.2


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=4, max_size=60),
    st.floats(0.05, 0.9),
    st.integers(0, 99),
)
def test_a_class_that_is_nowhere_chosen_cannot_be(rows, fraction, seed):
    """Of such a class every group is the only one left for some class, perhaps itself."""
    stratum, groups = np.array(rows).T
    try:
        chosen = hold_out(stratum, groups, fraction, seed)
    except DatasetError:
        return
    kept = np.setdiff1d(np.arange(len(stratum)), chosen)
    assert {*stratum[kept]} == {*stratum}
    for kind in {*stratum} - {*stratum[chosen]}:
        for group in {*groups[stratum == kind]}:
            left = stratum[kept][groups[kept] != group]
            assert {*stratum[groups == group]} - {*left}


def test_a_label_of_two_images_has_one_on_either_side():
    labels = np.zeros((60, 3), bool)
    labels[:, 0] = True
    labels[:2, 1] = labels[1:4, 2] = True
    stratum = assign_strata(Task.LABELS, labels)
    for seed in range(20):
        chosen = hold_out(stratum, None, 0.1, seed, labels=labels)
        assert labels[chosen].any(axis=0).all()
        assert np.delete(labels, chosen, axis=0).any(axis=0).all()
