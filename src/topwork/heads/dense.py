"""A dense layer from vectors to logits, in NumPy.

N: vectors, D: vector length, C: outputs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Task(StrEnum):
    """What the outputs mean, and so which loss and metric they are trained with."""

    CLASSES = "classes"  # one of many: categorical cross-entropy, accuracy
    BINARY = "binary"  # one of two, a single logit: binary cross-entropy, accuracy
    LABELS = "labels"  # any of many at once: binary cross-entropy, accuracy per label
    NUMBER = "number"  # a quantity: mean squared error, mean absolute error

    @property
    def metric(self) -> str:
        """Keras' name of the metric that is recorded for this task."""
        return "mae" if self is Task.NUMBER else "accuracy"


class Head(NamedTuple):
    """A dense layer without activation.

    Attributes:
        kernel: (D, C) float32.
        bias: (C,) float32.
    """

    kernel: Floats
    bias: Floats

    def logits(self, vectors: Floats) -> Floats:
        """Returns the logits (N, C) float32 of vectors (N, D) float32."""
        return np.asarray(vectors @ self.kernel + self.bias, np.float32)


def init_head(vector_length: int, outputs: int, seed: int) -> Head:
    """Returns an untrained head: kernel Glorot uniform, bias zero, as Keras' Dense.

    Args:
        vector_length: D, at least 1.
        outputs: C, at least 1.
        seed: the same seed gives the same head on every machine.

    Returns:
        The head, float32.

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward
    neural networks", 2010: U(-a, a) with a = sqrt(6 / (D + C)).
    """
    limit = np.sqrt(6.0 / (vector_length + outputs))
    kernel = np.random.default_rng(seed).uniform(-limit, limit, (vector_length, outputs))
    return Head(kernel.astype(np.float32), np.zeros(outputs, np.float32))


def probabilities(task: Task, logits: Floats) -> Floats:
    """Turns logits into probabilities, computed in float64.

    Args:
        task: softmax for one of many, sigmoid for two classes or many labels; a number stays.
        logits: (N, C) float32.

    Returns:
        (N, C) float32 in 0..1 (any value for a number).
    """
    wide = logits.astype(np.float64)
    match task:
        case Task.CLASSES:
            wide = np.exp(wide - wide.max(axis=-1, keepdims=True))
            wide /= wide.sum(axis=-1, keepdims=True)
        case Task.BINARY | Task.LABELS:
            wide = 0.5 * (1 + np.tanh(wide / 2))
        case Task.NUMBER:
            pass
    return wide.astype(np.float32)
