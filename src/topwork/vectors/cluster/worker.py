"""The work on the machines of a cluster: batches of images in, parts in the store out."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from topwork.bases.engines import Engine, OpenVINOEngine, resolve_precision
from topwork.core import warm_up
from topwork.core.arrays import Pixels
from topwork.core.config import Precision
from topwork.core.errors import ImageError, SettingsError, StoreError, TopworkError
from topwork.core.files import open_scratch
from topwork.core.parallel import in_threads
from topwork.images.decode import DECODER_VERSION
from topwork.vectors.backends import open_elsewhere
from topwork.vectors.image_tasks import NOT_FINITE, ChangedError, ImageTask, Outcome, load
from topwork.vectors.space import FLIP, Space
from topwork.vectors.store import VectorStore

# The file names of a network's OpenVINO IR on the machine that it was sent to.
IR_FILES = ("network.xml", "network.bin")

# How long a file on a shared disk may take to be seen on another machine.
SEEN_S = 5.0


class WorkerResources(NamedTuple):
    """The cores and GPUs of one worker, and how many workers there is room for."""

    cores: int
    gpus: int
    workers: int


@dataclass(frozen=True)
class RunConfig:
    """What all workers have to know.

    Attributes:
        root: the store's folder.
        url: where its vectors are, if not there.
        mark: a file that every machine must see; None where the vectors are in a bucket.
        folder: which relative paths are relative to.
        space: of the vectors.
        vector_length: D.
        resources: of a worker.
    """

    root: Path
    url: str | None
    mark: Path | None
    folder: Path
    space: Space
    vector_length: int
    resources: WorkerResources


class Coordinator:
    """An actor that hands the batches to the workers: Ray Data works only within the cluster.

    Args:
        config: for the workers.
        files: a list of one reference, to the content of the network's files by their names.
        batches: pickled lists of `ImageTask`.
    """

    def __init__(self, config: RunConfig, files: list[Any], batches: list[bytes]) -> None:
        self._answers = _run_batches(config, files, batches)

    def next(self) -> bytes | None:
        """Returns the next answer of a worker, or None at the end."""
        return next(self._answers, None)


def _run_batches(config: RunConfig, files: list[Any], batches: list[bytes]) -> Iterator[bytes]:
    from ray.data import ActorPoolStrategy, from_items

    items = from_items([{"batch": batch} for batch in batches], override_num_blocks=len(batches))
    pool = ActorPoolStrategy(
        min_size=1,
        # Machines may join later; those that are there are used at once.
        max_size=len(batches),
        initial_size=min(config.resources.workers, len(batches)),
        max_tasks_in_flight_per_actor=2,
    )
    answers = items.map_batches(
        Worker,
        fn_constructor_args=(config, files),
        batch_size=1,
        batch_format="numpy",
        compute=pool,
        num_cpus=config.resources.cores,
        num_gpus=config.resources.gpus,
    )
    answers.context.enable_progress_bars = False
    for rows in answers.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        yield from rows["answer"]


class Worker:
    """An actor that holds the engine, runs batches of images and writes parts.

    Args:
        config: what it has to know.
        files: as for `Coordinator`; in a list, Ray leaves the reference as it is, and the content
            is fetched once for each machine.
        seen_s: how long it waits for a file that another machine wrote to a shared disk.
    """

    def __init__(self, config: RunConfig, files: list[Any], seen_s: float = SEEN_S) -> None:
        self._config = config
        self._seen_s = seen_s
        self._files = files
        self._engine: Engine | None = None

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[bytes]]:
        """Runs batches; answers each with a pickled list of outcomes, or the pickled error."""
        answers: list[bytes] = []
        for batch in rows["batch"]:
            answer: list[Outcome] | TopworkError
            try:
                self._engine = self._engine or self._prepare()
                answer = self._run(pickle.loads(batch), self._engine)
            except TopworkError as error:
                # Returned, because Ray would wrap a raised one in an error of its own.
                answer = error
            answers.append(pickle.dumps(answer))
        return {"answer": answers}

    def _prepare(self) -> Engine:
        import ray

        config = self._config
        if config.space.decoder != DECODER_VERSION:
            raise SettingsError(
                f"every machine of the cluster must have the same Topwork, and {_here()} decodes "
                f"images by recipe {DECODER_VERSION} instead of {config.space.decoder}; install "
                "the same version there"
            )
        # Relative paths are those of the machine that the work was started on.
        with contextlib.suppress(OSError):
            os.chdir(config.folder)
        if config.mark is not None:
            _wait_for_mark(config.mark, config.root, self._seen_s)
        root = open_elsewhere(config.url) if config.url else config.root
        self._store = VectorStore(root, config.space, config.vector_length)
        (files,) = self._files
        with open_scratch() as folder:
            for name, content in ray.get(files).items():
                (folder / name).write_bytes(content)
            return open_engine(folder, config.space, config.resources)

    def _run(self, tasks: list[ImageTask], engine: Engine) -> list[Outcome]:
        outcomes: list[Outcome] = []

        def read() -> Iterator[tuple[ImageTask, Pixels]]:
            warm_up.decoding()
            load_task = partial(load, self._config.space)
            for task, result in in_threads(load_task, tasks, engine.ahead):
                if isinstance(result, ImageError):
                    outcomes.append((task.image_index, result))
                else:
                    yield task, result

        images, vectors = [], []
        for task, vector in engine.run(read()):
            if np.isfinite(vector).all():
                images.append(task.sha256)
                vectors.append(vector)
                outcomes.append((task.image_index, None))
            else:
                outcomes.append((task.image_index, ImageError(NOT_FINITE)))
        if images:
            self._store.write(images, np.stack(vectors))
        return _explain_missing(tasks, outcomes)


def open_engine(folder: Path, space: Space, resources: WorkerResources) -> Engine:
    """Opens the engine of this machine.

    Args:
        folder: the network's files.
        space: the size, precision and view of its images.
        resources: whether there is a GPU for it, and how many cores.

    Raises:
        SettingsError: this machine lacks the precision, or its GPU cannot be used.
        NetworkError: the network cannot be loaded.
    """
    precision, flip = Precision(space.precision), space.view == FLIP
    if resources.gpus:
        from topwork.bases.engines.keras import KerasEngine, has_accelerator

        if not has_accelerator():
            raise SettingsError(
                f"{_here()} has a GPU that JAX cannot use: pip install 'jax[cuda12]' there"
            )
        return KerasEngine(folder, space.image_size, precision, flip=flip)
    try:
        resolve_precision(precision)
    except SettingsError:
        raise SettingsError(
            f"precision: {precision} needs a CPU with bf16 arithmetic on every machine of the "
            f"cluster, and {_here()} has none; use --precision f32"
        ) from None
    path = folder / IR_FILES[0]
    return OpenVINOEngine(path, space.image_size, precision, flip=flip, threads=resources.cores)


def _wait_for_mark(mark: Path, root: Path, seen_s: float) -> None:
    until_s = time.monotonic() + seen_s
    while not mark.exists():
        if time.monotonic() > until_s:
            raise StoreError(
                f"the store {root} must lie where all machines of the cluster see it, and "
                f"{_here()} does not; choose a folder on a disk that they share, or a bucket such "
                "as s3://bucket/prefix, with --store"
            )
        time.sleep(seen_s / 20)


def _explain_missing(tasks: list[ImageTask], outcomes: list[Outcome]) -> list[Outcome]:
    """Adds the likely reason if none of a batch's files exists on this machine."""
    paths = [task.source for task in tasks if isinstance(task.source, Path)]
    if len(paths) < len(tasks) or any(os.path.lexists(path) for path in paths):
        return outcomes
    hint = (
        f"{_here()} has none of {len(tasks)} files: with a cluster, images must lie on a disk "
        "that all machines share, or be URLs"
    )
    return [(index, ChangedError(f"{error}; {hint}")) for index, error in outcomes]


def _here() -> str:
    return f"the machine {socket.gethostname()}"
