"""Where the time of the one long job goes, and how far it is from what the machine can do.

    python benchmarks/engine.py DATA --base efficientnet-lite0
    python benchmarks/engine.py DATA --base xception@150 --weights FILE --precisions f32,bf16,int8

For each precision, in turns, medians of several rounds: the base alone on ready-made batches; the
whole way from files to stored vectors; reading and hashing, decoding, bringing to size and storing
alone, in milliseconds of one core an image; and what share of the operations that large
convolutions reach on this machine the base alone has. The bound is the number of cores over the
seconds of a core that an image takes to be decoded and to be run, each measured on all cores at
once. With --shapes also every size of batch and number of streams. These machines are noisy: read
the ratios.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from arithmetic import count_operations, measure_peak

from topwork.bases.engines import OpenVINOEngine
from topwork.bases.engines.openvino import BATCH_SIZE
from topwork.core.config import Interpolation, Precision, Settings, default_store
from topwork.core.runtime import cores, hide
from topwork.data.dataset import Dataset
from topwork.images.decode import decode, image_hash, read_bytes
from topwork.vectors.embed import embed_images
from topwork.vectors.extractors import FeatureExtractor, make_space, prepare_networks
from topwork.vectors.quantize import fit_networks
from topwork.vectors.space import Space
from topwork.vectors.store import VectorStore

ROUNDS = 5
READY = 128  # decoded images that the base alone runs over, again and again
FIRST = 8  # images that a base runs before it is measured
DECODED = 600
ARITHMETIC = ("amx", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2")


@dataclass(frozen=True)
class Case:
    """A base in one precision.

    Attributes:
        path: of its network.
        space: what its vectors are.
        vector_length: D.
    """

    path: Path
    space: Space
    vector_length: int

    def open(self, batch: int = BATCH_SIZE, streams: int | None = None) -> OpenVINOEngine:
        """Compiles it."""
        precision = Precision(self.space.precision)
        size = self.space.image_size
        return OpenVINOEngine(self.path, size, precision, batch_size=batch, streams=streams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", default="efficientnet-lite0")
    parser.add_argument("--weights")
    parser.add_argument("--precisions", default="f32,bf16,int8")
    parser.add_argument("--interpolation", default="sampled")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--shapes", action="store_true")
    parser.add_argument("--pillow", action="store_true", help="decode without the extra fast")
    args = parser.parse_args()
    if args.pillow:
        hide("simplejpeg", "cv2")

    whole = Dataset.from_folder(args.data)
    whole = whole.select(whole.splits == "train")
    places = np.linspace(0, len(whole) - 1, min(args.images, len(whole))).astype(int)
    dataset = whole.select(np.isin(np.arange(len(whole)), places))
    cases = {}
    for name in args.precisions.split(","):
        settings = Settings.create(
            base=args.base,
            weights=args.weights,
            precision=name,
            interpolation=args.interpolation,
        )
        stack = prepare_networks(settings, default_store())
        fitted = fit_networks(stack, whole, settings, default_store())
        (network,) = fitted.stack.networks
        space = make_space(network, settings)
        cases[name] = Case(network.vectors_path, space, network.vector_length)
    operations = count_operations(network.openvino_path, network.image_size)
    print(f"{network.spec.name}, {network.image_size} px, {cores()} cores, {len(dataset)} images")
    print(f"{operations:.2f} · 10^9 operations an image; the processor has {_list_flags()}\n")

    data = [read_bytes(source) for source in dataset.sources[:READY]]
    filter_ = Interpolation(args.interpolation)
    pixels = np.stack([decode(content, network.image_size, filter_) for content in data])
    _show_steps(dataset, data, network.image_size, filter_, network.vector_length)
    _show_rates(cases, dataset, pixels, operations, filter_)
    if args.shapes:
        _show_shapes(cases, pixels)


def _show_steps(
    dataset: Dataset, data: list[bytes], size: int, filter_: Interpolation, length: int
) -> None:
    def store(count: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            space = Space("none", "", size, "", "", "", "f32")
            vectors = np.zeros((count, length), np.float32)
            VectorStore(Path(folder), space, length).write(
                [f"{n:064x}" for n in range(count)], vectors
            )

    def read_and_hash() -> None:
        for source in dataset.sources[: len(data)]:
            image_hash(read_bytes(source))

    steps: dict[str, Callable[[], object]] = {
        "read and hash": read_and_hash,
        "decode and bring to size": lambda: [decode(d, size, filter_) for d in data],
        "store": lambda: store(len(data)),
    }
    for name, step in steps.items():
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            step()
            times.append((time.perf_counter() - started) / len(data) * 1e3)
        print(f"{name:26}{median(times):7.2f} ms of one core an image")
    print()


def _show_rates(
    cases: dict[str, Case],
    dataset: Dataset,
    pixels: np.ndarray,
    operations: float,
    filter_: Interpolation,
) -> None:
    engines = {name: case.open() for name, case in cases.items()}
    alone: dict[str, list[float]] = {name: [] for name in cases}
    bounds: dict[str, list[float]] = {name: [] for name in cases}
    whole: dict[str, list[float]] = {name: [] for name in cases}
    peaks: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            decoding = _decode(dataset, engine.image_size, filter_)
            started = time.process_time()
            alone[name].append(_run(engine, pixels, len(dataset)))
            running = (time.process_time() - started) / (len(dataset) + FIRST)
            bounds[name].append(cores() / (decoding + running))
            whole[name].append(_embed(cases[name], engine, dataset))
            peaks[name].append(measure_peak(Precision(name)))
    head = ("", "alone", "bound", "end to end", "of bound", "x first", "of peak")
    print(
        f"{head[0]:6}{head[1]:>8}{head[2]:>8}{head[3]:>12}{head[4]:>10}{head[5]:>9}{head[6]:>9}"
        "  images/s"
    )
    first = next(iter(cases))
    for name in cases:
        ratios = [w / b for w, b in zip(whole[name], bounds[name], strict=True)]
        gains = [w / f for w, f in zip(whole[name], whole[first], strict=True)]
        shares = [operations * a / p for a, p in zip(alone[name], peaks[name], strict=True)]
        print(
            f"{name:6}{median(alone[name]):8.1f}{median(bounds[name]):8.1f}"
            f"{median(whole[name]):12.1f}{median(ratios):10.3f}{median(gains):9.2f}"
            f"{median(shares):9.1%}  of bound {min(ratios):.3f} to {max(ratios):.3f}"
        )


def _decode(dataset: Dataset, size: int, filter_: Interpolation) -> float:
    """Returns the seconds of one core that an image takes, decoded on all cores at once."""
    sources = dataset.sources[:DECODED]
    started = time.process_time()
    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(lambda source: decode(read_bytes(source), size, filter_), sources):
            pass
    return (time.process_time() - started) / len(sources)


def _list_flags() -> str:
    """Returns what this processor computes with, where that can be known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "flags that are not known"
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return ", ".join(flag for flag in flags if flag.startswith(ARITHMETIC)) or "no wide arithmetic"


