import hashlib
import io
import math
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, picture
from PIL import Image, ImageEnhance

from topwork.core.config import Interpolation
from topwork.core.errors import ImageError, SettingsError
from topwork.images import decode as images
from topwork.images.augment import ORIGINAL, VIEW_VERSION, View, draw, view_name, view_number
from topwork.images.decode import decode, image_hash

SHA256 = image_hash(b"a picture")
SIZE = 32
SHARPEST = Interpolation.NEAREST
FILTERS = (Interpolation.BILINEAR, Interpolation.BICUBIC, Interpolation.LANCZOS)
PLAIN = View(False, 1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 1.0, 1.0, 1.0)

TILTED = View(True, 0.75, 0.7, 0.48, 0.53, 9.0, -6.0, 1.0, 1.0, 1.0)
STRAIGHT = replace(TILTED, flip=False, angle_deg=0.0, shear_deg=0.0)


def pixels(image, kind="PNG", interpolation=SHARPEST, **options):
    return decode(encode(image, kind, **options), SIZE, interpolation, "augmented-1-1")


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


@pytest.fixture
def every_view_is(monkeypatch):
    """Makes a given view of any picture, whatever its bytes."""
    return lambda view: monkeypatch.setattr(images, "draw", lambda *_: view)


@pytest.fixture(scope="module")
def many():
    return [draw(image_hash(bytes([n])), number) for n in range(20) for number in range(1, 101)]


def test_names_of_views():
    assert view_name(0) == ORIGINAL == "original"
    assert view_name(3) == f"augmented-{VIEW_VERSION}-3" == "augmented-1-3"


@given(st.integers(0, 10**9))
def test_a_name_tells_its_number(number):
    assert view_number(view_name(number)) == number


def test_a_negative_number_has_no_view():
    with pytest.raises(SettingsError, match="received -1"):
        view_name(-1)


@pytest.mark.parametrize(
    "name",
    ["", "Original", "augmented", "augmented-1", "augmented-1-", "augmented-1-0", "augmented-1-03",
     "augmented-1-x", "augmented-1--3", "augmented-1-3 ", "augmented-1-3\n", "augmented-1-٣",
     "augmented-2-3"],
)  # fmt: skip
def test_other_names_are_refused(name):
    with pytest.raises(SettingsError, match="a view must be 'original' or 'augmented-1-'"):
        view_number(name)


def test_what_a_view_draws_never_changes():
    wanted = {
        "flip": False,
        "width": 0.7539093914623753,
        "height": 0.8532861042481679,
        "x": 0.5014570916023828,
        "y": 0.4822966536980147,
        "angle_deg": 8.312194431203618,
        "shear_deg": 3.9446946026989735,
        "brightness": 1.0800896363057988,
        "contrast": 1.1716117025123713,
        "saturation": 0.8875510223309458,
    }
    assert asdict(draw("00ff" * 16, 1)) == pytest.approx(wanted, rel=1e-12)


def test_number_and_bytes_both_decide():
    views = [draw(sha256, n) for sha256 in (SHA256, image_hash(b"b")) for n in range(1, 51)]
    assert len({view.angle_deg for view in views}) == 100
    assert draw(SHA256, 7) == draw(SHA256, 7)


def test_draws_are_spread_over_their_limits(many):
    def spread(name, low, high):
        values = np.array([getattr(view, name) for view in many])
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        # Four standard errors of the mean of a uniform distribution.
        error = 4 * (high - low) / math.sqrt(12 * len(values))
        assert abs(values.mean() - (low + high) / 2) < error

    spread("angle_deg", -12, 12)
    spread("shear_deg", -8, 8)
    for name in ("brightness", "contrast", "saturation"):
        spread(name, 0.8, 1.2)
    assert abs(np.mean([view.flip for view in many]) - 0.5) < 4 * 0.5 / math.sqrt(len(many))


def test_draws_do_not_hang_together(many):
    names = ("flip", "x", "y", "angle_deg", "shear_deg", "brightness", "contrast", "saturation")
    values = np.array([[getattr(view, name) for name in names] for view in many], np.float64)
    strength = np.corrcoef(values, rowvar=False) - np.eye(len(names))
    assert np.abs(strength).max() < 4 / math.sqrt(len(many))


