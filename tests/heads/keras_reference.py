"""Stock Keras, to compare with. Its backend is per process, so `ask` runs this file as one.

    python keras_reference.py CASES.npz RESULT.json

The entry `cases` is JSON: what to do, by name; `NAME/array` are the arrays of each case.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np


def ask(cases, folder):
    """Returns Keras' answer to each case: a dict of plain values and arrays, by name."""
    plain, arrays = {}, {}
    for name, case in cases.items():
        plain[name] = {k: v for k, v in case.items() if not isinstance(v, np.ndarray)}
        arrays |= {f"{name}/{k}": v for k, v in case.items() if isinstance(v, np.ndarray)}
    np.savez(folder / "cases.npz", cases=json.dumps(plain), **arrays)
    command = [sys.executable, __file__, str(folder / "cases.npz"), str(folder / "result.json")]
    done = subprocess.run(
        command,
        # Compiling is most of the work.
        env=os.environ
        | {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_backend_optimization_level=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "result.json").read_text())


def make_optimizer(case):
    import keras

    kinds = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    return kinds[case["optimizer"]](learning_rate=case["learning_rate"])


def compile_options(task):
    import keras

    match task:
        case "classes":
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            return {"loss": loss, "metrics": ["accuracy"]}
        case "one-hot":
            loss = keras.losses.CategoricalCrossentropy(from_logits=True)
            return {"loss": loss, "metrics": ["accuracy"]}
        case "binary" | "labels":
            loss = keras.losses.BinaryCrossentropy(from_logits=True)
            right = keras.metrics.BinaryAccuracy(name="accuracy", threshold=0)
            return {"loss": loss, "metrics": [right]}
        case "number":
            return {"loss": "mse", "metrics": ["mae"]}


def fit(case):
    """Returns the history, and the head after every epoch, of `compile` and `fit`."""
    import keras

    dense = keras.layers.Dense(case["bias"].size)
    model = keras.Sequential([keras.Input(case["vectors"].shape[1:]), dense])
    dense.set_weights([case["kernel"], case["bias"]])
    model.compile(make_optimizer(case), **compile_options(case["task"]))
    history, heads = {}, []
    for epoch in case["order"]:
        rows = epoch[epoch >= 0]
        found = model.fit(
            case["vectors"][rows],
            case["targets"][rows],
            batch_size=case["order"].shape[2],
            shuffle=False,
            verbose=0,
            validation_data=(case["val_vectors"], case["val_targets"]),
            validation_batch_size=len(case["val_vectors"]),
        )
        for name, values in found.history.items():
            history.setdefault(name, []).extend(values)
        heads.append([weights.tolist() for weights in dense.get_weights()])
    return {"history": history, "heads": heads}


def step(case):
    """Returns where a variable is after each gradient."""
    import keras

    optimizer = make_optimizer(case)
    variable = keras.Variable(case["start"])
    path = []
    for gradient in case["gradients"]:
        optimizer.apply([gradient], [variable])
        path.append(keras.ops.convert_to_numpy(variable).tolist())
    return path


def main(source, result):
    with np.load(source) as stored:
        arrays = dict(stored)
    found = {}
    for name, case in json.loads(str(arrays.pop("cases"))).items():
        own = {k.removeprefix(f"{name}/"): v for k, v in arrays.items() if k.startswith(f"{name}/")}
        found[name] = {"fit": fit, "step": step}[case.pop("do")](case | own)
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
