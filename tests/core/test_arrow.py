import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from topwork.core.arrow import make_lists, make_strings


@pytest.mark.parametrize("texts", [[], [""], ["a", "", "größer 漢", "x" * 1000]])
def test_strings_are_those_of_pyarrow(texts):
    found = make_strings(texts)
    found.validate(full=True)
    assert found.equals(pa.array(texts, pa.string()))


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 3)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_lists_are_those_of_pyarrow(shape, kind):
    rows = np.random.default_rng(0).normal(size=shape).astype(kind)
    found = make_lists(rows[:, ::-1])
    found.validate(full=True)
    wanted = pa.list_(pa.from_numpy_dtype(kind))
    assert found.equals(pa.array(list(rows[:, ::-1]), wanted))


def test_numbers_that_are_not_finite_stay_so():
    rows = np.array([[np.nan, np.inf]], np.float32)
    assert np.array_equal(make_lists(rows).to_pylist(), rows, equal_nan=True)


def test_pandas_is_not_imported():
    code = (
        "import sys, numpy as np; from topwork.core.arrow import make_lists, make_strings;"
        "make_strings(['a']); make_lists(np.zeros((2, 3)));"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
