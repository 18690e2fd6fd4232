"""The recipes with vectors that are stored do what they do with vectors that are held."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from topwork.core.config import Search, Settings
from topwork.data.dataset import Dataset
from topwork.heads.tuning.trials import Journal
from topwork.models import evaluate as evaluation
from topwork.recipes import embed as embedding
from topwork.recipes import prepare as examples
from topwork.recipes import train as pipeline
from topwork.recipes.neighbors import open_index
from topwork.recipes.prepare import prepare_examples
from topwork.vectors import embed as vectors
from topwork.vectors.candidates import Effort
from topwork.vectors.duplicates import find_duplicates, group_duplicates
from topwork.vectors.extractors import make_extractors, prepare_networks
from topwork.vectors.known_duplicates import find_duplicates_cached
from topwork.vectors.neighbors import Sizes, nearest, similar_pairs
from topwork.vectors.on_disk import VectorsOnDisk, write_rows


@pytest.fixture
def stored(monkeypatch):
    monkeypatch.setitem(examples.prepare_examples.__kwdefaults__, "held_bytes", 0)
    monkeypatch.setitem(vectors.embed_images.__kwdefaults__, "held_bytes", 0)


@pytest.fixture(scope="module")
def dataset(photos):
    return Dataset.from_folder(photos)


def prepare(dataset, settings, store, **options):
    stack = prepare_networks(settings, store)
    return prepare_examples(dataset, stack, settings, store, **options)


def test_a_model_is_that_of_vectors_in_memory(dataset, small, store, trained, stored):
    found = pipeline.train(dataset, small, store)
    assert found.model.history.best_epoch == trained.model.history.best_epoch
    for name, values in trained.model.history.history.items():
        np.testing.assert_allclose(found.model.history.history[name], values, rtol=1e-4)
    np.testing.assert_allclose(
        found.predictions.logits, trained.predictions.logits, rtol=1e-3, atol=1e-4
    )
    assert found.predictions.hashes == trained.predictions.hashes
    np.testing.assert_array_equal(found.checks.images.vectors, trained.checks.images.vectors)
    assert found.model.images == trained.model.images


def test_views_and_networks_side_by_side_are_the_same_on_disk_as_in_memory(dataset, store):
    settings = Settings.create(
        base="efficientnet-lite0@64,efficientnet-lite0@32", views=1, precision="f32"
    )
    held = prepare(dataset, settings, store)
    found = prepare(dataset, settings, store, held_bytes=0)
    assert isinstance(held.examples.vectors, np.ndarray)
    assert isinstance(found.examples.vectors, VectorsOnDisk)
    np.testing.assert_array_equal(found.examples.vectors[:], held.examples.vectors)
    np.testing.assert_array_equal(found.vectors.values[:], held.vectors.values)
    np.testing.assert_array_equal(found.split.training, held.split.training)


def test_a_damaged_part_is_computed_again_in_the_same_run(dataset, small, other_store):
    extractors = make_extractors(prepare_networks(small, other_store), small, other_store)
    _, before = vectors.embed_images(dataset, extractors)
    (part,) = extractors[0].store.folder.glob("part-*")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 255
    part.write_bytes(data)
    again = make_extractors(prepare_networks(small, other_store), small, other_store)
    _, after = vectors.embed_images(dataset, again, held_bytes=0)
    assert isinstance(after.values, VectorsOnDisk)
    assert after.embedded == len(dataset)
    np.testing.assert_allclose(after.values[:], before.values, rtol=1e-5, atol=1e-6)


def test_a_view_that_an_image_lacks_is_the_image_itself():
    rng = np.random.default_rng(0)
    values, view = rng.normal(size=(2, 5, 3)).astype(np.float32)
    hashes = [hashlib.sha256(bytes([n])).hexdigest() for n in range(5)]
    there = [0, 2, 3]
    found = vectors.Embedding(view[there], tuple(hashes[n] for n in there), 3, 0)
    filled = examples._fill(hashes, found, values)
    wanted = values.copy()
    wanted[there] = view[there]
    np.testing.assert_array_equal(filled, wanted)
    whole = vectors.Embedding(view, tuple(hashes), 5, 0)
    assert examples._fill(hashes, whole, values) is view


def test_evaluation_and_its_choice_of_a_split(flat, flat_trained, store, stored):
    data = Dataset.from_folder(flat)
    for split in ("validation", "all"):
        found = evaluation.evaluate(flat_trained.model, data, split, store)
        assert found.predictions.names
        logits = evaluation.predict_all(
            flat_trained.model, data.select(np.isin(data.names, found.predictions.names)), store
        )
        np.testing.assert_allclose(found.predictions.logits, logits, rtol=1e-5)


def test_the_table_is_the_same_in_several_groups(dataset, small, store, tmp_path, stored):
    found = embedding.embed(dataset, small, store)
    assert isinstance(found.vectors.values, VectorsOnDisk)
    embedding.write_vectors(tmp_path / "v.parquet", found, row_group=7)
    file = pq.ParquetFile(tmp_path / "v.parquet")
    assert file.num_row_groups == -(-len(dataset) // 7)
    table = file.read()
    assert table["sha256"].to_pylist() == list(found.vectors.hashes)
    assert json.loads(table.schema.metadata[b"topwork"])["spaces"]
    values = np.stack(table["vector"].to_pylist()).astype(np.float32)
    np.testing.assert_array_equal(values, found.vectors.values[:])
    file.close()


def test_a_search_goes_over_folds_and_on_from_its_journal(dataset, small, store, tmp_path, stored):
    plan = Search.create(folds=2, seeds=1, budget="120")

    def search():
        journal = Journal(tmp_path / "trials.jsonl")
        tuning = pipeline.Tuning(plan, frozenset(["inner_units"]), journal)
        return pipeline.tune(dataset, small, store, tuning)

    first = search()
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    again = search()
    assert (tmp_path / "trials.jsonl").read_text().splitlines() == lines
    assert again.model.search.heads == first.model.search.heads
    assert again.model.settings == first.model.settings
    assert {json.loads(line)["settings"]["head"] for line in lines} == {"dense", "logistic"}


def test_neighbours_are_found(dataset, small, store, stored):
    known = open_index(dataset, small, store)
    assert isinstance(known.vectors, VectorsOnDisk)
    found = dict(known.find(dataset.sources[:2], 3))
    assert [len(others) for others in found.values()] == [3, 3]


def make_alike():
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(300, 16))
    values = np.repeat(middles, 2, axis=0) + rng.normal(0, 0.05, (600, 16))
    return values.astype(np.float32)


class TestPairs:
    def test_they_are_those_of_vectors_in_memory(self, tmp_path):
        values = make_alike()
        stored = write_rows(values, tmp_path)
        for start in (10_000, 100):
            sizes = Sizes(block=50, sketch_from=start)
            wanted = similar_pairs(values, 0.95, sizes=sizes)
            assert len(wanted) > 200
            np.testing.assert_array_equal(similar_pairs(stored, 0.95, sizes=sizes), wanted)
        for mine, other in zip(
            nearest(stored, stored, 3, leave_out_self=True, sizes=Sizes(block=50)),
            nearest(values, values, 3, leave_out_self=True, sizes=Sizes(block=50)),
            strict=True,
        ):
            np.testing.assert_array_equal(mine, other)

    def test_copies_are_found(self, dataset, small, store, tmp_path):
        extractors = make_extractors(prepare_networks(small, store), small, store)
        data = Dataset.from_sources([*dataset.sources, dataset.sources[0], dataset.sources[3]])
        found = {}
        for held_bytes in (np.inf, 0):
            some, seen = vectors.embed_images(data, extractors, held_bytes=held_bytes)
            found[held_bytes] = find_duplicates(seen.hashes, seen.values, some.sources)
        assert found[0] == found[np.inf] != []

    def test_of_too_many_images_only_equal_bytes(self, dataset, small, store, tmp_path):
        extractors = make_extractors(prepare_networks(small, store), small, store)
        data = Dataset.from_sources([*dataset.sources, dataset.sources[0]])
        data, seen = vectors.embed_images(data, extractors, held_bytes=0)
        count = len(dataset)

        def find(most):
            return find_duplicates_cached(
                seen.hashes, seen.values, data.sources, tmp_path, effort=Effort(0.0), most=most
            )

        few = find(count - 1)
        assert [(pair.first, pair.second, str(pair.likeness)) for pair in few] == [
            (0, count, "same")
        ]
        # What was remembered of the one is not the answer to the other.
        assert find(None) == find(count)
        assert find(count - 1) == few
        assert group_duplicates(few, count + 1)[count] == 0
