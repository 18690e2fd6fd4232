import json
from dataclasses import replace

import numpy as np
import pytest
from pictures import COLOURS, encode, picture

from topwork.core.errors import DatasetError, SettingsError
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.metrics.significance import mcnemar
from topwork.models import compare as comparison
from topwork.models import evaluate as evaluation
from topwork.models.compare import align, check_models, compare, score_images
from topwork.models.evaluate import CalibrationScores, Evaluation
from topwork.models.predictions import LabeledPredictions
from topwork.recipes import train as pipeline

# Answers.


def make_predictions(names, labels, logits, hashes=None, seen=0):
    return LabeledPredictions(
        "test", tuple(names), tuple(hashes or names), np.asarray(labels),
        np.asarray(logits, np.float32), (None,) * len(names), seen,
    )  # fmt: skip


def test_scores_are_what_the_metric_is_the_mean_of():
    chosen = make_predictions("abc", [0, 1, 1], [[2, 1], [3, 1], [0, 1]])
    assert score_images(Task.CLASSES, chosen).tolist() == [1, 0, 1]
    one = make_predictions("abc", [0, 1, 1], [[-1], [-1], [1]])
    assert score_images(Task.BINARY, one).tolist() == [1, 0, 1]
    many = make_predictions("ab", [[True, False], [True, True]], [[1, 1], [1, 1]])
    assert score_images(Task.LABELS, many).tolist() == [0.5, 1]
    number = make_predictions("ab", [[1.0], [4.0]], [[2], [1]])
    assert score_images(Task.NUMBER, number).tolist() == [1, 3]
    # Grams and kilos count alike; a number that is always the same has no deviation.
    several = make_predictions(
        "ab", [[0.0, 0.0, 5.0], [2.0, 2000.0, 5.0]], [[1, 1000, 5], [2, 2000, 6]]
    )
    assert score_images(Task.NUMBER, several).tolist() == pytest.approx([2 / 3, 1 / 3])


def test_answers_are_aligned_by_name_and_content():
    first = make_predictions("abca", [0, 1, 2, 3], np.zeros((4, 1)), hashes=["1", "2", "3", "1"])
    other = make_predictions("cdaab", [9, 8, 7, 6, 5], np.zeros((5, 1)), hashes=list("34112"))
    changed = make_predictions("ab", [0, 0], np.zeros((2, 1)), hashes=["1", "9"])
    one, two = align([first, other])
    assert one.names == two.names == ("a", "b", "c", "a")
    assert (one.labels.tolist(), two.labels.tolist()) == ([0, 1, 2, 3], [7, 5, 9, 6])
    one, two = align([first, changed])
    assert (one.labels.tolist(), two.labels.tolist()) == ([0], [0])
    assert [len(found) for found in align([first, make_predictions("x", [0], [[0]])])] == [0, 0]


# Models.


@pytest.fixture(scope="module")
def weaker(photos, small, store):
    """A model that has hardly been trained."""
    settings = small.model_copy(update={"epochs": 1, "learning_rate": 1e-6})
    return pipeline.train(Dataset.from_folder(photos), settings, store).model


def test_two_models_are_compared_on_the_same_images(trained, weaker, photos, store):
    model = trained.model
    dataset = Dataset.from_folder(photos)
    found = compare([model, weaker], ["good", "bad"], dataset, "test", store)
    assert len(found) == 12
    alone = [evaluation.evaluate(one, dataset, "test", store) for one in (model, weaker)]
    for result, one in zip(found.results, alone, strict=True):
        assert result.report.value == one.report.value
        assert result.report.interval == one.report.interval
        assert result.calibration_error == pytest.approx(one.calibration.error)
        assert (result.predictions.names, result.predictions.seen) == (
            found.results[0].predictions.names,
            0,
        )
    (difference,) = found.differences
    right = [one.predictions.logits.argmax(axis=1) == one.predictions.labels for one in alone]
    assert difference.better == (right[1] & ~right[0]).sum()
    assert difference.worse == (right[0] & ~right[1]).sum() > 0
    assert difference.value == pytest.approx(right[1].mean() - right[0].mean())
    assert difference.p_value == mcnemar(difference.worse, difference.better)
    low, high = difference.interval
    assert low < difference.value < high
    names = {odd.name for odd in difference.disagreements}
    wanted = {
        n for n, a, b in zip(found.results[0].predictions.names, *right, strict=True) if a != b
    }
    assert names == wanted
    for odd in difference.disagreements:
        assert (odd.gain > 0) == odd.other.startswith(odd.truth)
        assert (odd.gain < 0) == odd.first.startswith(odd.truth)
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [one["model"] for one in said["models"]] == ["good", "bad"]
    assert said["differences"][0]["difference"] == difference.value
    assert said["images"] == 12


def test_a_model_does_not_differ_from_itself(trained, photos, store):
    model = trained.model
    found = compare([model] * 3, ["a", "b", "c"], Dataset.from_folder(photos), "test", store)
    assert [one.other for one in found.differences] == [1, 2]
    for one in found.differences:
        assert (one.value, one.p_value, one.better, one.worse) == (0, 1, 0, 0)
        assert one.disagreements == ()
        assert not one.certain
        assert one.interval[0] == pytest.approx(-one.interval[1])


