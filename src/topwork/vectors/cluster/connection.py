"""The caller's side of a cluster: connects, sends batches of images, and collects outcomes."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import secrets
import signal
import socket
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from weakref import WeakSet

from topwork.bases.network import KERAS_FILES
from topwork.core.config import Precision
from topwork.core.errors import NetworkError, SettingsError, StoreError, TopworkError
from topwork.core.files import write_file
from topwork.core.interrupts import before_leaving
from topwork.core.leftovers import FILLING, name_beside
from topwork.core.runtime import cores
from topwork.vectors.backends import find_elsewhere
from topwork.vectors.cluster.worker import IR_FILES, Coordinator, RunConfig, WorkerResources
from topwork.vectors.image_tasks import ImageTask, Outcome
from topwork.vectors.space import Space

# A batch becomes a part of the store. Batches are smaller where there are few images, so that every
# worker gets `ROUNDS` of them and none is idle for long at the end.
BATCH_IMAGES = 1024
LEAST_IMAGES = 32
ROUNDS = 4

# Of one worker: few, because one Python process decodes for all of them, and more than one,
# because they share the engine's memory.
CORES = 4

CONNECT_S = 10.0

# Of a Ray that is started here. Only paths, numbers and, once, the network go through it.
OBJECT_STORE_BYTES = 256 * 2**20

_ADDRESS = re.compile(r"(?:ray://)?(?P<host>[^/:\s]+|\[[0-9a-fA-F:]+\]):(?P<port>[0-9]{1,5})")


class Cluster:
    """The machines of a Ray cluster; connected to when they are first needed.

    If this process has started or joined a Ray cluster already, that one is used and left running.

    Args:
        address: `auto`, `HOST:PORT` or `ray://HOST:PORT`; None for `$RAY_ADDRESS` or, without
            that, a Ray that is started on this machine.
        cores_per_worker: CPUs of each worker; if not given, `CORES`, or as many as the smallest
            machine has if that is fewer, or a GPU's share of them.
        least_images: the fewest images of a batch, where there are so many.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cores_per_worker: int | None = None,
        least_images: int = LEAST_IMAGES,
    ) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        self.cores_per_worker = cores_per_worker
        self.least_images = least_images
        self._is_ours = False
        self._handler: Any = None
        self._runs: WeakSet[Generator[Outcome]] = WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        tasks: Sequence[ImageTask],
        root: Path,
        space: Space,
        vector_length: int,
        network: Path,
    ) -> Generator[Outcome]:
        """Runs a network over images on all machines, and writes their vectors to the store.

        To leave this early, by an interruption too, ends the work; parts that were written stay.

        Args:
            tasks: the images, each hash once.
            root: the store's folder, which all machines see unless its vectors are in a bucket.
            space: which vectors; every machine must have its precision.
            vector_length: D.
            network: its OpenVINO IR, and on machines with GPUs, which run no int8, the parts of
                its `.keras` file beside it; their content is sent there.

        Yields:
            As batches are finished, the index of each image, and None if its vector is in the
            store, else the reason: a `ChangedError` if another file may have its content.

        Raises:
            SettingsError: Ray is not installed, or a machine cannot do what is asked for.
            TopworkError: the cluster cannot be reached, or the work on it ended too early.
            StoreError: the store cannot be written, or a machine does not see it.
            NetworkError: the network cannot be run.
        """
        outcomes = self._run(tasks, root, space, vector_length, network)
        self._runs.add(outcomes)
        return outcomes

    def _run(
        self,
        tasks: Sequence[ImageTask],
        root: Path,
        space: Space,
        vector_length: int,
        network: Path,
    ) -> Generator[Outcome]:
        if not tasks:
            return
        ray = self._connect()
        with _shared_mark(root) as mark, _quiet():
            config = RunConfig(
                root=root.absolute(),
                url=find_elsewhere(root),
                mark=mark,
                folder=Path.cwd(),
                space=space,
                vector_length=vector_length,
                resources=_plan_workers(ray.nodes(), self.cores_per_worker, space.precision),
            )
            files = _read_files(network, with_keras=config.resources.gpus > 0)
            batches = _make_batches(tasks, config.resources.workers, self.least_images)
            with contextlib.closing(_gather(ray, config, files, batches)) as answers:
                for answer in answers:
                    outcomes = pickle.loads(answer)
                    if isinstance(outcomes, TopworkError):
                        raise outcomes
                    yield from outcomes

    def close(self) -> None:
        """Ends what is running, and leaves the cluster or ends the Ray that was started here."""
        for outcomes in list(self._runs):
            outcomes.close()
        if not self._is_ours:
            return
        import ray

        ray.shutdown()
        self._is_ours = False
        _restore_handler(self._handler)

    def _connect(self) -> Any:
        try:
            import ray
        except ImportError as error:
            raise SettingsError(
                "engine: ray needs the extra ray, which is not installed: "
                f"pip install 'topwork[ray]' ({error})"
            ) from None
        if ray.is_initialized():
            return ray
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address in (None, "local"):
            # Nobody who trains a classifier has agreed that Ray reports it.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            options |= {"num_cpus": cores(), "include_dashboard": False}
            options |= {"object_store_memory": OBJECT_STORE_BYTES}
        elif self.address != "auto":
            _check_reachable(str(self.address))
        # Ray replaces it by its own handler, which would not clean up what Topwork has open.
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(self.address or "local", **options)
        except Exception as error:
            # Ray raises errors of many kinds.
            where = f"the Ray cluster {self.address}" if self.address else "Ray on this machine"
            raise TopworkError(
                f"cannot use {where}: {_last_line(error)}; check --address, and with `ray status` "
                "that it is up"
            ) from error
        except BaseException as error:
            with contextlib.suppress(Exception):
                ray.shutdown()
            _restore_handler(handler)
            if isinstance(error, SystemExit) and callable(handler):
                # Ray's handler raises this at SIGTERM.
                signal.raise_signal(signal.SIGTERM)
            raise
        self._is_ours = True
        if callable(handler):
            _restore_handler(handler)
        else:
            self._handler = handler
        return ray


