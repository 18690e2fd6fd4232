"""Local servers: files over HTTP with faults on demand, and an S3 store."""

import contextlib
import hashlib
import html
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit


class FileServer:
    """Serves `files`, their names as paths, and pages of links to them.

    `faults` maps a path to what happens to its next requests, one each: a status, a number of
    bytes after which the connection is cut, "short" for a length that promises more, "slow",
    "hang" after a third until the gate opens, ("to", path) for a redirect; of a range "less" or
    the "other part".
    """

    def __init__(self):
        self.files = {}
        self.faults = {}
        self.requests = []
        self.sent = 0
        self.has_etags = True
        self.has_dates = False
        self.has_ranges = True
        self.has_lengths = True
        self.weak = ""
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"site": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        return self

    def __exit__(self, *_):
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def etag(self, path):
        return f'{self.weak}"{hashlib.md5(self.files[path]).hexdigest()}"'

    def count(self, path, method="GET"):
        return sum(1 for m, p, _ in self.requests if (m, p) == (method, path))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else head and body wait for each other, 40 ms per file.
    disable_nagle_algorithm = True
    site: FileServer

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        with contextlib.suppress(ConnectionError):
            self._answer()

    def _answer(self):
        site = self.site
        path = unquote(urlsplit(self.path).path)
        with site.lock:
            site.requests.append((self.command, path, dict(self.headers)))
            faults = site.faults.get(path)
            fault = faults.pop(0) if faults else None
        site.gate.wait()
        if fault == "slow":
            time.sleep(0.2)
        elif isinstance(fault, tuple):
            return self._send(302, b"", {"Location": fault[1]})
        elif isinstance(fault, int) and 400 <= fault < 600:
            return self._send(fault, b"")
        if path in site.files:
            return self._send_file(path, fault)
        if not path.endswith("/") and any(name.startswith(path + "/") for name in site.files):
            return self._send(301, b"", {"Location": quote(path) + "/"})
        names = {n[len(path) :] for n in site.files if path.endswith("/") and n.startswith(path)}
        links = sorted({n.partition("/")[0] + ("/" if "/" in n else "") for n in names})
        if not links:
            return self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
        page = '<a href="?C=N;O=D">Name</a> <a href="../">up</a> <a href="http://b/c.jpg">b</a>'
        page += "".join(f'<a href="{html.escape(quote(n))}">{html.escape(n)}</a>\n' for n in links)
        return self._send(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})

    def _send_file(self, path, fault):
        site, data = self.site, self.site.files[path]
        headers = {"Content-Type": "application/octet-stream"}
        if site.has_etags:
            headers["ETag"] = site.etag(path)
        if site.has_dates:
            headers["Last-Modified"] = "Wed, 21 Oct 2026 07:28:00 GMT"
        if self.headers.get("If-None-Match") == headers.get("ETag", ""):
            return self._send(304, b"", headers)
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        valid = condition in {None, headers.get("ETag"), headers.get("Last-Modified")}
        if not (asked and site.has_ranges and valid):
            return self._send(200, data, headers, fault)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        if int(first) >= len(data):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        end = min(int(last) + 1, len(data)) if last else len(data)
        if fault == "other part":
            end, first = len(data) - int(first), "0"
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
        if fault == "less":
            end -= 1000
        return self._send(206, data[int(first) : end], headers, fault)

    def _send(self, status, data, headers=None, fault=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        length = len(data) + (10 if fault == "short" else 0)
        if self.site.has_lengths or status != 200:
            self.send_header("Content-Length", str(length))
        if fault is not None or not self.site.has_lengths:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "GET":
            if isinstance(fault, int):
                data = data[:fault]
            if fault == "hang":
                self.wfile.write(data[: len(data) // 3])
                self.wfile.flush()
                self.site.gate.clear()
                self.site.gate.wait()
                return
            with self.site.lock:
                self.site.sent += len(data)
            self.wfile.write(data)


@contextlib.contextmanager
def s3_server(files):
    """Runs an S3 store in this process with a bucket `photos`; yields its address and log."""
    import logging

    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    try:
        client = boto3.client(
            "s3", endpoint_url=url, aws_access_key_id="k", aws_secret_access_key="s",
            region_name="us-east-1",
        )  # fmt: skip
        client.create_bucket(Bucket="photos")
        for name, data in files.items():
            client.put_object(Bucket="photos", Key=name, Body=data)
        yield url, client
        client.close()
    finally:
        server.stop()
