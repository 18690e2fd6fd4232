"""Ctrl-C and SIGTERM, sent to real processes that do what lets them come to nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from topwork.core import interrupts
from topwork.core.interrupts import Terminated, hold_interrupts

pytestmark = pytest.mark.system

# Nothing here takes as long, but the machine may be busy.
PATIENCE_S = 60
SOON_S = 15

INTERRUPTED = "topwork: interrupted; finished vectors are kept, run again to go on\n"
TERMINATED = "topwork: terminated; finished vectors are kept, run again to go on\n"

# For runs that end by themselves, however busy the machine.
PATIENT = "interrupts.GRACE_S = 30"

PROGRAM = """
import contextlib, ctypes, gc, hashlib, os, signal, subprocess, sys, threading, time
from topwork import cli
from topwork.core import child_process, interrupts
from topwork.core.files import open_scratch

def begin(*words):
    print("begun", *words, flush=True)

def stay_in_native_code():
    # It leaves other threads alone, and looks at no signal.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

@cli.app.command()
def probe() -> None:
{body}

sys.argv = ["topwork", "probe"]
cli.run()
"""


class Run:
    """A command `topwork probe` that runs some code, in a session of its own."""

    def __init__(self, body, folder, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(body=textwrap.indent(body, "    "))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(folder)} | environment,
            start_new_session=True,
        )
        self.sent = None

    def wait_until_begun(self):
        for line in self.process.stdout:
            if line.startswith("begun"):
                return line.split()[1:]
        raise AssertionError(self.process.communicate())

    def send(self, number):
        self.sent = time.monotonic()
        os.killpg(self.process.pid, number)

    def finish(self):
        """Returns exit code, stdout and stderr."""
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        self.seconds = time.monotonic() - (self.sent or 0)
        return self.process.returncode, output, errors


@pytest.fixture
def start(tmp_path):
    running = []

    def begin(body, **environment):
        running.append(Run(body, tmp_path, **environment))
        return running[-1]

    yield begin
    for run in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.process.pid, signal.SIGKILL)
        run.process.communicate()


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGINT, (130, INTERRUPTED)), (signal.SIGTERM, (143, TERMINATED))]
)
@pytest.mark.parametrize(
    "wait", ["time.sleep(600)", "threading.Event().wait()", "os.read(os.pipe()[0], 1)"]
)
def test_a_signal_ends_a_run_in_one_line(start, number, end, wait):
    """It unwinds as after any exception."""
    run = start(f"{PATIENT}\ntry:\n    begin()\n    {wait}\nfinally:\n    print('unwound')")
    run.wait_until_begun()
    run.send(number)
    code, output, errors = run.finish()
    assert (code, errors) == end
    assert output == "unwound\n"


def test_an_interrupt_that_a_callback_swallowed_is_raised_again(start):
    """Python has nowhere to raise what a callback of the garbage collector raises."""
    run = start(f"""
{PATIENT}

def callback(phase, info):
    gc.callbacks.remove(callback)
    begin()
    time.sleep(600)

gc.callbacks.append(callback)
try:
    gc.collect()
    time.sleep(600)
finally:
    print("unwound")
""")
    run.wait_until_begun()
    run.send(signal.SIGINT)
    assert run.finish() == (130, "unwound\n", INTERRUPTED)
    assert run.seconds < SOON_S


SWALLOW = """
with open_scratch() as folder, contextlib.suppress(BaseException):
    begin(folder)
    time.sleep(600)
time.sleep(600)
"""
IN_NATIVE_CODE = "with open_scratch() as folder:\n    begin(folder)\n    stay_in_native_code()"
IN_THREADS = """
def wait(folder):
    begin(folder)
    time.sleep(600)

with open_scratch() as folder:
    thread = threading.Thread(target=wait, args=(folder,))
    thread.start()
    try:
        thread.join()
    finally:
        thread.join()
"""
ASK = """
def start(command, **options):
    code = "import time; from topwork.core.child_process import *; watch_parent(); time.sleep(600)"
    process = popen([sys.executable, "-c", code], **options)
    begin(child_process.__name__, process.pid)
    return process

