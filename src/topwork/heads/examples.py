"""Vectors with what they should become, heads with their records, and the scales of both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.config import HeadSettings
from topwork.heads.dense import Floats, Head
from topwork.vectors.on_disk import Rows, VectorsOnDisk

Ints = NDArray[np.int32]
Wide = NDArray[np.float64]

# A value of the vectors that varies by less than this share of the largest is constant.
CONSTANT = 1e-6


@dataclass(frozen=True)
class LabeledVectors:
    """Vectors and what they should become.

    Attributes:
        vectors: (X, D) float32, held or stored.
        targets: (X,) int32 class indices; (X, C) float32 for the other tasks.
        weights: (X,) float32, how much each counts in training; None for all the same.
    """

    vectors: Rows
    targets: NDArray[Any]
    weights: Floats | None = None

    def weights_of(self, rows: Ints) -> Floats | None:
        """Returns the weights of some rows, with a mean of 1, so that they set no step size."""
        if self.weights is None:
            return None
        chosen = self.weights[rows]
        # Of a fold that has none that counts, all do.
        return np.asarray(chosen / chosen.mean(), np.float32) if chosen.any() else None


@dataclass(frozen=True)
class RowSplit:
    """Which rows of some examples to learn from, and which to be scored on.

    Attributes:
        training: (V, N) int32; the rows of N images in each of V views. Epoch e learns from
            view e modulo V.
        held_out: (M,) int32 rows; -1 is padding. Where all are there is nothing to choose an
            epoch by: the last is kept, and held-out figures are NaN.
        decides: whether the held-out rows may choose anything: not if they lack a class. The
            last epoch is kept then.
    """

    training: Ints
    held_out: Ints
    decides: bool = True


@dataclass(frozen=True)
class HeadFit:
    """A head that was trained.

    Attributes:
        settings: how.
        head: at its best epoch (by held-out accuracy, ties by loss; a number by its loss), or at
            its last one where the held-out rows may not choose, for vectors as they are; None if
            the loss was finite in no epoch.
        best_epoch: counted from 1; 0 if there is none.
        curve: figures of all epochs, under Keras' names; of one number in its unit, of several
            in the deviations of each.
    """

    settings: HeadSettings
    head: Head | None
    best_epoch: int
    curve: dict[str, list[float]]


def normalize(
    examples: LabeledVectors, split: RowSplit
) -> tuple[LabeledVectors, tuple[Floats, Floats]]:
    """Standardises the vectors by those that are learnt from; returns mean and deviation too."""
    vectors, rows = examples.vectors, split.training.ravel()
    if isinstance(vectors, VectorsOnDisk):
        middle, spread = _measure(vectors, rows)
    else:
        seen = vectors[rows]
        middle, spread = seen.mean(axis=0, dtype=np.float64), seen.std(axis=0, dtype=np.float64)
    spread[spread <= CONSTANT * max(spread.max(), CONSTANT)] = 1
    mean, deviation = middle.astype(np.float32), spread.astype(np.float32)
    if isinstance(vectors, VectorsOnDisk):
        scaled: Rows = vectors.scaled(mean, deviation)
    else:
        scaled = (vectors - mean) / deviation
    return replace(examples, vectors=scaled), (mean, deviation)


def _measure(vectors: VectorsOnDisk, rows: Ints) -> tuple[Wide, Wide]:
    """Returns the mean (D,) and the deviation of some rows, in one pass."""
    sums, squares, middle = np.zeros(0), np.zeros(0), np.zeros(0)
    for block in vectors.blocks(rows):
        values = vectors[rows[block]].astype(np.float64)
        if not len(middle):
            # Squares of what is far from 0 would swallow what differs.
            middle = values.mean(axis=0)
            sums, squares = np.zeros((2, len(middle)))
        values -= middle
        sums += values.sum(axis=0)
        squares += np.einsum("nd,nd->d", values, values)
    mean = sums / len(rows)
    return middle + mean, np.sqrt(np.maximum(squares / len(rows) - mean**2, 0))


def on_raw(fit: HeadFit, back: tuple[Floats, Floats] | None) -> HeadFit:
    """Makes a head of standardised vectors one of vectors as they are.

    Without mean and deviation, `back`, it is one of those already.
    """
    if back is None or fit.head is None:
        return fit
    return HeadFit(fit.settings, fit.head.on_raw(*back), fit.best_epoch, fit.curve)


def scale_targets(
    examples: LabeledVectors, split: RowSplit
) -> tuple[LabeledVectors, tuple[Floats, Floats]]:
    """Brings numbers to the scale of a logit; returns their means and deviations (C,) too.

    Steps of an optimizer have a size of their own: they would never reach prices in thousands.
    Each number has a deviation of its own: beside prices, sizes in metres would not be learnt.
    """
    seen = examples.targets[split.training[0]].astype(np.float64)
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)
    deviation[deviation == 0] = 1
    targets = ((examples.targets - mean) / deviation).astype(np.float32)
    return replace(examples, targets=targets), (
        mean.astype(np.float32),
        deviation.astype(np.float32),
    )


def on_scale(fit: HeadFit, mean: Floats, deviation: Floats) -> HeadFit:
    """Brings a head, and what is recorded of it, back to the scale of the numbers.

    Several numbers have no unit in common: what is recorded of them stays in deviations.
    """
    head = fit.head.on_scale(mean, deviation) if fit.head is not None else None
    unit = float(deviation[0]) if len(deviation) == 1 else 1.0
    powers = {"loss": 2, "val_loss": 2}
    curve = {
        name: [value * unit ** powers.get(name, 1) for value in values]
        for name, values in fit.curve.items()
    }
    return HeadFit(fit.settings, head, fit.best_epoch, curve)
