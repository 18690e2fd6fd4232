import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from topwork.bases import read_openvino_head, write_openvino_file
from topwork.core.config import Precision
from topwork.core.errors import NetworkError
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.heads.dense import Dense, Head, init_head
from topwork.models import save as saving
from topwork.models.checks import keras_file, records
from topwork.models.checks import saved as checking
from topwork.models.checks.agreement import compare_logits
from topwork.models.checks.images import CheckImages
from topwork.models.checks.keras_file import begin_keras_check
from topwork.models.folder import load_model
from topwork.recipes import save as recipe_saving
from topwork.recipes import train as pipeline

pytestmark = pytest.mark.system


def check_with(result, **changes):
    return replace(result, checks=replace(result.checks, **changes))


@pytest.fixture
def unknown(trained, tmp_path):
    """The same model, of networks that were never saved."""
    folder = shutil.copytree(trained.stack.folder, tmp_path / "networks")
    for path in folder.glob("parity-*"):
        path.unlink()
    (network,) = trained.stack.networks
    stack = replace(
        trained.stack, folder=folder, networks=(replace(network, folder=folder, int8=None),)
    )
    return replace(trained, stack=stack)


@pytest.fixture
def runs(monkeypatch):
    """Names of the files that are run."""
    names = []

    def watch(run):
        def spy(path, *rest, **named):
            names.append(path.name)
            return run(path, *rest, **named)

        return spy

    for module, name in ((keras_file, "run_file"), (checking, "run_outputs")):
        monkeypatch.setattr(module, name, watch(getattr(module, name)))
    return names


def test_files_are_run_the_first_time_that_networks_are_saved(unknown, tmp_path, runs):
    first = unknown.save(tmp_path / "first")
    assert runs == ["model.xml", "model.xml", "reopened.xml"]
    assert first.warnings == ()
    assert 0 <= max(first.parity.values()) < 1e-4
    runs.clear()
    second = unknown.save(tmp_path / "second")
    assert runs == []
    assert second == first
    assert (first.agreement.images, first.agreement.share) == (12, 1)
    card = json.loads((tmp_path / "second" / "model.json").read_text())
    assert card["parity"] == second.parity
    assert card["agreement"] == asdict(second.agreement)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"difference": null}', b"PK\x03\x04"],
    ids=["empty", "list", "null", "zip"],
)
def test_a_record_that_is_damaged_is_none(unknown, tmp_path, runs, content):
    unknown.save(tmp_path / "first")
    records = sorted(unknown.stack.folder.glob("parity-*"))
    assert len(records) == 2
    for path in records:
        path.write_bytes(content)
    runs.clear()
    assert unknown.save(tmp_path / "second").warnings == ()
    assert runs == ["model.xml", "model.xml", "reopened.xml"]
    assert all(path.read_bytes() != content for path in records)


def take(images, rows):
    return CheckImages(
        tuple(images.sources[row] for row in rows),
        tuple(images.hashes[row] for row in rows),
        images.vectors[rows],
    )


def test_other_images_are_run_again(unknown, tmp_path, runs):
    names = []
    for rows in (range(6), range(6, 12), range(8, 12), range(12)):
        runs.clear()
        found = check_with(unknown, images=take(unknown.checks.images, [*rows])).save(
            tmp_path / "m"
        )
        assert (found.warnings, found.agreement.images) == ((), len(rows))
        names.append(runs[:1])
    # The third are among the second.
    assert names == [["model.xml"], ["model.xml"], [], ["model.xml"]]


def move_one_number(kernel):
    kernel[0, 0] = np.nextafter(kernel[0, 0], 1, dtype=np.float32)


def turn_round(kernel):
    kernel[:] = kernel[:, ::-1].copy()


@pytest.mark.parametrize("change", [move_one_number, turn_round])
@pytest.mark.parametrize("name", ["openvino", "keras"])
def test_a_file_with_another_head_is_named_and_the_model_kept(
    trained, saved, tmp_path, monkeypatch, name, change
):
    write = getattr(saving, f"write_{name}_file")

    def write_other(networks, layers, path):
        (layer,) = layers
        kernel = layer.kernel.copy()
        change(kernel)
        write(networks, (Dense(kernel, layer.bias),), path)

    monkeypatch.setattr(saving, f"write_{name}_file", write_other)
    found = trained.save(tmp_path / "m")
    file = {"openvino": "model.xml", "keras": "model.keras"}[name]
    assert found.warnings == (f"{file} holds another head than the one that was trained",)
    assert load_model(tmp_path / "m").classes == trained.model.classes


