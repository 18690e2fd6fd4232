"""Sockets are written to by hand here, as no honest client does."""

import contextlib
import http.client
import json
import time

import pytest
from pictures import encode, picture

IMAGE = encode(picture())
POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


STRICT = {
    "head_timeout_s": 0.3,
    "linger_s": 0.3,
    "head_bytes": 2048,
    "image_bytes": 50_000,
    "request_bytes": 60_000,
}


@pytest.fixture(scope="module")
def strict(make_site, saved):
    with make_site(saved, limits=STRICT) as site:
        yield site


def read_answer(client):
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.status, json.loads(response.read())


def is_closed(client):
    """Waits until the other side has hung up."""
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET  /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /?" + b"a" * 3000, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1500, 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 3000, 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 3000 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused_and_cut(strict, sent, status):
    with strict.open() as client:
        client.sendall(sent)
        found, content = read_answer(client)
        assert (found, content["error"]["status"]) == (status, status)
        assert is_closed(client)
    assert strict.ask("GET", "/healthz")[0] == 200


def test_headers_that_come_too_slowly_are_refused(strict):
    with strict.open() as client:
        for byte in GET[:-2]:
            try:
                client.sendall(bytes([byte]))
            except ConnectionError:
                break
            time.sleep(0.02)
        status, content = read_answer(client)
        assert (status, content["error"]["reason"]) == (
            408, "line and headers must arrive within 0.3 s",
        )  # fmt: skip
        assert is_closed(client)


def test_who_says_nothing_is_cut(strict):
    with strict.open() as client:
        assert client.recv(10) == b""
    with strict.open() as client:
        client.sendall(GET)
        assert read_answer(client)[0] == 200
        # Empty lines before a request are allowed, but not for ever.
        with pytest.raises(ConnectionError):
            for _ in range(200):
                client.sendall(b"\r\n")
                time.sleep(0.02)


def test_the_next_request_has_its_own_time(strict):
    with strict.open() as client:
        for _ in range(3):
            client.sendall(GET[:20])
            time.sleep(0.15)
            client.sendall(GET[20:])
            assert read_answer(client)[0] == 200
            time.sleep(0.35)


def test_several_requests_at_once_are_answered_in_turn(strict):
    with strict.open() as client:
        client.sendall(GET + (POST % len(IMAGE)) + IMAGE + GET)
        file = client.makefile("rb")
        for _ in range(3):
            assert file.readline() == b"HTTP/1.1 200 OK\r\n"
            length = 0
            while (line := file.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split()[1])
            file.read(length)


def test_after_a_refusal_the_rest_is_read_and_the_connection_is_good_again(strict):
    with strict.open() as client:
        client.sendall(POST % 100_000)
        status, content = read_answer(client)
        assert (status, "60,000 bytes" in content["error"]["reason"]) == (413, True)
        client.sendall(bytes(100_000) + GET)
        assert read_answer(client)[0] == 200


def test_after_a_refusal_nobody_sends_for_ever(strict):
    with strict.open() as client:
        client.sendall(POST % 10_000_000)
        assert read_answer(client)[0] == 413
        with pytest.raises(ConnectionError):
            for _ in range(200):
                client.sendall(b"x")
                time.sleep(0.02)


def test_a_body_of_chunks_has_no_endless_tail(strict):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    for tail in (b"0\r\n" + b"A: b\r\n" * 2000, b"1;" + b"e" * 5000, b"0\r\nA: " + b"b" * 5000):
        with strict.open() as client:
            for piece in (head + b"1\r\nx\r\n", tail[:100], tail[100:1000], tail[1000:]):
                client.sendall(piece)
                time.sleep(0.05)
            assert read_answer(client)[0] == 431
            assert is_closed(client)


def test_who_hangs_up_early_leaves_nothing_behind(open_site, saved, caplog):
    strict = open_site(saved, limits=STRICT)
    for sent in (GET[:10], (POST % 100) + b"abc", (POST % len(IMAGE)) + IMAGE):
        with strict.open() as client:
            client.sendall(sent)
    for _ in range(1000):
        figures = strict.ask("GET", "/metrics")[2].decode()
        closed = 'topwork_requests_total{route="/predict",status="closed"} 1.0' in figures
        if closed and "topwork_queue_images 0.0" in figures:
            break
    else:
        raise AssertionError(figures)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_who_takes_no_answer_is_cut(open_site, saved):
    site = open_site(saved, limits={"receive_timeout_s": 0.3, "linger_s": 0.3})
    # Answers of megabytes, far more than the buffers between us hold.
    with site.open() as client, pytest.raises(ConnectionError):
        for _ in range(500):
            client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10)
            time.sleep(0.05)


def test_nobody_asks_for_very_much_at_once(strict):
    with strict.open() as client:
        client.sendall(GET * 100)
        answers = b""
        with contextlib.suppress(ConnectionError):
            while data := client.recv(65536):
                answers += data
        assert answers.count(b"HTTP/1.1 200") < 20


def test_there_are_only_so_many_connections(open_site, saved):
    site = open_site(saved, limits={"connections": 2})
    with site.open() as first, site.open() as second:
        for client in (first, second):
            client.sendall(GET)
            assert read_answer(client)[0] == 200
        with site.open() as third:
            status, content = read_answer(third)
            assert (status, "2 connections" in content["error"]["reason"]) == (503, True)
        first.sendall(GET)
        assert read_answer(first)[0] == 200
