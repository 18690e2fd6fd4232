"""Folders on a disk and in a bucket, and stores whose vectors are in one."""

import io
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from servers import s3_server
from vectors.test_store import LENGTH, SPACE, hashes, vectors

from topwork.core.config import default_store
from topwork.core.errors import SettingsError, StoreError
from topwork.vectors import backends as folders_module
from topwork.vectors import maintenance
from topwork.vectors.backends import (
    BucketFolder,
    LocalFolder,
    find_elsewhere,
    find_store,
    open_elsewhere,
    open_folder,
)
from topwork.vectors.store import DamagedPartError, VectorStore


@pytest.fixture(scope="module")
def bucket():
    with s3_server({}) as server:
        yield server


@pytest.fixture
def s3(bucket, monkeypatch, request):
    """The URL of a place of its own in the bucket, and a client to look into it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket[0])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return "s3://photos/" + re.sub(r"\W", "-", request.node.name), bucket[1]


@pytest.fixture(params=["disk", pytest.param("bucket", marks=pytest.mark.system)])
def folder(request, tmp_path):
    if request.param == "disk":
        return LocalFolder(tmp_path / "folder")
    return BucketFolder(request.getfixturevalue("s3")[0])


def read(folder, name):
    source = folder.open(name)
    if isinstance(source, Path):
        return source.read_bytes()
    with source:
        return source.read()


def test_files_are_written_read_renamed_and_removed(folder):
    assert folder.list_names() == folder.list_folders() == []
    assert folder.list_files() == {}
    folder.write("a", lambda file: file.write(b"hello"))
    folder.below("inner").write("b", lambda file: file.write(bytes(9_000_000)))
    assert sorted(folder.list_names()) == ["a", "inner"]
    assert folder.list_folders() == ["inner"]
    assert folder.list_files() == {"a": folder.stamp("a")}
    assert folder.stamp("a").size == 5
    assert folder.stamp("a").mtime_ns > 1e18
    assert read(folder, "a") == b"hello"
    assert read(folder.below("inner"), "b") == bytes(9_000_000)
    folder.rename("a", "c")
    assert folder.list_files().keys() == {"c"}
    folder.remove("c")
    folder.remove("c")
    for look in (folder.stamp, lambda name: read(folder, name)):
        with pytest.raises(FileNotFoundError):
            look("c")


def test_a_file_that_is_not_finished_is_not_there(folder):
    folder.write("a", lambda file: file.write(b"first"))

    def stop(file):
        file.write(b"the first half")
        raise KeyboardInterrupt

    for name in ("a", "b"):
        with pytest.raises(KeyboardInterrupt):
            folder.write(name, stop)
    assert folder.list_files().keys() == {"a"}
    assert read(folder, "a") == b"first"


@pytest.mark.system
def test_a_file_in_a_bucket_is_read_from_any_place(s3):
    folder = BucketFolder(s3[0])
    folder.write("a", lambda file: file.write(bytes(range(256)) * 1000))
    with folder.open("a") as file:
        assert file.seek(-3, io.SEEK_END) == 255_997
        assert file.read() == b"\xfd\xfe\xff"
        file.seek(256)
        assert file.read(2) == b"\0\1"
        assert file.tell() == 258


@pytest.fixture
def root(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("TOPWORK_STORE", str(tmp_path / "home"))
    return open_elsewhere(s3[0])


def open_vectors(root):
    store = VectorStore(root, SPACE, LENGTH)
    store.refresh()
    return store


def keys(s3):
    found = s3[1].list_objects_v2(Bucket="photos", Prefix=s3[0].removeprefix("s3://photos/") + "/")
    names = (each["Key"].rpartition("/")[2] for each in found.get("Contents", ()))
    # An empty name stands for an empty folder.
    return sorted(name for name in names if name)


@pytest.mark.system
def test_vectors_in_a_bucket_are_those_that_were_written(root, s3, tmp_path):
    assert root.parent == tmp_path / "home" / "stores"
    assert find_elsewhere(root) == s3[0]
    assert open_elsewhere(f"{s3[0]}") == root
    store = open_vectors(root)
    assert len(store) == 0
    first = store.write(hashes(4), vectors(4))
    assert first.startswith(f"{s3[0]}/vectors/{SPACE.name}/part-")
    store.write(hashes(4, 4), vectors(4, 1))
    order = [5, 0, 7, 3, 0]
    wanted = np.concatenate([vectors(4), vectors(4, 1)])[order]
    for reader in (store, open_vectors(root)):
        assert np.array_equal(reader.read([hashes(8)[n] for n in order]), wanted)
        assert reader.locks_folder is None
    assert len(keys(s3)) == 3
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["elsewhere.json"]


@pytest.mark.system
def test_a_damaged_part_in_a_bucket_is_set_aside(root, s3):
    key = open_vectors(root).write(hashes(4), vectors(4)).removeprefix("s3://photos/")
    data = bytearray(s3[1].get_object(Bucket="photos", Key=key)["Body"].read())
    data[data.index(vectors(4).tobytes())] ^= 1
    s3[1].put_object(Bucket="photos", Key=key, Body=bytes(data))
    store = open_vectors(root)
    with pytest.raises(DamagedPartError):
        store.read(hashes(4))
    assert hashes(1)[0] not in store
    assert [name.rpartition(".")[2] for name in keys(s3)] == ["damaged", "json"]
    store.write(hashes(4), vectors(4))
    assert np.array_equal(open_vectors(root).read(hashes(4)), vectors(4))


@pytest.mark.system
def test_parts_in_a_bucket_are_made_one_and_counted_and_removed(root, s3, run):
    store = open_vectors(root)
    for n in range(0, 40, 4):
        store.write(hashes(4, n), vectors(40)[n : n + 4])
    reader = open_vectors(root)
    assert maintenance.compact_all(root) == 9
    assert np.array_equal(reader.read(hashes(40)), vectors(40))
    (entry,) = maintenance.list_items(root)
    assert (entry.vectors, entry.parts, entry.space) == (40, 1, SPACE)
    assert maintenance.verify(root) == maintenance.CheckResult(1, (), ())
    code, output, _ = run("store", "--store", root)
    assert code == 0
    assert output.splitlines()[1] == f"vectors in {s3[0]}"
    assert maintenance.prune(root, [entry]) == entry.bytes > 40 * LENGTH * 4
    assert keys(s3) == maintenance.list_items(root) == []


@pytest.mark.system
def test_what_a_bucket_refuses_is_not_called_damage(root, s3, monkeypatch):
    store = open_vectors(root)
    store.write(hashes(4), vectors(4))
    with monkeypatch.context() as dead:
        dead.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StoreError, match="cannot use the store s3://photos/"):
            open_vectors(root)

    def refuse(*_):
        raise OSError("AWS Error NETWORK_CONNECTION")

    monkeypatch.setattr(store._files, "_system", SimpleNamespace(open_input_file=refuse))
    with pytest.raises(StoreError, match="NETWORK_CONNECTION"):
        store.read(hashes(4))
    file = SimpleNamespace(readinto=refuse, close=lambda: None, seek=lambda *_: 0, tell=lambda: 999)
    monkeypatch.setattr(store._files, "_system", SimpleNamespace(open_input_file=lambda *_: file))
    with pytest.raises(StoreError, match="NETWORK_CONNECTION"):
        store.read(hashes(4))
    assert not store.set_aside


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://host/x", "must be a folder or a bucket"),
        ("ftp://host/x", "must be a folder or a bucket"),
        ("file:///tmp/x", "must be a folder or a bucket"),
        ("s3://", "no bucket|not use"),
        ("s3://key:secret@photos/x", "must not hold a password"),
    ],
)
def test_what_cannot_be_a_store_is_refused(tmp_path, monkeypatch, url, reason):
    monkeypatch.setenv("TOPWORK_STORE", str(tmp_path / "home"))
    with pytest.raises(SettingsError, match=reason) as caught:
        open_elsewhere(url)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "home").exists()


@pytest.mark.system
def test_a_store_is_named_by_a_folder_or_a_url(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("TOPWORK_STORE", str(tmp_path / "home"))
    assert find_store(None) == tmp_path / "home"
    assert find_store("a/b") == find_store(Path("a/b")) == Path("a/b")
    assert find_store(s3[0]) == open_elsewhere(s3[0])
    monkeypatch.setattr(folders_module, "_cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("TOPWORK_STORE", s3[0])
    assert find_store(None).parent == tmp_path / "cache" / "stores"
    assert find_elsewhere(find_store(None)) == s3[0]
    monkeypatch.delenv("TOPWORK_STORE")
    assert find_store(None) == default_store()


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"vectors"'])
def test_a_damaged_record_is_an_error(tmp_path, record):
    (tmp_path / "elsewhere.json").write_text(record)
    with pytest.raises(StoreError, match=r"elsewhere\.json must say where"):
        VectorStore(tmp_path, SPACE, LENGTH)


def test_a_store_without_a_record_is_here(tmp_path):
    assert find_elsewhere(tmp_path) is None
    assert open_folder(tmp_path, "a", "b").local == tmp_path / "a" / "b"
