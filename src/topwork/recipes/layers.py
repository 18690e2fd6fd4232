"""The stages of a network, from pixels to logits, and their shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from topwork.bases import has_weights, parse_bases
from topwork.core.config import Settings
from topwork.vectors.extractors import prepare_networks


@dataclass(frozen=True)
class Layer:
    """One stage on the way from pixels to logits.

    Attributes:
        stage: `INPUTS`, `BASE`, `VECTORS`, `INNER` or `OUTPUTS`.
        output_shape: of a batch.
        parameters: how many weights it has.
        trained: whether training changes them.
    """

    stage: str
    output_shape: tuple[int, ...]
    parameters: int
    trained: bool


def describe_layers(settings: Settings, classes: int, store: Path) -> list[Layer]:
    """Returns the stages of a network for some number of classes.

    Shapes do not depend on the weights, so where those are not at hand untrained ones do.
    """
    specs = [spec for spec, _ in parse_bases(settings.base, settings.image_size)]
    if settings.weights is None and not all(map(has_weights, specs)):
        settings = settings.model_copy(update={"weights": "random"})
    stack = prepare_networks(settings, store)
    batch, length = settings.batch_size, stack.vector_length
    outputs = 1 if classes == 2 else classes
    layers = []
    for network in stack.networks:
        layers += [
            Layer("INPUTS", (batch, network.image_size, network.image_size, 3), 0, False),
            Layer("BASE", (batch, *network.feature_shape), network.parameters, False),
        ]
    layers.append(Layer("VECTORS", (batch, length), 0, False))
    if settings.inner_units:
        units = settings.inner_units
        layers.append(Layer("INNER", (batch, units), (length + 1) * units, True))
        length = units
    layers.append(Layer("OUTPUTS", (batch, outputs), (length + 1) * outputs, True))
    return layers
