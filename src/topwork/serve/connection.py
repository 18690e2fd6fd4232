"""uvicorn's connections, with limits that end slow, endless and broken ones.

uvicorn itself, measured in version 0.54, has no limit on the time and the length of a request's
line and headers, nor on the number of requests that arrive before one is answered; it reads the
rest of a rejected request for ever; and it waits for clients that do not take their answer.

`Connection` overrides internals of `HttpToolsProtocol` and `QuietServer` those of `Server`: the
extra `serve` therefore bounds uvicorn's version from above. Before the bound is raised, the tests
of this module have to pass with the new version.
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

from topwork.serve.http_errors import HTTPError, describe, encode
from topwork.serve.limits import Limits
from topwork.serve.middleware import SECURITY_HEADERS

BROKEN = HTTPError(400, "the request is not HTTP/1.1")
# Most requests that may wait for earlier ones of their connection to be answered.
PIPELINED = 16


class Connection(HttpToolsProtocol):
    """One client's connection.

    `make_connection` sets `limits`, and `on_refused`, which is called with the status of each
    error that is answered here.
    """

    limits: Limits
    on_refused: Callable[[int], None]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timers: dict[str, TimerHandle] = {}
        # Bytes since the last complete head, piece of a body, or message.
        self._idle_bytes = 0
        self._head_bytes = 0
        self._in_head = True
        self._in_body = False
        self._error = BROKEN
        self._running: Any = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Accepts a client, or answers 503 if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(HTTPError(503, f"there are {self.limits.connections} connections already"))
            return
        self._start("head", self.limits.head_timeout_s, self._end_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops all timers and requests of a client that is gone."""
        for name in [*self._timers]:
            self._stop(name)
        # An error leaves uvicorn's own timer running.
        self._unset_keepalive_if_required()
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses bytes, and limits the length and the time of a head."""
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
        """Counts a piece of the address."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts a header or trailer."""
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
        """Passes on a piece of the body."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends a request; an idle connection is closed after a while."""
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
            # If it were closed at once, a client that is still sending would not see the answer.
            self._start("linger", self.limits.linger_s, self.transport.close)

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection, whether or not its last answer is taken."""
        super().timeout_keep_alive_handler()
        self._start("linger", self.limits.linger_s, self._abort)

    def pause_writing(self) -> None:
        """Limits the time that a client has to take its answer."""
        super().pause_writing()
        self._start("write", self.limits.receive_timeout_s, self._abort)

    def resume_writing(self) -> None:
        """Goes on writing an answer."""
        self._stop("write")
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answers what cannot be parsed."""
        self._refuse(self._error)

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > self.limits.head_bytes:
            # An exception in a callback ends the parsing.
            self._error = self._long_head()
            raise self._error

    def _long_head(self) -> HTTPError:
        return HTTPError(
            431, f"line and headers may have {self.limits.head_bytes:,} bytes together"
        )

    def _end_head(self) -> None:
        if self._idle_bytes:
            seconds = self.limits.head_timeout_s
            self._refuse(HTTPError(408, f"line and headers must arrive within {seconds:g} s"))
        else:
            self.transport.close()

    def _refuse(self, error: HTTPError) -> None:
        """Answers an error without the application, and closes the connection."""
        self.on_refused(error.status)
        begun = self.cycle is not None and self.cycle.response_started
        waiting = self.cycle is not None and not self.cycle.response_complete and self._in_head
        if self.pipeline or waiting or (begun and not self.cycle.response_complete):
            # The client would take it for the answer to another request.
            self._abort()
            return
        body = encode(describe(error.status, str(error)))
        headers = {
            **SECURITY_HEADERS,
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
        }
        lines = [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
        self.transport.write(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body]))
        self.transport.close()
        self._start("linger", self.limits.linger_s, self._abort)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _abort(self) -> None:
        self._forget()
        self.transport.abort()

    def _forget(self) -> None:
        """Tells all requests of this connection that the client is gone.

        uvicorn tells only the newest, which may not be the one that is being answered.
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
    """uvicorn's server, which after a signal stops and returns, instead of dying of the signal.

    Args:
        config: uvicorn's.
        on_stop: called when it is told to stop.
        on_end: called when it has stopped, for whatever reason.
    """

    def __init__(
        self, config: Any, on_stop: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._on_end = on_end

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves requests until it is told to stop."""
        try:
            super().run(sockets)
        finally:
            self._on_end()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals by stopping; uvicorn would raise them again afterwards."""
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
        """Stops the server; a second Ctrl-C stops it without waiting for requests."""
        self._on_stop()
        super().handle_exit(sig, frame)
