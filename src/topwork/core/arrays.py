"""Types of arrays that many modules share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats32 = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Indices = NDArray[np.int64]
# Of functions that take one precision as well as another.
AnyFloats = NDArray[np.floating[Any]]
AnyInts = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
