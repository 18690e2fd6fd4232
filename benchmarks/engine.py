"""How fast a base runs on ready-made batches, and how much of that is left end to end.

    python benchmarks/engine.py DATA --base efficientnet-lite0
    python benchmarks/engine.py DATA --base xception --image-size 150 --weights FILE

Images per second for every batch size and number of streams, the median of several rounds
that take turns; then, in turns again, inference alone and the whole way from files to
vectors in the store. These machines are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from topwork.config import Interpolation, Precision, Settings, default_store
from topwork.dataset import Dataset
from topwork.engines import OpenVINOEngine, cores
from topwork.engines.openvino import BATCH_SIZE
from topwork.examples import make_space, prepare_networks
from topwork.images import decode, read_bytes
from topwork.store import VectorStore
from topwork.vectors import embed, read_pixels

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", default="efficientnet-lite0")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--weights")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--interpolation", default="sampled")
    parser.add_argument("--batches", default="1,2,4,8,16,32")
    parser.add_argument("--images", type=int, default=600)
    args = parser.parse_args()

    settings = Settings.create(
        base=args.base,
        image_size=args.image_size,
        weights=args.weights,
        precision=args.precision,
        interpolation=args.interpolation,
    )
    (network,) = prepare_networks(settings, default_store()).networks
    space = make_space(network, settings)
    dataset = Dataset.from_folder(args.data)
    places = np.linspace(0, len(dataset) - 1, min(args.images, len(dataset))).astype(int)
    dataset = dataset.select(np.isin(np.arange(len(dataset)), places))
    size, filter_ = network.image_size, Interpolation(space.interpolation)
    pixels = np.stack([read_pixels(source, size, filter_) for source in dataset.sources[:128]])
    print(f"{network.spec.name}, {size} px, {space.precision}, {cores()} cores\n")

    def open_engine(batch: int = BATCH_SIZE, streams: int | None = None) -> OpenVINOEngine:
        return OpenVINOEngine(
            network.openvino_path,
            size,
            Precision(space.precision),
            batch_size=batch,
            streams=streams,
        )

    shapes = [(b, s) for b in map(int, args.batches.split(",")) for s in {1, cores()}]
    engines = {shape: open_engine(*shape) for shape in shapes}
    rates: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
    for _ in range(ROUNDS):
        for shape, engine in engines.items():
            rates[shape].append(_run(engine, pixels, max(128, 4 * shape[0])))
    chosen = median(rates[BATCH_SIZE, cores()])
    print(f"{'batch':>6}{'streams':>9}{'images/s':>10}{'ratio':>7}")
    for (batch, streams), found in sorted(rates.items()):
        print(f"{batch:>6}{streams:>9}{median(found):>10.1f}{median(found) / chosen:>7.2f}")
    del engines

    engine = open_engine()
    data = [read_bytes(source) for source in dataset.sources[:128]]
    alone, whole, decoding = [], [], []
    for _ in range(ROUNDS):
        alone.append(_run(engine, pixels, len(dataset)))
        with tempfile.TemporaryDirectory() as folder:
            store = VectorStore(Path(folder), space, network.vector_length)
            started = time.perf_counter()
            embed(dataset, store, lambda: engine)
            whole.append(len(dataset) / (time.perf_counter() - started))
        started = time.perf_counter()
        for content in data:
            decode(content, size, filter_)
        decoding.append((time.perf_counter() - started) / len(data) * 1e3)
    ratios = [w / a for w, a in zip(whole, alone, strict=True)]
    print(f"\ninference alone        {median(alone):7.1f} images/s")
    print(f"files to stored vectors{median(whole):7.1f} images/s")
    print(f"ratio                  {median(ratios):7.3f}  ({min(ratios):.3f} to {max(ratios):.3f})")
    print(f"decoding, one thread   {median(decoding):7.2f} ms an image")


def _run(engine: OpenVINOEngine, pixels: np.ndarray, count: int) -> float:
    list(engine.run((n, pixels[n]) for n in range(8)))
    started = time.perf_counter()
    for _ in engine.run((n, pixels[n % len(pixels)]) for n in range(count)):
        pass
    return count / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
