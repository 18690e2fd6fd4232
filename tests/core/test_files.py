import hashlib
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest

from topwork.core import files, leftovers
from topwork.core.files import hash_unchanged, write_file, write_folder
from topwork.core.leftovers import STALE_S


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(text):
    def write(folder):
        (folder / "a.txt").write_text(text)
        return text

    return write


def broken(*_):
    raise OSError(28, "No space left on device")


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "f"
    write_file(path, lambda file: file.write(b"one"))
    write_file(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"

    def half(file):
        file.write(b"thr")
        broken()

    with pytest.raises(OSError, match="No space"):
        write_file(path, half)
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["f"]


def test_a_folder_is_made_with_its_parents_and_readable_for_all(tmp_path):
    path = tmp_path / "deep" / "folder"
    assert write_folder(path, fill("one")) == "one"
    assert (path / "a.txt").read_text() == "one"
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "folder"
    write_folder(path, fill("one"))
    (path / "old.txt").touch()
    write_folder(path, fill("two"))
    assert names(path) == ["a.txt"]
    for failing in (broken, lambda folder: fill("three")(folder) and broken()):
        with pytest.raises(OSError, match="No space"):
            write_folder(path, failing)
    assert (path / "a.txt").read_text() == "two"
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    write_folder(path, fill("one"))
    rename = Path.rename

    def refuse(self, target):
        if target == path and (self / "a.txt").read_text() == "two":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        write_folder(path, fill("two"))
    assert (path / "a.txt").read_text() == "one"
    assert names(tmp_path) == ["folder"]


def test_many_may_write_the_same_folder_at_once(tmp_path):
    failed = []

    def write(text):
        try:
            write_folder(tmp_path / "folder", fill(text))
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "folder" / "a.txt").read_text() in "01234567"
    assert names(tmp_path) == ["folder"]
    assert not failed


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path):
    for name, age_s in (
        (".[f]-1_olders.tmp", 2 * STALE_S),
        (".[f]-newer_12.tmp", 60),
        (".g-1_olders.tmp", 1e9),
    ):
        left = tmp_path / name
        (left / "big").mkdir(parents=True)
        os.utime(left, (left.stat().st_mtime - age_s,) * 2)
    write_folder(tmp_path / "[f]", fill("one"))
    assert names(tmp_path) == [".[f]-newer_12.tmp", ".g-1_olders.tmp", "[f]"]


def age(path, seconds=60):
    """Makes a file older than it is; its time of change is now all the same."""
    then = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(then, then))


def hash_at_once(path, record):
    """Remembers also what was just changed."""
    return hash_unchanged(path, record, settled_ns=-1)


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that are hashed."""
    names, hash_ = [], files.hash_file

    def spy(path):
        names.append(path.name)
        return hash_(path)

    monkeypatch.setattr(files, "hash_file", spy)
    return names


def test_a_file_that_is_unchanged_is_hashed_once(tmp_path, reads):
    path, record = tmp_path / "weights", tmp_path / "store" / "known.json"
    path.write_bytes(b"one")
    wanted = hashlib.sha256(b"one").hexdigest()
    assert hash_at_once(path, record) == hash_at_once(path, record) == wanted
    assert reads == ["weights"]
    other = tmp_path / "other"
    other.write_bytes(b"two")
    assert hash_at_once(other, record) == hashlib.sha256(b"two").hexdigest()
    assert hash_at_once(path, record) == wanted
    assert reads == ["weights", "other"]


@pytest.mark.parametrize("change", ["content", "size", "time", "file"])
def test_a_file_that_was_changed_is_hashed_again(tmp_path, reads, change):
    path, record = tmp_path / "weights", tmp_path / "known.json"
    path.write_bytes(b"one")
    age(path)
    hash_at_once(path, record)
    facts = path.stat()
    if change == "file":
        (tmp_path / "new").write_bytes(b"two")
        (tmp_path / "new").replace(path)
        os.utime(path, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    elif change == "time":
        age(path, 120)
    else:
        path.write_bytes(b"two" if change == "content" else b"four")
    assert hash_at_once(path, record) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert reads == ["weights", "weights"]


def test_a_file_that_was_just_changed_is_not_remembered(tmp_path):
    path, record = tmp_path / "weights", tmp_path / "known.json"
    path.write_bytes(b"one")
    hash_unchanged(path, record)
    assert not record.exists()


@pytest.mark.parametrize("content", ["", "[]", "[[1]]", "null", '{"%s": 3}', '{"%s": [[], ""]}'])
def test_a_record_that_is_damaged_is_written_anew(tmp_path, reads, content):
    path, record = tmp_path / "weights", tmp_path / "known.json"
    path.write_bytes(b"one")
    record.write_text(content.replace("%s", str(path)))
    for _ in range(2):
        assert hash_at_once(path, record) == hashlib.sha256(b"one").hexdigest()
    assert reads == ["weights"]


def test_a_record_that_cannot_be_written_costs_nothing(tmp_path, reads):
    (tmp_path / "store").touch()
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    record = tmp_path / "store" / "known.json"
    assert hash_at_once(path, record) == hashlib.sha256(b"one").hexdigest()
    with pytest.raises(FileNotFoundError):
        hash_at_once(tmp_path / "none", record)


def test_a_folder_that_cannot_be_put_back_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    write_folder(path, fill("one"))
    rename = Path.rename

    def refuse(self, target):
        if target == path:
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        with pytest.raises(OSError, match="Permission"):
            write_folder(path, fill("two"))
        (left,) = tmp_path.iterdir()
    assert left.suffix == ".old"
    assert leftovers.put_back(left)
    assert (path / "a.txt").read_text() == "one"


def test_an_interrupt_while_a_folder_is_replaced_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    write_folder(path, fill("one"))
    rename = Path.rename

    def interrupt(self, target):
        if target == path and self.name != path.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_folder(path, fill("two"))
    assert (path / "a.txt").read_text() == "one"
    assert names(tmp_path) == ["folder"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for temporary files that nobody else uses."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_scratch_is_removed_however_it_ends(place):
    with files.open_scratch() as folder:
        (folder / "a").touch()
        assert folder.parent == place
    with pytest.raises(ZeroDivisionError), files.open_scratch() as folder:
        raise ZeroDivisionError
    assert names(place) == []
    first, second = files.make_scratch(), files.make_scratch("serve")
    files.drop_scratch(first)
    assert names(place) == [second.name]
    with files.open_scratch():
        files.remove_scratch()
        assert names(place) == []


def test_scratch_that_is_in_use_looks_new(place):
    with files.open_scratch() as folder:
        os.utime(folder, (0, 0))
        files.touch_scratch()
        assert folder.stat().st_mtime == pytest.approx(time.time(), abs=60)
        folder.rmdir()
        files.touch_scratch()


def test_a_folder_beside_another_is_removed_however_it_ends(tmp_path):
    with files.open_beside(tmp_path / "a") as folder:
        assert folder.parent == tmp_path
        (folder / "b").touch()
    with pytest.raises(ZeroDivisionError), files.open_beside(tmp_path / "a"):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_long_names_are_written_too(tmp_path):
    path = tmp_path / ("ä" * 120)
    write_file(path, lambda file: file.write(b"one"))
    write_folder(path.with_name("f" * 250), fill("two"))
    write_folder(path.with_name("f" * 250), fill("three"))
    assert names(tmp_path) == ["f" * 250, path.name]
