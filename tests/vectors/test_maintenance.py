import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from leavings import beside, of_alive
from leavings import fill as fill_temporary
from recorder import Recorder
from vectors.test_store import LENGTH, SPACE, hashes, open_store, vectors

from topwork.core.errors import StoreError
from topwork.core.locks import Locks
from topwork.vectors import maintenance
from topwork.vectors.store import VectorStore

SMALL = maintenance.Limits(vectors=16, few_parts=5)


def fill(root, count=40, size=3):
    store = open_store(root)
    for n in range(0, count, size):
        store.write(hashes(count)[n : n + size], vectors(count)[n : n + size])
    return store


def sizes(root):
    paths = sorted(root.rglob("part-*.parquet"))
    return sorted(pq.read_metadata(path).num_rows for path in paths)


def check_whole(root, count=40):
    store = open_store(root)
    assert np.array_equal(store.read(hashes(count)), vectors(count))
    assert not store.set_aside
    return store


def test_small_parts_become_large_ones_with_the_same_vectors(tmp_path):
    store = fill(tmp_path)
    assert maintenance.compact(store, SMALL) == 14 - 3
    assert sizes(tmp_path) == [10, 15, 15]
    assert np.array_equal(store.read(hashes(40)), vectors(40))
    check_whole(tmp_path)
    # The large ones are left alone, and one alone is too.
    assert maintenance.compact(store, SMALL) == 0
    assert sizes(tmp_path) == [10, 15, 15]
    assert not [*(store.folder / "claims").iterdir()]


def test_large_parts_are_bounded_in_bytes_too(tmp_path):
    maintenance.compact(fill(tmp_path, size=2), replace(SMALL, bytes=4 * LENGTH * 6))
    assert max(sizes(tmp_path)) == 6
    check_whole(tmp_path)


def test_only_many_small_parts_are_tidied_up(tmp_path):
    store = fill(tmp_path, 15)
    maintenance.compact_if_many(store, SMALL)
    assert sizes(tmp_path) == [3] * 5
    store.write(hashes(3, 15), vectors(3))
    maintenance.compact_if_many(store, SMALL)
    assert sizes(tmp_path) == [3, 15]


def test_a_full_disk_keeps_nobody_from_what_is_there(tmp_path, monkeypatch):
    store = fill(tmp_path)

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(pq, "write_table", refuse)
        maintenance.compact_if_many(store, SMALL)
        with pytest.raises(StoreError, match="No space left on device"):
            maintenance.compact(store, SMALL)
    assert np.array_equal(store.read(hashes(40)), vectors(40))
    assert sizes(tmp_path) == [1] + [3] * 13
    assert len(check_whole(tmp_path)) == 40


def test_a_vector_that_is_there_twice_is_kept_once(tmp_path):
    store = fill(tmp_path, 8, 4)
    store.write(hashes(8)[2:6], vectors(8)[2:6])
    assert maintenance.compact(store, SMALL) == 2
    assert sizes(tmp_path) == [8]
    check_whole(tmp_path, 8)


def test_a_part_that_holds_all_of_the_others_is_not_removed(tmp_path):
    """Its name is that of the large part, which would have the same content."""
    store = open_store(tmp_path)
    names = [store.write(hashes(4)[:n], vectors(4)[:n]) for n in (4, 2, 3)]
    maintenance.compact(store, SMALL)
    assert len(sizes(tmp_path)) == 1
    assert len(names) == 3
    check_whole(tmp_path, 4)


def test_readers_and_writers_of_before_survive_it(tmp_path):
    writer = fill(tmp_path)
    reader, late = open_store(tmp_path), open_store(tmp_path)
    parts, _ = reader.locate(hashes(40))
    maintenance.compact(writer, SMALL)
    assert np.array_equal(reader.locate(hashes(40))[0], parts), "numbers hold until a refresh"
    assert np.array_equal(reader.read(hashes(40)), vectors(40))
    assert np.array_equal(reader.read(hashes(5)), vectors(40)[:5])
    late.refresh()
    assert not late.missing(hashes(40)).any()
    assert len(late) == 40
    late.write(hashes(2, 40), vectors(2))
    assert np.array_equal(late.read(hashes(2, 40)), vectors(2))