def test_networks_that_see_something_else_than_was_stored_are_a_doubt(trained, saved, tmp_path):
    check_images = trained.checks.images
    other = replace(check_images, vectors=np.roll(check_images.vectors, 4, axis=0))
    found = check_with(trained, images=other).save(tmp_path / "m")
    assert "the stored vectors say" in found.warnings[0]
    assert any("with an empty store (--store DIR)" in doubt for doubt in found.warnings)
    assert found.agreement.share < 0.9
    assert load_model(tmp_path / "m").classes == trained.model.classes
    assert json.loads((tmp_path / "m" / "model.json").read_text())["doubts"] == [*found.warnings]


def make_other_vectors(monkeypatch, precision):
    """Has OpenVINO's files give something else than was stored, in one precision."""
    run = checking.run_outputs

    def spoil(path, pixels, asked, outputs, stop):
        found = run(path, pixels, Precision.F32, outputs, stop)
        if asked == precision:
            found = [np.roll(values, 4, axis=0) for values in found]
        return found

    monkeypatch.setattr(checking, "run_outputs", spoil)


def in_precision(trained, precision):
    (base,) = trained.model.bases
    space = replace(base.space, precision=str(precision), calibration="")
    base = base.model_copy(update={"space": space})
    return replace(trained, model=replace(trained.model, bases=(base,)))


def test_a_precision_that_says_something_else_gives_way_to_f32(unknown, tmp_path, monkeypatch):
    make_other_vectors(monkeypatch, Precision.INT8)
    found = in_precision(unknown, Precision.INT8).save(tmp_path / "m")
    assert found.agreement.precision == "f32"
    assert found.agreement.share == 1
    assert len(found.warnings) == 2
    assert found.warnings[0].startswith("model.xml, in int8, gives ")
    assert found.warnings[1].startswith("so it was saved in f32: model.xml, in f32, gives 12 of 12")
    model = load_model(tmp_path / "m")
    assert model.precision is model.settings.precision is Precision.F32
    assert found.parity["openvino"] < 1e-3
    assert "int8" not in (tmp_path / "m" / "report.html").read_text("utf-8")
    assert not [path.name for path in (tmp_path / "m").iterdir() if path.name[0] == "."]


def test_f32_is_not_asked_to_be_exact_where_the_vectors_are_not(unknown, tmp_path):
    vectors = unknown.checks.images.vectors * np.float32(1.01)
    other = check_with(unknown, images=replace(unknown.checks.images, vectors=vectors))
    exact = other.save(tmp_path / "exact")
    assert [warning.split(":")[0] for warning in exact.warnings] == [
        "model.xml does not say what the stored vectors say",
        "the networks do not see in images what the store says of them",
    ]
    found = in_precision(other, Precision.BF16).save(tmp_path / "m")
    assert found.warnings == ()
    assert found.agreement.difference > 1e-3


def test_without_room_for_f32_the_model_is_kept_as_it_is(unknown, tmp_path, monkeypatch):
    make_other_vectors(monkeypatch, Precision.INT8)
    write = saving.write_openvino_file

    def fill(stack, layers, path):
        if path.parent.name.startswith(".model.xml"):
            raise OSError(28, "No space left on device")
        write(stack, layers, path)

    monkeypatch.setattr(saving, "write_openvino_file", fill)
    found = in_precision(unknown, Precision.INT8).save(tmp_path / "m")
    assert "there is no room to try f32 instead: No space left on device" in found.warnings
    assert load_model(tmp_path / "m").precision is Precision.INT8


def test_an_image_that_has_changed_is_not_compared_with_what_it_was(unknown, tmp_path):
    sources = (unknown.checks.images.sources[1], *unknown.checks.images.sources[1:])
    found = check_with(unknown, images=replace(unknown.checks.images, sources=sources)).save(
        tmp_path / "m"
    )
    assert found.warnings[0] == (
        "the model was compared without some of its images: 1 of 12 images could not be read any "
        "more: it has changed since its vector was made"
    )
    assert (found.agreement.images, found.agreement.share) == (11, 1)


def test_what_another_run_has_replaced_gets_nothing_of_ours(trained, tmp_path, monkeypatch):
    check = recipe_saving._check_files
    other = replace(trained, model=replace(trained.model, head=init_head(1280, 3, 9)))

    def replace_it(result, path, *rest):
        monkeypatch.setattr(recipe_saving, "_check_files", check)
        found = check(result, path, *rest)
        shutil.rmtree(path)
        other.save(path)
        (path / "report.html").unlink()
        return found

    monkeypatch.setattr(recipe_saving, "_check_files", replace_it)
    found = trained.save(tmp_path / "m")
    assert "report.html could not be written: another run has replaced the model" in found.warnings
    assert not (tmp_path / "m" / "report.html").exists()


