import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from topwork import bundle, parity, pipeline
from topwork.bases import read_openvino_head, write_openvino_file
from topwork.dataset import Dataset
from topwork.errors import ModelError, NetworkError
from topwork.heads import Dense, init_head
from topwork.parity import Samples, begin_keras_check, check_keras

REFUSED = "file does not predict what was trained"


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
    names, run = [], parity.run_file

    def spy(path, *rest, **named):
        names.append(path.name)
        return run(path, *rest, **named)

    monkeypatch.setattr(parity, "run_file", spy)
    return names


def test_files_are_run_the_first_time_that_networks_are_saved(unknown, tmp_path, runs):
    first = unknown.save(tmp_path / "first")
    assert runs == ["model.xml", "model.xml", "reopened.xml"]
    assert 0 <= max(first.values()) < 1e-3
    runs.clear()
    second = unknown.save(tmp_path / "second")
    assert runs == []
    assert second["keras"] == first["keras"]
    assert 0 <= second["openvino"] <= first["openvino"]


@pytest.mark.parametrize("content", ["", "[]", '{"difference": null}'])
def test_a_record_that_is_damaged_is_none(unknown, tmp_path, runs, content):
    unknown.save(tmp_path / "first")
    records = sorted(unknown.stack.folder.glob("parity-*"))
    assert len(records) == 2
    for path in records:
        path.write_text(content)
    runs.clear()
    unknown.save(tmp_path / "second")
    assert runs == ["model.xml", "model.xml", "reopened.xml"]
    assert all(json.loads(path.read_text())["difference"] < 1e-3 for path in records)


@pytest.mark.parametrize("name", ["openvino", "keras"])
def test_a_file_with_another_head_is_refused_though_its_networks_are_known(
    trained, saved, tmp_path, monkeypatch, name
):
    write = getattr(bundle, f"write_{name}_file")

    def change(networks, layers, path):
        (layer,) = layers
        kernel = layer.kernel.copy()
        kernel[0, 0] = np.nextafter(kernel[0, 0], 1, dtype=np.float32)
        write(networks, (Dense(kernel, layer.bias),), path)

    monkeypatch.setattr(bundle, f"write_{name}_file", change)
    with pytest.raises(ModelError, match=f"the {name} {REFUSED}"):
        trained.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_networks_that_see_something_else_than_was_stored_are_refused(trained, saved, tmp_path):
    vectors = np.roll(trained.samples.vectors, 1, axis=0)
    other = replace(trained, samples=Samples(trained.samples.sources, vectors))
    with pytest.raises(ModelError, match=r"what the store says of them: .* with an empty store"):
        other.save(tmp_path / "m")


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
    sources = found.samples.sources if sources is None else sources
    return begin_keras_check(found.stack, head, sources, model.interpolation)


def test_keras_may_be_asked_early(unknown, tmp_path, runs):
    found = begin(unknown).result()
    assert 0 <= found < 1e-3
    assert begin(unknown) is None
    runs.clear()
    assert unknown.save(tmp_path / "m")["keras"] == found
    assert runs == ["model.xml"]


def test_nothing_is_begun_on_images_that_cannot_be_read(unknown):
    assert begin(unknown, [b"<html>"]) is None


def test_what_keras_refuses_early_is_said_when_the_model_is_saved(unknown, tmp_path, monkeypatch):
    def refuse(*_):
        raise NetworkError("the process that runs Keras broke: so it is")

    monkeypatch.setattr(parity, "reopen_keras_file", refuse)
    early = replace(unknown, checking=begin(unknown))
    with pytest.raises(NetworkError, match="so it is"):
        early.save(tmp_path / "m")
    assert list(tmp_path.glob("m*")) == []


def test_a_full_disk_in_the_early_check_costs_nothing(unknown, tmp_path, monkeypatch):
    def fill(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(parity, "write_keras_file", fill)
        early = replace(unknown, checking=begin(unknown))
        with pytest.raises(OSError, match="No space"):
            early.checking.result()
    assert early.save(tmp_path / "m")["keras"] < 1e-3


def test_a_keras_file_that_computes_something_else_is_refused(unknown, monkeypatch):
    monkeypatch.setattr(
        parity, "run_file", lambda path, *_, **__: np.full((8, 3), path.name == "model.xml", float)
    )
    model = unknown.model
    pixels = parity._load(unknown.samples.sources, unknown.stack, model.interpolation)
    with pytest.raises(ModelError, match=f"the keras {REFUSED}"):
        check_keras(unknown.stack, model.head, pixels)
    assert not list(unknown.stack.folder.glob("parity-*"))


def test_training_for_a_model_begins_the_check(photos, small, tmp_path, runs):
    store = tmp_path / "store"
    found = pipeline.train(Dataset.from_folder(photos), small, store, will_save=True)
    found.checking.result()
    assert len(list(found.stack.folder.glob("parity-1-keras.json"))) == 1
    runs.clear()
    found.save(tmp_path / "m")
    assert runs == ["model.xml"]
    again = pipeline.train(Dataset.from_folder(photos), small, store, will_save=True)
    assert again.checking is None


def test_a_store_that_cannot_be_written_to_costs_another_run(unknown, tmp_path, monkeypatch, runs):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(parity, "write_file", refuse)
    for _ in range(2):
        runs.clear()
        assert max(unknown.save(tmp_path / "m").values()) < 1e-3
        assert runs == ["model.xml", "model.xml", "reopened.xml"]


# Keras takes its time, and somebody presses Ctrl-C.
DRIVER = """
import sys, time
from topwork import parity, pipeline
from topwork.cli import run
def wait(path, folder):
    print(path, flush=True)
    time.sleep(60)
def interrupt(*_):
    sys.stdin.readline()
    raise KeyboardInterrupt
parity.reopen_keras_file = wait
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