popen, child_process.subprocess.Popen = subprocess.Popen, start
"""


@pytest.mark.parametrize("body", [SWALLOW, IN_NATIVE_CODE, IN_THREADS])
@pytest.mark.parametrize(
    ("number", "end"),
    [(signal.SIGINT, (130, "", INTERRUPTED)), (signal.SIGTERM, (143, "", TERMINATED))],
)
def test_a_signal_ends_a_run_that_does_not_end_itself(start, tmp_path, body, number, end):
    run = start(body)
    (folder,) = run.wait_until_begun()
    assert [*tmp_path.iterdir()] == [Path(folder)]
    run.send(number)
    assert run.finish() == end
    assert run.seconds < SOON_S
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "ask",
    [
        "child_process.ask_keras('build', {})",
        # An error that is the interrupt's consequence is not what ended the run.
        "try:\n    child_process.ask_keras('build', {})\n"
        "except BaseException:\n    raise child_process.NetworkError('it broke') from None",
        "thread = threading.Thread(target=child_process.ask_keras, args=('build', {}))\n"
        "thread.start()\ntry:\n    thread.join()\nfinally:\n    thread.join()",
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_ends_the_child_that_is_waited_for(start, tmp_path, ask, number):
    run = start(ASK + ask)
    _, child = run.wait_until_begun()
    time.sleep(0.5)
    run.send(number)
    code, _, errors = run.finish()
    assert (code, errors) == {
        signal.SIGINT: (130, INTERRUPTED),
        signal.SIGTERM: (143, TERMINATED),
    }[number]
    assert run.seconds < SOON_S
    until_gone(int(child))
    assert not [*tmp_path.iterdir()]


def test_a_killed_run_leaves_no_child(start):
    run = start(ASK + "child_process.ask_keras('build', {})")
    _, child = run.wait_until_begun()
    run.send(signal.SIGKILL)
    until_gone(int(child))


def test_a_child_that_does_not_listen_is_ended(start, tmp_path):
    deaf = ASK.replace("watch_parent(); ", "")
    assert deaf != ASK
    ask = "threading.Thread(target=child_process.ask_keras, args=('build', {})).start()\n"
    run = start(deaf + ask + "stay_in_native_code()")
    _, child = run.wait_until_begun()
    run.send(signal.SIGINT)
    assert run.finish() == (130, "", INTERRUPTED)
    until_gone(int(child))


@pytest.mark.parametrize("end", ["stay_in_native_code()", "time.sleep(600)", "time.sleep(1)"])
def test_what_is_to_be_done_before_leaving_is_done(start, end):
    run = start(f"interrupts.before_leaving(lambda: print('clean', flush=True))\nbegin()\n{end}")
    run.wait_until_begun()
    if end != "time.sleep(1)":
        run.send(signal.SIGINT)
    code, output, _ = run.finish()
    assert output == "clean\n"
    assert code == (130 if run.sent else 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_holds_interrupts_is_done_first(start, tmp_path, number):
    run = start(f"""
with interrupts.hold_interrupts():
    with interrupts.hold_interrupts():
        begin()
        # Longer than the grace.
        time.sleep(interrupts.GRACE_S + 1)
    with open({str(tmp_path / "whole")!r}, "w") as file:
        file.write("whole")
print("went on")
""")
    run.wait_until_begun()
    run.send(number)
    code, output, errors = run.finish()
    assert (code, output) == (128 + number, "")
    assert errors in (INTERRUPTED, TERMINATED)
    assert (tmp_path / "whole").read_text() == "whole"


def test_a_second_interrupt_is_not_held(start):
    run = start("with interrupts.hold_interrupts():\n    begin()\n    time.sleep(600)")
    run.wait_until_begun()
    run.send(signal.SIGINT)
    time.sleep(1)
    assert run.process.poll() is None
    run.send(signal.SIGINT)
    assert run.finish() == (130, "", INTERRUPTED)
    assert run.seconds < SOON_S


def test_signals_that_come_together_are_one(start):
    """GNU's `timeout` sends one to its command and one to its group."""
    run = start("""
interrupts.TOGETHER_S = 30
with interrupts.hold_interrupts():
    begin()
    time.sleep(3)
    print("done", flush=True)
""")
    run.wait_until_begun()
    run.send(signal.SIGTERM)
    time.sleep(0.5)
    run.send(signal.SIGTERM)
    assert run.finish() == (143, "done\n", TERMINATED)


def test_interrupts_are_not_held_for_ever(start):
    run = start("""
interrupts.HOLD_S = 1
with interrupts.hold_interrupts():
    begin()
    time.sleep(600)
""")
    run.wait_until_begun()
    run.send(signal.SIGINT)
    assert run.finish() == (130, "", INTERRUPTED)
    assert run.seconds < SOON_S


def test_an_interrupt_after_the_work_changes_nothing(start):
    run = start(f"""
{PATIENT}

def clean():
    begin()
    time.sleep(1)
    print("clean", flush=True)

interrupts.before_leaving(clean)
print("done", flush=True)
""")
    run.wait_until_begun()
    run.send(signal.SIGINT)
    assert run.finish() == (0, "clean\n", "")


def test_a_thread_whose_tools_are_put_away_says_nothing(start):
    run = start("""
gone = threading.Event()

def clean():
    gone.set()
    time.sleep(0.3)

def work():
    gone.wait()
    1 / 0

interrupts.before_leaving(clean)
threading.Thread(target=work).start()
begin()
stay_in_native_code()
""")
    run.wait_until_begun()
    run.send(signal.SIGINT)
    assert run.finish() == (130, "", INTERRUPTED)


