"""How the presets were chosen: stacks of bases compared by folds of the training images.

    python benchmarks/candidates.py DATA

For every candidate the training images are embedded once (in the store, so that a second run
takes seconds); then a logistic head is solved for every penalty on five stratified folds with
two divisions, and the best penalty's mean accuracy on the held-out folds is printed with its
standard error, beside the time that the networks took for an image. Validation and test images
are not looked at.
"""

from __future__ import annotations

import argparse
import time
from itertools import repeat
from pathlib import Path

import numpy as np

from topwork.core.config import Settings, default_store
from topwork.data.dataset import Dataset
from topwork.data.listing import Split
from topwork.heads.examples import LabeledVectors, RowSplit
from topwork.heads.tuning.folds import make_replicates
from topwork.heads.tuning.search import search_auto
from topwork.heads.tuning.trials import rank
from topwork.heads.tuning.tuner import Tuner
from topwork.vectors.embed import embed_images
from topwork.vectors.extractors import FeatureExtractor, make_extractors, prepare_networks

CANDIDATES = (
    "efficientnet-lite0@160",
    "efficientnet-lite0@176",
    "efficientnet-lite0@192",
    "efficientnet-lite0@224",
    "efficientnet-lite0@288",
    "efficientnet-lite1@300",
    "efficientnet-lite2@320",
    "efficientnet-lite0@224,efficientnet-lite1@240",
    "efficientnet-lite0@224,efficientnet-lite1@300",
    "efficientnet-lite0@224,efficientnet-lite1@240,efficientnet-lite2@260",
    "efficientnet-lite0@224,efficientnet-lite1@300,efficientnet-lite2@320",
    "efficientnet-lite0@288,efficientnet-lite1@300,efficientnet-lite2@320",
    "efficientnet-lite0@288,efficientnet-lite1@360,efficientnet-lite2@380",
)
TIMED = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--bases", nargs="*", default=CANDIDATES)
    parser.add_argument("--flip", action="store_true")
    args = parser.parse_args()
    dataset = Dataset.from_folder(args.data)
    dataset = dataset.select(dataset.splits == Split.TRAIN)
    print(f"{'ms an image':>12} {'accuracy by folds':>18} {'penalty':>8}  bases")
    for base in args.bases:
        settings = Settings.create(
            base=base,
            head="logistic",
            normalize=True,
            class_weight="balanced",
            flip=args.flip,
        )
        stack = prepare_networks(settings, default_store())
        extractors = make_extractors(stack, settings, default_store())
        usable, vectors = embed_images(dataset, extractors)
        split = RowSplit(np.arange(len(usable), dtype=np.int32)[None], np.array([], np.int32))
        replicates = [
            replicate
            for seed in (0, 1)
            for replicate in make_replicates(
                split, usable.labels[split.training[0]], 5, 1, seed, classes=usable.classes
            )
        ]
        tuner = Tuner(
            LabeledVectors(vectors.values, usable.labels), replicates, len(usable.classes)
        )
        search_auto(tuner, settings.head_settings())
        best = max(tuner.trials, key=rank)
        # Folds of two divisions overlap: five of them are the independent ones.
        error = best.scores.std(ddof=1) / np.sqrt(5)
        pace = _time(usable, settings) * 1e3
        accuracy = f"{best.mean:.4f} ±{error:.4f}"
        print(f"{pace:12.1f} {accuracy:>18} {best.settings.penalty:8g}  {base}", flush=True)


def _time(dataset: Dataset, settings: Settings) -> float:
    """Returns the seconds that an image takes from its file to its vectors."""
    import tempfile

    chosen = np.arange(len(dataset)) < TIMED
    with tempfile.TemporaryDirectory() as folder:
        stack = prepare_networks(settings, default_store())
        extractors = make_extractors(stack, settings, Path(folder))
        engines = [extractor.open_engine() for extractor in extractors]
        started = time.perf_counter()
        for extractor, engine in zip(extractors, engines, strict=True):
            opened = FeatureExtractor(extractor.store, repeat(engine).__next__)
            embed_images(dataset.select(chosen), [opened])
        return (time.perf_counter() - started) / float(chosen.sum())


if __name__ == "__main__":
    main()
