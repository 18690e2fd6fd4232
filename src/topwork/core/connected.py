"""Which of many things hang together, by pairs that do."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def connect(pairs: Iterable[tuple[int, int]], count: int) -> NDArray[np.int64]:
    """Returns each thing's group: things that pairs connect, also over others, have the same.

    Args:
        pairs: of the numbers 0..N-1.
        count: N.

    Returns:
        (N,) 0..G-1, in the order of each group's first thing.
    """
    roots = list(range(count))

    def find_root(thing: int) -> int:
        while roots[thing] != thing:
            roots[thing] = thing = roots[roots[thing]]
        return thing

    for one, other in pairs:
        first, second = find_root(one), find_root(other)
        # The root of a group is its first thing.
        roots[max(first, second)] = min(first, second)
    firsts = np.array([find_root(thing) for thing in range(count)], np.int64)
    _, groups = np.unique(firsts, return_inverse=True)
    return np.asarray(groups, np.int64)
