"""Ultralytics classify: everything is trained; without a network there are no weights for it."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

from report import read_arguments, report

args = read_arguments()
folder = Path(tempfile.mkdtemp())
for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
    (folder / name).symlink_to((args.data / split).resolve())

with contextlib.redirect_stdout(sys.stderr):
    # user code
    from ultralytics import YOLO

    model = YOLO("yolo11n-cls.yaml")
    begun = args.clock()
    found = model.train(
        data=str(folder), epochs=1, imgsz=224, device="cpu", batch=32, project=str(folder / "runs")
    )
    # end
    trained = args.clock() - begun

report(
    "Ultralytics classify",
    seconds=args.clock(),
    epoch_s=trained,
    images=sum(1 for _ in (args.data / "train").rglob("*.jpg")),
    validation=float(found.top1),
    weights="random",
    what="1 epoch of everything, with its check",
)
