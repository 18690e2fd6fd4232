from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.vectors.index import Locations, find_firsts, parse_digests


def digest_of(number):
    """Digests of which many begin with the same eight bytes, as by chance none would."""
    return (bytes([number % 3]) * 8 + sha256(b"%d" % number).digest()[:24]).hex()


def ints(*values):
    return np.array(values, np.int32)


def test_digests_are_parsed_to_their_bytes():
    images = [sha256(b"%d" % n).hexdigest() for n in range(70_000)]
    digests = parse_digests(images)
    assert (digests.shape, digests.dtype) == ((70_000, 4), np.uint64)
    assert all(digests[n].tobytes().hex() == images[n] for n in range(0, 70_000, 777))
    assert parse_digests(digests) is digests
    assert parse_digests([]).shape == (0, 4)


@pytest.mark.parametrize(
    "wrong", ["", "ab", "g" * 64, "a" * 63, "a" * 65, "a" * 62 + "  ", " " * 64, "é" * 64]
)
def test_what_is_no_digest_is_refused(wrong):
    for images in ([wrong], ["a" * 64, wrong], [wrong, "a" * 64]):
        with pytest.raises(ValueError, match="hex"):
            parse_digests(images)


PARTS = st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=12)


@given(PARTS, st.sets(st.integers(0, 11)), st.lists(st.integers(0, 45), max_size=30))
def test_every_image_is_found_where_it_lies_and_no_other(parts, dropped, asked):
    locations = Locations()
    for part, numbers in enumerate(parts):
        digests = parse_digests([digest_of(number) for number in numbers])
        rows = np.arange(len(numbers), dtype=np.int32)
        locations.add(digests, np.full(len(numbers), part, np.int32), rows)
    locations.drop(dropped)
    left = {
        (number, part, row)
        for part, numbers in enumerate(parts)
        for row, number in enumerate(numbers)
        if part not in dropped
    }
    there = {number for number, _, _ in left}
    found, rows = locations.find(parse_digests([digest_of(number) for number in asked]))
    for number, part, row in zip(asked, found, rows, strict=True):
        assert ((number, part, row) in left) if number in there else (part, row) == (-1, -1)
    assert len(locations) == len(there)


@given(st.lists(st.integers(0, 20), max_size=40))
def test_the_first_of_each_is_found(numbers):
    firsts = find_firsts(parse_digests([digest_of(number) for number in numbers]))
    assert firsts.tolist() == [number not in numbers[:n] for n, number in enumerate(numbers)]


def test_many_parts_lie_in_few_runs():
    locations, rng = Locations(), np.random.default_rng(0)
    for part in range(300):
        digests = rng.integers(0, 2**64, (10, 4), np.uint64)
        locations.add(digests, np.full(10, part, np.int32), np.arange(10, dtype=np.int32))
        assert len(locations._runs) <= 10
    assert np.array_equal(locations.find(digests), [np.full(10, 299), np.arange(10)])
    assert len(locations) == 3000
