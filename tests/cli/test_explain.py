"""explain, as a person uses it."""

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from pictures import COLOURS, encode, picture
from PIL import Image

from topwork.cli.explain import name_pictures
from topwork.core.errors import SettingsError
from topwork.core.task import Task
from topwork.heads.dense import Dense, Head
from topwork.models import folder as bundle
from topwork.models.heatmap import is_ours


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a few pictures."""
    monkeypatch.chdir(tmp_path)
    for n, (name, colour) in enumerate(COLOURS.items()):
        (tmp_path / f"{name}.png").write_bytes(encode(picture(colour, seed=n)))
    return tmp_path


def left(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


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


def test_a_picture_can_be_opened(run, here, saved):
    run("explain", saved, "red.png")
    with Image.open("red.explain.png") as image:
        image.load()
        assert image.width > 800


@pytest.mark.parametrize("command", ["explain", "predict"])
@pytest.mark.parametrize("given", [b"", b"\n\n"])
def test_an_empty_list_of_paths_is_said(run, saved, monkeypatch, command, given):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    code, out, err = run(command, saved, "-")
    assert (code, out) == (2, "")
    assert err == ("topwork: IMAGE: - reads a path a line on standard input, received none\n")


@pytest.mark.parametrize("command", ["explain", "predict"])
@pytest.mark.parametrize("url", ["https://x.org/a.png", "s3://bucket/a.png", "ftp://x/*.png"])
@pytest.mark.parametrize("listed", [False, True])
def test_a_url_is_refused_as_it_was_given(run, saved, monkeypatch, command, url, listed):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{url}\n".encode())))
    code, out, err = run(command, saved, "-" if listed else url)
    assert (code, out) == (2, "")
    assert f"must be a file on this machine, received {url}; download it first" in err
