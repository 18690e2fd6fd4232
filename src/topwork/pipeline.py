"""The recipes: train, evaluate, predict. Each reads from top to bottom as calls to stages."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from topwork.bases import Network, find_weights, get_base, prepare, weights_here
from topwork.bundle import Samples, current_versions, save_model
from topwork.config import Precision, Settings
from topwork.dataset import Dataset
from topwork.engines import OpenVINOEngine, resolve_precision
from topwork.errors import DatasetError
from topwork.folder import SHOWN, Skipped, Split
from topwork.heads import Floats, Task
from topwork.history import History
from topwork.images import RECIPE, Source
from topwork.metrics import Report, make_report
from topwork.model import BaseFacts, DataFacts, ImageTable, Model, Predictions, Validation
from topwork.store import Space, VectorStore
from topwork.training import Labelled, train_head
from topwork.vectors import Progress, Vectors, embed

PARITY_IMAGES = 8
PREDICT_CHUNK = 512
# Fewer images than this are predicted without the store: a part for each would not pay.
FEW = 32


class Listener:
    """Hears how a recipe gets on; each method does nothing unless overridden."""

    def waiting(self, what: str) -> None:
        """Something takes seconds and has no steps to count; the next news ends it."""

    def found(self, dataset: Dataset) -> None:
        """The images, classes and splits are known."""

    def shapes(self, network: Network, settings: Settings, classes: int) -> None:
        """The shapes on the way through the network are known."""

    def read(self, done: int, total: int) -> None:
        """An image more has been read, to find out whether its vector is there."""

    def progressed(self, progress: Progress) -> None:
        """An image more has been run through the base."""

    def embedded(self, dataset: Dataset, vectors: Vectors) -> None:
        """Every image has its vector; `dataset` lacks those that could not be used."""

    def trained(self, history: History) -> None:
        """The head is trained."""


@dataclass(frozen=True)
class Trained:
    """What `train` made, and how long it took.

    Attributes:
        model: the model.
        network: its base, as built for this size.
        samples: a few of its images and their vectors, to check a saved model with.
        report: the kept epoch on the validation split.
        embedded: images run through the base.
        reused: images whose vectors were there already.
        skipped: files that were left out, with the reasons.
        seconds: wall time of `vectors` and `head`; the caller may add `total`.
    """

    model: Model
    network: Network
    samples: Samples
    report: Report
    embedded: int
    reused: int
    skipped: tuple[Skipped, ...]
    seconds: dict[str, float]

    def save(self, path: Path) -> dict[str, float]:
        """Writes the model folder; see `bundle.save_model`."""
        return save_model(self.model, self.network, path, self.samples)

    def to_json(self) -> dict[str, Any]:
        """Returns what `topwork train --json` prints, besides the model's path."""
        report, history = self.report, self.model.history
        found = history.overfitting()
        return {
            "classes": self.model.classes,
            **history.to_json(),
            "overfitting": None if found is None else asdict(found),
            "validation": {
                "accuracy": report.accuracy,
                "interval": report.interval,
                "macro_accuracy": report.macro_accuracy,
            },
            "images": {
                "embedded": self.embedded,
                "reused": self.reused,
                "skipped": len(self.skipped),
            },
            "skipped": [asdict(item) for item in self.skipped],
            "seconds": self.seconds,
        }


def train(
    dataset: Dataset, settings: Settings, store: Path, listener: Listener | None = None
) -> Trained:
    """Trains a classifier on a dataset's training split.

    Args:
        dataset: images with labels; a validation split is made if it has none.
        settings: everything else that decides the result.
        store: where vectors and networks are kept.
        listener: hears how it gets on.

    Returns:
        The model with its kept epoch, and figures.

    Raises:
        TopworkError: any of its kinds; see `errors`.
    """
    listener = listener or Listener()
    dataset = dataset.with_validation(settings.validation_fraction, settings.seed)
    listener.found(dataset)
    dataset = dataset.select(dataset.splits != Split.TEST)

    started = time.perf_counter()
    listener.waiting(f"preparing {settings.base}")
    network = prepare_network(settings, store)
    listener.shapes(network, settings, len(dataset.classes))
    space = make_space(network, settings)
    facts = BaseFacts(
        feature_shape=network.feature_shape,
        vector_length=network.vector_length,
        parameters=network.parameters,
    )
    dataset, vectors = embed(
        dataset,
        VectorStore(store, space, network.vector_length),
        lambda: OpenVINOEngine(network.openvino_path, space.image_size, Precision(space.precision)),
        strict=settings.strict,
        on_read=listener.read,
        on_progress=listener.progressed,
    )
    listener.embedded(dataset, vectors)
    embedded = time.perf_counter()

    part = {split: dataset.splits == split for split in (Split.TRAIN, Split.VALIDATION)}
    _check_classes(dataset, part[Split.TRAIN])
    labelled = {s: Labelled(vectors.values[at], dataset.labels[at]) for s, at in part.items()}
    head, history = train_head(
        labelled[Split.TRAIN],
        labelled[Split.VALIDATION],
        outputs=len(dataset.classes),
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        optimizer=settings.optimizer,
        seed=settings.seed,
    )
    listener.trained(history)
    finished = time.perf_counter()

    validation = labelled[Split.VALIDATION]
    predicted = head.logits(validation.vectors).argmax(axis=1)
    report = make_report(validation.targets, predicted, len(dataset.classes))
    model = Model(
        classes=dataset.classes,
        task=Task.CLASSES,
        head=head,
        history=history,
        space=space,
        base=facts,
        settings=settings,
        data=_describe_data(dataset, vectors),
        validation=Validation(
            accuracy=report.accuracy,
            interval=report.interval,
            macro_accuracy=report.macro_accuracy,
            loss=history.row(history.best_epoch)["val_loss"],
        ),
        images=_list_images(dataset, vectors),
        network=network.openvino_path,
        network_output=None,
        versions=current_versions(),
    )
    few = np.linspace(0, len(dataset) - 1, min(PARITY_IMAGES, len(dataset))).astype(int)
    return Trained(
        model=model,
        network=network,
        samples=Samples(tuple(dataset.sources[i] for i in few), vectors.values[few]),
        report=report,
        embedded=vectors.embedded,
        reused=vectors.reused,
        skipped=dataset.skipped,
        seconds={"vectors": embedded - started, "head": finished - embedded},
    )


