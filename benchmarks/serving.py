"""What HTTP costs: one client's time to an answer, and many clients' images a second.

    python benchmarks/serving.py MODEL DATA

Both against the engine itself in this process, on the same images, in turns: the time of one
image with its decoding, and `OpenVINOEngine.run` over pixels that are decoded. The load comes from
`wrk` on the same machine, so it takes its share of the cores. Read the ratios.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from topwork.bases.engines import OpenVINOEngine
from topwork.core.config import Precision
from topwork.core.runtime import cores
from topwork.images.decode import decode
from topwork.models.folder import load_model
from topwork.models.model import Model

START = "import sys, topwork.cli.serve; from topwork.cli import main; sys.exit(main())"
SCRIPT = """
local files, n = {}, 0
for name in io.lines("NAMES") do
  local file = io.open(name, "rb"); files[#files + 1] = file:read("*a"); file:close()
end
request = function()
  n = n % #files + 1
  return wrk.format("POST", "/predict", nil, files[n])
end
local bad = 0
response = function(status) if status ~= 200 then bad = bad + 1; print("status " .. status) end end
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("needs wrk, which makes the load")

    files = sorted(args.data.rglob("*.jpg"))
    files = [files[n] for n in np.linspace(0, len(files) - 1, min(200, len(files))).astype(int)]
    model = load_model(args.model)
    alone, together = measure_engine(model, [file.read_bytes() for file in files])
    names = ", ".join(base.space.base for base in model.bases)
    print(f"{names}, {model.bases[0].space.precision}, {cores()} cores, {len(files)} images\n")

    found: dict[str, list[float]] = {"alone": [], "together": [], "p50": [], "rate": []}
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch, "load.lua")
        Path(scratch, "names").write_text("\n".join(map(str, files)))
        script.write_text(SCRIPT.replace("NAMES", str(Path(scratch, "names"))))
        server, url = start(args.model)
        try:
            load(url, script, args.clients, 2)
            for _ in range(args.rounds):
                found["alone"].append(alone())
                found["p50"].append(load(url, script, 1, args.seconds)[0])
                found["together"].append(together())
                found["rate"].append(load(url, script, args.clients, args.seconds)[1])
        finally:
            server.terminate()
            print(f"the server ended with {server.wait(60)}")

    one, p50 = median(found["alone"]), median(found["p50"])
    whole, rate = median(found["together"]), median(found["rate"])
    low, high = min(found["p50"]), max(found["p50"])
    print(f"one client: p50 {p50:.1f} ms ({low:.1f} to {high:.1f})")
    print(f"engine, one image, with decoding: {one:.1f} ms; ratio {p50 / one:.2f}")
    print(f"{args.clients} clients: {rate:.1f} images/s, {[round(r, 1) for r in found['rate']]}")
    print(f"engine, decoded, in batches: {whole:.1f} images/s; ratio {rate / whole:.2f}")


def measure_engine(
    model: Model, data: list[bytes]
) -> tuple[Callable[[], float], Callable[[], float]]:
    """Returns what measures ms of one image with decoding, and images a second of decoded ones."""
    (base,), (file,) = model.bases, model.networks
    size, filter_ = base.space.image_size, model.interpolation
    precision = Precision(base.local_space.precision)
    lone = OpenVINOEngine(
        file.path, size, precision, output=file.output, flip=file.flip, batch_size=1, streams=1
    )
    (engine,) = model.engines
    pixels = [decode(item, size, filter_) for item in data]

    def alone() -> float:
        seconds = []
        for item in data:
            start = time.perf_counter()
            lone.run_all(decode(item, size, filter_)[None])
            seconds.append(time.perf_counter() - start)
        return 1000 * median(seconds)

    def together() -> float:
        count = 4 * len(pixels)
        stream = ((n, pixels[n % len(pixels)]) for n in range(count))
        start = time.perf_counter()
        for _ in engine.run(stream):
            pass
        return count / (time.perf_counter() - start)

    return alone, together


def start(model: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """Starts a server and returns it with its address."""
    command = [sys.executable, "-c", START, "serve", str(model), "--port", "0"]
    server = subprocess.Popen(
        [*command, "--no-access-log", *options], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    for line in server.stderr:
        if match := re.search(r"http://\S+", line):
            return server, match[0]
    raise SystemExit("the server did not start")


def load(url: str, script: Path, clients: int, seconds: int) -> tuple[float, float]:
    """Returns the median ms to an answer, and answers a second, of so many clients."""
    done = subprocess.run(
        [
            *("wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "--latency"),
            *("-s", str(script), url),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "status " not in done and "Socket errors" not in done, done
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", done).groups()  # type: ignore[union-attr]
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done)[1]  # type: ignore[index]
    return float(value) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit], float(rate)


if __name__ == "__main__":
    main()
