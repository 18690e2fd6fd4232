"""Example data without a download: scikit-learn's handwritten digits as an image folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from topwork.core.errors import DatasetError
from topwork.images.decode import encode_array

TEST_SHARE = 0.2
SEED = 0
# The scans count ink in 4x4 blocks of a bitmap.
DARKEST = 16


def write_digits(folder: Path) -> Path:
    """Writes 1,797 scans of 8 x 8 pixels as PNG files, divided into train/ and test/.

    Args:
        folder: where; files of the same names are replaced.

    Returns:
        The folder, ready for `Dataset.from_folder`.

    Raises:
        DatasetError: it cannot be written.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998, as
    packaged in `sklearn.datasets.load_digits`.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    ink = np.asarray(digits.images)
    pixels = np.rint(255 - ink * (255 / DARKEST)).astype(np.uint8)  # (1797, 8, 8)
    indices = np.arange(len(pixels))
    _, test = train_test_split(
        indices, test_size=TEST_SHARE, random_state=SEED, stratify=digits.target
    )
    is_test = np.isin(indices, test)
    try:
        for index in indices:
            split = "test" if is_test[index] else "train"
            parent = folder / split / str(digits.target[index])
            parent.mkdir(parents=True, exist_ok=True)
            (parent / f"{index:04}.png").write_bytes(encode_array(pixels[index]))
    except OSError as error:
        raise DatasetError(f"cannot write the digits to {folder}: {error.strerror}") from error
    return folder
