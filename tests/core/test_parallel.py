"""Work ahead in threads and in processes; what processes run is called by `operator.call`."""

import operator
import os
import pickle
import signal
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import psutil
import pytest

from topwork.core.errors import ImageError, TopworkError
from topwork.core.parallel import AHEAD, in_processes, in_threads
from topwork.core.runtime import cores

two_processes = partial(in_processes, workers=2)
three_together = partial(in_threads, together=3)
BOTH = pytest.mark.parametrize("run", [in_threads, three_together, two_processes])


def children():
    return {child.pid for child in psutil.Process().children() if child.status() != "zombie"}


@pytest.fixture(autouse=True)
def _no_process_is_left():
    before = children()
    yield
    assert children() <= before


@BOTH
@pytest.mark.parametrize("ahead", [1, 5, None])
def test_results_come_in_order_and_a_bounded_number_of_items_ahead(run, ahead):
    taken = []

    def items():
        for n in range(300):
            taken.append(n)
            yield n

    workers = 2 if run is two_processes else cores()
    more = 2 if run is three_together else 0
    for place, result in enumerate(run(operator.neg, items(), ahead=ahead)):
        assert result == -place
        assert len(taken) <= place + 1 + more + max(ahead or AHEAD * workers, more + 1)
    assert place == 299


@BOTH
def test_no_items_give_no_results(run):
    assert list(run(abs, [])) == []


@BOTH
def test_an_error_reaches_the_caller_in_its_turn_and_ends_the_work(run):
    taken = []

    def items():
        for n in range(1000):
            taken.append(n)
            yield n

    results = run(partial(operator.truediv, 1), (3 - n for n in items()), ahead=4)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(taken) <= 3 + 4
    assert list(results) == []


@BOTH
def test_an_error_among_the_items_comes_through(run):
    def items():
        yield 1
        raise LookupError("no more items")

    with pytest.raises(LookupError, match="no more items"):
        list(run(abs, items(), ahead=3))


@BOTH
@pytest.mark.parametrize("taken", [0, 1, 7])
def test_the_work_may_be_left_early(run, taken):
    results = run(abs, range(1000), ahead=3)
    assert [next(results) for _ in range(taken)] == list(range(taken))
    results.close()
    assert list(results) == []


def test_threads_run_at_the_same_time():
    meeting = threading.Barrier(2, timeout=20)
    assert sorted(in_threads(lambda _: meeting.wait(), range(2))) == [0, 1]


def test_processes_are_others_and_as_many_as_asked_for():
    found = set(in_processes(operator.call, [os.getpid] * 50, workers=2))
    assert os.getpid() not in found
    assert 1 <= len(found) <= 2


def test_arrays_come_back_as_they_were_and_stay():
    made = [
        partial(np.arange, 70_000 * n, dtype=kind)
        for n in (0, 1, 9, 2)
        for kind in (np.uint8, np.float32)
    ]
    found = list(two_processes(operator.call, made))
    for result, make in zip(found, made, strict=True):
        np.testing.assert_array_equal(result, make())
        assert result.dtype == make().dtype
        result[:] = 1  # it is the caller's own


@pytest.mark.parametrize("make", [np.asfortranarray, np.transpose, np.fliplr, list, str])
def test_other_layouts_and_other_things_come_back_too(make):
    array = np.arange(12).reshape(3, 4)
    (found,) = in_processes(make, [array], workers=1)
    np.testing.assert_array_equal(found, make(array))


def test_errors_may_be_results():
    (found,) = in_processes(ImageError, ["the file is empty"], workers=1)
    assert isinstance(found, ImageError)
    assert str(found) == "the file is empty"


def test_what_does_not_pickle_is_an_error():
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        list(in_processes(lambda n: n, [1], workers=1))
    with pytest.raises((pickle.PicklingError, TypeError), match=r"lock"):
        list(in_processes(abs, [threading.Lock()], workers=1))
    with pytest.raises(TypeError, match=r"lock object at .* does not pickle"):
        list(in_processes(operator.call, [threading.Lock], workers=1))


def test_what_is_printed_and_what_is_read_there_is_not_in_the_way(capfd):
    items = [partial(print, "hello"), partial(os.write, 1, b"hello"), os.getpid]
    found = list(in_processes(operator.call, items, workers=1))
    assert found[:2] == [None, 5]
    out, err = capfd.readouterr()
    assert (out, err.count("hello")) == ("", 2)


def test_a_killed_process_is_an_error_and_the_others_end():
    items = [
        partial(signal.raise_signal, signal.SIGKILL) if n == 5 else os.getpid for n in range(9)
    ]
    results = in_processes(operator.call, items, ahead=2, workers=2)
    with pytest.raises(TopworkError, match=r"ended by SIGKILL; if memory is short, .* start again"):
        list(results)


def test_a_process_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TopworkError, match="with exit code 1"):
        list(in_processes(abs, [1], workers=1))


def test_an_interrupt_from_the_keyboard_is_for_the_caller_alone():
    (group,) = in_processes(operator.call, [os.getpgrp], workers=1)
    assert group != os.getpgrp()


SCRIPT = """
import operator, os, time
from functools import partial
from topwork.core.parallel import in_processes

for pid in in_processes(operator.call, {items}, ahead=4, workers=2):
    print(pid, flush=True)
"""


def test_a_script_need_not_guard_its_start():
    script = SCRIPT.format(items="[os.getpid] * 2")
    done = subprocess.run(
        [sys.executable], input=script, capture_output=True, text=True, check=True
    )
    assert len(done.stdout.split()) == 2


@pytest.mark.system
def test_the_processes_end_with_the_one_that_started_them():
    script = SCRIPT.format(items="[os.getpid, *[partial(time.sleep, 0.2)] * 500]")
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
