"""Whether copies of validation images among the training images are found, and nothing else.

    python benchmarks/leakage.py DATA --seeds 5

Twenty validation images are planted in train under other names: ten at another JPEG quality, five
of another size and five mirrored besides. DATA, with the folders train and validation, stays as
it is; the planted data is links to it. The bar: all twenty found, at most five false pairs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from topwork.core.config import Settings, default_store
from topwork.data.dataset import Dataset
from topwork.vectors.duplicates import Likeness, find_duplicates, group_duplicates
from topwork.vectors.embed import embed_images
from topwork.vectors.extractors import make_extractors, prepare_networks

PLANTED = 20
CHANGED = 5
QUALITIES = (30, 96)
SCALES = (0.5, 0.7)
FALSE = 5
MARK = "planted-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()

    store = args.store or default_store()
    there = {pair for pair, _ in _find(args.data, store)[0]}
    print(f"without planting: {len(there)} pairs")
    for pair in sorted(there):
        print("  " + "  ".join(sorted(pair)))
    print(f"\n{'seed':>4}{'found':>8}{'near':>6}{'mirrored':>10}{'false':>7}{'seconds':>9}")
    passed = True
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            planted = plant(args.data, Path(folder), seed)
            named, groups, seconds = _find(Path(folder), store)
        found = sum(groups[copy] == groups[original] for copy, original in planted.items())
        false = set()
        for pair, _ in named:
            # What is alike to a copy is alike to its original.
            originals = frozenset(planted.get(name, name) for name in pair)
            if len(originals) == 2 and originals not in there:
                false.add(pair)
        kinds = [kind for pair, kind in named if any(MARK in name for name in pair)]
        print(
            f"{seed:>4}{found:>5}/{len(planted)}{kinds.count(Likeness.NEAR):>6}"
            f"{kinds.count(Likeness.MIRRORED):>10}{len(false):>7}{seconds:>9.1f}"
        )
        for pair in false:
            print("  false: " + "  ".join(sorted(pair)))
        passed &= found == len(planted) and len(false) <= FALSE
    print(f"\nall {PLANTED} found, at most {FALSE} false: {'yes' if passed else 'NO'}")
    raise SystemExit(not passed)


def plant(data: Path, folder: Path, seed: int) -> dict[str, str]:
    """Links data into a folder, with copies of validation images in train.

    Returns:
        The name of each copy and of its original.
    """
    for path in sorted(data.glob("*/*/*")):
        link = folder / path.relative_to(data)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    rng = np.random.default_rng(seed)
    images = sorted((data / "validation").glob("*/*"))
    planted = {}
    for number, place in enumerate(rng.choice(len(images), PLANTED, replace=False)):
        original = images[place]
        name = Path("train", original.parent.name, f"{MARK}{number:02}.jpg")
        with Image.open(original) as image:
            copy = ImageOps.exif_transpose(image).convert("RGB")
        if number < CHANGED:
            copy = ImageOps.mirror(copy)
        elif number < 2 * CHANGED:
            scale = rng.choice(SCALES)
            copy = copy.resize((round(copy.width * scale), round(copy.height * scale)))
        copy.save(folder / name, quality=int(rng.integers(*QUALITIES)))
        planted[name.as_posix()] = original.relative_to(data).as_posix()
    return planted


def _find(
    data: Path, store: Path
) -> tuple[list[tuple[frozenset[str], Likeness]], dict[str, int], float]:
    """Returns the pairs by name and how they are alike, each image's group, and the seconds."""
    settings = Settings.create()
    extractors = make_extractors(prepare_networks(settings, store), settings, store)
    dataset, vectors = embed_images(Dataset.from_folder(data), extractors)
    started = time.perf_counter()
    pairs = find_duplicates(vectors.hashes, vectors.values, dataset.sources)
    seconds = time.perf_counter() - started
    groups = group_duplicates(pairs, len(dataset)).tolist()
    named = [
        (frozenset((dataset.names[pair.first], dataset.names[pair.second])), pair.likeness)
        for pair in pairs
    ]
    return named, dict(zip(dataset.names, groups, strict=True)), seconds


if __name__ == "__main__":
    main()