def test_a_bad_image_is_left_out_for_all(trained, weaker, photos, store, tmp_path):
    for name, colour in COLOURS.items():
        folder = tmp_path / "test" / name
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(encode(picture(colour, seed=900)))
    (tmp_path / "test" / "red" / "bad.png").write_bytes(b"no image")
    dataset = Dataset.from_folder(tmp_path)
    found = compare([trained.model, weaker], ["a", "b"], dataset, "all", store)
    assert len(found) == 3
    assert [item.path for item in found.skipped] == ["test/red/bad.png"]
    with pytest.raises(DatasetError, match=r"bad\.png"):
        compare([trained.model, weaker], ["a", "b"], dataset, "all", store, strict=True)


def test_data_without_splits_leaves_what_no_model_has_seen(flat_trained, flat, store):
    model = flat_trained.model
    # As if another had been trained on other images of the same data.
    table = model.images
    rows = np.arange(len(table.names))
    turned = {
        name: tuple(getattr(table, name)[row] for row in rows[::-1] if row % 3)
        for name in ("names", "labels", "splits", "hashes")
    }
    other = replace(model, images=replace(table, **turned))
    dataset = Dataset.from_folder(flat)
    with pytest.raises(DatasetError, match="the model was trained with all of them"):
        compare([model, other], ["a", "b"], dataset, "test", store)
    found = compare([model, other], ["a", "b"], dataset, "validation", store)
    own, others = (
        {
            image
            for image, split in zip(one.images.hashes, one.images.splits, strict=True)
            if split == "validation"
        }
        for one in (model, other)
    )
    assert {*found.results[0].predictions.hashes} == own & others
    assert [result.predictions.seen for result in found.results] == [len(found)] * 2
    whole = compare([model, other], ["a", "b"], dataset, "all", store)
    assert [result.predictions.seen for result in whole.results] == [30, 20]
    alien = replace(table, splits=tuple("train" for _ in table.splits))
    moved = replace(table, splits=tuple("validation" for _ in table.splits))
    pair = [replace(model, images=images) for images in (alien, moved)]
    pair[0] = replace(model, images=replace(alien, splits=("validation", *alien.splits[1:])))
    pair[1] = replace(model, images=replace(moved, splits=("train", *moved.splits[1:])))
    with pytest.raises(DatasetError, match=r"no image of .* in the split 'validation' for all 2"):
        compare(pair, ["a", "b"], dataset, "validation", store)


def test_models_that_answer_other_questions_are_refused(trained):
    model = trained.model
    with pytest.raises(SettingsError, match="needs two models or more, received 1"):
        check_models([model], ["a"])
    number = replace(model, task=Task.NUMBER)
    with pytest.raises(SettingsError, match="one task; a has classes, b has number"):
        check_models([model, number], ["a", "b"])
    pink = replace(model, classes=("blue", "green", "pink"))
    with pytest.raises(SettingsError, match="only a knows red; only b knows pink"):
        check_models([model, pink], ["a", "b"])
    fewer = replace(model, classes=("blue", "green"))
    with pytest.raises(SettingsError, match=r"the same classes; only c knows red$"):
        check_models([fewer, replace(fewer, task=Task.BINARY), model], ["a", "b", "c"])
    check_models([fewer, replace(fewer, task=Task.BINARY)], ["a", "b"])
    check_models([model, replace(model, classes=("red", "green", "blue"))], ["a", "b"])


TRUTHS = {
    Task.CLASSES: lambda rng, n: rng.integers(0, 3, n),
    Task.BINARY: lambda rng, n: rng.integers(0, 2, n),
    Task.LABELS: lambda rng, n: rng.random((n, 3)) < 0.5,
    Task.NUMBER: lambda rng, n: rng.normal(5, 3, (n, 1)),
}


@pytest.mark.parametrize("task", Task)
def test_every_task_says_which_is_better(task, trained, monkeypatch):
    rng = np.random.default_rng(0)
    count = 60
    truth = TRUTHS[task](rng, count)
    target = {
        Task.CLASSES: lambda: np.eye(3)[truth] * 4,
        Task.BINARY: lambda: 4 * truth[:, None] - 2,
        Task.LABELS: lambda: 4 * truth - 2,
        Task.NUMBER: lambda: truth,
    }[task]()
    names = {Task.BINARY: ("x", "y"), Task.NUMBER: ("price",)}.get(task, ("x", "y", "z"))
    models = [replace(trained.model, task=task, classes=names) for _ in range(3)]
    noises = iter((1.0, 4.0, 1.0))

    def answer(*_, **__):
        logits = target + rng.normal(0, next(noises), target.shape)
        answers = make_predictions([f"{n}" for n in range(count)], truth, logits)
        return Evaluation(None, "test", 0, (), CalibrationScores(), answers)

    monkeypatch.setattr(comparison, "evaluate", answer)
    found = compare(models, ["good", "bad", "equal"], None, "test", None)
    bad, equal = found.differences
    assert bad.certain and bad.p_value < 0.01 and bad.worse > bad.better
    assert (bad.value > 0) == (task is Task.NUMBER)
    assert bad.interval[0] < bad.value < bad.interval[1]
    assert (bad.interval[0] > 0) if task is Task.NUMBER else (bad.interval[1] < 0)
    assert not equal.certain and equal.interval[0] < 0 < equal.interval[1]
    values = [result.report.value for result in found.results]
    assert bad.value == pytest.approx(values[1] - values[0])
    assert len(bad.disagreements) == bad.better + bad.worse
    gains = [abs(odd.gain) for odd in bad.disagreements]
    assert gains == sorted(gains, reverse=True)
    assert (found.results[0].calibration_error is None) == (task is Task.NUMBER)
    json.dumps(found.to_json(), allow_nan=False)
