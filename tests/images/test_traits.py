import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, encode_png, encode_tiff, picture
from PIL import Image

from topwork.images.decode import FORMATS
from topwork.images.traits import FIRST_BYTES, Trait, find_paper, find_traits, looks_like_image

WIDE = np.arange(64, dtype=np.uint16).reshape(8, 8)


def png(depth, color, **options):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    return encode_png([bytes(8 * channels * depth // 8)] * 8, 8, depth, color, **options)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (encode(picture(), "JPEG"), Trait.NONE),
        (encode(picture(), "BMP"), Trait.NONE),
        (encode(picture(), "WEBP"), Trait.NONE),
        (encode(picture(), "TIFF"), Trait.NONE),
        (encode(picture(), "PPM"), Trait.NONE),
        (encode(picture(), "AVIF"), Trait.NONE),
        (png(8, 2), Trait.NONE),
        (png(16, 0), Trait.DEEP),
        (png(16, 2), Trait.DEEP),
        (png(16, 6), Trait.DEEP | Trait.CLEAR),
        (png(8, 4), Trait.CLEAR),
        (png(8, 0, transparent=b"\0\0"), Trait.CLEAR),
        (encode(picture().convert("RGBA"), "WEBP"), Trait.NONE),
        (encode(Image.new("RGBA", (9, 9), (1, 2, 3, 4)), "WEBP"), Trait.CLEAR),
        (encode(picture().quantize(9), "GIF", transparency=1), Trait.CLEAR),
        (encode(picture().quantize(9), "GIF"), Trait.NONE),
        (encode_tiff(WIDE), Trait.DEEP),
        (encode_tiff(WIDE.astype(np.float32)), Trait.DEEP),
        (encode_tiff(WIDE, bits=12), Trait.NONE),
        (encode_tiff(np.ones((8, 8, 7), np.uint8)), Trait.NONE),
        (b"P5 8 8 65535\n" + WIDE.tobytes(), Trait.DEEP),
        (b"text", Trait.NONE),
        (b"", Trait.NONE),
    ],
)
def test_what_a_header_tells(data, wanted):
    assert find_traits(data) == wanted


@given(st.binary(max_size=100))
def test_any_bytes_have_traits(data):
    assert find_traits(data) in range(4)
    assert find_traits(b"\x89PNG\r\n\x1a\n" + data) in range(4)
    assert looks_like_image(data) in (True, False)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_known_by_its_first_bytes(kind):
    assert looks_like_image(encode(picture(), kind)[:FIRST_BYTES])
    assert looks_like_image(encode(picture().convert("L"), kind)[:FIRST_BYTES])


@pytest.mark.parametrize(
    "start",
    [b"", b"BMW and other cars, a list", b"P7 is no image", b"PK\3\4", b"%PDF-1.7", b"{}",
     b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypmp42", b"GIF is a format", b"# Read me\n", b"P6x"],
)  # fmt: skip
def test_other_files_do_not_look_like_images(start):
    assert not looks_like_image(start)


def test_the_paper_of_a_file():
    assert find_paper(encode(Image.new("RGBA", (9, 9), (255, 255, 255, 0)))) is None
    assert find_paper(encode(picture())) == "white"
    light = Image.new("RGBA", (9, 9), (255, 255, 255, 0))
    light.paste((255, 255, 255, 255), (2, 2, 7, 7))
    assert find_paper(encode(light)) == "black"
