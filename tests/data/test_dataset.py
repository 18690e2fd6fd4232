import os
import pickle
import random
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, picture

from topwork.core.config import Interpolation
from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError, SettingsError
from topwork.core.task import Task
from topwork.data.dataset import Dataset, SplitMade
from topwork.data.listing import Listing, Skipped, Split
from topwork.data.readers.folder import list_images
from topwork.images.decode import decode, read_bytes

FLAT = ("cat/1.jpg", "cat/2.jpg", "dog/3.jpg")


def make(root, *names):
    """Makes empty files, and folders where a name ends with a slash."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


def index(root, *names, **options):
    return Dataset.from_folder(make(root, *names), **options)


def rows(dataset):
    labels = (dataset.classes[label] for label in dataset.labels)
    return list(zip(dataset.names, labels, dataset.splits.tolist(), strict=True))


def numbered(labels, splits=None):
    """A dataset of images that are never read."""
    dataset = Dataset.from_sources([b"x"] * len(labels), labels)
    if splits is None:
        return dataset
    kept = dataset.__dict__ | {"splits": np.array([str(split) for split in splits])}
    return Dataset(**kept)


def test_each_folder_is_a_class(tmp_path):
    dataset = index(tmp_path, *FLAT)
    assert rows(dataset) == [
        ("cat/1.jpg", "cat", "train"), ("cat/2.jpg", "cat", "train"), ("dog/3.jpg", "dog", "train")
    ]  # fmt: skip
    assert dataset.sources == tuple(tmp_path / name for name in FLAT)
    assert dataset.labels.dtype == np.int32
    assert not dataset.divided
    assert not dataset.skipped


@pytest.mark.parametrize("validation", ["validation", "val", "valid", "VAL", "Validation"])
@pytest.mark.parametrize("train", ["train", "Train", "TRAIN"])
def test_split_folders_are_known_in_any_case(tmp_path, train, validation):
    names = (f"{train}/a/1.png", f"{train}/b/2.png", f"{validation}/a/3.png", "Test/b/4.png")
    dataset = index(tmp_path, *names)
    assert dataset.divided
    assert sorted(rows(dataset)) == sorted(
        (name, name.split("/")[1], split)
        for name, split in zip(names, ["train", "train", "validation", "test"], strict=True)
    )


@pytest.mark.parametrize(
    "names",
    [
        ("train/a/1.png", "train/b/1.png", "val/a/2.png", "valid/a/2.png"),
        ("train/a/1.png", "Train/b/1.png"),
        ("test/a/1.png", "TEST/b/1.png"),
    ],
)
def test_two_folders_for_one_split_are_refused(tmp_path, names):
    with pytest.raises(DatasetError, match="more than one"):
        index(tmp_path, *names)


@pytest.mark.parametrize(
    "names",
    [
        ("train/a/1.png", "train/b/1.png", "extra/a/2.png"),
        ("Train/a/1.png", "cat/1.png", "dog/2.png"),
        ("cat/1.png", "dog/2.png", "test/cat/3.png", "test/dog/4.png"),
        ("cat/1.png", "dog/2.png", "val/dog/4.png"),
    ],
)
def test_splits_beside_other_folders_are_refused(tmp_path, names):
    with pytest.raises(DatasetError, match="beside other folders"):
        index(tmp_path, *names)


def test_a_class_may_be_called_test(tmp_path):
    dataset = index(tmp_path, "exam/1.png", "test/2.png", "test/deep/3.png", "val/4.png")
    assert dataset.classes == ("exam", "test", "val")
    assert {split for _, _, split in rows(dataset)} == {"train"}


def test_a_test_folder_alone_may_hold_one_class(tmp_path):
    assert index(tmp_path, "test/a/1.png").counts()["test"] == {"a": 1}


def test_what_is_hidden_or_litter_is_passed_over_in_silence(tmp_path):
    dataset = index(
        tmp_path, *FLAT, ".git/1.jpg", ".hidden.jpg", "Thumbs.db", "README.md", "notes.txt",
        "__MACOSX/cat/1.jpg", "cat/.DS_Store", "cat/Thumbs.db", "cat/desktop.ini",
        "cat/._1.jpg", "cat/.cache/9.jpg", "dog/__MACOSX/9.jpg", strict=True,
    )  # fmt: skip
    assert dataset.names == FLAT


def test_suffixes_are_known_in_any_case_and_images_may_lie_deep(tmp_path):
    dataset = index(tmp_path, "a/x/y/z/1.JPG", "a/z.Jpeg", "b/3.PNG", "b/c.jpg/4.tif")
    assert dataset.names == ("a/x/y/z/1.JPG", "a/z.Jpeg", "b/3.PNG", "b/c.jpg/4.tif")


def test_what_is_no_image_is_named_with_the_reason(tmp_path):
    dataset = index(tmp_path, *FLAT, "cat/notes.txt", "cat/jpg", "top.png", "bird/", "fish/a.doc")
    named = {item.path: item.reason for item in dataset.skipped}
    assert named.keys() == {"cat/notes.txt", "cat/jpg", "top.png", "bird/", "fish/a.doc", "fish/"}
    assert named["top.png"] == "it lies beside the class folders"
    assert named["bird/"] == named["fish/"] == "the class has no images"
    assert "does not end like an image's" in named["cat/notes.txt"]
    assert dataset.classes == ("cat", "dog")
    assert dataset.names == FLAT


@pytest.mark.parametrize("bad", ["cat/notes.txt", "top.png", "bird/"])
def test_strict_raises_at_what_would_be_left_out(tmp_path, bad):
    with pytest.raises(DatasetError, match="leave out --strict") as caught:
        index(tmp_path, *FLAT, bad, strict=True)
    assert bad.rstrip("/") in str(caught.value)


def test_images_beside_the_classes_of_a_split_are_named(tmp_path):
    dataset = index(tmp_path, "train/a/1.png", "train/b/2.png", "train/3.png", "test/a/4.png")
    assert dataset.skipped == (Skipped("train/3.png", "it lies beside the class folders"),)


@pytest.mark.parametrize(
    "name",
    [
        "with space", "with\nnewline", "\N{PILE OF POO}", "قط", "'quoted\"", "100%", "*?[x]",
        os.fsdecode(b"latin-\xe9"),
    ],
)  # fmt: skip
def test_odd_names_are_kept_as_they_are(tmp_path, name):
    dataset = index(tmp_path, f"{name}/{name}.png", "other/1.png")
    # A model's files are UTF-8, which cannot hold undecodable bytes.
    assert name.replace("\udce9", r"\udce9") in dataset.classes
    "".join(dataset.classes).encode()
    assert f"{name}/{name}.png" in dataset.names
    assert all(path.is_file() for path in dataset.sources)


def test_one_name_in_two_encodings_is_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    names = [f"train/{composed}/1.png", "train/b/2.png", f"test/{decomposed}/{decomposed}.png"]
    dataset = index(tmp_path, *names)
    assert dataset.classes == (composed, "b")
    assert sorted(dataset.names) == sorted(names)
    assert dataset.counts()["test"] == {composed: 1, "b": 0}


def test_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path, *FLAT, "elsewhere/4.png")
    (tmp_path / "elsewhere").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    (tmp_path / "bird").symlink_to(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    (tmp_path / "cat" / "up").symlink_to(tmp_path)
    (tmp_path / "dog" / "5.jpg").symlink_to(tmp_path / "cat" / "1.jpg")
    dataset = Dataset.from_folder(tmp_path)
    assert dataset.names == ("bird/4.png", "cat/1.jpg", "cat/2.jpg", "dog/3.jpg", "dog/5.jpg")


def test_links_that_lead_nowhere_break_nothing(tmp_path):
    make(tmp_path, *FLAT)
    for path in (tmp_path / "loop", tmp_path / "cat" / "loop", tmp_path / "cat" / "9.jpg"):
        path.symlink_to(path.name)
    (tmp_path / "dog" / "lost.png").symlink_to("nowhere")
    dataset = Dataset.from_folder(tmp_path)
    assert set(dataset.names) == {*FLAT, "cat/9.jpg", "dog/lost.png"}
    assert [item.path for item in dataset.skipped] == ["cat/loop"]


def test_two_links_to_one_folder_count_its_images_once(tmp_path):
    make(tmp_path, "a/real/1.png", "b/2.png")
    (tmp_path / "a" / "link").symlink_to("real")
    assert len(Dataset.from_folder(tmp_path)) == 2


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((), "holds no images"),
        (("cat/", "dog/notes.txt"), "holds no images"),
        (("1.png", "2.png"), "such as {root}/cat/1.png"),
        (("train/1.png", "test/2.png"), "such as {root}/t.*/cat/"),
        (("cat/1.png",), "at least 2 classes are needed, received one in {root}: cat"),
        (("train/cat/1.png", "test/cat/2.png"), "at least 2 classes"),
        (("cat/1.png", "dog/2.txt"), "^2 files or rows were left out .dog/2.txt: .*; at least 2"),
    ],
)
def test_a_folder_without_two_classes_of_images_is_refused(tmp_path, names, reason):
    with pytest.raises(DatasetError, match=reason.format(root=tmp_path)):
        index(tmp_path, *names).check_training()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none", "no such folder"), ("file", "it is a file"), ("x" * 300, "no such folder")],
)
def test_what_is_no_folder_is_refused(tmp_path, name, reason):
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=reason):
        Dataset.from_folder(tmp_path / name)


@pytest.mark.parametrize("locked", [".", "cat", "cat/deep"])
def test_a_folder_that_cannot_be_read_is_an_error_and_not_an_absence(tmp_path, monkeypatch, locked):
    make(tmp_path, *FLAT, "cat/deep/4.png")
    scandir = os.scandir

    def refuse(path):
        if Path(path) == tmp_path / locked:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DatasetError, match=r"cannot read the folder .*: Permission denied"):
        Dataset.from_folder(tmp_path)


def test_the_order_of_listing_changes_nothing(tmp_path, monkeypatch):
    names = [f"{label}/{n % 3}/{n}.png" for label in ("a", "b", "c") for n in range(12)]
    make(tmp_path, *names)
    (tmp_path / "a" / "link").symlink_to("1")
    plain = Dataset.from_folder(tmp_path).with_validation(0.25, 3)
    scandir, chance = os.scandir, random.Random(0)

    class Shuffled:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = chance.sample(found := list(entries), len(found))

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    for _ in range(5):
        shuffled = Dataset.from_folder(tmp_path).with_validation(0.25, 3)
        assert rows(shuffled) == rows(plain)


def test_images_in_a_folder_are_listed_sorted(tmp_path):
    make(tmp_path, "b.png", "a/c.JPG", "notes.txt", ".hidden.png")
    assert list_images(tmp_path)[0] == [tmp_path / "a" / "c.JPG", tmp_path / "b.png"]


NAMES = ("p.mpo", "p.jps", "p.pnm", "p.pbm", "p.apng", "p.pjpeg", "p.JPG", "p.jfif", "p.pgm")


def test_more_suffixes_and_files_without_any_are_images(tmp_path):
    content = encode(picture())
    make(tmp_path, *(f"{folder}/{name}" for folder in "ab" for name in NAMES))
    for folder in "ab":
        (tmp_path / folder / "IMG_0001").write_bytes(content)
        (tmp_path / folder / "README").write_bytes(b"no image")
        (tmp_path / folder / "empty").write_bytes(b"")
        (tmp_path / folder / "photo.v2").write_bytes(content)
    dataset = Dataset.from_folder(tmp_path)
    wanted = sorted(f"{folder}/{name}" for folder in "ab" for name in (*NAMES, "IMG_0001"))
    assert sorted(dataset.names) == wanted
    left = {item.path for item in dataset.skipped}
    assert left == {
        f"{folder}/{name}" for folder in "ab" for name in ("README", "empty", "photo.v2")
    }
    images, others = list_images(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in images) == wanted
    assert {str(path.relative_to(tmp_path)) for path in others} == left


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_without_a_suffix_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert list_images(tmp_path) == ([], [tmp_path / "pipe"])


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.9])
def test_the_validation_split_has_the_shares_of_the_classes(fraction):
    labels = np.repeat(["a", "b", "c"], [200, 100, 40])
    made = numbered(labels).with_validation(fraction, 0)
    assert made.split_made == SplitMade(fraction, 0)
    for name, images in (("a", 200), ("b", 100), ("c", 40)):
        counts = made.counts()
        assert abs(counts["validation"][name] - fraction * images) <= 1
        assert counts["train"][name] + counts["validation"][name] == images


def test_the_seed_decides_the_validation_split():
    dataset = numbered(np.arange(100) % 4)
    first, again, other = (dataset.with_validation(0.2, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.splits, again.splits)
    assert not np.array_equal(first.splits, other.splits)
    assert dataset.split_made is None
    assert (dataset.splits == "train").all()


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_every_class_keeps_an_image_for_training_and_a_single_one_stays_there(fraction):
    made = numbered(["a"] * 3 + ["b"] * 2 + ["single"]).with_validation(fraction, 0)
    counts = made.counts()
    assert counts["train"]["single"] == 1
    assert min(counts["train"].values()) >= 1
    assert counts["validation"]["a"] >= 1
    assert counts["validation"]["b"] == 1


def test_two_images_in_all_are_too_few_to_divide():
    with pytest.raises(DatasetError, match=r"too few images .* received 2 images of 2 classes"):
        numbered(["a", "b"]).with_validation(0.2, 0)


def test_a_validation_split_in_the_data_is_left_as_it_is(tmp_path):
    dataset = index(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png")
    assert dataset.with_validation(0.5, 0) is dataset


def test_the_test_split_is_never_touched():
    splits = ["train"] * 40 + ["test"] * 20
    made = numbered(np.arange(60) % 2, splits).with_validation(0.5, 0)
    assert (made.splits[40:] == "test").all()
    assert (made.splits == "validation").sum() == 20


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("train/a/1.png", "train/b/2.png", "val/c/3.png"), "validation has images of c"),
        (("train/a/1.png", "train/b/2.png", "test/c/3.png"), "test has images of c"),
        (("test/a/1.png", "test/b/2.png"), "no training images in .*add a folder train/"),
        (("val/a/1.png", "val/b/2.png", "train/"), "no training images"),
        (("train/a/1.png", "train/a/2.png", "test/b/3.png"), "test has images of b"),
    ],
)
def test_a_class_that_cannot_be_learnt_is_refused(tmp_path, names, reason):
    with pytest.raises(DatasetError, match=reason):
        index(tmp_path, *names).with_validation(0.2, 0)


def test_images_may_be_paths_bytes_and_arrays_mixed():
    array = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    dataset = Dataset.from_sources(["a.png", Path("b.png"), b"abc", array], list("xyxy"))
    assert dataset.sources[:3] == (Path("a.png"), Path("b.png"), b"abc")
    assert dataset.names == ("a.png", "b.png", "image 2", "image 3")
    assert np.array_equal(decode(dataset.sources[3], 7, Interpolation.NEAREST)[0], array[0])
    assert dataset.root is None
    assert dataset.labels.tolist() == [0, 1, 0, 1]


def test_images_without_labels_have_no_classes():
    dataset = Dataset.from_sources(iter([b"a", b"b"]))
    assert dataset.classes == ()
    assert dataset.labels.tolist() == [-1, -1]
    assert dataset.counts() == {"train": {}, "validation": {}, "test": {}}


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        (np.array(["b", "a", "b"], object), ("a", "b"), [1, 0, 1]),
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        ([0.5, -1.0, 0.5], ("-1.0", "0.5"), [1, 0, 1]),
        (("", " ", ""), ("", " "), [0, 1, 0]),
        (["nan", "None", "nan"], ("None", "nan"), [1, 0, 1]),
        (["caf\udce9", "b", "caf\udce9"], ("b", r"caf\udce9"), [1, 0, 1]),
    ],
)
def test_labels_are_texts_or_numbers(labels, classes, numbers):
    dataset = Dataset.from_sources([b"x"] * 3, labels)
    assert dataset.classes == classes
    assert dataset.labels.tolist() == numbers


NAN = float("nan")


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["a", None, "b"], "received None, NaN"),
        ([1, None, 2], "received None, NaN"),
        ([None, None, None], "received None, NaN"),
        ([1.0, NAN, 2.0], "received None, NaN"),
        ([1.0, float("inf"), 2.0], "infinity"),
        (["a", NAN, "b"], "received None, NaN"),
        (np.array(["a", NAN, "b"], object), "received None, NaN"),
        (np.array([1.0, NAN, 2.0], object), "received None, NaN"),
        (["a", 1, "b"], "received both, such as 1"),
        ([{}, "a", {}], "received dict"),
        ([{}, {}, {}], "received dict"),
        ([b"a", b"b", b"a"], "received .S1"),
        ([1j, 2j, 1j], "complex"),
        (["a", "b"], "received 3 images and 2 labels"),
        ([], "received 3 images and 0 labels"),
        ([[1, 2], [0, 1], [1, 0]], "an array .N, C. of 0 and 1"),
        ([[1], [1, 2], [3]], "received lists"),
        ("abc", "received 0-d"),
    ],
)
def test_other_labels_are_refused(labels, reason):
    with pytest.raises(DatasetError, match=reason):
        Dataset.from_sources([b"x"] * 3, labels)


@pytest.mark.parametrize(
    ("sources", "error", "reason"),
    [
        ([], DatasetError, "received none"),
        ("photo.png", DatasetError, "received one: 'photo.png'"),
        (Path("photo.png"), DatasetError, "received one"),
        (b"\x89PNG", DatasetError, "received one"),
        (bytearray(b"\x89PNG"), DatasetError, "received one"),
        (np.zeros((9, 9, 3), np.uint8), DatasetError, "received one"),
        (7, DatasetError, "received one: 7"),
        (None, DatasetError, "received one: None"),
        ([np.zeros((9, 9), np.float32)], SettingsError, "uint8"),
        ([None], DatasetError, "image 0 is None"),
        (np.zeros((9, 9), np.uint8), SettingsError, "uint8"),
    ],
)
def test_what_is_no_list_of_images_is_refused(sources, error, reason):
    with pytest.raises(error, match=reason):
        Dataset.from_sources(sources, ["a", "b"])


def test_an_array_of_grey_images_is_a_list_of_images():
    assert len(Dataset.from_sources(np.zeros((5, 9, 9), np.uint8))) == 5


@st.composite
def datasets(draw):
    size = draw(st.integers(2, 30))
    labels = draw(st.lists(st.sampled_from("abcd"), min_size=size, max_size=size))
    splits = draw(st.lists(st.sampled_from(list(Split)), min_size=size, max_size=size))
    return numbered([*labels, "a", "b"], [*splits, Split.TRAIN, Split.TRAIN])


@given(datasets(), st.data())
def test_selecting_and_dropping_keep_images_labels_and_splits_together(dataset, data):
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(dataset))))[: len(dataset)]
    kept = dataset.select(chosen)
    assert rows(kept) == [row for row, there in zip(rows(dataset), chosen, strict=True) if there]
    assert kept.classes == dataset.classes
    reasons = {int(place): f"reason {place}" for place in np.flatnonzero(~chosen)[::-1]}
    dropped = dataset.drop(reasons)
    assert rows(dropped) == rows(kept)
    assert dropped.skipped == tuple(
        Skipped(dataset.names[place], reasons[place]) for place in sorted(reasons)
    )


@given(datasets())
def test_counts_are_those_of_a_loop(dataset):
    counts = {str(split): dict.fromkeys(dataset.classes, 0) for split in Split}
    for _, label, split in rows(dataset):
        counts[split][label] += 1
    assert dataset.counts() == counts


@given(datasets(), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_a_validation_split_moves_training_images_only_or_says_why_not(dataset, fraction, seed):
    try:
        made = dataset.with_validation(fraction, seed)
    except DatasetError as error:
        assert str(error)
        return
    assert (made.splits == Split.VALIDATION).any()
    moved = made.splits != dataset.splits
    assert (dataset.splits[moved] == Split.TRAIN).all()
    assert (made.splits[moved] == Split.VALIDATION).all()
    assert {*made.labels[made.splits == "train"]} == {*made.labels[dataset.splits == "train"]}


def listed(labels, **kept):
    """A dataset as a reader of tables makes it; fields of `DataSettings` choose the task."""
    settings = {name: kept.pop(name) for name in ("task",) if name in kept}
    names = [f"{n}.png" for n in range(len(labels))]
    lines = range(2, len(labels) + 2)
    listing = Listing("t.csv", names, [b"x"] * len(labels), labels, lines=lines, **kept)
    return Dataset.from_listing(listing, DataSettings.create(**settings))


FULL = {
    "groups": ["p", "", "q", "p", "", "q"],
    "weights": [1, 0.5, 0, 2, 1, 1e-3],
    "splits": [Split.TRAIN] * 4 + [Split.TEST] * 2,
}


@pytest.mark.parametrize(
    ("labels", "task", "targets", "outputs"),
    [
        (list("abcabc"), None, [0, 1, 2, 0, 1, 2], 3),
        (list("ababab"), None, [[0], [1]] * 3, 1),
        (["a|b", "a", "b", "", "a", "b"], "labels",
         [[1, 1], [1, 0], [0, 1], [0, 0], [1, 0], [0, 1]], 2),
        (list("123456"), "number", [[n] for n in range(1, 7)], 1),
    ],
)  # fmt: skip
def test_what_a_head_learns_is_told_by_the_task(labels, task, targets, outputs):
    dataset = listed(labels, task=task, **FULL)
    assert dataset.targets.tolist() == targets
    assert dataset.targets.dtype == (np.int32 if dataset.task is Task.CLASSES else np.float32)
    assert dataset.outputs == outputs
    assert dataset.label_texts == tuple(labels)
    size = {"train": 4, "test": 2}
    assert dataset.split_sizes() == size
    assert dataset.divided


def test_numbers_keep_their_digits_as_texts():
    texts = ("1234567.5", "-0.000123456789", "1e+20", "3")
    dataset = listed(list(texts), task="number")
    assert tuple(map(float, dataset.label_texts)) == tuple(map(float, texts))
    assert dataset.label_texts[3] == "3"


def test_groups_are_numbers_and_an_empty_name_is_a_group_of_its_own():
    groups = listed(list("ababab"), **FULL).groups
    assert groups[0] == groups[3]
    assert groups[2] == groups[5]
    assert len({*groups.tolist()}) == 4
    assert groups.dtype == np.int64


def test_groups_that_the_splits_of_the_data_divide_are_counted():
    assert listed(list("ababab"), **FULL).divided_groups() == 1
    assert listed(list("ababab"), **FULL | {"groups": list("aabbcc")}).divided_groups() == 0
    assert listed(list("ababab"), **FULL | {"groups": ["a"] * 6}).divided_groups() == 1
    assert listed(list("ababab"), **FULL | {"groups": [""] * 6}).divided_groups() == 0
    assert listed(list("ababab")).divided_groups() == 0


def test_selecting_and_dropping_carry_everything():
    dataset = listed(list("ababab"), **FULL)
    dataset = Dataset(**dataset.__dict__ | {"hashes": tuple("uvwxyz")})
    for kept in (dataset.select(np.arange(6) % 2 == 1), dataset.drop({0: "r", 2: "s", 4: "t"})):
        assert kept.names == ("1.png", "3.png", "5.png")
        assert kept.hashes == ("v", "x", "z")
        assert np.array_equal(kept.groups, dataset.groups[1::2])
        assert np.array_equal(kept.weights, np.float32([0.5, 2, 1e-3]))
        assert kept.label_texts == ("b", "b", "b")
        assert (kept.divided, kept.task, kept.root) == (True, Task.BINARY, "t.csv")
    assert len(dataset.drop({})) == 6


def test_a_dataset_can_be_pickled(tmp_path):
    for dataset in (index(tmp_path, *FLAT), listed(list("ababab"), **FULL)):
        again = pickle.loads(pickle.dumps(dataset))
        assert rows(again) == rows(dataset)
        assert again.sources == dataset.sources
        assert (again.groups is None) == (dataset.groups is None)


def test_weights_of_zero_alone_and_beyond_single_precision_are_refused():
    with pytest.raises(DatasetError, match="every training image has weight 0"):
        listed(list("abab"), weights=[0, 0, 0, 0]).check_training()
    dataset = listed(list("abab"), weights=[1, 1e39, 1, 1])
    assert dataset.skipped == (Skipped("t.csv line 3: 1.png", "its weight 1e+39 is too large"),)
    assert dataset.weights.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "dataset",
    [
        Dataset.from_sources([b"x"] * 3),
        listed(["a", "b", None]),
        listed([None, None]),
        listed(["1", None, "2"], task="number"),
        listed([None, None], task="labels"),
    ],
)
def test_images_without_labels_cannot_be_trained_on(dataset):
    with pytest.raises(DatasetError, match=r"needs a label to train on, received \d of \d without"):
        dataset.with_validation(0.5, 0)


def test_a_label_that_no_image_has_is_refused_before_the_work():
    dataset = listed([("1", "0"), ("0", "0"), ("1", "0")], label_columns=("wet", "dry"))
    with pytest.raises(DatasetError, match="no training image has the label dry; add some, or"):
        dataset.check_training()


@pytest.mark.parametrize(
    ("labels", "task", "splits"),
    [
        (["a"] * 3, None, None),
        (["a"] * 3, None, [Split.TRAIN, Split.TEST, Split.TEST]),
    ],
)
def test_too_few_classes_are_refused_with_advice(labels, task, splits):
    dataset = listed(labels, task=task, splits=splits)
    with pytest.raises(DatasetError, match=r"at least 2 classes .* t.csv: .* every image a label"):
        dataset.check_training()


def test_one_label_of_many_and_one_class_for_the_test_alone_are_enough():
    assert listed(["a", ""], task="labels").classes == ("a",)
    assert listed(["a", "a"], splits=[Split.TEST] * 2).classes == ("a",)
    assert listed(["a", "a"]).classes == ("a",)


def test_images_without_splits_are_for_training():
    dataset = listed(list("ab"))
    assert dataset.splits.tolist() == ["train", "train"]
    assert not dataset.divided


def test_images_that_are_put_together_stay_together():
    dataset = numbered(np.arange(40) % 2)
    alike = np.arange(40)
    alike[[3, 5, 20]] = 3
    for seed in range(5):
        made = replace(dataset, copies=alike).with_validation(0.5, seed)
        assert len({*made.splits[[3, 5, 20]]}) == 1


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("pqrstuvw")), min_size=4),
    st.sampled_from(["classes", "labels", "number"]),
    st.floats(0.05, 0.95),
)
def test_groups_stay_on_one_side_and_no_class_is_lost_for_each_task(rows, task, fraction):
    labels = [{"a": "1", "b": "2", "c": "3"}[label] for label, _ in rows]
    if task == "labels":
        labels = [f"{a}|{b}" for a, b in zip(labels, labels[1:] + labels[:1], strict=True)]
    try:
        dataset = listed(labels, task=task, groups=[group for _, group in rows])
        made = dataset.with_validation(fraction, 0)
    except DatasetError as error:
        assert str(error)
        return
    assert made.divided_groups() == 0
    assert (made.splits == "validation").any()
    if task != "number":
        assert min(made.counts()["train"].values()) > 0


def test_numbers_of_a_few_patients_are_divided():
    """Each has numbers of its own, so that no part of the numbers is on both sides."""
    numbers = [str(100 * patient + n) for patient in range(5) for n in range(20)]
    groups = [f"patient {patient}" for patient in range(5) for _ in range(20)]
    made = listed(numbers, task="number", groups=groups).with_validation(0.2, 0)
    assert made.split_sizes() == {"train": 80, "validation": 20}


def test_opening_says_when_a_task_is_unknown(tmp_path):
    make(tmp_path, *FLAT)
    with pytest.raises(SettingsError, match="task"):
        Dataset.open(tmp_path, task="guess")
    with pytest.raises(DatasetError, match="needs 2 classes, received 3"):
        Dataset.open(make(tmp_path, "bird/1.png"), task="binary")


def test_a_dataset_whose_images_lie_in_a_table_can_be_pickled(tmp_path):
    images = [encode(picture(seed=n)) for n in range(4)]
    cells = [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(images)]
    pq.write_table(pa.table({"image": cells, "label": ["a", "b"] * 2}), tmp_path / "t.parquet")
    again = pickle.loads(pickle.dumps(Dataset.open(tmp_path / "t.parquet")))
    assert [read_bytes(source) for source in again.sources] == images
