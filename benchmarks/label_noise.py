"""How well wrong labels are ranked, by what the noise looks like.

    python benchmarks/label_noise.py DATA [--store DIR] [--share 0.2] [--seeds 5]

Training labels are made wrong in three ways: to any other class (uniform), those of each class to
one other (pairs), and by rates and directions that differ by class (class). Then, for the rank of
`topwork inspect`, for the head's belief alone, and for the normalized margin of cleanlab: the
recall, which is the share of the wrong labels among as many that are ranked first, and the area
under precision against recall; means over seeds, with their deviation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from topwork.core.config import Settings, default_store
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.listing import Split
from topwork.inspection.label_issues import count_confident, cross_predict, score_labels
from topwork.inspection.label_noise import find_concentration, weigh_by_noise
from topwork.vectors.embed import embed_images
from topwork.vectors.extractors import make_extractors, prepare_networks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--store", type=Path, default=default_store())
    parser.add_argument("--share", type=float, default=0.2, help="of the labels to make wrong")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    settings = Settings.create()
    dataset = Dataset.from_folder(args.data).with_validation(0.2, 0)
    extractors = make_extractors(prepare_networks(settings, args.store), settings, args.store)
    dataset, vectors = embed_images(dataset, extractors)
    training = dataset.splits == Split.TRAIN
    values, labels = np.asarray(vectors.values)[training], dataset.labels[training].astype(np.int64)
    for kind in ("uniform", "pairs", "class"):
        figures: dict[str, list[tuple[float, float]]] = {}
        found = []
        for seed in range(args.seeds):
            noisy = spoil(labels, len(dataset.classes), kind, args.share, seed)
            probabilities = cross_predict(
                values, noisy, Task.CLASSES, len(dataset.classes), seed=seed
            )
            found.append(find_concentration(count_confident(probabilities, noisy)))
            for name, scores in score(probabilities.astype(np.float64), noisy).items():
                wrong = noisy != labels
                first = np.argsort(-scores, kind="stable")[: wrong.sum()]
                pair = float(wrong[first].mean()), float(average_precision_score(wrong, scores))
                figures.setdefault(name, []).append(pair)
        print(f"{kind}: concentration {min(found):.2f} to {max(found):.2f}")
        for name, pairs in figures.items():
            (recall, area), (spread, _) = np.mean(pairs, axis=0), np.std(pairs, axis=0)
            print(f"  {name:<18} recall {recall:.3f} ± {spread:.3f}, area {area:.3f}", flush=True)


def spoil(labels: np.ndarray, classes: int, kind: str, share: float, seed: int) -> np.ndarray:
    """Returns labels of which about a share is wrong."""
    rng = np.random.default_rng(seed)
    noisy, count = labels.copy(), round(share * len(labels))
    if kind == "class":
        rates = rng.dirichlet(np.ones(classes))[labels]
        chosen = np.flatnonzero(
            rng.random(len(labels)) < np.minimum(rates * count / rates.sum(), 0.6)
        )
        ways = rng.dirichlet(np.full(classes, 0.3), size=classes)
        ways[np.arange(classes), np.arange(classes)] = 0
        ways /= ways.sum(axis=1, keepdims=True)
        noisy[chosen] = [rng.choice(classes, p=ways[label]) for label in labels[chosen]]
        return noisy
    chosen = rng.choice(len(labels), count, replace=False)
    if kind == "uniform":
        noisy[chosen] = (labels[chosen] + rng.integers(1, classes, count)) % classes
    else:
        others = (np.arange(classes) + rng.integers(1, classes, classes)) % classes
        noisy[chosen] = others[labels[chosen]]
    return noisy


def score(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a score for each image by the name of the rank."""
    likely = weigh_by_noise(probabilities, labels, count_confident(probabilities, labels))
    rows = np.arange(len(labels))
    given, others = probabilities[rows, labels], probabilities.copy()
    others[rows, labels] = -1
    return {
        "inspect": score_labels(likely, labels),
        "belief alone": score_labels(probabilities, labels),
        "normalized margin": (1 - given + others.max(axis=1)) / 2,
    }


if __name__ == "__main__":
    main()
