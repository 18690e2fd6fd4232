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


def ask(cases, folder, backend="jax"):
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
        | {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_backend_optimization_level=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "result.json").read_text())


def make_optimizer(case):
    import keras

    kinds = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    optimizer = kinds[case["optimizer"]](
        learning_rate=case["learning_rate"], weight_decay=case.get("weight_decay") or None
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def compile_options(task, smoothing):
    """Returns loss and metrics; with smoothing there is a metric `plain`, the loss without it."""
    import keras

    match task:
        case "classes":
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            return {"loss": loss, "metrics": ["accuracy"]}
        case "one-hot":
            loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
            metrics = ["accuracy"]
            plain = keras.metrics.CategoricalCrossentropy(name="plain", from_logits=True)
        case "binary" | "labels":
            loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)
            metrics = [keras.metrics.BinaryAccuracy(name="accuracy", threshold=0)]
            plain = keras.metrics.BinaryCrossentropy(name="plain", from_logits=True)
        case "number":
            return {"loss": "mse", "metrics": ["mae"]}
    return {"loss": loss, "metrics": [*metrics, plain] if smoothing else metrics}


def build(case):
    """Returns the model of a case, with its first weights `kernel 0`, `bias 0`, `kernel 1`..."""
    import keras

    count = sum(name.startswith("bias") for name in case)
    model = keras.Sequential([keras.Input(case["vectors"].shape[1:])])
    for number in range(count):
        kernel, bias = case[f"kernel {number}"], case[f"bias {number}"]
        dense = keras.layers.Dense(bias.size, "relu" if number < count - 1 else None)
        model.add(dense)
        dense.set_weights([kernel, bias])
    return model


def fit(case):
    """Returns the history, and the weights after every epoch, of `compile` and `fit`."""
    model = build(case)
    model.compile(
        make_optimizer(case), **compile_options(case["task"], case.get("label_smoothing", 0))
    )
    class_weights = case.get("class_weights")
    weights = case.get("weights")
    history, heads = {}, []
    for epoch in case["order"]:
        rows = epoch[epoch >= 0]
        found = model.fit(
            case["vectors"][rows],
            case["targets"][rows],
            batch_size=case["order"].shape[2],
            shuffle=False,
            sample_weight=None if weights is None else weights[rows],
            verbose=0,
            validation_data=(case["val_vectors"], case["val_targets"]),
            validation_batch_size=len(case["val_vectors"]),
            class_weight=None if class_weights is None else dict(enumerate(class_weights.tolist())),
        )
        for name, values in found.history.items():
            history.setdefault(name, []).extend(values)
        heads.append([weights.tolist() for weights in model.get_weights()])
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
    # Keras does without these, which take as long to import as all the rest of it.
    sys.modules.update(dict.fromkeys(["matplotlib", "sklearn"]))
    with np.load(source) as stored:
        arrays = dict(stored)
    found = {}
    for name, case in json.loads(str(arrays.pop("cases"))).items():
        own = {k.removeprefix(f"{name}/"): v for k, v in arrays.items() if k.startswith(f"{name}/")}
        found[name] = {"fit": fit, "step": step}[case.pop("do")](case | own)
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
