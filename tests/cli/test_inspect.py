"""Commands that look at data, and the way from an inspection's list to a better model."""

import csv
import hashlib
import io
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import COLOURS, encode, picture

from topwork.data.dataset import Dataset
from topwork.inspection import inspect as inspection
from topwork.recipes import train as pipeline
from topwork.vectors.duplicates import Likeness, Pair

SMALL = ("--image-size", 32, "--precision", "f32")
TRAIN = (*SMALL, "--head", "logistic", "--penalty", 0.001)
FLIPPED, LEAK, COPY = "train/blue/flipped.png", "test/red/leak.png", "train/green/copy.png"


def lines_of(text):
    """Checks what every output has to hold to, and returns its lines."""
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines), [line for line in lines if len(line) > 80]
    return lines


def words(text):
    return " ".join(text.split())


@pytest.fixture
def here(tmp_path, monkeypatch, photos):
    """A working directory with a label that is wrong, a leak, a copy and what is no image."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, "photos")
    root = tmp_path / "photos"
    (root / FLIPPED).write_bytes(encode(picture(COLOURS["red"], seed=700)))
    shutil.copy(root / "train" / "red" / "016.png", root / LEAK)
    shutil.copy(root / "train" / "green" / "008.png", root / COPY)
    (root / "train" / "blue" / "page.png").write_bytes(b"<html>not here</html>")
    return tmp_path


def state_of(folder):
    """Returns the content of all files in a folder."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def labels_of(model):
    """Returns the labels that a model was trained with, by the images' names."""
    table = pq.read_table(Path(model, "images.parquet"))
    return dict(zip(table["name"].to_pylist(), table["label"].to_pylist(), strict=True))


def read_list(path):
    return list(csv.DictReader(io.StringIO(Path(path).read_text("utf-8-sig"), newline="")))


def judge(path, verdicts):
    """Fills in the list as a person would, and saves it as their program does."""
    rows = read_list(path)
    known = {row["image"]: row for row in rows}
    for name, verdict in verdicts.items():
        known[name]["verdict"] = verdict
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)


def add_rows(path, rows):
    """Writes a list of verdicts by hand: image, bytes, verdict."""
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "sha256", "verdict"))
        for name, data, verdict in rows:
            writer.writerow((name, hashlib.sha256(data).hexdigest(), verdict))


