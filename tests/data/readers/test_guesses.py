import pytest

from topwork.core.data_settings import DataSettings
from topwork.data.readers.path_splits import split_by_paths
from topwork.data.readers.table import read_table


def read(header, rows, **columns):
    text = "\n".join([header, *(",".join(map(str, row)) for row in rows)])
    settings = DataSettings.create(**columns)
    return read_table("t.csv", text.encode(), settings, lambda text: b"x", strict=True)


def doubts(listing):
    return [note.text for note in listing.notes if note.doubtful]


def weighed(*weights, **columns):
    rows = [(f"{n}.png", "xy"[n % 2], weight) for n, weight in enumerate(weights)]
    return read("path,label,weight", rows, **columns)


def test_what_was_guessed_is_said_with_its_range():
    rows = [(f"{n}.png", "xy"[n % 2], "train", f"g{n // 2}", 1 + n) for n in range(6)]
    found = read("Image,Class,Split,Group,Weight", rows)
    said = " ".join(note.text for note in found.notes)
    for part in ("images from Image", "labels from Class", "splits from Split (train)"):
        assert part in said
    assert "groups from Group (3)" in said
    assert "the column Weight (1 to 6); --weight-column ''" in said
    asked = {f"{name}_column": name for name in ("image", "label", "split", "group", "weight")}
    asked["label_column"] = "class"
    assert read("Image,Class,Split,Group,Weight", rows, **asked).notes == ()


@pytest.mark.parametrize("weights", [(150, 210, 340), (1, 1, 1), (0, 1, 2, 100), (0.01, 1, 1)])
def test_weights_that_may_be_meant_are_used_and_said(weights):
    found = weighed(*weights)
    assert found.weights == list(weights)
    assert bool(doubts(found)) is (len({*weights}) > 1)
    assert weighed(*weights, weight_column="").weights is None


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ((1, 2, 340), "from 1 to 340"), ((0.001, 1, 1), "from 0.001 to 1"),
        ((3000, 12, 7), "from 7 to 3000"), ((1, 0, 1, 0), "0 for every image of y"),
        ((0, 0.5, 0, 2), "0 for every image of x"),
    ],
)  # fmt: skip
def test_weights_that_can_hardly_be_meant_are_not_used_unasked(weights, why):
    found = weighed(*weights)
    assert found.weights is None
    (said,) = doubts(found)
    assert why in said
    assert "--weight-column weight uses it" in said
    asked = weighed(*weights, weight_column="weight")
    assert asked.weights == list(weights)
    (said,) = doubts(asked)
    assert why in said


def test_weights_of_numbers_have_no_classes():
    found = weighed(1, 0, 1, 0, task="number")
    assert found.weights == [1, 0, 1, 0]


def test_groups_that_are_the_classes_are_named():
    rows = [(f"{n}.png", "xyz"[n % 3], f"g{n % 3}") for n in range(9)]
    found = read("path,label,group", rows)
    assert found.groups is None
    assert "each of its values is one class" in doubts(found)[0]
    asked = read("path,label,group", rows, group_column="group")
    assert asked.groups == [f"g{n % 3}" for n in range(9)]
    assert doubts(asked)
    for others in ([(*row[:2], f"g{n // 2}") for n, row in enumerate(rows)], [rows[0], rows[1]]):
        kept = read("path,label,group", others)
        assert kept.groups is not None
        assert not doubts(kept)


def pathed(*paths, labels=None, **columns):
    labels = labels or ["ab"[n % 2] for n in range(len(paths))]
    found = read("path,label", [*zip(paths, labels, strict=True)], **columns)
    return split_by_paths(found)


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (("train/1.png", "test/2.png"), ["train", "test"]),
        (("a/Train/1.png", "a/Val/2.png"), ["train", "validation"]),
        (("/home/test/train/1.png", "/home/test/val/2.png"), ["train", "validation"]),
        (("train_images/1.png", "test_images\\2.png"), ["train", "test"]),
        (("train/cat/1.png", "holdout/cat/2.png", "dev/x/3.png"), ["train", "test", "validation"]),
        (("https://x.org/train/1.png", "https://x.org/test/2.png"), ["train", "test"]),
        (("img/1.png", "test/2.png"), ["train", "test"]),
        (("train/1.png", "train/2.png"), None),
        (("test/1.png", "test/2.png"), None),
        (("1.png", "2.png"), None),
        (("train/1.png", "x/2.png"), None),
        (("test.png", "train.png"), None),
        (("test/a/1.png", "test/b/2.png"), None),
    ],
)
def test_splits_are_read_from_paths(paths, splits):
    found = pathed(*paths)
    assert found.splits == splits
    assert any("--split-column ''" in note.text for note in found.notes) is (splits is not None)


def test_a_class_in_a_path_is_no_split():
    labels = ["test", "exam"]
    assert pathed("test/1.png", "exam/2.png", labels=labels).splits is None
    assert pathed("test/1.png", "exam/2.png", labels=["b", "a"]).splits == ["test", "train"]
