"""A trained classifier: the base, the head, and everything needed to use and to judge it.

Saved, a model is a folder that needs nothing else:

    model.json         what it is: classes, base, preprocessing, settings, data, metrics, versions
    head.safetensors   kernel (D, C) and bias (C,)
    model.keras        the whole network; opens in stock Keras on any backend
    model.xml, .bin    the whole network for OpenVINO, with outputs `logits` and `vectors`
    history.json, .png the curve of all epochs
    images.parquet     name, label, split and SHA-256 of every image it was trained with

A prediction runs `model.xml` and the head; it needs neither Keras nor JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from topwork.config import Interpolation, Precision, Settings
from topwork.engines import OpenVINOEngine, resolve_precision
from topwork.errors import ImageError
from topwork.heads import Floats, Head, Task, probabilities
from topwork.history import History
from topwork.images import Source
from topwork.store import Space
from topwork.vectors import in_threads, read_pixels

Pixels = NDArray[np.uint8]


class BaseFacts(BaseModel):
    """The shapes on the way through the network."""

    model_config = ConfigDict(frozen=True)

    feature_shape: tuple[int, int, int]
    vector_length: int
    parameters: int


class DataFacts(BaseModel):
    """The images a model was made from.

    Attributes:
        fingerprint: SHA-256 over every image's hash, label and split.
        counts: images per split and class.
        skipped: how many images could not be used.
        split: how the validation split was made: `folders`, or its fraction and seed.
    """

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    counts: dict[str, dict[str, int]]
    skipped: int
    split: dict[str, Any]


class Validation(BaseModel):
    """The kept epoch on the validation split; chosen there, so slightly optimistic."""

    model_config = ConfigDict(frozen=True)

    accuracy: float
    interval: tuple[float, float]
    macro_accuracy: float
    loss: float


@dataclass(frozen=True)
class Predictions:
    """What a model says of some images.

    Attributes:
        logits: (N, C) float32 for the images that could be read.
        probabilities: (N, C) float32, rows sum to 1.
        places: (N,) int64, which of the given images each row belongs to.
        failed: reason by place, for the others.
    """

    logits: Floats
    probabilities: Floats
    places: NDArray[np.int64]
    failed: dict[int, str]


@dataclass(frozen=True)
class ImageTable:
    """The images of a dataset as a model remembers them; columns of equal length N."""

    names: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """A trained classifier.

    Attributes:
        classes: names of the C classes, in the order of the logits.
        task: what the logits mean.
        head: the dense layer.
        history: the record of its training.
        space: base, weights, size, preprocessing and precision: what a vector is here.
        base: shapes of the network.
        settings: what it was trained with.
        data: the images it was made from.
        validation: its accuracy on the validation split.
        images: names, labels, splits and hashes of those images.
        network: OpenVINO file of the base, with vectors as its output `network_output`.
        network_output: the name of that output, None if it is the only one.
        versions: of Python and the libraries that made it.
    """

    classes: tuple[str, ...]
    task: Task
    head: Head
    history: History
    space: Space
    base: BaseFacts
    settings: Settings
    data: DataFacts
    validation: Validation
    images: ImageTable
    network: Path
    network_output: str | None
    versions: dict[str, str]

    @property
    def interpolation(self) -> Interpolation:
        """The filter that every image is resized with."""
        return Interpolation(self.space.interpolation)

    @property
    def local_space(self) -> Space:
        """What a vector is on this machine: in f32 where its CPU lacks the bf16 of training."""
        if self.space.precision == Precision.F32:
            return self.space
        return replace(self.space, precision=str(resolve_precision(Precision.AUTO)))

    @cached_property
    def engine(self) -> OpenVINOEngine:
        """The base, compiled once for this CPU; its outputs are vectors."""
        space = self.local_space
        return OpenVINOEngine(
            self.network, space.image_size, Precision(space.precision), output=self.network_output
        )

    def __getstate__(self) -> dict[str, Any]:
        # A compiled network belongs to its process.
        return {name: value for name, value in self.__dict__.items() if name != "engine"}

    def predict(self, sources: Sequence[Source]) -> Predictions:
        """Predicts images, replaying the model's own preprocessing.

        Args:
            sources: N files, or encoded images in memory.

        Returns:
            Logits and probabilities; an image that cannot be read is in `failed` instead.
        """
        failed: dict[int, str] = {}
        vectors = np.empty((len(sources), self.base.vector_length), np.float32)
        places: list[int] = []
        for place, vector in self.engine.run(self._pixels(sources, failed)):
            vectors[len(places)] = vector
            places.append(place)
        logits = self.head.logits(vectors[: len(places)])
        shown = probabilities(self.task, logits)
        return Predictions(logits, shown, np.array(places, np.int64), failed)

    def _pixels(self, sources: Sequence[Source], failed: dict[int, str]) -> Any:
        def load(source: Source) -> Pixels | ImageError:
            try:
                return read_pixels(source, self.space.image_size, self.interpolation)
            except ImageError as error:
                return error

        for place, pixels in enumerate(in_threads(load, sources)):
            if isinstance(pixels, ImageError):
                failed[place] = str(pixels)
            else:
                yield place, pixels
