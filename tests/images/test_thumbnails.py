import io
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, picture
from PIL import Image
from recorder import Recorder

from topwork.core.errors import ImageError
from topwork.images.thumbnails import ThumbnailSet, data_uri, fit, make_thumbnail, read_header


def test_thumbnails_are_small_and_upright():
    exif = Image.Exif()
    exif[274] = 6
    two = np.zeros((60, 120, 3), np.uint8)
    two[:, :60] = 255
    data = encode(Image.fromarray(two), "JPEG", exif=exif, quality=95)
    with Image.open(io.BytesIO(make_thumbnail(data, 40))) as small:
        assert small.format == "WEBP"
        assert small.size == (20, 40)
        grey = np.asarray(small.convert("L"), float)
    # What is left in the file is at the top when it is turned upright.
    assert grey[:15].mean() > 240
    assert grey[25:].mean() < 15


def test_thumbnails_of_long_pictures_and_of_none():
    with Image.open(io.BytesIO(make_thumbnail(encode(picture(size=(1000, 2))), 40))) as small:
        assert small.size == (40, 1)
    with pytest.raises(ImageError, match="no such file"):
        make_thumbnail(Path("/nowhere/at all.jpg"))
    with pytest.raises(ImageError, match="not an image"):
        make_thumbnail(b"text")


def test_thumbnails_are_small_files():
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).resize((400, 533))
    assert len(make_thumbnail(encode(photo))) < 5_000


@given(st.integers(1, 50_000), st.integers(1, 50_000), st.integers(1, 500))
def test_the_longer_side_fits_and_no_side_is_lost(width, height, side):
    small = fit(width, height, side)
    assert max(small) == side
    assert min(small) >= 1
    assert abs(small[0] * height - small[1] * width) <= max(width, height)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_header_is_that_of_the_upright_picture(orientation, kind):
    exif = Image.Exif()
    exif[274] = orientation
    header = read_header(encode(picture(size=(40, 30)), kind, exif=exif))
    assert (header.width, header.height) == ((40, 30) if orientation < 5 else (30, 40))
    assert (header.orientation, header.frames) == (orientation, 1)
    assert (header.mode, header.format) == ("RGB", kind)


def test_a_header_of_frames_and_of_nothing():
    frames = [picture(seed=n).convert("P") for n in range(3)]
    header = read_header(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (header.frames, header.mode, header.format) == (3, "P", "GIF")
    with pytest.raises(ImageError, match="damaged"):
        read_header(b"nothing")


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "JPEG"])
def test_an_address_says_what_it_holds(kind):
    assert data_uri(encode(picture(), kind)).startswith(f"data:image/{kind.lower()};base64,")
    assert data_uri(b"<svg/>").startswith("data:image/svg+xml;base64,")


def test_each_picture_is_made_once_up_to_the_limit():
    made = []

    def make(place):
        made.append(place)
        return b"\xff\xd8"

    pictures = ThumbnailSet(make, 3)
    assert [pictures.add(place) for place in (5, 5, 7, 5, 9, 11, 7)] == [True] * 5 + [False, True]
    assert made == []
    heard = []

    def hear(done, total):
        heard.append((done, total, threading.current_thread()))

    pictures.draw(Recorder(on_drawn=hear))
    assert sorted(made) == [5, 7, 9]
    assert list(pictures.found) == [5, 7, 9]
    here = threading.current_thread()
    assert heard == [(1, 3, here), (2, 3, here), (3, 3, here)]


def test_a_picture_that_cannot_be_read_is_empty_and_a_bug_is_not_hidden():
    def make(place):
        if place == 1:
            raise ImageError("gone")
        return b"\xff\xd8"

    pictures = ThumbnailSet(make, 9)
    pictures.add(0)
    pictures.add(1)
    pictures.draw()
    assert pictures.found == {0: "data:image/jpeg;base64,/9g=", 1: None}
    broken = ThumbnailSet(lambda place: 1 / 0, 9)
    broken.add(0)
    with pytest.raises(ZeroDivisionError):
        broken.draw()
