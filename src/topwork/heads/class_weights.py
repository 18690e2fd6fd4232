"""How much an image counts by its class, so that classes count the same.

N: images, C: outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.task import Task
from topwork.heads.dense import Floats


def balance(task: Task, targets: NDArray[Any], outputs: int) -> Floats:
    """Returns how much an image counts by its class, so that classes count the same.

    The weights of all images have a mean of 1; a class without images has weight 0.

    Args:
        task: decides what the classes are. Numbers have none, and all count the same.
        targets: of N images, as `LabeledVectors` has them.
        outputs: C.

    Returns:
        (1, C) for one of many; (2, C) else, of a label that is absent and one that is present.
    """
    if task is Task.NUMBER:
        return np.ones((2, outputs), np.float32)
    if task is Task.CLASSES:
        counts = np.bincount(targets, minlength=outputs)[None, :]
        present = np.count_nonzero(counts)
    else:
        ones = (targets > 0.5).sum(axis=0)
        counts = np.stack([len(targets) - ones, ones])
        present = np.count_nonzero(counts, axis=0)
    shares = np.divide(len(targets), present * counts, out=np.zeros(counts.shape), where=counts > 0)
    return np.asarray(shares, np.float32)


def weigh(task: Task, targets: NDArray[Any], weights: Floats) -> Floats:
    """Returns the weight of each image by its class, (N,); (N, C) for two classes and labels.

    Args:
        task: decides what the classes are.
        targets: of N images, as `LabeledVectors` has them.
        weights: from `balance`.
    """
    if task is Task.CLASSES:
        return np.asarray(weights[0, targets])
    return np.asarray(np.where(targets > 0.5, weights[1], weights[0]))
