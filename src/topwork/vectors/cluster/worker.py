"""What is done on the machines of a cluster: batches of images in, parts in the store out."""

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
from numpy.typing import NDArray

from topwork.bases.engines import Engine, OpenVINOEngine, resolve_precision
from topwork.core import warm_up
from topwork.core.config import Precision
from topwork.core.errors import ImageError, SettingsError, StoreError, TopworkError
from topwork.core.files import open_scratch
from topwork.core.parallel import in_threads
from topwork.images.decode import DECODER_VERSION
from topwork.vectors.backends import open_elsewhere
from topwork.vectors.errands import Errand, GoneError, Outcome, load
from topwork.vectors.store import FLIP, Space, VectorStore

Pixels = NDArray[np.uint8]

# What a network's OpenVINO IR is called where it has been sent to.
IR_FILES = ("network.xml", "network.bin")

# How long a machine may take to see what another one wrote to a shared disk.
SEEN_S = 5.0


class Shape(NamedTuple):
    """What a worker gets, and how many of them there is room for."""

    cores: int
    gpus: int
    workers: int


@dataclass(frozen=True)
class Task:
    """What all workers are told.

    Attributes:
        root: the store's folder.
        url: where its vectors are, if not there.
        mark: a file that every machine must see; None where the vectors are in a bucket.
        folder: where relative paths start.
        space: which vectors.
        vector_length: D.
        shape: what a worker gets.
    """

    root: Path
    url: str | None
    mark: Path | None
    folder: Path
    space: Space
    vector_length: int
    shape: Shape


class Foreman:
    """Runs the batches from within the cluster: from outside of it Ray Data cannot be used.

    Args:
        task: what the workers are told.
        files: a list of one reference, to the content of the network's files by their names.
        batches: pickled lists of errands.
    """

    def __init__(self, task: Task, files: list[Any], batches: list[bytes]) -> None:
        self._answers = _run_batches(task, files, batches)

    def next(self) -> bytes | None:
        """Returns the next answer of a worker, or None at the end."""
        return next(self._answers, None)


def _run_batches(task: Task, files: list[Any], batches: list[bytes]) -> Iterator[bytes]:
    from ray.data import ActorPoolStrategy, from_items

    items = from_items([{"batch": batch} for batch in batches], override_num_blocks=len(batches))
    pool = ActorPoolStrategy(
        min_size=1,
        # Machines may join; those that are there are used at once.
        max_size=len(batches),
        initial_size=min(task.shape.workers, len(batches)),
        max_tasks_in_flight_per_actor=2,
    )
    answers = items.map_batches(
        Worker,
        fn_constructor_args=(task, files),
        batch_size=1,
        batch_format="numpy",
        compute=pool,
        num_cpus=task.shape.cores,
        num_gpus=task.shape.gpus,
    )
    answers.context.enable_progress_bars = False
    for rows in answers.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        yield from rows["answer"]


class Worker:
    """An actor: holds the engine, runs batches, writes parts.

    Args:
        task: what it is told.
        files: as for `Foreman`; a reference in a list stays one, and is fetched once a machine.
        seen_s: how long it waits for what another machine wrote to a shared disk.
    """

    def __init__(self, task: Task, files: list[Any], seen_s: float = SEEN_S) -> None:
        self._task = task
        self._seen_s = seen_s
        self._files = files
        self._engine: Engine | None = None

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[bytes]]:
        """Runs batches; an answer is a list of outcomes or what ended the work, pickled."""
        answers: list[bytes] = []
        for batch in rows["batch"]:
            answer: list[Outcome] | TopworkError
            try:
                self._engine = self._engine or self._prepare()
                answer = self._run(pickle.loads(batch), self._engine)
            except TopworkError as error:
                # Ray would wrap it into one of its own.
                answer = error
            answers.append(pickle.dumps(answer))
        return {"answer": answers}

    def _prepare(self) -> Engine:
        import ray

        task = self._task
        if task.space.decoder != DECODER_VERSION:
            raise SettingsError(
                f"every machine of the cluster must have the same Topwork, and {_here()} decodes "
                f"images by recipe {DECODER_VERSION} instead of {task.space.decoder}; install the "
                "same version there"
            )
        # Relative paths mean what they mean where the work was asked for.
        with contextlib.suppress(OSError):
            os.chdir(task.folder)
        if task.mark is not None:
            _look_for(task.mark, task.root, self._seen_s)
        root = open_elsewhere(task.url) if task.url else task.root
        self._store = VectorStore(root, task.space, task.vector_length)
        (files,) = self._files
        with open_scratch() as folder:
            for name, content in ray.get(files).items():
                (folder / name).write_bytes(content)
            return open_engine(folder, task.space, task.shape)

    def _run(self, errands: list[Errand], engine: Engine) -> list[Outcome]:
        outcomes: list[Outcome] = []

        def read() -> Iterator[tuple[Errand, Pixels]]:
            warm_up.pictures()
            decode = partial(load, self._task.space)
            for errand, result in in_threads(decode, errands, engine.ahead):
                if isinstance(result, ImageError):
                    outcomes.append((errand.place, result))
                else:
                    yield errand, result

        images, vectors = [], []
        for errand, vector in engine.run(read()):
            if np.isfinite(vector).all():
                images.append(errand.sha256)
                vectors.append(vector)
                outcomes.append((errand.place, None))
            else:
                error = ImageError("the base answers it with NaN or infinity")
                outcomes.append((errand.place, error))
        if images:
            self._store.write(images, np.stack(vectors))
        return _explain_missing(errands, outcomes)


def open_engine(folder: Path, space: Space, shape: Shape) -> Engine:
    """Opens the engine of this machine.

    Args:
        folder: the network's files.
        space: the size, precision and view of its images.
        shape: whether there is a GPU for it, and how many cores.

    Raises:
        SettingsError: this machine lacks the precision, or its GPU cannot be used.
        NetworkError: the network cannot be loaded.
    """
    precision, flip = Precision(space.precision), space.view == FLIP
    if shape.gpus:
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
    return OpenVINOEngine(path, space.image_size, precision, flip=flip, threads=shape.cores)


def _look_for(mark: Path, root: Path, seen_s: float) -> None:
    until_s = time.monotonic() + seen_s
    while not mark.exists():
        if time.monotonic() > until_s:
            raise StoreError(
                f"the store {root} must lie where all machines of the cluster see it, and "
                f"{_here()} does not; choose a folder on a disk that they share, or a bucket such "
                "as s3://bucket/prefix, with --store"
            )
        time.sleep(seen_s / 20)


def _explain_missing(errands: list[Errand], outcomes: list[Outcome]) -> list[Outcome]:
    """Adds the likely reason where not one file of a whole batch was there."""
    paths = [errand.source for errand in errands if isinstance(errand.source, Path)]
    if len(paths) < len(errands) or any(os.path.lexists(path) for path in paths):
        return outcomes
    hint = (
        f"{_here()} has none of {len(errands)} files: with a cluster, images must lie on a disk "
        "that all machines share, or be URLs"
    )
    return [(place, GoneError(f"{error}; {hint}")) for place, error in outcomes]


def _here() -> str:
    return f"the machine {socket.gethostname()}"