@pytest.mark.parametrize(
    ("task", "wanted", "found", "said"),
    [
        (
            Task.CLASSES, [[2, 1], [0, 1]], [[2, 1], [2, 1]],
            "model.xml, in int8, gives 1 of 2 images the answer of the stored vectors (50.0%); a "
            "probability differs by 0.46 at most",
        ),
        (
            Task.LABELS, [[2, -1], [2, 1]], [[2, -1], [2, -1]],
            "model.xml, in int8, decides about 2 images as the stored vectors do, for each label "
            "in 50.0% of the cases or more; a probability differs by 0.46 at most",
        ),
        (
            Task.NUMBER, [[2000], [2010]], [[2000], [2008]],
            "model.xml, in int8, gives 50.0% of the numbers of 2 images as the stored vectors do, "
            "to a twentieth of their range; one differs by 0.2 of it at most",
        ),
    ],
)  # fmt: skip
def test_agreement_is_said_in_words_for_each_task(task, wanted, found, said):
    arrays = (np.array(values, np.float32) for values in (found, wanted))
    agreement = compare_logits(task, *arrays, "int8")
    assert (agreement.share, agreement.holds) == (0.5, False)
    assert agreement.say() == said


def test_a_tie_is_no_other_answer():
    wanted, found = np.array([[0, 0.01]], np.float32), np.array([[0.01, 0]], np.float32)
    agreement = compare_logits(Task.CLASSES, found, wanted, "bf16")
    assert agreement.share == 0
    assert agreement.holds
    same = compare_logits(Task.CLASSES, wanted, wanted, "bf16")
    assert same.say().endswith("(100.0%); no probability differs")


def test_where_f32_is_no_better_the_precision_stays(unknown, tmp_path, monkeypatch):
    other = replace(
        unknown.checks.images, vectors=np.roll(unknown.checks.images.vectors, 4, axis=0)
    )
    found = in_precision(check_with(unknown, images=other), Precision.INT8).save(tmp_path / "m")
    assert "in f32 it agrees no better, so it was saved in int8" in found.warnings
    assert load_model(tmp_path / "m").precision is Precision.INT8
    assert found.agreement.precision == "int8"


@pytest.mark.parametrize("gone", [1, 12])
def test_images_that_vanish_before_the_end_cost_nothing(unknown, tmp_path, gone):
    sources = list(unknown.checks.images.sources)
    sources[:gone] = [tmp_path / f"{number}.png" for number in range(gone)]
    check_images = replace(unknown.checks.images, sources=tuple(sources))
    found = check_with(unknown, images=check_images).save(tmp_path / "m")
    assert f"{gone} of 12 images could not be read any more" in found.warnings[0]
    assert (found.agreement is None) == (gone == 12)
    if found.agreement:
        assert (found.agreement.images, found.agreement.share) == (11, 1)
    assert load_model(tmp_path / "m").classes == unknown.model.classes


