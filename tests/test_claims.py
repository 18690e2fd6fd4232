import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from topwork import claims as claims_module
from topwork.claims import Claims


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
from topwork.claims import Claims
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
