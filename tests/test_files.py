import os
import threading
from pathlib import Path

import pytest

from topwork import files
from topwork.files import write_file, write_folder


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
        (".[f]-old.tmp", 2 * files.STALE_S),
        (".[f]-new.tmp", 60),
        (".g-x.tmp", 1e9),
    ):
        left = tmp_path / name
        (left / "big").mkdir(parents=True)
        os.utime(left, (left.stat().st_mtime - age_s,) * 2)
    write_folder(tmp_path / "[f]", fill("one"))
    assert names(tmp_path) == [".[f]-new.tmp", ".g-x.tmp", "[f]"]
