"""From the uploads of a request to its results: decode, run, describe; with the threads for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from topwork.core import warm_up
from topwork.core.errors import SettingsError
from topwork.core.runtime import cores
from topwork.models.answers import check_abstain
from topwork.models.model import Model
from topwork.serve.admission import Admission
from topwork.serve.decoding import DecodedImage, decode_upload
from topwork.serve.http_errors import HTTPError, UploadError
from topwork.serve.limits import Limits
from topwork.serve.prometheus import ServerMetrics
from topwork.serve.registry import ModelRegistry, ServedModel
from topwork.serve.responses import find_output, format_explanation, format_predictions
from topwork.serve.uploads import Upload

Floats = NDArray[np.float32]
Answer = TypeVar("Answer")


class Service:
    """The models that are served, and the threads that decode and explain.

    Args:
        paths: folders of models by name.
        limits: of requests, and the time to answer.
        abstain_below: least top probability that counts as an answer, where a request does not
            say; for models that answer with one of many classes or of two.

    Raises:
        SettingsError: the threshold is out of range.
        ModelError, NetworkError: a model cannot be used.
    """

    def __init__(self, paths: dict[str, Path], limits: Limits, abstain_below: float | None) -> None:
        if abstain_below is not None and not 0 <= abstain_below <= 1:
            raise SettingsError(f"abstain_below: must be 0 to 1, received {abstain_below}")
        warm_up.serving()
        self.limits = limits
        self.admission = Admission(limits)
        self.metrics = ServerMetrics(lambda: self.admission.slots)
        self.stopping = False
        self.registry = ModelRegistry(paths, self.metrics)
        self._abstain_below = abstain_below
        self._decoders = ThreadPoolExecutor(cores(), thread_name_prefix="decode")
        # One thread: computing a map uses all cores.
        self._explainers = ThreadPoolExecutor(1, thread_name_prefix="explain")

    def close(self) -> None:
        """Ends all threads and closes the models."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._explainers.shutdown(wait=True, cancel_futures=True)
        self.registry.close()

    def describe(self) -> dict[str, Any]:
        """Returns the description of models and limits that clients see."""
        shown = ("image_bytes", "image_pixels", "images", "request_bytes", "queue")
        models = [
            {**served.describe(), "abstain_below": self._threshold(served.model, None)}
            for served in self.registry
        ]
        return {"models": models, "limits": {name: getattr(self.limits, name) for name in shown}}

    async def predict(
        self,
        served: ServedModel,
        uploads: Sequence[Upload],
        *,
        top: int,
        neighbours: int,
        abstain_below: float | None,
    ) -> tuple[int, list[dict[str, Any]]]:
        """Predicts images; one that fails does not affect the others.

        Args:
            served: the model.
            uploads: N encoded images.
            top: how many classes or labels to name.
            neighbours: how many training images to show.
            abstain_below: instead of the threshold for all requests.

        Returns:
            The status: 200, or that of the first image if all failed. And for each image its
            answer, or its `error` and `status`.

        Raises:
            HTTPError: the threshold makes no sense for this model, or it took too long.
        """
        threshold = self._threshold(served.model, abstain_below)
        found = await self._in_time(
            asyncio.gather(*(self._embed(served, upload) for upload in uploads))
        )
        good = [item for item in found if not isinstance(item, UploadError)]
        said = iter(
            format_predictions(
                served,
                np.stack([vector for _, vector in good]),
                [image for image, _ in good],
                top=top,
                neighbours=neighbours,
                abstain_below=threshold,
            )
            if good
            else ()
        )
        results: list[dict[str, Any]] = []
        for upload, item in zip(uploads, found, strict=True):
            if isinstance(item, UploadError):
                entry: dict[str, Any] = {"error": str(item), "status": item.status}
                outcome = str(item.status)
            else:
                entry, outcome = next(said), "answered"
            self._count(served, outcome)
            results.append({"name": upload.name, **entry})
        return 200 if good else results[0]["status"], results

    async def explain(
        self, served: ServedModel, uploads: Sequence[Upload], label: str | None
    ) -> dict[str, Any]:
        """Says where in an image the logit of a class, label or number comes from.

        Args:
            served: the model.
            uploads: one encoded image.
            label: of the class; None for the most probable one.

        Raises:
            HTTPError: more than one image, one that cannot be used, no such class, or it took too
                long.
        """
        if len(uploads) != 1:
            raise HTTPError(422, f"one image at a time is explained, received {len(uploads)}")
        if label is not None:
            find_output(served.model, label, None)
        try:
            image, said = await self._in_time(self._explain(served, uploads[0], label))
        except UploadError as error:
            self._count(served, str(error.status))
            raise HTTPError(error.status, str(error)) from None
        self._count(served, "explained")
        return {**said, "width": image.width, "height": image.height}

    async def _embed(
        self, served: ServedModel, upload: Upload
    ) -> tuple[DecodedImage, Floats] | UploadError:
        try:
            image = await self._decode(served, upload)
        except UploadError as error:
            return error
        vector = await asyncio.wrap_future(served.batcher.submit(image.pixels))
        if not np.isfinite(vector).all():
            return UploadError(422, "the network answers it with NaN or infinity")
        return image, vector

    async def _explain(
        self, served: ServedModel, upload: Upload, label: str | None
    ) -> tuple[DecodedImage, dict[str, Any]]:
        image = await self._decode(served, upload)

        def work() -> dict[str, Any]:
            explanation = served.explainer.explain_pixels(image.pixels)
            answer = find_output(served.model, label, explanation)
            return format_explanation(served.model, explanation, answer)

        loop = asyncio.get_running_loop()
        return image, await loop.run_in_executor(self._explainers, work)

    async def _decode(self, served: ServedModel, upload: Upload) -> DecodedImage:
        return await asyncio.get_running_loop().run_in_executor(
            self._decoders,
            decode_upload,
            upload,
            served.batcher.sizes,
            served.model.interpolation,
            self.limits,
            served.model.ranges,
        )

    async def _in_time(self, work: Awaitable[Answer]) -> Answer:
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                return await work
        except TimeoutError:
            raise HTTPError(
                503,
                f"there was no answer within {self.limits.timeout_s:g} s; try again, or with "
                "fewer images",
                {"Retry-After": "1"},
            ) from None

    def _threshold(self, model: Model, asked: float | None) -> float | None:
        """Returns the threshold below which a request's images get no answer; None for none."""
        if asked is None:
            return self._abstain_below if model.task.picks_one else None
        try:
            check_abstain(model, asked)
        except SettingsError as error:
            raise HTTPError(422, str(error)) from None
        return asked

    def _count(self, served: ServedModel, outcome: str) -> None:
        self.metrics.images.labels(served.name, outcome).inc()
