import numpy as np
import pytest
from sklearn.datasets import load_digits

from topwork.core.config import Interpolation
from topwork.core.errors import DatasetError
from topwork.data.dataset import Dataset
from topwork.data.demo import write_digits
from topwork.images.decode import decode


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset.from_folder(write_digits(tmp_path_factory.mktemp("digits") / "new"))


def test_every_scan_is_a_file_with_its_ink_and_its_class(dataset):
    digits = load_digits()
    assert len(dataset) == len(digits.images) == 1797
    assert dataset.classes == tuple("0123456789")
    assert not dataset.skipped
    for source, label in zip(dataset.sources, dataset.labels, strict=True):
        number = int(source.stem)
        pixels = decode(source.read_bytes(), 8, Interpolation.NEAREST)
        assert label == digits.target[number]
        assert np.array_equal(np.rint(16 - pixels[..., 0] * (16 / 255)), digits.images[number])


def test_a_fifth_of_each_digit_is_for_the_test(dataset):
    counts = dataset.counts()
    for digit, images in zip("0123456789", np.bincount(load_digits().target), strict=True):
        assert abs(counts["test"][digit] - 0.2 * images) < 1
        assert counts["train"][digit] + counts["test"][digit] == images
    assert dataset.divided


def test_writing_them_again_gives_the_same_files(dataset):
    before = [source.read_bytes() for source in dataset.sources]
    again = Dataset.from_folder(write_digits(dataset.root))
    assert again.names == dataset.names
    assert [source.read_bytes() for source in again.sources] == before


def test_where_they_cannot_be_written_it_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=f"cannot write the digits to {tmp_path}/file/x: Not a"):
        write_digits(tmp_path / "file" / "x")
