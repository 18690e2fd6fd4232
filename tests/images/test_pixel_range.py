import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.core.ranges import Kind
from topwork.images.pixel_range import choose_range


def spread(low, high, count=4000):
    return np.linspace(low, high, count)


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("kind", [Kind.UINT16, Kind.INT16, Kind.INT32, Kind.UINT32])
def test_whole_numbers_reach_to_as_many_bits_as_are_used(bits, kind):
    for most in (2**bits - 1, 0.9 * 2**bits, 2 ** (bits - 1)):
        assert choose_range(kind, spread(0, most).round()) == (0, 2**bits - 1)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, (0, 1)),
        (0, 1.003, (0, 1)),
        (0.02, 0.93, (0, 1)),
        (-0.01, 1.01, (0, 1)),
        (0, 0.3, (0, 1)),
        (0, 0.02, (0, 0.02)),
        (-1, 1, (-1, 1)),
        (-0.97, 1.02, (-1, 1)),
        (0, 255, (0, 255)),
        (3, 255.4, (0, 255)),
        (0, 65535, (0, 65535)),
        (0, 9.7, (0, 9.7)),
        (250.3, 319.8, (250, 320)),
        (-300, 600, (-300, 600)),
        (-11.2, 37.6, (-12, 38)),
        (1000.2, 1009.7, (1000.2, 1009.7)),
        (0, 4095, (0, 4100)),
        (-2e6, 1e6, (-2e6, 1e6)),
    ],
)
def test_floating_numbers_reach_to_what_is_usual_or_to_their_own_ends(low, high, wanted):
    assert choose_range(Kind.FLOAT32, spread(low, high)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("kind", "low", "high", "wanted"),
    [
        (Kind.UINT16, 27_315, 31_020, (27_300, 31_100)),
        (Kind.INT16, -1024, 3071, (-1100, 3100)),
        (Kind.INT32, -1000, 300_000, (0, 300_000)),
        (Kind.INT32, -50_000, 300_000, (-50_000, 300_000)),
        (Kind.UINT32, 0, 2**32 - 1, (0, 4_300_000_000)),
        (Kind.UINT16, 0, 9, (0, 9)),
        (Kind.UINT16, 100, 65_535, (0, 65_535)),
    ],
)
def test_whole_numbers_far_from_0_reach_to_their_own_ends(kind, low, high, wanted):
    assert choose_range(kind, spread(low, high).round()) == wanted


@pytest.mark.parametrize("odd", [65_535, 2**15])
def test_a_hot_pixel_does_not_decide(odd):
    values = np.append(spread(0, 4000, 50_000).round(), odd)
    assert choose_range(Kind.UINT16, values) == (0, 4095)


def test_stars_are_no_hot_pixels():
    # One pixel in a hundred is bright: the picture, not a fault.
    values = np.append(spread(0, 400, 9900).round(), spread(400, 65_535, 100).round())
    assert choose_range(Kind.UINT16, values) == (0, 65_535)


@pytest.mark.parametrize("values", [[], [7.0, 7.0], [0.0, 0.0], [np.nan, np.inf]])
def test_nothing_is_chosen_by_values_without_a_difference(values):
    assert choose_range(Kind.FLOAT32, np.array(values, np.float64)) is None


@given(
    st.lists(st.floats(-1e9, 1e9, width=32), min_size=2, max_size=50),
    st.sampled_from([*Kind]),
)
def test_black_is_always_less_than_white_and_most_values_lie_between(values, kind):
    array = np.array(values, np.float64)
    found = choose_range(kind, array)
    if found is not None:
        low, high = found
        assert low < high
        reach = high - low
        assert low - 0.06 * reach <= array.min()
        assert array.max() <= high + 0.06 * reach
