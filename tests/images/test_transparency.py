import numpy as np
import pytest
from pictures import encode, picture
from PIL import Image, ImageDraw

from topwork.core.config import Interpolation
from topwork.images.decode import decode
from topwork.images.transparency import choose_paper, lay_on_paper


def drawing(color, *, size=60, alpha=255, kind="RGBA"):
    """A disc of a color on nothing."""
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((10, 10, size - 10, size - 10), fill=(*color, alpha))
    return image.convert(kind)


LIGHT = [(255, 255, 255), (250, 250, 250), (254, 255, 249), (248, 250, 252)]
DARK = [(0, 0, 0), (40, 60, 200), (128, 128, 128), (235, 235, 235), (255, 255, 0), (255, 230, 255)]


@pytest.mark.parametrize("color", LIGHT)
@pytest.mark.parametrize("kind", ["RGBA", "LA"])
def test_a_light_drawing_is_laid_on_black(color, kind):
    image = drawing(color, kind=kind)
    assert choose_paper(image) == "black"
    found = np.asarray(lay_on_paper(image))
    assert (found[0, 0] == 0).all()
    assert found[30, 30].min() > 240
    for format_ in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if format_ == "WEBP" else {}
        if format_ == "WEBP" and kind == "LA":
            continue
        pixels = decode(encode(image, format_, **options), 60, Interpolation.NEAREST)
        assert np.array_equal(pixels, found)


@pytest.mark.parametrize("color", DARK)
def test_any_other_drawing_is_laid_on_white(color):
    assert choose_paper(drawing(color)) == "white"
    assert (np.asarray(lay_on_paper(drawing(color)))[0, 0] == 255).all()


def test_a_palette_with_a_light_drawing_is_laid_on_black():
    image = Image.new("P", (20, 20), 0)
    image.putpalette([255, 255, 255, 252, 252, 252])
    image.paste(1, (5, 5, 15, 15))
    pixels = decode(encode(image, "PNG", transparency=0), 20, Interpolation.NEAREST)
    assert (pixels[0, 0] == 0).all()
    assert (pixels[10, 10] == 252).all()
    moving = decode(encode(image, "GIF", transparency=0), 20, Interpolation.NEAREST)
    assert np.array_equal(moving, pixels)


@pytest.mark.parametrize("size", [20, 60, 1500])
@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (200, 30, 30)])
def test_what_is_wholly_transparent_shows_nothing_and_is_white(color, size):
    for alpha in (0, 1):
        image = Image.new("RGBA", (size, size), (*color, alpha))
        assert choose_paper(image) is None
    assert np.asarray(lay_on_paper(Image.new("RGBA", (9, 9), (0, 0, 0, 0)))).min() == 255


def test_what_is_opaque_has_no_paper():
    white = Image.new("RGBA", (30, 30), (255, 255, 255, 255))
    assert choose_paper(white) == "white"
    photo = picture().convert("RGBA")
    assert np.array_equal(np.asarray(lay_on_paper(photo)), np.asarray(picture()))


def test_a_glow_that_is_hardly_there_does_not_decide():
    image = Image.new("RGBA", (100, 100), (0, 0, 0, 1))
    image.paste((0, 0, 0, 255), (40, 40, 60, 60))
    assert choose_paper(image) == "white"
    image.paste((255, 255, 255, 255), (40, 40, 60, 60))
    assert choose_paper(image) == "black"


def test_edges_that_fade_are_part_of_a_light_drawing():
    big = drawing((255, 255, 255), size=400).resize((50, 50), Image.Resampling.LANCZOS)
    assert choose_paper(big) == "black"