def _show_shapes(cases: dict[str, Case], pixels: np.ndarray) -> None:
    shapes = [(batch, streams) for batch in (1, 2, 4, 8, 16, 32) for streams in {1, cores()}]
    for name, case in cases.items():
        engines = {shape: case.open(*shape) for shape in shapes}
        rates: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
        for _ in range(ROUNDS):
            for shape, engine in engines.items():
                rates[shape].append(_run(engine, pixels, max(128, 4 * shape[0])))
        chosen = median(rates[BATCH_SIZE, cores()])
        print(f"\n{name}: {'batch':>6}{'streams':>9}{'images/s':>10}{'ratio':>7}")
        for (batch, streams), found in sorted(rates.items()):
            print(f"{batch:>12}{streams:>9}{median(found):>10.1f}{median(found) / chosen:>7.2f}")


def _run(engine: OpenVINOEngine, pixels: np.ndarray, count: int) -> float:
    list(engine.run((n, pixels[n]) for n in range(FIRST)))
    started = time.perf_counter()
    for _ in engine.run((n, pixels[n % len(pixels)]) for n in range(count)):
        pass
    return count / (time.perf_counter() - started)


def _embed(case: Case, engine: OpenVINOEngine, dataset: Dataset) -> float:
    with tempfile.TemporaryDirectory() as folder:
        store = VectorStore(Path(folder), case.space, case.vector_length)
        started = time.perf_counter()
        embed_images(dataset, [FeatureExtractor(store, lambda: engine)])
        return len(dataset) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