class TestInspect:
    def test_it_says_what_it_found_in_lines_that_fit(self, run, here):
        before = state_of("photos")
        code, out, err = run("inspect", "photos", *SMALL)
        assert (code, err) == (0, "")
        lines = lines_of(out)
        assert lines[0] == "Found 52 images of 3 classes in photos"
        start = lines.index(
            "Leakage: 1 pair of one picture in two splits; a test on it is too easy"
        )
        # The order is that of the images.
        pair = {lines[start + 1].strip(), lines[start + 2].strip().removeprefix("= ")}
        assert pair == {LEAK, "train/red/016.png"}
        assert "Copies: 1 pair of one picture within a split" in lines
        assert any(
            re.fullmatch(rf"  blue, looks like red \(0\.\d\d\): {FLIPPED}", line) for line in lines
        )
        assert any(line.startswith("Left out 1 file") for line in lines)
        assert lines[-1] == "Page with pictures: photos.inspect.html"
        assert Path("photos.inspect.html").read_text("utf-8").startswith("<!doctype html>")
        assert state_of("photos") == before

    def test_the_list_and_the_page_are_where_they_are_asked_for(self, run, here):
        code, out, _ = run(
            "inspect", "photos", "-o", "new/my page.HTML", "--fix-list", "my list.csv", *SMALL
        )
        assert code == 0
        lines = lines_of(out)
        assert lines[-4].startswith("Page with pictures: new/my page.HTML")
        names = [row["image"] for row in read_list("my list.csv")]
        assert {FLIPPED, "train/red/016.png"} <= {*names}
        assert lines[-3:] == [
            f"{len(names)} images to judge: my list.csv",
            "Next: fill in its column verdict, then",
            "  topwork train photos --overrides 'my list.csv'",
        ]
        assert Path("new", "my page.HTML").is_file()

    def test_json_is_one_object_on_stdout(self, run, here):
        code, out, err = run("inspect", "photos", "--json", "--fix-list", "fix.csv", *SMALL)
        assert code == 0
        content = json.loads(out, parse_constant=pytest.fail)
        assert len(out.splitlines()) == 1
        assert (content["page"], content["fix_list"]) == ("photos.inspect.html", "fix.csv")
        assert content["data"] == "photos"
        assert [pair["leak"] for pair in content["pairs"]].count(True) == 1
        assert FLIPPED in [suspect["name"] for suspect in content["suspects"]]
        assert [item["path"] for item in content["skipped"]] == ["train/blue/page.png"]
        assert "Labels in doubt" in err

    def test_a_table_of_numbers_has_figures_that_json_lacks(self, run, here):
        rng = np.random.default_rng(0)
        rows = ["path,price"]
        for n, light in enumerate(rng.uniform(40, 200, 20)):
            Path(f"{n}.png").write_bytes(encode(picture((light,) * 3, seed=n)))
            rows.append(f"{n}.png,{light + (4000 if n == 7 else 0)}")
        Path("prices.csv").write_text("\n".join(rows))
        code, out, _ = run(
            "inspect", "prices.csv", "--label-column", "price", "--task", "number",
            "--json", *SMALL,
        )  # fmt: skip
        assert code == 0
        (suspect, *_) = json.loads(out, parse_constant=pytest.fail)["suspects"]
        assert (suspect["name"], suspect["given_probability"]) == ("7.png", None)
        assert Path("prices.inspect.html").is_file()

    def test_nothing_wrong_is_said_as_well(self, run, photos, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        lists = ("pairs", "label_issues", "outliers", "image_issues", "shifts")
        found = dict.fromkeys(lists, ())
        whole = inspection.Inspection
        monkeypatch.setattr(inspection, "Inspection", lambda **parts: whole(**parts | found))
        code, out, _ = run("inspect", photos, "--fix-list", "fix.csv", *SMALL)
        assert code == 0
        assert "Leakage: no picture is in two splits" in out
        assert "Labels in doubt: no labels, of 48 images judged" in out
        assert out.splitlines()[-1] == "0 images to judge: fix.csv"
        assert read_list("fix.csv") == []

    def test_pairs_say_how_they_are_alike_and_what_their_labels_are(
        self, run, photos, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        shutil.copytree(photos, "photos")
        names = Dataset.from_folder("photos").names
        blue, green = (
            [n for n, name in enumerate(names) if name.startswith(f"train/{colour}/")]
            for colour in ("blue", "green")
        )
        pairs = (
            Pair(blue[0], green[0], Likeness.NEAR, 0.99),
            Pair(blue[1], blue[2], Likeness.MIRRORED, 0.99),
        )
        whole = inspection.Inspection
        monkeypatch.setattr(
            inspection, "Inspection", lambda **parts: whole(**parts | {"pairs": pairs})
        )
        lines = lines_of(run("inspect", "photos", *SMALL)[1])
        start = lines.index("Copies: 2 pairs of one picture within a split")
        assert lines[start + 1 : start + 5] == [
            f"  blue: {names[blue[0]]}",
            f"  = green: {names[green[0]]}",
            f"  {names[blue[1]]}",
            f"  = mirrored, {names[blue[2]]}",
        ]

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (("inspect", "nowhere"), 1, "nowhere must be a folder"),
            (("inspect", "photos", "-o", "fix.csv"), 2, r"output: must end in \.html"),
            (("inspect", "photos", "--fix-list", "taken.csv"), 1, "taken.csv"),
            (("inspect", "photos", "--overrides", "none.csv"), 1, "cannot read the verdicts none"),
            (("inspect", "photos", "--overrides", "photos/train"), 1, "cannot read the verdicts"),
            (("inspect", "photos", "--base", "xeption"), 2, "did you mean xception"),
            (("inspect", "photos", "--epochs", "3"), 2, "--epochs"),
            (("inspect", "photos", "-o", "taken.csv/page.html"), 1, "cannot write taken.csv/page"),
            (("inspect", "photos", "--strict"), 1, r"train/blue/page\.png: .*--strict"),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(self, run, here, arguments, code, message):
        add_rows("taken.csv", [("a.png", b"a", "drop")])
        before = Path("taken.csv").read_bytes()
        found, _, err = run(*arguments, *SMALL)
        assert found == code
        (line,) = err.splitlines()
        assert line.startswith("topwork: ")
        assert re.search(message, line), line
        assert Path("taken.csv").read_bytes() == before

    def test_a_page_that_is_no_place_is_refused_before_the_work(self, run, here, monkeypatch):
        monkeypatch.setattr(inspection, "inspect", None)
        assert run("inspect", "photos", "-o", "page.txt")[0] == 2
        add_rows("fix.csv", [("a.png", b"a", "keep")])
        assert run("inspect", "photos", "--fix-list", "fix.csv")[0] == 1


class TestOverrides:
    @pytest.fixture
    def judged(self, run, here):
        """The list of an inspection, filled in: one label changed, a leak dropped, one kept."""
        code, *_ = run("inspect", "photos", "--fix-list", "fix.csv", *SMALL)
        assert code == 0
        rows = {row["image"]: row for row in read_list("fix.csv")}
        assert rows[FLIPPED]["suggested"] == "red"
        (copy,) = {COPY, "train/green/008.png"} & {*rows}
        judge("fix.csv", {FLIPPED: "red", "train/red/016.png": "drop", copy: "keep"})
        return here

    def test_only_the_head_is_trained_again(self, run, judged):
        before = state_of("photos")
        code, out, _ = run(
            "train", "photos", "-o", "my.model", "--overrides", "fix.csv", "--json", *TRAIN
        )
        assert code == 0
        content = json.loads(out)
        assert content["images"]["embedded"] == 0
        # 24 for training, 12 for validation, two more for training of which one was dropped.
        assert content["images"]["reused"] == 24 + 12 + 2 - 1
        assert {"path": "train/red/016.png", "reason": "dropped by fix.csv"} in content["skipped"]
        labels = labels_of("my.model")
        assert labels[FLIPPED] == "red"
        assert "train/red/016.png" not in labels
        assert COPY in labels
        assert state_of("photos") == before

    def test_what_was_done_is_said(self, run, judged):
        _, out, _ = run("train", "photos", "--overrides", "fix.csv", *TRAIN)
        lines = lines_of(out)
        assert lines[0] == "Verdicts: 1 image dropped, 1 relabelled"
        assert lines[1] == "Found 51 images of 3 classes in photos"

    def test_inspect_finds_them_no_more(self, run, judged):
        _, out, _ = run("inspect", "photos", "--overrides", "fix.csv", "--json", *SMALL)
        content = json.loads(out)
        assert FLIPPED not in [suspect["name"] for suspect in content["suspects"]]
        assert not [pair for pair in content["pairs"] if pair["leak"]]

    def test_verdicts_hold_where_the_images_have_moved_to(self, run, judged):
        shutil.move("photos", "moved")
        shutil.move(f"moved/{FLIPPED}", "moved/train/blue/renamed.png")
        assert run("train", "moved", "--overrides", "fix.csv", *TRAIN)[0] == 0
        assert labels_of("moved.model")["train/blue/renamed.png"] == "red"

    def test_verdicts_on_images_that_are_elsewhere_are_counted(self, run, judged):
        Path("photos", FLIPPED).unlink()
        code, out, _ = run("train", "photos", "--overrides", "fix.csv", *TRAIN)
        assert code == 0
        assert (
            "Verdicts: 1 image dropped, 0 relabelled; 1 more on images that are not in this data"
            in words(out)
        )

    def test_tune(self, run, judged):
        code, out, _ = run(
            "tune", "photos", "-o", "my.model", "--overrides", "fix.csv", "--budget", 4,
            "--folds", 2, "--json", *SMALL, "--head", "logistic",
        )  # fmt: skip
        assert code == 0
        assert json.loads(out)["images"]["embedded"] == 0
        assert labels_of("my.model")[FLIPPED] == "red"

    def test_evaluate(self, run, here, saved):
        wrong = encode(picture(COLOURS["red"], seed=720))
        Path("photos/test/blue/wrong.png").write_bytes(wrong)
        out = run("evaluate", saved, "photos", "--json")[1]
        assert json.loads(out)["support"] == [5, 4, 5]
        first = sorted(Path("photos/test/green").iterdir())[0]
        add_rows(
            "fix.csv",
            [("", wrong, "red"), (f"test/green/{first.name}", first.read_bytes(), "drop")],
        )
        before = state_of("photos")
        code, out, _ = run("evaluate", saved, "photos", "--overrides", "fix.csv", "--json")
        content = json.loads(out)
        assert (code, content["support"]) == (0, [4, 3, 6])
        assert state_of("photos") == before

    def test_evaluate_where_verdicts_leave_no_image_of_a_class(self, run, here, saved):
        shutil.rmtree("photos")
        for name, colour in COLOURS.items():
            Path("few", name).mkdir(parents=True)
            for n in range(1 if name == "blue" else 3):
                data = encode(picture(colour, seed=730 + n))
                Path("few", name, f"{n}.png").write_bytes(data)
        add_rows("fix.csv", [("blue/0.png", Path("few/blue/0.png").read_bytes(), "drop")])
        code, out, _ = run("evaluate", saved, "few", "--overrides", "fix.csv", "--json")
        content = json.loads(out)
        assert (code, content["support"]) == (0, [0, 3, 3])
        # As if it had never been there.
        shutil.rmtree("few/blue")
        without = json.loads(run("evaluate", saved, "few", "--json")[1])
        assert content["confusion"] == without["confusion"]

    def test_classes_that_verdicts_made_one(self, run, here):
        # Two spellings of a class: all of the one are given the other, for both recipes.
        for split in ("train", "validation", "test"):
            folder = Path("photos", split, "Red")
            folder.mkdir()
            for n in range(2):
                data = encode(picture(COLOURS["red"], seed=800 + n + 10 * len(split)))
                (folder / f"{n}.png").write_bytes(data)
        files = sorted(Path("photos").glob("*/Red/*.png"))
        add_rows("fix.csv", [(str(path), path.read_bytes(), "red") for path in files])
        args = ("--overrides", "fix.csv", "--json")
        assert json.loads(run("train", "photos", *args, *TRAIN)[1])["classes"] == list(COLOURS)
        code, out, err = run("evaluate", "photos.model", "photos", *args)
        assert code == 0, err
        assert json.loads(out)["support"] == [4, 4, 7]

    @pytest.mark.parametrize("command", ["train", "tune", "evaluate", "inspect"])
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("image,sha256,verdict\na.png,123,drop\n", "line 2: sha256 must be the 64 hex"),
            (f"sha256,verdict\n{'0' * 64},purple\n", "line 2: the verdict must be keep, drop or"),
            ("one,two\n1,2\n", "must have one column `sha256` and one `verdict`"),
            ("", "an empty file"),
            (f"sha256,verdict\n{'0' * 64},keep\n{'0' * 64},red\n", "line"),
        ],
    )
    def test_bad_lists_are_refused_in_a_line(self, run, here, saved, command, content, message):
        (here / "photos" / "train" / "blue" / "page.png").unlink()
        Path("bad.csv").write_text(content)
        model = (saved,) if command == "evaluate" else ()
        code, _, err = run(command, *model, "photos", "--overrides", "bad.csv")
        assert code == 1
        (line,) = err.splitlines()
        assert line.startswith("topwork: bad.csv")
        assert message in line


