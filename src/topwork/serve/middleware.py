"""Two layers of ASGI around the application: access control, and logs and metrics.

`AccessMiddleware` passes on requests that name the right host, come from no other site and have
the API key. `LogMiddleware` is the outermost: it adds security headers to every answer, answers
an unexpected exception with status 500, writes the access log and counts requests.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from topwork.core.errors import printable
from topwork.serve.http_errors import HTTPError, describe, encode
from topwork.serve.prometheus import ServerMetrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("topwork.serve")

HEALTH = "/healthz"
OPEN_PATHS = ("/", HEALTH)
STATIC = "/static/"
# Longest address in the log, in characters; the rest is cut off.
LOGGED_CHARS = 100
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
# Key in a request's scope under which `LogMiddleware` finds its number of images.
IMAGES_KEY = "topwork.images"


class AccessMiddleware:
    """Answers requests that are not allowed with an error, and passes on the others.

    Args:
        app: the application that it wraps.
        api_key: that requests must have; None if they need none.
        host: that the server is bound to, if only this machine reaches it; requests must name
            it then, or one of `origins`, which stops a page of another site whose name resolves
            to this machine (DNS rebinding). None if any host may be named.
        origins: other sites whose pages may send requests, or what a proxy calls this one; `*`
            for all.
    """

    def __init__(
        self, app: App, api_key: str | None, host: str | None, origins: Sequence[str]
    ) -> None:
        self.app = app
        self._key = None if api_key is None else api_key.encode()
        self._host = host
        self._origins = frozenset(origins)
        self._hosts = frozenset(map(host_of_origin, origins))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with the reason why not."""
        if scope["type"] == "http":
            try:
                self._check(dict(scope["headers"]), scope["path"])
            except HTTPError as error:
                await send_error(send, error)
                return
            if scope["method"] == "HEAD":
                await self._answer_head(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as to a GET; the server leaves out the body."""
        asked = {**scope, "method": "GET"}
        try:
            await self.app(asked, receive, send)
        finally:
            scope["route"] = asked.get("route")

    def _check(self, headers: dict[bytes, bytes], path: str) -> None:
        if path == HEALTH:
            # Who looks after servers asks for it by whatever name, and learns nothing else.
            return
        host = headers.get(b"host", b"").decode("latin-1").lower()
        known_host = "*" in self._origins or host in self._hosts
        if not (self._host is None or known_host or _is_local(host, self._host)):
            raise HTTPError(
                400,
                f"Host: must be localhost, an address or {self._host}, received {host!r}; to be "
                f"reached under another name, behind a proxy too, allow it with --allow-origin "
                f"https://{printable(host)} (or http), or bind to its address with --host",
            )
        origin = headers.get(b"origin", b"").decode("latin-1")
        known = not origin or {origin, "*"} & self._origins
        if not (known or host_of_origin(origin) == host):
            raise HTTPError(
                403,
                f"pages of {origin!r} may not ask {host!r}; allow them with --allow-origin "
                f"{printable(origin)}, also where it is a proxy's name for this server",
            )
        if self._key is None or path in OPEN_PATHS or path.startswith(STATIC):
            return
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = headers.get(b"x-api-key") or (token.strip() if kind.lower() == b"bearer" else b"")
        if not hmac.compare_digest(given, self._key):
            raise HTTPError(
                401,
                f"an API key is needed, and the one received is {'wrong' if given else 'none'}; "
                "send it as X-API-Key: KEY or Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )


def host_of_origin(origin: str) -> str:
    """Returns the host and port of an origin; an empty text if it is not a URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_local(header: str, bound: str) -> bool:
    name = header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]
    if name in ("localhost", bound.lower()):
        return True
    try:
        # An IP address needs no name server that could resolve it to something else.
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class LogMiddleware:
    """Logs and counts what is answered.

    Args:
        app: the application that it wraps.
        metrics: counts requests and their seconds.
        access_log: whether each request is a line of the log.
    """

    def __init__(self, app: App, metrics: ServerMetrics, access_log: bool) -> None:
        self.app = app
        self._metrics = metrics
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and its answer back."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                there = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()),
                    *(
                        (n.encode(), v.encode())
                        for n, v in SECURITY_HEADERS.items()
                        if n.encode() not in there
                    ),
                ]
            try:
                await send(message)
            except (OSError, RuntimeError) as error:
                # How uvloop reports that the client has just closed the connection.
                raise _GoneError from error

        try:
            await self.app(scope, receive, send_safely)
        except asyncio.CancelledError:
            # The server is stopping, and this request was not answered in time.
            if not status:
                await send_error(send_safely, HTTPError(503, "the server is stopping"))
        except Exception as error:
            if not _is_gone(error):
                log.exception("%s failed", _describe_request(scope))
                if not status:
                    error = HTTPError(500, "a fault of the server; its log says more")
                    await send_error(send_safely, error)
        finally:
            self._write(scope, status, time.perf_counter() - start)

    def _write(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        said = str(status) if status else "closed"
        self._metrics.requests.labels(route, said).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if self._access_log:
            images = scope.get(IMAGES_KEY)
            many = f" {images} image{'' if images == 1 else 's'}" if images is not None else ""
            log.info("%s %s%s %.0f ms", _describe_request(scope), said, many, 1000 * seconds)


def _is_gone(error: Exception) -> bool:
    from starlette.requests import ClientDisconnect

    return isinstance(error, (ClientDisconnect, _GoneError))


class _GoneError(Exception):
    """The client has closed the connection."""


def _describe_request(scope: Scope) -> str:
    client = (scope.get("client") or ("-",))[0]
    query = scope["query_string"].decode("latin-1")
    address = printable(scope["path"] + ("?" + query if query else ""))
    if len(address) > LOGGED_CHARS:
        address = address[:LOGGED_CHARS] + "…"
    return f"{client} {scope['method']} {address}"


async def send_error(send: Send, error: HTTPError) -> None:
    """Sends a error."""
    body = encode(describe(error.status, str(error)))
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **error.headers,
    }
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(n.lower().encode(), v.encode()) for n, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
