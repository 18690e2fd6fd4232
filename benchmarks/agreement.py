"""Whether the model.xml of a saved model answers as the vectors did that it was trained on.

    python benchmarks/agreement.py DATA --store DIR --xception H5 --mobilenet H5

Trains heads of several learning rates and logistic ones on vectors of several bases, sizes and
precisions, saves each model, and compares what OpenVINO makes of its `model.xml` in a process'
own defaults, and in the model's precision, with the logits of the stored vectors, on all
validation images. Says whether every model was saved, without a doubt, and as it was asked for.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from topwork.bases.engines import run_file
from topwork.core.config import Settings
from topwork.core.runtime import import_openvino
from topwork.data.dataset import Dataset
from topwork.images.decode import read_pixels
from topwork.models.checks.agreement import compare_logits
from topwork.models.folder import load_model
from topwork.recipes import train as pipeline

BASES = (
    ("xception", 150), ("xception", 224), ("xception", 299),
    ("efficientnet-lite0", 224), ("efficientnet-lite2", 260), ("mobilenetv2", 224),
)  # fmt: skip
PRECISIONS = ("int8", "bf16", "f32")
HEADS: tuple[dict[str, Any], ...] = (
    *({"learning_rate": rate} for rate in (0.0001, 0.001, 0.01, 0.1)),
    *({"head": "logistic", "penalty": penalty} for penalty in (0.01, 1.0)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--xception", help="file with the weights of Xception")
    parser.add_argument("--mobilenet", help="file with the weights of MobileNetV2")
    parser.add_argument("--share", type=int, default=4, help="one training image of so many")
    args = parser.parse_args()
    data = Dataset.open(args.data)
    training = data.splits == "train"
    kept = ~training & (data.splits == "validation")
    kept[np.flatnonzero(training)[:: args.share]] = True
    data = data.select(kept)
    weights = {"xception": args.xception, "mobilenetv2": args.mobilenet}
    print("base, precision, head: saved in; share of equal answers by model.xml in its precision,")
    print("with OpenVINO's defaults; largest difference of a probability of each; accuracy")
    worst = 1.0
    for base, size in BASES:
        for precision in PRECISIONS:
            for head in HEADS:
                settings = Settings.create(
                    base=base, image_size=size, weights=weights.get(base), precision=precision,
                    **head,
                )  # fmt: skip
                worst = min(worst, measure(data, settings, args.store))
    print(f"least share of equal answers {worst:.4f}")


def measure(data: Dataset, settings: Settings, store: Path) -> float:
    """Trains, saves and compares one model, and returns the share of equal answers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m")
        trained = pipeline.train(data, settings, store, will_save=True)
        saved = trained.save(path)
        model, answers = load_model(path), trained.predictions
        (size,) = model.inputs.values()
        pixels = np.stack(
            [
                read_pixels(source, size, model.interpolation)
                for source in answers.sources
                if source is not None
            ]
        )
        found = run_file(path / "model.xml", {"image": pixels}, model.precision, output="logits")
        stock = run_with_defaults(path / "model.xml", pixels)
    compared = [compare_logits(model.task, logits, answers.logits, "") for logits in (found, stock)]
    solved = str(settings.head) == "logistic"
    head = f"penalty {settings.penalty}" if solved else f"rate {settings.learning_rate}"
    print(
        f"{settings.base} {settings.image_size} {settings.precision:4} {head:13} "
        f"{model.precision:4}  {compared[0].share:.4f} {compared[1].share:.4f}  "
        f"{compared[0].probability:.4f} {compared[1].probability:.4f}  {trained.report.value:.3f}",
        *saved.warnings,
        flush=True,
    )
    return compared[0].share


def run_with_defaults(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Runs a file as anybody would."""
    compiled = import_openvino().Core().compile_model(path, "CPU")
    batches = np.split(pixels, range(8, len(pixels), 8))
    return np.concatenate([compiled(batch.astype(np.float32))["logits"] for batch in batches])


if __name__ == "__main__":
    main()
