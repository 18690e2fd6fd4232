import io

import numpy as np
import pytest
from pictures import encode, picture
from PIL import Image, ImageOps

from topwork.core.errors import ImageError
from topwork.images.thumbnails import open_upright
from topwork.models.heatmap import (
    AGAINST,
    FOR,
    Panel,
    draw_panels,
    is_ours,
    make_colors,
    show_text,
)


def smooth(size):
    """A picture whose every corner is another."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_upright_in_its_own_proportions(orientation):
    image = smooth((200, 120))
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(image, "PNG", exif=exif)
    found = open_upright(data, 100)
    with Image.open(io.BytesIO(data)) as opened:
        wanted = ImageOps.exif_transpose(opened)
    assert found.size == ((100, 60) if orientation < 5 else (60, 100))
    wanted = wanted.resize(found.size)
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(wanted, float), atol=6)


def test_a_photograph_that_cannot_be_read_says_so():
    with pytest.raises(ImageError, match="not an image"):
        open_upright(b"nothing", 100)


def test_zero_is_transparent_and_the_ends_are_the_strongest():
    colours = make_colors()
    assert colours(0.5)[3] == 0
    ends = np.array([colours(0.0), colours(1.0)])
    np.testing.assert_allclose(ends[:, :3] * 255, [AGAINST, FOR])
    shades = colours(np.linspace(0, 1, 101))[:, 3]
    assert (np.diff(shades[:50]) <= 0).all() and (np.diff(shades[51:]) >= 0).all()
    np.testing.assert_allclose(shades, shades[::-1], atol=0.01)


def render(tmp_path, heats, together=True):
    path = tmp_path / "out.png"
    panels = [Panel(f"class {n}", f"logit {n}", heat) for n, heat in enumerate(heats)]
    photo = Image.new("RGB", (60, 60), "grey")
    draw_panels(photo, panels, path, name="a", note="b", unit="logit", together=together)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), int)


def count(pixels, colour):
    """How many pixels are of a strong colour."""
    red, blue = pixels[..., 0], pixels[..., 2]
    return int((red - blue > 100).sum() if colour == "orange" else (blue - red > 100).sum())


def test_the_sides_of_zero_have_their_colours(tmp_path):
    heat = np.ones((60, 60), np.float32)
    plain = render(tmp_path, [0 * heat])
    orange, blue = render(tmp_path, [heat]), render(tmp_path, [-heat])
    cell = 10_000  # a panel has many more pixels than a colour bar
    assert count(orange, "orange") > count(plain, "orange") + cell
    assert count(blue, "blue") > count(plain, "blue") + cell
    assert count(orange, "blue") == pytest.approx(count(plain, "blue"), abs=500)


def test_together_means_one_scale(tmp_path):
    heat = np.ones((60, 60), np.float32)
    together, apart = (render(tmp_path, [heat, heat / 100], both) for both in (True, False))
    assert count(apart, "orange") > 1.5 * count(together, "orange")


@pytest.mark.parametrize("number", [1, 3, 4, 12])
def test_many_maps_are_in_rows(number, tmp_path):
    pixels = render(tmp_path, [np.ones((60, 60), np.float32)] * number)
    assert pixels.shape[1] < 1600
    assert count(pixels, "orange") > 9000 * number


@pytest.mark.parametrize("size", [(2000, 10), (10, 2000)])
def test_long_photographs_do_not_make_long_pictures(size, tmp_path):
    photo = open_upright(encode(Image.new("RGB", size)), 480)
    heat = np.zeros(photo.size[::-1], np.float32)
    path = tmp_path / "out.png"
    draw_panels(photo, [Panel("a", "b", heat)], path, name="", note="", unit="logit", together=True)
    with Image.open(path) as image:
        assert max(image.size) < 1000


def test_text_is_one_line_of_what_can_be_drawn():
    assert show_text("Kleid é ü Ж", 30) == "Kleid é ü Ж"
    assert show_text("a\n\x1b[31m\u202e", 99) == r"a\n\x1b[31m\u202e"
    assert show_text("\U0010fffd", 99) == r"\U0010fffd"
    assert show_text("a" * 50, 10) == "a" * 9 + "…"


def test_only_our_pictures_are_ours(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encode(picture()))
    assert not is_ours(path)
    path.write_bytes(b"text")
    assert not is_ours(path)
    assert not is_ours(tmp_path)
    assert not is_ours(tmp_path / "gone")
    render(tmp_path, [np.zeros((60, 60), np.float32)])
    assert is_ours(tmp_path / "out.png")
