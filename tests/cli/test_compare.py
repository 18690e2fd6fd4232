"""compare, as a person uses it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from topwork.cli.compare import name_models, show_comparison
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.models import compare as comparison
from topwork.models.compare import Comparison, Difference, Disagreement, ModelResult
from topwork.models.model_facts import Provenance
from topwork.recipes import train as pipeline
from topwork.recipes.console import make_console


@pytest.fixture(scope="module")
def weaker(photos, small, store, tmp_path_factory):
    settings = small.model_copy(update={"epochs": 1, "learning_rate": 1e-6})
    path = tmp_path_factory.mktemp("models") / "weaker.model"
    trained = pipeline.train(Dataset.from_folder(photos), settings, store)
    trained.save(path, Provenance(command="topwork train", data=str(photos)))
    return path


def test_two_models_are_set_side_by_side(run, saved, weaker, photos):
    code, out, err = run("compare", weaker, saved)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0] == "12 test images"
    assert "colours.model against weaker.model" in lines
    assert "McNemar's exact test" in " ".join(lines)
    assert run("compare", weaker, saved, "--data", photos) == (code, out, err)


def test_json_of_a_comparison(run, saved, weaker, photos):
    code, out, err = run("compare", saved, weaker, "--data", photos, "--split", "all", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["data"] == str(photos)
    assert (said["split"], said["images"]) == ("all", 48)
    assert [one["seen"] for one in said["models"]] == [36, 36]
    assert err.count("was trained or chosen on 36 of these") == 2
    assert len(said["differences"]) == 1


def test_a_split_that_was_chosen_on_is_told(run, saved, weaker):
    code, out, _ = run("compare", weaker, saved, "--split", "validation")
    assert code == 0
    assert out.startswith("Models are trained or chosen on validation images: the figures are too")


def test_without_data_it_says_what_to_do(run, saved, weaker, tmp_path):
    code, _, err = run("compare", saved, weaker)
    assert code == 2
    assert "the model does not know where the images are" in err and "--data" in err
    moved = tmp_path / "moved.model"
    shutil.copytree(weaker, moved)
    card = json.loads((moved / "model.json").read_text())
    card["making"]["data"] = str(tmp_path / "gone")
    (moved / "model.json").write_text(json.dumps(card))
    code, _, err = run("compare", moved, saved)
    assert code == 2
    assert "gone, where there is nothing now; say where they are with --data" in err


def test_what_cannot_be_compared_is_refused(run, saved, weaker, tmp_path):
    for options, code, said in (
        ([saved], 2, "needs two models or more, received 1"),
        ([saved, saved], 2, "each model once"),
        ([saved, weaker, "--split", "val"], 2, "split: must be train, validation, test or all"),
        ([saved, tmp_path / "gone"], 1, "is not a Topwork model"),
        ([weaker, saved, "--data", tmp_path / "gone"], 1, "gone"),
    ):
        found, out, err = run("compare", *options)
        assert (found, out) == (code, "")
        assert said in err


def test_names_tell_models_apart(tmp_path):
    paths = [tmp_path / "a" / "m", tmp_path / "b" / "m", tmp_path / "other"]
    assert name_models(paths) == [str(paths[0]), str(paths[1]), "other"]


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("p_value", [0.0001, 0.5])
def test_odd_names_and_any_task_fit_the_terminal(task, p_value, trained, capsys):
    model = trained.model
    names = ("[red]", "$b$", "猫\x1b[31m") if task is not Task.BINARY else ("a", "b")
    made = replace(model, task=task, classes=names)
    rng = np.random.default_rng(0)
    outputs = 1 if task is Task.BINARY else 3
    logits = rng.normal(0, 1, (9, outputs)).astype(np.float32)
    labels = {
        Task.CLASSES: rng.integers(0, 3, 9), Task.BINARY: rng.integers(0, 2, 9),
        Task.LABELS: rng.random((9, 3)) < 0.5, Task.NUMBER: rng.normal(0, 1e6, (9, 3)),
    }[task]  # fmt: skip
    predictions = comparison.LabeledPredictions(
        "test", ("n" * 200,) * 9, ("h",) * 9, labels, logits, (None,) * 9, 0
    )
    results = tuple(
        comparison._judge(name, made, predictions) for name in ("a" * 90, "[bold]\x1b[31m")
    )
    odd = tuple(Disagreement("x" * 200 + "\n", "[t]", "f", "o", gain) for gain in (1, -1, 1, 1, 1))
    difference = Difference(1, 0.123, (-0.1, 0.3), p_value, "some test", 4, 1, odd)
    assert isinstance(results[0], ModelResult)
    show_comparison(make_console(stderr=False), Comparison("test", results, (difference,), ()))
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "\x1b" not in out
    said = " ".join(out.split())
    assert ("by more than chance (p < 0.001" in said) == (p_value < 0.05)
    assert ("That could be chance (p = 0.500" in said) == (p_value > 0.05)
    if p_value < 0.05:
        assert ("is worse by" in said) == (task is Task.NUMBER)
    assert "and 1 more; --json lists them all" in out
