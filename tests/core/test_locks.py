import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from topwork.core import locks as claims_module
from topwork.core.locks import Claims, remove_free


def locks(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def pair(tmp_path):
    with Claims(tmp_path / "claims") as first, Claims(tmp_path / "claims") as second:
        yield first, second


def test_what_one_has_claimed_nobody_else_can(pair, tmp_path):
    first, second = pair
    assert first.take("a", [1, 2])
    assert not second.take("a", [1, 2])
    assert second.take("b", [3])
    assert not first.take("b", [3])
    assert locks(tmp_path / "claims") == ["a.lock", "b.lock"]


def test_a_claim_is_given_back_when_all_of_it_is_finished(pair, tmp_path):
    first, second = pair
    first.take("a", [1, 2, 3])
    first.take("b", [4])
    first.finish([1, 3])
    assert not second.take("a", [1])
    first.finish([2, 99])
    assert second.take("a", [1])
    assert not second.take("b", [4])
    second.finish([1])
    assert locks(tmp_path / "claims") == ["b.lock"]


def test_all_is_given_back_at_the_end(tmp_path):
    with pytest.raises(ZeroDivisionError), Claims(tmp_path) as claims:
        assert claims.take("a", [1])
        assert claims.take("b")
        raise ZeroDivisionError
    assert not locks(tmp_path)


def test_what_is_claimed_twice_is_refused_until_it_is_given_back(tmp_path):
    with Claims(tmp_path) as claims:
        assert claims.take("a", [1])
        assert not claims.take("a", [2])
        claims.finish([1])
        assert claims.take("a", [2])


HOLD = """
import sys, time
from pathlib import Path
from topwork.core.locks import Claims
with Claims(Path(sys.argv[1])) as claims:
    print(claims.take("a"), flush=True)
    time.sleep(60)
"""


def test_a_process_that_is_killed_has_no_claims(tmp_path):
    command = [sys.executable, "-c", HOLD, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process, Claims(tmp_path) as claims:
        assert process.stdout.readline() == b"True\n"
        assert not claims.take("a")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert claims.take("a")
    assert not locks(tmp_path)


def test_a_claim_has_one_owner_at_a_time(tmp_path):
    """Although the file of a claim is removed whenever it is given back."""
    owners, most, guard, stop = 0, 0, threading.Lock(), time.monotonic() + 0.5

    def work():
        nonlocal owners, most
        while time.monotonic() < stop:
            with Claims(tmp_path) as claims:
                if claims.take("a", [1]):
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
        monkeypatch.setattr(claims_module.fcntl, "flock", refuse)
    elif how == "Windows":
        monkeypatch.setattr(claims_module, "fcntl", None)
    elif how == "nowhere":
        folder = None
    else:
        folder.touch()
    with Claims(folder) as first, Claims(folder) as second:
        assert first.take("a", [1])
        assert second.take("a", [1])
        assert not first.shared
        first.finish([1])


def age(path, seconds=3600):
    at_s = time.time() - seconds
    os.utime(path, (at_s, at_s))


def test_locks_that_nobody_holds_are_removed(tmp_path):
    with Claims(tmp_path) as claims:
        claims.take("held", [1])
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
        assert locks(tmp_path) == [*kept, "precious", "young.lock"]
        # Whoever held it can still give it back, and take what was removed.
        assert claims.take("left", [2])
    assert "held.lock" not in locks(tmp_path)
    remove_free(tmp_path / "none")
    remove_free(tmp_path / "precious")


def test_a_lock_that_was_made_anew_is_not_removed(tmp_path, monkeypatch):
    path = tmp_path / "a.lock"
    path.touch()
    age(path)
    flock = claims_module.fcntl.flock

    def replace(*args):
        flock(*args)
        path.rename(tmp_path / "elsewhere")
        path.touch()

    monkeypatch.setattr(claims_module.fcntl, "flock", replace)
    remove_free(tmp_path)
    assert locks(tmp_path) == ["a.lock", "elsewhere"]


def test_a_lock_that_is_taken_anew_meanwhile_is_not_lost(tmp_path):
    """Many take and give back one name while others remove what seems to be nobody's."""
    failed, until_s = [], time.monotonic() + 2
    holders = set()

    def take(number):
        while time.monotonic() < until_s and not failed:
            with Claims(tmp_path) as claims:
                if claims.take("a", [number]):
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
    assert not locks(tmp_path)
