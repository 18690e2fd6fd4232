import itertools

import pytest

from topwork.core.data_settings import FolderMeaning
from topwork.core.errors import DatasetError
from topwork.data.readers.class_folders import read_tree
from topwork.data.readers.tree import NameTree, is_litter


def classes_in(*tops, classes=("cat", "dog")):
    return [f"{top}/{name}/{n}.png" for top in tops for name in classes for n in range(2)]


def read(names, meaning=None, labelled=True, base=""):
    tree = NameTree("p", names, lambda name: name.encode())
    return read_tree(tree, False, base, labelled=labelled, meaning=meaning)


def splits_of(listing):
    return {split: listing.splits.count(split) for split in listing.splits or ()}


def texts(listing):
    return [note.text for note in listing.notes]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (classes_in("Training", "Testing"), {"train": 4, "test": 4}),
        (classes_in("training_set", "test_set"), {"train": 4, "test": 4}),
        (classes_in("train_images", "val_images"), {"train": 4, "validation": 4}),
        (classes_in("seg_train", "seg_test"), {"train": 4, "test": 4}),
        (classes_in("seg_train/seg_train", "seg_test/seg_test"), {"train": 4, "test": 4}),
        (classes_in("train/images", "test/images"), {"train": 4, "test": 4}),
        (classes_in("dev", "eval", "train"), {"validation": 4, "test": 4, "train": 4}),
        (classes_in("TrainSet", "holdout"), {"train": 4, "test": 4}),
        (classes_in("asl_alphabet_train", "asl_alphabet_test"), {"train": 4, "test": 4}),
        (
            [f"{c}/{s}/{n}.png" for c in ("cat", "dog") for s in ("train", "val") for n in (1, 2)],
            {"train": 4, "validation": 4},
        ),
    ],
)
def test_splits_are_told_by_their_names(names, expected):
    found = read(names)
    assert splits_of(found) == expected
    assert {*found.labels} == {"cat", "dog"}
    assert found.skipped == ()
    # What is called otherwise than the split is said.
    assert found.notes or all(name.startswith(("train/", "test/")) for name in names)


@pytest.mark.parametrize("inner", ["", "seg_pred/"])
def test_pictures_without_labels_are_left_out_of_a_divided_data_set(inner):
    names = [*classes_in("seg_train", "seg_test"), f"seg_pred/{inner}1.png"]
    found = read(names)
    assert splits_of(found) == {"train": 4, "test": 4}
    assert [item.path for item in found.skipped] == [names[-1]]
    assert "has no label" in found.skipped[0].reason
    everything = read(names, labelled=False)
    assert dict(zip(everything.names, everything.labels, strict=True))[names[-1]] is None


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["images/1.png", "masks/1.png"], "pictures and what belongs to them"),
        (classes_in("images", "masks"), "such as p/images"),
        (["img/1.png", "annotations/1.png", "labels/2.png"], "what belongs to them"),
        (["train/images/1.png", "train/labels/1.png", "val/images/2.png"], "what belongs"),
        (classes_in("part_1", "part_2"), "differ by a number alone"),
        (["ham_images_part_1/1.png", "ham_images_part_2/2.png"], "differ by a number"),
        (["fold1/1.png", "fold2/2.png", "fold3/2.png"], "differ by a number"),
        (classes_in("siteA", "siteB"), r"hold the same folders \(cat, dog\)"),
        (classes_in("2019", "2020"), "hold the same folders"),
        (classes_in("batch a", "batch b", classes=("0", "1", "2")), "hold the same folders"),
    ],
)
def test_two_readings_are_both_named(names, reason):
    with pytest.raises(DatasetError, match=reason) as caught:
        read(names)
    assert "--folders classes" in str(caught.value)
    tops = {name.partition("/")[0] for name in names}
    if "train" not in tops:
        assert {*read(names, FolderMeaning.CLASSES).labels} == tops


