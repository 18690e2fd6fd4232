"""A server in this process, and a plain client for it."""

import contextlib
import http.client
import json
import signal
import socket
import threading
from urllib.parse import urlencode

import pytest
from recorder import Recorder

for needed in ("fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
    pytest.importorskip(needed, reason=f"serving needs {needed}, of the extra serve")


class Site:
    """Serves models for the time of a `with`, and asks the server."""

    def __init__(self, *models, **options):
        from topwork.serve.limits import Limits
        from topwork.serve.server import Options, make_server

        options["limits"] = Limits.create(**options.get("limits", {}))
        self.started = threading.Event()
        self._server, self._listener = make_server(
            models, Options(port=0, **options), Recorder(on_ready=self._on_ready)
        )

    def _on_ready(self, ready):
        self.ready = ready
        self.port = int(ready.url.rpartition(":")[2])
        self.started.set()

    def __enter__(self):
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}
        )
        self._thread.start()
        assert self.started.wait(60)
        return self

    def __exit__(self, *_):
        self.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def stop(self):
        self._server.handle_exit(signal.SIGTERM, None)

    def ask(self, method, path, body=None, headers=None, **query):
        """Returns status, headers and the body, read if it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            address = path + ("?" + urlencode(query) if query else "")
            connection.request(method, address, body, headers or {})
            return read(connection.getresponse())

    def predict(self, body, headers=None, **query):
        return self.ask("POST", "/predict", body, headers, **query)

    def open(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


def read(response):
    body, kind = response.read(), response.headers.get("content-type", "")
    return response.status, response.headers, json.loads(body) if body and "json" in kind else body


def make_form(*files, boundary="border", end="--"):
    """A body of (name, content) and the headers that it needs."""
    parts = b""
    for name, content in files:
        parts += f"--{boundary}\r\nContent-Disposition: form-data; name=image".encode()
        parts += b"" if name is None else f'; filename="{name}"'.encode()
        parts += b"\r\nContent-Type: text/nonsense\r\n\r\n" + content + b"\r\n"
    body = parts + f"--{boundary}{end}\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@pytest.fixture(scope="session")
def site(saved):
    with Site(saved) as running:
        yield running


@pytest.fixture(scope="session")
def make_site():
    return Site


@pytest.fixture
def form():
    return make_form


@pytest.fixture
def open_site():
    """Starts servers of one test."""
    with contextlib.ExitStack() as stack:
        yield lambda *models, **options: stack.enter_context(Site(*models, **options))
