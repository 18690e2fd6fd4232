"""Quantization: networks and images in, networks in int8 out, and what that costs.

The ranges of an int8 network are fitted to a sample of the training images, drawn by their hashes
and the seed. On that sample its vectors are compared with those in the usual arithmetic.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.bases import Network, Stack, check_int8, find_int8, make_int8
from topwork.core import warm_up
from topwork.core.arrays import Floats32, Pixels
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Interpolation, Precision, Settings
from topwork.core.errors import DatasetError, ImageError
from topwork.core.parallel import in_threads
from topwork.data.dataset import Dataset
from topwork.data.hashing import hash_images
from topwork.data.listing import Split
from topwork.data.splits import make_folds
from topwork.images.decode import read_pixels
from topwork.vectors.embed import Embedding, embed_images
from topwork.vectors.extractors import choose_precision, make_extractors

# The numbers of images that the ranges are fitted to and that vectors are compared on. Fitted to
# 32, 64, 128 and 400 images, Xception's vectors at 150 px agree with those in f32 to 0.979, 0.980,
# 0.981 and 0.981 (means of two draws), efficientnet-lite0's at 224 px to 0.968 each time.
FITTED = 64
COMPARED = 300
# An earlier calibration is used again if this share of its images is among those of today.
LEAST_SHARE = 0.5
# The least agreement of vectors. Xception at 150 px and efficientnet-lite0 at 224 px have 0.97;
# below this, the vectors no longer say enough of what the network sees.
LEAST_KEPT = 0.85
# The heads that are compared are ridge regressions on standardized vectors: there is nothing to
# tune, and they are solved directly.
FOLDS = 5
PENALTY = 0.1  # of the vector's length


@dataclass(frozen=True)
class Cost:
    """How many more images a head gets right on vectors of the usual arithmetic.

    Attributes:
        accuracy: by folds on int8 vectors, 0..1.
        usual: the same on vectors of the usual arithmetic.
        error: standard error of the difference, over the images.
    """

    accuracy: float
    usual: float
    error: float


@dataclass(frozen=True)
class Quantization:
    """What int8 keeps of a network's vectors, on a sample of the training images.

    Attributes:
        images: how many were compared.
        fitted: how many the ranges were fitted to.
        precision: the arithmetic it is compared with.
        agreement: 1 minus the mean squared difference as a share of the vectors' variance, for
            each network; 1 for equal vectors, and never more.
        cost: in accuracy; None where images have no class, or too few of them.
        kept: whether vectors are made in int8; if not, they are too far from those of `precision`,
            which takes its place.
    """

    images: int
    fitted: int
    precision: Precision
    agreement: tuple[float, ...]
    cost: Cost | None
    kept: bool = True

    def to_json(self) -> dict[str, Any]:
        """Returns it for `topwork train --json`."""
        return asdict(self)


@dataclass(frozen=True)
class Fitted:
    """Networks that are ready to make vectors, and what they were fitted to.

    Attributes:
        stack: the networks.
        dataset: without the images that could not be read.
        settings: with the precision that vectors are made in.
        quantization: what int8 costs; None for another precision.
    """

    stack: Stack
    dataset: Dataset
    settings: Settings
    quantization: Quantization | None = None


def fit_networks(
    stack: Stack,
    dataset: Dataset,
    settings: Settings,
    store: Path,
    callback: Callback = SILENT,
) -> Fitted:
    """Makes the networks of a stack compute in int8, if the settings say so.

    Where int8 keeps too little of what a network says, the usual arithmetic takes its place.

    Args:
        stack: the networks.
        dataset: the images; those of the training split are what ranges are fitted to, or all
            where there are none.
        settings: precision, seed, and what decides vectors.
        store: where vectors and networks are kept.
        callback: hears how it gets on.

    Returns:
        What to go on with; all as it is for another precision.

    Raises:
        SettingsError: NNCF is not installed.
        DatasetError: no image can be used.
        NetworkError: NNCF breaks.
        StoreError: the store cannot be written.
    """
    if settings.precision is not Precision.INT8:
        return Fitted(stack, dataset, settings)
    check_int8()
    dataset = hash_images(dataset, settings.strict, callback)
    warm_up.running_networks()
    sample = _draw_sample(dataset, settings.seed)
    usual = settings.model_copy(update={"precision": Precision.AUTO})
    # NNCF has a process of its own, and leaves most of one core to the usual vectors.
    with ThreadPoolExecutor(1) as pool:
        fitting = [
            pool.submit(_fit, network, sample, dataset, settings) for network in stack.networks
        ]
        extractors = make_extractors(stack, usual, store)
        sample, wanted = embed_images(sample, extractors, callback=callback)
        callback.on_wait(f"fitting {settings.base} to int8")
        fitted = replace(stack, networks=tuple(fit.result() for fit in fitting))
    extractors = make_extractors(fitted, settings, store)
    sample, found = embed_images(sample, extractors, hashes=wanted.hashes, callback=callback)
    quantization = _measure(sample, found, wanted, fitted, choose_precision(usual))
    callback.on_quantized(quantization)
    if not quantization.kept:
        return Fitted(stack, dataset, usual, quantization)
    return Fitted(fitted, dataset, settings, quantization)


def _measure(
    sample: Dataset, found: Embedding, wanted: Embedding, stack: Stack, precision: Precision
) -> Quantization:
    """Compares the vectors of a sample in int8 with those in the usual arithmetic."""
    in_both = np.isin(wanted.hashes, found.hashes)
    values, others = np.asarray(found.values[:]), np.asarray(wanted.values[:])[in_both]
    agreement = _measure_agreements(values, others, stack)
    return Quantization(
        images=len(sample),
        fitted=min(FITTED, len(sample)),
        precision=precision,
        agreement=agreement,
        cost=measure_cost(values, others, sample),
        kept=all(share >= LEAST_KEPT for share in agreement),
    )


def measure_agreement(values: Floats32, others: Floats32) -> float:
    """Returns what vectors keep of others: 1 minus mean squared difference over variance.

    Args:
        values: (N, D).
        others: (N, D), of the same images.
    """
    residual = float(np.square(values - others, dtype=np.float64).sum())
    total = float(np.square(others - others.mean(axis=0), dtype=np.float64).sum())
    if not total:
        return float(residual == 0)
    return 1 - residual / total


def measure_cost(values: Floats32, others: Floats32, sample: Dataset) -> Cost | None:
    """Compares heads on two vectors of each image, by folds.

    Args:
        values: (N, D) in int8.
        others: (N, D) in the usual arithmetic.
        sample: the N images.

    Returns:
        The cost; None without classes, or with too few images of two of them.
    """
    if not sample.task.picks_one:
        return None
    labels = np.asarray(sample.labels).ravel()
    names, counts = np.unique(labels[labels >= 0], return_counts=True)
    rows = np.flatnonzero(np.isin(labels, names[counts >= FOLDS]))
    if (counts >= FOLDS).sum() < 2:
        return None
    right = [_answer_folds(vectors[rows], labels[rows]) for vectors in (values, others)]
    difference = right[0].astype(float) - right[1]
    error = float(difference.std(ddof=1) / np.sqrt(len(rows)))
    return Cost(float(right[0].mean()), float(right[1].mean()), error)


def _answer_folds(vectors: Floats32, labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns which images a head gets right that was solved on the other folds."""
    names, numbers = np.unique(labels, return_inverse=True)
    found = np.empty(len(labels), np.int64)
    for held_out in make_folds(numbers, None, FOLDS, seed=0):
        kept = np.setdiff1d(np.arange(len(labels)), held_out)
        scale = vectors[kept].std(axis=0)
        scaled = (vectors - vectors[kept].mean(axis=0)) / np.where(scale > 0, scale, 1)
        train, test = scaled[kept].astype(np.float64), scaled[held_out].astype(np.float64)
        wanted = np.where(numbers[kept, None] == np.arange(len(names)), 1.0, -1.0)
        # There are fewer images than values, so it is solved for a weight of each image.
        kernel = train @ train.T + PENALTY * vectors.shape[1] * np.eye(len(kept))
        weights = np.linalg.solve(kernel, wanted - wanted.mean(axis=0))
        found[held_out] = (test @ (train.T @ weights) + wanted.mean(axis=0)).argmax(axis=1)
    return np.equal(found, numbers)


