"""Whether stock Keras computes with a `.keras` file what OpenVINO does: a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from topwork.bases import Stack, reopen_keras_file, write_keras_file, write_openvino_file
from topwork.bases.engines import run_file
from topwork.core.arrays import Pixels
from topwork.core.config import Interpolation, Precision
from topwork.core.errors import ImageError
from topwork.core.files import open_scratch
from topwork.core.warm_up import begin_beside
from topwork.heads.dense import Head
from topwork.images.decode import Source, read_bytes
from topwork.models.checks.images import decode_sizes, stack_images
from topwork.models.checks.records import DifferenceRecord
from topwork.models.checks.tolerances import EXACT


def check_keras(stack: Stack, head: Head, pixels: dict[str, Pixels]) -> float:
    """Lets stock Keras open networks with a head, the first time for a head of as many layers.

    Args:
        stack: the networks.
        head: any head for their vectors.
        pixels: (N, S, S, 3) uint8 by the name of each input.

    Returns:
        Largest difference of a logit from what OpenVINO computes in f32, as a share of the
        largest.

    Raises:
        NetworkError: Keras does not open the file.
        OSError: there is no room for it.
    """
    record = DifferenceRecord(stack, head)
    known = record.read()
    if known is not None:
        return known
    with open_scratch() as folder, ThreadPoolExecutor(1) as pool:
        keras, openvino = folder / "model.keras", folder / "model.xml"
        write_keras_file(stack.folder, head.layers, keras)
        # Keras has a process of its own: the other file is run while it starts.
        reopening = pool.submit(reopen_keras_file, keras, folder)
        write_openvino_file(without_int8(stack), head.layers, openvino)
        exact = run_file(openvino, pixels, Precision.F32, output="logits")
        logits = run_file(reopening.result(), pixels, Precision.F32)
    difference = float(np.abs(logits - exact).max() / max(np.abs(exact).max(), 1e-6))
    if difference <= EXACT:
        record.write(difference)
    return difference


def begin_keras_check(
    stack: Stack, head: Head, sources: Sequence[Source], interpolation: Interpolation, ranges: str
) -> Future[float] | None:
    """Begins `check_keras` in a thread, so that nobody has to wait for it later.

    Args:
        stack: the networks.
        head: any head with as many layers as the one to come.
        sources: images; nothing is begun if one of them cannot be read.
        interpolation: how images are brought to size.
        ranges: as for `images.decode.decode`.

    Returns:
        What `check_keras` returns or raises; None if nothing is begun.
    """
    if DifferenceRecord(stack, head).read() is not None:
        return None
    try:
        images = [
            decode_sizes(read_bytes(source), stack.inputs, interpolation, ranges)
            for source in sources
        ]
    except ImageError:
        return None  # whoever makes the vectors names it; there is time to check later
    pixels = stack_images(images)
    return begin_beside(lambda: check_keras(stack, head, pixels))


def without_int8(stack: Stack) -> Stack:
    """Returns the networks of a stack as they were before they were made to compute in int8."""
    plain = tuple(replace(network, int8=None) for network in stack.networks)
    return replace(stack, networks=plain)
