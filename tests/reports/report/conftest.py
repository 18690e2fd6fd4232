"""Models of every task with answers that need no training."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from pictures import COLOURS, encode, picture

from topwork.core.task import Task
from topwork.heads.dense import init_head
from topwork.images.decode import image_hash
from topwork.metrics.calibration import as_pairs, calibrate
from topwork.metrics.conformal import find_residuals
from topwork.models.predictions import LabeledPredictions

NAMES = {
    Task.CLASSES: ("blue", "green", "red"),
    Task.BINARY: ("cold", "warm"),
    Task.LABELS: ("blue", "green", "red"),
    Task.NUMBER: ("price", "kilos"),
}


@dataclass(frozen=True)
class Made:
    """A model and its answers."""

    model: object
    predictions: LabeledPredictions


def make_labels(task, count, classes, rng):
    match task:
        case Task.LABELS:
            return rng.random((count, classes)) < 0.4
        case Task.NUMBER:
            return rng.normal(50, 20, (count, classes))
    return rng.integers(0, classes, count).astype(np.int32)


def make_logits(task, labels, classes, rng, noise):
    match task:
        case Task.CLASSES:
            clean = 3 * np.eye(classes)[labels]
        case Task.BINARY:
            clean = 4 * labels[:, None] - 2
        case Task.LABELS:
            clean = 4.0 * labels - 2
        case Task.NUMBER:
            clean = labels
    return (clean + rng.normal(0, noise, clean.shape)).astype(np.float32)


@pytest.fixture(scope="session")
def make(trained):
    """Returns a function that makes a model of a task with `count` answers, some wrong."""

    def build(task, count=40, *, names=None, sources=True, noise=2.0, seed=0, inner_units=0):
        rng = np.random.default_rng(seed)
        classes = names or NAMES[task]
        labels = make_labels(task, count, len(classes), rng)
        logits = make_logits(task, labels, len(classes), rng, noise)
        colours = [*COLOURS.values()]
        pictures = [encode(picture(colours[n % 3], seed=n)) for n in range(count if sources else 0)]
        if task is Task.NUMBER:
            calibration = find_residuals(logits, labels, "folds")
        elif task is Task.CLASSES:
            calibration = calibrate(logits, labels, "folds")
        else:
            truth = labels.ravel().astype(np.int64)
            calibration = calibrate(as_pairs(logits.reshape(-1, 1)), truth, "folds")
        outputs = 1 if task is Task.BINARY else len(classes)
        base = trained.model
        model = replace(
            base,
            task=task,
            classes=classes,
            calibration=calibration,
            head=init_head(base.vector_length, outputs, seed, inner_units),
            data=base.data.model_copy(
                update={"counts": {"train": dict.fromkeys(classes, 8), "test": {}}}
            ),
        )
        names_of = tuple(f"photo {n}.png" for n in range(count))
        answers = LabeledPredictions(
            split="validation",
            names=names_of,
            hashes=tuple(map(image_hash, pictures or [name.encode() for name in names_of])),
            labels=labels,
            logits=logits,
            sources=tuple(pictures) if sources else (None,) * count,
            seen=count,
        )
        return Made(model, answers)

    return build
