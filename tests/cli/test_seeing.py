"""explain and compare, as a person uses them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from pictures import COLOURS, encode, picture
from PIL import Image

from topwork.cli.seeing import name_models, name_pictures, show_comparison
from topwork.core.errors import SettingsError
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.heads.dense import Dense, Head
from topwork.models import compare as comparison
from topwork.models import folder as bundle
from topwork.models.compare import Comparison, Difference, Disagreement, ModelResult
from topwork.models.heatmap import is_ours
from topwork.models.model import Provenance
from topwork.recipes import train as pipeline
from topwork.recipes.progress import make_console


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a few pictures."""
    monkeypatch.chdir(tmp_path)
    for n, (name, colour) in enumerate(COLOURS.items()):
        (tmp_path / f"{name}.png").write_bytes(encode(picture(colour, seed=n)))
    return tmp_path


def left(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# Explain.


def test_a_picture_lies_in_the_working_directory(run, here, saved):
    code, out, err = run("explain", saved, "red.png")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("red.png: red ")
    assert lines[1] == "  maps: red.explain.png"
    assert lines[2] == "Exact: the mean of a map plus the bias is the logit."
    assert is_ours(here / "red.explain.png")
    assert left(here) == ["blue.png", "green.png", "red.explain.png", "red.png"]


def test_it_goes_where_it_is_told_and_may_be_made_again(run, here, saved):
    for _ in range(2):
        code, _, err = run("explain", saved, "red.png", "-o", "new/maps.png", "--top", 1)
        assert (code, err) == (0, "")
    assert is_ours(here / "new" / "maps.png")
    assert run("explain", saved, "red.png", "-o", "new")[0] == 0
    assert is_ours(here / "new" / "red.explain.png")


def test_several_have_a_folder(run, here, saved):
    (here / "more").mkdir()
    (here / "more" / "RED.png").write_bytes((here / "red.png").read_bytes())
    code, out, _ = run("explain", saved, "red.png", "blue.png", "more", "-o", "maps")
    assert code == 0
    assert left(here / "maps") == ["RED-2.explain.png", "blue.explain.png", "red.explain.png"]
    assert out.count("maps: maps/") == 3


def test_json_has_the_maps(run, here, saved):
    code, out, err = run("explain", saved, "red.png", "gone.png", "--json", "--class", "blue")
    assert (code, err) == (0, "")
    first, second = map(json.loads, out.splitlines())
    assert second == {"path": "gone.png", "error": "there is no such file"}
    assert (first["path"], first["picture"], first["exact"]) == ("red.png", "red.explain.png", True)
    (found,) = first["maps"]
    assert found["label"] == "blue"
    assert np.mean(found["map"]) + found["rest"] == pytest.approx(found["logit"], abs=1e-4)


def test_an_inner_layer_is_told(run, here, stacked_saved):
    code, out, _ = run("explain", stacked_saved, "red.png")
    assert code == 0
    assert out.endswith(
        "\nA gradient, as the head has an inner layer: it holds for small changes only.\n"
    )
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize("task", [Task.BINARY, Task.LABELS, Task.NUMBER])
def test_other_tasks_are_explained(task, run, here, trained, monkeypatch):
    model = trained.model
    names = {Task.BINARY: ("cold", "warm"), Task.NUMBER: ("price", "kilos")}
    classes = names.get(task, ("[red]", "$b$", "猫"))
    outputs = 1 if task is Task.BINARY else len(classes)
    ((kernel, bias),) = model.head.layers
    head = Head((Dense(kernel[:, :outputs], bias[:outputs]),))
    made = replace(model, task=task, classes=classes, head=head)
    monkeypatch.setattr(bundle, "load_model", lambda path: made)
    code, out, err = run("explain", "m", "red.png", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)["maps"]
    assert len(said) == {Task.BINARY: 1, Task.NUMBER: 2}.get(task, 3)
    key = "name" if task is Task.NUMBER else "label"
    assert {one[key] for one in said} <= {*classes}
    code, out, err = run("explain", "m", "red.png", "--class", classes[0])
    assert (code, err) == (0, "")
    what = "number" if task is Task.NUMBER else "logit"
    assert out.endswith(f"Exact: the mean of a map plus the bias is the {what}.\n")


def test_a_bad_image_does_not_end_the_run(run, here, saved):
    (here / "bad.png").write_bytes(b"no image")
    code, _, err = run("explain", saved, "bad.png", "red.png", "-o", "maps")
    assert code == 0
    assert err.startswith("bad.png: not an image")
    assert left(here / "maps") == ["red.explain.png"]
    code, _, err = run("explain", saved, "bad.png", "red.png", "-o", "maps", "--strict")
    assert code == 1
    assert err.startswith("topwork: bad.png: not an image")
    code, _, err = run("explain", saved, "bad.png", "gone.png", "-o", "maps")
    assert code == 1
    assert err.endswith("topwork: none of the 2 images could be read\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["red.png", "-o", "red.png"], "red.png exists and is not a picture of topwork explain"),
        (["red.png", "-o", "x.jpg"], "must end in .png, or be a folder; received x.jpg"),
        (["red.png", "blue.png", "-o", "x.png"], "must be a folder for 2 images"),
        (["red.png", "-o", "blue.png/x.png"], "blue.png"),
        (["red.png", "--class", "pink"], "class: the model knows blue, green, red; received pink"),
        (["red.png", "--top", "0"], "--top"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_written(options, said, run, here, saved):
    before = {path: path.read_bytes() for path in here.iterdir()}
    code, out, err = run("explain", saved, *options)
    assert (code, out) == (2, "")
    assert said in err
    assert {path: path.read_bytes() for path in here.iterdir()} == before


def test_users_pictures_are_never_overwritten(here):
    (here / "red.explain.png").write_bytes(encode(picture()))
    with pytest.raises(SettingsError, match=r"red\.explain\.png exists and is not a picture of"):
        name_pictures([here / "red.png"], None)


# Compare.


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
    answers = comparison.LabeledPredictions(
        "test", ("n" * 200,) * 9, ("h",) * 9, labels, logits, (None,) * 9, 0
    )
    results = tuple(comparison._judge(name, made, answers) for name in ("a" * 90, "[bold]\x1b[31m"))
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


def test_a_picture_can_be_opened(run, here, saved):
    run("explain", saved, "red.png")
    with Image.open("red.explain.png") as image:
        image.load()
        assert image.width > 800
