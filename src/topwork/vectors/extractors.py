"""What turns images into vectors: the networks, their engines, and where vectors are kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from topwork.bases import Network, Stack, find_all_weights, parse_bases, prepare_stack
from topwork.bases.engines import (
    Engine,
    KerasEngine,
    NetworkCache,
    OpenVINOEngine,
    has_accelerator,
    resolve_precision,
)
from topwork.core.config import EngineKind, Precision, Settings
from topwork.core.ranges import leave_out_usual
from topwork.images.augment import ORIGINAL
from topwork.images.decode import DECODER_VERSION
from topwork.vectors.cluster import join_cluster
from topwork.vectors.image_tasks import ImageTask, Outcome
from topwork.vectors.space import FLIP, Space
from topwork.vectors.store import VectorStore

# Lets other machines run images and write their vectors to the store; says how each went.
RunRemotely = Callable[[Sequence[ImageTask]], Generator[Outcome]]


@dataclass(frozen=True)
class FeatureExtractor:
    """One network that turns images into vectors, and the store that keeps them.

    Attributes:
        store: where its vectors are kept.
        open_engine: compiles the network.
        run_remotely: runs images on other machines instead; None if they are run on this one.
    """

    store: VectorStore
    open_engine: Callable[[], Engine]
    run_remotely: RunRemotely | None = None


def prepare_networks(settings: Settings, store: Path) -> Stack:
    """Builds the bases for the settings' image sizes, or finds them built in the store."""
    parts = parse_bases(settings.base, settings.image_size)
    weights = find_all_weights([spec for spec, _ in parts], settings.weights, store)
    sized = [(spec, size, found) for (spec, size), found in zip(parts, weights, strict=True)]
    return prepare_stack(sized, settings.flip, store)


def make_space(network: Network, settings: Settings, view: str | None = None) -> Space:
    """Says what decides a vector, with `auto` resolved for this CPU.

    Args:
        network: the base.
        settings: filter, range, precision, and whether an image is flipped.
        view: which view; None for the one that a prediction sees.
    """
    return Space(
        base=network.spec.name,
        weights_sha256=network.weights_sha256,
        image_size=network.image_size,
        network=network.version,
        decoder=DECODER_VERSION,
        interpolation=str(settings.interpolation),
        precision=str(choose_precision(settings)),
        view=view or (FLIP if settings.flip else ORIGINAL),
        calibration=network.int8.calibration if network.int8 else "",
        ranges=leave_out_usual(settings.range or ""),
    )


def make_extractors(
    stack: Stack, settings: Settings, store: Path, view: str | None = None
) -> list[FeatureExtractor]:
    """Returns the feature extractor of each network of a stack; arguments as for `make_space`."""
    extractors, kind = [], choose_engine(settings)
    for network in stack.networks:
        space = make_space(network, settings, view)

        def open_engine(network: Network = network, space: Space = space) -> Engine:
            precision, flip = Precision(space.precision), space.view == FLIP
            if kind is EngineKind.KERAS:
                return KerasEngine(network.folder, network.image_size, precision, flip=flip)
            return OpenVINOEngine(
                network.vectors_path,
                network.image_size,
                precision,
                flip=flip,
                cache=NetworkCache.of_store(store),
            )

        run_remotely = None
        if kind is EngineKind.RAY:
            run_remotely = partial(
                join_cluster(settings.address).run,
                root=store,
                space=space,
                vector_length=network.vector_length,
                network=network.vectors_path,
            )
        kept = VectorStore(store, space, network.vector_length)
        extractors.append(FeatureExtractor(kept, open_engine, run_remotely))
    return extractors


def choose_engine(settings: Settings) -> EngineKind:
    """Returns what runs the base, with `auto` resolved for this machine."""
    if settings.engine is not EngineKind.AUTO:
        return settings.engine
    bytes_ = settings.precision is Precision.INT8
    return EngineKind.KERAS if has_accelerator() and not bytes_ else EngineKind.OPENVINO


def choose_precision(settings: Settings) -> Precision:
    """Returns the arithmetic of the base, with `auto` resolved for what runs it.

    Raises:
        SettingsError: bf16 was asked for and the CPU, which is to run it, has none.
    """
    if choose_engine(settings) is not EngineKind.KERAS:
        return resolve_precision(settings.precision)
    if settings.precision is not Precision.AUTO:
        return settings.precision
    return Precision.BF16 if has_accelerator() else Precision.F32
