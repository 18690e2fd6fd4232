"""How long a table of images takes to index, and the most memory that takes.

    python benchmarks/table.py [--rows 100000] [--distinct 100000]

Makes a CSV, a JSON-lines and a Parquet table of so many rows, some of them bad, over so many image
files in a temporary folder, and a Parquet table with the images in it; reads each in processes of
their own, as a listing and as a dataset with a validation split, the import of Topwork included.
Times of the machine's disk are in it: the files are looked for, not opened.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

_BAD = 1000
_READ = """
import re, sys, time
started = time.perf_counter()
from pathlib import Path
path = Path(sys.argv[1])
if sys.argv[2] == "table":
    from topwork.core.data_settings import DataSettings
    from topwork.data.readers.table import read_table
    found = read_table(str(path), path, DataSettings(), lambda text: path.parent / text)
else:
    from topwork.data.dataset import Dataset
    found = Dataset.open(path)
    if sys.argv[2] == "split":
        found = found.select(found.splits == "train").with_validation(0.2, 0)
took = time.perf_counter() - started
# The peak that getrusage reports is at least the parent's.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(f"{took:6.2f} s  {peak:5.0f} MB  {len(found.names)} images, {len(found.skipped)} left out")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--distinct", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in _write_tables(folder, args.rows, args.distinct):
            for what in ("table", "dataset", "split"):
                command = [sys.executable, "-c", _READ, str(path), what]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                print(f"{path.name:16} {what:8} {done.stdout.rstrip()}")


def _write_tables(folder: Path, count: int, distinct: int) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "images").mkdir()
    for place in range(distinct):
        (folder / f"images/{place:06}.jpg").touch()
    rows = [
        {
            "path": f"images/{place % distinct:06}.jpg" if place % _BAD else "images/none.jpg",
            "label": f"class {place % 100}",
            "split": ("train", "val", "test")[place % 3],
            "group": f"product {place // 4}",
            "caption": "a photograph of something, " * 4,
        }
        for place in range(count)
    ]
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with (folder / "table.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")
    images = [{"bytes": bytes(1000), "path": row["path"]} for row in rows]
    kept = {"image": images, "label": [row["label"] for row in rows]}
    pq.write_table(pa.table(kept), folder / "images.parquet", row_group_size=1000)
    return [
        folder / name for name in ("table.csv", "table.jsonl", "table.parquet", "images.parquet")
    ]


if __name__ == "__main__":
    main()
