"""Labels in doubt: those that heads contradict which did not see the image.

Confident learning: what a held-out head says of the images of each class tells how sure it must
be to be believed; the images that it surely takes for another class estimate how many labels are
wrong. Pure functions on arrays, besides `cross_predict`, which trains the heads.

N: images, D: vector length, C: classes, labels or numbers.

Source: Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset
labels", 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core import warm_up
from topwork.core.arrays import AnyFloats, AnyInts
from topwork.core.errors import DatasetError, SettingsError
from topwork.core.runtime import cores
from topwork.core.task import Task
from topwork.data.splits import assign_strata, count_groups, make_folds, merge_rare
from topwork.inspection.issues import LabelIssue
from topwork.inspection.label_noise import weigh_by_noise
from topwork.inspection.outliers import LIMIT, check_rows, robust_scale
from topwork.metrics.conformal import check_labels

# The penalty of a held-out head for each value of the vectors, which are standardized: as
# measured by the flipped labels that it finds in real photographs, flat within a factor of two.
# More than the most accurate head needs: one that is sure of itself believes wrong labels.
PENALTY = 2e-4
# The same for numbers, whose loss has no end.
NUMBER_PENALTY = 1e-3
# A value of the vectors that varies by less than this share of the largest is constant.
CONSTANT = 1e-6
# The probabilities of an image sum to 1 as nearly as this.
ROUNDING = 1e-3
# A score above this says that the head believes another label more than the given one.
EVEN = 0.5


def cross_predict(
    vectors: NDArray[np.float32],
    targets: NDArray[Any],
    task: Task,
    outputs: int,
    *,
    folds: int = 5,
    seed: int = 0,
    groups: AnyInts | None = None,
) -> NDArray[np.float32]:
    """Predicts each image by a head that saw neither its label nor that of one of its group.

    The heads are regressions with a fixed penalty on standardized vectors, on stratified folds.
    A class with fewer images or groups than folds cannot be judged: its images are learned by no
    head and their rows are NaN; its column is 0 for the others. A label that fewer images than
    folds have, or lack, is NaN for all. Too few images for any fold give NaN alone.

    Args:
        vectors: (N, D) float32, finite.
        targets: (N,) class indices; two classes may be (N, 1); (N, C) of 0 and 1 for many
            labels; (N, C) finite numbers.
        task: what the targets mean.
        outputs: C; of no account for two classes.
        folds: at least 2.
        seed: for the folds.
        groups: (N,) equal numbers are never divided; None for no groups.

    Returns:
        (N, C) float32 probabilities, (N, 2) for two classes; for numbers the numbers.

    Raises:
        DatasetError: vectors, targets or groups that do not fit each other, or are not finite.
        SettingsError: less than 2 folds.
    """
    check_rows(vectors, "vectors")
    if folds < 2:
        raise SettingsError(f"folds must be 2 or more, received {folds}")
    if groups is not None and np.shape(groups) != (len(vectors),):
        raise DatasetError(
            f"groups must be one number for each of {len(vectors)} images, received "
            f"{np.shape(groups)}"
        )
    targets = _check_targets(targets, task, len(vectors), outputs)
    scaled = _standardize(vectors)
    if task.picks_one:
        classes = 2 if task is Task.BINARY else outputs
        return _cross_classes(scaled, targets, classes, groups, folds, seed)
    answers = np.full((len(vectors), outputs), np.nan, np.float32)
    if task is Task.LABELS:
        judged = [
            count_groups(label, groups, 2).min() >= folds for label in targets.T.astype(np.int64)
        ]
    else:
        judged = [len(vectors if groups is None else np.unique(groups)) >= folds] * outputs
    if any(judged):
        chosen = targets[:, judged]
        stratum = merge_rare(assign_strata(task, chosen), groups, folds)
        answers[:, judged] = _cross(task, scaled, chosen, stratum, groups, folds, seed)
    return answers


def count_confident(
    probabilities: AnyFloats, labels: NDArray[np.integer[Any]]
) -> NDArray[np.int64]:
    """Counts the images of each class that a held-out head surely takes for each class.

    To be sure of a class is to give it at least the mean probability that the images with that
    label get: a class of which the head is never sure is not held to the standard of another.

    Args:
        probabilities: (N, C), of images that the head did not see; rows of NaN do not count.
        labels: (N,) class indices.

    Returns:
        The confident joint (C, C): given label, believed label. Beside the diagonal lie the
        images whose labels are estimated to be wrong.

    Raises:
        DatasetError: they do not fit each other, or are no probabilities.

    Source: Northcutt, Jiang and Chuang, 2021, equations 1 and 2.
    """
    known = _check_probabilities(probabilities, labels)
    rows, given = probabilities[known].astype(np.float64), labels[known]
    classes = rows.shape[1]
    thresholds = np.array(
        [rows[given == n, n].mean() if (given == n).any() else np.inf for n in range(classes)]
    )
    sure = np.where(rows >= thresholds, rows, -1)
    counted = (sure >= 0).any(axis=1)
    joint = np.bincount(
        given[counted] * classes + sure[counted].argmax(axis=1), minlength=classes * classes
    )
    return joint.reshape(classes, classes).astype(np.int64)


def score_labels(probabilities: AnyFloats, labels: AnyInts) -> NDArray[np.float64]:
    """Says of each image how far the head believes another label more than the given one.

    It is the share of the other in the two: q / (p + q), with p the probability of the given
    label and q the highest of the others. On real photographs with flipped labels it ranks as
    well as 1 - p, and better than (1 - p + q) / 2; see `benchmarks/label_noise.py`.

    Args:
        probabilities: (N, C), of images that the head did not see; NaN for one not judged.
        labels: (N,) class indices.

    Returns:
        (N,) float64, 0..1; above 0.5 where another label is believed more; NaN where the row is.

    Raises:
        DatasetError: they do not fit each other, or are no probabilities.
    """
    _check_probabilities(probabilities, labels)
    indices = np.arange(len(labels))
    others = probabilities.astype(np.float64)
    given = others[indices, labels]
    others[indices, labels] = -1
    best = others.max(axis=1)
    return np.asarray(best / (best + given))


def rank_classes(
    probabilities: AnyFloats, labels: AnyInts, classes: Sequence[str]
) -> list[LabelIssue]:
    """Finds the images whose class the held-out heads contradict, the surest first.

    How many is what the confident joint counts beside its diagonal; which, those for which a class
    that the head believes more than the given one is the likeliest by what wrong labels look like.

    Args:
        probabilities: (N, C) from `cross_predict`.
        labels: (N,) class indices.
        classes: names of the C classes.

    Raises:
        DatasetError: they do not fit each other, or are no probabilities.
    """
    _check_names(classes, probabilities)
    joint = count_confident(probabilities, labels)
    likely = weigh_by_noise(probabilities, labels, joint)
    rows = np.arange(len(labels))
    # Only a label that the head believes less than another is in doubt, whatever the noise.
    others = np.where(probabilities > probabilities[rows, labels, None], likely, 0)
    best, highest = others.argmax(axis=1), others.max(axis=1)
    scores = highest / (highest + likely[rows, labels])
    return [
        LabelIssue(
            index=int(index),
            given=classes[labels[index]],
            suggested=classes[best[index]],
            given_probability=float(probabilities[index, labels[index]]),
            suggested_probability=float(probabilities[index, best[index]]),
            score=float(scores[index]),
        )
        for index in _choose(scores, joint)
    ]


def rank_labels(
    probabilities: AnyFloats, targets: NDArray[Any], classes: Sequence[str]
) -> list[LabelIssue]:
    """Finds the labels that an image has or lacks, and the heads say otherwise; the surest first.

    Each label is judged by itself, as two classes; an image may be there for several labels.

    Args:
        probabilities: (N, C) from `cross_predict`; a column of NaN is not judged.
        targets: (N, C) of 0 and 1.
        classes: names of the C labels.

    Raises:
        DatasetError: they do not fit each other, or are no probabilities or decisions.
    """
    _check_names(classes, probabilities)
    targets = _check_targets(targets, Task.LABELS, *probabilities.shape)
    found = []
    for column, name in enumerate(classes):
        present = probabilities[:, column].astype(np.float64)
        pair, given = np.stack([1 - present, present], axis=1), targets[:, column].astype(np.int64)
        scores = score_labels(pair, given)
        for index in _choose(scores, count_confident(pair, given)):
            here = int(given[index])
            found.append(
                LabelIssue(
                    index=int(index),
                    given=name if here else f"not {name}",
                    suggested=f"not {name}" if here else name,
                    given_probability=float(pair[index, here]),
                    suggested_probability=float(pair[index, 1 - here]),
                    score=float(scores[index]),
                )
            )
    return sorted(found, key=lambda suspect: -suspect.score)


def rank_numbers(predicted: AnyFloats, targets: NDArray[Any], name: str) -> list[LabelIssue]:
    """Finds the numbers that are far from what held-out heads predict, the farthest first.

    Far is more than 3.5 robust deviations from the median error. With z such deviations the
    score is z / (z + 3.5).

    Args:
        predicted: (N,), a column of `cross_predict`; NaN for one not judged.
        targets: (N,) finite.
        name: of the number.

    Raises:
        DatasetError: they do not fit each other, or a target is not finite.
    """
    if predicted.ndim != 1 or predicted.shape != targets.shape or np.isinf(predicted).any():
        raise DatasetError(
            "predicted numbers must be finite or NaN, one for each target, received "
            f"{predicted.shape} for {targets.shape}"
        )
    if not np.isfinite(targets).all():
        raise DatasetError(f"targets of {name} must be finite, received NaN or infinity")
    known = np.flatnonzero(~np.isnan(predicted))
    errors = targets[known].astype(np.float64) - predicted[known]
    if not len(errors):
        return []
    errors -= np.median(errors)
    scale = robust_scale(errors)
    far = np.abs(errors) / scale if scale > 0 else np.zeros(len(errors))
    found = []
    for row in np.argsort(-far, kind="stable")[: np.count_nonzero(far > LIMIT)]:
        index = int(known[row])
        found.append(
            LabelIssue(
                index=index,
                given=f"{name} {targets[index]:g}",
                suggested=f"{name} {predicted[index]:g}",
                given_probability=np.nan,
                suggested_probability=np.nan,
                score=float(far[row] / (far[row] + LIMIT)),
            )
        )
    return found


def _cross_classes(
    scaled: NDArray[np.float32],
    labels: AnyInts,
    classes: int,
    groups: AnyInts | None,
    folds: int,
    seed: int,
) -> NDArray[np.float32]:
    answers = np.full((len(labels), classes), np.nan, np.float32)
    kinds = np.flatnonzero(count_groups(labels, groups, classes) >= folds)
    if len(kinds) < 2:
        return answers
    rows = np.flatnonzero(np.isin(labels, kinds))
    own = np.searchsorted(kinds, labels[rows])
    groups = None if groups is None else groups[rows]
    answers[rows] = 0
    answers[np.ix_(rows, kinds)] = _cross(Task.CLASSES, scaled[rows], own, own, groups, folds, seed)
    return answers


def _cross(
    task: Task,
    scaled: NDArray[np.float32],
    targets: NDArray[Any],
    stratum: AnyInts,
    groups: AnyInts | None,
    folds: int,
    seed: int,
) -> NDArray[np.float32]:
    """Returns what heads of the other folds say of each image, (N, C) float32."""
    from topwork.heads.dense import probabilities
    from topwork.heads.logistic import solve

    outputs = int(targets.max()) + 1 if task is Task.CLASSES else targets.shape[1]
    penalty = (NUMBER_PENALTY if task is Task.NUMBER else PENALTY) * scaled.shape[1]
    answers = np.empty((len(scaled), outputs), np.float32)

    def judge(held: AnyInts) -> None:
        seen = np.ones(len(scaled), bool)
        seen[held] = False
        head = solve(task, scaled[seen], targets[seen], outputs, penalty)
        answers[held] = probabilities(task, head.logits(scaled[held]))

    # A thread for each fold: the products of one are too small for several.
    with warm_up.blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(cores()) as pool:
        list(pool.map(judge, make_folds(stratum, groups, folds, seed)))
    return answers


def _standardize(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Brings every value to mean 0 and deviation 1, over all images: no label is in it."""
    mean, deviation = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
    deviation[deviation <= CONSTANT * max(deviation.max(), CONSTANT)] = 1
    return np.asarray((vectors - mean) / deviation, np.float32)