def test_cut_outs_are_mildly_smaller_and_of_mild_aspect(many):
    areas = np.array([view.width * view.height for view in many])
    aspects = np.array([view.width / view.height for view in many])
    assert areas.min() > 0.5
    assert 0.65 < areas.mean() < 0.75
    assert areas.max() > 0.9
    assert 0.8 <= aspects.min() < 0.81
    assert 1.24 < aspects.max() <= 1.25
    assert abs(np.log(aspects).mean()) < 0.02


def test_every_corner_lies_in_the_picture_and_shrunk_cut_outs_touch_its_edge(many):
    corners = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
    for view in many:
        places = corners @ view.affine().T
        assert places.min() > -1e-12
        assert places.max() < 1 + 1e-12
        if view.width * view.height < 0.6 - 1e-9:
            assert np.ptp(places, axis=0).max() == pytest.approx(1)


def test_middles_reach_both_edges(many):
    corners = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
    reached = np.array([corners @ view.affine().T for view in many])
    assert (reached.min(axis=1) < 0.01).any(axis=0).all()
    assert (reached.max(axis=1) > 0.99).any(axis=0).all()
    assert np.abs(np.mean([(view.x, view.y) for view in many], axis=0) - 0.5).max() < 0.01


def test_the_plain_view_is_the_picture():
    assert np.allclose(PLAIN.affine(), [[1, 0, 0], [0, 1, 0]])
    assert np.allclose(PLAIN.colors(99.0), np.eye(3, 4))


@pytest.mark.parametrize(
    ("change", "place", "wanted"),
    [
        ({"flip": True}, (0.1, 0.3), (0.9, 0.3)),
        ({"width": 0.5, "x": 0.3}, (0, 0.3), (0.05, 0.3)),
        ({"height": 0.5, "y": 0.7}, (0.2, 1), (0.2, 0.95)),
        ({"angle_deg": 90}, (1, 0.5), (0.5, 1)),
        ({"shear_deg": 45}, (0.5, 1), (1, 1)),
    ],
)
def test_each_draw_moves_places_its_way(change, place, wanted):
    view = replace(PLAIN, **change)
    assert np.allclose(view.affine() @ [*place, 1], wanted)


@pytest.mark.parametrize("number", range(1, 6))
def test_colours_are_what_pillow_enhances(number):
    view = draw(SHA256, number)
    # Far enough from black and white that nothing is cut off on the way.
    noise = np.random.default_rng(0).integers(60, 150, (50, 60, 3), np.uint8)
    image = Image.fromarray(noise)
    colors = view.colors(np.asarray(image.convert("L")).mean())
    image = ImageEnhance.Brightness(image).enhance(view.brightness)
    image = ImageEnhance.Contrast(image).enhance(view.contrast)
    image = ImageEnhance.Color(image).enhance(view.saturation)
    # Pillow rounds down three times.
    lost = noise @ colors[:, :3].T + colors[:, 3] - 1.5 - np.asarray(image)
    assert np.abs(lost).max() < 2


def test_a_view_is_the_same_in_every_process():
    data = encode(picture(size=(50, 40)))
    here = decode(data, SIZE, Interpolation.SAMPLED, "augmented-1-3")
    code = (
        "import hashlib, sys; from topwork.images.decode import decode; "
        "from topwork.core.config import Interpolation as I; data = sys.stdin.buffer.read(); "
        f"print(hashlib.sha256(decode(data, {SIZE}, I.SAMPLED, 'augmented-1-3')).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], input=data, capture_output=True, check=True
    )
    assert there.stdout.decode().strip() == hashlib.sha256(here).hexdigest()
    assert np.array_equal(decode(data, SIZE, Interpolation.SAMPLED, "augmented-1-3"), here)


