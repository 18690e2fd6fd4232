import hashlib
import os
import shutil
import time

import numpy as np
import pytest
from recorder import Recorder

from topwork.core.errors import DatasetError
from topwork.data import known_files
from topwork.data.dataset import Dataset
from topwork.data.hashing import hash_images
from topwork.images.traits import Trait


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """Four files that have not changed for long."""
    monkeypatch.setattr(known_files, "SETTLED_S", 0.02)
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.jpg").write_bytes(b"\xff\xd8\xff" + bytes([n]) * 20)
    time.sleep(0.05)
    return sorted(folder.iterdir())


@pytest.fixture
def read(monkeypatch):
    """The images that were read."""
    read = []
    plain = hash_images.__globals__["read_bytes"]
    monkeypatch.setitem(
        hash_images.__globals__,
        "read_bytes",
        lambda source: (read.append(source), plain(source))[1],
    )
    return read


def hash_all(paths, store, **options):
    return hash_images(Dataset.from_sources(list(paths)), options.get("strict", False), store=store)


def test_a_file_is_read_once(paths, store, read):
    first = hash_all(paths, store)
    assert sorted(read) == paths
    read.clear()
    again = hash_all(paths, store)
    assert not read
    assert again.hashes == first.hashes == tuple(digest(path.read_bytes()) for path in paths)
    assert again.traits.tolist() == first.traits.tolist()


def test_without_a_store_all_are_read(paths, store, read):
    hash_all(paths, store)
    hash_all(paths, None)
    assert len(read) == 8


def test_strict_reads_all(paths, store, read):
    hash_all(paths, store)
    read.clear()
    hash_all(paths, store, strict=True)
    assert sorted(read) == paths


def test_a_file_that_changed_is_read_though_its_size_and_time_are_the_same(paths, store, read):
    hash_all(paths, store)
    before = paths[1].stat()
    paths[1].write_bytes(b"\xff\xd8\xff" + b"x" * 20)
    os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    read.clear()
    found = hash_all(paths, store)
    assert read == [paths[1]]
    assert found.hashes[1] == digest(b"\xff\xd8\xff" + b"x" * 20)


def test_a_file_put_in_its_place_is_read(paths, store, read):
    hash_all(paths, store)
    other = paths[1].with_name("other")
    shutil.copy2(paths[0], other)
    other.replace(paths[1])
    read.clear()
    assert hash_all(paths, store).hashes[1] == digest(paths[0].read_bytes())
    assert read == [paths[1]]


def test_a_file_that_changed_just_now_is_not_remembered(paths, store, read, monkeypatch):
    monkeypatch.setattr(known_files, "SETTLED_S", 60.0)
    hash_all(paths, store)
    hash_all(paths, store)
    assert len(read) == 8
    assert not store.exists()


def test_traits_are_remembered(paths, store, read):
    # Of 16 bits a channel, with an alpha channel.
    paths[0].write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 16 + b"\x10\x06")
    time.sleep(0.05)
    for _ in range(2):
        traits = hash_all(paths, store).traits.tolist()
        assert traits == [Trait.DEEP | Trait.CLEAR, 0, 0, 0]
    assert len(read) == 4


def test_new_files_are_added_and_others_stay(paths, store, read):
    hash_all(paths[:2], store)
    hash_all(paths[2:], store)
    read.clear()
    hash_all(paths, store)
    assert not read


def test_files_of_others_do_not_gather(paths, store):
    for path in paths:
        hash_all([path], store)
    (kept,) = (store / known_files.FOLDER).iterdir()
    with np.load(kept) as arrays:
        assert len(arrays["traits"]) == 2


def test_what_cannot_be_read_is_tried_again(paths, store, read):
    paths[2].write_bytes(b"")
    time.sleep(0.05)
    assert [len(hash_all(paths, store)) for _ in range(2)] == [3, 3]
    assert read.count(paths[2]) == 2
    with pytest.raises(DatasetError):
        hash_all(paths, store, strict=True)


def test_a_file_that_is_gone_is_said_to_be(paths, store):
    dataset = Dataset.from_sources(list(paths))
    hash_images(dataset, False, store=store)
    paths[3].unlink()
    found = hash_images(dataset, False, store=store)
    assert [skipped.reason for skipped in found.skipped] == ["there is no such file"]


@pytest.mark.parametrize("damage", [b"", b"PK\3\4 no archive", None, "cut"])
def test_a_damaged_record_is_made_anew(paths, store, read, damage):
    hash_all(paths, store)
    (kept,) = (store / known_files.FOLDER).iterdir()
    whole = kept.read_bytes()
    if damage is None:
        np.savez(kept, version=np.array(known_files.VERSION), paths=np.zeros(3, np.uint8))
    else:
        kept.write_bytes(whole[: len(whole) // 2] if damage == "cut" else damage)
    for wanted in (4, 0):
        read.clear()
        assert hash_all(paths, store).hashes == tuple(digest(p.read_bytes()) for p in paths)
        assert len(read) == wanted


def test_another_version_is_not_believed(paths, store, read, monkeypatch):
    hash_all(paths, store)
    monkeypatch.setattr(known_files, "VERSION", 0)
    hash_all(paths, store)
    assert len(read) == 8


def test_a_store_that_cannot_be_written_costs_nothing(paths, tmp_path):
    store = tmp_path / "store"
    store.write_bytes(b"no folder")
    assert len(hash_all(paths, store)) == 4


def test_images_in_memory_are_read_beside_files(paths, store, read):
    sources = [paths[0], b"\xff\xd8\xffmemory", paths[1]]
    for _ in range(2):
        found = hash_images(Dataset.from_sources(sources), False, store=store)
        assert found.hashes[1] == digest(b"\xff\xd8\xffmemory")
    assert sum(isinstance(source, bytes) for source in read) == 2
    assert len(read) == 4


def test_progress_counts_known_files_too(paths, store):
    hash_all(paths[:3], store)
    recorder = Recorder()
    hash_images(Dataset.from_sources(list(paths)), False, recorder, store)
    assert recorder.told["on_read"] == [(3, 4), (4, 4)]


@pytest.mark.skipif(os.name == "nt", reason="names there are Unicode")
def test_names_that_are_no_text_are_remembered(paths, store, read):
    name = os.fsdecode(b"\xff\xfe \n.jpg")
    try:
        odd = paths[0].rename(paths[0].with_name(name))
    except OSError:
        pytest.skip("this file system has no such names")
    time.sleep(0.05)
    for _ in range(2):
        hash_all([odd], store)
    assert read == [odd]
