"""Several processes that embed the same images into one store."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import encode, picture
from recorder import Recorder
from vectors.test_embed import (
    LENGTH,
    SIZE,
    FakeEngine,
    check_progress,
    embed,
    one_by_one,
    open_store,
    parts,
    refuse_engine,
)
from vectors.test_store import SPACE

from topwork.core.locks import Locks
from topwork.data.dataset import Dataset
from topwork.vectors import embed_job
from topwork.vectors.embed_job import Pace
from topwork.vectors.index import parse_digests
from topwork.vectors.store import VectorStore

pytestmark = pytest.mark.system

# Writes down each image that it runs, and takes its time.
WORKER = """
import sys, time
sys.path.insert(0, "tests")
from pathlib import Path
from topwork.vectors import embed_job
from topwork.data.dataset import Dataset
from topwork.data.hashing import hash_images
from vectors.test_embed import FakeEngine, embed, open_store

# However many cores there are, one must not take everything.
in_threads = embed_job.in_threads
embed_job.in_threads = lambda function, items, *_, **__: in_threads(function, items, 8)
root, log, pause_s = Path(sys.argv[1]), open(sys.argv[2], "a"), float(sys.argv[3])
hashes = []

class Engine(FakeEngine):
    def finish(self, waiting):
        for place, vector in super().finish(waiting):
            time.sleep(pause_s)
            log.write(hashes[place] + "\\n")
            log.flush()
            yield place, vector

