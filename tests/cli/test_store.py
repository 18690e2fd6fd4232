"""The command about the store."""

import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, replace

import pytest
from leavings import beside, fill, of_alive, of_unknown, scratch
from vectors.test_store import LENGTH, SPACE, hashes, vectors

from topwork.cli import store as store_command
from topwork.vectors.store import VectorStore


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder for temporary files that nobody else uses."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def here(tmp_path):
    """A store with two spaces, and networks, of which something is old."""
    root = tmp_path / "a store"
    VectorStore(root, SPACE, LENGTH).write(hashes(1234), vectors(1234))
    other = VectorStore(root, replace(SPACE, base="xception", view="augmented-12-1"), LENGTH)
    other.write(hashes(2), vectors(2))
    network = root / "bases" / "xception-150-0123456789abcdef" / "network.bin"
    network.parent.mkdir(parents=True)
    network.write_bytes(bytes(1_500_000))
    for path in [*other.folder.iterdir(), network]:
        at_s = time.time() - 3 * 86_400
        os.utime(path, (at_s, at_s))
    return root


def lines_of(text):
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines)
    return [" ".join(line.split()) for line in lines]


def test_the_table_says_what_there_is(run, here):
    code, output, errors = run("store", "--store", here)
    assert (code, errors) == (0, "")
    lines = lines_of(output.replace(str(here), "the store"))
    size = sum(path.stat().st_size for path in here.rglob("*") if path.is_file())
    assert lines == [
        "the store",
        "vectors of px precision view vectors MB last written",
        "efficientnet-lite0 32 f32 original 1,234 0.1 just now",
        "xception 32 f32 augmented-12… 2 0.0 3 days ago",
        "built networks 1.5 MB",
        f"total {size / 1e6:.1f} MB",
    ]


def test_the_same_as_json(run, here):
    code, output, errors = run("store", "--store", here, "--json")
    assert (code, errors) == (0, "")
    found = json.loads(output)
    assert (found["store"], found["elsewhere"]) == (str(here), None)
    first, second = found["vectors"]
    assert first.items() >= (asdict(SPACE) | {"vectors": 1234, "parts": 1}).items()
    assert (second["base"], second["vectors"]) == ("xception", 2)
    assert found["rest"]["bases"] == 1_500_000
    files = [path for path in here.rglob("*") if path.is_file()]
    assert found["bytes"] == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("made", [False, True])
def test_an_empty_store_is_fine(run, tmp_path, made):
    if made:
        (tmp_path / "none").mkdir()
    for option in ((), ("--compact",), ("--verify",), ("--prune", "--base", "x", "--yes")):
        code, _, errors = run("store", "--store", tmp_path / "none", *option)
        assert (code, errors) == (0, "")
    code, output, _ = run("store", "--store", tmp_path / "none")
    assert "It is empty" in output
    code, output, _ = run("store", "--store", tmp_path / "none", "--json")
    assert json.loads(output)["bytes"] == 0


def test_small_parts_are_made_large(run, here):
    store = VectorStore(here, SPACE, LENGTH)
    for n in range(1234, 1240, 2):
        store.write(hashes(2, n), vectors(2))
    code, output, _ = run("store", "--store", here, "--compact")
    assert code == 0
    assert lines_of(output) == ["Made large parts of small ones: 3 parts fewer"]
    assert len([*store.folder.glob("part-*")]) == 1


def test_damaged_parts_are_found(run, here):
    code, output, _ = run("store", "--store", here, "--verify")
    assert (code, output) == (0, "Read 2 parts: no damaged ones\n")
    part = next((here / "vectors" / SPACE.name).glob("part-*"))
    part.write_bytes(part.read_bytes()[:-9])
    code, output, errors = run("store", "--store", here, "--verify", "--json")
    aside = str(part.with_suffix(".damaged"))
    assert code == 1
    assert json.loads(output)["verified"] == {"parts": 2, "damaged": [aside]}
    assert aside in errors
    code, output, _ = run("store", "--store", here, "--verify")
    assert code == 0
    assert output.splitlines()[1] == "1 part set aside earlier can be deleted"


def names(here):
    return sorted(path.name.split("-")[0] for path in here.glob("*/*"))


ALL = ["efficientnet", "xception", "xception"]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (("--base", "xception"), ["efficientnet"]),
        (("--older-than", "2d"), ["efficientnet"]),
        (("--older-than", "71h"), ["efficientnet"]),
        (("--older-than", "1w"), ALL),
        (("--older-than", "0h"), []),
        (("--base", "efficientnet-lite0", "--older-than", "2d"), ALL),
        (("--base", "nothing"), ALL),
    ],
)
def test_what_was_said_is_removed(run, here, options, left):
    code, output, _ = run("store", "--store", here, "--prune", *options, "--yes")
    assert code == 0
    assert names(here) == left
    assert output.startswith("Nothing" if left == ALL else "Freed 1.")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--base", "resnet"), "of resnet"),
        (("--older-than", "1w"), "not written to for 1w"),
        (
            ("--base", "resnet", "--older-than", "2d"),
            "of resnet, not written to for 2d",
        ),
    ],
)
def test_it_says_why_there_is_nothing_to_remove(run, here, options, reason):
    _, output, _ = run("store", "--store", here, "--prune", *options)
    assert " ".join(lines_of(output)) == (
        f"Nothing was removed: the store has nothing {reason}; it has efficientnet-lite0, xception"
    )
    _, output, _ = run("store", "--store", here / "none", "--prune", *options)
    assert " ".join(lines_of(output)).endswith("; it has no networks")