@pytest.mark.parametrize("tops", [("part_1", "part_2"), ("siteA", "siteB"), ("train1", "train2")])
def test_parts_are_read_if_the_user_says_so(tops):
    found = read(classes_in(*tops), FolderMeaning.PARTS)
    assert {*found.labels} == {"cat", "dog"}
    assert len(found.names) == 8
    assert set(found.splits or ["train"]) == {"train"}
    mixed = read(classes_in(tops[0], "test"), FolderMeaning.PARTS)
    assert splits_of(mixed) == {"train": 4, "test": 4}


@pytest.mark.parametrize("name", ["test", "Testing", "pred", "test_images", "unlabeled", "eval"])
def test_flat_test_pictures_beside_classes_are_no_class(name):
    names = ["OK/1.png", "NG/2.png", f"{name}/3.png", f"{name}/4.png"]
    found = read(names)
    assert (found.labels, found.splits) == (["NG", "OK"], None)
    assert [item.path for item in found.skipped] == names[2:]
    (note,) = found.notes
    assert note.doubtful
    assert "--folders classes" in note.text
    assert {*read(names, FolderMeaning.CLASSES).labels} == {"OK", "NG", name}


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["train/1.png", "bus/2.png", "car/3.png"], {"train", "bus", "car"}),
        (["train/1.png", "bus/2.png"], {"train", "bus"}),
        (["valid/1.png", "invalid/2.png", "blurred/3.png"], {"valid", "invalid", "blurred"}),
        (["test/1.png", "exam/2.png"], {"test", "exam"}),
        (["val/1.png", "mar/2.png", "rio/3.png"], {"val", "mar", "rio"}),
    ],
)
def test_a_class_that_is_called_like_a_split_is_one_and_said(names, classes):
    found = read(names)
    assert ({*found.labels}, found.splits, found.skipped) == (classes, None, ())
    assert ["is taken as a class" in text for text in texts(found)] == [True]


@pytest.mark.parametrize(
    "names",
    [
        ["class_1/1.png", "class_2/2.png"], ["0/1.png", "1/2.png"],
        ["grade1/1.png", "grade2/2.png"],
        ["with_mask/1.png", "without_mask/2.png"], ["test tube/1.png", "bullet train/2.png"],
        ["cat/images/1.png", "dog/images/2.png"], ["cat/a/1.png", "dog/b/2.png"],
        ["cat/1.png", "cat/x/1.png", "cat/y/1.png", "dog/x/2.png", "dog/y/1.png"],
    ],
)  # fmt: skip
def test_other_folders_are_classes_without_a_word(names):
    found = read(names)
    assert {*found.labels} == {name.partition("/")[0] for name in names}
    assert (found.notes, found.skipped) == ((), ())


def test_numbered_folders_within_classes_are_said():
    found = read(classes_in("cat", "dog", classes=("0", "1")))
    assert {*found.labels} == {"cat", "dog"}
    assert "--folders parts" in texts(found)[0]


@pytest.mark.parametrize("other", ["docs/readme.txt", "masks/1.png", "ground_truth/cat/1.png"])
def test_what_lies_beside_splits_and_is_no_class_is_passed_over_and_named(other):
    found = read([*classes_in("train", "test"), other])
    assert splits_of(found) == {"train": 4, "test": 4}
    assert other.partition("/")[0] in texts(found)[-1]


@pytest.mark.parametrize(
    "name", ["@eaDir", "$RECYCLE.BIN", "lost+found", "System Volume Information", "#recycle"]
)
def test_what_other_machines_leave_is_no_class(name):
    assert is_litter(f"a/{name}/1.png")
    found = read(["cat/1.png", "dog/2.png", f"{name}/3.png", f"cat/{name}/4.png"])
    assert (found.names, found.skipped, found.notes) == (["cat/1.png", "dog/2.png"], (), ())


@pytest.mark.parametrize("meaning", FolderMeaning)
@pytest.mark.parametrize(
    "tops",
    [*itertools.combinations(["train", "test", "cat", "masks", "images", "part_1", "part_2"], 2)],
)
def test_whatever_the_user_says_no_picture_is_lost(tops, meaning):
    names = [*classes_in(*tops), *(f"{top}/9.png" for top in tops)]
    found = read(names, meaning)
    assert {*found.names} | {item.path for item in found.skipped} == {*names}
