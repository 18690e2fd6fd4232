import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.ticker import MaxNLocator

from topwork.reports.pages.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    SERIES,
    TICKS,
    TOP,
    WIDTH,
    Axis,
    Frame,
    draw_mark,
)

wide = st.floats(-1e12, 1e12, allow_nan=False)


@given(st.lists(wide, min_size=1, max_size=20))
def test_an_axis_holds_all_values_between_its_ticks(values):
    axis = Axis.around("x", values)
    room = 1e-9 * max(abs(axis.low), abs(axis.high))
    assert axis.low - room <= min(values) <= max(values) <= axis.high + room
    assert axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 8
    assert all(0 - 1e-6 <= axis.share(value) <= 1 + 1e-6 for value in values)
    said = [axis.say(tick) for tick in axis.ticks]
    assert len(set(said)) == len(said) or max(abs(axis.low), abs(axis.high)) >= 1e7


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.3, 0.97), (-3, 80), (1200, 98_000)])
def test_ticks_are_those_of_another_library(low, high):
    steps = MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(low, high)
    np.testing.assert_allclose(Axis.around("x", [low, high]).ticks, steps, atol=1e-12)


def test_axes_of_nothing_and_of_one_value():
    assert (Axis.around("x", []).low, Axis.around("x", [math.nan]).high) == (0, 1)
    axis = Axis.around("x", [3.0, 3.0])
    assert axis.low < 3 < axis.high
    whole = Axis.around("epoch", [1, 3], whole=True)
    assert (whole.low, whole.high, whole.ticks) == (1, 3, (1, 2, 3))


def test_a_frame_has_its_corners_where_the_axes_end():
    frame = Frame(Axis("x", 2, 4, (2.0, 4.0)), Axis("y", 0, 10, (0.0, 10.0)))
    assert (frame.right(2), frame.right(4)) == (LEFT, WIDTH - RIGHT)
    assert (frame.down(10), frame.down(0)) == (TOP, HEIGHT - BOTTOM)


@given(st.lists(st.floats(1e-9, 1e6), min_size=1, max_size=20))
def test_an_axis_by_factors_holds_all_values_and_says_few_ticks(values):
    axis = Axis.by_factors("rate", values)
    assert all(axis.low < value < axis.high for value in values)
    assert all(axis.holds(tick) for tick in axis.ticks)
    assert list(axis.ticks) == sorted(axis.ticks)
    assert 1 <= len(axis.ticks) <= TICKS
    for tick in axis.ticks:
        assert float(axis.say(tick)) == pytest.approx(tick)
        # 1, 2 or 5 times a power of ten.
        assert f"{tick:e}"[0] in "125" and float(f"{tick:.0e}") == pytest.approx(tick)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.0001, 0.1], ["0.0001", "0.001", "0.01", "0.1"]),
        ([0.002, 0.06], ["0.002", "0.005", "0.01", "0.02", "0.05"]),
        ([0.01], ["0.005", "0.01", "0.02"]),
        ([1e-6, 1e5], ["1e-06", "0.0001", "0.01", "1", "100", "10000"]),
    ],
)
def test_learning_rates_have_ticks_that_a_person_says(values, said):
    axis = Axis.by_factors("learning rate", values)
    assert [axis.say(tick) for tick in axis.ticks] == said


def test_equal_factors_are_equally_far():
    axis = Axis.by_factors("learning rate", [0.001, 0.1])
    middle = axis.share(0.01)
    assert middle == pytest.approx(0.5)
    assert middle - axis.share(0.001) == pytest.approx(axis.share(0.1) - middle)


def test_an_axis_holds_its_ends_and_nothing_else():
    # Three times 0.1 is a little above 0.3.
    axis = Axis("accuracy", 3 * 0.1, 0.8, ())
    assert axis.low > 0.3 and axis.holds(0.3) and axis.holds(0.8)
    assert not any(map(axis.holds, (0.29, 0.81, math.nan, math.inf, -math.inf)))


def test_a_line_has_gaps_and_stays_near_the_box():
    frame = Frame(Axis("x", 0, 4, (0.0, 4.0)), Axis("y", 0, 1, (0.0, 1.0)))
    path = frame.trace([(0, 0.5), (1, math.nan), (2, 1e30), (3, -1e30), (4, math.inf)])
    height = HEIGHT - TOP - BOTTOM
    assert path == (
        f"M{LEFT}.0 {TOP + height / 2:.1f}M{frame.right(2):.1f} {TOP - 10 * height:.1f}"
        f"L{frame.right(3):.1f} {HEIGHT - BOTTOM + 10 * height:.1f}"
    )
    assert frame.mark([(0, 0.5), (2, 2.0), (3, math.nan)], 0).count("M") == 1


def test_every_series_has_a_shape_of_its_own():
    assert len({draw_mark(0, 0, number) for number in range(SERIES)}) == SERIES
