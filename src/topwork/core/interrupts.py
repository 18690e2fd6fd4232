"""What ends a run from outside, Ctrl-C and SIGTERM, and how to see where one hangs.

Python raises KeyboardInterrupt in the main thread, and that is not enough: a library's callback
may swallow it, and while the main thread is in native code nothing is raised at all. So a thread
hears of each signal too, by the byte that Python's handler in C writes at once, and ends the
process where the main thread does not. Only native code that lets no other thread run is safe from
it.
"""

from __future__ import annotations

import _thread
import contextlib
import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, NoReturn

from topwork.core.errors import SettingsError
from topwork.core.files import remove_scratch

# Ctrl-C first: what replaces handlers must not be interrupted by it in between.
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

MESSAGES = {
    signal.SIGINT: "interrupted; finished vectors are kept, run again to go on",
    signal.SIGTERM: "terminated; finished vectors are kept, run again to go on",
}

# How long the main thread has to end by itself, and how long it may hold a signal before that.
GRACE_S = 1.5
HOLD_S = 20.0

# Signals this close together are one: `timeout` and some shells send it to the process and to its
# group.
TOGETHER_S = 0.25

# How long each step may take that cleans where the main thread does not, and how long to say so.
CLEAN_S = 0.6
SAY_S = 0.2
POLL_S = 0.05

DUMP_VARIABLE = "TOPWORK_DUMP_AFTER"


class Terminated(KeyboardInterrupt):
    """SIGTERM, as KeyboardInterrupt is SIGINT."""


class _State:
    """What is known of signals in this process.

    Attributes:
        watched: the signals that are watched; none without `watch`.
        wakeup: what Python's handler in C writes to.
        received: the last signal.
        waiting: the one that came while signals were held.
        depth: how many `hold_interrupts` are entered.
        borrowed: the handlers that these replaced, where nothing is watched.
        swallowed: whether an exception that a signal raised came to nothing.
        released: whether signals are another's.
        leaving: whether nothing is to be raised any more.
    """

    def __init__(self) -> None:
        self.watched: tuple[signal.Signals, ...] = ()
        self.wakeup: socket.socket | None = None
        self.received: signal.Signals | None = None
        self.waiting: signal.Signals | None = None
        self.depth = 0
        self.borrowed: dict[signal.Signals, Any] = {}
        self.swallowed = self.released = self.leaving = False
        # Taken by whoever says the last line.
        self.voice = threading.Lock()


_state = _State()
_cleaners: list[Callable[[], object]] = []