@dataclass(frozen=True)
class Evaluation:
    """A model's answers to images whose labels are known.

    Attributes:
        report: accuracy, interval, per class.
        split: which images: `train`, `validation`, `test` or `all`.
        seen: how many of them the model was trained or chosen on; not an honest test if any.
        skipped: files that were left out, with the reasons.
    """

    report: Report
    split: str
    seen: int
    skipped: tuple[Skipped, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns what `topwork evaluate --json` prints, besides the model and its classes."""
        report = self.report
        return {
            "split": self.split,
            "images": len(self),
            "accuracy": report.accuracy,
            "interval": report.interval,
            "macro_accuracy": report.macro_accuracy,
            "precision": [None if math.isnan(v) else v for v in report.precision.tolist()],
            "recall": [None if math.isnan(v) else v for v in report.recall.tolist()],
            "support": report.support.tolist(),
            "confusion": report.confusion.tolist(),
            "seen": self.seen,
            "skipped": [asdict(item) for item in self.skipped],
        }

    def __len__(self) -> int:
        return int(self.report.confusion.sum())


def evaluate(
    model: Model,
    dataset: Dataset,
    split: str,
    store: Path,
    *,
    strict: bool = False,
    listener: Listener | None = None,
) -> Evaluation:
    """Tests a model on one split of a dataset.

    A dataset without split folders is divided as the model remembers it: images that it was
    trained on are `train`, those that its epoch was chosen by are `validation`, all others
    are `test`.

    Args:
        model: a trained model.
        dataset: images with labels.
        split: `train`, `validation`, `test` or `all`.
        store: where vectors are kept; those of images seen before are reused.
        strict: stop at the first image that cannot be used.
        listener: hears how it gets on.

    Raises:
        DatasetError: the split is empty, or has classes that the model does not know.
    """
    listener = listener or Listener()
    dataset = _match_classes(model, dataset)
    if split != "all" and dataset.has_split_folders:
        dataset = _choose(dataset, dataset.splits == split, split)
    dataset, vectors = embed(
        dataset,
        VectorStore(store, model.local_space, model.base.vector_length),
        lambda: model.engine,
        strict=strict,
        on_read=listener.read,
        on_progress=listener.progressed,
    )
    listener.embedded(dataset, vectors)
    remembered = dict(zip(model.images.hashes, model.images.splits, strict=True))
    origin = np.array([remembered.get(image, str(Split.TEST)) for image in vectors.hashes])
    values = vectors.values
    if split != "all" and not dataset.has_split_folders:
        chosen = origin == split
        dataset, values, origin = _choose(dataset, chosen, split), values[chosen], origin[chosen]
    predicted = model.head.logits(values).argmax(axis=1)
    return Evaluation(
        report=make_report(dataset.labels, predicted, len(model.classes)),
        split=split,
        seen=int((origin != Split.TEST).sum()),
        skipped=dataset.skipped,
    )


def predict(model: Model, sources: Sequence[Source]) -> Iterator[tuple[int, Predictions]]:
    """Predicts any number of images, a chunk at a time.

    Yields:
        The place of the chunk's first image, and its predictions.
    """
    for start in range(0, len(sources), PREDICT_CHUNK):
        yield start, model.predict(sources[start : start + PREDICT_CHUNK])


def predict_all(model: Model, dataset: Dataset, store: Path) -> Floats:
    """Returns the logits (N, C) of a dataset's N images, reusing and keeping their vectors.

    Raises:
        DatasetError: an image cannot be used.
    """
    if len(dataset) < FEW:
        found = model.predict(dataset.sources)
        _refuse_any(Skipped(dataset.names[n], reason) for n, reason in found.failed.items())
        return found.logits
    vectors_of = VectorStore(store, model.local_space, model.base.vector_length)
    usable, vectors = embed(dataset, vectors_of, lambda: model.engine)
    _refuse_any(usable.skipped[len(dataset.skipped) :])
    return model.head.logits(vectors.values)


def _refuse_any(failed: Iterable[Skipped]) -> None:
    names = [f"{item.path}: {item.reason}" for item in failed]
    if names:
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise DatasetError(f"every image must be readable; {'; '.join(names[:SHOWN])}{more}")


@dataclass(frozen=True)
class Layer:
    """One stage on the way from pixels to logits.

    Attributes:
        stage: `INPUTS`, `BASE`, `VECTORS` or `OUTPUTS`.
        output_shape: of a batch.
        parameters: how many weights it has.
        trained: whether training changes them.
    """

    stage: str
    output_shape: tuple[int, ...]
    parameters: int
    trained: bool


def describe(settings: Settings, classes: int, store: Path) -> list[Layer]:
    """Returns the stages of a network for some number of classes.

    Shapes do not depend on the weights, so where those are not at hand untrained ones do.
    """
    spec = get_base(settings.base)
    if settings.weights is None and not weights_here(spec):
        settings = settings.model_copy(update={"weights": "random"})
    network = prepare_network(settings, store)
    batch, length = settings.batch_size, network.vector_length
    return [
        Layer("INPUTS", (batch, network.image_size, network.image_size, 3), 0, False),
        Layer("BASE", (batch, *network.feature_shape), network.parameters, False),
        Layer("VECTORS", (batch, length), 0, False),
        Layer("OUTPUTS", (batch, classes), (length + 1) * classes, True),
    ]


def prepare_network(settings: Settings, store: Path) -> Network:
    """Builds the base for the settings' image size, or finds it built in the store."""
    spec = get_base(settings.base)
    size = spec.choose_size(settings.image_size)
    return prepare(spec, size, find_weights(spec, settings.weights), store)


def make_space(network: Network, settings: Settings) -> Space:
    """Says what decides a vector, with `auto` resolved for this CPU."""
    return Space(
        base=network.spec.name,
        weights_sha256=network.weights_sha256,
        image_size=network.image_size,
        network=network.recipe,
        decoder=RECIPE,
        interpolation=str(settings.interpolation),
        precision=str(resolve_precision(settings.precision)),
    )


def _check_classes(dataset: Dataset, training: Any) -> None:
    lost = set(range(len(dataset.classes))) - set(dataset.labels[training].tolist())
    if lost:
        names = ", ".join(dataset.classes[label] for label in sorted(lost))
        raise DatasetError(f"no usable training image is left of the class {names}")


def _describe_data(dataset: Dataset, vectors: Vectors) -> DataFacts:
    rows = sorted(
        zip(vectors.hashes, dataset.labels.tolist(), dataset.splits.tolist(), strict=True)
    )
    made = dataset.split_made
    return DataFacts(
        fingerprint=hashlib.sha256(repr(rows).encode()).hexdigest(),
        counts=dataset.counts(),
        skipped=len(dataset.skipped),
        split={"made_by": "folders"}
        if made is None
        else {"made_by": "topwork", "fraction": made.fraction, "seed": made.seed},
    )


def _list_images(dataset: Dataset, vectors: Vectors) -> ImageTable:
    return ImageTable(
        names=dataset.names,
        labels=tuple(dataset.classes[label] for label in dataset.labels),
        splits=tuple(map(str, dataset.splits)),
        hashes=vectors.hashes,
    )


def _match_classes(model: Model, dataset: Dataset) -> Dataset:
    """Numbers a dataset's classes as the model does."""
    unknown = [name for name in dataset.classes if name not in model.classes]
    if unknown:
        raise DatasetError(
            f"the model knows the classes {', '.join(model.classes)}; the data also has "
            f"{', '.join(unknown)}. Move or rename those folders, or train with them"
        )
    index = {name: place for place, name in enumerate(model.classes)}
    labels = np.array([index[dataset.classes[label]] for label in dataset.labels], np.int32)
    return replace(dataset, classes=model.classes, labels=labels)


def _choose(dataset: Dataset, chosen: Any, split: str) -> Dataset:
    if chosen.any():
        return dataset.select(chosen)
    there = sorted({*map(str, dataset.splits)}) if dataset.has_split_folders else []
    raise DatasetError(
        f"no images in the split {split!r} of {dataset.root}; "
        + (f"it has {', '.join(there)}" if there else "the model was trained with all of them")
        + "; choose one with --split"
    )
