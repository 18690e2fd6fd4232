"""How fast a base runs with Keras on JAX, on the device at hand, and how near its limit that is.

    python benchmarks/gpu.py DATA --base efficientnet-lite0
    python benchmarks/gpu.py DATA --base xception --image-size 150 --weights FILE

Images per second for every batch size, on ready-made pixels and from files to vectors, the
median of several rounds that take turns. Beside them the limit of the device, which is the
speed of a large product of matrices in the same precision over the operations of one image; and
an epoch of Keras' own `model.fit` with the same network on the same device, its images decoded
beforehand. On a CPU it takes long and proves only that it works: pass a small `--images`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from topwork.bases.engines.keras import KerasEngine
from topwork.core.config import Precision, Settings, default_store
from topwork.core.parallel import in_processes, in_threads
from topwork.core.runtime import cores
from topwork.data.dataset import Dataset
from topwork.images.decode import read_pixels
from topwork.vectors.extractors import prepare_networks

# The batches of Keras' own `fit`: its default, and what a device likes better.
FIT_BATCHES = (32, 128)
# Side of the matrices whose product is the limit, by platform.
SIDES = {"cpu": 1024}
SIDE = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", default="efficientnet-lite0")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--weights")
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--batches", default="32,64,128,256,512")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    settings = Settings.create(base=args.base, image_size=args.image_size, weights=args.weights)
    (network,) = prepare_networks(settings, default_store()).networks
    size, folder = network.image_size, network.folder
    sources = Dataset.from_folder(args.data).sources[: args.images]
    load = partial(read_pixels, size_px=size, interpolation=settings.interpolation)

    started = time.perf_counter()
    few = list(in_threads(load, sources[:512]))
    threads = len(few) / (time.perf_counter() - started)
    pixels = np.stack(few)
    processes = _rate_of(in_processes(load, sources, workers=cores()))

    limit = _ask("limit", folder, size, args.precision)
    print(f"{network.spec.name}, {size} px, {args.precision}, {limit['device']}, {cores()} cores")
    most = limit["peak"] / limit["operations"]
    print(f"operations of an image    {limit['operations'] / 1e9:10.2f} · 10⁹")
    print(f"product of matrices       {limit['peak'] / 1e12:10.2f} · 10¹² a second")
    print(f"so at most                {most:10.0f} images/s")
    print(f"decoding in threads       {threads:10.0f} images/s")
    print(f"decoding in processes     {processes:10.0f} images/s")
    for batch in FIT_BATCHES:
        rate = _ask("fit", folder, size, args.precision, batch=batch, count=len(sources))["rate"]
        print(f"model.fit, batches of {batch:<4}{rate:10.0f} images/s")

    batches = [int(batch) for batch in args.batches.split(",")]
    alone: dict[int, list[float]] = {batch: [] for batch in batches}
    whole: dict[int, list[float]] = {batch: [] for batch in batches}
    precision = Precision(args.precision)
    engines = {b: KerasEngine(folder, size, precision, batch_size=b) for b in batches}
    for _ in range(args.rounds):
        for batch, engine in engines.items():
            ready = ((n, pixels[n % len(pixels)]) for n in range(len(sources)))
            alone[batch].append(_rate_of(engine.run(ready)))
            decoded = in_processes(load, sources, engine.ahead)
            whole[batch].append(_rate_of(engine.run(enumerate(decoded))))
    print(f"\n{'batch':>6}{'images/s':>12}{'of the limit':>14}{'from files':>12}")
    for batch, engine in engines.items():
        rate = median(alone[batch])
        # What had to be smaller says so.
        print(
            f"{engine.batch_size:>6}{rate:>12.0f}{rate / most:>14.2f}{median(whole[batch]):>12.0f}"
        )
        engine.close()


def _rate_of(results: Iterator[Any]) -> float:
    """Returns results a second, from the first on: how long a start takes is another matter."""
    next(results)
    started = time.perf_counter()
    count = sum(1 for _ in results)
    return count / (time.perf_counter() - started)


def _ask(task: str, folder: Path, size: int, precision: str, **options: int) -> dict[str, Any]:
    """Measures something in a process of its own, that has the device to itself."""
    request = {"folder": str(folder), "size": size, "bf16": precision == "bf16", **options}
    done = subprocess.run(
        [sys.executable, __file__, task, json.dumps(request)],
        env={**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def limit(folder: str, size: int, bf16: bool) -> dict[str, Any]:
    """Returns operations a second of a product of matrices, and those of one image."""
    import jax
    import jax.numpy as jnp

    from topwork.bases.engines.keras_child import describe_devices, load_model

    if not bf16:
        jax.config.update("jax_default_matmul_precision", "highest")  # type: ignore[no-untyped-call]
    device = jax.devices()[0]
    side = SIDES.get(device.platform, SIDE)
    matrix = jnp.ones((side, side), jnp.bfloat16 if bf16 else jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        product(matrix).block_until_ready()
        seconds.append(time.perf_counter() - started)
    model = load_model(Path(folder), bf16)
    image = jnp.zeros((1, size, size, 3))
    variables = [variable.value for variable in model.non_trainable_variables]
    run = jax.jit(lambda weights, x: model.stateless_call([], weights, x, training=False)[0])
    cost: Any = run.lower(variables, image).compile().cost_analysis()
    return {
        "device": describe_devices([device]),
        "peak": 2 * side**3 / min(seconds),
        "operations": cost["flops"],
    }


def fit(folder: str, size: int, bf16: bool, batch: int, count: int) -> dict[str, Any]:
    """Returns images a second in the second epoch of stock Keras, base frozen."""
    import keras

    from topwork.bases.engines.keras_child import load_model

    base = load_model(Path(folder), bf16)
    base.trainable = False
    model = keras.Sequential([base, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    random = np.random.default_rng(0)
    count -= count % batch if count > batch else 0  # a smaller last batch is compiled anew
    images = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = random.integers(0, 10, count)
    seconds = []

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            seconds.append(time.perf_counter() - self.started)

    model.fit(images, labels, batch_size=batch, epochs=2, verbose=0, callbacks=[Clock()])
    return {"rate": count / seconds[1]}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {"limit": limit, "fit": fit}

if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in TASKS:
        print(json.dumps(TASKS[sys.argv[1]](**json.loads(sys.argv[2]))))
    else:
        main()
