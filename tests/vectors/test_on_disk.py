import contextlib
import gc
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.core.errors import StoreError
from topwork.vectors import on_disk as module
from topwork.vectors.on_disk import (
    VectorsOnDisk,
    concatenate_rows,
    copy_to_disk,
    key_of,
    map_rows,
    select,
)
from topwork.vectors.space import Space
from topwork.vectors.store import DamagedPartError, VectorStore

SPACE = Space("fake", "0" * 64, 8, "1", "1", "bilinear", "f32")


def make_hashes(count, start=0):
    return [hashlib.sha256(str(n).encode()).hexdigest() for n in range(start, start + count)]


def make_values(count, length=5, seed=0):
    return np.random.default_rng(seed).normal(size=(count, length)).astype(np.float32)


def fill(root, values, *, part=7, base="fake", order=None):
    """Returns a store with these vectors, in parts of so many."""
    space = Space(base, *list(SPACE.__dict__.values())[1:])
    store = VectorStore(root, space, values.shape[1])
    hashes = make_hashes(len(values))
    rows = np.arange(len(values)) if order is None else order
    for start in range(0, len(values), part):
        some = rows[start : start + part]
        store.write([hashes[row] for row in some], values[some])
    store.refresh()
    return store


def write_in_blocks(stores, hashes):
    """Reads few rows at a time."""
    return copy_to_disk(stores, hashes, block_bytes=4 * 5 * 10)


@pytest.fixture(scope="module")
def values():
    return make_values(100)


@pytest.fixture(scope="module")
def root(values, tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    fill(root, values)
    return root


@pytest.fixture(scope="module")
def stored(root):
    store = VectorStore(root, SPACE, 5)
    store.refresh()
    return write_in_blocks([store], make_hashes(100))


rows = st.lists(st.integers(-100, 99), max_size=60).map(lambda some: np.array(some, np.int64))
KEYS = st.one_of(
    rows,
    st.slices(100),
    st.integers(-100, 99),
    st.lists(st.booleans(), min_size=100, max_size=100).map(np.array),
)


@given(key=KEYS)
def test_rows_are_those_of_the_array(stored, values, key):
    found = stored[key]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values[key])
    if not isinstance(key, int):
        np.testing.assert_array_equal(select(stored, key)[:], values[key])


def test_it_says_what_an_array_says(stored, values):
    assert (stored.shape, stored.dtype, stored.ndim, len(stored)) == (
        values.shape,
        values.dtype,
        values.ndim,
        len(values),
    )
    with pytest.raises(IndexError):
        stored[100]


def test_networks_stand_side_by_side_whatever_the_order_in_their_stores(tmp_path, values):
    other = make_values(100, 3, seed=1)
    stores = [
        fill(tmp_path, values),
        fill(tmp_path, other, part=33, base="other", order=np.arange(100)[::-1]),
    ]
    found = write_in_blocks(stores, make_hashes(100))
    np.testing.assert_array_equal(found[:], np.concatenate([values, other], axis=1))


def test_images_may_be_there_twice_and_the_store_may_have_more(root, values):
    store = VectorStore(root, SPACE, 5)
    store.refresh()
    chosen = [3, 3, 50, 3, 99]
    hashes = make_hashes(100)
    np.testing.assert_array_equal(
        write_in_blocks([store], [hashes[n] for n in chosen])[:], values[chosen]
    )


def test_the_store_is_read_part_by_part(tmp_path, values, monkeypatch):
    store = fill(tmp_path, values, order=np.random.default_rng(3).permutation(100))
    seen = []
    read = store.read

    def watch(images):
        parts, _ = store.locate(images)
        seen.extend(parts.tolist())
        return read(images)

    monkeypatch.setattr(store, "read", watch)
    write_in_blocks([store], make_hashes(100))
    assert seen == sorted(seen)
    assert len(seen) == 100


def test_rows_in_consecutive_slots_are_a_sample_of_all(stored):
    """Also where the store has them in order: a block of a class would spoil training."""
    blocks = list(stored.blocks())
    means = [block.mean() for block in blocks]
    assert all(20 < mean < 80 for mean in means)
    assert {len(block) for block in blocks} == {10}
    np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(100))


@given(chosen=rows, size=st.integers(1, 20))
def test_blocks_have_every_row_once(stored, chosen, size):
    blocks = list(stored.blocks(chosen, size))
    assert all(len(block) <= size for block in blocks)
    found = np.concatenate([np.zeros(0, int), *blocks])
    np.testing.assert_array_equal(np.sort(found), np.arange(len(chosen)))


