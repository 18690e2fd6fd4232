import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from topwork.core.errors import SettingsError
from topwork.vectors import neighbors as module
from topwork.vectors.neighbors import Sizes, nearest, similar_pairs, unit


def make_vectors(count, length=24, seed=0, spread=1.0):
    """Vectors like those of networks: not negative, about a common mean, of uneven directions."""
    rng = np.random.default_rng(seed)
    scales = 1 / np.arange(1, length + 1)
    values = np.maximum(rng.normal(0.3, 1, (count, length)) * scales * spread + 0.2, 0)
    return values.astype(np.float32)


def cosines(left, right):
    """Brute force, in 64 bits."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    lengths = np.outer(np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1))
    return np.divide(left @ right.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def brute_pairs(vectors, threshold):
    return np.argwhere(np.triu(cosines(vectors, vectors) >= threshold, 1))


def brute_nearest(queries, vectors, count, leave_out_self=False):
    found = cosines(queries, vectors)
    if leave_out_self:
        np.fill_diagonal(found, -np.inf)
    places = np.argsort(-found, axis=1, kind="stable")[:, :count]
    return places, np.take_along_axis(found, places, axis=1)


# Few vectors at once; and few are compared as many are.
SMALL = Sizes(block=16, chunk=7)
SKETCHED = Sizes(block=64, sketches=(2, 4, 8), sample=60, sketch_from=2)


@pytest.fixture
def sketched(monkeypatch):
    """The lengths of the sketches that were used."""
    made = []
    sketch = module._sketch

    def record(*args):
        found = sketch(*args)
        made.append(None if found is None else found.shape[1])
        return found

    monkeypatch.setattr(module, "_sketch", record)
    return made


class TestNearest:
    @pytest.mark.parametrize("count", [1, 3, 40])
    @pytest.mark.parametrize("leave_out_self", [False, True])
    def test_finds_what_brute_force_finds(self, count, leave_out_self):
        vectors = make_vectors(100)
        places, similarity = nearest(
            vectors, vectors, count, leave_out_self=leave_out_self, sizes=SMALL
        )
        wanted, high = brute_nearest(vectors, vectors, count, leave_out_self)
        assert places.dtype == np.int64
        assert similarity.dtype == np.float32
        np.testing.assert_array_equal(places, wanted)
        np.testing.assert_allclose(similarity, high, atol=1e-6)

    def test_queries_may_be_others(self):
        queries, vectors = make_vectors(33, seed=1), make_vectors(50, seed=2)
        places, _ = nearest(queries, vectors, 5, sizes=SMALL)
        np.testing.assert_array_equal(places, brute_nearest(queries, vectors, 5)[0])

    def test_length_does_not_count(self):
        vectors = make_vectors(20)
        scaled = vectors * np.float32(2.0) ** np.arange(-60, 60, 6, dtype=np.float32)[:, None]
        found, wanted = nearest(vectors, scaled, 4), nearest(vectors, vectors, 4)
        np.testing.assert_array_equal(found[0], wanted[0])

    def test_equal_vectors_come_by_place(self):
        vectors = np.tile(make_vectors(3, length=1280), (30, 1))
        places, similarity = nearest(vectors, vectors, 30, sizes=SMALL)
        np.testing.assert_array_equal(places[1], np.arange(1, 90, 3))
        assert (similarity[1] == similarity[1, 0]).all()

    def test_equal_vectors_come_by_place_without_oneself(self):
        vectors = np.tile(make_vectors(1), (40, 1))
        places, _ = nearest(vectors, vectors, 3, leave_out_self=True, sizes=SMALL)
        assert places[:3].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3]]

    def test_zeros_are_like_nothing(self):
        vectors = np.array([[0, 0], [1, 0], [-1, 0], [0, 0]], np.float32)
        places, similarity = nearest(vectors, vectors, 4)
        assert places.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 0, 3, 1], [0, 1, 2, 3]]
        assert similarity[1].tolist() == [1, 0, 0, -1]

    @pytest.mark.parametrize(("count", "wanted"), [(5, 2), (2, 2), (1, 1)])
    def test_there_may_be_fewer_than_asked_for(self, count, wanted):
        vectors = make_vectors(3)
        assert nearest(vectors, vectors, count, leave_out_self=True)[0].shape == (3, wanted)

    @pytest.mark.parametrize(("queries", "vectors"), [(0, 3), (3, 0), (0, 0)])
    def test_nothing_among_nothing(self, queries, vectors):
        places, similarity = nearest(make_vectors(queries), make_vectors(vectors), 2)
        assert places.shape == similarity.shape == (queries, min(2, vectors))

    def test_one_vector_has_no_neighbour(self):
        one = make_vectors(1)
        assert nearest(one, one, 1, leave_out_self=True)[0].shape == (1, 0)

    @given(
        arrays(
            np.float32,
            st.tuples(st.integers(1, 12), st.integers(1, 4)),
            elements=st.integers(-3, 3).map(float),
        ),
        st.integers(1, 14),
    )
    def test_any_vectors(self, vectors, count):
        places, similarity = nearest(vectors, vectors, count)
        found = cosines(vectors, vectors)
        assert places.shape == (len(vectors), min(count, len(vectors)))
        for row, (near, close) in enumerate(zip(places, similarity, strict=True)):
            assert len(set(near)) == len(near)
            np.testing.assert_allclose(close, found[row, near], atol=1e-6)
            others = np.delete(found[row], near)
            assert not len(others) or others.max() <= close.min() + 1e-6


class TestNearestRefuses:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite(self, value):
        vectors = make_vectors(5)
        vectors[3, 2] = value
        with pytest.raises(SettingsError, match=r"vectors must be finite.*row 3"):
            nearest(make_vectors(5), vectors, 1)

    def test_other_lengths(self):
        with pytest.raises(SettingsError, match="must be as long"):
            nearest(make_vectors(3, length=4), make_vectors(3, length=5), 1)

    def test_to_leave_out_oneself_among_others(self):
        with pytest.raises(SettingsError, match="as many"):
            nearest(make_vectors(3), make_vectors(4), 1, leave_out_self=True)

    @pytest.mark.parametrize("count", [0, -1])
    def test_a_count_below_one(self, count):
        with pytest.raises(SettingsError, match=f"at least 1, received {count}"):
            nearest(make_vectors(3), make_vectors(3), count)

    @pytest.mark.parametrize("vectors", [np.zeros(3, np.float32), np.zeros((3, 2))])
    def test_other_shapes_and_types(self, vectors):
        with pytest.raises(SettingsError, match="queries must be float32 of shape"):
            nearest(vectors, make_vectors(3), 1)


class TestIndex:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("usearch.index", reason="needs the extra index")

    @pytest.mark.parametrize("leave_out_self", [False, True])
    def test_finds_nearly_all(self, leave_out_self):
        vectors = make_vectors(400)
        places, similarity = nearest(
            vectors, vectors, 5, leave_out_self=leave_out_self, index_from=400, sizes=SMALL
        )
        wanted, _ = brute_nearest(vectors, vectors, 5, leave_out_self)
        assert np.mean(places == wanted) > 0.98
        exact = np.take_along_axis(cosines(vectors, vectors), places, axis=1)
        np.testing.assert_allclose(similarity, exact, atol=1e-6)
        if leave_out_self:
            assert not (places == np.arange(400)[:, None]).any()

    def test_answers_the_same_again(self):
        vectors = make_vectors(300)
        first, again = (nearest(vectors, vectors, 9, index_from=2) for _ in range(2))
        np.testing.assert_array_equal(first[0], again[0])

    def test_is_asked_only_for_many_queries_of_many_vectors(self, monkeypatch):
        monkeypatch.setattr(module, "_make_index", lambda vectors: pytest.fail("it was asked"))
        nearest(make_vectors(5), make_vectors(20), 1, index_from=6)
        nearest(make_vectors(20), make_vectors(5), 1, index_from=6)

    def test_zeros_and_equal_vectors_have_neighbours(self):
        vectors = np.tile(make_vectors(2), (60, 1))
        vectors[7] = 0
        places, similarity = nearest(vectors, vectors, 3, leave_out_self=True, index_from=2)
        assert (similarity[7] == 0).all()
        assert similarity[8] == pytest.approx([1, 1, 1])
        assert all(len(set(row)) == 3 for row in places.tolist())


class Forgetful:
    """An index that finds nothing for every second query, and two neighbours for the others."""

    def search(self, queries, wanted):
        keys = np.tile(np.arange(wanted), (len(queries), 1))
        counts = np.where(np.arange(len(queries)) % 2, 0, 2)
        return SimpleNamespace(keys=keys, counts=counts)


def test_what_an_index_does_not_find_is_searched_exactly(monkeypatch):
    monkeypatch.setattr(module, "_make_index", lambda vectors: Forgetful())
    vectors = make_vectors(30)
    wanted, _ = brute_nearest(vectors, vectors, 2)
    places, _ = nearest(vectors, vectors, 2, index_from=2)
    np.testing.assert_array_equal(places[1::2], wanted[1::2])
    assert np.sort(places[::2]).tolist() == [[0, 1]] * 15


def test_without_the_index_the_search_is_exact(monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch", None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    vectors = make_vectors(50)
    places, _ = nearest(vectors, vectors, 5, index_from=2)
    np.testing.assert_array_equal(places, brute_nearest(vectors, vectors, 5)[0])


class TestSimilarPairs:
    @pytest.mark.parametrize("threshold", [-1, 0.5, 0.9, 0.99])
    def test_finds_what_brute_force_finds(self, threshold):
        vectors = make_vectors(100)
        pairs = similar_pairs(vectors, threshold, sizes=SMALL)
        assert pairs.dtype == np.int64
        np.testing.assert_array_equal(pairs, brute_pairs(vectors, threshold))

    @pytest.mark.parametrize("spread", [0.2, 1.0, 4.0])
    @pytest.mark.parametrize("threshold", [0.9, 0.97, 0.999])
    def test_sketches_lose_no_pair(self, sketched, spread, threshold):
        vectors = make_vectors(150, spread=spread)
        near = make_vectors(150, seed=1, spread=spread * 0.05)
        vectors = np.concatenate([vectors, vectors + near - near.mean(axis=0)])
        np.testing.assert_array_equal(
            similar_pairs(vectors, threshold, sizes=SKETCHED), brute_pairs(vectors, threshold)
        )
        assert sketched

    def test_sketches_are_used_where_they_leave_few_pairs(self, sketched):
        wide = make_vectors(600, spread=4.0)
        assert len(similar_pairs(wide, 0.995, sizes=SKETCHED)) == len(brute_pairs(wide, 0.995))
        assert sketched[-1] is not None
        # Of no direction more than of any other: short sketches say nothing.
        even = np.random.default_rng(0).normal(size=(600, 200)).astype(np.float32)
        even[1] = even[0] * 1.1
        assert similar_pairs(even, 0.5, sizes=SKETCHED).tolist() == [[0, 1]]
        assert sketched[-1] is None

    def test_sketches_that_leave_too_much_lose_no_pair(self, monkeypatch):
        # The poorest sketch there is: it sets nothing apart.
        monkeypatch.setattr(module, "_sketch", lambda *args: np.zeros((len(args[0]), 1), "f4"))
        vectors = make_vectors(200)
        pairs = similar_pairs(vectors, 0.95, sizes=SKETCHED)
        np.testing.assert_array_equal(pairs, brute_pairs(vectors, 0.95))

    def test_a_sketch_never_sets_vectors_farther_apart(self):
        vectors = make_vectors(200)
        vectors[5] = 0
        norms = np.linalg.norm(vectors.astype(float), axis=1)
        short = module._sketch(vectors, norms, 0.9, replace(SKETCHED, sketch_leaves=1.0))
        whole = unit(vectors).astype(np.float64)
        apart = np.linalg.norm(whole[:, None] - whole, axis=2)
        seen = np.linalg.norm(short[:, None].astype(np.float64) - short, axis=2)
        assert (seen <= apart + 1e-6).all()
        assert seen.max() > 0.5 * apart.max()

    def test_zeros_are_in_no_pair(self):
        vectors = np.zeros((40, 3), np.float32)
        vectors[[3, 30]] = 1
        assert similar_pairs(vectors, 0.5, sizes=SMALL).tolist() == [[3, 30]]

    def test_equal_vectors_reach_a_cosine_of_one(self):
        vectors = np.tile(make_vectors(1, length=1280), (3, 1)) * np.float32([[1], [1], [0.5]])
        assert similar_pairs(vectors, 1.0, sizes=SMALL).tolist() == [[0, 1], [0, 2], [1, 2]]

    @pytest.mark.parametrize("count", [0, 1])
    def test_no_pairs_of_fewer_than_two(self, count):
        assert similar_pairs(make_vectors(count), -1).shape == (0, 2)

    @pytest.mark.parametrize("threshold", [-1.1, 1.1, float("nan")])
    def test_a_threshold_that_is_no_cosine_is_refused(self, threshold):
        with pytest.raises(SettingsError, match="must be a cosine"):
            similar_pairs(make_vectors(3), threshold)

    def test_what_is_not_finite_is_refused(self):
        vectors = make_vectors(3)
        vectors[1, 0] = np.inf
        with pytest.raises(SettingsError, match="row 1"):
            similar_pairs(vectors, 0.5)


def test_unit_vectors_have_length_one_or_zero():
    vectors = np.array([[3, 4], [0, 0], [1e-30, 0], [1e30, 0]], np.float32)
    np.testing.assert_allclose(unit(vectors), [[0.6, 0.8], [0, 0], [1, 0], [1, 0]], atol=1e-7)
