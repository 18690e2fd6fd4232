"""Connections: uvicorn's, with an end to what is slow, endless or broken.

uvicorn leaves these open, measured against its version 0.54: a request's line and headers may
come as slowly as they like and be as long as they like; any number of requests may come at once,
before one is answered; what follows a request that was refused is read for ever; and a client
that takes no answer is waited for.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from asyncio import TimerHandle, Transport
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from uvicorn import Server
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import HANDLED_SIGNALS

from topwork.serve.http_errors import Refusal, describe, encode
from topwork.serve.limits import Limits
from topwork.serve.middleware import SAFETY

BROKEN = Refusal(400, "the request is not HTTP/1.1")
# Requests that may come before those before them are answered.
PIPELINED = 16


class Connection(HttpToolsProtocol):
    """One client's connection.

    `limits` and `on_refused`, which hears the status of what ends here, are set by
    `make_connection`.
    """

    limits: Limits
    on_refused: Callable[[int], None]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timers: dict[str, TimerHandle] = {}
        # Bytes since a head, a piece of a body or a message was complete.
        self._idle_bytes = 0
        self._head_bytes = 0
        self._in_head = True
        self._in_body = False
        self._refusal = BROKEN
        self._running: Any = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Takes a client."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(Refusal(503, f"there are {self.limits.connections} connections already"))
            return
        self._start("head", self.limits.head_timeout_s, self._end_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets a client."""
        for name in [*self._timers]:
            self._stop(name)
        # An error leaves uvicorn's own timer running.
        self._unset_keepalive_if_required()
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes bytes."""
        if self.transport.is_closing():
            return
        self._idle_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._idle_bytes > self.limits.head_bytes:
            self._refuse(self._long_head())
        elif self._idle_bytes and self._in_head and "head" not in self._timers:
            self._start("head", self.limits.head_timeout_s, self._end_head)

    def on_message_begin(self) -> None:
        """Begins a request."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Takes a piece of its address."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header, or a trailer."""
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hands on a request whose body is still to come."""
        self._idle_bytes, self._in_head, self._in_body = 0, False, True
        self._stop("head")
        super().on_headers_complete()
        if len(self.pipeline) > PIPELINED:
            raise BROKEN

    def on_body(self, body: bytes) -> None:
        """Takes a piece of its body."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends a request."""
        self._idle_bytes, self._in_head, self._in_body = 0, True, False
        self._stop("linger")
        super().on_message_complete()
        if self.cycle.response_complete and self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """Waits for the next request; for the rest of this one only a little."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._start("linger", self.limits.linger_s, self._abort)
        elif self._in_body and not self.pipeline:
            # Cut at once, a client that is still sending would not see the answer.
            self._start("linger", self.limits.linger_s, self.transport.close)

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection, whether or not its last answer is taken."""
        super().timeout_keep_alive_handler()
        self._start("linger", self.limits.linger_s, self._abort)

    def pause_writing(self) -> None:
        """Waits for a client to take what it asked for."""
        super().pause_writing()
        self._start("write", self.limits.receive_timeout_s, self._abort)

    def resume_writing(self) -> None:
        """Goes on."""
        self._stop("write")
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be parsed."""
        self._refuse(self._refusal)

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > self.limits.head_bytes:
            # Out of a callback the parser gives up by itself.
            self._refusal = self._long_head()
            raise self._refusal

    def _long_head(self) -> Refusal:
        return Refusal(431, f"line and headers may have {self.limits.head_bytes:,} bytes together")

    def _end_head(self) -> None:
        if self._idle_bytes:
            seconds = self.limits.head_timeout_s
            self._refuse(Refusal(408, f"line and headers must arrive within {seconds:g} s"))
        else:
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        """Answers before there is anybody else to do so, and hangs up."""
        self.on_refused(refusal.status)
        begun = self.cycle is not None and self.cycle.response_started
        waiting = self.cycle is not None and not self.cycle.response_complete and self._in_head
        if self.pipeline or waiting or (begun and not self.cycle.response_complete):
            # It would be taken for the answer to another request.
            self._abort()
            return
        body = encode(describe(refusal.status, str(refusal)))
        headers = {
            **SAFETY,
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
        }
        lines = [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
        self.transport.write(b"".join([STATUS_LINE[refusal.status], *lines, b"\r\n", body]))
        self.transport.close()
        self._start("linger", self.limits.linger_s, self._abort)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _abort(self) -> None:
        self._forget()
        self.transport.abort()

    def _forget(self) -> None:
        """Tells all requests of this connection that nobody waits for them.

        uvicorn tells the newest one only, and that may not be the one that is being answered.
        """
        for cycle in (self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()

    def _start(self, name: str, seconds: float, call: Callable[[], Any]) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, call)

    def _stop(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


def make_connection(limits: Limits, on_refused: Callable[[int], None]) -> type[Connection]:
    """Returns the class of a server's connections."""
    return type(
        "Connection", (Connection,), {"limits": limits, "on_refused": staticmethod(on_refused)}
    )


class QuietServer(Server):
    """uvicorn's server; a signal stops it, and it ends as a program does that is done.

    Args:
        config: uvicorn's.
        on_stop: called when it is told to stop.
        on_end: called when it has stopped, whatever it was that stopped it.
    """

    def __init__(
        self, config: Any, on_stop: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._on_end = on_end

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes requests until it is told to stop."""
        try:
            super().run(sockets)
        finally:
            self._on_end()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stops at a signal. uvicorn would then die of it, with its exit code."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Tells it to stop; told twice by Ctrl-C, without waiting for anybody."""
        self._on_stop()
        super().handle_exit(sig, frame)
