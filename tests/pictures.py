"""Generated pictures, and folders full of them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (30, 170, 60), "red": (200, 40, 40)}


def picture(colour=(200, 40, 40), *, size=(40, 30), seed=0):
    """Returns a picture of noise around a colour."""
    noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def encode_tiff(values, photometric=1, *, bits=None, order="<", extra=None):
    """A plain TIFF of an array (H, W) or (H, W, C): of kinds that Pillow reads and never writes.

    With `bits` of 12, two values are packed into three bytes.
    """
    values = np.asarray(values)
    height, width, channels = (*values.shape, 1)[:3]
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    depth = bits or values.dtype.itemsize * 8
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    if bits == 12:
        digits = "".join(f"{value:012b}" for value in values.ravel())
        data = int(digits, 2).to_bytes(len(digits) // 8, "big")
    tags = {256: width, 257: height, 258: depth, 259: 1, 262: photometric, 273: 0, 277: channels,
            278: height, 279: len(data), 338: extra, 339: kind}  # fmt: skip
    tags = {tag: value for tag, value in tags.items() if value is not None}
    # Header, number of tags, tags, end; then the two lists that have a value for each channel.
    lists = 8 + 2 + 12 * len(tags) + 4
    tags[273] = lists + 4 * channels
    entries = b""
    for tag, value in tags.items():
        if tag in (258, 339) and channels > 2:
            place = lists + (2 * channels if tag == 339 else 0)
            entries += struct.pack(f"{order}HHII", tag, 3, channels, place)
        elif tag in (258, 339):
            entry = struct.pack(f"{order}HHI", tag, 3, channels)
            entries += entry + struct.pack(f"{order}{channels}H", *[value] * channels).ljust(
                4, b"\0"
            )
        else:
            entries += struct.pack(f"{order}HHII", tag, 4, 1, value)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(tags))
    each = struct.pack(f"{order}{channels}H", *[depth] * channels)
    each += struct.pack(f"{order}{channels}H", *[kind] * channels)
    return head + entries + bytes(4) + each + data


def encode_png(rows, width, depth, colour, transparent=b"", palette=b""):
    """A PNG of rows of bytes, in any depth and colour type, with a transparent colour."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"PLTE", palette) if palette else b"",
            chunk(b"tRNS", transparent) if transparent else b"",
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            chunk(b"IEND", b""),
        ]
    )


def fill(folder, count, colour, start=0):
    """Writes `count` pictures of a colour into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(start, start + count):
        (folder / f"{n:03}.png").write_bytes(encode(picture(colour, seed=n)))


def make_photos(root, *, train=8, validation=4, test=4):
    """Writes a data set of three colours, divided into splits."""
    start = 0
    for split, count in (("train", train), ("validation", validation), ("test", test)):
        for name, colour in COLOURS.items():
            if count:
                fill(root / split / name, count, colour, start)
            start += count
    return root
