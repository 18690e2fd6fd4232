"""Web servers: files are received in ranges, folders are pages of links."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from urllib.parse import SplitResult, urlsplit

from topwork.data.remote import urls
from topwork.data.remote.downloads import Version
from topwork.data.remote.transfers import (
    MissingError,
    RefusedError,
    Transfer,
    TransientError,
    check_status,
    mapped_errors,
)

CONNECT_S, SILENCE_S = 30, 60
LARGEST_PAGE = 64 << 20
DEEPEST = 32

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class Web:
    """Web servers, whose folders are pages of links."""

    def __init__(self, options: dict[str, Any]) -> None:
        import aiohttp
        from fsspec.implementations.http import HTTPFileSystem

        # With the environment's proxies, and no limit of the total time: archives take hours.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        client = {"trust_env": True, "timeout": timeout} | options.pop("client_kwargs", {})
        self._system = HTTPFileSystem(client_kwargs=client, skip_instance_cache=True, **options)
        self._session: Any = None

    def close(self) -> None:
        """See `Server`."""
        if self._session is not None:
            self._sync(self._session.close)

    def list_files(self, url: str) -> list[str]:
        """See `Server`."""
        split = _split(url.partition("#")[0])
        root = urls.quoted(split._replace(path=split.path.rstrip("/") + "/").geturl())
        todo, seen, names = [""], {""}, []
        while todo:
            below = todo.pop()
            page, links = self._links(urls.join(root, f"{below}/") if below else root)
            files, folders = urls.names_below(page, links)
            prefix = f"{below}/" if below else ""
            names += [prefix + name for name in files]
            # A link that leads back to a folder above would make paths without end.
            if below.count("/") >= DEEPEST:
                continue
            new = [prefix + name for name in folders if prefix + name not in seen]
            seen.update(new)
            todo += new
        return sorted(set(names))

    def is_folder(self, url: str) -> bool:
        """See `Server`."""
        path = _split(url).path
        if path.endswith("/"):
            return True
        found = [False]

        def look(answer: Any) -> bool:
            kind = answer.headers.get("Content-Type", "").partition(";")[0]
            is_page = kind == "text/html" and "." not in path.rpartition("/")[2]
            found[0] = answer.url.path.endswith("/") or is_page
            return False

        try:
            self._get(url, {}, look, lambda _: None)
        except MissingError:
            return False
        return found[0]

    def receive(self, url: str, transfer: Transfer) -> bool:
        """See `Server`."""
        part, kept = transfer.part, transfer.kept
        headers = {}
        if part.size and part.version.validator:
            headers = {"Range": f"bytes={part.size}-", "If-Range": part.version.validator}
        if kept and kept.is_known:
            asked = "If-None-Match" if kept.etag else "If-Modified-Since"
            headers[asked] = kept.etag or kept.modified

        def begin(answer: Any) -> bool:
            version = _web_version(answer)
            if answer.status == 304 or (kept and version.is_known and version == kept):
                return False
            transfer.start(version.size)
            if answer.status == 200:
                part.restart(version)
                return True
            first = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if not first or int(first[1]) != part.size or version != part.version:
                part.restart(Version())
                raise TransientError("it sent another part of the file than asked for")
            return True

        if not self._get(url, headers, begin, transfer.write):
            return False
        received, promised = part.size, part.version.size
        if promised is not None and received != promised:
            if received > promised:
                part.restart(Version())
            raise TransientError(f"{received} bytes came instead of {promised}")
        return True

    def _links(self, url: str) -> tuple[str, list[str]]:
        """Returns the address that a page was found at and the links in it."""
        page = bytearray()
        found = [url]

        def look(answer: Any) -> bool:
            if not answer.headers.get("Content-Type", "text/html").startswith("text/html"):
                raise RefusedError("it is a file, not a page of links")
            if answer.url.path.endswith("/"):
                found[0] = str(answer.url)
            return True

        def take(data: bytes) -> None:
            page.extend(data)
            if len(page) > LARGEST_PAGE:
                raise RefusedError(f"a page of more than {LARGEST_PAGE >> 20} MiB")

        self._get(url, {}, look, take)
        parser = _Links()
        parser.feed(page.decode("utf-8", "replace"))
        parser.close()
        return found[0].partition("?")[0], parser.links

    def _get(
        self,
        url: str,
        headers: dict[str, str],
        begin: Callable[[Any], bool],
        write: Callable[[bytes], None],
    ) -> bool:
        """Requests a file.

        Args:
            url: its address.
            headers: of the request.
            begin: called with the head of the answer; returns whether to read the body.
            write: called with each piece of the body.

        Returns:
            What `begin` returned.
        """
        import yarl

        self._session = self._session or self._sync(self._system.set_session)
        # If it were compressed, lengths and ranges would not be those of the file.
        headers = {"Accept-Encoding": "identity"} | headers
        try:
            address = yarl.URL(urls.quoted(url), encoded=True)
        except ValueError:
            raise RefusedError("it is not a valid address") from None

        async def exchange() -> bool:
            # Written in the loop's thread, before a lost connection can be noticed: aiohttp
            # would then discard what has arrived.
            async with self._session.get(address, headers=headers) as answer:
                check_status(answer.status, answer.headers.get("Retry-After", ""))
                if not begin(answer):
                    return False
                while data := await answer.content.readany():
                    write(data)
                return True

        return bool(self._sync(exchange))

    def _sync(self, function: Any) -> Any:
        from fsspec.asyn import sync

        with mapped_errors():
            return sync(self._system.loop, function)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise RefusedError("it is not a valid address") from None


def _web_version(answer: Any) -> Version:
    headers = answer.headers
    length = headers.get("Content-Length", "")
    if answer.status == 206:
        length = headers.get("Content-Range", "").rpartition("/")[2]
    plain = headers.get("Content-Encoding", "identity") in {"", "identity"}
    size = int(length) if length.isdecimal() and plain else None
    etag = headers.get("ETag", "")
    return Version(etag, "" if etag else headers.get("Last-Modified", ""), size)
