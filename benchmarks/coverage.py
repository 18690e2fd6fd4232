"""How often label sets hold the truth, over many divisions of the same images.

    python benchmarks/coverage.py DATA... --divisions 50
    python benchmarks/coverage.py DATA --head dense --refit

The images of each data set, whatever their splits, are embedded once. Then their vectors are
divided anew each time, by class: a fifth to test, a fifth of the rest to validate. A head is
fitted as `topwork train` does, and its label sets are put to the test images. The learning rate or
the penalty is chosen by folds of the first division and kept, so that a division takes seconds.
No division is made of groups or near copies: calibration and test images are alike by design.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from topwork.core.config import Search, Settings, default_store
from topwork.data.dataset import Dataset
from topwork.data.listing import Split
from topwork.heads.examples import LabeledVectors, RowSplit
from topwork.heads.tuning.search import search_auto
from topwork.metrics.calibration import Calibration, calibration_error, softmax
from topwork.metrics.conformal import coverage_of, label_sets
from topwork.recipes.fit_head import fit_head
from topwork.recipes.prepare import TrainingData
from topwork.recipes.train import AUTO_FOLDS, make_tuner
from topwork.vectors.embed import Embedding, embed_images
from topwork.vectors.extractors import make_extractors, prepare_networks

COVERAGES = (0.9, 0.95, 0.98)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--divisions", type=int, default=50)
    parser.add_argument("--head", nargs="*", default=["dense", "logistic"])
    parser.add_argument("--refit", action="store_true")
    parser.add_argument("--learning-rate", default="auto")
    args = parser.parse_args()
    for path in args.data:
        settings = Settings.create()
        stack = prepare_networks(settings, default_store())
        dataset, vectors = embed_images(
            Dataset.from_folder(path), make_extractors(stack, settings, default_store())
        )
        for head in args.head:
            options = {"learning_rate": args.learning_rate, "refit": args.refit}
            if head == "logistic":
                options = {"head": head, "normalize": True}
            _show(path.name, head, dataset, vectors, Settings.create(**options), args.divisions)


def _show(
    name: str, head: str, dataset: Dataset, vectors: Embedding, settings: Settings, divisions: int
) -> None:
    rows = []
    for seed in range(divisions):
        data, test = _divide(dataset, vectors, seed)
        settings, figures = _measure(data, vectors, test, dataset.labels[test], settings, seed)
        rows.append(figures)
    found = np.array(rows)
    sides = f"{data.split.training.shape[1]}, {len(data.split.held_out)} and {len(test)} images"
    print(f"{name}, {head} head: {divisions} divisions into {sides}", flush=True)
    names = [f"{c:.2f} asked" for c in COVERAGES] + ["accuracy", "calibration error"]
    for what, column in zip(names, found.T, strict=True):
        low, high = np.quantile(column, (0.05, 0.95))
        spread = f"deviation {column.std():.3f}, 5 to 95 %: {low:.3f} to {high:.3f}"
        print(f"  {what:18} {column.mean():.3f}  {spread}", flush=True)


def _divide(dataset: Dataset, vectors: Embedding, seed: int) -> tuple[TrainingData, np.ndarray]:
    labels, everything = dataset.labels, np.arange(len(dataset))
    rest, test = train_test_split(everything, test_size=0.2, random_state=seed, stratify=labels)
    _, validation = train_test_split(rest, test_size=0.2, random_state=seed, stratify=labels[rest])
    splits = np.full(len(dataset), str(Split.TRAIN), dtype="<U10")
    splits[validation], splits[test] = str(Split.VALIDATION), str(Split.TEST)
    training = np.flatnonzero(splits == Split.TRAIN).astype(np.int32)
    split = RowSplit(training[None], np.sort(validation).astype(np.int32))
    divided = replace(dataset, splits=splits, groups=None)
    examples = LabeledVectors(np.asarray(vectors.values), dataset.targets)
    return TrainingData(divided, vectors, examples, split), np.sort(test)


def _measure(
    data: TrainingData,
    vectors: Embedding,
    test: np.ndarray,
    labels: np.ndarray,
    settings: Settings,
    seed: int,
) -> tuple[Settings, list[float]]:
    settings = settings.model_copy(update={"seed": seed})
    tuner = make_tuner(data, seed, Search.create(seeds=1), most_folds=AUTO_FOLDS)
    assert tuner is not None
    trial = search_auto(tuner, settings.head_settings())
    fitted = fit_head(data, trial.settings, settings, (tuner, trial))
    assert isinstance(fitted.calibration, Calibration)
    chances = softmax(fitted.head.logits(np.asarray(vectors.values)[test]))
    figures = [
        coverage_of(label_sets(chances, fitted.calibration.threshold(coverage)), labels)[0]
        for coverage in COVERAGES
    ]
    accuracy = float((chances.argmax(axis=1) == labels).mean())
    found = [*figures, accuracy, calibration_error(chances, labels)]
    return settings.model_copy(update=trial.settings.model_dump()), found


if __name__ == "__main__":
    main()
