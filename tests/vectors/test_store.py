import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, fields, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from topwork.core.errors import StoreError
from topwork.vectors import parquet as parts_module
from topwork.vectors.index import parse_digests
from topwork.vectors.space import Space
from topwork.vectors.store import DamagedPartError, VectorStore

# As it was before ranges were part of it: vectors of ordinary images are found again.
NAMED = "efficientnet-lite0-224-be20e6605119e732"
SPACE = Space(
    base="efficientnet-lite0",
    weights_sha256="9f2c",
    image_size=32,
    network="1",
    decoder="1",
    interpolation="sampled",
    precision="f32",
)
LENGTH = 5


def hashes(count, start=0):
    return [sha256(f"{n}".encode()).hexdigest() for n in range(start, start + count)]


def vectors(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, LENGTH)).astype(np.float32)


def open_store(root):
    store = VectorStore(root, SPACE, LENGTH)
    store.refresh()
    return store


def files(root):
    return sorted(path.name for path in root.rglob("*") if path.is_file())


@pytest.fixture
def part(tmp_path):
    """The only part of a store in `tmp_path`, with the vectors of four images."""
    return Path(open_store(tmp_path).write(hashes(4), vectors(4)))


def test_vectors_come_back_as_they_were_in_any_order(tmp_path):
    images, values = hashes(30), vectors(30)
    writer = open_store(tmp_path)
    for start in range(0, 30, 7):
        writer.write(images[start : start + 7], values[start : start + 7])
    order = np.random.default_rng(1).integers(0, 30, 50)
    for store in (writer, open_store(tmp_path)):
        read = store.read([images[n] for n in order])
        assert np.array_equal(read, values[order])
        assert read.dtype == np.float32
        assert len(store) == 30


def test_nothing_is_made_until_something_is_written(tmp_path):
    store = open_store(tmp_path / "store")
    assert len(store) == 0
    assert store.read([]).shape == (0, LENGTH)
    assert not (tmp_path / "store").exists()


def test_what_is_missing_is_told_of_many_images_at_once(tmp_path, part):
    store = open_store(tmp_path)
    asked = [hashes(9)[n] for n in (5, 0, 8, 3, 3)]
    wanted = [True, False, True, False, False]
    assert store.missing(asked).tolist() == wanted
    assert store.missing(parse_digests(asked)).tolist() == wanted
    assert store.missing([]).shape == (0,)
    with pytest.raises(ValueError, match="64 hex digits"):
        store.missing(["cat.jpg"])


def test_places_are_those_in_the_files(tmp_path):
    store = open_store(tmp_path)
    for n in range(0, 30, 7):
        store.write(hashes(7, n), vectors(7))
    reader = open_store(tmp_path)
    before, _ = reader.locate(hashes(14, 5))
    store.write(hashes(7, 40), vectors(7))
    reader.refresh()
    images = hashes(14, 5)[::-1]
    parts, rows = reader.locate(images)
    assert np.array_equal(parts, before[::-1]), "a part keeps its number"
    files = {}
    for part, row, image in zip(parts, rows, images, strict=True):
        path = next(p for p in reader.folder.glob("part-*") if image in pq_images(p))
        assert pq_images(path)[row] == image
        assert files.setdefault(part, path) == path
    assert len({*files.values()}) == len(files) == 3
    with pytest.raises(KeyError, match=hashes(1, 99)[0]):
        reader.locate([*images, *hashes(1, 99)])


def pq_images(path):
    return pq.read_table(path, columns=["image"])["image"].to_pylist()


@pytest.fixture
def large(tmp_path):
    """A part of three groups of rows, written long enough ago that it counts as settled."""
    part = Path(open_store(tmp_path).write(hashes(3000), vectors(3000)))
    os.utime(part, (1e9, 1e9))
    return part


def test_of_a_large_part_only_what_is_needed_is_read_once_it_was_checked(
    tmp_path, large, monkeypatch
):
    reads, read_group = [], parts_module._read_group

    def count(file, group, shape):
        reads.append(group)
        return read_group(file, group, shape)

    monkeypatch.setattr(parts_module, "_read_group", count)
    rows = [2900, 5, 2047, 2048, 5, 1024]
    for wanted in ([0, 1, 2], [0, 1, 2]):
        values = open_store(tmp_path).read([hashes(3000)[row] for row in rows])
        assert np.array_equal(values, vectors(3000)[rows])
        assert reads == wanted
        reads.clear()
    assert np.array_equal(open_store(tmp_path).read(hashes(2, 1500)), vectors(3000)[1500:1502])
    assert reads == [1]
    # Another file of this name is checked anew.
    os.utime(large, (2e9, 2e9))
    open_store(tmp_path).read(hashes(2, 1500))
    assert reads == [1, 0, 1, 2]