class TestNeighbours:
    def test_the_most_alike_come_first(self, run, here):
        code, out, _ = run("neighbours", "photos", f"photos/{FLIPPED}", "--count", 3, *SMALL)
        assert code == 0
        lines = lines_of(out)
        assert lines[0] == f"photos/{FLIPPED}"
        assert len(lines) == 4
        found = [re.fullmatch(r"  (\d\.\d{3})  (\w+)  (\S+)", line).groups() for line in lines[1:]]
        assert [label for _, label, _ in found] == ["red"] * 3
        assert found == sorted(found, key=lambda row: -float(row[0]))
        assert FLIPPED not in [name for *_, name in found]

    def test_a_model_and_json(self, run, here, saved):
        code, out, _ = run(
            "neighbours", saved, f"photos/{FLIPPED}", "none.png", "--json", "--count", 2
        )
        assert code == 0
        first, second = (json.loads(line, parse_constant=pytest.fail) for line in out.splitlines())
        assert first["path"] == f"photos/{FLIPPED}"
        assert [one.keys() for one in first["neighbours"]] == [
            {"name", "label", "split", "similarity"}
        ] * 2
        assert {one["split"] for one in first["neighbours"]} == {"train"}
        assert second == {"path": "none.png", "error": "there is no such file"}

    def test_a_model_whose_store_is_empty(self, run, here, saved):
        code, _, err = run("neighbours", saved, f"photos/{FLIPPED}", "--store", "other")
        assert code == 1
        assert "name their folder instead of the model" in err

    def test_paths_from_standard_input(self, run, here, monkeypatch):
        text = f"photos/{FLIPPED}\n\nphotos/{LEAK}\n"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        code, out, _ = run("neighbours", "photos", "-", "--count", 1, *SMALL)
        assert code == 0
        assert [line for line in out.splitlines() if not line.startswith(" ")] == [
            f"photos/{FLIPPED}",
            f"photos/{LEAK}",
        ]

    def test_an_image_that_cannot_be_read_is_said_on_stderr(self, run, here):
        args = ("neighbours", "photos", "photos/train/blue/page.png", f"photos/{LEAK}", *SMALL)
        code, out, err = run(*args)
        assert code == 0
        assert out.splitlines()[0] == f"photos/{LEAK}"
        assert "photos/train/blue/page.png: not an image: it starts like a web page" in err

    def test_none_that_can_be_read(self, run, here):
        code, out, err = run("neighbours", "photos", "none.png", "no.png", *SMALL)
        assert (code, out) == (1, "")
        assert err.splitlines()[-3:] == [
            "none.png: there is no such file",
            "no.png: there is no such file",
            "topwork: none of the 2 images could be read",
        ]

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (("neighbours", "photos"), 2, "Missing argument"),
            (("neighbours", "nowhere", "photos"), 1, "nowhere must be a folder"),
            (("neighbours", "photos", "*.gif"), 2, "matches no files"),
            (("neighbours", "photos", "photos", "--count", "0"), 2, "--count"),
            (("neighbours", "MODEL", "photos", "--flip"), 2, "flip: is the model's own"),
            (("neighbours", "MODEL", "photos", "--image-size", "32"), 2, "image_size: is the mod"),
            (("neighbours", "MODEL", "photos", "--label-column", "x"), 2, "label_column: is the"),
            (("neighbours", "-", "-"), 2, "standard input has the data already"),
            (("neighbours", "x" * 300, "photos"), 1, "there is no such folder"),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(self, run, here, saved, arguments, code, message):
        found, _, err = run(*(saved if part == "MODEL" else part for part in arguments))
        assert found == code
        (line,) = err.splitlines()
        assert re.search(message, line), line


