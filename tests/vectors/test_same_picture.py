import numpy as np
import pytest

from topwork.vectors.same_picture import average, compare_pictures, correlate


def test_correlation_is_the_textbook_one():
    left, right = np.random.default_rng(0).uniform(0, 255, (2, 4, 30)).astype(np.float32)
    wanted = [np.corrcoef(a, b)[0, 1] for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(correlate(left, right), wanted, atol=1e-5)
    flat = np.full((4, 30), 7, np.float32)
    assert correlate(left, flat).tolist() == [0, 0, 0, 0]


def test_cells_are_averages():
    pixels = np.arange(32, dtype=np.float32).reshape(4, 4, 2)
    assert average(pixels, 2)[0, 1].tolist() == [
        np.mean([4, 6, 12, 14]),
        np.mean([5, 7, 13, 15]),
    ]


@pytest.mark.parametrize(("cells", "apart"), [(64, 60), (32, 30), (16, 15)])
def test_one_cell_that_differs_is_enough(cells, apart):
    one = np.random.default_rng(0).uniform(0, 190, (64, 64, 3)).astype(np.float32)
    step = 64 // cells
    for changed, alike in ((apart, False), (apart * 0.7, True)):
        other = one.copy()
        other[step : 2 * step, :step] += changed
        assert (compare_pictures(one, other) is not None) == alike


def test_faint_pictures_have_to_correlate():
    rng = np.random.default_rng(0)
    faint = rng.normal(128, 4, (64, 64, 1)) + np.zeros(3)
    noise = rng.normal(0, 1, (64, 64, 1))
    assert compare_pictures(faint, faint + noise) is None
    assert compare_pictures(faint, faint + 0.5 * noise) == pytest.approx(0.99, abs=0.005)
