"""A trained classifier: the base, the head, and everything needed to use and to judge it.

Saved, a model is a folder that needs nothing else:

    model.json         what it is: classes, base, preprocessing, settings, data, metrics, versions
    head.safetensors   kernel (D, C) and bias (C,); inner_kernel, inner_bias if it has such
    model.keras        the whole network; opens in stock Keras on any backend
    model.xml, .bin    the whole network for OpenVINO, with outputs `logits` and `vectors`
                       (`vectors_1`, `vectors_2`, ... of several bases)
    history.json, .svg the curve of all epochs
    report.html        what a person should see of it
    answers.parquet    its logits for the validation images
    tuning.svg         the heads it was chosen among, if it was
    images.parquet     name, label, split and SHA-256 of every image it was trained with

A prediction runs `model.xml` and the head; it needs neither Keras nor JAX.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topwork.bases import name_inputs
from topwork.bases.engines import NetworkCache, OpenVINOEngine
from topwork.core import warm_up
from topwork.core.arrays import Floats32, Pixels
from topwork.core.config import Interpolation, Precision, Settings, default_store
from topwork.core.errors import ImageError, SettingsError
from topwork.core.parallel import in_threads
from topwork.core.task import Task
from topwork.data.class_labels import ClassLabels
from topwork.heads.dense import Head, probabilities
from topwork.images.decode import Source, decode, read_bytes
from topwork.images.traits import Trait, find_traits
from topwork.metrics.calibration import Calibration
from topwork.metrics.conformal import Residuals
from topwork.metrics.history import History
from topwork.models.model_facts import (
    BaseInfo,
    DataFacts,
    ImageTable,
    NetworkFile,
    Provenance,
    SearchFacts,
    ValidationScore,
)

if TYPE_CHECKING:
    from topwork.vectors.extractors import FeatureExtractor

# So many images are answered one by one sooner than the networks are compiled for more.
QUICK = 4


@dataclass(frozen=True)
class Predictions:
    """What a model says of some images.

    Attributes:
        logits: (N, C) float32 for the images that could be read; one column for two classes.
        probabilities: (N, C) float32, for one of many or of two rows sum to 1; the numbers
            themselves for numbers.
        indices: (N,) int64, which of the given images each row belongs to.
        failed: reason by index, for the others.
        unscaled: which have more than 8 bits a channel, where the model has no range for them:
            each was scaled by a guess of its own.
    """

    logits: Floats32
    probabilities: Floats32
    indices: NDArray[np.int64]
    failed: dict[int, str]
    unscaled: tuple[int, ...] = ()


@dataclass(frozen=True)
class Model:
    """A trained classifier.

    Attributes:
        classes: names of the C classes, in the order of the logits (for two classes a single
            logit is that of the second), or of the labels or numbers.
        task: what the logits mean.
        head: the dense layers; divided by the temperature, so that its logits are calibrated.
        history: the record of its training, before the temperature.
        bases: the networks whose vectors, side by side, the head takes.
        settings: what it was trained with; what was left to `auto` is what was chosen.
        data: the images it was made from.
        validation: how good it is on the validation split.
        calibration: how sure it may be; for numbers, how far off it is.
        search: how the head was chosen among others; None if it was not.
        images: names, labels, splits and hashes of those images.
        networks: the file that each base's vectors come from.
        versions: of Python and the libraries that made it.
        provenance: the command that made it; None if that was Python.
        class_labels: the classes as Python was given them; None where that is by their names.
    """

    classes: tuple[str, ...]
    task: Task
    head: Head
    history: History
    bases: tuple[BaseInfo, ...]
    settings: Settings
    data: DataFacts
    validation: ValidationScore
    calibration: Calibration | Residuals
    search: SearchFacts | None
    images: ImageTable
    networks: tuple[NetworkFile, ...]
    versions: dict[str, str]
    provenance: Provenance | None = None
    class_labels: ClassLabels | None = None

    @property
    def class_values(self) -> NDArray[Any]:
        """The classes as Python was given them, (C,), in the order of `classes`."""
        return np.array(self.classes) if self.class_labels is None else self.class_labels.to_array()

    @property
    def temperature(self) -> float:
        """What the head was divided by; 1 for numbers, which have none."""
        return self.calibration.temperature if isinstance(self.calibration, Calibration) else 1.0

    @property
    def vector_length(self) -> int:
        """Length of a vector, over all bases."""
        return sum(base.vector_length for base in self.bases)

    @property
    def inputs(self) -> dict[str, int]:
        """The size in pixels of each input of its files by its name, ascending."""
        return name_inputs(base.space.image_size for base in self.bases)

    def find_data(self) -> str:
        """Returns where the images are that it was trained with.

        Raises:
            SettingsError: it does not know, or they are not there any more.
        """
        data = self.provenance.data if self.provenance else None
        if data is None:
            raise SettingsError(
                "data: the model does not know where the images are that it was trained with; say "
                "it with --data DATA"
            )
        if "://" not in data and not Path(data).exists():
            raise SettingsError(
                f"data: the images of the model were in {data}, where there is nothing now; say "
                "where they are with --data DATA"
            )
        return data

    @property
    def interpolation(self) -> Interpolation:
        """The filter that every image is resized with."""
        return Interpolation(self.bases[0].space.interpolation)

    @property
    def ranges(self) -> str:
        """Which values are black and white in pictures of more than 8 bits; see `core.ranges`."""
        return self.bases[0].space.ranges

    @property
    def knows_range(self) -> bool:
        """Whether it was trained on pictures of more than 8 bits, or told how they are read."""
        return bool(self.ranges or self.settings.range)

    @property
    def precision(self) -> Precision:
        """The arithmetic that the vectors were trained in."""
        return Precision(self.bases[0].space.precision)

    @cached_property
    def engines(self) -> tuple[OpenVINOEngine, ...]:
        """The bases' networks, compiled once for this CPU; their outputs are vectors."""
        return self._compile()

    @cached_property
    def quick_engines(self) -> tuple[OpenVINOEngine, ...]:
        """The same for an image at a time, on all cores: the soonest answer for a few."""
        return self._compile(batch_size=1, streams=1)

    def engines_for(self, count: int) -> tuple[OpenVINOEngine, ...]:
        """Returns the networks that answer so many images the soonest."""
        return self.quick_engines if count <= QUICK else self.engines

    def _compile(self, **options: int) -> tuple[OpenVINOEngine, ...]:
        return tuple(
            OpenVINOEngine(
                file.path,
                base.space.image_size,
                Precision(base.local_space.precision),
                output=file.output,
                flip=file.flip,
                cache=NetworkCache.of_store(default_store(), file.content),
                **options,
            )
            for base, file in zip(self.bases, self.networks, strict=True)
        )

    def extractors(self, store: Path) -> list[FeatureExtractor]:
        """Returns where the bases' vectors are kept in a store, and how they are made."""
        # A prediction needs no store, and what reads one takes long to import.
        from topwork.vectors.extractors import FeatureExtractor
        from topwork.vectors.store import VectorStore

        return [
            FeatureExtractor(
                VectorStore(store, base.local_space, base.vector_length),
                lambda n=n: self.engines[n],  # type: ignore[misc]
            )
            for n, base in enumerate(self.bases)
        ]

    def __getstate__(self) -> dict[str, Any]:
        # A compiled network belongs to its process.
        compiled = ("engines", "quick_engines")
        return {name: value for name, value in self.__dict__.items() if name not in compiled}

    def predict(self, sources: Sequence[Source]) -> Predictions:
        """Predicts images, replaying the model's own preprocessing.

        Args:
            sources: N files, or encoded images in memory.

        Returns:
            Logits and probabilities; an image that cannot be read is in `failed` instead.
        """
        warm_up.running_networks()
        failed: dict[int, str] = {}
        unscaled: set[int] = set()
        engines = self.engines_for(len(sources))
        parts = [
            self._run(base, engine, sources, failed, unscaled)
            for base, engine in zip(self.bases, engines, strict=True)
        ]
        indices = np.array([n for n in range(len(sources)) if n not in failed], np.int64)
        vectors = np.concatenate([part[indices] for part in parts], axis=1)
        logits = self.head.logits(vectors)
        shown = probabilities(self.task, logits)
        return Predictions(logits, shown, indices, failed, tuple(sorted(unscaled)))

    def _run(
        self,
        base: BaseInfo,
        engine: OpenVINOEngine,
        sources: Sequence[Source],
        failed: dict[int, str],
        unscaled: set[int],
    ) -> Floats32:
        """Returns a base's vectors (N, D) of N images; rows of those in `failed` hold nothing."""

        def load(index: int) -> Pixels | ImageError:
            try:
                data = read_bytes(sources[index])
                if not self.knows_range and Trait.DEEP & find_traits(data):
                    unscaled.add(index)
                return decode(data, engine.image_size, self.interpolation, ranges=self.ranges)
            except ImageError as error:
                return error

        def pixels() -> Iterator[tuple[int, Pixels]]:
            for index, image in enumerate(in_threads(load, range(len(sources)))):
                if isinstance(image, ImageError):
                    failed[index] = str(image)
                else:
                    yield index, image

        vectors = np.zeros((len(sources), base.vector_length), np.float32)
        for index, vector in engine.run(pixels()):
            vectors[index] = vector
        return vectors
