import io
import struct
import zlib

import numpy as np
import pytest
from pictures import encode, picture
from PIL import Image

from topwork.core.config import Interpolation
from topwork.core.errors import ImageError
from topwork.images.decode import decode
from topwork.images.repair import find_exif
from topwork.images.thumbnails import read_header

FILTERS = (Interpolation.SAMPLED, Interpolation.NEAREST, Interpolation.BILINEAR)
PHOTO = picture(size=(64, 48))
PNG, JPEG = encode(PHOTO), encode(PHOTO, "JPEG", quality=95)
LARGE = zlib.compress(bytes(70 << 20))


def turned(number=6):
    exif = Image.Exif()
    exif[274] = number
    return exif.tobytes()


def chunk(name, content):
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(*chunks, at=33):
    return PNG[:at] + b"".join(chunks) + PNG[at:]


def segment(number, content):
    return bytes([0xFF, number]) + struct.pack(">H", len(content) + 2) + content


def jpeg(*segments):
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def webp(**parts):
    """A WebP with what `parts` name in its extended format."""
    flags = {"EXIF": 8, "ICCP": 32, "XMP": 4}
    plain = encode(PHOTO, "WEBP", lossless=True)[12:]
    head = struct.pack("<I", sum(flags[name] for name in parts))
    chunks = [(b"VP8X", head + struct.pack("<I", 63)[:3] + struct.pack("<I", 47)[:3])]
    chunks += [(b"ICCP", parts["ICCP"])] if "ICCP" in parts else []
    chunks += [(plain[:4], plain[8:])]
    chunks += [(n.ljust(4).encode(), parts[n]) for n in ("EXIF", "XMP") if n in parts]
    content = b"WEBP" + b"".join(
        name + struct.pack("<I", len(part)) + part + bytes(len(part) % 2) for name, part in chunks
    )
    return b"RIFF" + struct.pack("<I", len(content)) + content


