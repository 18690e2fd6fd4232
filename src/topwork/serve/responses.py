"""From vectors and explanations to the content of an answer, ready for JSON."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.task import Task
from topwork.heads.dense import probabilities
from topwork.models import answers
from topwork.models.explain import Explanation
from topwork.models.model import Model, Predictions
from topwork.serve.decoding import DecodedImage
from topwork.serve.http_errors import HTTPError
from topwork.serve.registry import ServedModel

Floats = NDArray[np.float32]


def format_predictions(
    served: ServedModel,
    vectors: Floats,
    images: Sequence[DecodedImage],
    *,
    top: int,
    neighbours: int,
    abstain_below: float | None,
) -> list[dict[str, Any]]:
    """Returns the answer to each of N images.

    Args:
        served: the model.
        vectors: (N, D) float32.
        images: N, where the vectors come from.
        top: how many classes or labels to name.
        neighbours: how many training images to show.
        abstain_below: least top probability that counts as an answer.
    """
    model = served.model
    logits = model.head.logits(vectors)
    found = Predictions(
        logits, probabilities(model.task, logits), np.arange(len(vectors), dtype=np.int64), {}
    )
    said = []
    for index, answer in answers.answer(model, found, top, abstain_below):
        entry = {"width": images[index].width, "height": images[index].height, **answer}
        if neighbours and served.gallery is not None:
            entry["neighbours"] = [
                {
                    "name": near.name,
                    "label": near.label,
                    "similarity": float(near.similarity),
                    "thumbnail": f"data:image/webp;base64,{b64encode(near.thumbnail).decode()}",
                }
                for near in served.gallery.find(vectors[index], neighbours)
            ]
        said.append(entry)
    return said


def find_output(model: Model, label: str | None, explanation: Explanation | None) -> int:
    """Returns the index of a class, label or number.

    Args:
        model: the model.
        label: its name; None for the most probable one, or the first number.
        explanation: tells which one is the most probable.

    Raises:
        HTTPError: the model has none of this name.
    """
    if label is None:
        if explanation is None or model.task is Task.NUMBER:
            return 0
        return int(explanation.predictions.probabilities[0].argmax())
    if label not in model.classes:
        raise HTTPError(
            422, f"class: must be one of {', '.join(model.classes)}, received {label!r}"
        )
    return model.classes.index(label)


def format_explanation(model: Model, explanation: Explanation, answer: int) -> dict[str, Any]:
    """Returns where in an image a logit comes from: the map's mean plus the rest are the logit."""
    chance = None
    if model.task is not Task.NUMBER:
        chance = float(explanation.predictions.probabilities[0, answer])
    return {
        "label": model.classes[answer],
        "logit": explanation.logit(answer),
        "probability": chance,
        "exact": explanation.exact,
        "rest": explanation.rest(answer),
        "map": explanation.map(answer).tolist(),
    }
