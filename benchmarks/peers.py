"""Other tools on the same photographs, on the same machine, in one run.

    python benchmarks/peers.py DATA --venvs FOLDER --weights lite0.pth --xception FILE

FOLDER holds a virtual environment for each tool, named as below, each made with `python -m venv`
and `pip install NAME`; what is not there is left out. No tool has a network here: those that take
EfficientNet-Lite0 are given the very weights of Topwork's default base (a PyTorch file), the others
train from random weights, and of those only the speed says something. Stock Keras on TensorFlow
runs in this Python, with Xception at 150 pixels; Topwork runs with either.

Columns: MB of the environment; lines that a user writes; seconds from nothing to a model (process
start and all, an empty store); images a second while training, counted as images in an epoch over
its seconds, for Topwork over the whole of its ten epochs; accuracy on validation, of networks with
ImageNet weights. Read the ratios: the seconds are of one machine on one day.
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
from typing import Any

HERE = Path(__file__).parent
PEERS = {
    "fastai": "fastai",
    "timm": "timm",
    "ultralytics": "ultralytics",
    "lightly-train": "lightly",
    "ludwig": "ludwig",
}
TIMEOUT_S = 1500
EPOCHS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--venvs", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="of EfficientNet-Lite0")
    parser.add_argument("--xception", type=Path, required=True, help="without its top, for Keras")
    args = parser.parse_args()
    xception = [
        "--base", "xception", "--image-size", "150", "--weights", str(args.xception),
        "--learning-rate", "0.01", "--interpolation", "nearest",
    ]  # fmt: skip
    print(f"{'':24}{'MB':>6}{'lines':>6}{'seconds':>9}{'images/s':>9}{'val':>7}  what")
    _show(_run_topwork(args.data, "Topwork, default base", []))
    _show(_run_topwork(args.data, "Topwork, Xception 150", xception))
    _show(_run_keras(args.data, args.xception))
    for folder, script in PEERS.items():
        python = args.venvs / folder / "bin" / "python"
        if python.exists():
            _show(_run_peer(python, script, args.data, args.weights, args.venvs / folder))


def _show(row: dict[str, Any]) -> None:
    if "error" in row:
        print(f"{row['name']:24}{row['error'][:90]}", flush=True)
        return
    random = row["weights"] == "random"
    accuracy = "" if random else f"{row['validation']:.3f}"
    print(
        f"{row['name']:24}{row['megabytes']:>6.0f}{row['lines']:>6}{row['seconds']:>9.1f}"
        f"{row['images'] / row['epoch_s']:>9.1f}{accuracy:>7}  {row['what']}"
        f"{'; random weights' if random else ''}",
        flush=True,
    )


def _run_topwork(data: Path, name: str, options: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "topwork", "train", str(data), "--json", *options]
        environment = {"HOME": folder, "TOPWORK_STORE": f"{folder}/store"}
        started = time.perf_counter()
        done = _call([*command, "-o", f"{folder}/model"], environment)
        seconds = time.perf_counter() - started
    if done.returncode:
        return {"name": name, "error": done.stderr.strip().splitlines()[-1]}
    found = json.loads(done.stdout.splitlines()[-1])
    images = found["images"]["embedded"]
    return {
        "name": name,
        "lines": 1,
        "seconds": seconds,
        "epoch_s": seconds / EPOCHS,
        "images": images,
        "validation": max(found["history"]["val_accuracy"]),
        "weights": "own",
        "what": f"{EPOCHS} epochs, saved, checked, with its report",
        "megabytes": _measure_core(),
    }


def _run_keras(data: Path, weights: Path) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "stock_keras.py"), str(data), "--weights", str(weights)]
    done = _call([*command, "--epochs", "1"], {})
    if done.returncode:
        return {"name": "stock Keras", "error": done.stderr.strip().splitlines()[-1]}
    found = json.loads(done.stdout.splitlines()[-1])
    epoch_s = found["epochs"][0]
    return {
        "name": "stock Keras, Xception",
        "lines": 35,
        "seconds": found["total"] + (EPOCHS - 1) * epoch_s,
        "epoch_s": epoch_s,
        "images": sum(1 for _ in (data / "train").rglob("*.jpg")),
        "validation": max(found["history"]["val_accuracy"]),
        "weights": "own",
        "what": f"{EPOCHS} epochs from the time of 1; accuracy of the first",
        "megabytes": float("nan"),
    }


def _run_peer(python: Path, script: str, data: Path, weights: Path, folder: Path) -> dict[str, Any]:
    command = [str(python), str(HERE / "peers" / f"peer_{script}.py"), str(data.resolve())]
    with tempfile.TemporaryDirectory() as home:
        done = _call([*command, "--weights", str(weights)], {"HOME": home})
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        return {"name": script, "error": lines[-1]}
    return {**json.loads(done.stdout.splitlines()[-1]), "megabytes": _measure(folder)}


def _call(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"longer than {TIMEOUT_S} s")


def _measure(folder: Path) -> float:
    sizes = (path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(sizes) / 1e6


def _measure_core() -> float:
    """Returns the megabytes of what `pip install topwork` brings, as it lies here."""
    from importlib.metadata import distribution

    from packaging.requirements import Requirement

    found, waiting = {}, ["topwork"]
    while waiting:
        package = distribution(waiting.pop())
        if package.metadata["Name"] in found:
            continue
        files = (Path(str(package.locate_file(file))) for file in package.files or ())
        found[package.metadata["Name"]] = sum(f.stat().st_size for f in files if f.is_file())
        for text in package.requires or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return sum(found.values()) / 1e6


if __name__ == "__main__":
    main()
