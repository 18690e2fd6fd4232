"""In the child process: what is done to an ONNX model besides converting it."""

from __future__ import annotations

from typing import Any

# Smaller weights are not worth their loss.
LEAST_SHRUNK = 1024


def shrink_weights(model: Any) -> None:
    """Keeps large weights in f16 and turns them back to f32 where they are used.

    ONNX Runtime does that once, when it opens the file: so it runs as fast as in f32 on
    processors without f16 arithmetic, where a graph in f16 would be far slower.

    Args:
        model: an `onnx.ModelProto`, changed in place.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LEAST_SHRUNK:
            continue
        name = tensor.name
        kept = numpy_helper.from_array(values.astype(np.float16), f"{name}_f16")
        tensor.CopyFrom(kept)
        casts.append(helper.make_node("Cast", [kept.name], [name], to=TensorProto.FLOAT))
    # Nodes come after what they read.
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def save_onnx(model: Any, path: str, facts: str) -> None:
    """Writes an ONNX model, checked, with what it says of itself.

    Args:
        model: an `onnx.ModelProto`.
        path: ends in `.onnx`.
        facts: JSON, goes to the metadata `topwork`.
    """
    import onnx

    from topwork.models.export.facts import KEY

    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=facts)
    model.producer_name = "topwork"
    onnx.checker.check_model(model)
    onnx.save(model, path)
