import numpy as np
import pytest

from topwork.core.task import Task
from topwork.heads.dense import Dense, Head
from topwork.models.explain import Explanation
from topwork.serve.http_errors import HTTPError
from topwork.serve.responses import find_output, format_explanation


@pytest.mark.parametrize("task", list(Task))
def test_a_map_and_the_rest_are_the_logit_for_every_task(task):
    random = np.random.default_rng(3)
    outputs = 1 if task is Task.BINARY else 2
    head = Head((Dense(
        random.normal(size=(7, outputs)).astype(np.float32),
        random.normal(size=outputs).astype(np.float32),
    ),))  # fmt: skip
    features = tuple(
        random.normal(size=(side, side, depth)).astype(np.float32)
        for side, depth in ((3, 4), (2, 3))
    )
    explanation = Explanation(task, head, features)

    class Named:
        classes = ("a", "b")

    Named.task = task
    for place, label in enumerate(Named.classes):
        assert find_output(Named, label, None) == place
        said = format_explanation(Named, explanation, place)
        assert np.shape(said["map"]) == (3, 3)
        assert np.mean(said["map"]) + said["rest"] == pytest.approx(said["logit"], abs=1e-5)
        logit = explanation.logits[0, 0 if task is Task.BINARY else place]
        sign = -1 if task is Task.BINARY and place == 0 else 1
        assert said["logit"] == pytest.approx(sign * logit, abs=1e-4)
        if task is Task.NUMBER:
            assert said["probability"] is None
        else:
            assert said["probability"] == explanation.predictions.probabilities[0, place]
    top = find_output(Named, None, explanation)
    assert top == (0 if task is Task.NUMBER else explanation.predictions.probabilities[0].argmax())
    with pytest.raises(HTTPError, match="one of a, b, received 'c'"):
        find_output(Named, "c", None)
