"""Mends the graph of a network that Keras exported as OpenVINO IR: faster, for any batch size.

Keras' layers hold channels last (N, H, W, C), OpenVINO's convolutions channels first
(N, C, H, W), so Keras wraps each convolution, pooling and normalization in two transposes.
Those around a normalization even swap height and width, and OpenVINO cannot cancel them: up
to two thirds of the time goes into moving numbers. Here each transpose to channels last is moved
forward, past every operation for which the order can be changed, until it meets one back to
channels first, and OpenVINO removes the pair. Other operations stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from topwork.core.runtime import import_openvino

TO_FIRST = (0, 3, 1, 2)
TO_LAST = (0, 2, 3, 1)
SWAP = (0, 3, 2, 1)

_UNARY = (
    "Clamp", "Convert", "Elu", "Exp", "Gelu", "HSigmoid", "HSwish", "HardSigmoid", "Mish",
    "Negative", "Relu", "Selu", "Sigmoid", "SoftPlus", "Sqrt", "Swish", "Tanh",
)  # fmt: skip
_BINARY = ("Add", "Divide", "Maximum", "Minimum", "Multiply", "Subtract")


def mend_graph(path: Path) -> None:
    """Rewrites an IR file so that features stay channels first and the batch may have any size."""
    openvino = import_openvino()
    model = openvino.Core().read_model(path)
    _free_batch(model)
    _straighten_normalizations(model)
    for node in model.get_ordered_ops():
        _carry_past(node)
    model.validate_nodes_and_infer_types()
    # Not over the file: the model that was read may still be mapped from it.
    new = path.with_name(f"{path.stem}-new.xml")
    openvino.save_model(model, new, compress_to_fp16=False)
    del model
    new.replace(path)
    new.with_suffix(".bin").replace(path.with_suffix(".bin"))


def _free_batch(model: Any) -> None:
    """Makes reshapes keep the batch size, which Keras exports as 1."""
    ops = import_openvino().opset13
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Reshape" or not _is_constant(node.input_value(1)):
            continue
        batch = node.input_value(0).get_partial_shape()[0]
        shape = np.array(node.input_value(1).get_node().get_data(), np.int64)
        if batch.is_dynamic and len(shape) > 1 and shape[0] == 1:
            shape[0] = 0  # that of the input
            free = ops.reshape(node.input_value(0), shape, special_zero=True).output(0)
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(free)
    model.validate_nodes_and_infer_types()


def _straighten_normalizations(model: Any) -> None:
    """Gives the transposes around a normalization the order of those around a convolution."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "BatchNormInference":
            continue
        before = node.input_value(0).get_node()
        after = [found.get_node() for found in node.output(0).get_target_inputs()]
        if _order(before) == SWAP and all(_order(found) == SWAP for found in after):
            # A new one: the old one may have other consumers.
            straight = _transpose(before.input_value(0), TO_FIRST)
            node.input(0).replace_source_output(straight)
            for found in after:
                found.input(1).replace_source_output(_order_constant(TO_LAST))


def _carry_past(node: Any) -> None:
    """Moves transposes to channels last from the inputs of an operation to its output."""
    kind = node.get_type_name()
    convert = _CONVERTERS.get(kind)
    inputs = [_channels_first_source(value) for value in node.input_values()]
    if convert is None or not any(found is not None for found in inputs):
        return
    if (kind != "ReduceMean" and _rank(node) != 4) or not convert(node, inputs) or _rank(node) == 2:
        return
    readers = node.output(0).get_target_inputs()
    last = _transpose(node.output(0), TO_LAST)
    for reader in readers:
        reader.replace_source_output(last)


def _convert_unary(node: Any, inputs: list[Any]) -> bool:
    if inputs[0] is not None:
        node.input(0).replace_source_output(inputs[0])
    return inputs[0] is not None


def _convert_binary(node: Any, inputs: list[Any]) -> bool:
    converted = [
        found or _to_channels_first(value)
        for found, value in zip(inputs, node.input_values(), strict=True)
    ]
    if any(found is None for found in converted):
        return False
    _replace_inputs(node, converted)
    return True


def _convert_concat(node: Any, inputs: list[Any]) -> bool:
    if any(found is None for found in inputs) or node.get_attributes()["axis"] not in (3, -1):
        return False
    _replace_inputs(node, inputs)
    node.set_axis(1)
    return True


def _convert_pad(node: Any, inputs: list[Any]) -> bool:
    if inputs[0] is None or not all(_is_constant(node.input_value(port)) for port in (1, 2)):
        return False
    pads = [node.input_value(port).get_node().get_data() for port in (1, 2)]
    _replace_inputs(node, [inputs[0], *(_constant(pad[list(TO_FIRST)]) for pad in pads)])
    return True


def _convert_mean(node: Any, inputs: list[Any]) -> bool:
    if inputs[0] is None or not _is_constant(node.input_value(1)):
        return False
    axes = [int(axis) % 4 for axis in np.atleast_1d(node.input_value(1).get_node().get_data())]
    # A mean over height and width leaves (N, C) in either order.
    if not node.get_attributes()["keep_dims"] and sorted(axes) != [1, 2]:
        return False
    moved = np.array([TO_FIRST.index(axis) for axis in axes], np.int64)
    _replace_inputs(node, [inputs[0], _constant(moved)])
    return True


def _replace_inputs(node: Any, values: list[Any]) -> None:
    for port, value in enumerate(values):
        node.input(port).replace_source_output(value)


# For each kind of operation, what makes it take channels first; returns whether it could.
_CONVERTERS: dict[str, Callable[[Any, list[Any]], bool]] = {
    **dict.fromkeys(_UNARY, _convert_unary),
    **dict.fromkeys(_BINARY, _convert_binary),
    "Concat": _convert_concat,
    "Pad": _convert_pad,
    "ReduceMean": _convert_mean,
}


def _channels_first_source(value: Any) -> Any:
    """Returns the channels-first value that a value is the transpose of, or None."""
    node = value.get_node()
    return node.input_value(0) if _order(node) == TO_LAST else None


def _to_channels_first(value: Any) -> Any:
    """Returns the channels-first form of the other input of an operation, or None."""
    if _is_constant(value):
        data = value.get_node().get_data()
        if data.size == 1:
            return value
        if data.ndim in (1, 3, 4):
            full = data.reshape((1,) * (4 - data.ndim) + data.shape)
            return _constant(full.transpose(TO_FIRST))
        return None
    return _transpose(value, TO_FIRST) if value.get_partial_shape().rank.get_length() == 4 else None


def _order(node: Any) -> tuple[int, ...] | None:
    if node.get_type_name() != "Transpose" or not _is_constant(node.input_value(1)):
        return None
    return tuple(int(axis) for axis in node.input_value(1).get_node().get_data())


def _is_constant(value: Any) -> bool:
    return bool(value.get_node().get_type_name() == "Constant")


def _rank(node: Any) -> int:
    shape = node.output(0).get_partial_shape() if node.get_output_size() else None
    return -1 if shape is None or shape.rank.is_dynamic else int(shape.rank.get_length())


def _transpose(value: Any, order: tuple[int, ...]) -> Any:
    ops = import_openvino().opset13
    return ops.transpose(value, _order_constant(order).get_node()).output(0)


def _order_constant(order: tuple[int, ...]) -> Any:
    return _constant(np.array(order, np.int64))


def _constant(data: Any) -> Any:
    ops = import_openvino().opset13
    return ops.constant(np.ascontiguousarray(data)).output(0)
