import json
import shutil

import pytest
from pictures import encode, picture

from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError, SettingsError
from topwork.data.listing import Split
from topwork.data.readers.arrow_folder import (
    is_arrow_folder,
    is_arrow_object,
    read_arrow_folder,
    read_arrow_object,
)
from topwork.images.decode import read_bytes

datasets = pytest.importorskip("datasets", reason="needs the package datasets to write with")

PICTURES = [encode(picture(size=(4, 4), seed=n)) for n in range(6)]
LABEL = DataSettings(label_column="label")


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def make(labels=(0, 1, 2, 0, 1, 2), **columns):
    """Makes a data set of images and classes."""
    cells = [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(PICTURES)]
    columns = {"image": cells, "label": list(labels)} | columns
    dataset = datasets.Dataset.from_dict(columns)
    dataset = dataset.cast_column("image", datasets.Image())
    return dataset.cast_column("label", datasets.ClassLabel(names=["cat", "dog", "ox"]))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A data set with splits, and where it is saved."""
    root = tmp_path_factory.mktemp("hugging") / "photos"
    parts = {
        "train": make(), "Validation": make().select([4, 2]), "test": make([-1, 0, 0, 0, 0, 9 % 3])
    }  # fmt: skip
    found = datasets.DatasetDict(parts)
    found.save_to_disk(root)
    return found, root


def read_either(both, columns=LABEL, **options):
    found, root = both
    return [
        read_arrow_folder(root, columns, **options),
        read_arrow_object(found, columns, location=str(root), **options),
    ]


def test_what_is_saved_comes_back(both):
    for found in read_either(both):
        _, root = both
        assert found.root == str(root)
        assert found.names[:2] == ["train/0.png", "train/1.png"]
        assert found.names[6:9] == ["Validation/4.png", "Validation/2.png", "test/1.png"]
        assert found.labels[:8] == ["cat", "dog", "ox", "cat", "dog", "ox", "dog", "ox"]
        assert found.splits == [Split.TRAIN] * 6 + [Split.VALIDATION] * 2 + [Split.TEST] * 5
        assert found.lines == [1, 2, 3, 4, 5, 6, 1, 2, 2, 3, 4, 5, 6]
        assert [(item.path, item.reason) for item in found.skipped] == [
            (f"{root}/test row 1", "there is no label")
        ]
        expected = [*PICTURES, PICTURES[4], PICTURES[2], *PICTURES[1:]]
        assert [read_bytes(source) for source in found.sources] == expected


def test_labels_may_be_missing(both):
    for found in read_either(both, labelled=False):
        assert found.labels[8] is None
        assert found.names[8] == "test/0.png"


def test_strict(both):
    for read, given in ((read_arrow_folder, both[1]), (read_arrow_object, both[0])):
        with pytest.raises(DatasetError, match="row 1: there is no label"):
            read(given, DataSettings(), strict=True)


def test_a_single_data_set_is_not_divided(tmp_path):
    dataset = make().shuffle(seed=3)
    dataset.save_to_disk(tmp_path / "one", num_shards=2)
    names = [
        cell["path"] for cell in dataset.cast_column("image", datasets.Image(decode=False))["image"]
    ]
    expected = [PICTURES[int(name[0])] for name in names]
    for found in read_either((dataset, tmp_path / "one")):
        assert found.splits is None
        assert found.names == names
        assert [read_bytes(source) for source in found.sources] == expected


def test_columns_say_splits_and_groups(tmp_path):
    split = ["train", "train", "dev", "?", "test", "test"]
    dataset = make(split=split, group=list("aabbcc"), weight=[1, 1, -1, 1, 1, 1])
    dataset.save_to_disk(tmp_path / "one")
    for found in read_either((dataset, tmp_path / "one")):
        assert found.splits == [Split.TRAIN, Split.TRAIN, Split.TEST, Split.TEST]
        assert (found.groups, found.weights) == (["a", "a", "c", "c"], [1, 1, 1, 1])
    divided = datasets.DatasetDict({"train": dataset, "more": dataset})
    asked = LABEL.model_copy(update={"split_column": "split"})
    assert len(read_arrow_object(divided, asked).names) == 8
    found = read_arrow_object(divided, LABEL)
    assert found.splits == [Split.TRAIN] * 5
    assert found.skipped[-1].path == "the dataset/more"


def test_many_labels_and_several_columns(tmp_path):
    names = datasets.ClassLabel(names=["red", "tall"])
    many = datasets.Sequence(names)
    cells = [[0], [0, 1], [], [1], None, [0]]
    dataset = make(tags=cells, x=[True] * 6).cast_column("tags", many)
    dataset.save_to_disk(tmp_path / "many")
    both = dataset, tmp_path / "many"
    for found in read_either(both, DataSettings(label_column="tags")):
        assert found.labels == ["red", "red|tall", "", "tall", "red"]
        assert [item.path.rpartition(" ")[2] for item in found.skipped] == ["5"]
    for found in read_either(both, DataSettings(label_column="label,x")):
        assert found.label_columns == ("label", "x")
        assert found.labels[:2] == [("cat", "1"), ("dog", "1")]


def test_images_may_lie_outside(tmp_path):
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    cells = [str(tmp_path / "a.png"), str(tmp_path / "b.png"), None]
    dataset = datasets.Dataset.from_dict({"image": cells, "label": list("xyz")})
    dataset = dataset.cast_column("image", datasets.Image())
    found = read_arrow_object(dataset, DataSettings())
    assert found.sources == [tmp_path / "a.png"]
    assert [item.reason for item in found.skipped] == [
        f"{tmp_path / 'b.png'}: there is no such file", "there is no image"
    ]  # fmt: skip


def test_texts_may_be_paths(tmp_path):
    dataset = datasets.Dataset.from_dict({"file": ["a.png", "b.png"], "label": ["x", "y"]})
    dataset.save_to_disk(tmp_path / "d")
    (tmp_path / "d" / "a.png").write_bytes(PICTURES[0])
    found = read_arrow_folder(tmp_path / "d", DataSettings())
    assert found.sources == [tmp_path / "d" / "a.png"]
    assert len(found.skipped) == 1


def test_what_is_a_folder_of_this_kind(both, tmp_path):
    assert is_arrow_folder(both[1])
    assert is_arrow_folder(both[1] / "train")
    for path in (tmp_path, tmp_path / "none", tmp_path / "x\0y", tmp_path / ("n" * 300)):
        assert not is_arrow_folder(path)
    (tmp_path / "state.json").touch()
    assert not is_arrow_folder(tmp_path)


def test_what_is_an_object_of_this_kind(both):
    assert is_arrow_object(both[0])
    assert is_arrow_object(both[0]["train"])
    for other in ({}, {"train": 1}, [both[0]["train"]], "train", None, both[1]):
        assert not is_arrow_object(other)
    stream = both[0]["train"].to_iterable_dataset()
    for other in (stream, 3):
        with pytest.raises(DatasetError, match=f"received a {type(other).__name__}"):
            read_arrow_object(other, DataSettings())


def test_splits_that_do_not_fit(both):
    train = both[0]["train"]
    strange = datasets.DatasetDict({"one": train, "two": train})
    with pytest.raises(DatasetError, match="train, validation or test; its splits are one, two"):
        read_arrow_object(strange, LABEL)
    other = datasets.DatasetDict({"train": train, "test": train.add_column("group", ["g"] * 6)})
    with pytest.raises(DatasetError, match=r"test must have the columns that the dataset/train"):
        read_arrow_object(other, LABEL)
    with pytest.raises(SettingsError, match=r"--label-column.*image, label"):
        read_arrow_object(train, DataSettings(label_column="colour"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_dict.json", "{"),
        ("dataset_dict.json", '{"splits": ["../photos/train"]}'),
        ("dataset_dict.json", '{"splits": 3}'),
        ("dataset_dict.json", '{"splits": []}'),
        ("dataset_dict.json", '{"splits": ["train", "dev"]}'),
        ("train/state.json", "[]"),
        (
            "train/state.json",
            '{"_data_files": [{"filename": "../train/data-00000-of-00001.arrow"}]}',
        ),
        ("train/state.json", '{"_data_files": [{"filename": "gone.arrow"}]}'),
        ("train/state.json", '{"_data_files": []}'),
        ("train/state.json", None),
        ("train/dataset_info.json", "\xff"),
        ("train/data-00000-of-00001.arrow", ""),
        ("train/data-00000-of-00001.arrow", "not an Arrow file at all"),
    ],
)
def test_a_damaged_folder(both, tmp_path, name, content):
    root = tmp_path / "photos"
    shutil.copytree(both[1], root)
    (root / name).unlink()
    if content is not None:
        (root / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError, match="photos"):
        read_arrow_folder(root, LABEL)


def test_an_old_folder_in_another_order_is_refused(both, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(both[1] / "train", root)
    state = json.loads((root / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (root / "state.json").write_text(json.dumps(state))
    with pytest.raises(DatasetError, match="old version"):
        read_arrow_folder(root, LABEL)


def test_what_the_schema_says_is_enough(both, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(both[1] / "train", root)
    (root / "dataset_info.json").write_text("{}")
    assert read_arrow_folder(root, LABEL).labels[:3] == ["cat", "dog", "ox"]
