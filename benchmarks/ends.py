"""What becomes of runs that are ended at random moments, and of what they leave behind.

    python benchmarks/ends.py KILL --runs 100
    python benchmarks/ends.py INT --runs 100

Runs commands on small generated data: train with an empty store and with a full one, over an
older model, tune, compaction, and a server. Each is sent a signal at a random moment; KILL to the
process alone, as a lack of memory does, INT and TERM to its group, as a terminal does. After each
the model must open. At the end every command runs undisturbed: what `train` then saves must be
what a run in a place of its own saves, byte for byte, and nothing temporary may lie anywhere.

For INT and TERM it also says how long each took to end, and whether with the right exit code.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from topwork.core.errors import ModelError
from topwork.models.folder import load_model

COLOURS = {"blue": (40, 60, 200), "green": (30, 170, 60), "red": (200, 40, 40)}
IMAGES, SIZE_PX, LIMIT_S = 20, 64, 300.0
TEMPORARY = re.compile(r"\..*\.(tmp|old)")
# Of a model, what does not name the folder that it is in.
SAME = ("model.keras", "model.xml", "model.bin", "head.safetensors", "history.json")


@dataclass
class Place:
    """Data, a store, a model and a folder for temporary files."""

    root: Path
    data: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        """The model that all commands make or use."""
        return self.root / "models" / "colours.model"

    @property
    def store(self) -> Path:
        """The store of all commands."""
        return self.root / "store"

    def __post_init__(self) -> None:
        for name in ("models", "store", "temporary"):
            (self.root / name).mkdir(parents=True)

    def command(self, kind: str) -> list[str]:
        """Returns the command line of a kind of run."""
        make = [str(self.data), "--image-size", str(SIZE_PX), "--epochs", "3"]
        make += ["-o", str(self.model), "--store", str(self.store)]
        words = {
            "cold": ["train", *make],
            "warm": ["train", *make],
            "tune": ["tune", *make, "--budget", "40", "--folds", "2"],
            "compact": ["store", "--compact", "--store", str(self.store)],
            "serve": ["serve", str(self.model), "--port", "0"],
        }
        return [sys.executable, "-m", "topwork", *words[kind]]

    def start(self, kind: str) -> subprocess.Popen[bytes]:
        """Starts a run, in a process group of its own."""
        if kind == "cold":
            shutil.rmtree(self.store)
            self.store.mkdir()
        return subprocess.Popen(
            self.command(kind),
            env={**os.environ, "TMPDIR": str(self.root / "temporary")},
            stdout=subprocess.DEVNULL,
            stderr=(self.root / "said").open("wb"),
            start_new_session=True,
        )

    def run(self, kind: str) -> None:
        """Runs a command to its end; a server is stopped when it takes requests."""
        began = time.perf_counter()
        process = self.start(kind)
        while kind == "serve" and b"Serving" not in (self.root / "said").read_bytes():
            if process.poll() is not None or time.perf_counter() - began > LIMIT_S:
                break
            time.sleep(0.05)
        self.seconds[kind] = time.perf_counter() - began
        if kind == "serve":
            process.send_signal(signal.SIGTERM)
        code = process.wait(LIMIT_S)
        if kind != "serve":
            self.seconds[kind] = time.perf_counter() - began
        if code:
            sys.exit(f"{kind} ended with {code}: {(self.root / 'said').read_text()}")

    def find_left(self) -> dict[str, int]:
        """Returns bytes by what lies in the folders and should not."""
        found = [*(self.root / "temporary").iterdir()]
        # What `tune` writes down is to stay.
        kept = {self.model.name, f"{self.model.name}.trials.jsonl"}
        found += [path for path in self.model.parent.iterdir() if path.name not in kept]
        found += [path for path in self.store.rglob(".*") if TEMPORARY.fullmatch(path.name)]
        return {str(path.relative_to(self.root)): measure(path) for path in found}


def measure(path: Path) -> int:
    files = [path] if path.is_file() else [*path.rglob("*")]
    return sum(file.lstat().st_size for file in files if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("signal", choices=("KILL", "INT", "TERM"))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # A shell has its background jobs ignore Ctrl-C, and those whom they start with them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        for number, (name, colour) in enumerate(COLOURS.items()):
            (data / name).mkdir(parents=True)
            for n in range(IMAGES):
                rng = np.random.default_rng(IMAGES * number + n)
                pixels = np.clip(rng.normal(0, 25, (80, 80, 3)) + colour, 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(data / name / f"{n}.png")
        other, place = Place(Path(folder, "other"), data), Place(Path(folder, "here"), data)
        other.run("cold")
        for kind in ("cold", "warm", "tune", "compact", "serve"):
            place.run(kind)
        end_all(place, args.signal, args.runs, random.Random(args.seed))
        report(place, other)


def end_all(place: Place, name: str, runs: int, rng: random.Random) -> None:
    number = getattr(signal, f"SIG{name}")
    kinds = [*place.seconds]
    waited: list[float] = []
    lost = wrong = early = 0
    most: dict[str, int] = {}
    for n in range(runs):
        kind = kinds[n % len(kinds)]
        process = place.start(kind)
        # Python itself starts in the first moments, and has nothing of ours to end yet.
        delay_s = rng.uniform(0.5, max(place.seconds[kind], 0.6))
        code: int | None = None
        try:
            code = process.wait(delay_s)
            early += 1
        except subprocess.TimeoutExpired:
            sent = time.perf_counter()
            (os.kill if name == "KILL" else os.killpg)(process.pid, number)
            code = process.wait(LIMIT_S)
            waited.append(time.perf_counter() - sent)
            # A server that takes requests ends as it is told to.
            right = {-9} if name == "KILL" else {128 + number, *([0] if kind == "serve" else [])}
            wrong += code not in right
        opens = is_model(place.model)
        lost += not opens and place.model.exists()
        left = place.find_left()
        most = max(most, left, key=lambda found: sum(found.values()))
        print(
            f"{n + 1:4} {kind:8} after {delay_s:5.1f} s: exit code {code:4}, model "
            f"{'opens' if opens else 'does not open'}, {sum(left.values()) / 1e6:6.1f} MB left"
        )
    print(f"{runs} runs, {early} of them over before, {wrong} with another exit code, {lost} lost")
    print(f"most left at once {sum(most.values()) / 1e6:.1f} MB in {len(most)} places")
    if waited:
        print(f"ended in {statistics.median(waited):.2f} s, at most {max(waited):.2f} s")


def report(place: Place, other: Place) -> None:
    time.sleep(2)  # children that were about to end
    for kind in ("tune", "compact", "warm", "serve"):
        place.run(kind)
    same = [(place.model / name).read_bytes() == (other.model / name).read_bytes() for name in SAME]
    left = place.find_left()
    print(f"at the end {sum(same)} of {len(SAME)} files as undisturbed", end="")
    print(f", {sum(left.values())} bytes left in {len(left)} places", *left)
    sys.exit(not all(same) or bool(left))


def is_model(path: Path) -> bool:
    try:
        load_model(path)
    except ModelError:
        return False
    return True


if __name__ == "__main__":
    main()
