"""Compiled networks, kept on disk for the next process: to read one is quicker than to compile it.

A network is compiled twice before it is kept: what runs once would only fill the disk. The files
are of the size of the network's weights; beyond a gigabyte those that were not used the longest
are removed. A file is of no use, and passed over, once the network's file, OpenVINO or the
processor is another.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork.bases.engines.compiled import open_core
from topwork.core.config import Precision
from topwork.core.files import write_file
from topwork.core.runtime import import_openvino

# The folder in a store where they are kept.
COMPILED = "compiled"
# Raise it when the same file and options would be compiled to another network.
VERSION = 1
MOST_BYTES = 1 << 30

# Compiles a network, given properties of OpenVINO.
CompileNetwork = Callable[[dict[str, str]], Any]


@dataclass(frozen=True)
class NetworkCache:
    """Where compiled networks are kept, and what tells one from another.

    Attributes:
        folder: of the files; made if its parent is there: who only predicts gets no store.
        content: says what the network computes, whichever file it is in; "" if only its file does,
            which is told by its path, size, inode and times.
        most_bytes: the size that the folder may have.
    """

    folder: Path
    content: str = ""
    most_bytes: int = MOST_BYTES

    @classmethod
    def of_store(cls, store: Path, content: str = "") -> NetworkCache:
        """Returns that of a store; see the attributes."""
        return cls(store / COMPILED, content)

    def find_file(self, path: Path, *facts: object) -> Path:
        """Returns where a network is kept.

        Args:
            path: the network's file, OpenVINO IR.
            facts: what it is compiled with.
        """
        found: list[object] = [VERSION, *facts, self.content]
        for file in () if self.content else (path, path.with_suffix(".bin")):
            found.append(str(file.absolute()))
            with contextlib.suppress(OSError):  # OpenVINO says what is missing
                status = file.stat()
                found += [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
        digest = hashlib.sha256(repr(found).encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / f"{digest[:32]}.blob"

    def has_room_for(self, path: Path) -> bool:
        """Whether a network of a file can be kept: both parts are there, and not too large."""
        weights = path.with_suffix(".bin")
        return path.exists() and weights.exists() and weights.stat().st_size <= self.most_bytes

    def prune(self) -> None:
        """Removes what was not used the longest, until the folder is as small as it has to be.

        Raises:
            OSError: a file cannot be removed.
        """
        left = self.most_bytes
        stats = {file: file.stat() for file in self.folder.glob("*.blob")}
        for file in sorted(stats, key=lambda file: stats[file].st_mtime_ns, reverse=True):
            left -= stats[file].st_size
            if left < 0:
                file.unlink(missing_ok=True)


def compile_cached(
    core: Any,
    path: Path,
    precision: Precision,
    hints: dict[str, str],
    asked: tuple[object, ...],
    make: Callable[[], Any],
    cache: NetworkCache | None,
) -> Any:
    """Compiles a network for this CPU, or reads it as it was compiled before.

    Args:
        core: OpenVINO's.
        path: the network's file, OpenVINO IR.
        precision: what it computes in; see `compile_network`.
        hints: properties of OpenVINO.
        asked: what else `make` depends on, besides the file.
        make: reads and edits the network; called only if it has to be compiled.
        cache: where compiled networks are kept; None to keep none. That they cannot be is no
            error.

    Raises:
        RuntimeError: OpenVINO does not read or compile the file.
    """
    if cache is None or not cache.has_room_for(path):
        return compile_network(core, make(), precision, hints)
    device = [core.get_property("CPU", "FULL_DEVICE_NAME")]
    device += sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    versions = import_openvino().__version__, device
    kept = cache.find_file(path, versions, str(precision), sorted(hints.items()), asked)
    content = b""
    with contextlib.suppress(OSError):
        content = kept.read_bytes()
        os.utime(kept)
    if content:
        # Of another build, or damaged: it is compiled again.
        with contextlib.suppress(RuntimeError):
            return _with_properties(
                precision, hints, lambda found: core.import_model(content, "CPU", found)
            )
    seen = kept.exists()
    network = compile_network(core, make(), precision, hints)
    with contextlib.suppress(OSError, RuntimeError):
        cache.folder.mkdir(exist_ok=True)
        content = network.export_model().getvalue() if seen else b""
        write_file(kept, lambda file: file.write(content))
        cache.prune()
    return network


def compile_network(core: Any, model: Any, precision: Precision, hints: dict[str, str]) -> Any:
    """Compiles a network for this CPU, so that it computes in a precision.

    What of an int8 network is not in bytes is computed in bf16 where the CPU has it. Where its
    shapes are known beforehand, OpenVINO would also round what it turns into bytes to bf16 first,
    in kernels that it generates itself ("snippets"). With a free batch, as most people run a
    file, it does not, and one level of 255 grows from layer to layer: features of Xception then
    differ by a tenth of the largest. Without those kernels, which are no faster here, they are the
    same bit for bit.

    Raises:
        RuntimeError: OpenVINO does not compile it.
    """
    return _with_properties(precision, hints, lambda found: core.compile_model(model, "CPU", found))


def _with_properties(precision: Precision, hints: dict[str, str], make: CompileNetwork) -> Any:
    if precision is not Precision.INT8:
        return make(hints | {"INFERENCE_PRECISION_HINT": str(precision)})
    hints = hints | {"INFERENCE_PRECISION_HINT": "bf16" if has_bf16() else "f32"}
    try:
        return make(hints | {"SNIPPETS_MODE": "DISABLE"})
    except RuntimeError:
        # Not among its documented properties: another version may lack it, and computes as well.
        return make(hints)


def has_bf16() -> bool:
    """Whether this CPU has bf16 arithmetic."""
    return "BF16" in open_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
