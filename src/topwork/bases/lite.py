"""EfficientNet-Lite in Keras layers. Imported only in the child process.

It is EfficientNet without squeeze-and-excitation, with ReLU6 for swish, and with the first and
the last stage left alone by the scaling of width and depth.

Source: Tan and Le, "EfficientNet", 2019, table 1; the Lite variants' coefficients as published
with TensorFlow's EfficientNet-Lite.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers
from numpy.typing import NDArray

# width, depth
SCALES = {
    "efficientnet-lite0": (1.0, 1.0),
    "efficientnet-lite1": (1.0, 1.1),
    "efficientnet-lite2": (1.1, 1.2),
}
# kernel, stride, expansion, filters, repeats
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM_FILTERS = 32
HEAD_FILTERS = 1280
EPSILON = 1e-3


def build_lite(name: str, image_size: int) -> keras.Model:
    """Returns the network from scaled pixels (N, S, S, 3) to features (N, s, s, 1280)."""
    width, depth = SCALES[name]
    image = keras.Input((image_size, image_size, 3))
    x = _conv(image, STEM_FILTERS, "stem", kernel=3, stride=2)
    filters_in, block = STEM_FILTERS, 0
    for stage, (kernel, stride, expansion, filters, repeats) in enumerate(STAGES):
        filters = _round_filters(filters * width)  # noqa: PLW2901
        if 0 < stage < len(STAGES) - 1:
            repeats = math.ceil(repeats * depth)  # noqa: PLW2901
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            x = _block(
                x,
                f"block{block}",
                kernel=kernel,
                stride=step,
                expanded=filters_in * expansion,
                filters_in=filters_in,
                filters=filters,
            )
            filters_in, block = filters, block + 1
    return keras.Model(image, _conv(x, HEAD_FILTERS, "head"), name=name.replace("-", "_"))


def set_lite_weights(network: keras.Model, state: dict[str, NDArray[Any]]) -> None:
    """Fills the network from a state dict with PyTorch's names and shapes.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor has another shape than the layer.
    """
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            name = _torch_name(layer.name)
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([state[f"{name}.{part}"] for part in parts])
        elif isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([state[f"{_torch_name(layer.name)}.weight"].transpose(2, 3, 0, 1)])
        elif isinstance(layer, layers.Conv2D):
            layer.set_weights([state[f"{_torch_name(layer.name)}.weight"].transpose(2, 3, 1, 0)])


def _torch_name(name: str) -> str:
    """Translates `block3_expand_conv` to `_blocks.3._expand_conv`, `stem_norm` to `_bn0`."""
    *block, phase, kind = name.split("_")
    norm = {"stem": 0, "head": 1, "expand": 0, "depthwise": 1, "project": 2}[phase]
    if not block:
        return f"_conv_{phase}" if kind == "conv" else f"_bn{norm}"
    last = f"_{phase}_conv" if kind == "conv" else f"_bn{norm}"
    return f"_blocks.{block[0].removeprefix('block')}.{last}"


def _block(
    x: Any, name: str, *, kernel: int, stride: int, expanded: int, filters_in: int, filters: int
) -> Any:
    y = x
    if expanded != filters_in:
        y = _conv(y, expanded, f"{name}_expand")
    y = layers.DepthwiseConv2D(
        kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv"
    )(y)
    y = layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_depthwise_norm")(y)
    y = layers.ReLU(6.0, name=f"{name}_depthwise_relu")(y)
    y = _conv(y, filters, f"{name}_project", activate=False)
    if stride == 1 and filters_in == filters:
        y = layers.Add(name=f"{name}_add")([x, y])
    return y


def _conv(
    x: Any, filters: int, name: str, *, kernel: int = 1, stride: int = 1, activate: bool = True
) -> Any:
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv")(
        x
    )
    x = layers.BatchNormalization(epsilon=EPSILON, name=f"{name}_norm")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if activate else x


def _round_filters(filters: float, divisor: int = 8) -> int:
    """Rounds to a multiple of the divisor, but never down by more than a tenth."""
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * filters else rounded
