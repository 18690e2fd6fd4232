import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, encode_png, encode_tiff, picture
from PIL import Image, ImageOps

from topwork.core.config import Interpolation
from topwork.images.decode import FORMATS, decode
from topwork.serve.decoding import decode_upload
from topwork.serve.http_errors import UploadError
from topwork.serve.limits import Limits
from topwork.serve.uploads import Upload

LIMITS = Limits.create(image_pixels=10_000)


def insert_chunk(png, name, content):
    """A PNG with a chunk more after its header."""
    body = name + content
    chunk = struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]


def decode_one(data, sizes=(8,), limits=LIMITS):
    return decode_upload(Upload(data=bytearray(data)), sizes, Interpolation.BILINEAR, limits)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_measured_and_decoded(kind):
    data = encode(picture(), kind)
    found = decode_one(data, (8, 16))
    assert (found.width, found.height) == (40, 30)
    for size in (8, 16):
        wanted = decode(data, size, Interpolation.BILINEAR)
        np.testing.assert_array_equal(found.pixels[size], wanted)


def test_an_upload_is_read_in_the_range_of_the_model():
    data = encode_tiff(np.linspace(250, 320, 900).reshape(30, 30).astype(np.float32))
    upload = Upload(data=bytearray(data))
    found = decode_upload(upload, (8,), Interpolation.BILINEAR, LIMITS, "float32 250..320")
    wanted = decode(data, 8, Interpolation.BILINEAR, ranges="float32 250..320")
    np.testing.assert_array_equal(found.pixels[8], wanted)
    assert found.pixels[8].std() > 60


def test_broken_metadata_does_not_cost_an_upload():
    found = decode_one(encode(picture()))
    broken = insert_chunk(encode(picture()), b"gAMA", b"\0")
    again = decode_one(broken)
    assert (again.width, again.height) == (40, 30)
    np.testing.assert_array_equal(again.pixels[8], found.pixels[8])


def test_bands_are_named_in_the_answer(caplog):
    with pytest.raises(UploadError, match="7 channels of uint8") as raised:
        decode_one(encode_tiff(np.ones((8, 8, 7), np.uint8), 1))
    assert raised.value.status in (415, 422)
    assert not caplog.records


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_width_and_height_are_those_of_the_upright_picture(kind, turn):
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = turn
    picture().save(file, kind, exif=exif)
    found = decode_one(file.getvalue())
    with Image.open(file) as image:
        assert (found.width, found.height) == ImageOps.exif_transpose(image).size


def test_of_heic_the_decoder_says_how_it_lies():
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    heif.register_heif_opener()
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = 6
    picture().save(file, "HEIF", exif=exif)
    with Image.open(file) as image:
        image.load()
        size = image.size
    found = decode_one(file.getvalue())
    assert (found.width, found.height) == size


def test_a_picture_is_measured_before_it_is_decoded():
    # Its pixels are not even there.
    header = encode_png([b""] * 100_000, 100_000, 1, 0)
    for data in (encode(Image.new("1", (101, 100))), header):
        with pytest.raises(UploadError, match="10,000 pixels") as caught:
            decode_one(data)
        assert caught.value.status == 413
    assert decode_one(encode(Image.new("1", (100, 100)))).width == 100


def test_a_jpeg_of_very_many_scans_is_refused():
    data = encode(picture(), "JPEG", progressive=True)
    assert decode_one(data).width == 40
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(UploadError, match="100 scans"):
        decode_one(data[:-2] + scan * 100 + data[-2:])


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 422),
        (b"no image", 415),
        (b"<svg>", 415),
        (b"\xff\xd8\xff", 422),
        (bytes(4) + b"ftypheic" + bytes(20), 422),
        (encode(picture())[:60], 422),
    ],
)
def test_the_status_says_whether_it_is_an_image(data, status):
    with pytest.raises(UploadError) as caught:
        decode_one(data)
    assert caught.value.status == status


@given(st.sampled_from(FORMATS), st.integers(0, 400), st.binary(min_size=1, max_size=20))
def test_no_damage_makes_it_fail_otherwise(kind, place, patch):
    data = bytearray(encode(picture(size=(20, 15)), kind))
    data[place : place + len(patch)] = patch
    try:
        found = decode_one(data)
    except UploadError as error:
        assert error.status in (413, 415, 422)
    else:
        assert found.pixels[8].shape == (8, 8, 3)
