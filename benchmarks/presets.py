"""What each preset reaches on the test split, and in which time.

    python benchmarks/presets.py DATA

Each preset is trained once, as a process of its own with an empty store and an empty home, and
then tested once: accuracy with its 95 % interval, macro average, expected calibration error,
and the coverage that label sets reach. Nothing is chosen here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PRESETS = ("fast", "balanced", "best")
COVERAGES = (0.9, 0.95, 0.98)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--presets", nargs="*", default=PRESETS)
    args = parser.parse_args()
    for preset in args.presets:
        with tempfile.TemporaryDirectory() as home:
            started = time.perf_counter()
            trained = _topwork(home, "train", args.data, "--preset", preset, "-o", f"{home}/m")
            seconds = time.perf_counter() - started
            tested = [
                _topwork(home, "evaluate", f"{home}/m", args.data, "--coverage", coverage)
                for coverage in COVERAGES
            ]
        first, before = tested[0], trained["calibration"]
        low, high = first["interval"]
        print(f"{preset}: {seconds:.1f} s cold; {trained['settings']['base']}")
        print(f"  folds       {_share(trained['search'])}")
        print(f"  validation  {_share(trained['validation'])}")
        print(
            f"  test        accuracy {first['accuracy']:.4f} ({low:.3f} to {high:.3f}), "
            f"macro {first['macro_accuracy']:.4f}"
        )
        print(
            f"  calibration temperature {before['temperature']:.3f}, error on test "
            f"{first['calibration']['error']:.4f} ({first['calibration']['error_before']:.4f} "
            "before)"
        )
        for coverage, result in zip(COVERAGES, tested, strict=True):
            found = result["calibration"]
            print(
                f"  sets        {coverage:.2f} asked, {found['covered']:.4f} reached, "
                f"{found['set_size']:.2f} labels"
            )
        sys.stdout.flush()


def _share(facts: dict[str, float]) -> str:
    if "accuracy" in facts:
        return f"accuracy {facts['accuracy']:.4f}, macro {facts['macro_accuracy']:.4f}"
    return f"accuracy {facts['mean']:.4f} ± {facts['error']:.4f}"


def _topwork(home: str, *args: object) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "topwork", *map(str, args), "--json"],
        env={**os.environ, "HOME": home, "TOPWORK_STORE": f"{home}/store"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
