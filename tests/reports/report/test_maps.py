import numpy as np
import pytest
from pictures import encode, picture

from topwork.models.explain import Explainer
from topwork.models.heatmap import AGAINST, FOR
from topwork.reports.report.maps import STRONGEST, colorize, draw_maps, say_place


def test_colours_say_for_and_against_and_how_much():
    heat = np.array([[2.0, 1.0], [0.0, -2.0]], np.float32)
    pixels = np.asarray(colorize(heat, 2.0))
    assert pixels[0, 0].tolist() == [*FOR, round(255 * STRONGEST)]
    assert pixels[1, 1].tolist() == [*AGAINST, round(255 * STRONGEST)]
    assert pixels[0, 1, 3] == round(255 * STRONGEST / 2)
    assert pixels[1, 0, 3] == 0


@pytest.mark.parametrize(
    ("y", "x", "words"),
    [(0, 0, "above on the left"), (2, 2, "below on the right"), (1, 1, "half-way down in the mid")],
)
def test_the_strongest_place_is_said(y, x, words):
    heat = np.full((6, 9), -1, np.float32)
    heat[2 * y, 3 * x] = 5
    assert words in say_place(heat)


def test_maps_are_those_of_the_explainer(trained):
    explainer = Explainer(trained.model)
    source = encode(picture((40, 60, 200), size=(60, 30)))
    found = draw_maps(explainer, source, [(0, "blue"), (2, "red")])
    assert [item.answer for item in found] == ["blue", "red"]
    heat = explainer.explain(source).heat(2, 48, 24)
    assert found[1].words == say_place(heat)
    assert all(item.uri.startswith("data:image/webp;base64,") for item in found)


def test_an_image_that_cannot_be_read_has_no_maps(trained, tmp_path):
    explainer = Explainer(trained.model)
    assert draw_maps(explainer, tmp_path / "gone.png", [(0, "blue")]) == []
    assert draw_maps(explainer, b"text", [(0, "blue")]) == []