def _choose(scores: NDArray[np.float64], joint: NDArray[np.int64]) -> NDArray[np.intp]:
    """Returns the indices of the suspects, the surest first."""
    count = min(int(joint.sum() - np.trace(joint)), np.count_nonzero(scores > EVEN))
    return np.argsort(-scores, kind="stable")[:count]


def _check_targets(targets: NDArray[Any], task: Task, count: int, outputs: int) -> NDArray[Any]:
    """Returns (N,) class indices, or (N, C) numbers.

    Raises:
        DatasetError: they are something else.
    """
    if task is Task.BINARY and targets.dtype.kind in "buif":
        whole = targets.reshape(-1).astype(np.int64)
        outputs, targets = 2, whole if np.array_equal(whole, targets.reshape(-1)) else targets
    if task.picks_one:
        check_labels(targets, (count, outputs))
        return targets
    rows = targets[:, None] if targets.ndim == 1 else targets
    if rows.shape != (count, outputs) or rows.dtype.kind not in "buif":
        raise DatasetError(
            f"targets must be {count} x {outputs} numbers, received {targets.shape} {targets.dtype}"
        )
    if not np.isfinite(rows).all():
        raise DatasetError("targets must be finite, received NaN or infinity")
    if task is Task.LABELS and not np.isin(rows, (0, 1)).all():
        raise DatasetError("many labels must be 0 or 1 for each image, received other numbers")
    return rows.astype(np.float32)


def _check_probabilities(values: AnyFloats, labels: AnyInts) -> NDArray[np.bool_]:
    """Returns which rows were judged, (N,).

    Raises:
        DatasetError: no probabilities, or labels that do not fit them.
    """
    if values.ndim != 2 or values.shape[1] < 2 or values.dtype.kind != "f":
        raise DatasetError(
            "probabilities must be floats of shape (images, classes) with at least 2 classes, "
            f"received {values.shape} {values.dtype}"
        )
    check_labels(labels, values.shape)
    known = ~np.isnan(values).all(axis=1)
    rows = values[known].astype(np.float64)
    if not ((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) < ROUNDING).all()):
        raise DatasetError(
            "probabilities must be 0 or more and sum to 1 for each image, or all be NaN; received "
            "others"
        )
    return np.asarray(known)


def _check_names(classes: Sequence[str], probabilities: AnyFloats) -> None:
    if probabilities.ndim != 2 or len(classes) != probabilities.shape[1]:
        raise DatasetError(
            f"probabilities must have a column for each of {len(classes)} classes, received "
            f"{probabilities.shape}"
        )
