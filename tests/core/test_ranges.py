import pytest

from topwork.core.config import Settings
from topwork.core.errors import SettingsError
from topwork.core.ranges import Kind, format_ranges, leave_out_usual, parse_ranges


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("0..1", 0, 1),
        ("-1..1", -1, 1),
        ("-300..600", -300, 600),
        ("0.5..1.25", 0.5, 1.25),
        ("1e3..2.5e+4", 1000, 25_000),
        ("-1e-3..1E-3", -0.001, 0.001),
        ("0..4294967295", 0, 2**32 - 1),
    ],
)
def test_a_range_holds_for_every_kind_and_is_written_as_it_is_read(text, low, high):
    found = parse_ranges(text)
    assert dict(found) == dict.fromkeys(Kind, (low, high))
    assert ".." in format_ranges(found)
    assert parse_ranges(format_ranges(found)) == found


def test_kinds_have_ranges_of_their_own():
    found = parse_ranges("uint16 0..4095, float32 -1..1")
    assert dict(found) == {Kind.UINT16: (0, 4095), Kind.FLOAT32: (-1, 1)}
    assert format_ranges(found) == "float32 -1..1, uint16 0..4095"
    assert dict(parse_ranges("")) == {}


@pytest.mark.parametrize(
    "text",
    [
        "1", "..", "0..", ".5..1", "..1", "0-1", "0...1", "1..0", "1..1", "nan..1", "0..inf",
        "0..1..2",
        "uint8 0..1", "float32 0..1, 0..2", "float32 0..1, float32 0..2", "1e999..2", "0..1,",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_the_form(text):
    with pytest.raises(ValueError, match="LOW"):
        parse_ranges(text)
    with pytest.raises(SettingsError, match=r"range: must be LOW\.\.HIGH.*received"):
        Settings.create(range=text)


def test_settings_keep_a_range_in_one_form():
    assert Settings.create().range is None
    assert Settings.create(range="0.0..4095").range == "0..4095"
    again = Settings.create(range="uint16 0..255,float32 0..1").range
    assert again == "float32 0..1, uint16 0..255"
    assert Settings(**Settings.create(range=again).model_dump()).range == again


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("", ""),
        ("uint16 0..65535", ""),
        ("float32 0..1, uint16 0..65535", "float32 0..1"),
        ("uint16 0..4095", "uint16 0..4095"),
        # Floating numbers of 0 to 65535 were asked for too.
        ("0..65535", "0..65535"),
    ],
)
def test_what_16_bits_usually_mean_can_be_left_out(text, left):
    assert leave_out_usual(text) == left