def test_two_do_not_compact_at_once(tmp_path):
    store = fill(tmp_path)
    with Locks(store.locks_folder) as locks:
        locks.take("compaction")
        assert maintenance.compact(open_store(tmp_path), SMALL) == 0
    assert len(sizes(tmp_path)) == 14
    assert maintenance.compact(open_store(tmp_path), SMALL) == 11


def test_damaged_parts_are_set_aside_and_the_others_joined(tmp_path):
    store = fill(tmp_path)
    part = sorted(store.folder.glob("part-*"))[4]
    part.write_bytes(part.read_bytes()[:-50] + bytes(50))
    images = pq.read_table(sorted(store.folder.glob("part-*"))[0])["image"].to_pylist()
    maintenance.compact(store, SMALL)
    assert len(store.set_aside) == 1
    again = open_store(tmp_path)
    assert len(again) == 37
    assert images[0] in again


KILLED = """
import os, signal, sys
sys.path.insert(0, "tests")
from pathlib import Path
from vectors.test_maintenance import *
from topwork.vectors.backends import LocalFolder

left = int(sys.argv[2])
def die(act):
    def run(*args):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return act(*args)
    return run
LocalFolder.write, LocalFolder.remove = die(LocalFolder.write), die(LocalFolder.remove)
maintenance.compact(open_store(Path(sys.argv[1])), SMALL)
"""


@pytest.mark.system
@pytest.mark.parametrize("step", [1, 2, 4, 7])
def test_killed_at_any_step_nothing_is_lost(tmp_path, step):
    fill(tmp_path)
    command = [sys.executable, "-c", KILLED, tmp_path, str(step)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    maintenance.compact(check_whole(tmp_path), SMALL)
    assert len(sizes(tmp_path)) <= 4
    assert len(check_whole(tmp_path)) == 40


def _read_on(root, barrier, count):
    store = open_store(root)
    barrier.wait()
    for _ in range(30):
        assert np.array_equal(store.read(hashes(count)), vectors(count))
    assert not store.set_aside


@pytest.mark.system
def test_processes_read_while_another_compacts(tmp_path):
    store = fill(tmp_path, 300, 2)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    reader = context.Process(target=_read_on, args=(tmp_path, barrier, 300))
    reader.start()
    barrier.wait()
    maintenance.compact(store, SMALL)
    reader.join()
    assert reader.exitcode == 0


@pytest.fixture
def root(tmp_path):
    """A store with two spaces and the other things that lie in stores."""
    fill(tmp_path, 12)
    other = VectorStore(tmp_path, replace(SPACE, base="xception", view="flip"), LENGTH)
    other.write(hashes(2), vectors(2))
    for name, size in {
        "bases/xception-150-0123456789abcdef/network.bin": 1000,
        "bases/stack-0123456789abcdef/network.bin": 10,
        "remote/ab/cd-photo.jpg": 500,
        "programs/jit-1": 20,
        "copies/x.json": 7,
        "mine/notes.txt": 3,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return tmp_path


def named(entries):
    return {f"{entry.kind}/{entry.name.split('-')[0]}": entry for entry in entries}


def test_a_survey_counts_what_lies_there(root):
    found = named(maintenance.list_items(root))
    assert found.keys() == {
        "vectors/efficientnet", "vectors/xception", "bases/xception", "bases/stack",
        "remote/ab", "programs/jit", "copies/x.json",
    }  # fmt: skip
    lite, flipped = found["vectors/efficientnet"], found["vectors/xception"]
    assert (lite.vectors, lite.parts, lite.space) == (12, 4, SPACE)
    assert (flipped.vectors, flipped.base, flipped.space.view) == (2, "xception", "flip")
    folder = root / "vectors" / SPACE.name
    assert lite.bytes == sum(path.stat().st_size for path in folder.iterdir())
    newest = max(path.stat().st_mtime for path in folder.glob("part-*"))
    assert lite.used_s == pytest.approx(newest)
    assert found["bases/xception"].bytes == 1000
    assert found["bases/xception"].base == "xception"
    assert found["remote/ab"].bytes == 500


def test_a_store_that_is_not_there_is_empty(tmp_path):
    assert maintenance.list_items(tmp_path / "none") == []
    assert maintenance.verify(tmp_path / "none") == maintenance.CheckResult(0, (), ())
    assert maintenance.compact_all(tmp_path / "none") == 0
    assert not (tmp_path / "none").exists()


def test_a_space_that_says_nothing_of_itself_is_shown_all_the_same(root):
    (root / "vectors" / SPACE.name / "space.json").write_text("{")
    part = next((root / "vectors" / SPACE.name).glob("part-*"))
    part.write_text("no part")
    found = named(maintenance.list_items(root))["vectors/efficientnet"]
    assert (found.space, found.base, found.vectors, found.parts) == (None, None, 9, 4)


def age(path, days):
    at_s = time.time() - days * 86_400
    for each in [path, *path.rglob("*")]:
        os.utime(each, (at_s, at_s))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"base": "xception"}, {"vectors/xception", "bases/xception"}),
        ({"base": "none"}, set()),
        ({"older_than_s": 86_400}, {"vectors/efficientnet", "remote/ab", "bases/xception"}),
        ({"older_than_s": 9 * 86_400}, set()),
        ({"base": "xception", "older_than_s": 86_400}, {"bases/xception"}),
        ({}, {"everything"}),
    ],
)
def test_what_is_chosen_and_only_that_is_removed(root, options, wanted):
    for name in (
        "remote/ab",
        f"vectors/{SPACE.name}",
        "mine",
        "bases/xception-150-0123456789abcdef",
    ):
        age(root / name, 3)
    before = named(maintenance.list_items(root))
    chosen = maintenance.select_items([*before.values()], **options)
    wanted = before.keys() if wanted == {"everything"} else wanted
    assert named(chosen).keys() == wanted
    assert maintenance.prune(root, chosen) == sum(before[name].bytes for name in wanted)
    assert named(maintenance.list_items(root)).keys() == before.keys() - wanted
    assert (root / "mine" / "notes.txt").exists()


