import contextlib
import json
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from pictures import encode
from PIL import Image
from vectors.cluster.work import LENGTH, SIZE

from topwork.bases.engines import OpenVINOEngine
from topwork.core.config import Interpolation, Precision
from topwork.core.errors import NetworkError, SettingsError, StoreError, TopworkError
from topwork.images.decode import decode
from topwork.vectors.cluster import Cluster, connection
from topwork.vectors.cluster.connection import _make_batches, _plan_workers
from topwork.vectors.cluster.worker import WorkerResources
from topwork.vectors.image_tasks import ChangedError
from topwork.vectors.store import VectorStore

# Ray starts its processes by forking, and other tests may have imported JAX here, which warns.
pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
]


def run(work, tasks, cluster=None):
    cluster = cluster or Cluster(cores_per_worker=1)
    return cluster.run(tasks, work.root, work.space, LENGTH, work.network)


def read(work, tasks):
    store = VectorStore(work.root, work.space, LENGTH)
    store.refresh()
    return store.read([task.sha256 for task in tasks])


def assert_as_by_one_engine(work, tasks):
    engine = OpenVINOEngine(work.network, SIZE, Precision.F32)
    data = [task.source.read_bytes() for task in tasks]
    pixels = np.stack([decode(content, SIZE, Interpolation.NEAREST) for content in data])
    np.testing.assert_allclose(read(work, tasks), engine.run_all(pixels), rtol=1e-6, atol=1e-6)


def add_slow(work, count):
    """Images that take a tenth of a second to decode, and tell themselves from one another."""
    colours = np.random.default_rng(2).integers(0, 256, (4, 3))
    images = [encode(Image.new("RGB", (4000, 4000), tuple(map(int, c)))) for c in colours]
    return [work.add(f"{n:03}.png", images[n % 4] + b"%d" % n) for n in range(count)]


def find_workers():
    """Returns the processes of the actors that this process' Ray has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            is_worker = "MapWorker" in " ".join(process.cmdline())
            if is_worker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_every_image_gets_one_outcome_and_what_can_be_used_a_vector(work, ray, capfd):
    tasks = work.photos(70)
    tasks.append(work.add("070.png", b"no image"))
    tasks.append(work.task(work.images / "071.png"))
    found = list(run(work, tasks))
    outcomes = dict(found)
    assert len(found) == len(outcomes) == 72
    assert [outcomes.pop(place) for place in range(70)] == [None] * 70
    assert "not an image" in str(outcomes[70])
    assert isinstance(outcomes[71], ChangedError)
    assert_as_by_one_engine(work, tasks[:70])
    assert [path.name for path in work.root.iterdir()] == ["vectors"]
    assert ray.is_initialized()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_costs_nothing(work, ray, capfd):
    cluster = Cluster(cores_per_worker=1, least_images=4)
    tasks = add_slow(work, 32)
    found, killed = [], []
    for place, error in run(work, tasks, cluster):
        found.append((place, error))
        if not killed:
            killed = find_workers()[:1]
            killed[0].kill()
            assert len(found) < 10
    assert killed
    assert sorted(found) == [(place, None) for place in range(32)]
    assert_as_by_one_engine(work, tasks)
    # What Ray has to say of it, it does not say between what we print.
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_to_leave_early_ends_the_work_and_keeps_what_is_written(work, ray):
    tasks = add_slow(work, 60)
    with Cluster(cores_per_worker=1, least_images=2) as cluster:
        # Still referred to when this block is left.
        outcomes = run(work, tasks, cluster)
        first = next(outcomes)
        assert find_workers()
    until = time.monotonic() + 20
    while find_workers() and time.monotonic() < until:
        time.sleep(0.2)
    assert not find_workers()
    assert ray.is_initialized()
    assert read(work, [tasks[first[0]]]).shape == (1, LENGTH)
    store = VectorStore(work.root, work.space, LENGTH)
    store.refresh()
    assert len(store) < 60
    assert [path.name for path in work.root.iterdir()] == ["vectors"]
    # The same Ray goes on where that ended.
    assert len(list(run(work, tasks))) == 60


@pytest.mark.slow
def test_what_ends_the_work_on_a_machine_is_raised_here(work, ray, monkeypatch):
    @contextlib.contextmanager
    def mark(root):
        yield root / ".shared-not"

    monkeypatch.setattr(connection, "_shared_mark", mark)
    with pytest.raises(StoreError, match="all machines of the cluster see"):
        list(run(work, work.photos(3)))
    assert not work.root.exists()


SCRIPT = """
import json, sys
from pathlib import Path
from topwork.vectors.cluster import Cluster
from topwork.vectors.image_tasks import ImageTask
from topwork.vectors.space import Space
said = json.load(sys.stdin)
tasks = [ImageTask(place, sha, Path(path)) for place, sha, path in said["tasks"]]
print("started", flush=True)
with Cluster(said["address"]) as cluster:
    outcomes = cluster.run(
        tasks, Path(said["root"]), Space(**said["space"]), said["length"], Path(said["network"])
    )
    for place, error in outcomes:
        print(place, error, flush=True)
