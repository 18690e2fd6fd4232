"""How long a store takes to say which of a million images have no vector, and its memory.

    python benchmarks/store.py [--images 1000000] [--length 1280] [--store DIR] [--compact]

Writes so many vectors in parts of 1,024, as `topwork` does. Then, in processes of their own:
opening the store and the plan for all those images; the same with 1 % of new ones, of which it
checks that they alone are planned; reading 3,409 vectors that lie together. With --compact also
after the small parts were made large ones. A million vectors of 1,280 values take 5 GB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_PART = 1024
_RUN = """
import json, re, sys, time
from hashlib import sha256
from pathlib import Path
import numpy as np
from topwork.vectors.space import Space
from topwork.vectors.store import VectorStore
from topwork.vectors.embed_job import plan

root, count, new, length = Path(sys.argv[1]), *map(int, sys.argv[2:5])
hashes = [sha256(b"%d" % n).hexdigest() for n in range(count - new)]
hashes += [sha256(b"new %d" % n).hexdigest() for n in range(new)]
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before = peak()
started = time.perf_counter()
store = VectorStore(root, Space("bench", "", 1, "1", "1", "sampled", "f32"), length)
store.refresh()
opened = time.perf_counter()
work = plan(hashes, store)
planned = time.perf_counter()
most = peak() - before
found = sum(len(chunk.indices) for chunk in work)
assert found == new and all(chunk.indices.min() >= count - new for chunk in work), found
some, reads = hashes[:3409], []
for _ in range(7):
    began = time.perf_counter()
    store = VectorStore(root, store.space, length)
    store.refresh()
    seen = time.perf_counter()
    store.read(some)
    reads.append((seen - began, time.perf_counter() - seen))
print(json.dumps({
    "planned": found, "parts": len(store.part_sizes),
    "open_s": round(opened - started, 2), "plan_s": round(planned - opened, 2),
    "more_mb": round(most), "first_read_ms": round(1e3 * reads[0][1]),
    "read_ms": round(1e3 * float(np.median([read for _, read in reads[1:]]))),
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=1280)
    parser.add_argument("--store", type=Path, help="an empty folder; it is left there")
    parser.add_argument("--compact", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = args.store or Path(name)
        started = time.perf_counter()
        _fill(root, args.images, args.length)
        print(f"written in {time.perf_counter() - started:.0f} s")
        _measure(root, args.images, args.length)
        if args.compact:
            from topwork.vectors.maintenance import compact_all

            started = time.perf_counter()
            fewer = compact_all(root)
            print(f"compacted in {time.perf_counter() - started:.0f} s, {fewer} parts fewer")
            _measure(root, args.images, args.length)


def _fill(root: Path, count: int, length: int) -> None:
    import numpy as np

    from topwork.vectors.space import Space
    from topwork.vectors.store import VectorStore

    store = VectorStore(root, Space("bench", "", 1, "1", "1", "sampled", "f32"), length)
    values = np.random.default_rng(0).normal(size=(_PART, length)).astype(np.float32)
    for start in range(0, count, _PART):
        numbers = range(start, min(start + _PART, count))
        images = [hashlib.sha256(b"%d" % number).hexdigest() for number in numbers]
        store.write(images, values[: len(images)])


def _measure(root: Path, count: int, length: int) -> None:
    for new in (0, count // 100):
        command = [sys.executable, "-c", _RUN, *map(str, (root, count, new, length))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"{new:,} of {count:,} images are new:")
        for key, value in json.loads(done.stdout).items():
            print(f"    {key:14} {value:,}")


if __name__ == "__main__":
    main()
