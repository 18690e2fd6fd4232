"""What each export of a model weighs, how fast it runs, and how often it says what the model says.

    python benchmarks/exports.py MODEL DATA [--only openvino-int8 onnx-f32] [--rounds 0]

Every format and precision is exported and then run on the test images of DATA, which no export
was fitted to or checked on. Agreement is with the model in f32; the accuracies have their 95 %
interval. Images per second are of batches of 8, one at a time, by processes that stay open and
take turns: the median of the rounds. Keras runs on TensorFlow. These machines are noisy: read
the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from topwork.core.config import Precision
from topwork.core.errors import TopworkError
from topwork.data.dataset import Dataset
from topwork.heads.dense import decide
from topwork.images.decode import read_pixels
from topwork.metrics.intervals import wilson_interval
from topwork.models.export import Format, Input, Numbers, export_model
from topwork.models.export.formats import TRAITS
from topwork.models.export.openvino_file import open_runner, run_openvino
from topwork.models.folder import load_model

BATCH, TIMED = 8, 8  # images, batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="*", help="such as openvino-int8")
    parser.add_argument("--rounds", type=int, default=5, help="0 for no times")
    parser.add_argument("--keep", type=Path, help="where exports are kept, and found again")
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
        return
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        compare(args, args.keep or Path(name), Path(name))


def compare(args: argparse.Namespace, folder: Path, scratch: Path) -> None:
    model = load_model(args.model)
    columns: dict[str, Any] = dict(model.data.columns)
    dataset = Dataset.open(args.data, labelled=False, **columns)
    dataset = dataset.select(dataset.splits == "test")
    labels = np.array([model.classes.index(text) for text in dataset.label_texts])
    pixels = {
        name: np.stack([read_pixels(s, size, model.interpolation) for s in dataset.sources])
        for name, size in model.inputs.items()
    }
    np.savez(scratch / "pixels.npz", allow_pickle=False, **pixels)
    source = args.model / "model.xml"
    found = {
        f"model, {arithmetic}": run_openvino(source, pixels, Input.FLOAT32, arithmetic, ["logits"])[
            "logits"
        ]
        for arithmetic in (Precision.F32, model.precision)
    }
    exact = found["model, f32"]
    say_header(args.model, len(labels))
    for name, logits in found.items():
        print(f"{name:18}{'':>8}{say(model.task, logits, exact, labels)}")
    workers: dict[str, subprocess.Popen[str]] = {}
    sizes: dict[str, float] = {}
    for format_, numbers in wanted(args.only):
        name = f"{format_}-{numbers}"
        try:
            place = export(args, folder / name, format_, numbers)
        except TopworkError as error:
            print(f"{name:18} {error}", flush=True)
            continue
        facts = json.loads((place / "export.json").read_text(encoding="utf-8"))
        sizes[name] = sum(file["bytes"] for file in facts["files"].values()) / 1e6
        workers[name] = start(place, scratch, name)
        logits = np.load(scratch / f"{name}.npy")
        text = say(model.task, logits, exact, labels)
        print(f"{name:18}{sizes[name]:>8.1f}{text}", flush=True)
    say_times(workers, args.rounds)


def wanted(only: list[str] | None) -> list[tuple[Format, Numbers]]:
    pairs = [(f, n) for f in Format if f is not Format.NUMPY for n in TRAITS[f].numbers]
    return [(f, n) for f, n in pairs if not only or f"{f}-{n}" in only]


def export(args: argparse.Namespace, place: Path, format_: Format, numbers: Numbers) -> Path:
    if not place.exists():
        export_model(args.model, place, format=format_, precision=numbers, data=args.data)
    return place


def say_header(model: Path, images: int) -> None:
    print(f"{model.name}: {images} test images\n")
    print(f"{'':18}{'MB':>8}{'agreement':>11}{'accuracy':>10}  95 % interval")


def say(task: Any, logits: Any, exact: Any, labels: Any) -> str:
    answers = decide(task, logits)
    right = int((answers == labels).sum())
    low, high = wilson_interval(right, len(labels))
    same = float((answers == decide(task, exact)).mean())
    return f"{same:>11.2%}{right / len(labels):>10.2%}  {low:.1%} to {high:.1%}"


def start(place: Path, scratch: Path, name: str) -> subprocess.Popen[str]:
    """Starts a process that has run all images, and waits to be asked for a few again."""
    worker = subprocess.Popen(
        [sys.executable, __file__, "--worker", str(place), str(scratch), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if ask(worker) != "ready":
        raise SystemExit(f"the process that runs {name} broke")
    return worker


def ask(worker: subprocess.Popen[str]) -> str:
    """Returns the worker's next line that is meant for us."""
    for line in worker.stdout or ():
        if line.startswith("> "):
            return line[2:].strip()
    return ""


def say_times(workers: dict[str, subprocess.Popen[str]], rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            if worker.stdin is not None:
                worker.stdin.write("go\n")
                worker.stdin.flush()
            rates[name].append(BATCH * TIMED / float(ask(worker)))
    for worker in workers.values():
        if worker.stdin is not None:
            worker.stdin.close()
        worker.wait()
    if rounds:
        print(f"\n{'':18}{'images/s':>10}{'least':>8}{'most':>8}")
        for name, found in rates.items():
            print(f"{name:18}{median(found):>10.1f}{min(found):>8.1f}{max(found):>8.1f}")


def work(place: str, scratch: str, name: str) -> None:
    """The other side of `start`."""
    facts = json.loads((Path(place) / "export.json").read_text(encoding="utf-8"))
    run = open_file(Path(place), facts)
    pixels = dict(np.load(Path(scratch) / "pixels.npz"))
    count = len(next(iter(pixels.values())))

    def take(at: int) -> dict[str, Any]:
        return {key: a[at : at + BATCH].astype(np.float32) for key, a in pixels.items()}

    logits = np.concatenate([np.asarray(run(take(at))) for at in range(0, count, BATCH)])
    np.save(Path(scratch) / f"{name}.npy", logits)
    batches = [take(at) for at in range(0, BATCH * TIMED, BATCH)]
    print("> ready", flush=True)
    for _ in sys.stdin:
        run(batches[0])
        started = time.perf_counter()
        for batch in batches:
            np.asarray(run(batch))
        print(f"> {time.perf_counter() - started}", flush=True)


def open_file(place: Path, facts: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    """Returns a function from a batch of each input to logits."""
    from topwork.models.export import runtimes

    traits = TRAITS[Format(facts["format"])]
    path = str(place / (traits.file or ""))
    match facts["format"]:
        case "openvino":
            return open_runner(Path(path), Precision(facts["check"]["arithmetic"]))
        case "onnx":
            session = runtimes.open_onnx(path)
            return lambda batch: session.run(["logits"], batch)[0]
        case "litert":
            run = runtimes.open_litert(path)
            return lambda batch: run(**batch)["logits"]
        case "saved-model":
            import tensorflow as tf

            loaded = tf.saved_model.load(path)
            serve = loaded.signatures["serving_default"]
            # Its functions live as long as it does.
            serve.loaded = loaded
            return lambda batch: serve(**{k: tf.constant(v) for k, v in batch.items()})["logits"]
    import keras

    model = keras.saving.load_model(path, compile=False)
    return lambda batch: model.predict_on_batch(
        batch if len(batch) > 1 else next(iter(batch.values()))
    )


if __name__ == "__main__":
    main()