METADATA = {
    "iCCP too large": png(chunk(b"iCCP", b"p\0\0" + LARGE)),
    "zTXt too large": png(chunk(b"zTXt", b"k\0\0" + LARGE)),
    "iTXt too large": png(chunk(b"iTXt", b"k\0\1\0\0\0" + LARGE)),
    "texts too many": png(*[chunk(b"tEXt", b"k\0" + b"y" * (1 << 20))] * 66),
    "zTXt after the pixels": png(chunk(b"zTXt", b"k\0\0" + LARGE), at=len(PNG) - 12),
    "zTXt packed otherwise": png(chunk(b"zTXt", b"k\0\5abc")),
    "tEXt with another checksum": png(chunk(b"tEXt", b"k\0abc")[:-1] + b"?"),
    "eXIf rubbish": png(chunk(b"eXIf", b"rubbish rubbish")),
    "eXIf cut off": png(chunk(b"eXIf", b"II*\0\x08\0\0\0\x05\0\x12\x01\x03\0")),
    "EXIF as text, rubbish": png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  99\nzz")),
    "pHYs short": png(chunk(b"pHYs", b"\0")),
    "gAMA short": png(chunk(b"gAMA", b"\0")),
    "cHRM short": png(chunk(b"cHRM", b"\0\0\0")),
    "sRGB empty": png(chunk(b"sRGB", b"")),
    "acTL short": png(chunk(b"acTL", b"\0")),
    "WebP EXIF rubbish": webp(EXIF=b"rubbish"),
    "WebP EXIF of another order": webp(EXIF=b"XX*\0\x08\0\0\0"),
    "WebP EXIF cut off": webp(EXIF=b"Exif\0\0II*\0\x08\0\0\0\x05\0"),
    "WebP profile rubbish": webp(ICCP=b"xxx", XMP=b"\xff\xfe<x"),
    "JPEG EXIF rubbish": jpeg(segment(0xE1, b"Exif\0\0rubbish!")),
    "JPEG profile short": jpeg(segment(0xE2, b"ICC_PROFILE\0\5")),
    "JPEG JFIF short": jpeg(segment(0xE0, b"JFIF\0")),
    "JPEG Adobe short": jpeg(segment(0xEE, b"Adobe")),
    "JPEG pictures rubbish": jpeg(segment(0xE2, b"MPF\0rubbish")),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_never_costs_a_picture(name):
    data = METADATA[name]
    plain = JPEG if name.startswith("JPEG") else PNG
    for interpolation in FILTERS:
        wanted = decode(plain, 32, interpolation)
        assert np.array_equal(decode(data, 32, interpolation), wanted)
    header = read_header(data)
    assert (header.width, header.height, header.orientation) == (64, 48, 1)


@pytest.mark.parametrize("broken", ["iCCP too large", "zTXt too large", "gAMA short"])
def test_what_says_which_way_up_it_is_stays(broken):
    bad = METADATA[broken][33 : -len(PNG) + 33]
    data = png(bad, chunk(b"eXIf", turned()[6:]))
    wanted = decode(encode(PHOTO, exif=turned()), 32, Interpolation.NEAREST)
    assert np.array_equal(decode(data, 32, Interpolation.NEAREST), wanted)
    data = jpeg(segment(0xE1, turned()), segment(0xE2, b"ICC_PROFILE\0\5"))
    wanted = decode(jpeg(segment(0xE1, turned())), 32, Interpolation.NEAREST)
    assert np.array_equal(decode(data, 32, Interpolation.NEAREST), wanted)


@pytest.mark.parametrize("interpolation", Interpolation)
@pytest.mark.parametrize("segments", [0, 1, 5, 9])
def test_exif_behind_other_segments_turns_under_every_filter(segments, interpolation):
    ramp = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None], 48, 0)
    start = encode(Image.fromarray(ramp).convert("RGB"), "JPEG", quality=95)
    before = segment(0xED, b"Photoshop 3.0\0" + bytes(64_000)) * segments
    exif = segment(0xE1, turned())
    late = start[:2] + before + exif + start[2:]
    assert find_exif(late) == 2 + len(before)
    found = decode(late, 32, interpolation)
    assert np.array_equal(found, decode(start[:2] + exif + start[2:], 32, interpolation))
    # Left is above, once it is turned.
    assert found[0, 0, 0] < 10
    assert found[-1, 0, 0] > 245


def test_a_jpeg_without_exif_has_none():
    assert find_exif(JPEG) == -1
    assert find_exif(b"\xff\xd8\xff") == -1
    assert find_exif(JPEG + segment(0xE1, turned())) == -1


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 30}, {"exif": turned()}]
)
@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_lacks_only_its_end_is_read(interpolation, options, kind):
    data = encode(PHOTO.convert(kind), "JPEG", **options)
    for cut in (1, 2):
        assert np.array_equal(
            decode(data[:-cut], 32, interpolation), decode(data, 32, interpolation)
        )


@pytest.mark.parametrize("cut", [20, 200, 900])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_what_lacks_pixels_is_refused(cut, kind):
    # A PNG ends with 12 bytes that hold no pixels, after a checksum.
    data = encode(PHOTO, kind)[: -cut - 20]
    with pytest.raises(ImageError, match=r"damaged or cut off|not an image"):
        decode(data, 32, Interpolation.NEAREST)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_other_formats_do_not_need_their_end_either(kind):
    data = encode(PHOTO, kind)
    wanted = decode(data, 32, Interpolation.NEAREST)
    assert np.array_equal(decode(data[:-1], 32, Interpolation.NEAREST), wanted)


def test_a_header_of_rubbish_is_refused():
    for data in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\0\x02", b"RIFF\0\0\0\0WEBP"):
        with pytest.raises(ImageError):
            read_header(data)
        with pytest.raises(ImageError):
            decode(data, 32, Interpolation.NEAREST)


def test_the_file_is_not_changed_where_nothing_is_wrong():
    with Image.open(io.BytesIO(JPEG)) as image:
        wanted = np.asarray(image.resize((32, 32), Image.Resampling.NEAREST))
    assert np.array_equal(decode(JPEG, 32, Interpolation.NEAREST), wanted)
