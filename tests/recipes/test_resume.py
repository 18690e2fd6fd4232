"""Runs that are killed at any moment, and finished."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import COLOURS, encode, fill, picture

from topwork.models.folder import load_model

pytestmark = pytest.mark.system

# A slow machine that writes small parts, so that kills land between and within them.
DRIVER = """
import sys, time
from topwork.vectors import embed
from topwork.vectors.embed_job import Pace
from topwork.bases.engines import OpenVINOEngine
embed.embed_images.__kwdefaults__["pace"] = Pace(part_vectors=16)
run = OpenVINOEngine.run
def run_slowly(engine, images):
    for result in run(engine, images):
        time.sleep(0.008)
        yield result
OpenVINOEngine.run = run_slowly
from topwork.cli import main
sys.exit(main())
"""


class Runs:
    """Runs of the same training in one store."""

    def __init__(self, folder, data, options=()):
        self.store, self.model, self.data = folder / "store", folder / "the.model", data
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True)
        self.arguments = ["train", data, "--json", "-o", self.model, "--store", self.store]
        self.arguments += ["--image-size", "32", "--learning-rate", "0.01", *options]
        self.groups = []
        self.parts = {}

    def start(self):
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *self.arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"TMPDIR": str(self.scratch)},
            start_new_session=True,
        )
        self.groups.append(process.pid)
        return process

    def kill(self, process, group):
        """Kills a run, alone or with the process that builds the base, and looks what is left.

        Returns whether it was killed, and had not just finished.
        """
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
        parts = self.read_parts()
        assert parts.items() >= self.parts.items()
        self.parts = parts
        self.vectors()
        if self.model.exists():
            load_model(self.model)
        return process.returncode != 0

    def finish(self):
        output, errors = self.start().communicate()
        assert output, errors.decode()
        return json.loads(output)

    def read_parts(self):
        paths = self.store.glob("vectors/*/part-*.parquet")
        return {path.name: path.read_bytes() for path in paths}

    def vectors(self):
        """All vectors by space and image; each must be there once, in a part that is whole."""
        found = {}
        for path in self.store.glob("vectors/*/part-*.parquet"):
            table = pq.read_table(path)
            for image, vector in zip(*(c.to_pylist() for c in table.columns), strict=True):
                key = path.parent.name, image
                assert key not in found
                found[key] = np.array(vector, np.float32)
        assert not list(self.store.rglob("*.damaged"))
        return found

    def clean(self):
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


@pytest.fixture
def make_runs(tmp_path):
    made = []

    def make(name, data, options=()):
        made.append(Runs(tmp_path / name, data, options))
        return made[-1]

    yield make
    for runs in made:
        runs.clean()


def make_data(folder, images):
    """Colours that overlap, so that the curve is not flat."""
    for n, (name, colour) in enumerate(COLOURS.items()):
        fill(folder / name, images - 20, colour, start=n * images)
        for k in range(20):
            path = folder / name / f"odd-{k}.png"
            path.write_bytes(encode(picture((90, 90, 90), seed=10_000 + n * 100 + k)))
    return folder


def check_same(disturbed, undisturbed, result, wanted, before):
    """Compares runs that were disturbed, and then finished, with one that was not."""
    assert result["images"] == {
        "embedded": wanted["images"]["embedded"] - before, "reused": before, "skipped": 0
    }  # fmt: skip
    for key in ("classes", "history", "best_epoch", "overfitting", "validation"):
        assert result[key] == wanted[key]
    assert disturbed.read_parts().items() >= disturbed.parts.items()
    found, vectors = disturbed.vectors(), undisturbed.vectors()
    assert found.keys() == vectors.keys()
    assert all(np.array_equal(found[key], vectors[key]) for key in found)
    for name in ("head.safetensors", "history.json", "images.parquet", "model.bin"):
        assert (disturbed.model / name).read_bytes() == (undisturbed.model / name).read_bytes()
    source = next(disturbed.data.rglob("*.png"))
    answers = [load_model(runs.model).predict([source]).logits for runs in (disturbed, undisturbed)]
    assert np.array_equal(*answers)


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def test_a_run_killed_among_its_vectors_is_finished_by_the_next(make_runs, tmp_path, trained, run):
    data = make_data(tmp_path / "data", 60)
    undisturbed, disturbed = make_runs("undisturbed", data), make_runs("disturbed", data)

    def finish(runs):
        code, output, errors = run(*runs.arguments)
        assert code == 0, errors
        return json.loads(output)

    # Building the base is disturbed in the slow test.
    shutil.copytree(trained.stack.folder.parent, undisturbed.store / "bases")
    wanted = finish(undisturbed)
    shutil.copytree(undisturbed.store / "bases", disturbed.store / "bases")
    chance = random.Random(1)
    for more, group in ((1, True), (3, False), (3, True)):
        process = disturbed.start()
        enough = len(disturbed.parts) + more
        wait_for(lambda: len(disturbed.read_parts()) >= enough, process)  # noqa: B023
        time.sleep(chance.uniform(0, 0.1))
        assert disturbed.kill(process, group)
    before = len(disturbed.vectors())
    assert 7 * 16 <= before < 180
    check_same(disturbed, undisturbed, finish(disturbed), wanted, before)


@pytest.mark.slow
def test_a_run_killed_while_it_saves_leaves_the_older_model_or_none(make_runs, tmp_path):
    runs = make_runs("runs", make_data(tmp_path / "data", 30))
    chance = random.Random(0)
    for older in (False, False, True, True, True):
        if older and not runs.model.exists():
            runs.finish()
        content = {p.name: p.read_bytes() for p in runs.model.glob("*")}
        process = runs.start()
        wait_for(lambda: list(runs.model.parent.glob(".the.model-*")), process)
        time.sleep(chance.uniform(0, 0.5))
        assert runs.kill(process, group=True)
        assert {p.name: p.read_bytes() for p in runs.model.glob("*")} == content
        for junk in runs.model.parent.glob(".the.model-*"):
            shutil.rmtree(junk)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "options"), [(0, ()), (1, ("--views", "1", "--flip"))])
def test_a_run_killed_twenty_times_at_random_is_finished_by_the_next(
    make_runs, tmp_path, seed, options
):
    data = make_data(tmp_path / "data", 200)
    undisturbed = make_runs("undisturbed", data, options)
    disturbed = make_runs("disturbed", data, options)
    started = time.monotonic()
    wanted = undisturbed.finish()
    longest_s = time.monotonic() - started
    chance = random.Random(seed)
    kills = 0
    while kills < 20:
        process = disturbed.start()
        started = time.monotonic()
        try:
            process.communicate(timeout=chance.uniform(0, longest_s))
        except subprocess.TimeoutExpired:
            kills += disturbed.kill(process, group=chance.random() < 0.5)
        else:
            # The vectors are there, and it takes less time from now on.
            longest_s = min(longest_s, time.monotonic() - started)
    before = len(disturbed.vectors())
    check_same(disturbed, undisturbed, disturbed.finish(), wanted, before)
