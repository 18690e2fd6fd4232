"""A model's answers beside the truth: what every part of a report looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import Floats32
from topwork.core.task import Task
from topwork.heads.dense import decide, probabilities
from topwork.metrics.scores import Report, make_report
from topwork.models.model import Model
from topwork.models.predictions import LabeledPredictions


@dataclass(frozen=True)
class Judged:
    """Answers to N images, judged.

    Attributes:
        model: whose answers they are.
        predictions: logits and truth.
        said: N answers, as `decide` gives them.
        chances: (N, C) probabilities; of numbers the numbers themselves.
        report: the metric, its interval and figures per class.
    """

    model: Model
    predictions: LabeledPredictions
    said: NDArray[Any]
    chances: Floats32
    report: Report

    @property
    def task(self) -> Task:
        """What the answers mean."""
        return self.model.task

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the C classes, labels or numbers."""
        return self.model.classes

    @property
    def truth(self) -> NDArray[Any]:
        """The labels, as `LabeledPredictions` has them."""
        return self.predictions.labels

    @property
    def logits(self) -> Floats32:
        """The logits (N, C) that are judged."""
        return self.predictions.judged_logits

    def errors(self) -> NDArray[np.float64]:
        """Returns by how much each number (N, C) is too large."""
        return np.asarray(self.logits.astype(np.float64) - self.truth)


def judge(model: Model, predictions: LabeledPredictions) -> Judged:
    """Compares answers with the truth.

    Args:
        model: whose answers they are.
        predictions: to at least one image.
    """
    task, logits = model.task, predictions.judged_logits
    said, chances = decide(task, logits), probabilities(task, logits)
    report = make_report(task, predictions.labels, said, chances, len(model.classes))
    return Judged(model, predictions, said, chances, report)