def watch() -> None:
    """Has SIGINT and SIGTERM end this process, whatever it does; for a program, at its start.

    A signal that the parent ignores stays ignored, as `nohup` and shell scripts expect.
    """
    reading, _state.wakeup = socket.socketpair()
    _state.wakeup.setblocking(False)
    _state.watched = tuple(n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    _listen()
    for number in _state.watched:
        signal.signal(number, _raise)
    _hear_of_the_swallowed()


def _listen() -> None:
    if _state.wakeup is not None:
        signal.set_wakeup_fd(_state.wakeup.fileno(), warn_on_full_buffer=False)


def _hear_of_the_swallowed() -> None:
    usual = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _state.swallowed = True
        else:
            usual(unraisable)

    sys.unraisablehook = hook


def _raise(number: int, frame: FrameType | None) -> None:
    """The handler in Python: it runs in the main thread, as soon as that is in Python."""
    _state.received = signal.Signals(number)
    if _state.leaving:
        return
    if _state.depth:
        _state.waiting = _state.received
        return
    raise _make(_state.received)


def _make(number: signal.Signals) -> KeyboardInterrupt:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def _watch(reading: socket.socket) -> None:
    """Waits for signals for ever, in a thread."""
    while True:
        number = _read(reading, None)
        if number in _state.watched and not _state.released:
            _see_to_the_end(reading, signal.Signals(number))


def _read(reading: socket.socket, timeout_s: float | None) -> int | None:
    ready, _, _ = select.select([reading], [], [], timeout_s)
    return reading.recv(1)[0] if ready else None


def _see_to_the_end(reading: socket.socket, number: signal.Signals) -> None:
    """Gives the main thread its time, and ends the process if it is then still there."""
    begun = free = now = time.monotonic()
    repeated = 0
    while now < min(free + GRACE_S, begun + HOLD_S + GRACE_S):
        again = _read(reading, POLL_S)
        now = time.monotonic()
        if again in _state.watched:
            if repeated:
                repeated -= 1
            elif now > begun + TOGETHER_S:
                break
        if _state.depth:
            free = now
        if _state.swallowed:
            _state.swallowed = False
            repeated += 1
            _repeat(number)
    _expect_failures()
    try:
        _do_within(SAY_S, lambda: _say(number))
        _do_within(CLEAN_S, *_cleaners)
        _do_within(CLEAN_S, remove_scratch)
    finally:
        os._exit(exit_code(number))


def _expect_failures() -> None:
    """Says nothing of threads that fail because what they use is put away under them."""
    threading.excepthook = lambda _: None


def _repeat(number: signal.Signals) -> None:
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:  # which ends a system call as well
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _do_within(limit_s: float, *actions: Callable[[], object]) -> None:
    """Does things side by side, and waits for them only so long."""
    end = time.monotonic() + limit_s
    threads = [threading.Thread(target=_try, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))


def _try(action: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):
        action()


def _say(number: signal.Signals) -> None:
    if _state.voice.acquire(blocking=False):
        # What moves on a terminal is stopped in the middle, with the cursor hidden.
        start = "\n\x1b[?25h" if os.isatty(2) else ""
        # Not through `sys.stderr`: the main thread may hold its lock.
        os.write(2, f"{start}topwork: {MESSAGES[number]}\n".encode())


def exit_code(number: int) -> int:
    """Returns the exit code of a process that a signal ended, as shells have it."""
    return 128 + number


def describe_end() -> tuple[str, int]:
    """Returns what to say of the signal that ended the main thread, and the exit code.

    Returns:
        The line, empty if it was said before; the code, 130 where there was no signal.
    """
    number = _state.received or signal.SIGINT
    mine = not _state.watched or _state.voice.acquire(blocking=False)
    return MESSAGES[number] if mine else "", exit_code(number)


def was_interrupted() -> bool:
    """Whether a signal has come that ends this process: an error after it is its consequence."""
    return _state.received is not None


def before_leaving(clean: Callable[[], object]) -> None:
    """Has something done before the process ends, whichever way it does.

    Args:
        clean: called once, perhaps in another thread, while others are still running.
    """
    _cleaners.append(clean)


def stop_raising() -> None:
    """Lets signals raise nothing from here on: the main thread is done."""
    _state.leaving = True


def leave(code: int) -> NoReturn:
    """Cleans, and ends the process without Python's farewell.

    Everything is written by then, and the libraries would take a good part of a second to put
    themselves away.
    """
    stop_raising()
    _expect_failures()
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            _try(stream.flush)
        for clean in (*reversed(_cleaners), remove_scratch):
            _try(clean)
    finally:
        os._exit(code)


@contextlib.contextmanager
def hold_interrupts() -> Iterator[None]:
    """Puts off a Ctrl-C or a SIGTERM until this is left; in the main thread, elsewhere nothing.

    For what should not be done by half and does not take long. A second signal is not put off;
    in the command `topwork` neither is one that has waited for `HOLD_S`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _state.depth:
        _state.waiting = None
        if not _state.watched:
            _borrow()
    _state.depth += 1
    try:
        yield
    finally:
        if _state.depth > 1:
            _state.depth -= 1
        else:
            _let_go()


def interrupt_waits() -> bool:
    """Whether a signal came while signals are held: what can be left out should be."""
    return _state.waiting is not None


def _let_go() -> None:
    try:
        _give_back()
    finally:
        _state.depth = 0
    # From here on a signal raises by itself.
    number, _state.waiting = _state.waiting, None
    if number is None:
        return
    if _state.watched:
        raise _make(number)
    signal.raise_signal(number)


def _borrow() -> None:
    for number in SIGNALS:
        handler = signal.getsignal(number)
        # None is one that was not set by Python, and could not be given back.
        if handler not in (None, signal.SIG_IGN):
            _state.borrowed[number] = handler
            signal.signal(number, _remember)


def _give_back() -> None:
    for number in reversed(SIGNALS):
        if number in _state.borrowed:
            signal.signal(number, _state.borrowed.pop(number))


def _remember(number: int, frame: FrameType | None) -> None:
    if _state.waiting is None:
        _state.waiting = signal.Signals(number)
        return
    _state.waiting = None
    _give_back()
    signal.raise_signal(number)


@contextlib.contextmanager
def release() -> Iterator[None]:
    """Leaves signals to what has handlers of its own, such as a server, for as long as it runs."""
    _state.released = True
    try:
        yield
    finally:
        _state.released = False
        if threading.current_thread() is threading.main_thread():
            # An event loop had its own there.
            _listen()


def show_stacks(after: str | None) -> None:
    """Prints what all threads are doing: at SIGUSR1, and every so many seconds.

    No thread needs to be in Python for it.

    Args:
        after: seconds, as the environment has them; None or empty for SIGUSR1 only.

    Raises:
        SettingsError: they are no time.
    """
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    if not after:
        return
    try:
        seconds = float(after)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise SettingsError(f"${DUMP_VARIABLE}: must be a number of seconds, received {after!r}")
    faulthandler.dump_traceback_later(seconds, repeat=True, exit=False)
