"""Ludwig: a table of paths and labels, a network of its own, without published weights."""

from __future__ import annotations

import contextlib
import csv
import sys
import tempfile
from pathlib import Path

from report import read_arguments, report

args = read_arguments()
folder = Path(tempfile.mkdtemp())
table = folder / "images.csv"
with table.open("w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["image", "label", "split"])
    for number, split in enumerate(("train", "validation", "test")):
        for path in sorted((args.data / split).rglob("*.jpg")):
            rows.writerow([path.resolve(), path.parent.name, number])

with contextlib.redirect_stdout(sys.stderr):
    # user code
    from ludwig.api import LudwigModel

    image = {
        "name": "image",
        "type": "image",
        "encoder": {"type": "efficientnet", "model_variant": "b0", "use_pretrained": False},
        "preprocessing": {"height": 224, "width": 224, "num_channels": 3},
    }
    config = {
        "input_features": [image],
        "output_features": [{"name": "label", "type": "category"}],
        "preprocessing": {"split": {"type": "fixed", "column": "split"}},
        "trainer": {"epochs": 1, "batch_size": 32},
    }
    model = LudwigModel(config, backend="local")
    begun = args.clock()
    result = model.train(dataset=str(table), output_directory=str(folder / "out"))
    # end
    trained = args.clock() - begun

statistics = result.train_stats if hasattr(result, "train_stats") else result[0]
found = statistics.validation["label"]["accuracy"][-1]
report(
    "Ludwig",
    seconds=args.clock(),
    epoch_s=trained,
    images=sum(1 for _ in (args.data / "train").rglob("*.jpg")),
    validation=float(getattr(found, "value", found)),
    weights="random",
    what="reading all images, then 1 epoch of everything",
)
