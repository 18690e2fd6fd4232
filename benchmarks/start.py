"""How long short commands take, as whole processes, in units of `topwork --help`.

    python benchmarks/start.py DATA [--pairs 20]

Each round runs every command once: --help, predict of one image, `import topwork`, `topwork.load`,
and, every third round, train with a fixed rate and with the defaults, whose vectors are all in the
store. Medians, and their ratios to that of --help.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "topwork"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a folder with a folder test in it")
    parser.add_argument("--pairs", type=int, default=20)
    args = parser.parse_args()
    image = next(path for path in sorted((args.data / "test").rglob("*.*")) if path.is_file())
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder) / "first.model")
        train = [*COMMAND, "train", str(args.data), "-o"]
        load = f"import topwork; topwork.load({model!r})"
        quick = {
            "--help": [*COMMAND, "--help"],
            "predict": [*COMMAND, "predict", model, str(image)],
            "import topwork": [sys.executable, "-c", "import topwork"],
            "topwork.load": [sys.executable, "-c", load],
        }
        slow = {
            "train": [*train, f"{folder}/defaults.model"],
            "train, fixed rate": [*train, f"{folder}/rate.model", "--learning-rate", "0.01"],
        }
        measure([*train, model])
        # The second time, networks are kept as they were compiled.
        for command in [*quick.values(), *slow.values()] * 2:
            measure(command)
        seconds: dict[str, list[float]] = {name: [] for name in quick | slow}
        for number in range(args.pairs):
            for name, command in (quick if number % 3 else quick | slow).items():
                seconds[name].append(measure(command))
    base = statistics.median(seconds["--help"])
    for name, found in seconds.items():
        middle = statistics.median(found)
        print(
            f"{name:<18} {middle:6.3f} s ({min(found):.3f} to {max(found):.3f}, {len(found)} times)"
            f"  {middle / base:5.2f} times --help"
        )


def measure(command: list[str]) -> float:
    """Returns how many seconds a process took.

    Raises:
        CalledProcessError: it failed.
    """
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
