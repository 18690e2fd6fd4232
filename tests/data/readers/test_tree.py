import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.core.errors import DatasetError
from topwork.data.listing import Split
from topwork.data.readers.class_folders import read_tree
from topwork.data.readers.folder import DiskTree
from topwork.data.readers.layout import descend, has_classes
from topwork.data.readers.table import is_table
from topwork.data.readers.tree import NameTree, is_image_name, is_litter

FLAT = ["cat/1.jpg", "cat/deep/2.jpg", "dog/3.jpg"]
DIVIDED = ["train/cat/1.jpg", "train/dog/2.jpg", "Val/cat/3.jpg", "TEST/dog/4.jpg"]


def named(*names, root="z.zip"):
    return NameTree(root, names, lambda name: name.encode())


def rows(listing):
    splits = listing.splits or [None] * len(listing.names)
    return list(zip(listing.names, listing.labels, splits, strict=True))


def test_each_file_has_its_name_its_class_and_its_source():
    found = read_tree(named(*FLAT), strict=True)
    expected = [("cat/1.jpg", "cat"), ("cat/deep/2.jpg", "cat"), ("dog/3.jpg", "dog")]
    assert rows(found) == [(*row, None) for row in expected]
    assert found.sources == [name.encode() for name in FLAT]
    assert (found.root, found.skipped) == ("z.zip", ())


def test_split_folders_are_known_in_any_case():
    assert sorted(rows(read_tree(named(*DIVIDED), strict=True))) == sorted(
        [
            ("train/cat/1.jpg", "cat", Split.TRAIN),
            ("train/dog/2.jpg", "dog", Split.TRAIN),
            ("Val/cat/3.jpg", "cat", Split.VALIDATION),
            ("TEST/dog/4.jpg", "dog", Split.TEST),
        ]
    )


@pytest.mark.parametrize("tops", ["", "photos/", "a/b c/d/"])
@pytest.mark.parametrize("names", [FLAT, DIVIDED, [*FLAT, "README.md"]])
def test_folders_around_the_data_are_passed(tops, names):
    packed = named(*(tops + name for name in names), "__MACOSX/a/1.jpg", ".git/x/1.jpg")
    assert descend(packed, is_table) == tops
    found = read_tree(packed, strict=True, base=tops)
    plain = read_tree(named(*names), strict=True)
    assert [(n.removeprefix(tops), *rest) for n, *rest in rows(found)] == rows(plain)


@pytest.mark.parametrize(
    ("names", "base"),
    [
        (["cat/1.jpg"], ""),  # one class is no folder around the data
        (["train/cat/1.jpg", "train/dog/2.jpg"], ""),
        (["a/Train/cat/1.jpg"], "a/"),
        (["a/cat/1.jpg", "0.jpg"], ""),
        (["a/cat/1.jpg", "b/"], ""),
        (["a/cat/1.jpg", "labels.csv"], ""),
        (["a/labels.csv", "a/1.jpg"], "a/"),
        (["a/notes.txt", "a/1.jpg"], ""),
        (["a/b/"], "a/"),
        ([], ""),
    ],
)
def test_only_what_stands_alone_is_around_the_data(names, base):
    assert descend(named(*names), is_table) == base


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (FLAT, True), (DIVIDED, True), (["cat/1.jpg"], False), (["1.jpg"], False), ([], False),
        (["train/1.jpg", "test/2.jpg"], False), (["test/cat/2.jpg"], True),
        (["cat/1.jpg", "test/2.jpg"], True),
    ],
)  # fmt: skip
def test_class_folders_are_several_or_within_splits(names, expected):
    assert has_classes(named(*names)) is expected
    assert has_classes(named(*(f"a/b/{name}" for name in names)), "a/b/") is expected


@pytest.mark.parametrize(
    ("name", "litter"),
    [
        ("a/.b/c.jpg", True), ("__MACOSX/a.jpg", True), ("a/Thumbs.DB", True), (".x", True),
        ("a/b.c/d.jpg", False), ("a/", False), ("", False), ("thumbs.db.jpg", False),
    ],
)  # fmt: skip
def test_what_other_programs_leave_is_no_data(name, litter):
    assert is_litter(name) is litter
    assert not litter or not list(named(name).walk(""))


