import json
import os
from dataclasses import asdict, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import encode, picture
from recorder import Recorder

from topwork.core.errors import DatasetError, SettingsError, StoreError
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.recipes.embed import EmbeddedDataset, check_table, embed, find_labels, write_vectors
from topwork.vectors.embed import embed_images
from topwork.vectors.extractors import make_extractors, make_space, prepare_networks


@pytest.fixture(scope="module")
def dataset(photos):
    return Dataset.from_folder(photos)


@pytest.fixture(scope="module")
def embedded(dataset, small, store):
    return embed(dataset, small, store)


def make(**changes):
    """Returns three images with vectors that nobody had to make."""
    dataset = Dataset.from_sources([b"0", b"1", b"2"], ["a", "b", "a"])
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    vectors = _Vectors(values, ("0" * 64, "1" * 64, "2" * 64))
    return EmbeddedDataset(replace(dataset, **changes), vectors, ())


class _Vectors:
    def __init__(self, values, hashes):
        self.values, self.hashes = values, hashes


class TestEmbed:
    def test_all_splits_have_the_vectors_that_training_has(self, embedded, dataset, small, store):
        stack = prepare_networks(small, store)
        _, wanted = embed_images(dataset, make_extractors(stack, small, store))
        np.testing.assert_array_equal(embedded.vectors.values, wanted.values)
        assert embedded.dataset.split_sizes() == {"train": 24, "validation": 12, "test": 12}
        assert embedded.spaces == (make_space(stack.networks[0], small),)

    def test_what_cannot_be_used_is_left_out_and_said(self, small, store):
        good = encode(picture(seed=1))
        recorder = Recorder()
        found = embed(Dataset.from_sources([good, b"no image"]), small, store, recorder)
        assert found.vectors.values.shape == (1, 1280)
        assert [item.path for item in found.dataset.skipped] == ["image 1"]
        assert len(recorder.told["on_embedded"][0][0]) == 1

    def test_strict_names_the_first(self, small, store):
        strict = small.model_copy(update={"strict": True})
        dataset = Dataset.from_sources([encode(picture(seed=1)), b"no image"])
        with pytest.raises(DatasetError, match=r"image 1: not an image.*--strict"):
            embed(dataset, strict, store)


class TestTable:
    def test_pyarrow_and_pandas_read_it_back(self, embedded, tmp_path):
        path = tmp_path / "vectors.parquet"
        write_vectors(path, embedded)
        pandas = pytest.importorskip("pandas")
        table, frame = pq.read_table(path), pandas.read_parquet(path)
        assert table.column_names == ["image", "sha256", "label", "split", "vector"]
        assert list(frame) == table.column_names
        dataset, vectors = embedded.dataset, embedded.vectors
        for name, column in (
            ("image", dataset.names),
            ("sha256", vectors.hashes),
            ("label", dataset.label_texts),
            ("split", dataset.splits.tolist()),
        ):
            assert table[name].to_pylist() == list(column) == frame[name].tolist()
        values = np.stack(frame["vector"])
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, vectors.values)
        np.testing.assert_array_equal(np.array(table["vector"].to_pylist()), vectors.values)

    def test_it_says_what_the_vectors_are(self, embedded, tmp_path):
        path = tmp_path / "vectors.parquet"
        write_vectors(path, embedded)
        about = json.loads(pq.read_schema(path).metadata[b"topwork"])
        assert about == {"spaces": [asdict(embedded.spaces[0])], "task": "classes"}
        assert about["spaces"][0]["base"] == "efficientnet-lite0"

    def test_groups_and_weights_where_there_are_some(self, tmp_path):
        path = tmp_path / "vectors.parquet"
        groups, weights = np.array([0, 1, 0]), np.array([1, 0.5, 0], np.float32)
        write_vectors(path, make(groups=groups, weights=weights))
        table = pq.read_table(path)
        names = ["image", "sha256", "label", "split", "group", "weight", "vector"]
        assert table.column_names == names
        assert table["group"].to_pylist() == [0, 1, 0]
        assert table["weight"].to_pylist() == [1, 0.5, 0]

    def test_vectors_that_are_not_contiguous(self, tmp_path):
        path = tmp_path / "vectors.parquet"
        found = make()
        found.vectors.values = np.asfortranarray(found.vectors.values)[:, ::2]
        write_vectors(path, found)
        assert pq.read_table(path)["vector"].to_pylist() == [[0, 2], [4, 6], [8, 10]]

    def test_a_file_that_is_there_is_replaced_all_at_once(self, tmp_path, monkeypatch):
        path = tmp_path / "vectors.parquet"
        write_vectors(path, make())
        before = path.read_bytes()

        def fail(*args, **options):
            args[0].write(b"half of it")
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(pq, "ParquetWriter", fail)
            with pytest.raises(StoreError, match=r"cannot write .*: No space left on device"):
                write_vectors(path, make())
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]
        write_vectors(path, make(names=("x", "y", "z")))
        assert pq.read_table(path)["image"].to_pylist() == ["x", "y", "z"]

    def test_the_folder_is_made(self, tmp_path):
        path = tmp_path / "new" / "deep" / "vectors.PARQUET"
        write_vectors(path, make())
        assert path.is_file()

    def test_a_place_that_cannot_be_written_is_said(self, tmp_path):
        taken = tmp_path / "folder.parquet"
        taken.mkdir()
        with pytest.raises(StoreError, match=r"cannot write .*folder\.parquet: Is a directory"):
            write_vectors(taken, make())
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreError, match="cannot write"):
            write_vectors(tmp_path / "file" / "vectors.parquet", make())
        assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.parquet"]

    def test_names_that_no_table_could_hold_are_escaped(self, tmp_path):
        path = tmp_path / "vectors.parquet"
        write_vectors(path, make(names=(os.fsdecode(b"\xff.jpg"), "ümläut 写真", "a\nb")))
        assert pq.read_table(path)["image"].to_pylist() == ["\\udcff.jpg", "ümläut 写真", "a\nb"]

    @pytest.mark.parametrize("name", ["vectors.csv", "vectors", "parquet", ".parquet"])
    def test_another_suffix_is_refused(self, name, tmp_path):
        with pytest.raises(SettingsError, match=r"output: must end in \.parquet, received"):
            check_table(tmp_path / name)
        with pytest.raises(SettingsError):
            write_vectors(tmp_path / name, make())


class TestLabels:
    def test_one_of_many(self):
        dataset = replace(make().dataset, labels=np.array([0, -1, 1], np.int32))
        assert find_labels(dataset) == ["a", None, "b"]

    def test_none_at_all(self):
        assert find_labels(Dataset.from_sources([b"0", b"1"])) == [None, None]

    def test_many_labels(self):
        dataset = Dataset.from_sources([b"0", b"1"], [["a", "b"], []])
        assert find_labels(dataset) == ["a|b", ""]
        bare = replace(dataset, classes=(), labels=np.zeros((2, 0), bool))
        assert find_labels(bare) == [None, None]

    def test_numbers(self):
        dataset = Dataset.from_sources([b"0", b"1"], [1.5, 2], task=Task.NUMBER)
        dataset = replace(dataset, labels=np.array([[1.5], [np.nan]]))
        assert find_labels(dataset) == ["1.5", None]

    def test_they_are_null_in_the_table(self, tmp_path):
        path = tmp_path / "vectors.parquet"
        write_vectors(path, make(labels=np.array([0, -1, 1], np.int32)))
        assert pq.read_table(path)["label"].to_pylist() == ["a", None, "b"]
