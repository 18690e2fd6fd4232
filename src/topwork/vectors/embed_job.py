"""The images that a store lacks: planned, claimed, run, written.

Threads read and decode them while the engine runs those before; finished vectors go to the store
in parts. Killed at any moment, the next run goes on after the last part.
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
from topwork.core.callbacks import Callback
from topwork.core.errors import ImageError
from topwork.core.locks import Locks
from topwork.core.parallel import AHEAD, in_processes, in_threads
from topwork.core.runtime import cores
from topwork.data.dataset import Dataset
from topwork.data.hashing import leave_out, refuse
from topwork.vectors.errands import Errand, GoneError, can_travel, load
from topwork.vectors.extractors import FeatureExtractor, RunRemotely
from topwork.vectors.index import find_firsts, parse_digests
from topwork.vectors.maintenance import compact_if_many
from topwork.vectors.store import VectorStore

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# A part is written when it is this large or this old: large enough to be read fast,
# often enough that a kill costs little.
PART_VECTORS = 1024
PART_AGE_S = 5.0

# Images that one process locks at a time, on average.
STRETCH = 128
# Images that a thread decodes at a time.
TOGETHER = 4
# How often a process looks for what the others finished, and how long it waits for a sign of them.
POLL_S = 0.25
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Pace:
    """How much a job does at a time, and how long it waits.

    Attributes:
        part_vectors: vectors of a part.
        part_age_s: a part that is older is written though it has fewer.
        stretch: images that are claimed at a time, on average.
        poll_s: how often it looks for what other processes finished.
        patience_s: how long it waits for a sign of them.
    """

    part_vectors: int = PART_VECTORS
    part_age_s: float = PART_AGE_S
    stretch: int = STRETCH
    poll_s: float = POLL_S
    patience_s: float = PATIENCE_S


PACE = Pace()


@dataclass(frozen=True)
class Progress:
    """How far the job is.

    Attributes:
        done: images that were finished since this job began, by it or by another process.
        total: images that had no vector when it began.
        reused: images whose vectors the store had, or another process put there.
    """

    done: int
    total: int
    reused: int


@dataclass
class Stretch:
    """Consecutive images, of which some have to be run, by one process.

    Attributes:
        name: hash of its first image: the same for whoever has these images in this order.
        places: of the images that have to be run.
    """

    name: str
    places: NDArray[np.intp]


def plan(hashes: Sequence[str], store: VectorStore, stretch: int = STRETCH) -> list[Stretch]:
    """Returns the first of each image that the store lacks, in their order.

    A stretch ends after an image whose hash says so, by chance: other runs cut at the same
    images, whatever they lack and whatever other images they have. It is not a share of all
    hashes, because archives and tables are read fast in their order alone.

    Args:
        hashes: of the images.
        store: where their vectors are kept.
        stretch: images of a stretch, on average.
    """
    digests = parse_digests(hashes)
    lacking = np.flatnonzero(store.missing(digests))
    lacking = lacking[find_firsts(digests[lacking])]
    cuts = np.flatnonzero(digests[:, 1] % np.uint64(stretch) == 0) + 1
    number = np.searchsorted(cuts, lacking, side="right")
    starts = np.concatenate([[0], cuts])
    shares = np.split(lacking, np.flatnonzero(np.diff(number)) + 1)
    return [
        Stretch(hashes[starts[np.searchsorted(cuts, share[0], side="right")]], share)
        for share in shares
        if len(share)
    ]


@dataclass
class Job:
    """Runs the base over the images that are missing, and writes parts as they fill.

    Other processes may be at the same: each locks a stretch of images, looks again what the
    store has by now, and gives it back when its vectors are written.

    Attributes:
        embedded: hashes that were run through the base.
        failed: reasons by hash, of images that cannot be used.
        gone: reasons by place, of files that are not what they were; an equal one may be.
        locks: the stretches that are worked on.
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
    gone: dict[int, str] = field(default_factory=dict)
    progress: Progress = Progress(0, 0, 0)
    locks: Locks = field(default_factory=lambda: Locks(None))
    pace: Pace = PACE

    @property
    def store(self) -> VectorStore:
        """Where the vectors are kept."""
        return self.extractor.store

    def complete(self) -> None:
        """Goes on until every image has a vector in the store or was left out."""
        again = True
        while again:
            self.store.refresh()
            work = plan(self.hashes, self.store, self.pace.stretch)
            if not work:
                break
            self._begin(work)
            if self.extractor.run_remotely is not None:
                self._run_remotely(work, self.extractor.run_remotely)
            else:
                self.engine = self.engine or self.extractor.open_engine()
                self._run(work, self.engine)
            bad = {n: self.failed[h] for n, h in enumerate(self.hashes) if h in self.failed}
            again = bool(self.gone)
            self.dataset, self.hashes = leave_out(self.dataset, self.hashes, self.gone | bad)
            self.gone = {}
        if self.embedded:
            compact_if_many(self.store)

    def _begin(self, work: list[Stretch]) -> None:
        has = ~self.store.missing(self.hashes)
        there = sum(image not in self.embedded for image in compress(self.hashes, has))
        count = sum(len(stretch.places) for stretch in work)
        self.progress = Progress(self.progress.done, self.progress.done + count, there)
        self.callback.on_run(self.progress)

    def _run_remotely(self, work: list[Stretch], run_remotely: RunRemotely) -> None:
        """Lets others run the images, who write the vectors themselves."""
        places = [place for stretch in work for place in stretch.places.tolist()]
        errands = [Errand(n, self.hashes[n], self.dataset.sources[n]) for n in places]
        with closing(run_remotely(errands)) as outcomes:
            for place, error in outcomes:
                if error is not None:
                    self._fail(place, error)
                else:
                    self.embedded.add(self.hashes[place])
                    self._step()

    def _run(self, work: list[Stretch], engine: Engine) -> None:
        count = sum(len(stretch.places) for stretch in work)
        heard = time.monotonic()
        with Locks(self.store.locks_folder) as self.locks:
            while work:
                before = count
                work = self._pass(work, engine)
                count = sum(len(stretch.places) for stretch in work)
                if count < before:
                    heard = time.monotonic()
                elif time.monotonic() - heard > self.pace.patience_s:
                    # Whoever claimed them does nothing; what is done twice is harmless.
                    self.locks.shared = False
                elif work:
                    time.sleep(self.pace.poll_s)
                    self.store.refresh()

    def _pass(self, work: list[Stretch], engine: Engine) -> list[Stretch]:
        """Runs the stretches that nobody else is at, and returns the others."""
        left: list[Stretch] = []
        finished: list[tuple[int, Floats]] = []
        written = time.monotonic()
        try:
            places = self._lock_free(work, left)
            for place, vector in engine.run(self._pixels(places, engine)):
                if not np.isfinite(vector).all():
                    self._fail(place, ImageError("the base answers it with NaN or infinity"))
                    continue
                finished.append((place, vector))
                self._step()
                late = time.monotonic() - written > self.pace.part_age_s
                if len(finished) >= self.pace.part_vectors or late:
                    self._write(finished)
                    finished, written = [], time.monotonic()
        finally:
            # What was finished before an interruption is worth keeping.
            if finished:
                self._write(finished)
        return left

    def _lock_free(self, work: list[Stretch], left: list[Stretch]) -> Iterator[int]:
        """Yields the places of the images to run; stretches of others are added to `left`."""
        for stretch in work:
            places = stretch.places.tolist()
            if not self.locks.take(stretch.name, places):
                missing = self.store.missing([self.hashes[place] for place in places])
                stretch.places = stretch.places[missing]
                self._step(len(places) - len(stretch.places), reused=True)
                if len(stretch.places):
                    left.append(stretch)
                continue
            if self.locks.shared:
                self.store.refresh()
                missing = self.store.missing([self.hashes[place] for place in places])
                found = [place for place, lacks in zip(places, missing, strict=True) if not lacks]
                self.locks.finish(found)
                self._step(len(found), reused=True)
                places = stretch.places[missing].tolist()
            yield from places

    def _write(self, finished: list[tuple[int, Floats]]) -> None:
        places, vectors = zip(*finished, strict=True)
        images = [self.hashes[place] for place in places]
        self.store.write(images, np.stack(vectors))
        self.embedded.update(images)
        self.locks.finish(places)

    def _pixels(self, places: Iterable[int], engine: Engine) -> Iterator[tuple[int, Pixels]]:
        warm_up.pictures()
        decode_ = partial(load, self.store.space)
        errands = (Errand(n, self.hashes[n], self.dataset.sources[n]) for n in places)
        ahead = max(engine.ahead, AHEAD * cores())
        # Threads share one Python, which is too slow for a GPU.
        decoded = in_threads(decode_, errands, ahead, together=TOGETHER)
        if engine.outruns_threads and can_travel(self.dataset.sources):
            decoded = in_processes(decode_, errands, ahead)
        for errand, pixels in decoded:
            if isinstance(pixels, ImageError):
                self._fail(errand.place, pixels)
            else:
                yield errand.place, pixels

    def _fail(self, place: int, error: ImageError) -> None:
        refuse(self.dataset.names[place], str(error), self.strict)
        if isinstance(error, GoneError):
            self.gone[place] = str(error)
        else:
            self.failed[self.hashes[place]] = str(error)
        self.locks.finish([place])
        self._step()

    def _step(self, count: int = 1, *, reused: bool = False) -> None:
        if count:
            done, there = self.progress.done + count, self.progress.reused + reused * count
            self.progress = replace(self.progress, done=done, reused=there)
            self.callback.on_run(self.progress)
