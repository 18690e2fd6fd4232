"""How much longer many heads take than one, and what tuning gains.

    python benchmarks/tuning.py DATA --base xception --image-size 150 --interpolation nearest \
        --weights FILE

First 64 learning rates for ten epochs in one program against one head, both compiled, in turns;
then whole processes of `topwork tune` with a budget of 64 heads on a warm store; then a search on
folds, and the validation accuracy of its choice against a learning rate of 0.01, both trained
from five seeds. These machines are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from topwork.core.config import Settings, default_store
from topwork.data.dataset import Dataset
from topwork.data.listing import Split
from topwork.heads.train import train_heads
from topwork.recipes.prepare import TrainingData, prepare_examples
from topwork.recipes.train import tune
from topwork.vectors.extractors import prepare_networks

HEADS = 64
ROUNDS = 5
SEEDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", default="efficientnet-lite0")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--interpolation", default="sampled")
    parser.add_argument("--weights")
    args = parser.parse_args()
    options = {
        "base": args.base,
        "image_size": args.image_size,
        "interpolation": args.interpolation,
        "weights": args.weights,
    }
    settings = Settings.create(**options, learning_rate=0.01)
    dataset = Dataset.from_folder(args.data).with_validation(0.2, 0)
    dataset = dataset.select(dataset.splits != Split.TEST)
    stack = prepare_networks(settings, default_store())
    data = prepare_examples(dataset, stack, settings, default_store())
    _compare_programs(data, settings)
    _time_processes(args, options)
    _compare_accuracy(dataset, data, settings, Settings.create(**options))


def _compare_programs(data: TrainingData, settings: Settings) -> None:
    recipe = settings.head_settings()
    rates = np.logspace(-4, -1, HEADS)
    many = [recipe.model_copy(update={"learning_rate": float(rate)}) for rate in rates]
    classes = len(data.dataset.classes)
    seconds: dict[int, list[float]] = {1: [], HEADS: []}
    for round_ in range(ROUNDS + 1):
        for recipes in ([recipe], many):
            started = time.perf_counter()
            train_heads(data.examples, data.split, recipes, classes)
            if round_:  # the first round compiles
                seconds[len(recipes)].append(time.perf_counter() - started)
    one, all_ = (median(values) for values in seconds.values())
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(f"one head of {settings.epochs} epochs   {one:6.2f} s")
    print(f"{HEADS} heads                {all_:6.2f} s")
    print(f"ratio                   {median(ratios):6.2f}  ({min(ratios):.2f}-{max(ratios):.2f})")


def _time_processes(args: argparse.Namespace, options: dict[str, object]) -> None:
    seconds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "topwork", "tune", str(args.data)]
            for name, value in options.items():
                if value is not None:
                    command += [f"--{name.replace('_', '-')}", str(value)]
            command += ["-o", f"{folder}/m", "--budget", str(HEADS), "--folds", "0", "--seeds", "1"]
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=os.environ)
            seconds.append(time.perf_counter() - started)
    print(
        f"topwork tune, {HEADS} heads, whole process, warm store: {median(seconds):.1f} s "
        f"({min(seconds):.1f}-{max(seconds):.1f})"
    )


def _compare_accuracy(
    dataset: Dataset, data: TrainingData, plain: Settings, start: Settings
) -> None:
    tuned = tune(dataset, start, default_store()).model
    print(f"\nchosen on folds: {tuned.settings.head_settings()!r}")
    classes = len(data.dataset.classes)
    found = {}
    for name, recipe in (("learning rate 0.01", plain), ("tuned", tuned.settings)):
        accuracies, losses = [], []
        for seed in range(SEEDS):
            (fit,) = train_heads(
                data.examples, data.split, [recipe.head_settings()], classes, seed=seed
            )
            accuracies.append(fit.curve["val_accuracy"][fit.best_epoch - 1])
            losses.append(fit.curve["val_loss"][fit.best_epoch - 1])
        found[name] = np.array(accuracies)
        print(
            f"{name:18} validation {np.mean(accuracies):.4f} "
            f"({min(accuracies):.4f} to {max(accuracies):.4f} over {SEEDS} seeds), "
            f"loss {np.mean(losses):.4f}"
        )
    gain = found["tuned"] - found["learning rate 0.01"]
    print(f"gain               {gain.mean():+.4f} ± {gain.std(ddof=1) / np.sqrt(SEEDS):.4f}")


if __name__ == "__main__":
    main()
