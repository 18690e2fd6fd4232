"""Dense layers from vectors to logits, in NumPy.

N: vectors, D: vector length, U: units of the inner layer, C: outputs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topwork.core.task import Task
from topwork.metrics.calibration import as_pairs, softmax

Floats = NDArray[np.float32]


class Dense(NamedTuple):
    """One layer.

    Attributes:
        kernel: (D, U) float32.
        bias: (U,) float32.
    """

    kernel: Floats
    bias: Floats


class Head(NamedTuple):
    """One dense layer, or an inner one with ReLU and then one. The logits have no activation.

    Attributes:
        layers: from the vectors on; the first takes D values, the last gives C.
    """

    layers: tuple[Dense, ...]

    @property
    def outputs(self) -> int:
        """C."""
        return len(self.layers[-1].bias)

    @property
    def linear(self) -> bool:
        """Whether the logits are a linear function of the vectors: there is no inner layer."""
        return len(self.layers) == 1

    def logits(self, vectors: Floats) -> Floats:
        """Returns the logits (N, C) float32 of vectors (N, D) float32."""
        *inner, last = self.layers
        for layer in inner:
            vectors = np.maximum(vectors @ layer.kernel + layer.bias, 0)
        return np.asarray(vectors @ last.kernel + last.bias, np.float32)

    def on_raw(self, mean: Floats, deviation: Floats) -> Head:
        """Returns the head that does to vectors what this one does to standardised vectors.

        Standardising is affine, so it goes into the first layer and costs nothing later.

        Args:
            mean: (D,) float32, what was subtracted.
            deviation: (D,) float32 above 0, what was divided by then.
        """
        first, *rest = self.layers
        kernel = first.kernel.astype(np.float64) / deviation[:, None]
        bias = first.bias - mean @ kernel
        return Head((Dense(kernel.astype(np.float32), bias.astype(np.float32)), *rest))

    def on_scale(self, mean: Floats, deviation: Floats) -> Head:
        """Returns the head whose outputs are those of this one times deviations, plus means.

        Args:
            mean: (C,) float32.
            deviation: (C,) float32 above 0.
        """
        *inner, last = self.layers
        return Head((*inner, Dense(last.kernel * deviation, last.bias * deviation + mean)))

    def cooled(self, temperature: float) -> Head:
        """Returns the head whose logits are those of this one divided by a temperature."""
        *inner, last = self.layers
        factor = np.float32(1 / temperature)
        return Head((*inner, Dense(last.kernel * factor, last.bias * factor)))


def init_head(vector_length: int, outputs: int, seed: int, inner_units: int = 0) -> Head:
    """Returns an untrained head: kernels Glorot uniform, biases zero, as Keras' Dense.

    Args:
        vector_length: D, at least 1.
        outputs: C, at least 1.
        seed: the same seed gives the same head on every machine.
        inner_units: U; 0 for a head without an inner layer.

    Returns:
        The head, float32.

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward
    neural networks", 2010: U(-a, a) with a = sqrt(6 / (inputs + outputs)).
    """
    generator = np.random.default_rng(seed)
    sizes = [vector_length, *([inner_units] if inner_units else []), outputs]
    layers = []
    for inputs, units in pairwise(sizes):
        limit = np.sqrt(6.0 / (inputs + units))
        kernel = generator.uniform(-limit, limit, (inputs, units)).astype(np.float32)
        layers.append(Dense(kernel, np.zeros(units, np.float32)))
    return Head(tuple(layers))


def probabilities(task: Task, logits: Floats) -> Floats:
    """Turns logits into probabilities, computed in float64.

    Args:
        task: softmax for one of many, sigmoid for two classes or many labels; a number stays.
        logits: (N, C) float32; one column for two classes.

    Returns:
        (N, C) float32 in 0..1 (any value for a number); for two classes (N, 2), that of the
        first and that of the second.
    """
    match task:
        case Task.CLASSES:
            return softmax(logits)
        case Task.BINARY:
            return softmax(as_pairs(logits))
        case Task.LABELS:
            wide = logits.astype(np.float64)
            return (0.5 * (1 + np.tanh(wide / 2))).astype(np.float32)
        case Task.NUMBER:
            return logits.copy()


def decide(task: Task, logits: Floats) -> NDArray[Any]:
    """Returns the answers that logits (N, C) stand for.

    Returns:
        Class indices (N,) int64 for one of many or of two; (N, C) bool for many labels; the
        numbers (N, C) float32.
    """
    match task:
        case Task.CLASSES:
            return np.asarray(logits.argmax(axis=1))
        case Task.BINARY:
            return (logits[:, 0] > 0).astype(np.int64)
        case Task.LABELS:
            return np.asarray(logits > 0)
        case Task.NUMBER:
            return logits


def score(task: Task, logits: Floats, targets: NDArray[Any]) -> tuple[float, float]:
    """Returns the mean loss and the metric, as `losses` has them for JAX, in float64.

    Args:
        task: decides the formulas.
        logits: (N, C) float32.
        targets: (N,) class indices; (N, C) for the other tasks.
    """
    values = logits.astype(np.float64)
    match task:
        case Task.CLASSES:
            values -= values.max(axis=1, keepdims=True)
            right = np.take_along_axis(values, targets[:, None], axis=1)[:, 0]
            losses = np.log(np.exp(values).sum(axis=1)) - right
            metric = values.argmax(axis=1) == targets
        case Task.BINARY | Task.LABELS:
            losses = np.logaddexp(0, values) - targets * values
            metric = (values > 0) == (targets > 0.5)
        case Task.NUMBER:
            losses, metric = np.square(values - targets), np.abs(values - targets)
    return float(losses.mean()), float(metric.mean())
