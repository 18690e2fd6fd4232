"""The whole model as one OpenVINO file: networks side by side, and a trained head on them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.bases.network import Network
from topwork.bases.stack import Stack
from topwork.core.runtime import import_openvino

Floats = NDArray[np.float32]
Layer = tuple[Floats, Floats]

# Names of the head's arrays; the number of the layer is appended.
KERNEL, BIAS = "head_kernel", "head_bias"


def write_openvino_file(stack: Stack, layers: Sequence[Layer], path: Path) -> None:
    """Writes networks and head as OpenVINO IR, networks in f32 or int8, the head in f32.

    Its inputs are those of the stack, RGB (N, S, S, 3) float32 in 0..255. Its outputs are
    `logits` (N, C) and `vectors` (N, D), or `vectors_1`, `vectors_2`, ... of each network.

    Args:
        stack: the networks.
        layers: kernel (D, C) and bias (C,) float32 of the head; before them, if it has an inner
            layer, those of that: (D, H) and (H,), and the head's kernel is (H, C).
        path: ends in `.xml`.

    Raises:
        OSError: it cannot be written.
    """
    openvino = import_openvino()
    ops = openvino.opset13
    images = {
        name: ops.parameter([-1, size, size, 3], np.float32, name=name)
        for name, size in stack.inputs.items()
    }
    parts = []
    for number, network in enumerate(stack.networks, 1):
        image = images[stack.input_of(network)]
        parts.append(_graft(network, image, flip=stack.flip, prefix=f"network_{number}"))
    whole = ops.concat(parts, 1).output(0) if len(parts) > 1 else parts[0]
    names = [f"vectors_{n}" for n in range(1, len(parts) + 1)] if len(parts) > 1 else ["vectors"]
    outputs = {"logits": _add_head(whole, layers), **dict(zip(names, parts, strict=True))}
    results = [ops.result(value, name=name) for name, value in outputs.items()]
    model = openvino.Model(results, list(images.values()), "topwork")
    _number_nodes(model)
    for port, name in zip((*model.inputs, *model.outputs), (*images, *outputs), strict=True):
        port.get_tensor().set_names({name})
    _save(model, stack.networks, path)


def read_openvino_head(path: Path) -> list[Layer]:
    """Returns the kernel and bias of each layer of the head that an OpenVINO file holds.

    Args:
        path: a file that `write_openvino_file` made.
    """
    model = import_openvino().Core().read_model(path)
    arrays = {node.get_friendly_name(): node for node in model.get_ops()}
    layers: list[Layer] = []
    while f"{KERNEL}_{len(layers)}" in arrays:
        pair = (f"{name}_{len(layers)}" for name in (KERNEL, BIAS))
        kernel, bias = (np.array(arrays[name].get_data()) for name in pair)
        layers.append((kernel[0], bias[0, 0]))
    return layers


def flip_network(model: Any) -> None:
    """Makes the output of a model the mean over each image and its mirror, left to right.

    The model runs once, over a batch of twice the size.

    Args:
        model: an `openvino.Model` of one input (N, S, S, 3) and one output (N, ...).
    """
    ops = import_openvino().opset13
    image = model.input(0)
    readers = image.get_target_inputs()
    backwards = np.arange(image.get_partial_shape()[2].get_length())[::-1].copy()
    mirrored = ops.gather(image, ops.constant(backwards), np.int64(2))
    both = ops.concat([image, mirrored], 0).output(0)
    for reader in readers:
        reader.replace_source_output(both)
    result = model.get_results()[0].input(0)
    halves = ops.split(result.get_source_output(), np.int64(0), 2)
    mean = ops.multiply(ops.add(*halves.outputs()), np.float32(0.5))
    result.replace_source_output(mean.output(0))
    model.validate_nodes_and_infer_types()


def _number_nodes(model: Any) -> None:
    """Numbers the nodes of each kind that have no name of their own, from 1.

    OpenVINO numbers all nodes of a process, so the same model would give different files.
    """
    counts: Counter[str] = Counter()
    for node in model.get_ordered_ops():
        *path, name = node.get_friendly_name().split("/")
        kind = node.get_type_name()
        if name.rpartition("_")[0] == kind:
            path_and_kind = "/".join([*path, kind])
            counts[path_and_kind] += 1
            node.set_friendly_name(f"{path_and_kind}_{counts[path_and_kind]}")


def _graft(network: Network, image: Any, *, flip: bool, prefix: str) -> Any:
    """Connects a network to an image input, and returns its vectors."""
    model = import_openvino().Core().read_model(network.vectors_path)
    if flip:
        flip_network(model)
    # Names must be unique in the model, and networks may have the same ones.
    for node in model.get_ordered_ops():
        node.set_friendly_name(f"{prefix}/{node.get_friendly_name()}")
        for port in node.outputs():
            port.get_tensor().set_names(set())
    for reader in model.input(0).get_target_inputs():
        reader.replace_source_output(image.output(0))
    return model.output(0).get_node().input_value(0)


def _add_head(vectors: Any, layers: Sequence[Layer]) -> Any:
    """Returns the logits (N, C) of vectors (N, D), in f32 even where the networks run in bf16.

    A matrix product would run in bf16 with them, which loses the logits where large terms cancel.
    OpenVINO runs all other operations after the last convolution in f32, so a layer is an
    elementwise product and a sum.
    """
    ops = import_openvino().opset13
    values = vectors
    for layer, (kernel, bias) in enumerate(layers):
        if layer:
            values = ops.relu(values)
        column = ops.unsqueeze(values, np.array([2]))
        product = ops.multiply(column, ops.constant(kernel[None], name=f"{KERNEL}_{layer}"))
        # (N, 1, C): OpenVINO 2026.4 adds a bias wrongly to a sum that drops its axis.
        row = ops.reduce_sum(product, np.array([1]), keep_dims=True)
        offset = ops.constant(bias[None, None], name=f"{BIAS}_{layer}")
        values = ops.squeeze(ops.add(row, offset), np.array([1]))
    return values.output(0)


def _save(model: Any, networks: Sequence[Network], path: Path) -> None:
    try:
        import_openvino().save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        # OpenVINO does not say why; a full disk is the most likely reason.
        files = [network.vectors_path.with_suffix(".bin") for network in networks]
        needed = sum(file.stat().st_size for file in files) / 1e6
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            f"OpenVINO could not write {path.name}, which needs {needed:.0f} MB; {free:.0f} MB are "
            "free there"
        ) from error