def test_numbers_and_bytes_give_different_views():
    data = encode(picture(size=(50, 40)))
    views = [decode(data, SIZE, SHARPEST, view_name(number)).tobytes() for number in range(9)]
    # The same pixels in other bytes are another image.
    views.append(decode(data + b"\0", SIZE, SHARPEST, view_name(1)).tobytes())
    assert len(set(views)) == 10


def trace(view, width, height, row, column):
    """Where in the picture, in pixels, the middle of a view's pixel is: one step at a time."""
    x, y = (column + 0.5) / SIZE - 0.5, (row + 0.5) / SIZE - 0.5
    x = -x if view.flip else x
    x, y = x * view.width, y * view.height
    x += y * math.tan(math.radians(view.shear_deg))
    angle = math.radians(view.angle_deg)
    x, y = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
    return (x + view.x) * width, (y + view.y) * height


# The last is halved as an original, but a view's cut-out of it is not large enough for that.
@pytest.mark.parametrize("size", [(45, 77), (60, 50), (140, 130)])
@pytest.mark.parametrize("number", range(1, 4))
def test_places_are_those_of_flip_cut_shear_and_turn(every_view_is, size, number):
    data = encode(picture(size=size))
    view = replace(draw(image_hash(data), number), brightness=1, contrast=1, saturation=1)
    every_view_is(view)
    nearest = decode(data, SIZE, SHARPEST, "augmented-1-1").astype(int)
    between = decode(data, SIZE, Interpolation.SAMPLED, "augmented-1-1")
    values = np.asarray(picture(size=size), np.float64)
    for row in range(SIZE):
        for column in range(SIZE):
            x, y = trace(view, *size, row, column)
            assert np.array_equal(nearest[row, column], values[int(y), int(x)])
            x, y = np.clip(x - 0.5, 0, size[0] - 1), np.clip(y - 0.5, 0, size[1] - 1)
            four = values[int(y) : int(y) + 2, int(x) : int(x) + 2]
            four = np.pad(four, [(0, 2 - four.shape[0]), (0, 2 - four.shape[1]), (0, 0)], "edge")
            wanted = np.array([1 - y % 1, y % 1]) @ np.moveaxis(four, 2, 0)
            wanted = wanted @ np.array([1 - x % 1, x % 1])
            assert np.abs(between[row, column] - wanted).max() <= 1


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [(300, 200), (50, 60), (30, 30)])
def test_a_filter_is_close_to_one_resize_by_it(every_view_is, interpolation, size):
    every_view_is(STRAIGHT)
    # Noise, but nothing so fine that the result cannot show it.
    image = picture(size=(20, 20)).resize(size, Image.BICUBIC)
    sides = np.array([STRAIGHT.width, STRAIGHT.height]) / 2
    middle = np.array([STRAIGHT.x, STRAIGHT.y])
    box = np.concatenate([middle - sides, middle + sides]) * [*size, *size]
    filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}
    wanted = np.asarray(image.resize((SIZE, SIZE), filters[interpolation], box=box.tolist()), float)
    result = pixels(image, "PNG", interpolation)
    assert rms(result - wanted) < 0.1 * wanted.std(axis=(0, 1)).mean()


@pytest.mark.parametrize("interpolation", [Interpolation.SAMPLED, *FILTERS])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_views_of_a_large_picture_are_antialiased(every_view_is, interpolation, kind):
    every_view_is(TILTED)
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    result = pixels(Image.fromarray(stripes), kind, interpolation)
    assert np.abs(result.astype(int) - 127).max() < 12


@pytest.mark.parametrize("interpolation", Interpolation)
def test_a_jpeg_shrunk_while_decoded_keeps_the_detail_of_its_views(every_view_is, interpolation):
    every_view_is(TILTED)
    # Of four times the size, so that the whole may be shrunk as far as the size, but no part.
    image = picture(size=(SIZE, SIZE)).resize((4 * SIZE, 4 * SIZE), Image.BICUBIC)
    data = encode(image, "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as jpeg:
        wanted = pixels(jpeg.convert("RGB"), "PNG", interpolation).astype(float)
    result = decode(data, SIZE, interpolation, "augmented-1-1").astype(float)
    assert rms(result - wanted) < 4


@pytest.mark.parametrize("interpolation", Interpolation)
@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (3, 2), (40, 30), (500, 90)])
def test_every_pixel_of_a_view_is_of_the_picture(interpolation, size):
    data = encode(Image.new("RGB", size, "white"))
    for number in range(1, 21):
        result = decode(data, SIZE, interpolation, view_name(number))
        assert result.min() >= 0.8 * 255 - 1
        assert result.min() == result.max()


