"""Opens models, binds the address, and serves until a signal stops it."""

from __future__ import annotations

import ipaddress
import logging
import math
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.core import interrupts
from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import SettingsError
from topwork.core.leftovers import sweep
from topwork.serve.limits import Limits

if TYPE_CHECKING:
    from topwork.serve.connection import QuietServer
    from topwork.serve.service import Service

BACKLOG = 1024
KEEP_ALIVE_S = 15
# Seconds between two checks whether a model was replaced.
CHECK_EVERY_S = 1.0
# Seconds beyond `timeout_s` for requests that were received before the server was stopped.
STOP_S = 5.0


@dataclass(frozen=True)
class Options:
    """How models are served.

    Attributes:
        host: name or address to bind to.
        port: to bind to; 0 for any that is free.
        api_key: that clients need; None if they need none.
        allow_origins: other sites whose pages may ask; `*` for all.
        abstain_below: least top probability, 0..1, that counts as an answer.
        limits: how much is taken.
        access_log: whether each request is a line of the log.
        check_every_s: seconds between two checks whether a model was replaced.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    allow_origins: tuple[str, ...] = ()
    abstain_below: float | None = None
    limits: Limits = field(default_factory=Limits.create)
    access_log: bool = True
    check_every_s: float = CHECK_EVERY_S


@dataclass(frozen=True)
class Ready:
    """What a server that takes requests is.

    Attributes:
        url: where it is.
        models: description of each model, as `/models` shows it.
        open: whether other machines reach it and need no API key.
    """

    url: str
    models: list[dict[str, Any]]
    open: bool


def serve(
    models: Sequence[Path],
    options: Options,
    callback: Callback = SILENT,
) -> None:
    """Serves models until a signal stops it: answers what it has received, then returns.

    Args:
        models: folders of trained models; the first is meant where a request names none.
        options: how to serve them.
        callback: `on_ready` is called when requests are taken.

    Raises:
        SettingsError: an option is wrong, the address is taken, or the extra `serve` is missing.
        ModelError: a folder is not a model, or is damaged.
        NetworkError: a network cannot be compiled.
    """
    server, listener = make_server(models, options, callback)
    with interrupts.release():
        server.run(sockets=[listener])


def make_server(
    models: Sequence[Path], options: Options, callback: Callback = SILENT
) -> tuple[QuietServer, socket.socket]:
    """Opens models and returns a server for them, and the socket that it is to listen on.

    Args and Raises as for `serve`.
    """
    check_extra()
    import uvicorn

    from topwork.serve.app import make_app
    from topwork.serve.connection import QuietServer, make_connection
    from topwork.serve.registry import name_models
    from topwork.serve.service import Service

    named = name_models(models)
    sweep(None, *named.values())
    # First, since it fails at once if the address is taken.
    listener = bind(options.host, options.port)
    try:
        service = Service(named, options.limits, options.abstain_below)
    except BaseException:
        listener.close()
        raise
    url, local = _locate(listener, options.host)

    def stop() -> None:
        service.stopping = True

    ready = Ready(url, service.describe()["models"], not (local or options.api_key))
    app = make_app(
        service,
        options,
        local_host=options.host if local and options.api_key is None else None,
        on_ready=lambda: callback.on_ready(ready),
    )
    config = uvicorn.Config(
        app,
        http=make_connection(options.limits, _counter(service)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(options.limits.timeout_s + STOP_S),
    )
    return QuietServer(config, stop, service.close), listener


def _counter(service: Service) -> Callable[[int], None]:
    return lambda status: service.metrics.requests.labels("connection", str(status)).inc()


def check_extra() -> None:
    """Refuses to go on without the packages of the extra `serve`.

    Raises:
        SettingsError: one is missing.
    """
    try:
        import fastapi  # noqa: F401
        import httptools  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"serving needs the package {error.name}: pip install 'topwork[serve]'"
        ) from None


def check_key(key: str, where: str) -> str:
    """Returns an API key without the white space around it.

    Args:
        key: as it was given.
        where: option or variable that it was given in, for the message.

    Raises:
        SettingsError: it is empty, or no header can hold it.
    """
    key = key.strip()
    if not key:
        raise SettingsError(f"{where}: must hold an API key, and is empty")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise SettingsError(f"{where}: an API key must be letters, digits and signs of ASCII")
    return key


def bind(host: str, port: int) -> socket.socket:
    """Returns a listening socket.

    Raises:
        SettingsError: there is no such address, or it is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name such as localhost may have IPv6 and IPv4; most clients try IPv4 too.
        found.sort(key=lambda item: item[0] != socket.AF_INET)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"cannot listen on {host}, port {port}: {reason}; choose others with --host and --port"
        ) from None


def _locate(listener: socket.socket, host: str) -> tuple[str, bool]:
    """Returns a server's URL, and whether only this machine reaches it."""
    address, port = listener.getsockname()[:2]
    local = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}", local


def log_to_stderr() -> None:
    """Sends the server's log to stderr: requests, replaced models, exceptions."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for name, level in (("topwork.serve", logging.INFO), ("uvicorn.error", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
    # What it logs of broken bodies is in the answers.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
