import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from topwork.serve.admission import Admission
from topwork.serve.http_errors import HTTPError
from topwork.serve.limits import Limits
from topwork.serve.uploads import read_uploads

KIND = 'multipart/form-data; boundary="xyz"'
names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'))


def receive(chunks, kind=KIND, **limits):
    """Returns what is made of a body that comes in these chunks."""
    waiting = list(chunks)

    async def next_chunk():
        body = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    limits = Limits.create(**limits)
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
    admission = Admission(limits)

    async def read():
        with admission.enter() as ticket:
            return await read_uploads(Request(scope, next_chunk), limits, ticket)

    try:
        return [(upload.name, bytes(upload.data)) for upload in asyncio.run(read())]
    finally:
        assert (admission.slots, admission.held) == (0, 0)


def write(files, end=b"--xyz--\r\n"):
    return b"".join(
        b'--xyz\r\nContent-Disposition: form-data; name="a"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), data)
        for name, data in files
    ) + end  # fmt: skip


@given(
    st.lists(st.tuples(names, st.binary(max_size=50)), min_size=1, max_size=5),
    st.lists(st.integers(0, 300), max_size=8),
)
def test_files_come_out_as_they_went_in_however_they_are_cut(files, cuts):
    body = write(files)
    ends = sorted(min(cut, len(body)) for cut in cuts)
    chunks = [body[a:b] for a, b in zip([0, *ends], [*ends, len(body)], strict=True)]
    found = receive(chunks)
    assert [data for _, data in found] == [data for _, data in files]
    for (name, _), (sent, _) in zip(found, files, strict=True):
        # What looks like a path of Windows is cut down to the file's name.
        assert sent.endswith(name)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_whatever_else_is_sent_is_refused_or_read(start, rest):
    for body in (start + rest, b"--xyz\r\n" + start, write([("a", start)], rest)):
        try:
            receive([body])
        except HTTPError as error:
            assert error.status in (400, 413, 422)


@given(st.text(max_size=60))
def test_no_content_type_makes_it_fail(kind):
    try:
        assert receive([b"abc"], kind) == [(None, b"abc")]
    except HTTPError as error:
        assert error.status == 400
    except UnicodeEncodeError:
        pass


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "ends before its last boundary"),
        (write([("a", b"b")], b""), 400, "ends before its last boundary"),
        (b"--xyz--\r\n", 422, "at least one file"),
        (b'--xyz\r\nContent-Disposition: form-data; name="top"\r\n\r\n3\r\n--xyz--', 422, "'top'"),
        (b"--xyz\r\n\r\nabc\r\n--xyz--\r\n", 422, "no file name"),
        (b"--xyz\r\n" + b"A: b\r\n" * 50 + b"\r\n", 400, "header count"),
        (b"--xyz\r\nA: " + b"b" * 9000, 400, "header size"),
        (b"--other\r\n", 400, "boundary"),
        (write([("a", b"b")] * 4), 413, "3 images"),
    ],
)
def test_a_broken_body_is_refused_in_words(body, status, reason):
    with pytest.raises(HTTPError, match=reason) as caught:
        receive([body], images=3)
    assert caught.value.status == status


def test_of_a_file_that_is_too_large_nothing_is_kept():
    files = [("a", bytes(3000)), ("b", b"x")]
    assert receive([write(files)], image_bytes=1000) == [("a", b""), ("b", b"x")]


@pytest.mark.parametrize("boundary", ["", "b" * 71])
def test_a_boundary_has_its_length(boundary):
    with pytest.raises(HTTPError, match="1 to 70"):
        receive([b""], f"multipart/form-data; boundary={boundary}")
