r"""The reference photographs, the usual way and Topwork's, in one run on one machine.

    python benchmarks/reference.py DATA --weights xception_imagenet_notop.h5 \
        --tensorflow-python /path/to/a/python/with/tensorflow --epochs 10

(a) stock Keras on TensorFlow: frozen Xception-150 and `model.fit`; (b) `topwork train` with
the same photographs, weights and settings, cold: an empty store and an empty home; (c) the same
again, warm, the median of several whole processes; (d) as (b), with the base in f32 as (a) has
it; (e) the default base, cold; (f) as (b), with the base in int8. Seconds are of whole
processes, except those of an epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

EPOCHS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True, help="Xception without its top")
    parser.add_argument("--tensorflow-python", default=sys.executable)
    parser.add_argument("--epochs", type=int, default=1, help="epochs of (a)")
    parser.add_argument("--warm-runs", type=int, default=5)
    args = parser.parse_args()

    usual, usual_s = _run(
        [
            args.tensorflow_python, str(Path(__file__).with_name("stock_keras.py")), str(args.data),
            "--weights", args.weights, "--epochs", str(args.epochs),
        ],
        {},
    )  # fmt: skip
    epoch_s = median(usual["epochs"])
    ten_s = usual_s if args.epochs == EPOCHS else usual_s + epoch_s * (EPOCHS - args.epochs)
    reference = [
        "--base", "xception", "--image-size", "150", "--learning-rate", "0.01",
        "--interpolation", "nearest", "--weights", args.weights,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        cold, cold_s, _ = _topwork(args.data, Path(folder), reference)
        warm = [_topwork(args.data, Path(folder), reference) for _ in range(args.warm_runs)]
    with tempfile.TemporaryDirectory() as folder:
        exact, exact_s, _ = _topwork(args.data, Path(folder), [*reference, "--precision", "f32"])
    with tempfile.TemporaryDirectory() as folder:
        bytes_, bytes_s, _ = _topwork(args.data, Path(folder), [*reference, "--precision", "int8"])
    with tempfile.TemporaryDirectory() as folder:
        default, default_s, model = _topwork(args.data, Path(folder), [])
        test, _ = _run(
            [*_command(), "evaluate", str(model), str(args.data), "--json"],
            _home(Path(folder)),
        )
    warm_s = median(seconds for _, seconds, _ in warm)

    print(f"{'':34}{'seconds':>9}{'(a)/this':>10}{'best val':>10}")
    how = "" if args.epochs == EPOCHS else f", from {args.epochs}"
    rows = [
        (f"(a) stock Keras, {EPOCHS} epochs{how}", ten_s, max(usual["history"]["val_accuracy"])),
        ("(b) topwork, cold", cold_s, max(cold["history"]["val_accuracy"])),
        ("(c) topwork, warm", warm_s, max(warm[0][0]["history"]["val_accuracy"])),
        ("(d) topwork, f32, cold", exact_s, max(exact["history"]["val_accuracy"])),
        ("(e) topwork, default base, cold", default_s, max(default["history"]["val_accuracy"])),
        ("(f) topwork, int8, cold", bytes_s, max(bytes_["history"]["val_accuracy"])),
    ]
    for name, seconds, accuracy in rows:
        print(f"{name:34}{seconds:9.1f}{ten_s / seconds:10.1f}{accuracy:10.4f}")
    print(f"\nepochs of (a): {', '.join(f'{s:.0f}' for s in usual['epochs'])} s")
    print(
        f"one epoch of (a), the median: {epoch_s:.1f} s; (e) takes {default_s / epoch_s:.3f} of it"
    )
    print(f"warm runs: {', '.join(f'{s:.2f}' for _, s, _ in warm)} s")
    low, high = test["interval"]
    print(
        f"(e) test accuracy {test['accuracy']:.4f} ({low:.4f} to {high:.4f}), "
        f"macro average {test['macro_accuracy']:.4f}"
    )


def _command() -> list[str]:
    return [sys.executable, "-m", "topwork"]


def _home(folder: Path) -> dict[str, str]:
    """Where everything is kept that a run leaves for the next one."""
    (folder / "home").mkdir(exist_ok=True)
    return {"HOME": str(folder / "home"), "TOPWORK_STORE": str(folder / "store")}


def _topwork(data: Path, folder: Path, options: list[str]) -> tuple[dict[str, Any], float, Path]:
    model = folder / "model"
    command = [*_command(), "train", str(data), "-o", str(model), "--json", *options]
    result, seconds = _run(command, _home(folder))
    return result, seconds, model


def _run(command: list[str], env: dict[str, str]) -> tuple[dict[str, Any], float]:
    started = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]), seconds


if __name__ == "__main__":
    main()