def test_a_part_that_was_changed_after_it_was_checked_is_found(tmp_path, large):
    open_store(tmp_path).read(hashes(4))
    changed = vectors(3000)
    changed[7, 1] += 0.5
    column = pa.FixedSizeListArray.from_arrays(pa.array(changed.ravel()), LENGTH)
    _rewrite(large, image=pa.array(hashes(3000)), vector=column)
    with pytest.raises(DamagedPartError, match="not what was written"):
        open_store(tmp_path).read(hashes(4))


def test_parts_that_are_gone_are_noticed_at_the_next_look(tmp_path, part):
    store = open_store(tmp_path)
    store.write(hashes(3, 4), vectors(3))
    part.unlink()
    store.refresh()
    assert store.missing(hashes(7)).tolist() == [True] * 4 + [False] * 3
    assert np.array_equal(store.read(hashes(3, 4)), vectors(3))


LIGHT = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from topwork.vectors.space import Space
from topwork.vectors.store import VectorStore
import numpy as np
store = VectorStore(Path(sys.argv[1]), Space("b", "", 1, "1", "1", "s", "f32"), 3)
store.write(["a" * 64], np.zeros((1, 3), np.float32))
store.refresh()
store.read(["a" * 64])
assert not {"pandas", "pyarrow.compute", "pyarrow.dataset"} & sys.modules.keys()
"""


@pytest.mark.system
def test_no_library_is_loaded_that_takes_longer_than_the_vectors(tmp_path):
    subprocess.run([sys.executable, "-c", LIGHT, tmp_path], check=True)


def test_an_image_without_a_vector_is_not_there(tmp_path, part):
    store = open_store(tmp_path)
    assert hashes(1)[0] in store
    assert hashes(1, 4)[0] not in store
    with pytest.raises(KeyError):
        store.read(hashes(5))


def test_other_programs_read_a_part(part):
    table = pq.read_table(part)
    assert table["image"].to_pylist() == hashes(4)
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), vectors(4))
    space = json.loads((part.parent / "space.json").read_text())
    assert space == asdict(SPACE) | {"vector_length": LENGTH}


def test_a_part_is_as_readable_as_any_file_of_its_user(part):
    (part.parent / "plain").touch()
    for name in (part.name, "space.json"):
        assert (part.parent / name).stat().st_mode == (part.parent / "plain").stat().st_mode


@pytest.mark.parametrize("field", [field.name for field in fields(Space)])
def test_every_field_of_the_space_is_part_of_the_key(tmp_path, part, field):
    assert hashes(1)[0] in open_store(tmp_path)
    value = getattr(SPACE, field)
    other = replace(SPACE, **{field: value + 1 if isinstance(value, int) else f"{value}x"})
    assert other.name != SPACE.name
    store = VectorStore(tmp_path, other, LENGTH)
    store.refresh()
    assert hashes(1)[0] not in store
    store.write(hashes(1), vectors(1, seed=9))
    assert np.array_equal(open_store(tmp_path).read(hashes(1)), vectors(1))


def test_writing_again_changes_no_part(tmp_path, part):
    before = part.read_bytes()
    store = open_store(tmp_path)
    store.write(hashes(3, 4), vectors(3))
    assert store.write(hashes(4), vectors(4)) == str(part)
    assert part.read_bytes() == before
    assert len(files(tmp_path)) == 3


def test_parts_that_others_finish_are_seen_at_the_next_look(tmp_path):
    reader, writer = open_store(tmp_path), open_store(tmp_path)
    writer.write(hashes(2), vectors(2))
    assert hashes(1)[0] not in reader
    reader.refresh()
    assert np.array_equal(reader.read(hashes(2)), vectors(2))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
@pytest.mark.parametrize("step", ["write", "fsync", "replace", "mkdir"])
def test_a_disk_that_takes_no_more_leaves_nothing_behind(tmp_path, monkeypatch, step, error):
    def fail(*_, **__):
        raise error

    where = {
        "write": (pq, "write_table"), "fsync": (os, "fsync"),
        "replace": (Path, "replace"), "mkdir": (Path, "mkdir"),
    }  # fmt: skip
    store = VectorStore(tmp_path / "store", SPACE, LENGTH)
    with monkeypatch.context() as broken:
        broken.setattr(*where[step], fail)
        with pytest.raises(StoreError, match=f"{error.strerror}.*0 vectors.*--store"):
            store.write(hashes(4), vectors(4))
    assert {*files(tmp_path)} <= {"space.json"}
    assert hashes(1)[0] not in store
    store.write(hashes(4), vectors(4))
    assert np.array_equal(open_store(tmp_path / "store").read(hashes(4)), vectors(4))


def test_a_file_in_the_place_of_the_store_is_an_error(tmp_path):
    (tmp_path / "store").touch()
    store = open_store(tmp_path / "store")
    with pytest.raises(StoreError, match="cannot write vectors"):
        store.write(hashes(4), vectors(4))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_an_interrupted_write_leaves_no_file(tmp_path, monkeypatch, error):
    open_store(tmp_path).write(hashes(4), vectors(4))
    before = files(tmp_path)

    def stop(table, file, **_):
        file.write(b"PAR1 the first half")
        raise error

    monkeypatch.setattr(pq, "write_table", stop)
    with pytest.raises(error):
        open_store(tmp_path).write(hashes(4, 4), vectors(4))
    assert files(tmp_path) == before


KILLED = """
import os, signal, sys
sys.path.insert(0, "tests")
import pyarrow.parquet as pq
from pathlib import Path
from vectors.test_store import *
store = open_store(Path(sys.argv[1]))
store.write(hashes(4), vectors(4))
write = pq.write_table
def half(table, file, **options):
    write(table, file, **options)
    file.truncate(file.tell() // 2)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
pq.write_table = half
store.write(hashes(4, 4), vectors(4))
"""


@pytest.mark.system
def test_a_writer_killed_halfway_leaves_nothing_that_is_read(tmp_path):
    command = [sys.executable, "-c", KILLED, tmp_path]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    store = open_store(tmp_path)
    assert len(store) == 4
    assert not store.set_aside
    store.write(hashes(4, 4), vectors(4))
    assert np.array_equal(open_store(tmp_path).read(hashes(4, 4)), vectors(4))


def test_a_reader_never_sees_half_a_part(tmp_path):
    values = vectors(40)
    writer = threading.Thread(
        target=lambda: [
            VectorStore(tmp_path, SPACE, LENGTH).write(hashes(1, n), values[n : n + 1])
            for n in range(40)
        ]
    )
    writer.start()
    while True:
        last = not writer.is_alive()
        store = open_store(tmp_path)
        there = [n for n, image in enumerate(hashes(40)) if image in store]
        assert np.array_equal(store.read([hashes(40)[n] for n in there]), values[there])
        assert not store.set_aside
        if last:
            break
    assert there == list(range(40))


def _write_many(root, start, barrier):
    store = VectorStore(root, SPACE, LENGTH)
    barrier.wait()
    for n in range(start, start + 40, 2):
        store.write(hashes(2, n), vectors(100)[n : n + 2])


@pytest.mark.system
def test_processes_may_write_the_same_store_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    # The second writes what the first does, and more.
    writers = [
        context.Process(target=_write_many, args=(tmp_path, start, barrier)) for start in (0, 0, 30)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    store = open_store(tmp_path)
    assert np.array_equal(store.read(hashes(70)), vectors(100)[:70])
    assert not store.set_aside
    assert len(files(tmp_path)) == 1 + 35


def _rewrite(part, **columns):
    pq.write_table(pa.table(columns), part)


def _edit(part):
    changed = vectors(4)
    changed[2, 1] += 0.5
    column = pa.FixedSizeListArray.from_arrays(pa.array(changed.ravel()), LENGTH)
    _rewrite(part, image=pa.array(hashes(4)), vector=column)


def _swap(part):
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors(4).ravel()), LENGTH)
    _rewrite(part, image=pa.array(hashes(4)[::-1]), vector=column)


def _lengthen(part):
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(24, np.float32)), 6)
    _rewrite(part, image=pa.array(hashes(4)), vector=column)


def _widen(part):
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(20)), LENGTH)
    _rewrite(part, image=pa.array(hashes(4)), vector=column)


def _remove_rows(part):
    column = pa.array([], pa.list_(pa.float32(), LENGTH))
    _rewrite(part, image=pa.array([], pa.string()), vector=column)


def _empty_vectors(part):
    column = pa.array([None] * 4, pa.list_(pa.float32(), LENGTH))
    _rewrite(part, image=pa.array(hashes(4)), vector=column)


DAMAGE = {
    "emptied": lambda part: part.write_bytes(b""),
    "replaced by text": lambda part: part.write_text("hello"),
    "replaced by zeros": lambda part: part.write_bytes(bytes(part.stat().st_size)),
    "edited": _edit,
    "images swapped": _swap,
    "other length": _lengthen,
    "other dtype": _widen,
    "no rows": _remove_rows,
    "nulls": _empty_vectors,
    "no image column": lambda part: _rewrite(part, vector=[[1.0] * LENGTH]),
    "no vector column": lambda part: _rewrite(part, image=hashes(4)),
    "a folder": lambda part: (part.unlink(), part.mkdir()),
} | {
    f"cut at {share}": lambda part, share=share: part.write_bytes(
        part.read_bytes()[: int(part.stat().st_size * share)]
    )
    for share in (0.05, 0.3, 0.6, 0.9, 0.999)
}


def check_set_aside(root, part):
    """Reads a damaged part's vectors, at most once, and writes them anew."""
    store = open_store(root)
    if hashes(1)[0] in store:
        with pytest.raises(DamagedPartError, match=part.name):
            store.read(hashes(4))
    assert not any(image in store for image in hashes(4))
    assert len(store.set_aside) == 1
    assert Path(store.set_aside[0]).exists()
    assert not part.exists()
    store.write(hashes(4), vectors(4))
    for again in (store, open_store(root)):
        assert np.array_equal(again.read(hashes(4)), vectors(4))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_is_set_aside_and_its_vectors_are_missing_again(tmp_path, part, damage):
    DAMAGE[damage](part)
    check_set_aside(tmp_path, part)


def test_vectors_that_are_not_finite_are_never_read(tmp_path):
    broken = vectors(4)
    broken[1, 2] = np.nan
    check_set_aside(tmp_path, Path(open_store(tmp_path).write(hashes(4), broken)))


def test_any_flipped_byte_is_noticed_or_harmless(tmp_path, part):
    whole = part.read_bytes()
    for place in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        part.write_bytes(flipped)
        store = open_store(tmp_path)
        try:
            values = store.read(hashes(4))
        except (DamagedPartError, KeyError):
            assert store.set_aside
        else:
            assert np.array_equal(values, vectors(4))


def test_all_damaged_parts_are_found_at_once_and_the_others_stay(tmp_path):
    store = open_store(tmp_path)
    parts = [Path(store.write(hashes(4, n), vectors(4, n))) for n in (0, 4, 8, 12, 16)]
    for path in parts[:4]:
        data = bytearray(path.read_bytes())
        data[data.index(vectors(4, parts.index(path) * 4).tobytes())] ^= 1
        path.write_bytes(data)
    with pytest.raises(DamagedPartError):
        open_store(tmp_path).read(hashes(20))
    store = open_store(tmp_path)
    assert len(store) == 4
    assert np.array_equal(store.read(hashes(4, 16)), vectors(4, 16))


def test_a_part_that_vanishes_is_missing_again(tmp_path, part):
    store = open_store(tmp_path)
    part.unlink()
    with pytest.raises(DamagedPartError):
        store.read(hashes(4))
    assert hashes(1)[0] not in store


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("look", ["refresh", "read"])
def test_a_part_is_not_called_damaged_for_a_trouble_of_our_own(
    tmp_path, part, monkeypatch, number, look
):
    store = VectorStore(tmp_path, SPACE, LENGTH)
    if look == "read":
        store.refresh()

    def refuse(*_, **__):
        raise OSError(number, "reason")

    monkeypatch.setattr(parts_module.pq, "ParquetFile", refuse)
    with pytest.raises(StoreError, match=f"cannot read the part {part}.*reason"):
        store.refresh() if look == "refresh" else store.read(hashes(4))
    assert part.exists()


def test_a_damaged_part_that_cannot_be_set_aside_is_an_error(tmp_path, part, monkeypatch):
    part.write_text("hello")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StoreError, match="cannot be set aside: Permission denied"):
        open_store(tmp_path)


def test_the_range_is_part_of_the_name_only_where_there_is_one():
    plain = Space("efficientnet-lite0", "ab" * 32, 224, "1", "2", "sampled", "bf16")
    assert plain.name == NAMED
    assert replace(plain, ranges="").name == NAMED
    others = {replace(plain, ranges=text).name for text in ("0..1", "0..2", "uint16 0..1")}
    assert len(others | {NAMED}) == 4
