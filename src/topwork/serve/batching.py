"""From pixels of all clients to vectors: one image at once, four together under load.

Where four or more wait they are one request of the network that was compiled for that, on one
core; else one image runs on a network that was compiled to use all cores for it. So a lone image
waits for nobody, nothing is padded, and there is no time to wait for others that may not come.
On two cores the reference network answers one image in 11 ms and 107 images a second in fours
(one by one: 92), and four together take 74 ms.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from topwork.bases.engines.openvino import BATCH_SIZE
from topwork.core.runtime import cores
from topwork.models.model import Model

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Images = dict[int, Pixels]
# For each batch size, for each network: the side of its input in pixels, and its request.
Requests = dict[int, list[tuple[int, Callable[[Pixels], Floats]]]]


class Batcher:
    """Runs the networks of a model over images as they come, in threads of its own.

    Args:
        model: the model.
        on_batch: called in one of these threads with the number of images of each batch.
        workers: how many batches run at the same time; one per core if not given.

    Raises:
        NetworkError: a network's file is missing or damaged.
    """

    def __init__(
        self,
        model: Model,
        on_batch: Callable[[int], None],
        workers: int | None = None,
    ) -> None:
        self.sizes = tuple(sorted({base.space.image_size for base in model.bases}))
        self._engines = {1: model.quick_engines, BATCH_SIZE: model.engines}
        self._on_batch = on_batch
        self._waiting: deque[tuple[Images, Future[Floats]]] = deque()
        self._changed = threading.Condition()
        self._running_single = self._closing = False
        self._warm_up()
        self._threads = [
            threading.Thread(target=self._work, name=f"batches-{n}", daemon=True)
            for n in range(workers or cores())
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Returns how many images wait."""
        return len(self._waiting)

    def submit(self, pixels: Images) -> Future[Floats]:
        """Returns a future of the vector (D,) float32 of an image.

        Args:
            pixels: (S, S, 3) uint8 for each size S of the model's networks.
        """
        future: Future[Floats] = Future()
        with self._changed:
            self._waiting.append((pixels, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Runs the images that still wait, then ends the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _warm_up(self) -> None:
        blank = {size: np.zeros((size, size, 3), np.uint8) for size in self.sizes}
        requests = self._open_requests()
        for count in self._engines:
            self._run(requests, [blank] * count)

    def _open_requests(self) -> Requests:
        return {
            count: [(engine.image_size, engine.open_request()) for engine in engines]
            for count, engines in self._engines.items()
        }

    def _work(self) -> None:
        requests = self._open_requests()
        while batch := self._take():
            try:
                self._answer(requests, batch)
            finally:
                if len(batch) < BATCH_SIZE:
                    with self._changed:
                        self._running_single = False
                        # Wake all: during `close` each thread has to notice it.
                        self._changed.notify_all()

    def _take(self) -> list[tuple[Images, Future[Floats]]]:
        """Waits for the next batch and returns it; an empty list after `close`."""
        with self._changed:
            while True:
                if len(self._waiting) >= BATCH_SIZE:
                    return [self._waiting.popleft() for _ in range(BATCH_SIZE)]
                # A second single image would only wait inside the network.
                if self._waiting and not self._running_single:
                    self._running_single = True
                    return [self._waiting.popleft()]
                if self._closing and not self._waiting:
                    return []
                self._changed.wait()

    def _answer(self, requests: Requests, batch: list[tuple[Images, Future[Floats]]]) -> None:
        batch = [item for item in batch if item[1].set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            vectors = self._run(requests, [pixels for pixels, _ in batch])
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            return
        self._on_batch(len(batch))
        for (_, future), vector in zip(batch, vectors, strict=True):
            future.set_result(vector)

    def _run(self, requests: Requests, images: list[Images]) -> Floats:
        """Returns vectors (N, D) of N images, over all networks."""
        count = len(images)
        size = 1 if count == 1 else BATCH_SIZE
        # Requests may have been cancelled: the last image is repeated to fill the batch.
        filled = [*images, *[images[-1]] * (size - count)]
        parts = [run(np.stack([pixels[side] for pixels in filled])) for side, run in requests[size]]
        return np.concatenate(parts, axis=1)[:count]