def _draw_sample(dataset: Dataset, seed: int) -> Dataset:
    """Draws images by their hashes, so that few change when images are added or removed."""
    hashes = np.array(dataset.hashes)
    usable = dataset.splits == Split.TRAIN
    indices = np.flatnonzero(usable) if usable.any() else np.arange(len(dataset))
    _, first = np.unique(hashes[indices], return_index=True)
    drawn = [
        (hashlib.sha256(f"{seed} {hashes[index]}".encode()).digest(), index)
        for index in indices[first].tolist()
    ]
    chosen = [index for _, index in sorted(drawn)[:COMPARED]]
    return dataset.select(np.isin(np.arange(len(dataset)), chosen))


def _fit(network: Network, sample: Dataset, dataset: Dataset, settings: Settings) -> Network:
    """Returns a network in int8: an earlier one, or fitted to the sample's first images by hash."""
    known = find_int8(network, dataset.hashes or (), settings.seed, LEAST_SHARE)
    if known is not None:
        return replace(network, int8=known)
    hashes = np.array(sample.hashes)
    interpolation = Interpolation(settings.interpolation)

    def load(index: int) -> Pixels | None:
        try:
            return read_pixels(
                sample.sources[index], network.image_size, interpolation, settings.range or ""
            )
        except ImageError:
            return None  # it is left out, and named, when the sample is embedded

    order = np.argsort(hashes).tolist()
    loaded = zip(order, in_threads(load, order), strict=True)
    found = [*islice(((n, pixels) for n, pixels in loaded if pixels is not None), FITTED)]
    if not found:
        raise DatasetError(f"none of {len(order)} images can be decoded, to fit int8 to")
    indices, pixels = zip(*found, strict=True)
    return make_int8(network, hashes[[*indices]].tolist(), np.stack(pixels), settings.seed)


def _measure_agreements(values: Floats32, others: Floats32, stack: Stack) -> tuple[float, ...]:
    ends = np.cumsum([network.vector_length for network in stack.networks])[:-1]
    pairs = zip(np.split(values, ends, axis=1), np.split(others, ends, axis=1), strict=True)
    return tuple(measure_agreement(*pair) for pair in pairs)
