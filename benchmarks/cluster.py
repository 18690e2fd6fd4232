"""What Ray costs: the same photographs by the engine alone, and by one worker and by two.

    python benchmarks/cluster.py DATA --images 400
    python benchmarks/cluster.py DATA --images 100000 --address auto --workers 8,16

Rounds take turns. `first` is from asking to the first batch in the store: actors start and
compile the network. `then` is the rate from there to the end, and what counts where there are
many images; `all` is images over the whole time. On a noisy machine read the ratios.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from topwork.bases.engines import OpenVINOEngine
from topwork.core.callbacks import Callback
from topwork.core.config import Precision, Settings, default_store
from topwork.core.runtime import cores
from topwork.data.dataset import Dataset
from topwork.images.decode import image_hash, read_bytes
from topwork.vectors.cluster import Cluster
from topwork.vectors.embed import embed_images
from topwork.vectors.embed_job import Progress
from topwork.vectors.extractors import FeatureExtractor, make_space, prepare_networks
from topwork.vectors.image_tasks import ImageTask
from topwork.vectors.store import VectorStore

Times = list[tuple[float, int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--base", default="efficientnet-lite0")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--address")
    parser.add_argument("--workers", default="1,2", help="the machine's cores are divided by them")
    args = parser.parse_args()

    settings = Settings.create(base=args.base)
    (network,) = prepare_networks(settings, default_store()).networks
    space = make_space(network, settings)
    dataset = Dataset.from_folder(args.data)
    places = np.linspace(0, len(dataset) - 1, min(args.images, len(dataset))).astype(int)
    dataset = dataset.select(np.isin(np.arange(len(dataset)), places))
    hashes = [image_hash(read_bytes(source)) for source in dataset.sources]
    firsts = {image: place for place, image in reversed(list(enumerate(hashes)))}
    tasks = [ImageTask(place, image, dataset.sources[place]) for image, place in firsts.items()]
    print(f"{network.spec.name}, {network.image_size} px, {space.precision}, {cores()} cores")
    print(f"{len(tasks)} photographs, {args.rounds} rounds\n")

    def run_alone(folder: Path) -> Times:
        times: Times = []
        started = time.perf_counter()

        class Notes(Callback):
            def on_run(self, progress: Progress) -> None:
                times.append((time.perf_counter() - started, progress.done))

        def open_engine() -> OpenVINOEngine:
            precision = Precision(space.precision)
            return OpenVINOEngine(network.openvino_path, network.image_size, precision)

        store = VectorStore(folder, space, network.vector_length)
        extractor = FeatureExtractor(store, open_engine)
        embed_images(dataset, [extractor], hashes=hashes, callback=Notes())
        return [pair for pair in times if pair[1]]

    def run_cluster(folder: Path, workers: int) -> Times:
        cluster = Cluster(args.address, cores_per_worker=max(1, cores() // workers))
        started = time.perf_counter()
        times: Times = []
        outcomes = cluster.run(tasks, folder, space, network.vector_length, network.vectors_path)
        for count, (_, error) in enumerate(outcomes, 1):
            if error:
                raise error
            times.append((time.perf_counter() - started, count))
        return times

    with Cluster(args.address) as joined:
        started = time.perf_counter()
        joined._connect()
        print(f"connected in {time.perf_counter() - started:.1f} s\n")
        ways = {"engine alone": run_alone}
        for workers in map(int, args.workers.split(",")):
            ways[f"{workers} workers"] = partial(run_cluster, workers=workers)
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, run in ways.items():
                with tempfile.TemporaryDirectory() as folder:
                    found[name].append(_judge(run(Path(folder))))

    print(f"{'':14}{'first s':>9}{'then img/s':>12}{'all img/s':>11}{'ratio then':>12}")
    alone = [then for _, then, _ in found["engine alone"]]
    for name, rows in found.items():
        first, then, whole = (median(column) for column in zip(*rows, strict=True))
        ratio = median(row[1] / base for row, base in zip(rows, alone, strict=True))
        print(f"{name:14}{first:9.1f}{then:12.1f}{whole:11.1f}{ratio:12.2f}")


def _judge(times: Times) -> tuple[float, float, float]:
    """Returns seconds to the first result, images/s from then on, and images/s over all."""
    first_s = times[0][0]
    # Those of one batch come at the same moment.
    early = sum(at_s < first_s + 0.02 for at_s, _ in times)
    end_s, count = times[-1]
    return first_s, (count - early) / (end_s - first_s), count / end_s


if __name__ == "__main__":
    main()
