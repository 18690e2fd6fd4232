"""No compiled library is loaded beside a thread of ours: see `topwork.core.warm_up`."""

import gc
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
import weakref
from pathlib import Path

import pytest
from pictures import encode, picture

import topwork
from topwork.core import warm_up
from topwork.core.config import HeadKind
from topwork.core.task import Task

pytestmark = pytest.mark.system

WATCHED = Path(__file__).parents[1] / "watched"
SOURCE = Path(topwork.__file__).parents[1]

# Threads beside which a library may be loaded, by a function that they are in.
HARMLESS = {
    # Draws progress bars, in Python alone: it neither loads libraries nor calls those that do.
    "rich.live.run",
    # Wait for a process, without the GIL.
    "subprocess.communicate",
    "subprocess.wait",
    # In every child process, waits for a line of its parent or its end, without the GIL.
    "topwork.core.child_process._read_or_end",
    # Waits for a signal, without the GIL, and loads nothing when one comes.
    "topwork.core.interrupts._read",
}
# What threadpoolctl asks for is loaded already: it gets a handle, and nothing is run.
HANDLES = "threadpoolctl.get_cdll"

TRAIN = ("train", "{data}", "-o", "{here}/made.model", "--image-size=32")
COMMANDS = {
    "train": TRAIN,
    "train-rate": (*TRAIN, "--learning-rate=0.01"),
    "train-logistic": (*TRAIN, "--head=logistic"),
    "train-undivided": ("train", "{flat}", *TRAIN[2:], "--learning-rate=0.01"),
    "tune": ("tune", "{data}", *TRAIN[2:], "--budget=8"),
    "evaluate": ("evaluate", "{model}", "{data}"),
    "predict": ("predict", "{model}", "{image}"),
    "predict-many": ("predict", "{model}", "{data}/**/*.png"),
    "inspect": ("inspect", "{data}", "-o", "{here}/page.html", "--image-size=32"),
    "embed": ("embed", "{data}", "-o", "{here}/vectors.parquet", "--image-size=32"),
    "neighbours": ("neighbours", "{model}", "{image}"),
    "explain": ("explain", "{model}", "{image}", "-o", "{here}/maps.png"),
    "report": ("report", "{model}", "{data}", "-o", "{here}/page.html"),
    "compare": ("compare", "{model}", "{other}", "--data", "{data}"),
    "export-numpy": ("export", "{model}", "--format=numpy", "--data={data}", "-o", "{here}/out"),
    "export-openvino": (
        "export", "{model}", "--format=openvino", "--data={data}", "-o", "{here}/out",
    ),
    "export-keras": ("export", "{model}", "--format=keras", "--data={data}", "-o", "{here}/out"),
    "store": ("store", "--verify"),
}  # fmt: skip
INT8 = (*TRAIN, "--precision=int8", "--learning-rate=0.01")

FIT = """
import sys, topwork
data, image, path = sys.argv[1:]
classifier = topwork.Classifier(image_size=32, learning_rate=0.01)
classifier.fit(topwork.Dataset.from_folder(data)).save(path)
classifier.predict([image])
"""


@pytest.fixture
def watched(tmp_path, store):
    """The environment of a process whose imports are written to a file, and the file."""
    path = os.pathsep.join([str(WATCHED), str(SOURCE)])
    log = tmp_path / "imports.jsonl"
    names = {"PYTHONPATH": path, "WATCHED_IMPORTS": str(log), "TOPWORK_STORE": str(store)}
    return {**os.environ, **names}, log


def find_faults(log):
    """Says which libraries were loaded in a thread, or beside one that is not harmless."""
    lines = list(map(json.loads, log.read_text().splitlines()))
    assert any(line["module"] == "numpy._core._multiarray_umath" for line in lines)
    faults = []
    for line in lines:
        beside = [found for found in line["beside"] if not HARMLESS & {*found["stack"]}]
        if HANDLES not in line["stack"] and (line["thread"] != "main" or beside):
            others = ", ".join(f"{found['name']} in {found['stack'][0]}" for found in beside)
            where = next((name for name in line["stack"] if name.startswith("topwork.")), "?")
            faults.append(f"{line['module']} for {where}, {line['thread']} beside {others or '-'}")
    return faults


def check(arguments, watched):
    environment, log = watched
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert find_faults(log) == []


@pytest.fixture
def fill_in(photos, flat, saved, stacked_saved, tmp_path):
    image = next((photos / "test" / "red").iterdir())
    places = {"data": photos, "image": image, "flat": flat, "here": tmp_path}
    places |= {"model": saved, "other": stacked_saved}
    return lambda words: [word.format(**places) for word in words]


@pytest.mark.parametrize("command", COMMANDS)
def test_libraries_are_loaded_before_threads_start(command, fill_in, watched):
    check(["-m", "topwork", *fill_in(COMMANDS[command])], watched)
    if command.startswith(("train", "tune")):
        # Its charts are our own.
        assert "matplotlib" not in watched[1].read_text()


@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="int8 needs NNCF")
def test_int8_loads_libraries_before_threads_start(fill_in, watched):
    check(["-m", "topwork", *fill_in(INT8)], watched)