class TestEmbed:
    def test_the_table(self, run, here):
        code, out, _ = run("embed", "photos", *SMALL)
        assert code == 0
        assert lines_of(out)[-1] == "51 vectors of 1280 values in vectors.parquet"
        table = pq.read_table("vectors.parquet").to_pydict()
        assert Counter(table["split"]) == {"train": 26, "validation": 12, "test": 13}
        assert dict(zip(table["image"], table["label"], strict=True))[FLIPPED] == "blue"
        assert "Left out 1 file" in out

    def test_json(self, run, here):
        code, out, err = run("embed", "photos", "-o", "my.parquet", "--json", *SMALL)
        content = json.loads(out)
        assert (code, content["table"], content["images"]) == (0, "my.parquet", 51)
        assert content["vector_length"] == 1280
        assert [item["path"] for item in content["skipped"]] == ["train/blue/page.png"]
        assert "51 vectors" in err

    def test_a_folder_without_class_folders(self, run, here):
        shutil.copytree("photos/train/red", "flat")
        Path("flat", "notes.txt").write_bytes(b"what they are")
        code, out, err = run("embed", "flat", *SMALL)
        assert code == 0, err
        table = pq.read_table("vectors.parquet").to_pydict()
        assert table["image"] == sorted(path.name for path in Path("flat").glob("*.png"))
        assert {*table["label"]} == {None}
        assert {*table["split"]} == {"train"}
        code, out, err = run("neighbours", "flat", f"photos/{FLIPPED}", "--count", 3, *SMALL)
        assert code == 0, err
        found = [re.fullmatch(r"  \d\.\d{3}  (\S+)", line)[1] for line in out.splitlines()[1:]]
        assert {*found} < {*table["image"]}
        assert len(found) == 3
        # What needs labels says how to give them.
        for command in ("train", "inspect"):
            code, _, err = run(command, "flat", *SMALL)
            assert code == 1
            assert "flat holds images but no class folders; make one folder per class" in err

    def test_images_beside_class_folders_have_no_label(self, run, here):
        shutil.copytree("photos/train", "mixed")
        Path("mixed/blue/page.png").unlink()
        shutil.copy("mixed/red/016.png", "mixed/loose.png")
        assert run("embed", "mixed", "--strict", *SMALL)[0] == 0
        table = pq.read_table("vectors.parquet").to_pydict()
        labels = dict(zip(table["image"], table["label"], strict=True))
        assert len(labels) == 27
        assert (labels.pop("loose.png"), labels[COPY.removeprefix("train/")]) == (None, "green")
        assert {*labels.values()} == {*COLOURS}
        shutil.copy("mixed/loose.png", "photos/validation/loose.png")
        assert run("embed", "photos", *SMALL)[0] == 0
        table = pq.read_table("vectors.parquet").to_pydict()
        place = table["image"].index("validation/loose.png")
        assert (table["label"][place], table["split"][place]) == (None, "validation")

    def test_a_table_without_labels(self, run, here):
        Path("list.csv").write_text(f"path\nphotos/{LEAK}\nphotos/{FLIPPED}\n")
        code, out, err = run("embed", "list.csv", *SMALL)
        assert code == 0, err
        assert pq.read_table("vectors.parquet")["label"].to_pylist() == [None, None]
        code, out, err = run("neighbours", "list.csv", f"photos/{COPY}", *SMALL)
        assert code == 0, err
        assert [line.split()[1:] for line in out.splitlines()[1:]] in (
            [[f"photos/{LEAK}"], [f"photos/{FLIPPED}"]],
            [[f"photos/{FLIPPED}"], [f"photos/{LEAK}"]],
        )

    def test_groups_and_weights_of_a_table(self, run, here):
        rows = [f"photos/{LEAK},red,a,1", f"photos/{FLIPPED},blue,b,0.5"]
        Path("list.csv").write_text("\n".join(["path,label,group,weight", *rows]))
        columns = ("--group-column", "group", "--weight-column", "weight")
        assert run("embed", "list.csv", *columns, *SMALL)[0] == 0
        table = pq.read_table("vectors.parquet").to_pydict()
        assert table["weight"] == [1, 0.5]
        assert len({*table["group"]}) == 2

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (("embed", "nowhere"), 1, "nowhere must be a folder"),
            (("embed", "photos", "-o", "v.csv"), 2, r"output: must end in \.parquet"),
            (("embed", "photos", "--strict"), 1, r"train/blue/page\.png: .*--strict"),
            (("embed", "photos", "--views", "2"), 2, "--views"),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(self, run, here, arguments, code, message):
        found, _, err = run(*arguments, *SMALL)
        assert found == code
        (line,) = err.splitlines()
        assert re.search(message, line), line

    def test_a_place_that_cannot_be_written(self, run, here):
        code, _, err = run("embed", "photos", "-o", f"photos/{LEAK}/v.parquet", *SMALL)
        assert code == 1
        assert "topwork: cannot write" in err


