"""Running the images that a store lacks through a network, and writing their vectors.

Threads read and decode images while the engine runs those before them; finished vectors are
written to the store in parts. If this is killed at any moment, the next run goes on after the last
part.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from topwork.bases.engines import Engine
from topwork.core import warm_up
from topwork.core.arrays import Floats32, Pixels
from topwork.core.callbacks import Callback
from topwork.core.errors import ImageError
from topwork.core.locks import Locks
from topwork.core.parallel import AHEAD, in_processes, in_threads
from topwork.core.runtime import cores
from topwork.data.dataset import Dataset
from topwork.data.hashing import leave_out
from topwork.data.listing import Skipped, check_strict
from topwork.vectors.extractors import FeatureExtractor, RunRemotely
from topwork.vectors.image_tasks import NOT_FINITE, ChangedError, ImageTask, can_pickle, load
from topwork.vectors.index import find_firsts, parse_digests
from topwork.vectors.maintenance import compact_if_many
from topwork.vectors.store import VectorStore

# A part is written when it is this large or this old: large enough that it is read fast, and
# often enough that little is lost if the process is killed.
PART_VECTORS = 1024
PART_AGE_S = 5.0

# Images that a process locks at a time, on average.
CHUNK_IMAGES = 128
# Images that a thread decodes at a time.
TOGETHER = 4
# How often a process looks for vectors from other processes, and how long it waits for any.
POLL_S = 0.25
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Pace:
    """How much a job does at a time, and how long it waits.

    Attributes:
        part_vectors: vectors of a part.
        part_age_s: a part that is older is written even if it has fewer.
        chunk_images: images that a process locks at a time, on average.
        poll_s: seconds between two looks for vectors from other processes.
        patience_s: seconds to wait for any vectors from them.
    """

    part_vectors: int = PART_VECTORS
    part_age_s: float = PART_AGE_S
    chunk_images: int = CHUNK_IMAGES
    poll_s: float = POLL_S
    patience_s: float = PATIENCE_S


PACE = Pace()


@dataclass(frozen=True)
class Progress:
    """How far the job is.

    Attributes:
        done: images that were finished since this job began, by it or by another process.
        total: images that had no vector when it began.
        reused: images whose vectors were in the store, or were written by another process.
    """

    done: int
    total: int
    reused: int


@dataclass
class Chunk:
    """Consecutive images that one process runs, without those that have a vector already.

    Attributes:
        name: hash of the first image, with or without a vector: the same in every process that
            has these images in this order.
        indices: of the images to run.
    """

    name: str
    indices: NDArray[np.intp]


def plan(
    hashes: Sequence[str], store: VectorStore, chunk_images: int = CHUNK_IMAGES
) -> list[Chunk]:
    """Divides the images that a store lacks into chunks, in their order.

    Of equal images only the first is in a chunk. A chunk ends after an image whose hash says so,
    by chance, so that other processes cut at the same images, whatever images and vectors they
    have besides. Chunks are consecutive, because archives and tables are read fast only in order.

    Args:
        hashes: of the images.
        store: where their vectors are kept.
        chunk_images: images of a chunk, on average.
    """
    digests = parse_digests(hashes)
    lacking = np.flatnonzero(store.missing(digests))
    lacking = lacking[find_firsts(digests[lacking])]
    if not len(lacking):
        return []
    ends = np.flatnonzero(digests[:, 1] % np.uint64(chunk_images) == 0) + 1
    starts = np.concatenate([[0], ends])
    numbers = np.searchsorted(starts, lacking, side="right") - 1
    numbers, firsts = np.unique(numbers, return_index=True)
    parts = np.split(lacking, firsts[1:])
    return [Chunk(hashes[starts[n]], part) for n, part in zip(numbers, parts, strict=True)]


def _count(chunks: Sequence[Chunk]) -> int:
    return sum(len(chunk.indices) for chunk in chunks)


@dataclass
class Job:
    """Runs the images whose vectors are missing through a network, and writes the vectors.

    Several processes may do so at once: each locks a chunk of images, looks again which vectors
    the store has by now, runs the others, and releases the chunk when its vectors are written.

    Attributes:
        embedded: hashes of the images that this process ran.
        failed: reasons by hash, of images that cannot be used.
        changed: reasons by index, of files that are not what they were; an equal one may be.
        locks: on the chunks that this process works on.
        locked_elsewhere: chunks that other processes work on.
        pace: how much is done at a time.
    """

    dataset: Dataset
    hashes: list[str]
    extractor: FeatureExtractor
    strict: bool
    callback: Callback
    engine: Engine | None = None
    embedded: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    changed: dict[int, str] = field(default_factory=dict)
    progress: Progress = Progress(0, 0, 0)
    locks: Locks = field(default_factory=lambda: Locks(None))
    locked_elsewhere: list[Chunk] = field(default_factory=list)
    pace: Pace = PACE

    @property
    def store(self) -> VectorStore:
        """Where the vectors are kept."""
        return self.extractor.store

    def complete(self) -> None:
        """Runs images until each has a vector in the store, or was left out."""
        again = True
        while again:
            self.store.refresh()
            chunks = plan(self.hashes, self.store, self.pace.chunk_images)
            if not chunks:
                break
            self._begin(chunks)
            self.store.check_writable()
            if self.extractor.run_remotely is not None:
                self._run_remotely(chunks, self.extractor.run_remotely)
            else:
                self.engine = self.engine or self.extractor.open_engine()
                self._run(chunks, self.engine)
            bad = {n: self.failed[h] for n, h in enumerate(self.hashes) if h in self.failed}
            # Of equal images only the first was run; another may have not changed.
            again = bool(self.changed)
            self.dataset, self.hashes = leave_out(self.dataset, self.hashes, self.changed | bad)
            self.changed = {}
        if self.embedded:
            compact_if_many(self.store)

    def _begin(self, chunks: list[Chunk]) -> None:
        has = ~self.store.missing(self.hashes)
        reused = sum(image not in self.embedded for image in compress(self.hashes, has))
        self.progress = Progress(self.progress.done, self.progress.done + _count(chunks), reused)
        self.callback.on_run(self.progress)

    def _make_tasks(self, indices: Iterable[int]) -> Iterator[ImageTask]:
        return (ImageTask(n, self.hashes[n], self.dataset.sources[n]) for n in indices)

    def _run_remotely(self, chunks: list[Chunk], run_remotely: RunRemotely) -> None:
        """Lets other machines run the images and write the vectors."""
        indices = np.concatenate([chunk.indices for chunk in chunks])
        with closing(run_remotely([*self._make_tasks(indices.tolist())])) as outcomes:
            for index, error in outcomes:
                if error is not None:
                    self._fail(index, error)
                else:
                    self.embedded.add(self.hashes[index])
                    self._step()

    def _run(self, chunks: list[Chunk], engine: Engine) -> None:
        """Runs the chunks that are free, until other processes have finished the rest."""
        last_progress = time.monotonic()
        with Locks(self.store.locks_folder) as self.locks:
            while chunks:
                before = _count(chunks)
                self.locked_elsewhere = []
                self._run_free(chunks, engine)
                chunks = self.locked_elsewhere
                if _count(chunks) < before:
                    last_progress = time.monotonic()
                elif time.monotonic() - last_progress > self.pace.patience_s:
                    # The others seem to hang. To run an image twice is harmless.
                    self.locks.shared = False
                elif chunks:
                    time.sleep(self.pace.poll_s)
                    self.store.refresh()

    def _run_free(self, chunks: list[Chunk], engine: Engine) -> None:
        """Runs the chunks that no other process has locked, and writes parts as they fill."""
        finished: list[tuple[int, Floats32]] = []
        written = time.monotonic()
        try:
            for index, vector in engine.run(self._load(self._lock(chunks), engine)):
                if not np.isfinite(vector).all():
                    self._fail(index, ImageError(NOT_FINITE))
                    continue
                finished.append((index, vector))
                self._step()
                is_late = time.monotonic() - written > self.pace.part_age_s
                if len(finished) >= self.pace.part_vectors or is_late:
                    self._write(finished)
                    finished, written = [], time.monotonic()
        finally:
            # Also after an interruption, what is finished is kept.
            if finished:
                self._write(finished)

    def _lock(self, chunks: list[Chunk]) -> Iterator[int]:
        """Locks one chunk after the other, as they are needed, and yields the images to run.

        Chunks that other processes have locked are added to `locked_elsewhere`.
        """
        for chunk in chunks:
            is_locked = self.locks.take(chunk.name, chunk.indices.tolist())
            if is_locked and self.locks.shared:
                # Another process may have finished some of it and released it.
                self.store.refresh()
            missing = self.store.missing([self.hashes[n] for n in chunk.indices.tolist()])
            found = chunk.indices[~missing].tolist()
            self.locks.finish(found)
            self._step(len(found), reused=True)
            chunk.indices = chunk.indices[missing]
            if is_locked:
                yield from chunk.indices.tolist()
            elif len(chunk.indices):
                self.locked_elsewhere.append(chunk)

    def _load(self, indices: Iterable[int], engine: Engine) -> Iterator[tuple[int, Pixels]]:
        """Reads and decodes images ahead of the engine; yields those that can be used."""
        warm_up.decoding()
        load_task = partial(load, self.store.space)
        tasks = self._make_tasks(indices)
        ahead = max(engine.ahead, AHEAD * cores())
        if engine.outruns_threads and can_pickle(self.dataset.sources):
            # Threads share one Python interpreter, which is too slow for a GPU.
            loaded = in_processes(load_task, tasks, ahead)
        else:
            loaded = in_threads(load_task, tasks, ahead, together=TOGETHER)
        for task, pixels in loaded:
            if isinstance(pixels, ImageError):
                self._fail(task.image_index, pixels)
            else:
                yield task.image_index, pixels

    def _write(self, finished: list[tuple[int, Floats32]]) -> None:
        indices, vectors = zip(*finished, strict=True)
        images = [self.hashes[index] for index in indices]
        self.store.write(images, np.stack(vectors))
        self.embedded.update(images)
        self.locks.finish(indices)

    def _fail(self, index: int, error: ImageError) -> None:
        check_strict([Skipped(self.dataset.names[index], str(error))], self.strict)
        if isinstance(error, ChangedError):
            self.changed[index] = str(error)
        else:
            self.failed[self.hashes[index]] = str(error)
        self.locks.finish([index])
        self._step()

    def _step(self, count: int = 1, *, reused: bool = False) -> None:
        if count:
            total = self.progress.reused + reused * count
            self.progress = replace(self.progress, done=self.progress.done + count, reused=total)
            self.callback.on_run(self.progress)
