"""Which vectors are alike: nearest neighbours and similar pairs, by cosine.

Pure functions on vectors in memory or on disk, in blocks of bounded memory. N: vectors, D: their
length, Q: queries. A vector of zeros has the cosine 0 with everything. Cosines that decide are
computed in 64 bits, so that equal vectors are exactly as near.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from topwork.core.arrays import Floats32, Floats64, Indices
from topwork.core.errors import SettingsError
from topwork.vectors.on_disk import Rows

# From so many queries of so many vectors on, an approximate index answers, if it is installed:
# an exact search of a million by a million takes half a day on two cores.
INDEX_FROM = 1_000_000
# Rows and columns of one product: 16 MB of cosines.
BLOCK = 2048
# Pairs of vectors that are multiplied at a time: few enough for a processor's cache.
CHUNK = 256
# Cosines in 32 bits are wrong by less than this.
ROUNDING = 1e-5
# An index is asked for so many more neighbors, because its order is not exact; they are then
# put in exact order.
EXTRA = 16

# Lengths of the sketches that are tried, and how many vectors they are tried on.
SKETCHES = (32, 64, 128, 256)
SAMPLE = 2048
# Sketches are worth it from so many vectors on, and if they leave at most this share of the pairs:
# a pair by itself costs as much as a hundred in one product.
SKETCH_FROM = 4096
SKETCH_LEAVES = 0.005


@dataclass(frozen=True)
class Sizes:
    """How many vectors are worked on at once, and when sketches are worth it.

    Attributes:
        block: rows and columns of one product.
        chunk: pairs of vectors that are multiplied at a time.
        sketches: lengths of the sketches that are tried, ascending.
        sample: how many vectors they are tried on.
        sketch_from: from so many vectors on they are tried.
        sketch_leaves: the largest share of the pairs that they may leave.
    """

    block: int = BLOCK
    chunk: int = CHUNK
    sketches: tuple[int, ...] = SKETCHES
    sample: int = SAMPLE
    sketch_from: int = SKETCH_FROM
    sketch_leaves: float = SKETCH_LEAVES


SIZES = Sizes()


def nearest(
    queries: Rows,
    vectors: Rows,
    count: int,
    *,
    leave_out_self: bool = False,
    index_from: int = INDEX_FROM,
    sizes: Sizes = SIZES,
) -> tuple[Indices, Floats32]:
    """Returns the vectors with the highest cosine to each query.

    Exact, unless there are `index_from` queries and vectors or more and the package usearch,
    of the extra `index`, is installed: then a few of the neighbors may be missed.

    Args:
        queries: (Q, D).
        vectors: (N, D).
        count: how many to find for each query, at least 1.
        leave_out_self: the queries are the vectors, and none is its own neighbor.
        index_from: see above.
        sizes: how many vectors are worked on at once.

    Returns:
        indices: (Q, K) int64 of `vectors`, best first, equal ones in ascending order; K is
            `count`, or less if there are fewer vectors.
        similarity: (Q, K) float32 cosines, -1..1.

    Raises:
        SettingsError: arrays of other shapes or with NaN or infinity, or a count below 1.
    """
    query_norms = _norms(queries, "queries", sizes.chunk)
    norms = _norms(vectors, "vectors", sizes.chunk)
    if queries.shape[1] != vectors.shape[1] or (leave_out_self and len(query_norms) != len(norms)):
        raise SettingsError(
            f"queries and vectors must be as long, and as many if none is to find itself; "
            f"received {queries.shape} and {vectors.shape}"
        )
    if count < 1:
        raise SettingsError(f"count: must be at least 1, received {count}")
    count = min(count, max(len(norms) - leave_out_self, 0))
    indices = np.zeros((len(query_norms), count), np.int64)
    similarity = np.zeros((len(query_norms), count), np.float32)
    if not indices.size:
        return indices, similarity
    search = _Search(queries, query_norms, vectors, norms, count, leave_out_self, sizes)
    index = None
    if min(len(query_norms), len(norms)) >= index_from:
        index = _make_index(vectors)
    for start in range(0, len(query_norms), sizes.block):
        rows = np.arange(start, min(start + sizes.block, len(query_norms)))
        found = search.by_index(index, rows) if index is not None else search.exact(rows)
        indices[rows], similarity[rows] = found
    return indices, similarity


def similar_pairs(vectors: Rows, threshold: float, *, sizes: Sizes = SIZES) -> Indices:
    """Returns all pairs of vectors whose cosine reaches a threshold: none is missed.

    Args:
        vectors: (N, D).
        threshold: -1..1.
        sizes: how many vectors are worked on at once.

    Returns:
        (P, 2) int64 indices i < j, ascending.

    Raises:
        SettingsError: an array of another shape or with NaN or infinity, or such a threshold.
    """
    blocks = list(similar_blocks(vectors, threshold, sizes=sizes))
    if not blocks:
        return np.zeros((0, 2), np.int64)
    pairs = np.concatenate(blocks)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def similar_blocks(vectors: Rows, threshold: float, *, sizes: Sizes = SIZES) -> Iterator[Indices]:
    """Yields what `similar_pairs` returns block by block, so that memory stays bounded.

    Many vectors are compared by their sketches first: short vectors that are never farther apart
    than the vectors themselves, see `_sketch`. The pairs that these leave are compared in full.

    Yields:
        (P, 2) int64 indices i < j, at least one pair.
    """
    norms = _norms(vectors, "vectors", sizes.chunk)
    block = sizes.block
    if not -1 <= threshold <= 1:
        raise SettingsError(f"threshold: must be a cosine, -1 to 1, received {threshold}")
    sketch = None
    if len(norms) >= sizes.sketch_from:
        sketch = _sketch(vectors, norms, threshold, sizes)
    # |a - b|² <= 2 - 2 cos for vectors of length 1 or 0. With h = |s|²/2 of a sketch s, the
    # product of (s, -h, 1) with (s', 1, -h') is -|s - s'|²/2, which has to reach cos - 1.
    least = threshold - ROUNDING - (1 if sketch is not None else 0)

    def whole(start: int) -> Floats32:
        return _unit(vectors[start : start + block], norms[start : start + block])

    def take(start: int, flip: bool) -> Floats32:
        if sketch is None:
            return whole(start)
        part = sketch[start : start + block]
        half = np.einsum("nd,nd->n", part, part)[:, None] / 2
        ones = np.ones_like(half)
        return np.concatenate([part, ones, -half] if flip else [part, -half, ones], axis=1)

    for start in range(0, len(norms), block):
        rows = take(start, False)
        for other in range(start, len(norms), block):
            reached = rows @ take(other, True).T >= least
            if start == other:
                reached = np.triu(reached, 1)
            most = sizes.sketch_leaves * reached.size
            if sketch is not None and np.count_nonzero(reached) > most:
                reached &= whole(start) @ whole(other).T >= threshold - ROUNDING
            first, second = np.divmod(np.flatnonzero(reached), reached.shape[1])
            first, second = first + start, second + other
            cosines = _cosines(vectors, norms, first, vectors, norms, second, sizes.chunk)
            found = cosines >= threshold
            if found.any():
                yield np.stack([first[found], second[found]], axis=1)


def unit(vectors: Floats32) -> Floats32:
    """Returns vectors of length 1, or 0 where they are zeros; (N, D) float32."""
    return _unit(vectors, _norms(vectors, "vectors"))


class _Search:
    """A search for the neighbors of some queries at a time."""

    def __init__(
        self,
        queries: Rows,
        query_norms: Floats64,
        vectors: Rows,
        norms: Floats64,
        count: int,
        leave_out_self: bool,
        sizes: Sizes,
    ) -> None:
        self.queries, self.query_norms = queries, query_norms
        self.vectors, self.norms = vectors, norms
        self.count, self.leave_out_self = count, leave_out_self
        self.sizes = sizes

    def exact(self, rows: Indices) -> tuple[Indices, Floats64]:
        """Compares R queries with all vectors; returns indices and cosines, each (R, K)."""
        queries = _unit(self.queries[rows], self.query_norms[rows])
        best = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        floor = np.full(len(rows), -np.inf, np.float32)
        for start in range(0, len(self.norms), self.sizes.block):
            stop = start + self.sizes.block
            cosines = queries @ _unit(self.vectors[start:stop], self.norms[start:stop]).T
            if self.leave_out_self:
                own = np.flatnonzero((rows >= start) & (rows < stop))
                cosines[own, rows[own] - start] = -np.inf
            if cosines.shape[1] > self.count:
                last = np.partition(cosines, -self.count, axis=1)[:, -self.count]
                floor = np.maximum(floor, last)
            # Vectors that may be among the best, whatever the rounding of 32 bits.
            near = (cosines >= floor[:, None] - ROUNDING) & (cosines > -np.inf)
            row, column = np.divmod(np.flatnonzero(near), near.shape[1])
            best = self._merge(rows, best, row, column + start)
            counts = np.bincount(best[0], minlength=len(rows))
            full = np.flatnonzero(counts >= self.count)
            last = best[2][np.cumsum(counts)[full] - 1].astype(np.float32)
            floor[full] = np.maximum(floor[full], last)
        shape = len(rows), self.count
        return best[1].reshape(shape), best[2].reshape(shape)

    def by_index(self, index: Any, rows: Indices) -> tuple[Indices, Floats64]:
        """Asks an index, and puts what it finds in order; indices and cosines, each (R, K)."""
        wanted = min(self.count + EXTRA, len(self.norms))
        matches = index.search(self.queries[rows], wanted)
        keys = np.asarray(matches.keys).astype(np.int64).reshape(len(rows), wanted)
        known = np.arange(wanted) < np.asarray(matches.counts).reshape(-1, 1)
        if self.leave_out_self:
            known &= keys != rows[:, None]
        none = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        row, column = np.nonzero(known)
        row, found, cosine = self._merge(rows, none, row, keys[row, column])
        counts = np.bincount(row, minlength=len(rows))
        short = np.flatnonzero(counts < self.count)
        is_full = counts[row] == self.count
        indices = np.zeros((len(rows), self.count), np.int64)
        cosines = np.zeros((len(rows), self.count))
        indices[counts == self.count] = found[is_full].reshape(-1, self.count)
        cosines[counts == self.count] = cosine[is_full].reshape(-1, self.count)
        if len(short):
            indices[short], cosines[short] = self.exact(rows[short])
        return indices, cosines

    def _merge(
        self,
        rows: Indices,
        best: tuple[Indices, Indices, Floats64],
        row: Indices,
        index: Indices,
    ) -> tuple[Indices, Indices, Floats64]:
        """Adds candidates to the best neighbors of each query.

        Args:
            rows: (R,) of the queries.
            best: the neighbors so far, as returned.
            row: (M,) of the candidates' queries, 0..R-1.
            index: (M,) of the candidates.

        Returns:
            Row, index and cosine of each neighbor; by row, best first.
        """
        pairs = self.queries, self.query_norms, rows[row], self.vectors, self.norms, index
        cosine = _cosines(*pairs, self.sizes.chunk)
        row = np.concatenate([best[0], row])
        index = np.concatenate([best[1], index])
        cosine = np.concatenate([best[2], cosine])
        order = np.lexsort((index, -cosine, row))
        row, index, cosine = row[order], index[order], cosine[order]
        starts = np.searchsorted(row, np.arange(len(rows)))
        kept = np.arange(len(row)) - starts[row] < self.count
        return row[kept], index[kept], cosine[kept]


def _make_index(vectors: Rows) -> Any | None:
    """Returns an index of the vectors, or None where the package is missing."""
    try:
        from usearch.index import Index
    except ImportError:
        return None
    index = Index(ndim=vectors.shape[1], metric="cos", dtype="f32")
    # One thread: the order of insertion decides the graph, and so what is found.
    index.add(np.arange(len(vectors)), np.ascontiguousarray(vectors[:], np.float32), threads=1)
    return index


def _sketch(vectors: Rows, norms: Floats64, threshold: float, sizes: Sizes) -> Floats32 | None:
    """Returns short vectors that are never farther apart than the unit vectors are.

    A sketch is the projection of a - m on orthonormal directions, and as one more value the length
    of the remainder. Projections shorten distances, and the lengths of two remainders differ by at
    most their distance: |a - b|² = |Pa - Pb|² + |ra - rb|² >= |Pa - Pb|² + (|ra| - |rb|)². This
    holds for any directions and any m; the principal components of a sample, and its mean, make
    the bound tight.

    Source: the lower bound of GEMINI, C. Faloutsos et al., "Fast Subsequence Matching in
    Time-Series Databases", SIGMOD 1994, lemma 1.

    Returns:
        (N, k + 1) float32 with the smallest k that leaves few pairs of the sample; None if none.
    """
    from sklearn.utils.extmath import randomized_svd

    chosen = np.linspace(0, len(norms) - 1, 2 * sizes.sample).astype(np.int64)
    sample = _unit(vectors[chosen], norms[chosen])
    # The pairs that sketches leave are counted on other vectors than the directions are fitted to.
    sample, others = sample[::2], sample[1::2]
    mean = sample.mean(axis=0)
    longest = min(sizes.sketches[-1], vectors.shape[1])
    _, _, directions = randomized_svd(
        (sample - mean).astype(np.float64), longest, n_iter=2, random_state=0
    )
    directions = directions.astype(np.float32)
    largest = 2 - 2 * threshold
    upper = np.triu_indices(len(others), 1)
    for length in sizes.sketches:
        if length >= vectors.shape[1]:
            break
        tried = _project(others, mean, directions[:length])
        half = np.einsum("nd,nd->n", tried, tried) / 2
        distances = 2 * (half[:, None] + half - tried @ tried.T)[upper]
        if np.count_nonzero(distances <= largest) <= sizes.sketch_leaves * len(distances):
            sketch = np.empty((len(norms), length + 1), np.float32)
            for start in range(0, len(norms), sizes.block):
                rows = slice(start, start + sizes.block)
                whole = _unit(vectors[rows], norms[rows])
                sketch[rows] = _project(whole, mean, directions[:length])
            return sketch
    return None


def _project(vectors: Floats32, mean: Floats32, directions: Floats32) -> Floats32:
    centered = vectors - mean
    projected = centered @ directions.T
    remainder = np.linalg.norm(centered - projected @ directions, axis=1)
    return np.concatenate([projected, remainder[:, None]], axis=1)


def _norms(vectors: Rows, name: str, chunk: int = CHUNK) -> Floats64:
    """Returns the lengths of vectors, (N,).

    Raises:
        SettingsError: not (N, D), or NaN or infinity among the values.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise SettingsError(
            f"{name} must be float32 of shape (images, values), received {vectors.dtype} "
            f"{vectors.shape}"
        )
    norms = np.zeros(len(vectors))
    for start in range(0, len(vectors), chunk):
        part = vectors[start : start + chunk].astype(np.float64)
        norms[start : start + chunk] = np.sqrt((part * part).sum(axis=1))
    bad = np.flatnonzero(~np.isfinite(norms))
    if len(bad):
        raise SettingsError(f"{name} must be finite, received NaN or infinity in row {bad[0]}")
    return norms


def _unit(vectors: Floats32, norms: Floats64) -> Floats32:
    return (vectors / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32)


def _cosines(
    left: Rows,
    left_norms: Floats64,
    first: Indices,
    right: Rows,
    right_norms: Floats64,
    second: Indices,
    chunk: int,
) -> Floats64:
    """Returns the cosines (P,) of pairs of rows, each computed by itself in 64 bits."""
    cosines = np.zeros(len(first))
    for start in range(0, len(first), chunk):
        one, other = first[start : start + chunk], second[start : start + chunk]
        products = (left[one].astype(np.float64) * right[other]).sum(axis=1)
        lengths = left_norms[one] * right_norms[other]
        cosines[start : start + chunk] = products / np.where(lengths > 0, lengths, 1)
    return np.clip(cosines, -1, 1)
