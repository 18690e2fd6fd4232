import io

import numpy as np
import pytest
from pictures import encode, encode_tiff, picture
from PIL import Image, ImageCms

from topwork.core.config import Interpolation
from topwork.core.errors import SettingsError
from topwork.data.sources import as_source
from topwork.images.decode import decode
from topwork.images.encode import encode_image

SIZE = 32
RAMP = np.stack(
    [
        np.tile(np.linspace(0, 255, 80), (60, 1)),
        np.tile(np.linspace(0, 255, 60)[:, None], (1, 80)),
        np.full((60, 80), 90),
    ],
    axis=2,
).astype(np.uint8)
PHOTO = Image.fromarray(RAMP)


def turned():
    exif = Image.Exif()
    exif[274] = 6
    return exif


def translucent():
    image = PHOTO.convert("RGBA")
    image.putalpha(PHOTO.convert("L"))
    return image


def lab():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(PHOTO, *profiles, outputMode="LAB")


FILES = {
    "RGB": encode(PHOTO),
    "EXIF in JPEG": encode(PHOTO, "JPEG", exif=turned(), quality=95),
    "EXIF in PNG": encode(PHOTO, exif=turned()),
    "EXIF in WebP": encode(PHOTO, "WEBP", exif=turned(), lossless=True),
    "EXIF in TIFF": encode(PHOTO, "TIFF", exif=turned()),
    "CMYK": encode(PHOTO.convert("CMYK"), "JPEG", quality=95),
    "CMYK in TIFF": encode(PHOTO.convert("CMYK"), "TIFF"),
    "palette": encode(PHOTO.quantize(64)),
    "palette in GIF": encode(PHOTO.quantize(64), "GIF"),
    "palette with transparency": encode(PHOTO.quantize(64), transparency=5),
    "grey": encode(PHOTO.convert("L")),
    "grey with a transparent one": encode(PHOTO.convert("L"), transparency=100),
    "a transparent color": encode(PHOTO, transparency=(0, 0, 90)),
    "bits": encode(PHOTO.convert("1")),
    "RGBA": encode(translucent()),
    "LA": encode(translucent().convert("LA")),
    "a light drawing": encode(Image.new("LA", (20, 20), (255, 0))),
    "LAB": encode(lab(), "TIFF"),
    "16 bits": encode(Image.fromarray(RAMP[..., 0].astype(np.uint16) * 257)),
    "12 bits in 16": encode(Image.fromarray(RAMP[..., 0].astype(np.uint16) * 16)),
    "floating": encode_tiff(RAMP[..., 0].astype(np.float32) / 255),
    "32 bits": encode_tiff(RAMP[..., 0].astype(np.int32) * 200),
    "first of two": encode(
        PHOTO.quantize(64),
        "GIF",
        save_all=True,
        append_images=[picture(size=(80, 60)).quantize(64)],
    ),
}


def pixels(source, interpolation, ranges=""):
    return decode(source, SIZE, interpolation, ranges=ranges).astype(int)


@pytest.mark.parametrize("interpolation", [Interpolation.NEAREST, Interpolation.SAMPLED])
@pytest.mark.parametrize("name", FILES)
def test_an_image_of_pillow_is_read_as_its_file(name, interpolation, tmp_path):
    data, path = FILES[name], tmp_path / "picture"
    path.write_bytes(data)
    wanted = pixels(data, interpolation)
    for file in (io.BytesIO(data), path):
        with Image.open(file) as opened:
            assert np.array_equal(pixels(as_source(opened), interpolation), wanted)
            opened.load()
            # A JPEG is shrunk while it is decoded, or after that.
            assert np.abs(pixels(as_source(opened), interpolation) - wanted).max() <= 2
            assert np.abs(pixels(as_source(opened.copy()), interpolation) - wanted).max() <= 2


def test_one_that_was_not_loaded_gives_the_bytes_of_its_file():
    opened = Image.open(io.BytesIO(FILES["EXIF in JPEG"]))
    assert encode_image(opened) == FILES["EXIF in JPEG"]
    # And can be used after that.
    assert opened.load() is not None
    assert encode_image(opened) != FILES["EXIF in JPEG"]


def test_a_change_to_the_pixels_is_seen():
    opened = Image.open(io.BytesIO(FILES["RGB"]))
    opened.paste((255, 0, 0), (0, 0, 80, 60))
    assert (pixels(encode_image(opened), Interpolation.NEAREST) == (255, 0, 0)).all()


def test_the_frame_that_was_chosen_is_taken():
    opened = Image.open(io.BytesIO(FILES["first of two"]))
    opened.seek(1)
    wanted = np.asarray(opened.convert("RGB").resize((SIZE, SIZE), Image.Resampling.NEAREST))
    assert np.array_equal(pixels(encode_image(opened), Interpolation.NEAREST), wanted)


@pytest.mark.parametrize("mode", ["HSV", "YCbCr", "CMYK", "RGBX", "L", "1", "P"])
def test_modes_that_no_file_has_are_turned_into_rgb(mode):
    image = PHOTO.convert(mode)
    wanted = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.NEAREST))
    assert np.array_equal(pixels(encode_image(image), Interpolation.NEAREST), wanted)


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_multiplied_transparency_is_transparency(mode):
    straight = translucent().convert("RGBA" if mode == "RGBa" else "LA")
    found = pixels(encode_image(straight.convert(mode)), Interpolation.NEAREST)
    wanted = pixels(encode_image(straight), Interpolation.NEAREST)
    assert np.abs(found - wanted).max() <= 2


def test_bits_are_kept_for_a_range():
    values = RAMP[..., 0].astype(np.uint16) * 16
    found = pixels(encode_image(Image.fromarray(values)), Interpolation.NEAREST, "uint16 0..4080")
    wanted = pixels(encode_image(Image.fromarray(RAMP[..., 0])), Interpolation.NEAREST)
    assert np.abs(found - wanted).max() <= 1


def test_what_cannot_be_read_is_said():
    closed = Image.open(io.BytesIO(FILES["palette in GIF"]))
    closed.fp.close()
    with pytest.raises(SettingsError, match="cannot be read"):
        encode_image(closed)
    with pytest.raises(SettingsError, match="must have pixels"):
        encode_image(Image.new("RGB", (0, 5)))
