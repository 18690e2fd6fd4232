"""Whether a command ever hangs where threads change all the time and garbage is always collected.

    python benchmarks/stress.py train --runs 200

Runs a command again and again on small generated data, each time in a new process, beside two
others that keep the cores busy. As soon as `train` is about to save, and the others are about to
begin, Python collects garbage after every fifth object and lets another thread run after every
microsecond. A run that takes too long says where each of its threads is, and is ended.

The commands are train, predict, export, inspect, and serve, which also answers a request. Says
how many hung or failed, and how many of the models that `train` saved can be loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from topwork.core.errors import ModelError
from topwork.models.folder import load_model

BUSY, SIZE_PX, IMAGES = 2, 64, 12
COLOURS = {"blue": (40, 60, 200), "green": (30, 170, 60), "red": (200, 40, 40)}
# Where the stress begins: a function's module, and its name there.
STARTS = {
    "train": ("topwork.recipes.result", "TrainResult.save"),
    "predict": ("topwork.models.folder", "load_model"),
    "export": ("topwork.models.export", "export_model"),
    "inspect": ("topwork.inspection.inspect", "inspect"),
    "serve": ("topwork.serve.server", "make_server"),
}
HUNG = "Timeout ("

# Wraps a function so that the stress begins when it is called, then runs the command line.
DRIVER = """
import faulthandler, functools, gc, importlib, sys
limit_s, module, name, *sys.argv[1:] = sys.argv[1:]
faulthandler.dump_traceback_later(float(limit_s), exit=True)
*path, last = name.split(".")
owner = functools.reduce(getattr, path, importlib.import_module(module))
wrapped = getattr(owner, last)
@functools.wraps(wrapped)
def run(*args, **options):
    gc.set_threshold(5)
    sys.setswitchinterval(1e-6)
    return wrapped(*args, **options)
setattr(owner, last, run)
from topwork.cli import run as run_topwork
run_topwork()
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        seconds: it took.
        code: its exit code.
        said: on stderr.
    """

    seconds: float
    code: int
    said: str

    @property
    def hung(self) -> bool:
        """Whether it was ended because it took too long."""
        return HUNG in self.said or self.code == -signal.SIGKILL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=STARTS)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--limit-s", type=float, default=120.0, help="most seconds of a run")
    parser.add_argument("--head", default="dense", help="what train makes: dense or logistic")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, busy():
        place = Place(Path(folder), args.head)
        hung = failed = loaded = 0
        for number in range(1, args.runs + 1):
            found = place.run(args.command, args.limit_s)
            hung += found.hung
            failed += bool(found.code) and not found.hung
            loaded += args.command == "train" and place.loads()
            said = "hung" if found.hung else f"exit code {found.code}"
            print(f"{number:4} {found.seconds:6.1f} s  {said}", flush=True)
            if found.code:
                print(found.said, flush=True)
        print(f"{args.command}: {args.runs} runs, {hung} hung, {failed} failed", end="")
        print(f", {loaded} models can be loaded" if args.command == "train" else "")
    sys.exit(bool(hung or failed))


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Keeps the cores busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


class Place:
    """Images, a store with their vectors, and a model of them.

    Args:
        folder: for all of that.
        head: that `train` makes.
    """

    def __init__(self, folder: Path, head: str) -> None:
        self._folder = folder
        self._head = head
        data = folder / "data"
        for kind, (name, colour) in enumerate(COLOURS.items()):
            (data / name).mkdir(parents=True)
            for n in range(IMAGES):
                rng = np.random.default_rng(IMAGES * kind + n)
                pixels = rng.normal(0, 25, (48, 64, 3)) + colour
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(data / name / f"{n}.png")
        self._image = data / "red" / "0.png"
        model = folder / "model"
        common = f"--image-size={SIZE_PX}"
        self._arguments = {
            "train": ["train", data, "-o", folder / "new", common, f"--head={head}"],
            "predict": ["predict", model, self._image],
            "export": ["export", model, "--format=openvino", "-o", folder / "export"],
            "inspect": ["inspect", data, "-o", folder / "page.html", common],
            "serve": ["serve", model, "--port=0", "--no-access-log"],
        }
        first = [*map(str, self._arguments["train"]), "-o", str(model)]
        subprocess.run(
            [sys.executable, "-m", "topwork", *first], env=self._environment, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TOPWORK_STORE": str(self._folder / "store")}

    def run(self, command: str, limit_s: float) -> Outcome:
        """Runs a command in a new process, under stress."""
        begun = time.perf_counter()
        words = [str(limit_s), *STARTS[command], *map(str, self._arguments[command])]
        log = self._folder / "log"
        with log.open("w") as said:
            process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, *words],
                env=self._environment,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
        try:
            if command == "serve":
                self._ask(process, log, limit_s)
            process.wait(limit_s + 30)
        except (subprocess.TimeoutExpired, OSError):
            pass
        finally:
            process.kill()
        return Outcome(time.perf_counter() - begun, process.wait(), log.read_text())

    def _ask(self, process: subprocess.Popen[bytes], log: Path, limit_s: float) -> None:
        """Waits for a server, asks it something, and stops it."""
        while (found := re.search(r"Serving on (\S+)", log.read_text())) is None:
            if process.poll() is not None:
                return
            time.sleep(0.1)
        header = b"--border\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n"
        body = header + self._image.read_bytes() + b"\r\n--border--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=border"}
        asked = urllib.request.Request(f"{found[1]}/explain", body, kind)
        urllib.request.urlopen(asked, timeout=limit_s).close()
        process.send_signal(signal.SIGINT)

    def loads(self) -> bool:
        """Whether the model that the last training saved can be loaded."""
        path = self._folder / "new"
        try:
            load_model(path)
        except ModelError as error:
            print(error)
            return False
        # The next one is not to be mistaken for it.
        shutil.rmtree(path)
        return True


if __name__ == "__main__":
    main()