def _restore_handler(handler: Any) -> None:
    """Sets the handler of SIGTERM; None means that it was not set by Python, and cannot be."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


_joined: dict[str | None, Cluster] = {}


def join_cluster(address: str | None) -> Cluster:
    """Returns the cluster at an address, one for the whole process: to join takes seconds."""
    return _joined.setdefault(address, Cluster(address))


def leave_clusters() -> None:
    """Leaves all clusters that were joined, for a process that ends without Python's clean-up."""
    while _joined:
        _joined.popitem()[1].close()


before_leaving(leave_clusters)


def _check_reachable(address: str) -> None:
    """Checks that an address answers: Ray itself would try for minutes."""
    found = _ADDRESS.fullmatch(address)
    if not found or not 0 < int(found["port"]) <= 65_535:
        raise SettingsError(
            f"address: must be auto, HOST:PORT or ray://HOST:PORT, received {address!r}"
        )
    host = (found["host"].strip("[]"), int(found["port"]))
    try:
        socket.create_connection(host, CONNECT_S).close()
    except OSError as error:
        raise TopworkError(
            f"cannot use the Ray cluster {address}: {error.strerror or error}; check --address, "
            "and with `ray status` that it is up"
        ) from None


def _plan_workers(
    nodes: list[dict[str, Any]], wanted: int | None, precision: str
) -> WorkerResources:
    """Returns what a worker gets and how many there can be, on the machines that are up now."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    able = [node for node in alive if node.get("GPU", 0) >= 1]
    if able and precision != Precision.INT8:
        share = min(int(node.get("CPU", 1) // node["GPU"]) for node in able)
        return WorkerResources(wanted or max(share, 1), 1, sum(int(node["GPU"]) for node in able))
    cpus = [int(node["CPU"]) for node in alive if node.get("CPU", 0) >= 1]
    each = wanted or min([CORES, *cpus])
    return WorkerResources(each, 0, max(1, sum(count // each for count in cpus)))


def _make_batches(
    tasks: Sequence[ImageTask], workers: int, least_images: int = LEAST_IMAGES
) -> list[bytes]:
    """Divides tasks into pickled batches."""
    share = -(-len(tasks) // (ROUNDS * workers))
    size = min(max(share, least_images), BATCH_IMAGES)
    starts = range(0, len(tasks), size)
    # Pickled together, images of the same archive or server share its connection.
    return [pickle.dumps(list(tasks[start : start + size])) for start in starts]


def _read_files(network: Path, *, with_keras: bool) -> dict[str, bytes]:
    files = dict(zip(IR_FILES, (network, network.with_suffix(".bin")), strict=True))
    if with_keras:
        files = {name: network.parent / name for name in KERAS_FILES}
    try:
        return {name: path.read_bytes() for name, path in files.items()}
    except OSError as error:
        raise NetworkError(
            f"cannot load the network {network}: {error.filename}: {error.strerror or error}"
        ) from error


@contextlib.contextmanager
def _shared_mark(root: Path) -> Iterator[Path | None]:
    """Keeps a file in the store during a run, by which other machines see that they share it."""
    if find_elsewhere(root):
        yield None
        return
    mark = root.absolute() / f"{name_beside('shared')}{secrets.token_hex(8)}{FILLING}"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_file(mark, lambda file: file.write(b"\n"))
    except OSError as error:
        raise StoreError(
            f"cannot write to the store {root}: {error.strerror}; choose another place with --store"
        ) from error
    try:
        yield mark
    finally:
        with contextlib.suppress(OSError):
            mark.unlink()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Ray from printing what happened to a lost worker to standard output."""
    from ray._private import worker

    # Ray has no option for this.
    prints = getattr(worker, "_worker_logs_enabled", True)
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = prints


def _gather(
    ray: Any, config: RunConfig, files: dict[str, bytes], batches: list[bytes]
) -> Generator[bytes]:
    """Yields the workers' answers; closed, it ends them."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On this machine, since the others may be lost.
    home = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    coordinator = None
    try:
        actor_class = ray.remote(num_cpus=0, scheduling_strategy=home)(Coordinator)
        coordinator = actor_class.remote(config, [ray.put(files)], batches)
        while (answer := ray.get(coordinator.next.remote())) is not None:
            yield answer
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise TopworkError(_describe(error)) from error
    finally:
        if coordinator is not None:
            # Its workers end with it.
            ray.kill(coordinator)


def _describe(error: Exception) -> str:
    missing = re.search(r"No module named '[\w.]+'", str(error))
    if missing:
        return (
            "every machine of the cluster must have Topwork with Ray Data: "
            f"pip install 'topwork[ray]' there ({missing[0]})"
        )
    return (
        f"the work on the cluster ended too early: {_last_line(error)}; if workers were killed, "
        "their machine may be short of memory; run again: what was finished is kept"
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
