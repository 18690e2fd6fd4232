import io
import os
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, encode_png, encode_tiff, picture
from PIL import Image

from topwork.core.config import Interpolation
from topwork.core.errors import ImageError, SettingsError
from topwork.images.decode import SUFFIXES, decode, encode_array, image_hash, read_bytes

SIZE = 32
SHARPEST = Interpolation.NEAREST


def pixels(image, kind="PNG", interpolation=SHARPEST, **options):
    return decode(encode(image, kind, **options), SIZE, interpolation)


@pytest.mark.parametrize("interpolation", Interpolation)
def test_any_picture_becomes_a_square_of_rgb(interpolation):
    result = pixels(picture(size=(300, 200)), "JPEG", interpolation)
    assert result.shape == (SIZE, SIZE, 3)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous


def test_one_colour_stays_that_colour_under_every_filter():
    image = Image.new("RGB", (5, 90), (10, 120, 250))
    for interpolation in Interpolation:
        assert (pixels(image, interpolation=interpolation) == (10, 120, 250)).all()


def test_nearest_is_what_keras_load_img_gives():
    image = picture(size=(77, 45))
    assert np.array_equal(pixels(image), np.asarray(image.resize((SIZE, SIZE), Image.NEAREST)))


@pytest.mark.parametrize("size", [(8, 8), (31, 40), (50, 32), (60, 100)])
def test_sampled_is_bilinear_between_four_pixels(size):
    image = picture(size=size)
    values = np.asarray(image, np.float64)
    wanted = np.empty((SIZE, SIZE, 3))
    for row in range(SIZE):
        y = np.clip((row + 0.5) * size[1] / SIZE - 0.5, 0, size[1] - 1)
        for column in range(SIZE):
            x = np.clip((column + 0.5) * size[0] / SIZE - 0.5, 0, size[0] - 1)
            top, left = int(y), int(x)
            low, right = min(top + 1, size[1] - 1), min(left + 1, size[0] - 1)
            upper = values[top, left] * (1 - x % 1) + values[top, right] * (x % 1)
            lower = values[low, left] * (1 - x % 1) + values[low, right] * (x % 1)
            wanted[row, column] = upper * (1 - y % 1) + lower * (y % 1)
    assert np.abs(pixels(image, interpolation=Interpolation.SAMPLED) - wanted).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_sampled_halves_a_large_picture_first(kind):
    # Black and white columns: sampling alone would hit some columns only.
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    result = pixels(Image.fromarray(stripes), kind, Interpolation.SAMPLED)
    assert np.abs(result.astype(int) - 127).max() < 4


def test_a_jpeg_shrunk_while_decoded_is_close_to_one_shrunk_after():
    smooth = Image.fromarray(
        np.linspace(0, 255, 400 * 400 * 3).reshape(400, 400, 3).astype(np.uint8)
    )
    data = encode(smooth, "JPEG", quality=95)
    shrunk = decode(data, SIZE, Interpolation.BILINEAR).astype(int)
    with Image.open(io.BytesIO(data)) as image:
        whole = np.asarray(image.resize((SIZE, SIZE), Image.BILINEAR)).astype(int)
    assert np.abs(shrunk - whole).max() <= 4


def test_the_content_tells_the_format(tmp_path):
    path = tmp_path / "really-a-png.jpg"
    path.write_bytes(encode(picture()))
    assert decode(read_bytes(path), SIZE, SHARPEST).shape == (SIZE, SIZE, 3)


@pytest.fixture
def heif():
    """The package that writes and reads HEIC."""
    package = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    package.register_heif_opener()
    return package


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "AVIF", "TIFF", "PPM"])
def test_every_format_is_decoded(kind):
    red = pixels(Image.new("RGB", (50, 40), (200, 30, 30)), kind)
    assert np.abs(red.astype(int) - (200, 30, 30)).max() < 12