def test_a_check_that_breaks_is_a_warning(unknown, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(checking, "run_outputs", fail)
    found = unknown.save(tmp_path / "m")
    assert found.warnings == (
        "model.xml could not be compared with what was trained: out of memory",
    )
    assert found.agreement is None
    assert load_model(tmp_path / "m").classes == unknown.model.classes


def test_logits_that_are_not_finite_are_a_warning(trained, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(Head, "logits", lambda _, vectors: np.full((len(vectors), 3), np.nan))
    found = trained.save(tmp_path / "m")
    assert any("a logit differs by nan" in warning for warning in found.warnings)


@pytest.mark.parametrize("units", [0, 5])
def test_the_head_of_an_openvino_file_can_be_read_back(trained, tmp_path, units):
    head = init_head(1280, 3, 4, units)
    write_openvino_file(trained.stack, head.layers, tmp_path / "model.xml")
    found = read_openvino_head(tmp_path / "model.xml")
    assert len(found) == len(head.layers)
    for layer, wanted in zip(found, head.layers, strict=True):
        assert np.array_equal(layer[0], wanted.kernel)
        assert np.array_equal(layer[1], wanted.bias)


def begin(found, sources=None):
    model = found.model
    head = init_head(model.vector_length, 2, 0)
    sources = found.checks.images.sources if sources is None else sources
    return begin_keras_check(found.stack, head, sources, model.interpolation, model.ranges)


def test_keras_may_be_asked_early(unknown, tmp_path, runs):
    found = begin(unknown).result()
    assert 0 <= found < 1e-3
    assert begin(unknown) is None
    runs.clear()
    assert unknown.save(tmp_path / "m").parity["keras"] == found
    assert runs == ["model.xml"]


def test_nothing_is_begun_on_images_that_cannot_be_read(unknown):
    assert begin(unknown, [b"<html>"]) is None


def test_what_keras_refuses_early_is_said_when_the_model_is_saved(unknown, tmp_path, monkeypatch):
    def refuse(*_):
        raise NetworkError("the process that runs Keras broke: so it is")

    monkeypatch.setattr(keras_file, "reopen_keras_file", refuse)
    early = check_with(unknown, checking=begin(unknown))
    found = early.save(tmp_path / "m")
    assert found.warnings == (
        "whether Keras opens model.keras could not be checked: the process that runs Keras broke: "
        "so it is",
    )
    assert "keras" not in found.parity
    assert load_model(tmp_path / "m").classes == unknown.model.classes


def test_a_full_disk_in_the_early_check_costs_nothing(unknown, tmp_path, monkeypatch):
    def fill(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(keras_file, "write_keras_file", fill)
        early = check_with(unknown, checking=begin(unknown))
        with pytest.raises(OSError, match="No space"):
            early.checks.checking.result()
    assert early.save(tmp_path / "m").parity["keras"] < 1e-4


def test_a_keras_file_that_computes_something_else_is_a_warning(unknown, tmp_path, monkeypatch):
    run = keras_file.run_file

    def spoil(path, *rest, **named):
        found = run(path, *rest, **named)
        return found + (path.name == "reopened.xml")

    monkeypatch.setattr(keras_file, "run_file", spoil)
    found = unknown.save(tmp_path / "m")
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith(
        "model.keras does not say what OpenVINO computes in f32: a logit differs by "
    )
    # It is looked at again the next time.
    assert not list(unknown.stack.folder.glob("parity-*keras*"))
    assert found.parity["keras"] > 1e-4


def test_training_for_a_model_begins_the_check(photos, small, tmp_path, runs):
    store = tmp_path / "store"
    found = pipeline.train(Dataset.from_folder(photos), small, store, will_save=True)
    found.checks.checking.result()
    assert len(list(found.stack.folder.glob("parity-1-keras-*.json"))) == 1
    runs.clear()
    found.save(tmp_path / "m")
    assert runs == ["model.xml"]
    again = pipeline.train(Dataset.from_folder(photos), small, store, will_save=True)
    assert again.checks.checking is None


def test_a_store_that_cannot_be_written_to_costs_another_run(unknown, tmp_path, monkeypatch, runs):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(records, "write_file", refuse)
    for _ in range(2):
        runs.clear()
        assert max(unknown.save(tmp_path / "m").parity.values()) < 1e-4
        assert runs == ["model.xml", "model.xml", "reopened.xml"]


# Keras takes its time, and somebody presses Ctrl-C.
DRIVER = """
import sys, time
from topwork.models.checks import keras_file
from topwork.recipes import train as pipeline
from topwork.cli import run
def wait(path, folder):
    print(path, flush=True)
    time.sleep(60)
def interrupt(*_):
    sys.stdin.readline()
    raise KeyboardInterrupt
keras_file.reopen_keras_file = wait
pipeline.prepare_examples = interrupt
run()
"""


def test_what_is_interrupted_leaves_nothing_in_the_temporary_folder(photos, tmp_path):
    (tmp_path / "temporary").mkdir()
    command = [
        sys.executable, "-c", DRIVER, "train", photos, "--image-size", "32", "--epochs", "1",
        "--store", tmp_path / "store", "-o", tmp_path / "m",
    ]  # fmt: skip
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        text=True,
    ) as process:
        shown = (line.strip() for line in process.stdout)
        path = Path(next(line for line in shown if line.endswith("model.keras")))
        assert path.is_file()
        assert path.is_relative_to(tmp_path / "temporary")
        started = time.monotonic()
        process.stdin.close()
        assert process.wait(30) == 130
        assert time.monotonic() - started < 30
    assert list((tmp_path / "temporary").iterdir()) == []


# Somebody presses Ctrl-C while the model is written.
SAVING = """
import os, signal
from topwork.recipes import save as saving
from topwork.cli import run
save_model = saving.save_model
def save(*given):
    os.kill(os.getpid(), signal.SIGINT)
    return save_model(*given)
saving.save_model = save
run()
"""


def test_an_interrupt_while_a_model_is_written_waits_until_it_is(trained, photos, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [
        sys.executable, "-c", SAVING, "train", photos, "--image-size", "32", "--epochs", "1",
        "--store", tmp_path / "store", "-o", tmp_path / "m",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
        check=False,
    )
    assert done.returncode == 130
    assert "Model saved in" in done.stdout
    assert "without its curves and its report" in " ".join(done.stdout.split())
    assert done.stderr.strip().endswith(
        "topwork: interrupted; finished vectors are kept, run again to go on"
    )
    assert load_model(tmp_path / "m").classes == trained.model.classes
    # There was no time to compare it.
    assert json.loads((tmp_path / "m" / "model.json").read_text())["agreement"] is None
    assert list(temporary.iterdir()) == []


def check_precision(result, sample, precision=Precision.BF16):
    model = result.model
    checker = checking.ModelChecker(
        result.stack, model.head, model.task, sample, model.interpolation, model.ranges, precision
    )
    return checker.compare_precision(sample), checker.warnings


@pytest.mark.parametrize("changed", [0, 1, 5])
def test_how_many_answers_a_precision_changes_is_measured_and_said(unknown, changed):
    sample, head = unknown.checks.sample, unknown.model.head
    answers = head.logits(sample.vectors).argmax(axis=1)
    vectors = sample.vectors.copy()
    for row in range(changed):
        # As if reduced precision had made of it an image of another class.
        vectors[row] = vectors[np.flatnonzero(answers != answers[row])[0]]
    sample = replace(sample, vectors=vectors)
    found, warnings = check_precision(unknown, sample)
    wanted = int((head.logits(vectors).argmax(axis=1) != answers).sum())
    count = len(answers)
    assert found.images == count and found.share == pytest.approx(1 - wanted / count)
    said = f"bf16 instead of f32 changes the answer to {wanted} of {count} images ("
    assert found.say_change().startswith(said)
    assert warnings == ([] if not wanted else [f"{found.say_change()}; --precision f32 is exact"])


def test_exact_vectors_are_computed_once_for_networks_and_images(unknown, tmp_path):
    sample = unknown.checks.sample
    first, _ = check_precision(unknown, sample)
    gone = replace(sample, sources=(tmp_path / "gone.png",) * len(sample.sources))
    assert check_precision(unknown, gone) == (first, [])
    assert first.difference < 1e-4  # they were trained in f32


def test_f32_changes_nothing_and_is_not_measured(unknown, monkeypatch):
    monkeypatch.setattr(checking, "run_networks", None)
    assert check_precision(unknown, unknown.checks.sample, Precision.F32) == (None, [])


@pytest.mark.parametrize("gone", [True, False])
def test_what_a_precision_changes_never_costs_a_model(unknown, tmp_path, monkeypatch, gone):
    sample = unknown.checks.sample
    if gone:
        sample = replace(sample, sources=(tmp_path / "gone.png",) * len(sample.sources))
    else:
        monkeypatch.setattr(checking, "run_networks", lambda *_: 1 / 0)
    found, (warning,) = check_precision(unknown, sample)
    assert found is None
    assert ("could not be compared" if gone else "what bf16 changes could not be") in warning


@pytest.mark.parametrize(
    ("task", "wanted", "found", "said"),
    [
        (
            Task.CLASSES, [[2, 1], [0, 1]], [[2, 1], [2, 1]],
            "bf16 instead of f32 changes the answer to 1 of 2 images (50.0%, 95 % interval 9.5% to "
            "90.5%); a logit moves by 100.0% of the largest at most",
        ),
        (
            Task.LABELS, [[2, -1], [2, 1]], [[2, -1], [2, -1]],
            "bf16 instead of f32 changes for no label more than 50.0% of the decisions about 2 "
            "images; a logit moves by 100.0% of the largest at most",
        ),
        (
            Task.NUMBER, [[2000], [2010]], [[2000], [2008]],
            "bf16 instead of f32 moves 50.0% of the numbers of 2 images by more than a twentieth "
            "of their range, and one by 20.0% of it at most",
        ),
    ],
)  # fmt: skip
def test_a_change_is_said_in_words_for_each_task(task, wanted, found, said):
    arrays = (np.array(values, np.float32) for values in (found, wanted))
    assert compare_logits(task, *arrays, "bf16").say_change() == said
