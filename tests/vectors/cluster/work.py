"""A small network in a folder as the store has it, and tasks to run it on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13 as ops
from pictures import COLOURS, encode, picture

from topwork.images.decode import DECODER_VERSION
from topwork.vectors.image_tasks import ImageTask
from topwork.vectors.space import Space

SIZE = 8
LENGTH = 16
KERNEL = np.random.default_rng(0).normal(0, 0.1, (LENGTH, 3, 3, 3)).astype(np.float32)


@dataclass
class Work:
    """What a run needs."""

    root: Path
    network: Path
    space: Space
    images: Path

    def add(self, name, data, sha256=None):
        """Writes an image and returns a task of it, its index the number in its name."""
        path = self.images / name
        path.write_bytes(data)
        return self.task(path, sha256 or hashlib.sha256(data).hexdigest())

    def task(self, path, sha256="0" * 64):
        return ImageTask(int(path.stem), sha256, path)

    def photos(self, count, start=0):
        colours = list(COLOURS.values())
        return [
            self.add(f"{n:03}.png", encode(picture(colours[n % 3], seed=n)))
            for n in range(start, start + count)
        ]


def make_space(**changes):
    values = {
        "base": "tiny", "weights_sha256": "0" * 64, "image_size": SIZE, "network": "1",
        "decoder": DECODER_VERSION, "interpolation": "nearest", "precision": "f32",
    }  # fmt: skip
    return Space(**{**values, **changes})


def write_network(folder, factor=1.0):
    """Writes a convolution, ReLU and average: (N, 8, 8, 3) to (N, 16), like a base."""
    image = ops.parameter([-1, SIZE, SIZE, 3], np.float32, name="image")
    first = ops.transpose(image, np.array([0, 3, 1, 2]))
    features = ops.convolution(first, KERNEL, [1, 1], [0, 0], [0, 0], [1, 1])
    vectors = ops.reduce_mean(ops.relu(features), np.array([2, 3]))
    model = openvino.Model([ops.multiply(vectors, np.float32(factor))], [image])
    openvino.save_model(model, folder / "network.xml", compress_to_fp16=False)
    return folder / "network.xml"


def compute(pixels):
    """The same network by its definition: (N, 8, 8, 3) to (N, 16)."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels.astype(float), (3, 3), (1, 2))
    return np.maximum(np.einsum("nyxcij,kcij->nyxk", windows, KERNEL), 0).mean((1, 2))
