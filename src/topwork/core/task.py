"""What a head's outputs mean, and so which loss and metric it is trained with."""

from __future__ import annotations

from enum import StrEnum


class Task(StrEnum):
    """The four kinds of answer."""

    CLASSES = "classes"  # one of many: categorical cross-entropy, accuracy
    BINARY = "binary"  # one of two, a single logit: binary cross-entropy, accuracy
    LABELS = "labels"  # any of many at once: binary cross-entropy, accuracy per label
    NUMBER = "number"  # a quantity: mean squared error, mean absolute error

    @property
    def metric(self) -> str:
        """Keras' name of the metric that is recorded for this task."""
        return "mae" if self is Task.NUMBER else "accuracy"

    @property
    def picks_one(self) -> bool:
        """Whether an answer is one class of two or more; else any of many labels, or numbers."""
        return self in (Task.CLASSES, Task.BINARY)
