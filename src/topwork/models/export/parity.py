"""How a file's logits compare with the exact ones, and how much they may differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from topwork.core.errors import ModelError
from topwork.core.task import Task
from topwork.heads.dense import Floats, decide, probabilities
from topwork.metrics.scores import Report, finite, make_report
from topwork.models.agreement import LEAST_AGREEMENT, find_agreement, scale_of
from topwork.models.export.formats import Numbers
from topwork.models.parity import EXACT

# Largest difference of a logit, as a share of `scale_of` the exact ones. Where the arithmetic is
# another, a single logit may be far off: there it counts how many answers are the same.
LIMITS = {Numbers.F32: EXACT, Numbers.F16: 1e-2}
# The same between batches of other sizes, for numbers without a limit.
BATCH_LIMIT = 5e-2
# How many images the same answers are asked for at once.
BATCHES = (1, 3, 8)


@dataclass(frozen=True)
class Parity:
    """A file beside the model.

    Attributes:
        images: how many were compared.
        difference: largest difference of a logit from the exact one, as a share of the largest
            exact logit; for numbers of their range.
        agreement: share of the answers that are the exact ones: classes, decisions about labels,
            or numbers within a twentieth of their range.
        batch_difference: the same between batches of 1, 3 and 8 of the same images.
        exported: how good the file is on these images.
        exact: how good the model is in f32.
        trained: how good it was as it was trained.
    """

    images: int
    difference: float
    agreement: float
    batch_difference: float
    exported: Report
    exact: Report
    trained: Report

    def to_json(self) -> dict[str, Any]:
        """Returns the figures for `export.json`."""
        reports = {"exported": self.exported, "exact": self.exact, "as_trained": self.trained}
        return {
            "images": self.images,
            "difference": finite(self.difference),
            "agreement": self.agreement,
            "batch_difference": finite(self.batch_difference),
            "metric": self.exact.metric,
            **{
                name: {
                    "value": finite(found.value),
                    "interval": [finite(end) for end in found.interval],
                }
                for name, found in reports.items()
            },
        }


def compare(
    title: str,
    task: Task,
    truth: NDArray[Any],
    classes: int,
    *,
    exported: Floats,
    exact: Floats,
    trained: Floats,
    batches: tuple[Floats, ...],
) -> Parity:
    """Compares a file's logits with the model's.

    Args:
        title: of the file's format.
        task: what the logits mean.
        truth: N labels, as `LabeledPredictions.labels` has them.
        classes: C.
        exported: (N, C) float32 of the file.
        exact: (N, C) float32 of the model in f32.
        trained: (N, C) float32 of the vectors it was trained with.
        batches: the file's logits (M, C) for the same M images, by batches of several sizes; at
            least two.

    Raises:
        ModelError: a logit is not finite, or their number is wrong.
    """
    if exported.shape != exact.shape:
        refuse(title, f"its logits are {exported.shape}, {exact.shape} are needed")
    if not all(np.isfinite(found).all() for found in (exported, *batches)):
        refuse(title, "some of its logits are not finite")
    scale = scale_of(task, exact)
    first, *others = batches
    return Parity(
        images=len(exact),
        difference=_most(exported - exact, scale),
        agreement=find_agreement(task, exported, exact),
        batch_difference=_most(np.stack(others) - first, scale),
        exported=_report(task, truth, exported, classes),
        exact=_report(task, truth, exact, classes),
        trained=_report(task, truth, trained, classes),
    )


def find_fault(parity: Parity, numbers: Numbers) -> str | None:
    """Says why a file does not say what the model says, or None if it does.

    Args:
        parity: how it compares.
        numbers: what its weights are kept in.
    """
    limit = LIMITS.get(numbers)
    between = BATCH_LIMIT if limit is None else limit
    if not parity.batch_difference <= between:
        return (
            f"its answers depend on how many images it is given at once: a logit differs by "
            f"{parity.batch_difference:.2g} of the largest, at most {between:.2g} is allowed"
        )
    if limit is None:
        if not parity.agreement >= LEAST_AGREEMENT:
            return (
                f"in {numbers} {parity.agreement:.1%} of its answers are those of the model, at "
                f"least {LEAST_AGREEMENT:.0%} are needed; take f16, or train with more images"
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


def _most(differences: Floats, scale: Any) -> float:
    return float((np.abs(differences) / scale).max())


def _report(task: Task, truth: NDArray[Any], logits: Floats, classes: int) -> Report:
    return make_report(task, truth, decide(task, logits), probabilities(task, logits), classes)
