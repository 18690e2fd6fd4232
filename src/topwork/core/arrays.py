"""Types of arrays that many modules share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats32 = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Indices = NDArray[np.int64]