def test_cmyk_becomes_rgb():
    result = pixels(Image.new("CMYK", (50, 40), (0, 255, 255, 0)), "JPEG")
    assert (result[..., 0] > 200).all()
    assert (result[..., 1:] < 60).all()


def test_16_bits_are_scaled_and_not_cut():
    ramp = np.linspace(0, 65535, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    result = pixels(Image.fromarray(ramp))
    assert np.abs(result[..., 0] - ramp / 257.0).max() <= 1


def grey(data):
    """The grey values of a decoded picture of SIZE x SIZE."""
    result = decode(data, SIZE, SHARPEST)
    assert (result == result[..., :1]).all()
    return result[..., 0].astype(int)


def ramp(low, high, dtype):
    return np.linspace(low, high, SIZE * SIZE).reshape(SIZE, SIZE).astype(dtype)


WIDE = {
    "16 bits": (ramp(0, 65535, np.uint16), {}, 0, 65535),
    "16 bits, few of them used": (ramp(0, 200, np.uint16), {}, 0, 65535),
    "16 bits of Motorola": (ramp(0, 65535, np.uint16), {"order": ">"}, 0, 65535),
    "12 bits": (ramp(0, 4095, np.uint16), {"bits": 12}, 0, 4095),
    "signed": (ramp(-32768, 32767, np.int16), {}, -32768, 32767),
    "signed, of Motorola": (ramp(-32768, 32767, np.int16), {"order": ">"}, -32768, 32767),
    "signed and positive": (ramp(0, 30000, np.int16), {}, 0, 32767),
    "32 bits": (ramp(0, 2**32 - 1, np.uint32), {}, 0, 2**32 - 1),
    "32 bits, 16 used": (ramp(0, 60000, np.uint32), {}, 0, 65535),
    "32 bits, 8 used": (ramp(0, 250, np.uint32), {}, 0, 255),
    "signed 32 bits": (ramp(-1000, 300_000, np.int32), {}, -1000, 300_000),
    "shares": (ramp(0, 1, np.float32), {}, 0, 1),
    "shares, of Motorola": (ramp(0, 0.5, np.float32), {"order": ">"}, 0, 1),
    "floating 8 bits": (ramp(0, 255, np.float32), {}, 0, 255),
    "floating 16 bits": (ramp(0, 40_000, np.float32), {}, 0, 65535),
    "around zero": (ramp(-2, 1, np.float32), {}, -2, 1),
}


@pytest.mark.parametrize("name", WIDE)
def test_wide_and_floating_tiffs_are_scaled_from_black_to_white(name):
    values, options, low, high = WIDE[name]
    wanted = (values.astype(np.float64) - low) / (high - low) * 255
    assert np.abs(grey(encode_tiff(values, **options)) - wanted).max() <= 0.51


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_in_which_zero_is_white_is_no_negative(dtype):
    top = 1 if dtype is np.float32 else np.iinfo(dtype).max
    values = ramp(0, top, dtype)
    wanted = 255 - values.astype(np.float64) / top * 255
    assert np.abs(grey(encode_tiff(values, photometric=0)) - wanted).max() <= 0.51


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    values = ramp(0, 1, np.float32)
    values[3, 3] = value
    with pytest.raises(ImageError, match="not finite"):
        decode(encode_tiff(values), SIZE, SHARPEST)


@pytest.mark.parametrize("top", [4095, 65535])
@pytest.mark.parametrize("share", [1, 0.002])
def test_wide_portable_maps_are_scaled_by_what_they_say(top, share):
    values = ramp(0, top * share, np.uint16)
    data = b"P5 %d %d %d\n" % (SIZE, SIZE, top) + values.astype(">u2").tobytes()
    assert np.abs(grey(data) - values / top * 255).max() <= 0.51


def colors(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 65536, (SIZE, SIZE, shape)).astype(np.uint16)


def rows(values):
    return [row.astype(">u2").tobytes() for row in values]


def test_16_bits_of_colour_are_scaled():
    values = colors(3)
    for data in (
        encode_tiff(values, 2),
        encode_tiff(values, 2, order=">"),
        encode_png(rows(values), SIZE, 16, 2),
        b"P6 %d %d 65535\n" % (SIZE, SIZE) + b"".join(rows(values)),
    ):
        assert np.abs(decode(data, SIZE, SHARPEST) - values / 257).max() <= 1


def on_white(values, alpha):
    return values * alpha + 255 * (1 - alpha)


def test_16_bits_of_colour_and_transparency_are_laid_on_white():
    values = colors(4)
    wanted = on_white(values[..., :3] / 257, values[..., 3:] / 65535)
    for data in (encode_png(rows(values), SIZE, 16, 6), encode_tiff(values, 2, extra=2)):
        assert np.abs(decode(data, SIZE, SHARPEST) - wanted).max() <= 2.5
    wanted = on_white(values[..., 0] / 257, values[..., 1] / 65535)
    assert np.abs(grey(encode_png(rows(values[..., :2]), SIZE, 16, 4)) - wanted).max() <= 2.5


@pytest.mark.parametrize("extra", [1, 2])
@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_of_a_tiff_whether_multiplied_or_not(channels, extra):
    values = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, channels)).astype(np.uint8)
    alpha = values[..., -1:] / 255
    if extra == 1:
        values[..., :-1] = values[..., :-1] * alpha
        wanted = values[..., :-1] + 255 * (1 - alpha)
    else:
        wanted = on_white(values[..., :-1], alpha)
    data = encode_tiff(values, 1 if channels == 2 else 2, extra=extra)
    assert np.abs(decode(data, SIZE, SHARPEST) - wanted).max() <= 2


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_is_white_in_every_depth(depth):
    top = 2**depth - 1
    values = np.tile(np.arange(SIZE) % min(top + 1, SIZE), (SIZE, 1)) * max(1, top // 31)
    chosen = int(values[0, 1])
    bits = ["".join(f"{value:0{depth}b}" for value in row) for row in values]
    data = encode_png(
        [int(row, 2).to_bytes(SIZE * depth // 8, "big") for row in bits],
        SIZE, depth, 0, chosen.to_bytes(2, "big"),
    )  # fmt: skip
    wanted = np.where(values == chosen, 255, values / top * 255)
    assert np.abs(grey(data) - wanted).max() <= 0.51


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_a_png_is_white_in_every_depth(depth):
    values = colors(3) >> (16 - depth)
    chosen = values[5, 7]
    kept = [row.tobytes() for row in values.astype(">u2" if depth == 16 else np.uint8)]
    data = encode_png(kept, SIZE, depth, 2, chosen.astype(">u2").tobytes())
    wanted = values / (2**depth - 1) * 255
    wanted[(values == chosen).all(axis=2)] = 255
    assert np.abs(decode(data, SIZE, SHARPEST) - wanted).max() <= 1


def test_a_palette_with_transparency_is_laid_on_white():
    palette = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)
    alpha = np.random.default_rng(2).integers(0, 256, 256).astype(np.uint8)
    places = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
    data = encode_png(
        [row.tobytes() for row in places], SIZE, 8, 3, alpha.tobytes(), palette.tobytes()
    )
    wanted = on_white(palette[places], alpha[places][..., None] / 255)
    assert np.abs(decode(data, SIZE, SHARPEST) - wanted).max() <= 2


def test_cmyk_and_ycbcr_tiffs_become_rgb():
    values = np.random.default_rng(5).integers(0, 256, (SIZE, SIZE, 4)).astype(np.uint8)
    wanted = (255 - values[..., :3].astype(float)) * (255 - values[..., 3:]) / 255
    assert np.abs(decode(encode_tiff(values, 5), SIZE, SHARPEST) - wanted).max() <= 1.01
    # Source: JFIF 1.02, conversion to and from RGB.
    values[..., 0] //= 2
    values[..., 1:] = 112 + values[..., 1:] // 8
    y, blue, red = np.moveaxis(values[..., :3].astype(float), 2, 0)
    wanted = np.stack(
        [
            y + 1.402 * (red - 128),
            y - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
            y + 1.772 * (blue - 128),
        ],
        axis=2,
    )
    data = encode_tiff(np.ascontiguousarray(values[..., :3]), 6)
    assert np.abs(decode(data, SIZE, SHARPEST) - wanted.clip(0, 255)).max() <= 2


def lab_to_srgb(lightness, a, b):
    """Source: CIE 15:2004, 8.2.1; IEC 61966-2-1, with Bradford's adaptation of D50 to D65."""
    fy = (lightness + 16) / 116
    f = np.stack([fy + a / 500, fy, fy - b / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.96422, 1, 0.82521)
    matrix = [
        (3.1338561, -1.6168667, -0.4906146),
        (-0.9787684, 1.9161415, 0.0334540),
        (0.0719453, -0.2289914, 1.4052427),
    ]
    linear = np.clip(xyz @ np.array(matrix).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_lab_becomes_rgb():
    generator = np.random.default_rng(6)
    # Not so dark or colourful that a step of 8 bits would be a large one.
    lightness = generator.integers(110, 200, (SIZE, SIZE))
    a, b = generator.integers(-15, 15, (2, SIZE, SIZE))
    values = np.stack([lightness, a % 256, b % 256], axis=2).astype(np.uint8)
    wanted = lab_to_srgb(lightness / 2.55, a, b)
    assert np.abs(decode(encode_tiff(values, 8), SIZE, SHARPEST) - wanted).max() <= 3


def test_transparency_is_laid_on_white():
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert (pixels(palette, transparency=0) == 255).all()
    assert (pixels(Image.new("RGBA", (20, 20), (0, 0, 0, 0))) == 255).all()
    half = pixels(Image.new("LA", (20, 20), (0, 128)))
    assert np.abs(half.astype(int) - 127).max() <= 1


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "AVIF", "TIFF", "MPO"):
        result = pixels(frames[0], kind, save_all=True, append_images=frames[1:])
        assert (result[..., 0] > 200).all()
        assert (result[..., 2] < 60).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_exif_orientation_is_applied(orientation, kind, request):
    if kind == "HEIF":
        request.getfixturevalue("heif")
    upright = np.zeros((64, 64, 3), np.uint8)
    upright[:32, :32] = (250, 0, 0)
    upright[:32, 32:] = (0, 250, 0)
    turn_back = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turn_back[orientation](upright)))
    # Of HEIF, the decoder turns what it is told beside the EXIF, which stays.
    data = encode(stored, kind, exif=exif.tobytes(), quality=95)
    result = decode(data, SIZE, SHARPEST).astype(int)
    assert result[4, 4, 0] > 200
    assert result[4, -4, 1] > 200
    assert result[-4].max() < 60


def test_16_bits_are_turned_too():
    values = ramp(0, 65535, np.uint16)
    exif = Image.Exif()
    exif[274] = 6
    data = encode(Image.fromarray(values), "PNG", exif=exif.tobytes())
    assert np.abs(grey(data) - np.rot90(values, -1) / 257).max() <= 0.51


def test_what_is_only_a_record_in_heic_turns_nothing(heif):
    exif = Image.Exif()
    exif[274] = 6
    stored = Image.fromarray(np.repeat(np.array([[0], [200]], np.uint8), 64, 0).repeat(128, 1))
    # An object is stored and, unlike bytes, not looked into for the rotation.
    data = encode(stored.convert("RGB"), "HEIF", exif=exif, quality=95)
    assert b"Exif" in data
    assert b"irot" not in data
    result = decode(data, SIZE, SHARPEST)
    assert result[4].max() < 20
    assert result[-4].min() > 180


def test_the_record_in_heic_turns_nothing_even_if_the_package_shows_it(heif, monkeypatch):
    exif = Image.Exif()
    exif[274] = 3
    stored = picture(size=(64, 48))
    data = heic(stored, exif=exif.tobytes())
    wanted = decode(data, SIZE, SHARPEST)
    monkeypatch.setattr("pillow_heif.as_plugin.set_orientation", lambda _: None)
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[274] == 3
    assert np.array_equal(decode(data, SIZE, SHARPEST), wanted)


def test_avif_that_also_follows_the_rules_of_heic_stays_avif(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = encode(picture(), "AVIF")
    both = data.replace(b"miaf", b"heic", 1)
    assert both != data
    assert np.array_equal(decode(both, SIZE, SHARPEST), decode(data, SIZE, SHARPEST))


def test_one_pixel_is_enough():
    assert (pixels(Image.new("RGB", (1, 1), (9, 8, 7))) == (9, 8, 7)).all()


def test_fifty_megapixels_are_decoded():
    image = Image.new("RGB", (10_000, 5_000), (1, 200, 3))
    for interpolation in (Interpolation.SAMPLED, Interpolation.NEAREST):
        assert np.abs(pixels(image, "JPEG", interpolation).astype(int) - (1, 200, 3)).max() < 5


def test_a_decompression_bomb_is_refused():
    bomb = encode(Image.new("1", (20_000, 20_000)))
    with pytest.raises(ImageError, match="limit of 179 million pixels"):
        decode(bomb, SIZE, SHARPEST)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_between_the_warning_and_the_limit_a_large_picture_passes():
    large = encode(Image.new("1", (10_000, 9_000)))
    assert decode(large, SIZE, SHARPEST).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"  \n<html>", "web page"),
        (b"\xff\xd8\xff\xe0 nothing more", "damaged or cut off"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "HEIC"),
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1heicmiaf", "HEIC"),
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf", "not an image"),
        (b"GIF89a", "not an image"),
        (b"hello", "not an image"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data, SIZE, SHARPEST)


def heic(image, **options):
    return encode(image, "HEIF", quality=95, **options)


def test_heic_is_decoded(heif):
    image = picture(size=(64, 48))
    wanted = np.asarray(image.resize((SIZE, SIZE), Image.NEAREST)).astype(int)
    result = decode(heic(image, chroma=444), SIZE, SHARPEST)
    assert np.abs(result - wanted).mean() < 4
    assert np.abs(grey(heic(Image.new("L", (40, 40), 77))) - 77).max() <= 2
    half = Image.new("RGBA", (40, 40), (200, 40, 40, 128))
    wanted = on_white(np.array([200, 40, 40]), 128 / 255)
    assert np.abs(decode(heic(half), SIZE, SHARPEST) - wanted).max() <= 4


def test_heic_of_more_than_8_bits_is_scaled(heif):
    values = (colors(3) // 4 + 20_000).astype(np.uint16)
    file = io.BytesIO()
    heif.from_bytes("RGB;16", (SIZE, SIZE), values.tobytes()).save(file, quality=-1, chroma=444)
    with Image.open(io.BytesIO(file.getvalue())) as image:
        assert image.info["bit_depth"] == 10
    assert np.abs(decode(file.getvalue(), SIZE, SHARPEST) - values / 257).max() <= 3


def test_of_several_pictures_in_a_heic_the_primary_one_is_taken(heif):
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    for place, channel in ((0, 0), (1, 2)):
        data = heic(red, save_all=True, append_images=[blue], primary_index=place)
        assert decode(data, SIZE, SHARPEST)[..., channel].min() > 200


def test_pillow_learns_of_heic_when_the_first_comes_from_whichever_thread(heif, monkeypatch):
    data, png = heic(picture(size=(64, 48))), encode(picture())
    wanted = decode(data, SIZE, SHARPEST)
    options = {name: value for name, value in vars(heif.options).items() if name.isupper()}
    monkeypatch.delitem(Image.OPEN, "HEIF")
    decode(png, SIZE, SHARPEST)
    assert "HEIF" not in Image.OPEN
    results = []
    start = threading.Barrier(8)

    def work():
        start.wait()
        results.append(decode(data, SIZE, SHARPEST))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(np.array_equal(result, wanted) for result in results)
    assert "HEIF" in Image.OPEN
    assert options == {name: vars(heif.options)[name] for name in options}


def test_heic_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"pip install 'topwork\[heic\]'"):
        decode(b"\x00\x00\x00\x18ftypheic\x00\x00", SIZE, SHARPEST)


@pytest.mark.parametrize("name", ["a.heic", "a.heif", "a.hif", "a.avif"])
def test_files_of_phones_and_cameras_count_as_images(name):
    assert name[1:] in SUFFIXES


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "HEIF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
def test_a_truncated_image_is_refused(kind, share, request):
    if kind == "HEIF":
        request.getfixturevalue("heif")
    data = encode(picture(size=(200, 150)), kind)
    with pytest.raises(ImageError):
        decode(data[: int(len(data) * share)], SIZE, SHARPEST)


@given(
    st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_bytes_give_pixels_or_a_reason_and_nothing_else(kind, changes):
    data = bytearray(encode(picture(size=(24, 20)), kind))
    for place, value in changes:
        data[int(place * len(data))] = value
    try:
        result = decode(bytes(data), SIZE, SHARPEST)
    except ImageError as error:
        assert str(error)
    else:
        assert result.shape == (SIZE, SIZE, 3)


@given(st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_heic_gives_pixels_or_a_reason_and_nothing_else(changes):
    package = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    package.register_heif_opener()
    data = bytearray(heic(picture(size=(24, 20))))
    for place, value in changes:
        data[int(place * len(data))] = value
    try:
        assert decode(bytes(data), SIZE, SHARPEST).shape == (SIZE, SIZE, 3)
    except ImageError as error:
        assert str(error)


@given(st.binary(max_size=400))
def test_random_bytes_are_refused(data):
    with pytest.raises(ImageError):
        decode(data, SIZE, SHARPEST)


def test_unreadable_files_say_why(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_bytes(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="folder"):
        read_bytes(tmp_path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match="0 bytes"):
        read_bytes(tmp_path / "empty.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        read_bytes(tmp_path / "nul\0.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_or_device_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "device.jpg"):
        with pytest.raises(ImageError, match="pipe or device"):
            read_bytes(tmp_path / name)


def test_a_file_larger_than_the_memory_is_refused(tmp_path, monkeypatch):
    def refuse(_):
        raise MemoryError

    (tmp_path / "huge.jpg").touch()
    monkeypatch.setattr(type(tmp_path), "read_bytes", refuse)
    with pytest.raises(ImageError, match="memory"):
        read_bytes(tmp_path / "huge.jpg")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_a_file_without_permission_says_so(tmp_path):
    path = tmp_path / "locked.png"
    path.write_bytes(encode(picture()))
    path.chmod(0)
    with pytest.raises(ImageError, match="permission"):
        read_bytes(path)


def test_permission_is_reported_for_any_user(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "locked.png").touch()
    monkeypatch.setattr(type(tmp_path), "read_bytes", refuse)
    with pytest.raises(ImageError, match="permission"):
        read_bytes(tmp_path / "locked.png")


def test_hash_is_of_the_bytes():
    assert image_hash(b"abc").startswith("ba7816bf")


@pytest.mark.parametrize("shape", [(7, 9), (7, 9, 3), (7, 9, 4), (7, 9, 1)])
def test_arrays_survive_encoding(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with Image.open(io.BytesIO(encode_array(array))) as image:
        assert np.array_equal(np.asarray(image), array.squeeze())


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(SettingsError, match="uint8"):
        encode_array(array)


@pytest.mark.parametrize("interpolation", Interpolation)
def test_the_original_is_the_view_without_a_name(interpolation):
    data = encode(picture(size=(77, 45)))
    named = decode(data, SIZE, interpolation, "original")
    assert np.array_equal(decode(data, SIZE, interpolation), named)
