"""Compiled networks, each in the process that compiled it.

A process that was forked (a `Pool`, a web server with several workers) has its parent's networks
and not the threads that run them: an image would be waited for without end, and so would be the
network's own end. There a network is compiled anew, and that of the parent is never dropped.

OpenVINO gives the thread that first uses its plugin for CPUs a stack of its own for signals, and
unmaps it with the plugin, which lives as long as the core that loaded it and what that compiled.
Were the last of these dropped in another thread, the next Ctrl-C would be handled on a stack that
is gone, and kill the process. So a process has one core, which it keeps.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any

from topwork.core.runtime import import_openvino

# Networks and requests of this process that are still in use.
_used: set[weakref.ref[Any]] = set()


def _use(item: Any) -> Any:
    _used.add(weakref.ref(item, _used.discard))
    return item


# The core of this process, by the process's number: a forked one needs another.
_cores: dict[int, Any] = {}


def open_core() -> Any:
    """Returns OpenVINO's core of this process."""
    process = os.getpid()
    if process not in _cores:
        # Of two threads the first puts its own here; the other's has loaded no plugin yet.
        _cores.setdefault(process, _use(import_openvino().Core()))
    return _cores[process]


class Compiled:
    """A network that is compiled now, and once more in each forked process that asks for it.

    Args:
        compile: compiles it; whatever that raises, this raises too.
    """

    def __init__(self, compile: Callable[[], Any]) -> None:
        self._compile = compile
        self._open()

    def _open(self) -> None:
        self._network = _use(self._compile())
        self._process = os.getpid()

    def get(self) -> Any:
        """Returns the network that this process compiled."""
        if self._process != os.getpid():
            self._open()
        return self._network

    def open_request(self) -> Any:
        """Returns a request that runs the network, for this process alone."""
        return _use(self.get().create_infer_request())


def _keep() -> None:
    """Keeps what the parent used until the process is gone, whoever drops it."""
    for reference in _used:
        item = reference()
        if item is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))
    _used.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_keep)
