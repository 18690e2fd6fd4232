import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from pictures import encode, picture

from topwork.core.errors import SettingsError
from topwork.serve import server
from topwork.serve.server import bind, check_key

pytestmark = pytest.mark.system

IMAGE = encode(picture())
LOAD_FOR_LONG = """
import time
from topwork.serve import registry

def load_model(folder):
    print("loading", flush=True)
    time.sleep(600)

registry.load_model = load_model
from topwork.cli import run
run()
"""


@pytest.fixture
def start(saved):
    """Starts the command in a process; returns it and its address."""
    running = []

    def begin(*options, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "topwork", "serve", saved, "--port", "0", *options],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        running.append(process)
        said = []
        for line in process.stderr:
            said.append(line)
            if "Serving on " in line:
                return process, line.rpartition(" ")[2].strip(), said
        raise AssertionError(said)

    yield begin
    for process in running:
        process.terminate()
        process.wait(60)
        process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_at_a_signal_when_it_has_answered(start, number):
    process, url, _ = start()
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 60) as client:
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        client.sendall((head % len(IMAGE)) + IMAGE[:100])
        time.sleep(0.3)
        process.send_signal(number)
        time.sleep(0.3)
        with pytest.raises(OSError):
            urllib.request.urlopen(url + "/healthz", timeout=5)
        client.sendall(IMAGE[100:])
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        assert process.wait(30) == 0
    assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_while_it_loads(saved, tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD_FOR_LONG, "serve", saved,
         "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert process.stdout.readline() == "loading\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors.startswith("topwork: ") and errors.count("\n") == 1
    assert not [*tmp_path.iterdir()]


def test_it_does_not_wait_for_ever_for_who_sends_slowly(make_site, saved):
    site = make_site(saved, limits={"timeout_s": 0.2})
    site._server.config.timeout_graceful_shutdown = 1
    with site, site.open() as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n")
        while b"topwork_queue_images 1.0" not in site.ask("GET", "/metrics")[2]:
            pass
        site.stop()
        site._thread.join(30)
        assert not site._thread.is_alive()
        assert client.recv(65536).startswith(b"HTTP/1.1 503 ")


def test_told_twice_it_waits_for_nobody_and_leaves_nothing(start, tmp_path):
    process, url, _ = start(TMPDIR=str(tmp_path))
    assert len([*tmp_path.glob("topwork-serve-*")]) == 1
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 60) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n")
        time.sleep(0.3)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert process.wait(20) == 0
    assert not [*tmp_path.glob("topwork-serve-*")]


def test_what_a_killed_server_left_goes_when_the_next_one_starts(start, tmp_path):
    killed, _, _ = start(TMPDIR=str(tmp_path))
    living, _, _ = start(TMPDIR=str(tmp_path))
    assert len([*tmp_path.iterdir()]) == 2
    killed.kill()
    killed.wait(60)
    third, _, _ = start(TMPDIR=str(tmp_path))
    assert not [*tmp_path.glob(f"topwork-serve-*-{killed.pid}-*")]
    for process in (living, third):
        (copy,) = tmp_path.glob(f"topwork-serve-*-{process.pid}-*")
        assert (copy / "model.bin").exists()
        process.terminate()
        assert process.wait(60) == 0
    assert not [*tmp_path.iterdir()]


def test_a_connection_that_stays_hears_that_it_stops(make_site, saved):
    with make_site(saved) as site:
        assert site.ask("GET", "/healthz")[2] == {"status": "ok"}
        site._server._on_stop()
        status, _, content = site.ask("GET", "/healthz")
        assert (status, content) == (503, {"status": "stopping"})


def test_an_address_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port}: .*--host and --port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "256.0.0.1", "a" * 70, "192.0.2.1"])
def test_an_address_that_is_none_is_refused(host):
    with pytest.raises(SettingsError, match="cannot listen on"):
        bind(host, 0)


def test_it_binds_to_all_families():
    for host in ("localhost", "127.0.0.1", "0.0.0.0"):
        with bind(host, 0) as listener:
            url, local = server._locate(listener, host)
            assert url == f"http://{host}:{listener.getsockname()[1]}"
            assert local == (host != "0.0.0.0")


def test_a_missing_package_is_named(monkeypatch, saved):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SettingsError, match=r"uvicorn: pip install 'topwork\[serve\]'"):
        server.serve([saved], server.Options())


@pytest.mark.parametrize("key", ["", " \n", "a b", "ä", "a\x00b"])
def test_a_key_that_no_header_can_hold_is_refused(key):
    with pytest.raises(SettingsError, match=r"here: .*API key"):
        check_key(key, "here")
    assert check_key(" abc-1\n", "here") == "abc-1"


def test_open_to_everybody_is_said(start):
    _, _, said = start("--host", "0.0.0.0")
    assert any("Anybody who reaches this machine can use it" in line for line in said)
    _, url, said = start("--host", "0.0.0.0", TOPWORK_API_KEY="k-1")
    assert not any("Anybody" in line for line in said)
    asked = urllib.request.Request(url + "/models", headers={"X-API-Key": "k-1", "Host": "any.com"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert json.load(answer)["models"][0]["name"] == "colours"


@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_that_still_loads_its_libraries(tmp_path, number):
    (tmp_path / "typer.py").write_text("import time; print('loading', flush=True); time.sleep(60)")
    process = subprocess.Popen(
        [sys.executable, "-m", "topwork", "serve", "x.model"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
    )  # fmt: skip
    assert process.stdout.readline() == "loading\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors.startswith("topwork: ") and errors.count("\n") == 1
