"""Training on vectors that are not held in memory, beside training on the same in memory.

    python benchmarks/streamed.py --images 1000000 --length 1280

Vectors of some classes, class by class as folders are, are written to a store in real parts. Then
ten epochs of a linear head are trained on nine tenths of them, in a process of its own for each
way: with the vectors laid out in a file, and with the vectors in memory (--held). The bar: no
more than 2 GB resident at the peak, and the same accuracy within noise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from topwork.core.config import Settings
from topwork.heads.examples import LabeledVectors, RowSplit
from topwork.heads.train import train_heads
from topwork.vectors.embed_job import PART_VECTORS
from topwork.vectors.on_disk import Rows, copy_to_disk
from topwork.vectors.space import Space
from topwork.vectors.store import VectorStore

SPACE = Space("synthetic", "0" * 64, 224, "1", "1", "bilinear", "f32")
HELD_OUT = 10
# How far the middles of classes are apart, for heads that are right about nine times in ten.
APART = 6.0
MOST_BYTES = 2 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--held", action="store_true", help="also in memory")
    parser.add_argument("--folder", type=Path, help="for the vectors, which are deleted in the end")
    parser.add_argument("--run", choices=["streamed", "held"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(run(args, held=args.run == "held")))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        started = time.perf_counter()
        write(Path(folder), args.images, args.length, args.classes)
        size = 4e-9 * args.images * args.length
        seconds = time.perf_counter() - started
        print(
            f"{args.images:,} vectors of {args.length}, {size:.2f} GB, written in {seconds:.1f} s"
        )
        print(f"\n{'':<10}{'peak MB':>9}{'open s':>9}{'lay s':>9}{'train s':>9}  accuracy by seed")
        passed = True
        for way in ("streamed", "held") if args.held else ("streamed",):
            found = ask(way, args, folder)
            accuracies = "  ".join(f"{value:.4f}" for value in found["accuracies"])
            figures = "".join(f"{found[name]:9.1f}" for name in ("open_s", "lay_s", "train_s"))
            print(f"{way:<10}{found['peak'] / 2**20:9.0f}{figures}  {accuracies}", flush=True)
            passed &= way == "held" or found["peak"] <= MOST_BYTES
    print("passed" if passed else "FAILED")
    sys.exit(not passed)


def ask(way: str, args: argparse.Namespace, folder: str) -> Any:
    """Runs one way in a process of its own: what is resident at most is that of a process."""
    names = ("images", "length", "classes", "seeds")
    options = [text for name in names for text in (f"--{name}", str(getattr(args, name)))]
    command = [sys.executable, __file__, "--run", way, "--folder", folder, *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def name_images(count: int) -> list[str]:
    return [hashlib.sha256(str(n).encode()).hexdigest() for n in range(count)]


def make_labels(count: int, classes: int) -> np.ndarray:
    return np.sort(np.random.default_rng(1).integers(0, classes, count)).astype(np.int32)


def write(root: Path, count: int, length: int, classes: int) -> None:
    """Writes vectors as pooled activations are, none below 0, of classes one after the other."""
    store = VectorStore(root, SPACE, length)
    hashes, labels = name_images(count), make_labels(count, classes)
    middles = np.random.default_rng(2).normal(0.3, APART / length**0.5 / 2, (classes, length))
    generator = np.random.default_rng(3)
    for start in range(0, count, PART_VECTORS):
        own = labels[start : start + PART_VECTORS]
        vectors = generator.standard_normal((len(own), length), np.float32)
        vectors += middles[own].astype(np.float32)
        store.write(hashes[start : start + PART_VECTORS], np.maximum(vectors, 0))


def run(args: argparse.Namespace, *, held: bool) -> dict[str, Any]:
    hashes, labels = name_images(args.images), make_labels(args.images, args.classes)
    store = VectorStore(args.folder, SPACE, args.length)
    started = time.perf_counter()
    store.refresh()
    opened = time.perf_counter()
    vectors: Rows = store.read(hashes) if held else copy_to_disk([store], hashes)
    laid = time.perf_counter()
    rows = np.arange(args.images, dtype=np.int32)
    split = RowSplit(rows[None, rows % HELD_OUT > 0], rows[rows % HELD_OUT == 0])
    recipe = Settings.create(learning_rate=0.001, epochs=10).head_settings()
    accuracies = []
    for seed in range(args.seeds):
        (fit,) = train_heads(
            LabeledVectors(vectors, labels), split, [recipe], args.classes, seed=seed
        )
        accuracies.append(fit.curve["val_accuracy"][fit.best_epoch - 1])
    return {
        "peak": read_peak(),
        "open_s": opened - started,
        "lay_s": laid - opened,
        "train_s": (time.perf_counter() - laid) / args.seeds,
        "accuracies": accuracies,
    }


def read_peak() -> int:
    """Returns the most bytes that were resident in this process; Linux says it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) * 1024


if __name__ == "__main__":
    main()
