"""Ctrl-C and SIGTERM, which end a run from outside, and how to see where a run hangs.

Python raises KeyboardInterrupt in the main thread, and that is not enough: a library's callback
may swallow it, and while the main thread is in native code nothing is raised at all. So a thread
receives each signal too, by the byte that Python's handler in C writes at once, and ends the
process if the main thread does not. Only native code that lets no other thread run can prevent it.
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

# Ctrl-C first: it must not interrupt the replacement of the handlers.
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

MESSAGES = {
    signal.SIGINT: "interrupted; finished vectors are kept, run again to go on",
    signal.SIGTERM: "terminated; finished vectors are kept, run again to go on",
}

# How long the main thread may take to end by itself, and how long it may hold a signal before.
GRACE_S = 1.5
HOLD_S = 20.0

# Signals this close together count as one: `timeout` and some shells send a signal to the process
# and to its group.
TOGETHER_S = 0.25

# How long each clean-up may take if the main thread does not end, and how long the message may.
CLEAN_S = 0.6
SAY_S = 0.2
POLL_S = 0.05

DUMP_VARIABLE = "TOPWORK_DUMP_AFTER"


class Terminated(KeyboardInterrupt):
    """SIGTERM, as KeyboardInterrupt is SIGINT."""


class _State:
    """The state of signals in this process.

    Attributes:
        watched: the signals that are watched; none without `watch`.
        wakeup: the socket that Python's handler in C writes to.
        received: the last signal.
        waiting: the signal that came while signals were held.
        depth: how many `hold_interrupts` are entered.
        borrowed: the handlers that these replaced, if no signals are watched.
        swallowed: whether an exception that a signal raised was swallowed.
        released: whether other code handles the signals.
        leaving: whether signals raise nothing any more.
    """

    def __init__(self) -> None:
        self.watched: tuple[signal.Signals, ...] = ()
        self.wakeup: socket.socket | None = None
        self.received: signal.Signals | None = None
        self.waiting: signal.Signals | None = None
        self.depth = 0
        self.borrowed: dict[signal.Signals, Any] = {}
        self.swallowed = self.released = self.leaving = False
        # Taken by the thread that prints the last message.
        self.voice = threading.Lock()


_state = _State()
_cleaners: list[Callable[[], object]] = []


def watch() -> None:
    """Makes SIGINT and SIGTERM end this process, whatever it does; for the start of a program.

    A signal that the parent ignores stays ignored, as `nohup` and shell scripts expect. The second
    call does nothing.
    """
    if _state.wakeup is not None:
        return
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
    """The handler in Python: it runs in the main thread as soon as that runs Python code."""
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
    """Waits for signals, in a thread, until the process ends."""
    while True:
        number = _read(reading, None)
        if number in _state.watched and not _state.released:
            _see_to_the_end(reading, signal.Signals(number))


def _read(reading: socket.socket, timeout_s: float | None) -> int | None:
    ready, _, _ = select.select([reading], [], [], timeout_s)
    return reading.recv(1)[0] if ready else None


def _see_to_the_end(reading: socket.socket, number: signal.Signals) -> None:
    """Waits for the main thread to end, and ends the process if it does not in time."""
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
    """Silences threads that fail because what they use is being cleaned up."""
    threading.excepthook = lambda _: None


def _repeat(number: signal.Signals) -> None:
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    else:  # this ends a system call as well
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _do_within(limit_s: float, *actions: Callable[[], object]) -> None:
    """Runs actions in threads, and waits for them for a limited time."""
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
        # A progress bar is interrupted in the middle of a line, with the cursor hidden.
        start = "\n\x1b[?25h" if os.isatty(2) else ""
        # Not through `sys.stderr`: the main thread may hold its lock.
        os.write(2, f"{start}topwork: {MESSAGES[number]}\n".encode())


def exit_code(number: int) -> int:
    """Returns the exit code of a process that a signal ended, as shells have it."""
    return 128 + number


def describe_end() -> tuple[str, int]:
    """Returns the message for the signal that ended the main thread, and the exit code.

    Returns:
        The message, empty if it was printed before; the code, 130 if there was no signal.
    """
    number = _state.received or signal.SIGINT
    mine = not _state.watched or _state.voice.acquire(blocking=False)
    return MESSAGES[number] if mine else "", exit_code(number)


def was_interrupted() -> bool:
    """Whether a signal that ends this process has come: later errors are its consequence."""
    return _state.received is not None


def before_leaving(clean: Callable[[], object]) -> None:
    """Registers a function to be called before the process ends, however it does.

    Args:
        clean: called once, perhaps in another thread, while others are still running.
    """
    _cleaners.append(clean)


def stop_raising() -> None:
    """Makes signals raise nothing from now on: the main thread is done."""
    _state.leaving = True


def leave(code: int) -> NoReturn:
    """Cleans up, and ends the process without Python's own clean-up.

    Everything is written by then, and the clean-up of the libraries would take a good part of a
    second.
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
    """Holds a Ctrl-C or a SIGTERM back until this is left; does nothing outside the main thread.

    For what should not be left half done and does not take long. A second signal is not held back,
    and in the command `topwork` no signal is for longer than `HOLD_S`.
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
    """Whether a signal came while signals are held: optional work should be left out."""
    return _state.waiting is not None


def _let_go() -> None:
    try:
        _give_back()
    finally:
        _state.depth = 0
    # From here on a new signal raises at once.
    number, _state.waiting = _state.waiting, None
    if number is None:
        return
    if _state.watched:
        raise _make(number)
    signal.raise_signal(number)


def _borrow() -> None:
    for number in SIGNALS:
        handler = signal.getsignal(number)
        # None is a handler that was not set by Python; it could not be restored.
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
    """Leaves signals to code that has handlers of its own, such as a server, while it runs."""
    _state.released = True
    try:
        yield
    finally:
        _state.released = False
        if threading.current_thread() is threading.main_thread():
            # An event loop replaced the wake-up socket by its own.
            _listen()


def show_stacks(after: str | None) -> None:
    """Prints the stacks of all threads: at SIGUSR1, and at regular intervals.

    It works even if no thread runs Python code.

    Args:
        after: seconds, as text from the environment; None or empty for SIGUSR1 only.

    Raises:
        SettingsError: it is no number of seconds.
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
