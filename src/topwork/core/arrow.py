"""Arrow arrays made of buffers.

pyarrow's own `array` imports pandas, if it is installed, to see whether it is given one of its
objects: a third of a second that a command need not wait for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def make_strings(texts: Sequence[str]) -> Any:
    """Returns an Arrow array of N texts."""
    import pyarrow as pa

    encoded = [text.encode() for text in texts]
    ends = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum([len(text) for text in encoded], out=ends[1:])
    buffers = pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))
    return pa.StringArray.from_buffers(len(encoded), *buffers)


def make_lists(rows: NDArray[Any]) -> Any:
    """Returns an Arrow array of N lists of C numbers each, from (N, C) of float32 or float64."""
    import pyarrow as pa

    count, length = rows.shape
    values = np.ascontiguousarray(rows).ravel()
    ends = np.arange(0, count * length + 1, max(length, 1), dtype=np.int32)[: count + 1]
    kinds = {"float32": pa.float32(), "float64": pa.float64()}
    flat = pa.Array.from_buffers(
        kinds[values.dtype.name], len(values), [None, pa.py_buffer(values)]
    )
    kind = pa.list_(flat.type)
    return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(ends)], children=[flat])
