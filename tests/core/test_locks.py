import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from topwork.core import locks as locks_module
from topwork.core.locks import Locks, remove_free


def lock_files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def pair(tmp_path):
    with Locks(tmp_path / "claims") as first, Locks(tmp_path / "claims") as second:
        yield first, second


def test_what_one_has_locked_nobody_else_can(pair, tmp_path):
    first, second = pair
    assert first.take("a", [1, 2])
    assert not second.take("a", [1, 2])
    assert second.take("b", [3])
    assert not first.take("b", [3])
    assert lock_files(tmp_path / "claims") == ["a.lock", "b.lock"]


def test_a_lock_is_released_when_all_of_it_is_finished(pair, tmp_path):
    first, second = pair
    first.take("a", [1, 2, 3])
    first.take("b", [4])
    first.finish([1, 3])
    assert not second.take("a", [1])
    first.finish([2, 99])
    assert second.take("a", [1])
    assert not second.take("b", [4])
    second.finish([1])
    assert lock_files(tmp_path / "claims") == ["b.lock"]


def test_all_locks_are_released_at_the_end(tmp_path):
    with pytest.raises(ZeroDivisionError), Locks(tmp_path) as locks:
        assert locks.take("a", [1])
        assert locks.take("b")
        raise ZeroDivisionError
    assert not lock_files(tmp_path)


def test_a_second_lock_is_refused_until_the_first_is_released(tmp_path):
    with Locks(tmp_path) as locks:
        assert locks.take("a", [1])
        assert not locks.take("a", [2])
        locks.finish([1])
        assert locks.take("a", [2])


HOLD = """
import sys, time
from pathlib import Path
from topwork.core.locks import Locks
with Locks(Path(sys.argv[1])) as locks:
    print(locks.take("a"), flush=True)
    time.sleep(60)
"""


def test_a_process_that_is_killed_has_no_locks(tmp_path):
    command = [sys.executable, "-c", HOLD, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process, Locks(tmp_path) as locks:
        assert process.stdout.readline() == b"True\n"
        assert not locks.take("a")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert locks.take("a")
    assert not lock_files(tmp_path)


def test_a_lock_has_one_owner_at_a_time(tmp_path):
    """Although the file of a lock is removed whenever it is released."""
    owners, most, guard, stop = 0, 0, threading.Lock(), time.monotonic() + 0.5

    def work():
        nonlocal owners, most
        while time.monotonic() < stop:
            with Locks(tmp_path) as locks:
                if locks.take("a", [1]):
                    with guard:
                        owners += 1
                        most = max(most, owners)
                    time.sleep(0)
                    with guard:
                        owners -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def refuse(*_):
    raise OSError(37, "No locks available")


@pytest.mark.parametrize("how", ["no locks", "Windows", "nowhere", "a file"])
def test_where_nothing_can_be_locked_everything_is_granted(tmp_path, monkeypatch, how):
    folder = tmp_path / "claims"
    if how == "no locks":
        monkeypatch.setattr(locks_module.fcntl, "flock", refuse)
    elif how == "Windows":
        monkeypatch.setattr(locks_module, "fcntl", None)
    elif how == "nowhere":
        folder = None
    else:
        folder.touch()
    with Locks(folder) as first, Locks(folder) as second:
        assert first.take("a", [1])
        assert second.take("a", [1])
        assert not first.shared
        first.finish([1])


def age(path, seconds=3600):
    at_s = time.time() - seconds
    os.utime(path, (at_s, at_s))


def test_locks_that_nobody_holds_are_removed(tmp_path):
    with Locks(tmp_path) as locks:
        locks.take("held", [1])
        for name in ("held.lock", "left.lock", "young.lock", "full.lock", "left.other"):
            with (tmp_path / name).open("a"):
                pass
        (tmp_path / "full.lock").write_text("not ours")
        (tmp_path / "precious").touch()
        (tmp_path / "link.lock").symlink_to(tmp_path / "precious")
        (tmp_path / "folder.lock").mkdir()
        for path in tmp_path.iterdir():
            if path.name not in ("young.lock", "link.lock"):
                age(path)
        os.utime(tmp_path / "link.lock", (0, 0), follow_symlinks=False)
        remove_free(tmp_path)
        kept = ["folder.lock", "full.lock", "held.lock", "left.other", "link.lock"]
        assert lock_files(tmp_path) == [*kept, "precious", "young.lock"]
        # Whoever held it can still give it back, and take what was removed.
        assert locks.take("left", [2])
    assert "held.lock" not in lock_files(tmp_path)
    remove_free(tmp_path / "none")
    remove_free(tmp_path / "precious")


def test_a_lock_that_was_made_anew_is_not_removed(tmp_path, monkeypatch):
    path = tmp_path / "a.lock"
    path.touch()
    age(path)
    flock = locks_module.fcntl.flock

    def replace(*args):
        flock(*args)
        path.rename(tmp_path / "elsewhere")
        path.touch()

    monkeypatch.setattr(locks_module.fcntl, "flock", replace)
    remove_free(tmp_path)
    assert lock_files(tmp_path) == ["a.lock", "elsewhere"]


def test_a_lock_that_is_taken_anew_meanwhile_is_not_lost(tmp_path):
    """Many take and give back one name while others remove what seems to be nobody's."""
    failed, until_s = [], time.monotonic() + 2
    holders = set()

    def take(number):
        while time.monotonic() < until_s and not failed:
            with Locks(tmp_path) as locks:
                if locks.take("a", [number]):
                    holders.add(number)
                    if len(holders) > 1:
                        failed.append([*holders])
                    holders.discard(number)

    def remove():
        while time.monotonic() < until_s:
            remove_free(tmp_path, settled_s=-1.0)

    threads = [threading.Thread(target=take, args=(n,)) for n in range(3)]
    threads += [threading.Thread(target=remove) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert not lock_files(tmp_path)
