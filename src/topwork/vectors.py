"""Dataset and base in, vectors out: the one long job, planned, run, resumed.

The plan is what the store lacks. Threads read and decode the missing images while the engine
runs those before them; finished vectors go to the store in parts. Killed at any moment, the
next run goes on after the last part.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from topwork.config import Interpolation
from topwork.dataset import Dataset
from topwork.engines import Engine, cores
from topwork.errors import DatasetError, ImageError, StoreError
from topwork.images import Source, decode, image_hash, read_bytes
from topwork.store import FLIP, DamagedPartError, VectorStore
from topwork.views import ORIGINAL

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# A part is written when it is this large or this old: large enough to be read fast,
# often enough that a kill costs little.
PART_VECTORS = 1024
PART_AGE_S = 5.0

# Images decoded ahead of the engine, per core: a few batches, so that memory stays flat.
AHEAD = 8

# How often damaged parts are set aside and computed again before giving up.
ATTEMPTS = 3

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """How far the job is.

    Attributes:
        done: images run through the base in this job.
        total: images that this job has to run.
        reused: images whose vectors the store had already.
    """

    done: int
    total: int
    reused: int


@dataclass(frozen=True)
class Vectors:
    """The vectors of a dataset's images.

    Attributes:
        values: (N, D) float32, in the order of the dataset's images.
        hashes: SHA-256 of each image's bytes, hex.
        embedded: images that were run through the base for this.
        reused: images whose vectors came from the store, or from an equal image.
    """

    values: Floats
    hashes: tuple[str, ...]
    embedded: int
    reused: int


OnRead = Callable[[int, int], None]
OnProgress = Callable[[Progress], None]


def embed(
    dataset: Dataset,
    store: VectorStore,
    open_engine: Callable[[], Engine],
    *,
    hashes: Sequence[str] | None = None,
    strict: bool = False,
    on_read: OnRead = lambda done, total: None,
    on_progress: OnProgress = lambda progress: None,
) -> tuple[Dataset, Vectors]:
    """Returns every image's vector, from the store where it has it, else from the base.

    Args:
        dataset: the images.
        store: where vectors of this base, size and preprocessing are kept.
        open_engine: compiles the base; called only if a vector is missing.
        hashes: SHA-256 of each image's bytes, if they are known already.
        strict: raise at the first image that cannot be used.
        on_read: called in the caller's thread after every image that was read and hashed, to
            find out whether its vector is there, with how many were and how many there are.
        on_progress: called in the caller's thread after every image that was run.

    Returns:
        The dataset without the images that could not be read or decoded (they are in its
        `skipped`, with the reason), and the vectors of the others.

    Raises:
        DatasetError: no image could be used, or `strict` and one could not.
        StoreError: vectors cannot be written, or stay unreadable.
    """
    if hashes is None:
        dataset = hash_images(dataset, strict, on_read)
        hashes = dataset.hashes or ()
    job = _Job(dataset, list(hashes), store, open_engine, strict, on_progress)
    for _ in range(ATTEMPTS):
        job.complete()
        try:
            values = store.read(job.hashes)
        except DamagedPartError:
            continue
        embedded = len(job.embedded)
        reused = len(job.hashes) - embedded
        return job.dataset, Vectors(values, tuple(job.hashes), embedded, reused)
    raise StoreError(
        f"vectors in {store.folder} are damaged as soon as they are written; check the disk or "
        "choose another place with --store"
    )


@dataclass(frozen=True)
class Column:
    """One network's share of a vector.

    Attributes:
        store: where its vectors are kept.
        open_engine: compiles the network.
    """

    store: VectorStore
    open_engine: Callable[[], Engine]


def embed_columns(
    dataset: Dataset,
    columns: Sequence[Column],
    *,
    hashes: Sequence[str] | None = None,
    strict: bool = False,
    on_read: OnRead = lambda done, total: None,
    on_progress: OnProgress = lambda progress: None,
) -> tuple[Dataset, Vectors]:
    """Returns every image's vectors by several networks, side by side.

    Args:
        dataset: the images.
        columns: the networks, at least one, in the order of their values.
        hashes: as for `embed`.
        strict: as for `embed`.
        on_read: as for `embed`.
        on_progress: as for `embed`, for each network in turn.

    Returns:
        The dataset without the images that some network could not use, and the vectors (N, D)
        of the others, D over all networks; `embedded` and `reused` count each network's.

    Raises:
        DatasetError, StoreError: as for `embed`.
    """
    made = [0] * len(columns)
    while True:
        found = []
        for place, column in enumerate(columns):
            dataset, vectors = embed(
                dataset,
                column.store,
                column.open_engine,
                hashes=hashes,
                strict=strict,
                on_read=on_read,
                on_progress=on_progress,
            )
            hashes = vectors.hashes
            made[place] += vectors.embedded
            found.append(vectors)
        # An image that a later network could not use leaves the earlier ones too.
        if all(len(vectors.hashes) == len(dataset) for vectors in found):
            break
    values = np.concatenate([vectors.values for vectors in found], axis=1)
    # Some of what was made may be of images that were left out after all.
    reused = sum(max(len(dataset) - count, 0) for count in made)
    return dataset, Vectors(values, tuple(hashes or ()), sum(made), reused)


def read_pixels(source: Source, size_px: int, interpolation: Interpolation) -> Pixels:
    """Reads, decodes and resizes one image to (S, S, 3) uint8.

    Raises:
        ImageError: with the reason.
    """
    return decode(read_bytes(source), size_px, interpolation)


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Maps a function over items in threads, in order, a bounded number of items ahead."""
    with ThreadPoolExecutor(cores()) as pool:
        rest = iter(items)
        waiting = deque(pool.submit(function, item) for item in islice(rest, AHEAD * cores()))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
        finally:
            for future in waiting:
                future.cancel()