@pytest.mark.parametrize(("answer", "left"), [("y\n", ["efficientnet"]), ("n\n", ALL), ("\n", ALL)])
def test_it_asks_before_it_removes(run, here, monkeypatch, answer, left):
    asked = []
    monkeypatch.setattr(
        store_command.typer, "confirm", lambda text, **_: asked.append(text) or answer == "y\n"
    )
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    code, output, _ = run("store", "--store", here, "--prune", "--base", "xception")
    assert code == 0
    assert asked == ["Remove these, 1.5 MB?"]
    assert names(here) == left
    lines_of(output)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--prune",), "needs --base NAME or --older-than AGE"),
        (("--base", "x"), "need --prune"),
        (("--yes",), "need --prune"),
        (("--prune", "--base", "xception"), "say --yes"),
        (("--prune", "--older-than", "30", "--yes"), "such as 12h, 30d or 8w, received '30'"),
        (("--prune", "--older-than", "-1d", "--yes"), "received '-1d'"),
        (("--prune", "--older-than", "nand", "--yes"), "received 'nand'"),
        (("--prune", "--older-than", "", "--yes"), "received ''"),
        (("--compact", "--verify"), "one after the other"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_removed(run, here, monkeypatch, options, reason):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    code, output, errors = run("store", "--store", here, *options)
    assert (code, output) == (2, "")
    assert reason in errors
    assert len(errors.splitlines()) == 1
    assert names(here) == ALL


def test_a_file_is_no_store(run, tmp_path):
    (tmp_path / "file").touch()
    code, output, _ = run("store", "--store", tmp_path / "file")
    assert (code, "It is empty" in output) == (0, True)


def test_a_damaged_record_is_said_in_a_line(run, here):
    (here / "elsewhere.json").write_text("{")
    code, output, errors = run("store", "--store", here)
    assert (code, output) == (1, "")
    assert "must say where the store's vectors are" in errors


def test_long_names_keep_to_the_width(run, here):
    space = replace(SPACE, base="a-network-with-a-very-long-name-indeed", image_size=2048)
    VectorStore(here, space, LENGTH).write(hashes(2), vectors(2))
    shutil.copytree(here / "vectors" / space.name, here / "vectors" / ("x" * 100))
    _, output, _ = run("store", "--store", here)
    lines_of(output.replace(str(here), "the store"))


@pytest.fixture
def busy(here, place):
    """What runs at work, killed ones and unknown ones have there and among temporary files."""
    fill(here / "bases" / beside("a", how=of_alive), 2_000_000)
    fill(here / "bases" / beside("b", how=of_unknown), 300_000)
    fill(here / "bases" / beside("c"), 40_000_000)
    (here / "vectors" / SPACE.name / beside("part-1", how=of_alive)).write_bytes(bytes(1_000_000))
    fill(place / scratch(how=of_alive), 5_000_000)
    fill(place / scratch("serve", how=of_alive), 6_000_000)
    fill(place / scratch("serve"), 70_000_000)
    return here


def test_it_says_who_has_temporary_files(run, busy, place):
    code, output, errors = run("store", "--store", busy)
    assert (code, errors) == (0, "")
    lines = lines_of(output.replace(str(busy), "the store").replace(str(place), "/tmp"))
    assert lines[4:] == [
        "built networks 1.5 MB",
        "runs at work 3.0 MB",
        "of unknown runs 0.3 MB",
        "total 4.9 MB",
        "/tmp",
        "runs at work 11.0 MB",
        "What is of unknown runs is removed when it is a day old.",
        "Removed 110.0 MB that killed runs had left",
    ]
    assert lines[2].split()[-4:-2] == ["1,234", "0.1"]
    _, output, _ = run("store", "--store", busy)
    assert "killed" not in output


def test_it_says_what_it_cannot_remove(run, busy, place, monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    _, output, _ = run("store", "--store", busy)
    lines = lines_of(output.replace(str(busy), "the store").replace(str(place), "/tmp"))
    assert "left by killed runs 40.0 MB" in lines
    assert "left by killed runs 70.0 MB" in lines
    assert not any("Removed" in line for line in lines)


def test_temporary_files_as_json(run, busy, place):
    code, output, _ = run("store", "--store", busy, "--json")
    assert code == 0
    found = json.loads(output)
    assert found["swept_bytes"] == 110_000_000
    shown = {(each["owner"], each["in_store"], each["bytes"]) for each in found["temporary"]}
    assert shown == {
        ("alive", True, 2_000_000),
        ("alive", True, 1_000_000),
        ("unknown", True, 300_000),
        ("alive", False, 5_000_000),
        ("alive", False, 6_000_000),
    }
    for each in found["temporary"]:
        assert each["path"].startswith(str(busy if each["in_store"] else place))
        assert each["changed_s"] == pytest.approx(time.time(), abs=60)
    files = [path for path in busy.rglob("*") if path.is_file()]
    assert found["bytes"] == sum(path.stat().st_size for path in files)
    assert found["rest"]["bases"] == 1_500_000


def test_what_is_being_written_is_not_pruned(run, busy):
    before = {path for path in busy.rglob("*topwork*") if "-abcd_" in path.name}
    run("store", "--store", busy, "--prune", "--older-than", "0h", "--yes")
    kept = {path for path in busy.rglob("*topwork*") if "-abcd_" in path.name}
    assert len(kept) == len(before) - 2
    assert {path.parent.name for path in kept} == {"bases"}