dataset = hash_images(Dataset.from_folder(root / "data"), False)
hashes += dataset.hashes
print("ready", flush=True)
sys.stdin.readline()
pace = embed_job.Pace(part_vectors=8, chunk_images=4, poll_s=0.02)
kept, found = embed(dataset, open_store(root), Engine(), pace=pace)
print(len(kept), found.embedded, found.reused)
"""


@pytest.fixture(scope="module")
def images():
    return [encode(picture(seed=n, size=(6, 5))) for n in range(120)]


@pytest.fixture
def folder(tmp_path, images):
    for n, data in enumerate(images):
        path = tmp_path / "data" / "ab"[n % 2] / f"{n:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "data"


@pytest.fixture
def start(tmp_path):
    with ExitStack() as stack:

        def start_worker(name, pause_s=0.004):
            command = [sys.executable, "-c", WORKER, tmp_path, tmp_path / name, str(pause_s)]
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    cwd=Path(__file__).parents[2],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout.readline() == "ready\n"
            return process

        yield start_worker


def release(*processes):
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def finish(process):
    output, _ = process.communicate()
    assert process.returncode == 0
    return [int(word) for word in output.split()]


def logged(path):
    return path.read_text().split() if path.exists() else []


def stored(store):
    return [image for path in parts(store) for image in pq.read_table(path)["image"].to_pylist()]


def test_two_processes_run_each_image_once(folder, tmp_path, start, images):
    workers = [start("first"), start("second")]
    release(*workers)
    results = [finish(worker) for worker in workers]
    ran = [logged(tmp_path / name) for name in ("first", "second")]
    wanted = sorted(sha256(image).hexdigest() for image in images)
    assert sorted(ran[0] + ran[1]) == sorted(stored(open_store(tmp_path))) == wanted
    for result, run in zip(results, ran, strict=True):
        assert result == [120, len(run), 120 - len(run)]
        assert len(run) > 20, "both take part"
    dataset = Dataset.from_folder(folder)
    _, vectors = embed(dataset, open_store(tmp_path), refuse_engine)
    assert np.array_equal(vectors.values, one_by_one(dataset.sources))
    assert not [*(open_store(tmp_path).folder / "claims").iterdir()]


@pytest.mark.parametrize("seed", range(2))
def test_where_one_is_killed_the_other_finishes_everything(folder, tmp_path, start, seed):
    first, second = start("first"), start("second")
    release(first, second)
    enough = random.Random(seed).randrange(3, 40)
    while len(logged(tmp_path / "first")) < enough:
        assert first.poll() is None
        time.sleep(0.001)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept, embedded, reused = finish(second)
    assert kept == embedded + reused == 120
    assert embedded == len(logged(tmp_path / "second"))
    # What the first had run and not yet written is all that was run again.
    ran = logged(tmp_path / "first") + logged(tmp_path / "second")
    assert len({*ran}) == 120
    assert len(ran) - 120 <= 8
    assert sorted(stored(open_store(tmp_path))) == sorted({*ran})
    dataset = Dataset.from_folder(folder)
    _, vectors = embed(dataset, open_store(tmp_path), refuse_engine)
    assert np.array_equal(vectors.values, one_by_one(dataset.sources))


QUICK = Pace(chunk_images=4, poll_s=0.01)


def lock_some(store, hashes, locks):
    """Locks every other chunk of images, and returns their indices."""
    chunks = embed_job.plan(hashes, store, QUICK.chunk_images)[::2]
    for chunk in chunks:
        assert locks.take(chunk.name)
    return np.concatenate([chunk.indices for chunk in chunks])


def test_the_bar_moves_by_what_others_finish(tmp_path, images):
    """And the images whose turn comes last keep their places."""
    dataset = Dataset.from_sources(images)
    hashes = [sha256(image).hexdigest() for image in images]
    store, other, engine, steps = open_store(tmp_path), open_store(tmp_path), FakeEngine(), []
    with Locks(other.locks_folder) as locks:
        places = lock_some(other, hashes, locks)
        mine = len(images) - len(places)

        def hear(progress):
            steps.append(progress)
            # Waiting has begun: what is left comes from the other, in two parts.
            if progress.done in (mine, mine + 5):
                share = places[:5] if progress.done == mine else places[5:]
                values = one_by_one([images[place] for place in share])
                other.write([hashes[place] for place in share], values)

        _, vectors = embed(dataset, store, engine, callback=Recorder(on_run=hear), pace=QUICK)
    assert np.array_equal(vectors.values, one_by_one(images))
    assert (engine.ran, vectors.embedded, vectors.reused) == (mine, mine, len(places))
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert (done[-1], steps[-1].total, steps[-1].reused) == (120, 120, len(places))
    assert mine in done
    assert mine + 5 in done


def test_one_that_says_nothing_is_not_waited_for_for_ever(tmp_path, images):
    pace = replace(QUICK, patience_s=0.05)
    hashes = [sha256(image).hexdigest() for image in images]
    store, engine, steps = open_store(tmp_path), FakeEngine(), []
    with Locks(store.locks_folder) as locks:
        lock_some(store, hashes, locks)
        _, vectors = embed(
            Dataset.from_sources(images),
            store,
            engine,
            callback=Recorder(on_run=steps.append),
            pace=pace,
        )
    assert np.array_equal(vectors.values, one_by_one(images))
    assert engine.ran == 120
    check_progress(steps)


def test_locks_are_released_by_a_run_that_ends_early(tmp_path, images):
    store = open_store(tmp_path)
    with pytest.raises(ZeroDivisionError):
        embed(
            Dataset.from_sources(images),
            store,
            FakeEngine(breaks_at=50, error=ZeroDivisionError),
            pace=QUICK,
        )
    assert not [*store.locks_folder.iterdir()]
    _, vectors = embed(Dataset.from_sources(images), open_store(tmp_path), FakeEngine(), pace=QUICK)
    assert vectors.reused == 50


def test_what_is_written_is_given_back_before_the_end(tmp_path, images):
    pace = replace(QUICK, chunk_images=2, part_vectors=4)
    store, held = open_store(tmp_path), []

    def hear(_):
        held.append(len([*store.folder.glob("claims/*.lock")]))

    callback = Recorder(on_run=hear)
    embed(Dataset.from_sources(images), store, FakeEngine(), callback=callback, pace=pace)
    assert max(held) > 3
    assert held[-2] < 10


def test_chunks_are_cut_at_the_same_images_whatever_is_there(tmp_path, images):
    hashes = [sha256(image).hexdigest() for image in images]
    whole = embed_job.plan(hashes, open_store(tmp_path), QUICK.chunk_images)
    assert np.array_equal(np.concatenate([c.indices for c in whole]), np.arange(120))
    assert len(whole) > 10
    # Without the first images, in front of others, and with some that are there already.
    rest = embed_job.plan(hashes[50:], open_store(tmp_path), QUICK.chunk_images)
    assert {c.name for c in rest[1:]} < {c.name for c in whole}
    store = open_store(tmp_path)
    there = [n for n in range(120) if n % 3]
    store.write([hashes[n] for n in there], np.zeros((len(there), LENGTH), np.float32))
    left = embed_job.plan(hashes, store, QUICK.chunk_images)
    assert {c.name for c in left} <= {c.name for c in whole}
    assert np.array_equal(np.concatenate([c.indices for c in left]), np.arange(0, 120, 3))


def test_of_equal_images_the_first_is_planned(tmp_path):
    hashes = [sha256(b"%d" % (n % 7)).hexdigest() for n in range(30)]
    store = VectorStore(tmp_path, replace(SPACE, image_size=SIZE), LENGTH)
    (planned,) = [np.concatenate([c.indices for c in embed_job.plan(hashes, store)])]
    assert planned.tolist() == list(range(7))
    assert not embed_job.plan([], store)
    assert parse_digests(hashes[:7]).shape == (7, 4)


def test_threads_of_one_process_share_too(tmp_path, images):
    pace = replace(QUICK, part_vectors=8)
    engines, results = [FakeEngine(), FakeEngine()], []

    def run(engine):
        results.append(
            embed(Dataset.from_sources(images), open_store(tmp_path), engine, pace=pace)[1]
        )

    threads = [threading.Thread(target=run, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(engine.ran for engine in engines) == 120
    assert all(np.array_equal(found.values, one_by_one(images)) for found in results)
