import io

import numpy as np
import pytest
from pictures import encode, encode_png, encode_tiff
from PIL import Image

from topwork.core.config import Interpolation
from topwork.core.ranges import Kind
from topwork.images.decode import FORMATS, decode
from topwork.images.depth import find_kind, read_values

SIZE = 24


def read(data, ranges=""):
    return decode(data, SIZE, Interpolation.NEAREST, ranges=ranges).astype(int)


def ramp(low, high, dtype):
    return np.linspace(low, high, SIZE * SIZE).reshape(SIZE, SIZE).astype(dtype)


def rows(values):
    return [row.astype(">u2").tobytes() for row in values]


def colors(top, channels=3, seed=0):
    shape = SIZE, SIZE, channels
    return np.random.default_rng(seed).integers(0, top + 1, shape).astype(np.uint16)


def png(values):
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]]
    return encode_png(rows(values), SIZE, 16, kind)


GRAY = {
    "kelvin": (encode_tiff(ramp(250, 320, np.float32)), Kind.FLOAT32, 250, 320),
    "below zero": (encode_tiff(ramp(-300, 600, np.float32)), Kind.FLOAT32, -300, 600),
    "a little above 1": (encode_tiff(ramp(0, 1.003, np.float32)), Kind.FLOAT32, 0, 1),
    "12 bits in 16": (encode(Image.fromarray(ramp(0, 4095, np.uint16))), Kind.UINT16, 0, 4095),
    "12 in 16, TIFF": (encode_tiff(ramp(0, 4095, np.uint16)), Kind.UINT16, 0, 4095),
    "Motorola": (encode_tiff(ramp(0, 1023, np.uint16), order=">"), Kind.UINT16, 0, 1023),
    "signed": (encode_tiff(ramp(-1000, 2000, np.int16)), Kind.INT16, -1000, 2000),
    "32 bits": (encode_tiff(ramp(-50, 9000, np.int32)), Kind.INT32, -50, 9000),
    "unsigned 32": (encode_tiff(ramp(0, 2**32 - 1, np.uint32)), Kind.UINT32, 0, 2**32 - 1),
    "map": (
        b"P5 %d %d 65535\n" % (SIZE, SIZE) + ramp(0, 4095, np.uint16).astype(">u2").tobytes(),
        Kind.UINT16, 0, 4095,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GRAY)
def test_grey_is_scaled_from_the_black_to_the_white_that_are_said(name):
    data, kind, low, high = GRAY[name]
    found, values = read_values(data, FORMATS)
    assert found is kind
    wanted = np.clip((values.reshape(SIZE, SIZE).astype(float) - low) / (high - low), 0, 1) * 255
    assert np.abs(read(data, f"{kind} {low}..{high}")[..., 0] - wanted).max() <= 0.51
    assert np.abs(read(data, f"{low}..{high}")[..., 0] - wanted).max() <= 0.51


def test_what_is_beyond_is_black_and_white():
    data = encode_tiff(ramp(-10, 20, np.float32))
    found = read(data, "0..10")
    assert found.min() == 0
    assert found.max() == 255
    assert (found == 0).mean() == pytest.approx(1 / 3, abs=0.02)
    assert (found == 255).mean() == pytest.approx(1 / 3, abs=0.02)


def test_in_a_negative_white_is_low():
    values = ramp(0, 4095, np.uint16)
    found = read(encode_tiff(values, photometric=0), "0..4095")[..., 0]
    assert np.abs(found - (255 - values / 4095 * 255)).max() <= 0.51


@pytest.mark.parametrize("bits", [10, 12, 14, 15])
def test_all_bits_of_colors_are_read(bits):
    top = 2**bits - 1
    values = colors(top)
    for data in (png(values), encode_tiff(values, 2), encode_tiff(values, 2, order=">")):
        assert np.abs(read(data, f"uint16 0..{top}") - values / top * 255).max() <= 0.51


def test_all_bits_of_a_compressed_tiff_are_read():
    values = colors(4095)
    plain = Image.open(io.BytesIO(encode_tiff(values, 2)))
    assert find_kind(plain) is Kind.UINT16
    # libtiff gives values in this machine's order.
    gray = encode(Image.fromarray(values[..., 0]), "TIFF", compression="tiff_deflate")
    assert np.abs(read(gray, "0..4095")[..., 0] - values[..., 0] / 4095 * 255).max() <= 0.51


@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_keeps_its_own_range(channels):
    values = colors(4095, channels)
    values[..., -1] = np.where(values[..., -1] > 2000, 65535, 0)
    alpha = values[..., -1:] / 65535
    wanted = values[..., :-1] / 4095 * 255 * alpha + 255 * (1 - alpha)
    assert np.abs(read(png(values), "uint16 0..4095") - wanted).max() <= 1.01


def test_the_transparent_color_is_known_by_all_its_bits():
    values = colors(4095)
    hidden = values[3, 4]
    data = encode_png(rows(values), SIZE, 16, 2, hidden.astype(">u2").tobytes())
    wanted = values / 4095 * 255
    wanted[(values == hidden).all(axis=2)] = 255
    assert np.abs(read(data, "uint16 0..4095") - wanted).max() <= 1


@pytest.mark.parametrize("name", GRAY)
def test_without_a_word_every_file_is_read_as_before(name):
    data, kind, *_ = GRAY[name]
    other = Kind.INT16 if kind is not Kind.INT16 else Kind.FLOAT32
    assert np.array_equal(read(data), read(data, f"{other} -5..5"))


@pytest.mark.parametrize("values", [colors(65535), colors(65535, 4, seed=1)])
def test_16_full_bits_are_what_they_are_without_a_word(values):
    assert np.array_equal(read(png(values)), read(png(values), "uint16 0..65535"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_8_bits_have_no_range(kind):
    data = encode(Image.fromarray(np.uint8(colors(255))), kind)
    assert read_values(data, FORMATS) is None
    assert np.array_equal(read(data), read(data, "0..100"))


def test_a_file_that_says_its_bits_needs_no_range():
    data = encode_tiff(ramp(0, 4095, np.uint16), bits=12)
    assert read_values(data, FORMATS) is None
    assert np.array_equal(read(data), read(data, "0..100"))


def test_values_that_are_nothing_do_not_count():
    values = ramp(250, 320, np.float32)
    values[:4] = -9999
    plain = encode_tiff(values)
    image = Image.open(io.BytesIO(plain))
    tags = image.tag_v2
    tags[42113] = "-9999"
    data = encode(image, "TIFF", tiffinfo=tags)
    assert read_values(plain, FORMATS)[1].min() == -9999
    assert read_values(data, FORMATS)[1].min() >= 250