print("ended", flush=True)
"""


@contextlib.contextmanager
def another_process(work, tasks, address=None):
    said = {
        "address": address,
        "tasks": [[e.image_index, e.sha256, str(e.source)] for e in tasks],
        "root": str(work.root),
        "space": work.space.__dict__,
        "length": LENGTH,
        "network": str(work.network),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdin.write(json.dumps(said))
    process.stdin.close()
    process.stdin = None
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_ray_of_our_own_ends_with_the_work(work):
    tasks = work.photos(5)
    with another_process(work, tasks) as process:
        output, errors = process.communicate(timeout=120)
    lines = output.splitlines()
    assert (lines[0], lines[-1]) == ("started", "ended")
    assert sorted(lines[1:-1]) == [f"{place} None" for place in range(5)]
    assert errors == ""
    assert read(work, tasks).shape == (5, LENGTH)


@pytest.mark.slow
def test_an_interruption_ends_a_ray_of_our_own(work):
    tasks = add_slow(work, 300)
    with another_process(work, tasks) as process:
        assert process.stdout.readline() == "started\n"
        assert process.stdout.readline().endswith(" None\n")
        begun = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(2)
        output, errors = process.communicate(timeout=60)
    assert "ended" not in output
    assert errors.strip().endswith("KeyboardInterrupt")
    _, alive = psutil.wait_procs(begun, timeout=30)
    assert len(begun) > 2
    assert not alive
    store = VectorStore(work.root, work.space, LENGTH)
    store.refresh()
    assert 0 < len(store) < 300


@pytest.fixture
def head(tmp_path, monkeypatch):
    """A cluster of one machine, in processes of its own: `host:port` and `ray://host:port`."""
    pytest.importorskip("ray", reason="needs Ray, the extra ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ports = [free_port() for _ in range(2)]
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
        "--node-ip-address=127.0.0.1", f"--port={ports[0]}", "--num-cpus=2",
        f"--ray-client-server-port={ports[1]}", "--include-dashboard=false",
        "--object-store-memory=100000000", "--disable-usage-stats",
        "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    with (tmp_path / "head.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(ports[1], process)
        yield f"127.0.0.1:{ports[0]}", f"ray://127.0.0.1:{ports[1]}"
    finally:
        begun = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        for left in psutil.wait_procs(begun, timeout=20)[1]:
            left.kill()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(port, process):
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.2)
    pytest.fail("no Ray was started")


@pytest.mark.slow
def test_a_cluster_is_joined_at_its_address_and_left_running(work, head):
    for first, address in enumerate(head):
        tasks = work.photos(5, start=5 * first)
        with another_process(work, tasks, address) as process:
            output, errors = process.communicate(timeout=120)
        assert output.splitlines()[-1] == "ended", errors
        assert read(work, tasks).shape == (5, LENGTH)
        assert errors == ""


def test_without_images_no_ray_is_started(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(run(work, [])) == []


def test_without_ray_the_extra_is_named(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'topwork\[ray\]'"):
        list(run(work, work.photos(1)))


@pytest.fixture
def no_ray(monkeypatch):
    """Ray, not started, and it must not be."""
    ray = pytest.importorskip("ray", reason="needs Ray, the extra ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was asked"))
    return ray


@pytest.mark.parametrize(
    "address",
    [
        "somewhere",
        "host:",
        "host:http",
        "host:0",
        "host:70000",
        "http://host:1",
        "ray://host",
        ":1",
    ],
)
def test_an_address_that_is_none_is_refused(work, no_ray, address):
    with pytest.raises(SettingsError, match=r"auto, HOST:PORT or ray://HOST:PORT") as caught:
        list(run(work, work.photos(1), Cluster(address)))
    assert repr(address) in str(caught.value)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_is_is_named_soon(work, no_ray, scheme):
    address = f"{scheme}127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(TopworkError, match="cannot use the Ray cluster") as caught:
        list(run(work, work.photos(1), Cluster(address)))
    assert address in str(caught.value)
    assert time.monotonic() - started < 15


def test_what_ray_says_of_a_cluster_that_it_cannot_join_is_passed_on(work, no_ray, monkeypatch):
    def refuse(*args, **options):
        raise ConnectionError("Ray went wrong\nversions differ")

    monkeypatch.setattr(no_ray, "init", refuse)
    with pytest.raises(TopworkError, match="cluster auto: versions differ; check --address"):
        list(run(work, work.photos(1), Cluster("auto")))


@pytest.fixture
def told():
    """What a handler of SIGTERM was told that was there before Ray."""
    told = []
    usual = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    yield told
    signal.signal(signal.SIGTERM, usual)


def test_who_has_a_handler_of_sigterm_keeps_it(no_ray, monkeypatch, told):
    def start(*args, **options):
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))

    monkeypatch.setattr(no_ray, "init", start)
    monkeypatch.setattr(no_ray, "shutdown", lambda: None)
    with Cluster("auto") as cluster:
        cluster._connect()
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert told == [signal.SIGTERM, signal.SIGTERM]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_ray_that_is_interrupted_while_it_starts_is_ended(no_ray, monkeypatch, told, error):
    def start(*args, **options):
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        raise error(signal.SIGTERM)

    ended = []
    monkeypatch.setattr(no_ray, "init", start)
    monkeypatch.setattr(no_ray, "shutdown", lambda: ended.append(True))
    with pytest.raises(error):
        Cluster("auto")._connect()
    assert ended == [True]
    assert told == ([signal.SIGTERM] if error is SystemExit else [])


def test_the_address_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert Cluster().address == "10.0.0.1:6379"
    assert Cluster("auto").address == "auto"
    monkeypatch.delenv("RAY_ADDRESS")
    assert Cluster().address is None


def node(cpus, gpus=0, alive=True):
    resources = {"CPU": cpus, "GPU": gpus}
    return {"Alive": alive, "Resources": {k: v for k, v in resources.items() if v}}


@pytest.mark.parametrize(
    ("nodes", "wanted", "shape"),
    [
        ([node(64.0), node(64.0)], None, WorkerResources(4, 0, 32)),
        ([node(2.0)], None, WorkerResources(2, 0, 1)),
        ([node(2.0)], 1, WorkerResources(1, 0, 2)),
        ([node(0), node(7.0), node(3.0)], None, WorkerResources(3, 0, 3)),
        ([node(8.0), node(64.0, alive=False)], None, WorkerResources(4, 0, 2)),
        ([node(0)], None, WorkerResources(4, 0, 1)),
        ([node(16.0), node(16.0, 2.0), node(24.0, 2.0)], None, WorkerResources(8, 1, 4)),
        ([node(1.0, 4.0)], None, WorkerResources(1, 1, 4)),
    ],
)
def test_a_worker_gets_a_share_of_the_smallest_machine(nodes, wanted, shape):
    assert _plan_workers(nodes, wanted, "bf16") == shape


def test_int8_is_for_cpus_even_where_there_are_gpus():
    nodes = [node(16.0, 2.0)]
    assert _plan_workers(nodes, None, "int8") == WorkerResources(4, 0, 4)
    assert _plan_workers(nodes, None, "f32") == WorkerResources(8, 1, 2)


@pytest.mark.parametrize(
    ("count", "workers", "sizes"),
    [
        (1, 1, [1]),
        (40, 8, [32, 8]),
        (400, 2, [50] * 8),
        (401, 2, [51] * 7 + [44]),
        (3000, 1, [750] * 4),
        (5000, 1, [1024] * 4 + [904]),
    ],
)
def test_images_are_make_batchest_into_batches(work, count, workers, sizes):
    tasks = [work.task(Path(f"{place}.png")) for place in range(count)]
    batches = [pickle.loads(batch) for batch in _make_batches(tasks, workers)]
    assert [len(batch) for batch in batches] == sizes
    assert [task for batch in batches for task in batch] == tasks


@pytest.fixture
def quiet_ray(no_ray, monkeypatch):
    """Ray as if it were started on one machine; it must not be given work."""
    monkeypatch.setattr(no_ray, "is_initialized", lambda: True)
    monkeypatch.setattr(no_ray, "nodes", lambda: [node(2.0)])
    monkeypatch.setattr(no_ray, "put", lambda _: pytest.fail("Ray was given work"))


def test_a_store_that_cannot_be_written_is_named_at_once(work, quiet_ray):
    work.root.write_text("a file in its place")
    with pytest.raises(StoreError, match="--store") as caught:
        list(run(work, work.photos(1)))
    assert str(work.root) in str(caught.value)


def test_a_network_that_is_not_there_is_named_at_once(work, quiet_ray, tmp_path):
    work.network = tmp_path / "network.xml"
    with pytest.raises(NetworkError, match=r"network\.xml"):
        list(run(work, work.photos(1)))
    assert list(work.root.iterdir()) == []


def test_ray_is_imported_only_where_it_is_used():
    code = (
        "import sys, topwork.vectors.cluster; print({'ray', 'jax', 'openvino'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
