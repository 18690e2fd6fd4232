import json
import os
import subprocess
import sys

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from topwork.bases.engines import compiled
from topwork.bases.engines.compiled import Compiled


class Network:
    """What a compiled network offers."""

    def create_infer_request(self):
        return Network()


def test_a_network_is_compiled_once_in_each_process(monkeypatch):
    made = []
    network = Compiled(lambda: made.append(Network()) or made[-1])
    assert network.get() is network.get() is made[0]
    for process in (7, 7, 8):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        assert network.get() is made[-1]
    assert len(made) == 3


def test_what_was_used_when_a_process_forked_is_never_dropped():
    network = Compiled(Network)
    request = network.open_request()
    before = [sys.getrefcount(item) for item in (network.get(), request)]
    compiled._keep()
    assert [sys.getrefcount(item) for item in (network.get(), request)] == [n + 1 for n in before]
    assert not compiled._used
    other = Compiled(Network)
    assert len(compiled._used) == 1
    del other
    assert not compiled._used


SIGNALLED = """
import gc, signal, sys, threading
from pathlib import Path
import numpy as np
from topwork.bases.engines import OpenVINOEngine
from topwork.core.config import Precision

kept = [OpenVINOEngine(Path(sys.argv[1]), 4, Precision.F32)]
kept[0].run_all(np.zeros((4, 4, 4, 3), np.uint8))

def drop():
    kept.clear()
    gc.collect()

thread = threading.Thread(target=drop)
thread.start()
thread.join()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""


def test_a_signal_is_handled_after_another_thread_dropped_the_networks(tmp_path):
    image = ops.parameter([-1, 4, 4, 3], np.float32)
    model = openvino.Model([ops.reduce_mean(image, np.array([1, 2]))], [image])
    openvino.save_model(model, tmp_path / "net.xml")
    command = [sys.executable, "-c", SIGNALLED, str(tmp_path / "net.xml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "handled\n", "")


def test_a_process_has_one_core(monkeypatch):
    first = compiled.open_core()
    assert compiled.open_core() is first
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: -process)
    assert compiled.open_core() is compiled.open_core() is not first
    del compiled._cores[-process]


FORKS = """
import concurrent.futures, gc, json, multiprocessing, os, signal, sys
import numpy as np, topwork
from topwork.models.explain import Explainer
from pathlib import Path

classifier, paths = topwork.load(sys.argv[1]), sys.argv[2:]
explainer = Explainer(classifier.model_)
engine = classifier.model_.engines[0]
pixels = np.zeros((4, 32, 32, 3), np.uint8)

def predict(count):
    return classifier.predict(paths[:count]).tolist()

def explain():
    return explainer.explain(Path(paths[0])).logits.tolist()

def request():
    return run(pixels).tolist()

def in_child(work):
    "What a forked process says that ends as programs do, with all that it has dropped."
    reading, writing = os.pipe()
    if not os.fork():
        signal.alarm(100)
        found = json.dumps(work())
        os.write(writing, found.encode())
        sys.exit(0)
    os.close(writing)
    with open(reading) as file:
        found = json.load(file)
    assert os.wait()[1] == 0
    return found

def drop():
    global running, run
    running = run = None
    gc.collect()

wanted = {"2": predict(2), "12": predict(12), "explain": explain()}
running = engine.run((n, pixels[0]) for n in range(100))
next(running)
run = engine.open_request()
wanted["request"] = request()
found = [
    {"2": in_child(lambda: predict(2)), "12": in_child(lambda: predict(12)),
     "explain": in_child(explain), "request": in_child(request)},
    {"2": in_child(lambda: in_child(lambda: predict(2)))},
    {"12": in_child(lambda: topwork.load(sys.argv[1]).predict(paths).tolist())},
]
in_child(drop)
context = multiprocessing.get_context("fork")
with context.Pool(2) as pool:
    found.append(dict(zip(("2", "12"), pool.map(predict, (2, 12)))))
with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
    found.append(dict(zip(("2", "12"), pool.map(predict, (2, 12)))))
found.append({"12": predict(12)})
print(json.dumps([wanted, *found]))
"""


@pytest.mark.system
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_forked_processes_use_a_model_that_their_parent_used(saved, photos):
    paths = sorted(map(str, photos.rglob("*.png")))[:12]
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(saved), *paths],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    wanted, *found = json.loads(done.stdout)
    for said in found:
        for name, value in said.items():
            assert value == wanted[name], name