def test_a_small_picture_fills_a_large_view():
    data = encode(Image.new("RGB", (1, 1), "white"))
    for number in range(1, 6):
        for interpolation in Interpolation:
            assert decode(data, 600, interpolation, view_name(number)).min() > 200


def test_colours_are_changed_as_drawn():
    data = encode(Image.new("RGB", (40, 30), (140, 90, 70)))
    for number in range(1, 9):
        view = draw(image_hash(data), number)
        bright = view.brightness * np.array([140.0, 90.0, 70.0])
        grey = bright @ [0.299, 0.587, 0.114]
        # All of one colour: contrast too moves it from its own grey.
        wanted = grey + view.contrast * view.saturation * (bright - grey)
        result = decode(data, SIZE, Interpolation.SAMPLED, view_name(number))
        assert np.abs(result - wanted).max() < 1.1


def test_contrast_is_changed_from_the_mean_grey(every_view_is):
    every_view_is(TILTED)
    plain = pixels(picture((130, 110, 120))).astype(float)
    every_view_is(replace(TILTED, contrast=1.2))
    stronger = pixels(picture((130, 110, 120)))
    grey = (plain @ [0.299, 0.587, 0.114]).mean()
    assert np.abs(np.clip(grey + 1.2 * (plain - grey), 0, 255) - stronger).max() < 1.1


def test_half_of_the_views_are_flipped():
    half = np.full((40, 40, 3), 220, np.uint8)
    half[:, :20] = 20
    data = encode(Image.fromarray(half))
    views = [decode(data, SIZE, SHARPEST, view_name(n)).astype(int) for n in range(1, 201)]
    flipped = [view[:, :8].mean() > view[:, -8:].mean() for view in views]
    assert 70 < sum(flipped) < 130
    assert flipped == [draw(image_hash(data), n).flip for n in range(1, 201)]


def test_odd_pictures_go_the_same_way_as_their_originals(every_view_is):
    every_view_is(replace(TILTED, brightness=0.9, contrast=1.1, saturation=1.2))
    grey = picture(size=(50, 40)).convert("L")
    clear = Image.new("RGBA", (50, 40), (0, 0, 0, 0))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[274] = 6
    for odd, plain, options in (
        (grey, grey.convert("RGB"), {}),
        (clear, Image.new("RGB", (50, 40), "white"), {}),
        (deep, grey.convert("RGB"), {}),
        (picture(size=(50, 40)), picture(size=(50, 40)).transpose(4), {"exif": turned}),
    ):
        result = pixels(odd, "PNG", Interpolation.SAMPLED, **options)
        wanted = pixels(plain, "PNG", Interpolation.SAMPLED)
        assert np.array_equal(result, wanted)


@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]),
    st.sampled_from(["RGB", "L", "1"]),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.sampled_from(Interpolation),
    st.integers(1, 50),
)
def test_any_view_of_any_picture_is_a_square_of_rgb(kind, mode, size, interpolation, number):
    data = encode(picture(size=size).convert(mode), kind)
    result = decode(data, SIZE, interpolation, view_name(number))
    assert result.shape == (SIZE, SIZE, 3)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous


def test_views_of_bad_images_and_bad_views_are_refused():
    data = encode(picture())
    with pytest.raises(ImageError, match="damaged or cut off"):
        decode(data[: len(data) // 2], SIZE, SHARPEST, "augmented-1-1")
    with pytest.raises(ImageError, match="empty"):
        decode(b"", SIZE, SHARPEST, "augmented-1-1")
    with pytest.raises(SettingsError, match="a view must be"):
        decode(data, SIZE, SHARPEST, "augmented-1-0")
