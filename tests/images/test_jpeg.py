import io

import numpy as np
import pytest
from PIL import Image

from topwork.core.config import Interpolation
from topwork.core.errors import ImageError
from topwork.images import decode as images
from topwork.images import jpeg as jpegs

pytest.importorskip("simplejpeg")
pytest.importorskip("cv2")


def encode(width, height, *, mode="RGB", orientation=1, **options):
    """A JPEG of smooth colours with an edge, so that a wrong turn or place shows."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y > width) * 200], axis=-1)
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][274] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def decode_both(data, size_px, monkeypatch):
    fast = images.decode(data, size_px, Interpolation.SAMPLED)
    with monkeypatch.context() as patch:
        patch.setattr(jpegs, "import_jpeg_packages", lambda: None)
        slow = images.decode(data, size_px, Interpolation.SAMPLED)
    return fast.astype(int), slow.astype(int)


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(90, 61), (61, 90), (700, 400), (31, 33)])
def test_pillow_gives_the_same_but_for_one_level(orientation, progressive, size, monkeypatch):
    data = encode(*size, orientation=orientation, progressive=progressive)
    fast, slow = decode_both(data, 48, monkeypatch)
    assert fast.shape == (48, 48, 3)
    assert np.abs(fast - slow).max() <= 1


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_decodes_to_the_very_pixels_of_pillow(subsampling):
    data = encode(75, 52, subsampling=subsampling, quality=60)
    with Image.open(io.BytesIO(data)) as image:
        found = jpegs.read_jpeg(data, image)
        image.load()
        assert np.array_equal(found, np.asarray(image))


@pytest.mark.parametrize(("orientation", "way"), [(None, "read_plain"), (6, "read_jpeg")])
def test_is_what_decode_takes(orientation, way, monkeypatch):
    found, read = [], getattr(images, way)
    monkeypatch.setattr(images, way, lambda *args: found.append(read(*args)) or found[-1])
    images.decode(encode(75, 52, orientation=orientation), 32, Interpolation.SAMPLED)
    assert found[0].shape[2] == 3


@pytest.mark.parametrize(("side", "shrunk"), [(63, 63), (64, 64), (65, 65), (128, 64), (700, 88)])
def test_is_shrunk_as_by_pillow(side, shrunk):
    data = encode(side, side + 9, orientation=None)
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (64, 64))
        image.load()
        found = jpegs.read_plain(data, 64)
        assert found.shape[1] == shrunk
        assert np.array_equal(found, np.asarray(image))


def test_a_picture_of_too_many_pixels_is_left_to_pillow(monkeypatch):
    data = encode(75, 52, orientation=None)
    assert jpegs.read_plain(data, 32) is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert jpegs.read_plain(data, 32) is None
    with pytest.raises(ImageError, match="more than the limit"):
        images.decode(data, 32, Interpolation.SAMPLED)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_left_to_pillow(mode, monkeypatch):
    data = encode(75, 52, mode=mode)
    with Image.open(io.BytesIO(data)) as image:
        assert jpegs.read_jpeg(data, image) is None
    fast, slow = decode_both(data, 32, monkeypatch)
    assert np.array_equal(fast, slow)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_cut_off_file_is_refused_as_by_pillow(kept):
    data = encode(300, 200)
    with pytest.raises(ImageError, match="damaged or cut off"):
        images.decode(data[: int(len(data) * kept)], 32, Interpolation.SAMPLED)


def test_a_much_larger_picture_is_still_halved(monkeypatch):
    fast, slow = decode_both(encode(4000, 4000), 32, monkeypatch)
    assert np.array_equal(fast, slow)
