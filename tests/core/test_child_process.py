"""The child processes, how their end reaches the parent, and how the parent's reaches them."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from topwork.core import child_process
from topwork.core.child_process import ask_child, ask_keras
from topwork.core.errors import ModelError, NetworkError, WeightsError

pytestmark = pytest.mark.system

WAIT_S = 30
Popen = subprocess.Popen

# Children of their own, in place of the modules that import Keras.
START = "from topwork.core.child_process import receive, reply, watch_parent; watch_parent();"
SLEEP = f"{START} import time; receive(); print('begun', flush=True); time.sleep(600)"


@pytest.fixture
def runs(monkeypatch):
    """Has children run some code instead of their module; returns what was started."""

    def run_instead(code):
        started = []

        def start(command, **options):
            process = Popen([sys.executable, "-c", code], **options)
            started.append((process, options))
            return process

        monkeypatch.setattr(child_process.subprocess, "Popen", start)
        return started

    return run_instead


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder in which this process' temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_an_error_of_the_child_comes_back_as_it_was(tmp_path):
    path = tmp_path / "bad.h5"
    path.write_text("no weights")
    request = {"name": "mobilenet", "image_size": 32, "weights": str(path), "seed": None}
    with pytest.raises(WeightsError, match=r"bad\.h5 is not a file of Keras weights"):
        ask_keras("build", {**request, "folder": str(tmp_path)})


def test_a_child_that_breaks_is_an_error_with_its_last_line():
    with pytest.raises(NetworkError, match=r"the process that runs Keras broke: .*nonsense"):
        ask_keras("nonsense", {})


def test_a_task_that_fails_is_an_error_with_its_last_line(tmp_path):
    pytest.importorskip("onnx", reason="needs the extra export")
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match=r"run_onnx broke: .*bad\.onnx"):
        ask_child("run_onnx", {"path": str(tmp_path / "bad.onnx"), "pixels": "uint8"})


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; sys.exit(3)", "broke: exit code 3"),
        ("import os; os.abort()", "broke: exit code -6"),
        ("import sys; print('ab\\ncd', file=sys.stderr)", "broke: cd"),
        ("import sys; sys.stderr.buffer.write(b'\\xff\\n')", "broke: \N{REPLACEMENT CHARACTER}"),
        ("import sys; sys.stderr.write('ab\\n' * 10**6 + 'cd')", "broke: cd"),
    ],
)
def test_a_child_that_ends_without_an_answer_is_an_error(runs, scratch, code, says):
    runs(code)
    with pytest.raises(NetworkError, match=says):
        ask_keras("build", {"long": "x" * 10**6})
    with pytest.raises(ModelError, match=f"the process that does run_onnx {says}"):
        ask_child("run_onnx", {})
    assert not [*scratch.iterdir()]


def test_what_is_asked_arrives_and_what_is_answered_comes_back(runs, scratch):
    runs(f"{START} content, arrays = receive(); reply(content, {{}}, {{'twice': 2 * arrays['a']}})")
    found = ask_child("double", {"ä": "\n"}, {"a": np.arange(5)})
    assert {key: [*array] for key, array in found.items()} == {"twice": [0, 2, 4, 6, 8]}
    runs(f"{START} content, _ = receive(); reply(content, {{'result': content['request']}})")
    assert ask_keras("repeat", {"ä": ["\n", None, 0.5]}) == {"ä": ["\n", None, 0.5]}


def test_what_a_child_leaves_in_the_temporary_folder_goes_with_it(runs, scratch):
    runs(
        f"{START} import tempfile; content, _ = receive(); left = tempfile.mkdtemp();"
        "open(left + '/large', 'w').close(); reply(content, {'result': {'left': left}})"
    )
    left = Path(ask_keras("leave", {})["left"])
    assert left.parent.parent == scratch
    assert not [*scratch.iterdir()]


def test_an_interrupt_while_waiting_ends_the_child(runs, scratch):
    """And what it has started: it leads a process group."""
    more = "import subprocess; subprocess.Popen(['sleep', '600']);"
    started = runs(START + more + SLEEP.removeprefix(START))
    groups = []

    def interrupt():
        until(lambda: started and len(find_group(started[0][0].pid)) == 2)
        groups.append(find_group(started[0][0].pid))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        ask_keras("build", {})
    thread.join()
    (process, _) = started[0]
    assert process.returncode == -signal.SIGKILL
    until(lambda: not [other for other in groups[0] if is_alive(other)])
    assert not child_process._living
    assert not [*scratch.iterdir()]


def test_a_child_is_in_a_group_of_its_own(runs):
    started = runs(f"{START} content, _ = receive(); reply(content, {{'result': {{}}}})")
    ask_keras("build", {})
    assert started[0][1]["process_group"] == 0


PARENT = """
import subprocess, sys
from topwork.core import child_process
real = subprocess.Popen
def start(command, **options):
    process = real([sys.executable, "-c", {code!r}], **options)
    print(process.pid, flush=True)
    return process
child_process.subprocess.Popen = start
child_process.ask_keras("build", {{}})
"""


@pytest.mark.parametrize("code", [SLEEP, f"{START} import time; time.sleep(600)"])
def test_a_child_ends_with_its_parent_however_that_ends(code):
    """Also one that has not read its request: it may import for long."""
    command = [sys.executable, "-c", PARENT.format(code=code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(1)
        assert is_alive(child)
        parent.kill()
        began = time.monotonic()
        until(lambda: not is_alive(child))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "module",
    ["bases.child", "bases.engines.keras_child", "bases.quantizing", "models.export.child"],
)
def test_every_module_that_answers_watches_its_parent(module):
    """It ends when nothing more can come, and needs not to have been asked."""
    if module == "bases.quantizing":
        pytest.importorskip("nncf", reason="needs the extra int8")
    process = subprocess.Popen(
        [sys.executable, "-m", f"topwork.{module}"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"KERAS_BACKEND": "openvino"},
    )
    _, errors = process.communicate(b"", timeout=WAIT_S)
    assert (process.returncode, errors) == (1, b"")


def test_the_parent_imports_none_of_it():
    code = (
        "import sys, topwork.models.export; "
        "print({'tensorflow', 'onnx', 'onnxruntime', 'nncf', 'ai_edge_litert', 'keras', 'jax'}"
        " & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_users_own_keras_settings_change_nothing(tmp_path, monkeypatch):
    from topwork.bases import find_weights, get_base, prepare

    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "keras.json").write_text(
        '{"floatx": "float16", "epsilon": 0.5, "backend": "torch",'
        ' "image_data_format": "channels_first"}'
    )
    spec = get_base("efficientnet-lite0")
    network = prepare(spec, 32, find_weights(spec), tmp_path / "store")
    assert network.feature_shape == (1, 1, 1280)
    config = (network.folder / "config.json").read_text()
    assert "channels_first" not in config
    assert "float16" not in config


def until(happened):
    end = time.monotonic() + WAIT_S
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def find_group(number):
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == number and is_alive(process):
                found.append(process)
        except (OSError, psutil.NoSuchProcess):
            continue
    return found


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
