"""How many wrong labels are found, how fast, and what leaving them out wins back.

    python benchmarks/suspects.py DATA [--store DIR] [--sheet FILE.png]

Some training labels are flipped at random, each to another class. Of the images that are ranked
first, as many as were flipped, the share that was: the recall. Then `train` with its defaults on
the clean labels, on the flipped ones, and on those without the images ranked first; the accuracy
is that of the test split, which decides nothing. Labels that were wrong before the flips count as
false alarms: the sheet shows the first suspects of the clean labels. Times are of vectors that
are in memory, and of reading them from a warm store; these machines are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from scipy.stats import t as student

from topwork.core.config import Settings, default_store
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.listing import Split
from topwork.heads.examples import LabeledVectors
from topwork.heads.train import train_head
from topwork.inspection.label_issues import cross_predict, rank_classes, score_labels
from topwork.recipes.train import train
from topwork.vectors.embed import embed_images
from topwork.vectors.extractors import make_extractors, prepare_networks

SHARE = 0.05
ROUNDS = 3
SHEET = (4, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--store", type=Path, default=default_store())
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seeds", type=int, default=5, help="of the flips")
    parser.add_argument("--trainings", type=int, default=3, help="from other first weights")
    parser.add_argument("--sheet", type=Path, help="where to draw the first suspects")
    args = parser.parse_args()
    settings = Settings.create(image_size=args.image_size)
    dataset = Dataset.from_folder(args.data).with_validation(0.2, 0)
    extractors = make_extractors(prepare_networks(settings, args.store), settings, args.store)
    dataset, _ = embed_images(dataset, extractors)
    started = time.perf_counter()
    extractors = make_extractors(prepare_networks(settings, args.store), settings, args.store)
    _, vectors = embed_images(dataset, extractors)
    print(f"reading {len(dataset)} images and their vectors  {time.perf_counter() - started:.1f} s")
    values = np.asarray(vectors.values)
    _measure_time(dataset, values)
    if args.sheet:
        _draw_sheet(dataset, values, args.sheet)
    rows = [_flip_and_train(dataset, values, args, seed) for seed in range(args.seeds)]
    _summarise(np.array(rows))


def _rank(dataset: Dataset, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns held-out probabilities and scores of the training images."""
    training = dataset.splits == Split.TRAIN
    labels = dataset.labels[training]
    found = cross_predict(vectors[training], labels, Task.CLASSES, len(dataset.classes))
    return found, score_labels(found, labels)


def _measure_time(dataset: Dataset, vectors: np.ndarray) -> None:
    training, validation = (
        LabeledVectors(vectors[dataset.splits == split], dataset.labels[dataset.splits == split])
        for split in (Split.TRAIN, Split.VALIDATION)
    )
    recipe = Settings.create(learning_rate=0.01).head_settings()
    ranking, heads = [], []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        _rank(dataset, vectors)
        ranking.append(time.perf_counter() - started)
        started = time.perf_counter()
        train_head(training, validation, recipe, outputs=len(dataset.classes))
        heads.append(time.perf_counter() - started)
    print(f"ranking, the first time    {ranking[0]:.1f} s; then {median(ranking[1:]):.1f} s")
    print(f"one head of {recipe.epochs} epochs      {heads[0]:.1f} s; then ", end="")
    print(f"{median(heads[1:]):.1f} s")
    ratios = [a / b for a, b in zip(ranking[1:], heads[1:], strict=True)]
    print(f"ratio                      {median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})")


def _flip_and_train(
    dataset: Dataset, vectors: np.ndarray, args: argparse.Namespace, seed: int
) -> tuple[float, ...]:
    """Returns recall, and the accuracies with clean, flipped and fewer labels."""
    generator = np.random.default_rng(seed)
    training = np.flatnonzero(dataset.splits == Split.TRAIN)
    classes, count = len(dataset.classes), round(SHARE * len(training))
    flipped = generator.choice(training, count, replace=False)
    labels = dataset.labels.copy()
    labels[flipped] = (labels[flipped] + generator.integers(1, classes, count)) % classes
    noisy = replace(dataset, labels=labels)
    probabilities, scores = _rank(noisy, vectors)
    first = training[np.argsort(-scores, kind="stable")[:count]]
    suspects = rank_classes(probabilities, labels[training], dataset.classes)
    kept = np.ones(len(dataset), bool)
    kept[first] = False
    test = dataset.splits == Split.TEST
    accuracies = []
    for some in (dataset, noisy, noisy.select(kept)):
        heads = [
            train(some, Settings.create(image_size=args.image_size, seed=n), args.store).model.head
            for n in range(seed * args.trainings, (seed + 1) * args.trainings)
        ]
        right = [head.logits(vectors[test]).argmax(1) == dataset.labels[test] for head in heads]
        accuracies.append(float(np.mean(right)))
    recall = float(np.isin(flipped, first).mean())
    named = training[[issue.index for issue in suspects]]
    print(
        f"flips {seed}: {count} of {len(training)} flipped, {recall:.1%} of them in the first "
        f"{count}, {np.isin(flipped, named).mean():.1%} in the {len(named)} suspects; test "
        f"accuracy clean {accuracies[0]:.4f}, flipped {accuracies[1]:.4f}, without the first "
        f"{count} {accuracies[2]:.4f}",
        flush=True,
    )
    return recall, *accuracies


def _summarise(rows: np.ndarray) -> None:
    recall, clean, flipped, fewer = rows.T
    print(f"recall    {_describe(recall)}")
    print(f"lost      {_describe(clean - flipped)}")
    print(f"won back  {_describe(fewer - flipped)}")
    print(f"share won back  {(fewer - flipped).mean() / (clean - flipped).mean():.2f}")


def _describe(values: np.ndarray) -> str:
    """Mean and 95 % interval by Student's t."""
    spread = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.4f} ± {spread:.4f}"


def _draw_sheet(dataset: Dataset, vectors: np.ndarray, path: Path) -> None:
    """Draws the first suspects of the labels as they are."""
    from matplotlib.figure import Figure
    from PIL import Image

    training = np.flatnonzero(dataset.splits == Split.TRAIN)
    probabilities, _ = _rank(dataset, vectors)
    suspects = rank_classes(probabilities, dataset.labels[training], dataset.classes)
    print(f"{len(suspects)} suspects among the labels as they are; the first in {path}")
    figure = Figure((12, 9), layout="tight")
    for axes, issue in zip(figure.subplots(*SHEET).ravel(), suspects, strict=False):
        with Image.open(dataset.sources[training[issue.index]]) as image:
            axes.imshow(image.convert("RGB"))
        axes.set_title(f"{issue.given}\n{issue.suggested}? {issue.score:.3f}", fontsize=9)
        axes.axis("off")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
