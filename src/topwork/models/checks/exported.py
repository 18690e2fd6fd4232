"""Whether an exported file says what the model says; what does not is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from topwork.core.arrays import Floats32
from topwork.core.errors import ModelError
from topwork.core.task import Task
from topwork.metrics.scores import Report, finite
from topwork.models.checks.agreement import find_agreement, find_difference, find_scale
from topwork.models.checks.tolerances import (
    MAX_BATCH_DIFFERENCE,
    MIN_AGREEMENT,
    find_max_difference,
)
from topwork.models.predictions import LabeledPredictions, report_logits


@dataclass(frozen=True)
class Parity:
    """How an exported file compares with the model.

    Attributes:
        images: how many were compared.
        difference: largest difference of a logit from the exact one, as a share of the largest
            exact logit; for numbers of their range.
        agreement: share of the answers that are the exact ones: classes, decisions about labels,
            or numbers within a twentieth of their range.
        kept: share of the answers that are those that were trained, in the precision of the
            training: also a file in f32 may change some; None on images that have no such answers.
        batch_difference: the same between batches of 1, 3 and 8 of the same images.
        exported: how good the file is on these images; None where the truth is not known, as
            for the other two.
        exact: how good the model is in f32.
        trained: how good it was as it was trained.
    """

    images: int
    difference: float
    agreement: float
    kept: float | None
    batch_difference: float
    exported: Report | None
    exact: Report | None
    trained: Report | None

    def to_json(self) -> dict[str, Any]:
        """Returns the figures for `export.json`."""
        reports = {"exported": self.exported, "exact": self.exact, "as_trained": self.trained}
        return {
            "images": self.images,
            "difference": finite(self.difference),
            "agreement": self.agreement,
            "agreement_as_trained": self.kept,
            "batch_difference": finite(self.batch_difference),
            "metric": None if self.exact is None else self.exact.metric,
            **{
                name: None
                if found is None
                else {
                    "value": finite(found.value),
                    "interval": [finite(end) for end in found.interval],
                }
                for name, found in reports.items()
            },
        }


def compare_export(
    title: str,
    task: Task,
    classes: int,
    predictions: LabeledPredictions | None,
    *,
    exported: Floats32,
    exact: Floats32,
    batches: tuple[Floats32, ...],
) -> Parity:
    """Compares a file's logits with the model's.

    Args:
        title: of the file's format.
        task: what the logits mean.
        classes: C.
        predictions: what the model said of N images as it was trained, and the truth; None if
            that is not known.
        exported: (N, C) float32 of the file.
        exact: (N, C) float32 of the model in f32.
        batches: the file's logits (M, C) for the same M images, by batches of several sizes; at
            least two.

    Raises:
        ModelError: a logit is not finite, or their number is wrong.
    """
    if exported.shape != exact.shape:
        refuse(title, f"its logits are {exported.shape}, {exact.shape} are needed")
    if not all(np.isfinite(logits).all() for logits in (exported, *batches)):
        refuse(title, "some of its logits are not finite")
    scale = find_scale(task, exact)
    first, *others = batches

    def report(logits: Floats32) -> Report | None:
        if predictions is None:
            return None
        return report_logits(task, predictions.labels, logits, classes)

    return Parity(
        images=len(exact),
        difference=find_difference(exported, exact, scale),
        agreement=find_agreement(task, exported, exact),
        kept=None if predictions is None else find_agreement(task, exported, predictions.logits),
        batch_difference=find_difference(np.stack(others), first, scale),
        exported=report(exported),
        exact=report(exact),
        trained=None if predictions is None else report(predictions.logits),
    )


def find_fault(parity: Parity, numbers: str) -> str | None:
    """Says why a file does not say what the model says, or None if it does.

    Args:
        parity: how it compares.
        numbers: what its weights are kept in: `f32`, `f16`, `bf16` or `int8`.
    """
    limit = find_max_difference(numbers)
    between = MAX_BATCH_DIFFERENCE if limit is None else limit
    if not parity.batch_difference <= between:
        return (
            f"its answers depend on how many images it is given at once: a logit differs by "
            f"{parity.batch_difference:.2g} of the largest, at most {between:.2g} is allowed"
        )
    if limit is None:
        if not parity.agreement >= MIN_AGREEMENT:
            return (
                f"in {numbers} {parity.agreement:.1%} of its answers are those of the model, at "
                f"least {MIN_AGREEMENT:.0%} are needed; take f16, or train with more images"
            )
    elif not parity.difference <= limit:
        return (
            f"a logit differs by {parity.difference:.2g} of the largest, at most {limit:.2g} is "
            f"allowed in {numbers}; please report this with the name of the base"
        )
    return None


def refuse(title: str, reason: str) -> NoReturn:
    """Raises what is said of a file that is not kept."""
    raise ModelError(
        f"the {title} file does not say what the model says, and was not kept: {reason}"
    )