def test_a_signal_that_the_parent_ignores_stays_ignored(start):
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = start("begin()\ntime.sleep(1)\nprint('done')")
    finally:
        signal.signal(signal.SIGINT, usual)
    run.wait_until_begun()
    run.send(signal.SIGINT)
    assert run.finish() == (0, "done\n", "")


def test_a_bug_is_shown_and_cleaned_up_after(start, tmp_path):
    run = start("""
def wait():
    with open_scratch():
        begin()
        time.sleep(600)

threading.Thread(target=wait).start()
time.sleep(1)
1 / 0
""")
    code, _, errors = run.finish()
    assert code == 1
    assert errors.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert not [*tmp_path.iterdir()]


def test_what_released_signals_handles_them_itself(start):
    run = start("""
with interrupts.release():
    usual = signal.signal(signal.SIGINT, lambda *_: None)
    other, _ = os.pipe(), signal.set_wakeup_fd(-1)
    begin()
    time.sleep(interrupts.GRACE_S + 1)
    signal.signal(signal.SIGINT, usual)
begin("again")
stay_in_native_code()
""")
    run.wait_until_begun()
    run.send(signal.SIGINT)
    assert run.wait_until_begun() == ["again"]
    run.send(signal.SIGINT)
    assert run.finish() == (130, "", INTERRUPTED)


DEEP = "def stay_here():\n    begin()\n    time.sleep(5)\n\nstay_here()"


def test_the_stacks_of_a_run_can_be_seen(start):
    run = start(DEEP)
    run.wait_until_begun()
    run.send(signal.SIGUSR1)
    code, _, errors = run.finish()
    assert code == 0
    assert "in stay_here" in errors
    assert "in _watch" in errors


def test_the_stacks_of_a_run_that_takes_long_are_shown(start):
    run = start(DEEP.replace("time.sleep(5)", "stay_in_native_code()"), TOPWORK_DUMP_AFTER="0.5")
    run.wait_until_begun()
    time.sleep(2)
    run.send(signal.SIGINT)
    code, _, errors = run.finish()
    assert code == 130
    assert errors.count("in stay_here") > 1
    assert errors.endswith(INTERRUPTED)


@pytest.mark.parametrize("value", ["x", "-1", "0", "nan", "inf", "1e30"])
def test_a_time_that_is_none_is_refused(start, value):
    run = start(DEEP, TOPWORK_DUMP_AFTER=value)
    code, output, errors = run.finish()
    assert (code, output) == (2, "")
    said = f"must be a number of seconds, received '{value}'"
    assert errors == f"topwork: $TOPWORK_DUMP_AFTER: {said}\n"


@pytest.fixture
def handlers():
    """Handlers that a notebook may have; they say what they were called with."""
    called = []
    usual = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, _: called.append(number))
    set_here = [signal.getsignal(number) for number in interrupts.SIGNALS]
    yield called
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == set_here
    for number, handler in usual.items():
        signal.signal(number, handler)


def test_without_the_command_interrupts_are_held_too(handlers):
    done = []
    with pytest.raises(KeyboardInterrupt), hold_interrupts():
        with hold_interrupts():
            signal.raise_signal(signal.SIGINT)
            done.append(1)
        done.append(2)
    assert done == [1, 2]
    with hold_interrupts():
        done.append(3)
    assert done == [1, 2, 3]


def test_without_the_command_a_signal_goes_to_who_has_a_handler(handlers):
    with hold_interrupts():
        signal.raise_signal(signal.SIGTERM)
        assert handlers == []
    assert handlers == [signal.SIGTERM]


def test_without_the_command_a_second_interrupt_is_raised_at_once(handlers):
    done = []
    with pytest.raises(KeyboardInterrupt), hold_interrupts():
        signal.raise_signal(signal.SIGINT)
        done.append(1)
        signal.raise_signal(signal.SIGINT)
        done.append(2)
    assert done == [1]
    with hold_interrupts():
        pass


def test_an_error_while_interrupts_are_held_gives_the_handlers_back(handlers):
    with pytest.raises(ZeroDivisionError), hold_interrupts():
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt) as caught, hold_interrupts():
        signal.raise_signal(signal.SIGINT)
        raise ZeroDivisionError
    assert isinstance(caught.value.__context__, ZeroDivisionError)


def test_a_thread_holds_nothing(handlers):
    done = []

    def hold():
        with hold_interrupts():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]


def test_sigterm_is_an_interrupt_to_whoever_catches_one():
    assert issubclass(Terminated, KeyboardInterrupt)


def until_gone(number):
    end = time.monotonic() + SOON_S
    while True:
        try:
            if psutil.Process(number).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        assert time.monotonic() < end
        time.sleep(0.05)