@given(parts=st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=4))
def test_rows_on_disk_and_in_memory_are_concatenated(stored, values, parts):
    """Whether some are held, and though some are of one file."""
    given_, wanted = [], []
    for number, (count, held) in enumerate(parts):
        rows = np.random.default_rng(number).integers(0, 100, count)
        given_.append(values[rows] if held else stored.select(rows))
        wanted.append(values[rows])
    joined = concatenate_rows(given_)
    assert isinstance(joined, VectorsOnDisk) != all(held for _, held in parts)
    np.testing.assert_array_equal(joined[:], np.concatenate(wanted))
    order = np.random.default_rng(9).permutation(len(joined))
    np.testing.assert_array_equal(joined[order], np.concatenate(wanted)[order])


def test_scaled_vectors_are_scaled_when_read(stored, values):
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    scaled = stored.scaled(mean, deviation)
    np.testing.assert_array_equal(scaled[5:9], ((values - mean) / deviation)[5:9])
    np.testing.assert_array_equal(stored[5:9], values[5:9])


@pytest.mark.parametrize("rows", [None, [5, 5, 99, 0, *range(30, 60)], []])
def test_a_function_over_blocks_is_that_over_all(stored, values, rows):
    rows = None if rows is None else np.array(rows, np.int64)
    sizes = []

    def double(some):
        sizes.append(len(some))
        return np.stack([some.sum(axis=1), some[:, 0]], axis=1)

    wanted = map_rows(double, values, rows)
    sizes.clear()
    found = map_rows(double, stored, rows)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found.shape == wanted.shape
    assert max(sizes) <= 10


def test_a_key_says_what_the_vectors_are_without_reading_them(root, stored, tmp_path, values):
    store = VectorStore(root, SPACE, 5)
    store.refresh()
    hashes = make_hashes(100)
    assert key_of(write_in_blocks([store], hashes)) == stored.key
    others = [
        key_of(values),
        key_of(write_in_blocks([store], hashes[:-1])),
        key_of(write_in_blocks([store], hashes[::-1])),
        key_of(write_in_blocks([fill(tmp_path, values, base="other")], hashes)),
        key_of(stored.select(np.arange(99))),
        key_of(stored.select(np.arange(100) > 0)),
        key_of(stored.scaled(values[0], values[1])),
        key_of(concatenate_rows([stored, stored])),
        key_of(concatenate_rows([stored, values])),
    ]
    assert len({stored.key, *others}) == 1 + len(others)


def test_all_damaged_parts_are_found_at_once(tmp_path, values):
    store = fill(tmp_path, values)
    parts = sorted(store.folder.glob("part-*"))
    for part in (parts[0], parts[5]):
        data = bytearray(part.read_bytes())
        data[60] ^= 255
        part.write_bytes(data)
    with pytest.raises(DamagedPartError):
        write_in_blocks([store], make_hashes(100))
    assert len(store.set_aside) == 2


def open_files(folder):
    names = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            names.append(str(path.readlink()))
    return [name for name in names if name.startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at open files in /proc")
def test_its_file_has_no_name_and_ends_with_it(tmp_path, values):
    store = fill(tmp_path, values)
    there = sorted(tmp_path.rglob("*"))
    found = write_in_blocks([store], make_hashes(100))
    assert sorted(tmp_path.rglob("*")) == there
    assert len(open_files(tmp_path)) == 1
    few = found.select([1, 2])
    del found
    gc.collect()
    np.testing.assert_array_equal(few[:], values[1:3])
    del few
    gc.collect()
    assert not open_files(tmp_path)


def test_without_room_for_the_file_it_says_how_much_is_needed(tmp_path, values, monkeypatch):
    store = fill(tmp_path, values)
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match=r"100 vectors of 5 .* --store") as caught:
        write_in_blocks([store], make_hashes(100))
    assert str(store.folder) in str(caught.value)


def test_a_disk_that_fills_up_meanwhile_is_named(tmp_path, values, monkeypatch):
    store = fill(tmp_path, values)

    class Full:
        def seek(self, place):
            pass

        def write(self, data):
            return 3

        def close(self):
            pass

    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda **options: Full())
    with pytest.raises(StoreError, match="no space left"):
        write_in_blocks([store], make_hashes(100))


def test_a_file_that_was_cut_is_an_error_and_no_other_vectors(tmp_path, values):
    found = write_in_blocks([fill(tmp_path, values)], make_hashes(100))
    found._files[0]._file.truncate(4 * 5 * 50)
    with pytest.raises(StoreError, match="its end is missing"):
        found[:]


def test_threads_read_at_once(stored, values):
    from concurrent.futures import ThreadPoolExecutor

    keys = [np.random.default_rng(n).integers(0, 100, 40) for n in range(200)]
    with ThreadPoolExecutor(4) as pool:
        for key, found in zip(keys, pool.map(stored.__getitem__, keys), strict=True):
            np.testing.assert_array_equal(found, values[key])