class TestCopies:
    """What training does about images that show the same picture."""

    @pytest.fixture
    def twice(self, tmp_path, monkeypatch):
        """Class folders without splits, in which each picture is there in two formats."""
        monkeypatch.chdir(tmp_path)
        for place, (name, colour) in enumerate(COLOURS.items()):
            Path("twice", name).mkdir(parents=True)
            for n in range(8):
                image = picture(colour, seed=900 + 10 * place + n)
                Path("twice", name, f"{n}.png").write_bytes(encode(image))
                Path("twice", name, f"{n}.bmp").write_bytes(encode(image, "BMP"))

    def test_they_stay_on_one_side(self, run, twice):
        code, out, _ = run("train", "twice", *TRAIN)
        assert code == 0
        assert "copies of a picture stay on one side" in words(out)
        table = pq.read_table("twice.model/images.parquet").to_pydict()
        splits = dict(zip(table["name"], table["split"], strict=True))
        assert Counter(splits.values()).keys() == {"train", "validation"}
        assert len(splits) == 48
        for name, split in splits.items():
            assert splits[f"{name[:-4]}.bmp"] == split

    def test_they_are_in_one_fold(self, run, twice, monkeypatch):
        seen = {}

        def spy(name):
            function = getattr(pipeline, name)

            def call(*args, **options):
                seen[name] = function(*args, **options)
                return seen[name]

            monkeypatch.setattr(pipeline, name, call)

        spy("prepare_examples")
        spy("make_replicates")
        assert run("train", "twice", *SMALL, "--head", "logistic")[0] == 0
        names = [Path(name).stem + name[:3] for name in seen["prepare_examples"].dataset.names]
        replicates = seen["make_replicates"]
        assert len(replicates) > 1
        for replicate in replicates:
            rows = replicate.split.held_out
            held = {names[row] for row in rows[rows >= 0]}
            learnt = {names[row] for row in replicate.split.training.ravel()}
            assert held
            assert not held & learnt

    def test_what_the_data_divides_is_said(self, run, here):
        shutil.copy("photos/train/blue/000.png", "photos/validation/blue/leak.png")
        code, out, _ = run("train", "photos", *TRAIN)
        assert code == 0
        said = words(out)
        assert re.search(r"Leakage: 1 pair of one picture, one to train and one to", said)
        assert "train/blue/000.png" in said
        assert "validation/blue/leak.png" in said
        # Neither is moved, nor left out.
        table = pq.read_table("photos.model/images.parquet").to_pydict()
        splits = dict(zip(table["name"], table["split"], strict=True))
        assert splits["train/blue/000.png"] == "train"
        assert splits["validation/blue/leak.png"] == "validation"

    def test_a_leak_into_the_test_is_not_looked_for_in_training(self, run, here):
        assert "Leakage" not in run("train", "photos", *TRAIN)[1]


@pytest.mark.parametrize("command", ["inspect", "neighbours", "embed"])
def test_help_fits_and_names_the_defaults(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    lines_of(out)
    assert "efficientnet-lite0" in out
