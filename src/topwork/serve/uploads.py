"""From a request's body to encoded images, with every limit kept while it arrives.

Nothing is written to a disk, and nothing that the client says of an image is believed: neither
its length nor its type, and its name is only given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from topwork.serve.admission import Ticket
from topwork.serve.http_errors import HTTPError
from topwork.serve.limits import Limits

if TYPE_CHECKING:
    from starlette.requests import Request

MULTIPART = b"multipart/form-data"
# Bytes of one header of a part, and how many headers it may have.
PART_HEADER_BYTES, PART_HEADERS = 4096, 16


@dataclass
class Upload:
    """One encoded image, as it was sent.

    Attributes:
        name: as the client calls it; None if it does not.
        data: its bytes; none of them where there were too many.
        too_large: whether there were.
    """

    name: str | None = None
    data: bytearray = field(default_factory=bytearray)
    too_large: bool = False


async def read_uploads(request: Request, limits: Limits, ticket: Ticket) -> list[Upload]:
    """Receives the images of a request.

    Args:
        request: whose body is one encoded image, or multipart/form-data with a file for each.
        limits: what it may bring.
        ticket: takes a slot for each image, and the bytes.

    Raises:
        HTTPError: too large, too slow, too many, not what it says it is, or there is no room.
    """
    _check_headers(request, limits)
    reader = _open_reader(request.headers.get("content-type", ""), limits)
    received = 0
    try:
        async with asyncio.timeout(limits.receive_timeout_s):
            async for chunk in request.stream():
                received += len(chunk)
                if received > limits.request_bytes:
                    raise _too_long(limits)
                ticket.take_bytes(len(chunk))
                reader.write(chunk)
    except TimeoutError:
        raise HTTPError(
            408,
            f"the request must arrive within {limits.receive_timeout_s:g} s, and {received:,} "
            "bytes of it did; send it faster, or smaller images",
        ) from None
    uploads = reader.finish()
    ticket.take_slots(len(uploads) - 1)
    return uploads


def _check_headers(request: Request, limits: Limits) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise HTTPError(
            415, "the body must not be compressed (Content-Encoding); images already are"
        )
    length = request.headers.get("content-length", "")
    # It may be wrong, so bytes are counted too; but a right one saves the client the sending.
    if length.isdecimal() and int(length[:20]) > limits.request_bytes:
        raise _too_long(limits)


def _too_long(limits: Limits) -> HTTPError:
    return HTTPError(
        413, f"a request may have {limits.request_bytes:,} bytes; send fewer or smaller images"
    )


def _open_reader(content_type: str, limits: Limits) -> _Whole | _Parts:
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(content_type)
    if kind.strip().lower() != MULTIPART:
        return _Whole(limits)
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # Source: RFC 2046, section 5.1.1.
        raise HTTPError(
            400, "multipart/form-data needs a boundary of 1 to 70 characters in Content-Type"
        )
    return _Parts(boundary, limits)


class _Whole:
    """A body that is one image."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._upload = Upload()

    def write(self, chunk: bytes) -> None:
        self._upload.data += chunk
        if len(self._upload.data) > self._limits.image_bytes:
            raise HTTPError(
                413, f"an image may have {self._limits.image_bytes:,} bytes; send a smaller one"
            )

    def finish(self) -> list[Upload]:
        if not self._upload.data:
            raise HTTPError(422, "the body must be an image, and it is empty")
        return [self._upload]


class _Parts:
    """A body of several files; one that is too large spoils no other."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        from python_multipart.multipart import MultipartParser

        self._limits = limits
        self._uploads: list[Upload] = []
        self._ended = False
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        calls: dict[str, Callable[..., Any]] = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._take,
            "on_end": self._end,
        }
        self._parser = MultipartParser(
            boundary,
            calls,  # type: ignore[arg-type]
            max_header_count=PART_HEADERS,
            max_header_size=PART_HEADER_BYTES,
        )

    def write(self, chunk: bytes) -> None:
        from python_multipart.exceptions import FormParserError

        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _broken(str(error)) from None

    def finish(self) -> list[Upload]:
        if not self._ended:
            raise _broken("it ends before its last boundary")
        if not self._uploads:
            raise HTTPError(422, "multipart/form-data must have at least one file, received none")
        return self._uploads

    def _begin(self) -> None:
        if len(self._uploads) == self._limits.images:
            raise HTTPError(
                413, f"a request may have {self._limits.images} images; send the others in another"
            )
        self._disposition = b""

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _open(self) -> None:
        from python_multipart.multipart import parse_options_header

        options = parse_options_header(self._disposition)[1]
        name = options.get(b"filename")
        if name is None:
            field_name = options.get(b"name", b"").decode(errors="replace")
            raise HTTPError(
                422,
                f"every part must be a file, and {field_name!r} has no file name; options belong "
                "into the address, as in /predict?top=3",
            )
        self._uploads.append(Upload(name.decode(errors="replace")))

    def _take(self, data: bytes, start: int, end: int) -> None:
        upload = self._uploads[-1]
        if upload.too_large:
            return
        upload.data += memoryview(data)[start:end]
        if len(upload.data) > self._limits.image_bytes:
            upload.too_large, upload.data = True, bytearray()

    def _end(self) -> None:
        self._ended = True


def _broken(reason: str) -> HTTPError:
    return HTTPError(400, f"the body is not whole multipart/form-data: {reason}")
