import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from topwork.core.errors import DatasetError, SettingsError
from topwork.data.dataset import Dataset
from topwork.data.given_images import take_images

PATHS = (Path("a.png"), Path("b.png"))
NAMES = ["a.png", "b.png"]


@pytest.mark.parametrize(
    "given",
    [
        NAMES, tuple(NAMES), iter(NAMES), PATHS, np.array(NAMES), np.array(NAMES, object),
        np.array(NAMES)[:, None], np.array(NAMES, object)[:, None], pd.Series(NAMES, [7, 3]),
        pd.DataFrame({"path": NAMES}, [7, 3]), dict.fromkeys(NAMES),
    ],
)  # fmt: skip
def test_a_list_or_a_column_of_paths_is_taken(given):
    assert take_images(given) == PATHS


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, io.BytesIO])
def test_encoded_images_are_taken_from_wherever_they_are(make, tmp_path):
    assert take_images([make(b"x"), make(b"yz")]) == (b"x", b"yz")
    (tmp_path / "a.png").write_bytes(b"x")
    with (tmp_path / "a.png").open("rb") as file:
        assert take_images([file]) == (b"x",)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("a.png", "a list of images"),
        (Path("a.png"), "a list of images"),
        (5, "a list of images"),
        (None, "a list of images"),
        ([], "at least one image"),
        (["a.png", None], "image 1 is None"),
        (["a.png", float("nan")], "image 1 is nan"),
        (pd.Series(["a.png", None], dtype=object), "image 1 is None"),
        (["https://x.org/a.png"], r"image 0 is a URL, 'https://x.org/a.png'; download it"),
        (["s3://bucket/a.png"], "is a URL"),
        (pd.DataFrame({"path": NAMES, "label": NAMES}), "2 columns: path, label; give one"),
        (np.array([NAMES, NAMES]), r"an array \(2, 2\)"),
    ],
)
def test_what_is_no_list_of_images_is_refused_in_words(given, reason):
    with pytest.raises(DatasetError, match=reason):
        take_images(given)


@pytest.mark.parametrize("given", [[1], [{}], [np.zeros((3, 3))], [["a.png"]]])
def test_what_is_no_image_is_refused_in_words(given):
    with pytest.raises((DatasetError, SettingsError), match="an image"):
        take_images(given)


def test_a_dataset_is_shown_in_one_short_line():
    dataset = Dataset.from_sources([b"x" * 5000] * 100, [n % 3 for n in range(100)])
    assert repr(dataset) == "<Dataset: 100 images, 3 classes, {'train': 100}>"
    assert "2 labels" in repr(Dataset.from_sources([b"x"] * 2, [[1, 0], [0, 1]]))
    assert "1 numbers" in repr(Dataset.from_sources([b"x"] * 2, [1, 2], task="number"))
