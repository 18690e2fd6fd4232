"""How the defaults were chosen: filter and learning rate by folds of the training images.

    python benchmarks/defaults.py DATA
    python benchmarks/defaults.py DATA --base xception --image-size 150 --weights FILE

For every filter the training images are embedded once; then every learning rate is trained on
stratified folds, and the mean accuracy on the held-out folds after the last epoch is printed,
with the standard error over the folds. Validation and test images are not looked at.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold

from topwork.core.config import Interpolation, Settings, default_store
from topwork.data.dataset import Dataset
from topwork.data.listing import Split
from topwork.heads.examples import LabeledVectors
from topwork.heads.train import train_head
from topwork.vectors.embed import embed_images
from topwork.vectors.extractors import make_extractors, prepare_networks

FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", default="efficientnet-lite0")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--weights")
    parser.add_argument("--filters", default=",".join(Interpolation))
    parser.add_argument("--rates", default="0.001,0.003,0.01")
    parser.add_argument("--epochs", type=int, default=10)
    args = parser.parse_args()

    dataset = Dataset.from_folder(args.data)
    dataset = dataset.select(dataset.splits == Split.TRAIN)
    rates = [float(rate) for rate in args.rates.split(",")]
    print(f"{'':10}" + "".join(f"{f'rate {rate:g}':>18}" for rate in rates))
    for name in args.filters.split(","):
        settings = Settings.create(
            base=args.base, image_size=args.image_size, weights=args.weights, interpolation=name
        )
        usable, vectors = _embed(dataset, settings)
        cells = []
        for rate in rates:
            found = _hold_out(usable, vectors, rate, args.epochs)
            error = np.std(found, ddof=1) / np.sqrt(FOLDS)
            cells.append(f"{np.mean(found):.4f} ±{error:.4f}")
        print(f"{name:10}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def _embed(dataset: Dataset, settings: Settings) -> tuple[Dataset, np.ndarray]:
    stack = prepare_networks(settings, default_store())
    usable, vectors = embed_images(dataset, make_extractors(stack, settings, default_store()))
    return usable, np.asarray(vectors.values)


def _hold_out(dataset: Dataset, vectors: np.ndarray, rate: float, epochs: int) -> list[float]:
    """Returns the last epoch's accuracy on each held-out fold; no epoch is chosen on it."""
    labels = dataset.labels
    settings = Settings.create(epochs=epochs, learning_rate=rate).head_settings()
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(vectors, labels)
    accuracies = []
    for train, held_out in folds:
        _, history = train_head(
            LabeledVectors(vectors[train], labels[train]),
            LabeledVectors(vectors[held_out], labels[held_out]),
            settings,
            outputs=len(dataset.classes),
        )
        accuracies.append(history.history["val_accuracy"][-1])
    return accuracies


if __name__ == "__main__":
    main()
