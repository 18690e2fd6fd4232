import io
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, picture
from PIL import Image

from topwork.config import Interpolation
from topwork.errors import ImageError, SettingsError
from topwork.images import decode, encode_array, image_hash, read_bytes

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


def test_floating_tiff_is_scaled():
    result = pixels(Image.fromarray(np.full((9, 9), 0.5, np.float32)), "TIFF")
    assert np.abs(result.astype(int) - 128).max() <= 1


def test_transparency_is_laid_on_white():
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert (pixels(palette, transparency=0) == 255).all()
    assert (pixels(Image.new("RGBA", (20, 20), (0, 0, 0, 0))) == 255).all()
    half = pixels(Image.new("LA", (20, 20), (0, 128)))
    assert np.abs(half.astype(int) - 127).max() <= 1


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        result = pixels(frames[0], kind, save_all=True, append_images=frames[1:])
        assert (result[..., 0] > 200).all()
        assert (result[..., 2] < 60).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation, kind):
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
    result = pixels(stored, kind, exif=exif, quality=95).astype(int)
    assert result[4, 4, 0] > 200
    assert result[4, -4, 1] > 200
    assert result[-4].max() < 60


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
        (b"GIF89a", "not an image"),
        (b"hello", "not an image"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data, SIZE, SHARPEST)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_truncated_image_is_refused(kind, share):
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