def test_a_network_is_built_while_libraries_are_loaded(fill_in, watched, tmp_path):
    environment, log = watched
    environment["TOPWORK_STORE"] = str(tmp_path / "store")
    check(["-m", "topwork", *fill_in((*TRAIN, "--learning-rate=0.01"))], (environment, log))


def test_keras_engine_loads_libraries_before_threads_start(fill_in, watched, tmp_path):
    environment, log = watched
    words = ("embed", "{data}", "-o", "{here}/vectors.parquet", "--image-size=32")
    shown = fill_in((*words, "--engine=keras"))
    check(["-m", "topwork", *shown], ({**environment, "JAX_PLATFORMS": "cpu"}, log))


def test_fitting_in_python_loads_libraries_before_threads_start(fill_in, watched):
    words = ("{data}", "{image}", "{here}/made.model")
    check(["-c", FIT, *fill_in(words)], watched)


def make_request(url):
    header = b'--border\r\nContent-Disposition: form-data; name=image; filename="a.png"\r\n\r\n'
    body = header + encode(picture()) + b"\r\n--border--\r\n"
    kind = "multipart/form-data; boundary=border"
    return urllib.request.Request(url, body, {"Content-Type": kind})


def test_serving_loads_libraries_before_threads_start(saved, watched):
    pytest.importorskip("fastapi", reason="serving needs the extra serve")
    environment, log = watched
    command = [sys.executable, "-m", "topwork", "serve", str(saved), "--port=0", "--no-access-log"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        said = iter(server.stderr.readline, "")
        url = next(found[1] for line in said if (found := re.search(r"(http://\S+)", line)))
        for place in ("predict?neighbours=2", "explain"):
            with urllib.request.urlopen(make_request(f"{url}/{place}"), timeout=60) as answer:
                assert answer.status == 200
        server.send_signal(signal.SIGINT)
    assert server.returncode == 0
    assert find_faults(log) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "command, runs", [("train", 20), ("predict", 5), ("export", 5), ("inspect", 5), ("serve", 5)]
)
def test_it_never_hangs_under_stress(command, runs):
    script = Path(__file__).parents[2] / "benchmarks" / "stress.py"
    arguments = [sys.executable, str(script), command, f"--runs={runs}"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_missing_package_is_no_error(monkeypatch):
    warm_up._load.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    warm_up.decoding()
    warm_up._load.cache_clear()


def test_garbage_is_collected_again_only_where_it_was_before():
    assert gc.isenabled()
    with warm_up._without_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with warm_up._without_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_only_what_a_training_needs_is_imported(watched):
    code = "import sys; from topwork.core import warm_up; from topwork.core.task import Task\n"
    code += "from topwork.core.config import HeadKind\n"
    code += "warm_up.training(HeadKind.LOGISTIC, task=Task.CLASSES, folds=False, "
    code += "sketches=False)\nassert 'jax' not in sys.modules\nassert 'h5py' not in sys.modules\n"
    code += "warm_up.saving()\nassert 'h5py' in sys.modules\n"
    code += "assert 'matplotlib' not in sys.modules"
    check(["-c", code], watched)


def test_a_training_on_folds_imports_no_scikit_learn(watched):
    """It imports pandas, where that is installed, and all of SciPy: a second or so."""
    code = "import sys; import numpy as np; from topwork.core import warm_up\n"
    code += "from topwork.core.task import Task; from topwork.core.config import HeadKind\n"
    code += "import topwork.recipes.train; from topwork.data.splits import make_folds\n"
    code += "warm_up.training(HeadKind.DENSE, task=Task.CLASSES, folds=True, "
    code += "sketches=False)\nwarm_up.saving()\n"
    code += "assert len(make_folds(np.arange(20) % 3, None, 4, 0)) == 4\n"
    code += "assert not {'matplotlib', 'pandas', 'scipy.sparse', 'scipy.stats', 'sklearn'} & "
    code += "{*sys.modules}"
    check(["-c", code], watched)


def test_openvino_is_given_an_array_before_threads_can_do_so_at_the_same_time(watched):
    code = "import sys, threading; sys.modules['openvino_telemetry'] = None\n"
    code += "import openvino; from topwork.core import warm_up; given = []\n"
    code += "make = openvino.Tensor\n"
    code += "openvino.Tensor = lambda a: given.append(threading.current_thread()) or make(a)\n"
    code += "warm_up.running_networks(); warm_up.running_networks()\n"
    code += "assert given == [threading.main_thread()]"
    check(["-c", code], watched)


def test_blas_is_looked_for_once():
    warm_up.training(HeadKind.LOGISTIC, task=Task.NUMBER, folds=True, sketches=True)
    assert warm_up.blas() is warm_up.blas()


def test_libraries_that_come_late_wait_for_threads_that_run_beside(monkeypatch):
    done = []
    monkeypatch.setattr(warm_up, "_load", lambda *names: done.append(names))
    release = threading.Event()
    begun = warm_up.begin_beside(lambda: (release.wait(60), done.append("beside")))
    threading.Timer(0.1, release.set).start()
    warm_up.registering()
    assert done == ["beside", ("scipy.fft", "scipy.ndimage")]
    assert begun.done()


def test_what_threads_found_is_not_kept():
    class Large:
        pass

    begun = warm_up.begin_beside(Large)
    kept = weakref.ref(begun.result())
    del begun
    gc.collect()
    assert kept() is None