def test_a_link_is_removed_and_not_what_it_leads_to(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").write_text("not ours")
    (root / "programs" / "link").symlink_to(elsewhere)
    (root / "vectors" / "link").symlink_to(elsewhere)
    maintenance.prune(root, maintenance.list_items(root))
    assert (elsewhere / "precious").exists()
    assert not (root / "programs" / "link").exists()
    assert not (root / "vectors" / "link").exists()


def test_what_cannot_be_removed_is_an_error(root, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StoreError, match=r"cannot remove .*Permission denied.*freed"):
        maintenance.prune(root, maintenance.list_items(root))


def test_every_damaged_part_is_found_and_set_aside(root):
    assert maintenance.verify(root) == maintenance.CheckResult(5, (), ())
    parts = sorted((root / "vectors").rglob("part-*"))
    for part in parts[:2]:
        data = bytearray(part.read_bytes())
        data[data.index(pq.read_table(part)["vector"][0].values.to_numpy().tobytes())] ^= 1
        part.write_bytes(data)
    recorder = Recorder()
    checked = maintenance.verify(root, recorder)
    assert recorder.told["on_part_checked"] == [(n, 5) for n in range(1, 6)]
    assert (checked.parts, checked.before) == (5, ())
    assert sorted(checked.damaged) == [str(part.with_suffix(".damaged")) for part in parts[:2]]
    assert not any(part.exists() for part in parts[:2])
    again = maintenance.verify(root)
    assert (again.parts, again.damaged) == (3, ())
    assert sorted(again.before) == sorted(checked.damaged)


def test_a_built_network_is_known_by_its_base_in_int8_too(tmp_path):
    digest = "0123456789abcdef"
    names = {
        f"xception-150-{digest}": "xception",
        f"xception-150-{digest}-int8-{digest}": "xception",
        f"efficientnet-lite0-224-{digest}": "efficientnet-lite0",
        f"stack-{digest}": None,
    }
    for name in names:
        (tmp_path / "bases" / name).mkdir(parents=True)
    assert {entry.name: entry.base for entry in maintenance.list_items(tmp_path)} == names


def test_what_is_being_written_is_not_part_of_the_survey(root):
    before = maintenance.list_items(root)
    fill_temporary(root / "bases" / beside("xception-150-0123456789abcdef", how=of_alive))
    for folder in (f"vectors/{SPACE.name}", "remote/ab", "copies"):
        (root / folder / beside("a", how=of_alive)).write_bytes(bytes(1000))
    assert maintenance.list_items(root) == before
