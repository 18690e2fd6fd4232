"""Whether two files, or two kinds of arithmetic, give the same answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from topwork.core.arrays import Floats32
from topwork.core.errors import counted
from topwork.core.task import Task
from topwork.heads.dense import decide, probabilities
from topwork.metrics.intervals import wilson_interval
from topwork.models.checks.tolerances import MIN_AGREEMENT, NUMBER_STEP, TIE


@dataclass(frozen=True)
class Agreement:
    """How a file's answers compare with those of the vectors that its head was trained on.

    Attributes:
        task: what the answers are.
        images: how many were compared.
        precision: what the file's networks compute in.
        share: of the answers that are the same, 0..1: of classes, of the decisions about that
            label where it is least, or of numbers within a twentieth of their range.
        probability: largest difference of a probability; of numbers as a share of their range.
        difference: largest difference of a logit, as a share of the largest; of numbers of their
            range.
    """

    task: Task
    images: int
    precision: str
    share: float
    probability: float
    difference: float

    @property
    def holds(self) -> bool:
        """Whether people may take the file's answers for those that were trained."""
        return self.share >= MIN_AGREEMENT or self.probability <= TIE

    def say(self) -> str:
        """Says it in a sentence."""
        file, images = f"model.xml, in {self.precision}", counted(self.images, "image")
        if self.task is Task.NUMBER:
            return (
                f"{file}, gives {self.share:.1%} of the numbers of {images} as the stored vectors "
                f"do, to a twentieth of their range; one differs by {self.probability:.2g} of it "
                "at most"
            )
        most = "no probability differs"
        if self.probability:
            most = f"a probability differs by {self.probability:.2g} at most"
        if self.task is Task.LABELS:
            return (
                f"{file}, decides about {images} as the stored vectors do, for each label in "
                f"{self.share:.1%} of the cases or more; {most}"
            )
        equal = round(self.share * self.images)
        return (
            f"{file}, gives {equal} of {images} the answer of the stored vectors "
            f"({self.share:.1%}); {most}"
        )

    def say_change(self) -> str:
        """Says what another precision than f32 changes, where the comparison is with that."""
        instead, images = f"{self.precision} instead of f32", counted(self.images, "image")
        moved = f"a logit moves by {self.difference:.1%} of the largest at most"
        if self.task is Task.NUMBER:
            return (
                f"{instead} moves {1 - self.share:.1%} of the numbers of {images} by more than a "
                f"twentieth of their range, and one by {self.difference:.1%} of it at most"
            )
        if self.task is Task.LABELS:
            return (
                f"{instead} changes for no label more than {1 - self.share:.1%} of the decisions "
                f"about {images}; {moved}"
            )
        changed = self.images - round(self.share * self.images)
        low, high = wilson_interval(changed, self.images)
        return (
            f"{instead} changes the answer to {changed} of {images} ({1 - self.share:.1%}, 95 % "
            f"interval {low:.1%} to {high:.1%}); {moved}"
        )


def compare_logits(task: Task, found: Floats32, wanted: Floats32, precision: str) -> Agreement:
    """Compares logits with those that were trained.

    Args:
        task: what the logits mean.
        found: (N, C) float32, N at least 1.
        wanted: (N, C) float32.
        precision: what `found` was computed in.
    """
    scale = find_scale(task, wanted)
    chances = np.abs(probabilities(task, found) - probabilities(task, wanted))
    share = find_agreement(task, found, wanted)
    if task is Task.LABELS:
        # A label that is rare must not be lost among the others.
        share = float((decide(task, found) == decide(task, wanted)).mean(axis=0).min())
    return Agreement(
        task=task,
        images=len(wanted),
        precision=precision,
        share=share,
        probability=float((chances / scale if task is Task.NUMBER else chances).max()),
        difference=find_difference(found, wanted, scale),
    )


def find_scale(task: Task, exact: Floats32) -> Any:
    """Returns what a difference of logits is measured by: a number, or for numbers (C,) of them.

    Args:
        task: what the logits mean.
        exact: (N, C) float32.

    Returns:
        The largest logit. For numbers the range of each, since a year or a price may be far from
        0 and all that matters lie close together; at least a thousandth of the largest.
    """
    largest = np.abs(exact).max(axis=0)
    if task is not Task.NUMBER:
        return max(float(largest.max()), 1e-6)
    return np.maximum(exact.max(axis=0) - exact.min(axis=0), np.maximum(1e-3 * largest, 1e-6))


def find_difference(found: Floats32, exact: Floats32, scale: Any) -> float:
    """Returns the largest difference of a logit, as a share of `find_scale`."""
    return float((np.abs(found - exact) / scale).max())


def find_agreement(task: Task, found: Floats32, exact: Floats32) -> float:
    """Returns the share of answers that are the same.

    They are classes, decisions about labels, or numbers within a twentieth of their range.
    """
    if task is Task.NUMBER:
        near = np.abs(found - exact) <= NUMBER_STEP * find_scale(task, exact)
        return float(near.mean())
    return float((decide(task, found) == decide(task, exact)).mean())