def hash_images(dataset: Dataset, strict: bool, on_read: OnRead) -> Dataset:
    """Returns the dataset with the hash of every image's bytes, without those that are unreadable.

    Raises:
        DatasetError: no image could be read, or `strict` and one could not.
    """
    if dataset.hashes is not None:
        return dataset

    def hash_source(source: Source) -> str | ImageError:
        try:
            return image_hash(read_bytes(source))
        except ImageError as error:
            return error

    bad: dict[int, str] = {}
    hashes: list[str] = []
    for place, result in enumerate(in_threads(hash_source, dataset.sources)):
        if isinstance(result, ImageError):
            bad[place] = str(result)
            _refuse(dataset.names[place], str(result), strict)
        hashes.append(str(result))
        on_read(place + 1, len(dataset))
    dataset, hashes = _leave_out(dataset, hashes, bad)
    return replace(dataset, hashes=tuple(hashes))


def _refuse(name: str, reason: str, strict: bool) -> None:
    if strict:
        raise DatasetError(f"{name}: {reason}; mend or remove it, or leave out --strict")


def _leave_out(
    dataset: Dataset, hashes: list[str], bad: dict[int, str]
) -> tuple[Dataset, list[str]]:
    if not bad:
        return dataset, hashes
    if len(bad) == len(hashes):
        place, reason = next(iter(bad.items()))
        raise DatasetError(
            f"no image can be used: all {len(bad)} failed, the first was "
            f"{dataset.names[place]}: {reason}"
        )
    return dataset.drop(bad), [image for n, image in enumerate(hashes) if n not in bad]


def _plan(hashes: Sequence[str], store: VectorStore) -> list[int]:
    """Returns the place of the first image of each hash that the store lacks."""
    first: dict[str, int] = {}
    for place, image in enumerate(hashes):
        if image not in store:
            first.setdefault(image, place)
    return list(first.values())


@dataclass
class _Job:
    """Runs the base over the images that are missing, and writes parts as they fill.

    Attributes:
        embedded: hashes that were run through the base.
        failed: reasons by hash, of images that cannot be used.
        gone: reasons by place, of files that are not what they were; an equal one may be.
    """

    dataset: Dataset
    hashes: list[str]
    store: VectorStore
    open_engine: Callable[[], Engine]
    strict: bool
    on_progress: OnProgress
    engine: Engine | None = None
    embedded: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    gone: dict[int, str] = field(default_factory=dict)
    progress: Progress = Progress(0, 0, 0)

    def complete(self) -> None:
        """Goes on until every image has a vector in the store or was left out."""
        again = True
        while again:
            self.store.refresh()
            work = _plan(self.hashes, self.store)
            if not work:
                return
            self.engine = self.engine or self.open_engine()
            self._run(work, self.engine)
            bad = {n: self.failed[h] for n, h in enumerate(self.hashes) if h in self.failed}
            again = bool(self.gone)
            self.dataset, self.hashes = _leave_out(self.dataset, self.hashes, self.gone | bad)
            self.gone = {}

    def _run(self, work: list[int], engine: Engine) -> None:
        there = sum(image in self.store for image in self.hashes if image not in self.embedded)
        self.progress = Progress(self.progress.done, self.progress.done + len(work), there)
        self.on_progress(self.progress)
        finished: list[tuple[str, Floats]] = []
        written = time.monotonic()
        try:
            for place, vector in engine.run(self._pixels(work, engine.image_size)):
                if not np.isfinite(vector).all():
                    self._fail(place, ImageError("the base answers it with NaN or infinity"))
                    continue
                finished.append((self.hashes[place], vector))
                self._step()
                late = time.monotonic() - written > PART_AGE_S
                if len(finished) >= PART_VECTORS or late:
                    self._write(finished)
                    finished, written = [], time.monotonic()
        finally:
            # What was finished before an interruption is worth keeping.
            if finished:
                self._write(finished)

    def _write(self, finished: list[tuple[str, Floats]]) -> None:
        images, vectors = zip(*finished, strict=True)
        self.store.write(images, np.stack(vectors))
        self.embedded.update(images)

    def _pixels(self, work: list[int], size_px: int) -> Iterator[tuple[int, Pixels]]:
        space = self.store.space
        interpolation = Interpolation(space.interpolation)
        view = ORIGINAL if space.view == FLIP else space.view

        def load(place: int) -> Pixels | ImageError:
            try:
                data = read_bytes(self.dataset.sources[place])
            except ImageError as error:
                return _GoneError(str(error))
            if image_hash(data) != self.hashes[place]:
                return _GoneError("the file changed while it was being read")
            try:
                return decode(data, size_px, interpolation, view)
            except ImageError as error:
                return error

        for place, pixels in zip(work, in_threads(load, work), strict=True):
            if isinstance(pixels, ImageError):
                self._fail(place, pixels)
            else:
                yield place, pixels

    def _fail(self, place: int, error: ImageError) -> None:
        _refuse(self.dataset.names[place], str(error), self.strict)
        if isinstance(error, _GoneError):
            self.gone[place] = str(error)
        else:
            self.failed[self.hashes[place]] = str(error)
        self._step()

    def _step(self) -> None:
        self.progress = replace(self.progress, done=self.progress.done + 1)
        self.on_progress(self.progress)


class _GoneError(ImageError):
    """A file is not what it was a moment ago."""
