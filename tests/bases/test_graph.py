"""The mended graph computes what the graph that Keras wrote computes, over shapes of all kinds."""

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from topwork.bases.graph import TO_FIRST, TO_LAST, mend_graph

SHAPE = (2, 5, 7, 3)  # no two sides alike


def to_first(x):
    return ops.transpose(x, np.array(TO_FIRST))


def to_last(x):
    return ops.transpose(x, np.array(TO_LAST))


def constant(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def convolve(x, filters=3, seed=0):
    """As Keras writes it: features are channels last before and after."""
    kernel = constant(filters, x.output(0).get_partial_shape()[3].get_length(), 1, 1, seed=seed)
    first = ops.convolution(to_first(x), kernel, [1, 1], [0, 0], [0, 0], [1, 1])
    return to_last(first)


def normalize(x):
    """As Keras writes it: height and width are swapped."""
    swap = np.array([0, 3, 2, 1])
    parts = [constant(3, seed=n) for n in range(3)]
    normal = ops.batch_norm_inference(
        ops.transpose(x, swap), *parts, np.abs(constant(3, seed=3)), 1e-3
    )
    return ops.transpose(normal, swap)


def read_twice(x):
    return ops.add(normalize(x), ops.relu(x))


def mean(*axes, keep=False):
    return lambda x: ops.reduce_mean(convolve(x), np.array(axes), keep_dims=keep)


# From features (N, H, W, 3) to anything.
GRAPHS = {
    "relu": lambda x: ops.relu(convolve(x)),
    "clamp and sigmoid": lambda x: ops.sigmoid(ops.clamp(convolve(x), 0.0, 6.0)),
    "scale by channel": lambda x: ops.multiply(convolve(x), constant(3)),
    "constant first": lambda x: ops.subtract(constant(3), convolve(x)),
    "constant of a single number": lambda x: ops.add(convolve(x), constant(1)),
    "constant of height": lambda x: ops.multiply(convolve(x), constant(1, 5, 1, 1)),
    "constant of width, rank 3": lambda x: ops.multiply(convolve(x), constant(1, 7, 1)),
    "constant of width, rank 2": lambda x: ops.multiply(convolve(x), constant(7, 1)),
    "residual": lambda x: ops.add(convolve(x), convolve(x, seed=1)),
    "residual of the input": lambda x: ops.add(x, convolve(x)),
    "twice the same": lambda x: ops.multiply(convolve(x), convolve(x)),
    "normalization": lambda x: ops.relu(normalize(convolve(x))),
    "normalization read twice": lambda x: read_twice(convolve(x)),
    "concatenation of channels": lambda x: ops.concat([convolve(x), convolve(x, 4)], 3),
    "concatenation from behind": lambda x: ops.concat([convolve(x), convolve(x, 4)], -1),
    "concatenation of rows": lambda x: ops.concat([convolve(x), convolve(x)], 1),
    "concatenation with the input": lambda x: ops.concat([convolve(x), x], 3),
    "padding": lambda x: ops.pad(
        convolve(x), np.array([0, 1, 2, 0]), np.array([0, 3, 0, 1]), "constant"
    ),
    "pooling": mean(1, 2),
    "pooling that keeps": mean(1, 2, keep=True),
    "pooling from behind": mean(-3, -2),
    "pooling the other way": mean(2, 1),
    "mean of channels": mean(3),
    "mean of channels that keeps": mean(-1, keep=True),
    "mean of rows": mean(1),
    "mean of all": mean(0, 1, 2, 3),
    "gate": lambda x: ops.multiply(convolve(x), ops.sigmoid(mean(1, 2, keep=True)(x))),
    "softmax, which is unknown": lambda x: ops.softmax(ops.relu(convolve(x)), 3),
    "dense over channels": lambda x: ops.matmul(
        ops.relu(convolve(x)), constant(3, 2), False, False
    ),
    "split": lambda x: ops.add(*ops.split(ops.relu(convolve(x, 4)), 3, 2).outputs()),
    "a way back and on": lambda x: convolve(ops.relu(convolve(ops.tanh(convolve(x))))),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_mended_graph_computes_the_same(tmp_path, name):
    image = ops.parameter([-1, *SHAPE[1:]], np.float32, name="image")
    model = openvino.Model([GRAPHS[name](image)], [image])
    path = tmp_path / "network.xml"
    openvino.save_model(model, path, compress_to_fp16=False)
    pixels = constant(*SHAPE, seed=9)
    before = run(path, pixels)
    mend_graph(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["network.bin", "network.xml"]
    after = run(path, pixels)
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["relu", "scale by channel", "normalization", "residual", "padding"]
)
def test_a_mended_graph_turns_once_at_each_end(tmp_path, name):
    image = ops.parameter([-1, *SHAPE[1:]], np.float32, name="image")
    path = tmp_path / "network.xml"
    model = openvino.Model([convolve(GRAPHS[name](image))], [image])
    openvino.save_model(model, path, compress_to_fp16=False)
    mend_graph(path)
    compiled = openvino.Core().compile_model(path, "CPU")
    kinds = [
        node.get_rt_info()["layerType"].value for node in compiled.get_runtime_model().get_ops()
    ]
    assert kinds.count("Transpose") <= 2


def test_a_reshape_to_a_batch_of_one_takes_any_batch(tmp_path):
    """Keras writes down the batch it was traced with, which is 1."""
    image = ops.parameter([1, *SHAPE[1:]], np.float32, name="image")
    gate = ops.reshape(ops.reduce_mean(image, np.array([1, 2])), np.array([1, 1, 1, 3]), False)
    model = openvino.Model([ops.multiply(image, gate)], [image])
    path = tmp_path / "network.xml"
    image.set_partial_shape(openvino.PartialShape([-1, *SHAPE[1:]]))
    openvino.save_model(model, path, compress_to_fp16=False)
    mend_graph(path)
    pixels = constant(*SHAPE)
    wanted = pixels * pixels.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(run(path, pixels), wanted, rtol=1e-5, atol=1e-6)


def run(path, pixels):
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(path, "CPU", hints)(pixels)[0]
