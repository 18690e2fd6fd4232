"""LightlyTrain, image classification: everything is trained, without published weights."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

from report import read_arguments, report

args = read_arguments()
folder = Path(tempfile.mkdtemp())
STEPS, BATCH = 48, 32

with contextlib.redirect_stdout(sys.stderr):
    # user code
    import lightly_train

    begun = args.clock()
    lightly_train.train_image_classification(
        out=folder / "out",
        data={
            "train": str(args.data / "train"),
            "val": str(args.data / "validation"),
            "classes": dict(
                enumerate(sorted(p.name for p in (args.data / "train").iterdir() if p.is_dir()))
            ),
        },
        model="timm/resnet18",
        steps=STEPS,
        batch_size=BATCH,
        num_workers=2,
        accelerator="cpu",
        precision="32-true",
    )
    # end
    trained = args.clock() - begun

report(
    "LightlyTrain",
    seconds=args.clock(),
    epoch_s=trained,
    images=STEPS * BATCH,
    validation=None,
    weights="random",
    what=f"{STEPS} steps of {BATCH}, everything of a ResNet-18, with its start",
)
