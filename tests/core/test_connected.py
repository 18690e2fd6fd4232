import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from topwork.core.connected import connect


@given(st.data(), st.integers(1, 40))
def test_groups_are_those_of_scipy_in_the_order_of_their_first_thing(data, count):
    numbers = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(numbers, numbers), max_size=60))
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(count, count))
    _, wanted = connected_components(graph, directed=False)
    found = connect(pairs, count)
    assert found.dtype == np.int64
    assert np.array_equal(found[:, None] == found, wanted[:, None] == wanted)
    _, firsts = np.unique(found, return_index=True)
    assert sorted(firsts) == firsts.tolist()


def test_nothing_has_no_group():
    assert connect([], 0).tolist() == []
    assert connect([], 3).tolist() == [0, 1, 2]
