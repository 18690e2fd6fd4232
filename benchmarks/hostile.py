"""Whether a server stays itself when one request in ten means it harm.

    python benchmarks/hostile.py MODEL DATA

Sends 20,000 requests. Most are photographs, and every answer has to be that of `Model.predict`.
One in ten is cut off, a decompression bomb, of a wrong type, with huge or slow headers, with a
wrong length, closed early or broken multipart. None may be answered with 5xx, and the server's
resident memory at the end may be 5 % more than after a quarter of the way at most.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import random
import socket
import struct
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from serving import start

from topwork.models.folder import load_model

CLOSE = 1e-2
GROWTH = 1.05
HEAD = "POST {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--photos", type=int, default=60)
    args = parser.parse_args()

    files = sorted(args.data.rglob("*.jpg"))
    places = np.linspace(0, len(files) - 1, args.photos).astype(int)
    photos = [files[n].read_bytes() for n in places]
    model = load_model(args.model)
    wanted = model.predict(photos).probabilities
    tops = [dict(zip(model.classes, map(float, row), strict=True)) for row in wanted]

    server, url = start(args.model, "--receive-timeout-s", "2")
    client = Client(int(url.rpartition(":")[2]), photos, tops)
    process, quarter = psutil.Process(server.pid), 0
    begun, sizes = time.perf_counter(), []
    try:
        with ThreadPoolExecutor(args.clients) as pool:
            for n, said in enumerate(pool.map(client.ask, range(args.requests)), 1):
                client.seen[said] += 1
                if n % (args.requests // 20) == 0:
                    sizes.append(process.memory_info().rss)
                    print(f"{n:>6} {sizes[-1] / 2**20:7.1f} MiB", flush=True)
        seconds = time.perf_counter() - begun
        quarter = sizes[4]
    finally:
        client.close()
        server.terminate()
        code = server.wait(120)
    print(f"\n{args.requests} requests in {seconds:.0f} s, the server ended with {code}\n")
    for said, count in sorted(client.seen.items()):
        print(f"{count:>7} {said}")
    growth = sizes[-1] / quarter
    print(f"\nresident memory at the end / after a quarter: {growth:.3f}")
    bad = [said for said in client.seen if ": 5" in said or said.endswith(", wrong")]
    assert not bad, bad
    assert growth <= GROWTH, growth
    assert code == 0, code


class Client:
    """Asks as everybody and as somebody who means harm."""

    def __init__(self, port: int, photos: list[bytes], tops: list[dict[str, float]]) -> None:
        self.seen: Counter[str] = Counter()
        self._port = port
        self._photos, self._tops = photos, tops
        self._left: deque[socket.socket] = deque()
        self._bombs = [make_png_bomb(30_000), make_gif_bomb(), make_text_bomb(), *make_scan_bomb()]
        self._ways: dict[str, Callable[[random.Random], str]] = {
            "cut body": self._cut,
            "bomb": self._bomb,
            "wrong type": self._wrong_type,
            "huge headers": self._huge_headers,
            "slow body": self._slow_body,
            "slow headers": self._slow_headers,
            "wrong length": self._wrong_length,
            "closed early": self._closed_early,
            "broken multipart": self._broken_multipart,
            "not HTTP": self._not_http,
        }

    def ask(self, number: int) -> str:
        """Makes one request and says what became of it."""
        dice = random.Random(number)
        if number % 10:
            return self._good(number)
        name = dice.choice([*self._ways])
        try:
            return f"{name}: {self._ways[name](dice)}"
        except (OSError, http.client.HTTPException):
            return f"{name}: cut"

    def close(self) -> None:
        """Hangs up wherever it has not yet."""
        while self._left:
            self._left.popleft().close()

    def _good(self, number: int) -> str:
        place = number % len(self._photos)
        for _ in range(100):
            status, content = self._post(self._photos[place])
            if status != 429:
                break
            time.sleep(1)
        if status != 200:
            return f"photograph: {status}"
        (found,) = content["results"]
        right = all(
            abs(entry["probability"] - self._tops[place][entry["label"]]) < CLOSE
            for entry in found["predictions"]
        )
        return f"photograph: 200, {'right' if right else 'wrong'}"

    def _post(
        self, body: bytes, kind: str = "image/jpeg", path: str = "/predict"
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        with contextlib.closing(connection):
            connection.request("POST", path, body, {"Content-Type": kind})
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def _open(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=120)

    def _send(self, *pieces: bytes) -> str:
        with self._open() as client:
            for piece in pieces:
                client.sendall(piece)
            answer = client.recv(65536)
            return answer[9:12].decode() if answer else "cut"

    def _cut(self, dice: random.Random) -> str:
        photo = dice.choice(self._photos)
        return str(self._post(photo[: dice.randrange(len(photo))])[0])

    def _bomb(self, dice: random.Random) -> str:
        return str(self._post(dice.choice(self._bombs))[0])

    def _wrong_type(self, dice: random.Random) -> str:
        body = dice.choice([b"<html>", b"%PDF-1.7", b"{}", dice.randbytes(5000), b"\0" * 100_000])
        kind = dice.choice(["text/html", "application/json", "image/png", "multipart/form-data"])
        return str(self._post(body, kind, dice.choice(["/predict", "/explain"]))[0])

    def _huge_headers(self, dice: random.Random) -> str:
        line = dice.choice(["A: " + "b" * 60_000, "\r\n".join(["A: b"] * 9000)])
        return self._send(HEAD.format(path="/predict", more=line + "\r\n").encode())

    def _slow_body(self, dice: random.Random) -> str:
        return self._send(HEAD.format(path="/predict", more="Content-Length: 999\r\n").encode())

    def _slow_headers(self, dice: random.Random) -> str:
        client = self._open()
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: loc")
        self._left.append(client)
        if len(self._left) > 100:
            self._left.popleft().close()
        return "left open"

    def _wrong_length(self, dice: random.Random) -> str:
        photo = dice.choice(self._photos)
        length = dice.choice(["-1", "1e3", "99999999999999999999999", str(len(photo) // 2), "2 3"])
        more = f"Content-Length: {length}\r\n"
        return self._send(HEAD.format(path="/predict", more=more).encode(), photo)

    def _closed_early(self, dice: random.Random) -> str:
        photo = dice.choice(self._photos)
        with self._open() as client:
            more = f"Content-Length: {len(photo)}\r\n"
            client.sendall(HEAD.format(path="/predict", more=more).encode())
            client.sendall(photo[: dice.randrange(len(photo) + 1)])
            if dice.random() < 0.5:  # with a reset
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return "hung up"

    def _broken_multipart(self, dice: random.Random) -> str:
        part = b"--b\r\nContent-Disposition: form-data; name=a; filename=a\r\n\r\n"
        body = dice.choice(
            [
                part + b"x",
                b"--b\r\n" + b"A: b\r\n" * 1000,
                b"--b\r\nA: " + b"b" * 100_000,
                part * 200,
                (part + b"x\r\n") * 2000 + b"--b--",
                b"--c\r\n",
                dice.randbytes(3000),
            ]
        )
        return str(self._post(body, "multipart/form-data; boundary=b")[0])

    def _not_http(self, dice: random.Random) -> str:
        return self._send(dice.choice([dice.randbytes(2000), b"\x16\x03\x01" * 50, b"GET\r\n\r\n"]))


def make_png_bomb(side: int) -> bytes:
    """A black picture of very many pixels."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


def make_gif_bomb() -> bytes:
    """A few bytes that say they are 65,535 by 65,535 pixels."""
    file = io.BytesIO()
    Image.new("P", (1, 1)).save(file, "GIF")
    data = bytearray(file.getvalue())
    data[6:10] = b"\xff" * 4
    return bytes(data)


def make_text_bomb() -> bytes:
    """A PNG with a comment that is 100 MB when it is unpacked."""
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "PNG")
    data = file.getvalue()
    body = b"zTXta\0\0" + zlib.compress(bytes(100_000_000), 9)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]


def make_scan_bomb() -> list[bytes]:
    """A progressive JPEG that repeats its last scan ten thousand times."""
    file = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    return [data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 10_000 + data[-2:]]


if __name__ == "__main__":
    main()