def test_a_class_may_be_called_like_a_split():
    found = read_tree(named("exam/1.jpg", "test/2.jpg", "val/3.jpg"), strict=True)
    assert (found.labels, found.splits) == (["exam", "test", "val"], None)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["train/a/1.jpg", "Train/b/2.jpg"], "more than one train folder: Train, train"),
        (["val/a/1.jpg", "valid/b/2.jpg"], "more than one validation folder"),
        (["train/a/1.jpg", "other/b/2.jpg"], "the split train beside other folders .other."),
        (["a/1.jpg", "test/a/2.jpg"], "the split test beside other folders .a."),
        ([], "https://x.org/z holds no images; it needs one folder per class"),
        (["1.jpg"], "such as https://x.org/z/cat/1.jpg"),
        (["train/1.jpg"], "such as https://x.org/z/train/cat/1.jpg"),
    ],
)
def test_what_contradicts_itself_or_is_empty_is_refused(names, reason):
    with pytest.raises(DatasetError, match=reason):
        read_tree(named(*names, root="https://x.org/z"), strict=False)


def test_what_is_left_out_is_named_by_its_path_in_the_whole():
    names = ["p/train/a/1.jpg", "p/train/b/", "p/train/2.jpg", "p/3.jpg", "p/train/a/x.txt"]
    found = read_tree(named(*names), strict=False, base="p/")
    assert [(item.path, item.reason) for item in found.skipped] == [
        ("p/3.jpg", "it lies beside the class folders"),
        ("p/train/2.jpg", "it lies beside the class folders"),
        ("p/train/a/x.txt", "its name does not end like an image's"),
        ("p/train/b/", "the class has no images"),
    ]
    with pytest.raises(DatasetError, match=r"^https://x.org/z/p/3.jpg: .* leave out --strict"):
        read_tree(named(*names, root="https://x.org/z"), strict=True, base="p/")


PARTS = st.sampled_from(
    ["cat", "dog", "Café", "train", "Test", "val", ".hidden", "__MACOSX", "a b", "x.jpg", "\\"]
)
FILES = st.sampled_from(
    ["1.jpg", "2.PNG", "notes.txt", ".x.jpg", "Thumbs.db", "l.csv", "3", "é.gif"]
)
PATHS = st.tuples(st.lists(PARTS, max_size=3), FILES | st.just("")).map(
    lambda path: "/".join([*path[0], path[1]])
)


def write(root, names):
    """Writes what can lie on a disk of these names, and returns it."""
    written = []
    for name in names:
        path = root / name
        try:
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.touch(exist_ok=False)
        except OSError:
            continue
        written.append(name)
    return written


def read_either(tree, strict):
    try:
        found = read_tree(tree, strict=strict)
    except DatasetError as error:
        return str(error)
    return rows(found), found.skipped


@given(st.lists(PATHS.filter(lambda path: path.strip("/")), max_size=12), st.booleans())
def test_names_give_the_same_listing_as_the_same_files_on_a_disk(names, strict):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        written = write(root, names)
        disk, tree = DiskTree(root), NameTree(str(root), written, lambda name: root / name)
        assert read_either(tree, strict) == read_either(disk, strict)
        assert descend(tree, is_table) == descend(disk, is_table)
        assert has_classes(tree) == has_classes(disk)
        if written:
            found = read_either(tree, strict=False)
            if not isinstance(found, str):
                listed = {name for name, *_ in found[0]} | {item.path for item in found[1]}
                images = {n for n in written if is_image_name(n) and not is_litter(n)}
                # Every image is there or named.
                assert images <= listed


def test_a_file_without_a_suffix_in_an_archive_is_named():
    tree = NameTree("a.zip", ["cat/1.jpg", "cat/2", "dog/1.mpo", "dog/README"], lambda name: b"")
    found = read_tree(tree, strict=False)
    assert found.names == ["cat/1.jpg", "dog/1.mpo"]
    assert [item.path for item in found.skipped] == ["cat/2", "dog/README"]
