"""What wrong labels look like: whether they go anywhere, or from a class to a certain other one.

N: images, C: classes. The confident joint (C, C) is that of `label_issues.count_confident`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import AnyFloats

# Between these, wrong labels turn from those that go anywhere into those that go to one class.
ANYWHERE, TOGETHER = 0.1, 0.5
# Of the images of a class, so many may be mistaken in a way that none was seen of.
UNSEEN = 1e-4


def find_concentration(joint: NDArray[np.int64]) -> float:
    """Says how far the wrong labels of a class go to one other class: 0 anywhere, 1 to one only.

    It is the share of pairs of wrong labels of one class that agree, beyond what they would if
    they went to all others alike; less three standard errors of that, so that a few say nothing.
    """
    wrong = joint - np.diag(np.diag(joint))
    of_class, chance = wrong.sum(axis=0), 1 / max(len(joint) - 1, 1)
    pairs = float((of_class * (of_class - 1)).sum()) / 2
    if not pairs or chance == 1:
        return 0.0
    agree = float((wrong * (wrong - 1)).sum()) / 2 / pairs
    # Pairs of labels that go anywhere agree independently of each other, also if they share one.
    error = (chance * (1 - chance) / pairs) ** 0.5
    return max(0.0, float((agree - chance - 3 * error) / (1 - chance)))


def weigh_by_noise(
    probabilities: AnyFloats, labels: NDArray[Any], joint: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Returns how likely each class is the true one, given what wrong labels look like.

    What the head believes of an image does not say how its label came about. Where the wrong
    labels of a class mostly are a certain other one, an image that has that other label is more
    likely one of them, and Bayes' rule weighs the head's belief by it. Where they go anywhere,
    what the joint counts are classes that look alike, and the belief stays as it is; between the
    two it is weighed in part.

    Args:
        probabilities: (N, C), of images that the head did not see; rows of NaN stay.
        labels: (N,) class indices.
        joint: the confident joint of both.

    Returns:
        (N, C) float64; rows sum to 1.
    """
    found = probabilities.astype(np.float64)
    concentration = find_concentration(joint)
    degree = float(np.clip((concentration - ANYWHERE) / (TOGETHER - ANYWHERE), 0, 1))
    if not degree:
        return found
    # How many images have each given label and true class: the joint, to the labels' frequencies.
    given = np.bincount(labels, minlength=len(joint))[:, None]
    counts = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1) * given
    shares = counts / max(counts.sum(), 1) + UNSEEN
    chances = shares / shares.sum(axis=0)
    # Relative to labels that are as often wrong and go anywhere, so that an even score stays even.
    right = np.eye(len(joint), dtype=bool)
    chances = np.where(right, chances / chances[right].mean(), chances / chances[~right].mean())
    found *= chances[labels] ** degree
    return np.asarray(found / found.sum(axis=1, keepdims=True))
