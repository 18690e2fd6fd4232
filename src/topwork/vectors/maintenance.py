"""Maintenance of a store: what it holds, compaction of small parts, checks, and pruning."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from topwork.core.arrays import Floats32
from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import StoreError
from topwork.core.leftovers import is_temporary
from topwork.core.locks import Locks
from topwork.vectors.backends import Folder, open_folder
from topwork.vectors.index import find_firsts, parse_digests
from topwork.vectors.parquet import DAMAGED, BrokenError, count_vectors, is_part
from topwork.vectors.space import Space
from topwork.vectors.store import RECORD, VECTORS, DamagedPartError, VectorStore

# The most that compaction puts into one part. Larger parts are not read faster, and to be killed
# while one is written would cost more.
LARGE_VECTORS = 16_384
LARGE_BYTES = 64 << 20

# So many small parts are no trouble: to open one takes about a third of a millisecond.
FEW_PARTS = 64


@dataclass(frozen=True)
class Limits:
    """When parts are compacted, and how large they become.

    Attributes:
        vectors: the most vectors of a part.
        bytes: the most bytes of its vectors.
        few_parts: so many small parts are left as they are.
    """

    vectors: int = LARGE_VECTORS
    bytes: int = LARGE_BYTES
    few_parts: int = FEW_PARTS


LIMITS = Limits()

# What a store holds besides vectors, by its folders.
KINDS = {
    "bases": "built networks",
    "compiled": "compiled networks",
    "remote": "downloads",
    "archives": "unpacked archives",
    "programs": "compiled programs",
    "files": "hashes of image files",
    "copies": "pictures found twice",
    "inspections": "inspections",
}


# The name of a built network: base, image size and hash, and for int8 another hash.
_BUILT_NETWORK = re.compile(r"(.+?)-\d+-[0-9a-f]{16}(?:-int8-[0-9a-f]{16})?$")


def compact_if_many(store: VectorStore, limits: Limits = LIMITS) -> None:
    """Compacts the parts of a space if many are small; that it fails is no error."""
    store.refresh()
    if len(_find_small(store, limits)) > limits.few_parts:
        # A failure loses no vectors.
        with contextlib.suppress(StoreError):
            compact(store, limits)


def compact(store: VectorStore, limits: Limits = LIMITS) -> int:
    """Merges the small parts of a space into large ones.

    A large part is written before the small ones are removed, so this may be interrupted, and
    readers find the vectors in the one or the others at any time. Nothing is done if another
    process is compacting the same space.

    Args:
        store: the vectors of the space.
        limits: how large the parts become.

    Returns:
        How many parts fewer there are.

    Raises:
        StoreError: a part cannot be read, written or removed.
    """
    with Locks(store.locks_folder) as locks:
        if not locks.take("compaction"):
            return 0
        store.refresh()
        before = len(store.part_sizes)
        groups: list[list[str]] = [[]]
        count = 0
        for name, size in _find_small(store, limits).items():
            if count + size > _capacity(store, limits):
                groups.append([])
                count = 0
            groups[-1].append(name)
            count += size
        for group in groups:
            if len(group) > 1:
                _merge(store, group)
        return before - len(store.part_sizes)


def _capacity(store: VectorStore, limits: Limits) -> int:
    return max(1, min(limits.vectors, limits.bytes // (4 * store.vector_length)))


def _find_small(store: VectorStore, limits: Limits) -> dict[str, int]:
    """Returns the parts that are less than half full, with their sizes."""
    half = _capacity(store, limits) / 2
    return {name: size for name, size in store.part_sizes.items() if size < half}


def _merge(store: VectorStore, names: list[str]) -> None:
    images: list[str] = []
    blocks: list[Floats32] = []
    read: list[str] = []
    for name in names:
        try:
            found, vectors = store.read_part(name)
        except (FileNotFoundError, DamagedPartError):
            continue
        images += found
        blocks.append(vectors)
        read.append(name)
    if len(read) < 2:
        return
    firsts = np.flatnonzero(find_firsts(parse_digests(images)))
    written = store.write([images[row] for row in firsts], np.concatenate(blocks)[firsts])
    # The merged part has the name of an old one if all other vectors were in that one too.
    store.remove(name for name in read if not written.endswith(f"/{name}"))


@dataclass(frozen=True)
class StoreItem:
    """Something in a store that can be removed without harm to the rest.

    Attributes:
        kind: `vectors`, or a folder of `KINDS`.
        name: of the file or folder.
        bytes: its size.
        used_s: when it was last written to, in seconds since 1970.
        base: name of the base that it belongs to, if it belongs to one.
        space: of vectors, their space.
        vectors: of vectors, their number.
        parts: of vectors, the number of their parts.
    """

    kind: str
    name: str
    bytes: int
    used_s: float
    base: str | None = None
    space: Space | None = None
    vectors: int = 0
    parts: int = 0


def list_items(root: Path) -> list[StoreItem]:
    """Returns what is in a store, vectors first.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        spaces = [_describe_space(folder, name) for folder, name in _list_spaces(root)]
        # A bucket may still list a folder whose files are gone.
        items = [item for item in spaces if item.bytes]
        for kind in KINDS:
            items += sorted(_list_kind(root / kind, kind), key=lambda item: item.name)
    except OSError as error:
        raise StoreError(f"cannot read the store {root}: {error.strerror or error}") from error
    return items


def _list_spaces(root: Path) -> Iterator[tuple[Folder, str]]:
    vectors = open_folder(root, VECTORS)
    for name in vectors.list_folders():
        yield vectors.below(name), name


def _describe_space(folder: Folder, name: str) -> StoreItem:
    # Temporary files are counted separately; see `leftovers`.
    files = {file: stamp for file, stamp in folder.list_files().items() if not is_temporary(file)}
    parts = [file for file in files if is_part(file)]

    def count(part: str) -> int:
        try:
            return count_vectors(folder, part)
        except (FileNotFoundError, BrokenError):
            return 0

    with ThreadPoolExecutor(folder.threads) as pool:
        vectors = sum(pool.map(count, parts))
    found = _read_space(folder)
    return StoreItem(
        kind=VECTORS,
        name=name,
        bytes=sum(stamp.size for stamp in files.values()),
        used_s=max((files[part].mtime_ns for part in parts or files), default=0) / 1e9,
        base=found[0].base if found else None,
        space=found[0] if found else None,
        vectors=vectors,
        parts=len(parts),
    )


def _read_space(folder: Folder) -> tuple[Space, int] | None:
    """Returns the space and D from the record beside the parts; None if it cannot be read."""
    try:
        source = folder.open(RECORD)
        data = source.read_bytes() if isinstance(source, Path) else source.read()
        facts = json.loads(data)
        known = {field.name for field in fields(Space)}
        space = Space(**{name: value for name, value in facts.items() if name in known})
        return space, int(facts["vector_length"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _list_kind(folder: Path, kind: str) -> Iterator[StoreItem]:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if is_temporary(path.name):
            continue
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        stats = [file.stat() for file in files if not is_temporary(file.name)]
        built = _BUILT_NETWORK.match(path.name) if kind == "bases" else None
        yield StoreItem(
            kind=kind,
            name=path.name,
            bytes=sum(status.st_size for status in stats),
            used_s=max((status.st_mtime for status in stats), default=path.stat().st_mtime),
            base=built[1] if built else None,
        )


def select_items(
    items: list[StoreItem], base: str | None = None, older_than_s: float | None = None
) -> list[StoreItem]:
    """Returns the items of a base, older than so many seconds; None selects any."""
    now = time.time()
    return [
        item
        for item in items
        if (base is None or item.base == base)
        and (older_than_s is None or now - item.used_s > older_than_s)
    ]


def prune(root: Path, items: list[StoreItem]) -> int:
    """Removes items of a store, and returns how many bytes that freed.

    Raises:
        StoreError: one cannot be removed.
    """
    freed = 0
    for item in items:
        try:
            if item.kind == VECTORS:
                _remove_space(open_folder(root, VECTORS, item.name))
            else:
                path = root / item.kind / item.name
                # Of a link only the link is removed, not what it points to.
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot remove {item.kind}/{item.name} from the store {root}: "
                f"{error.strerror or error}; {freed / 1e6:.0f} MB were freed before it"
            ) from error
        freed += item.bytes
    return freed


def _remove_space(folder: Folder) -> None:
    if folder.local and folder.local.is_symlink():
        folder.local.unlink()
        return
    # The record is removed last: if this is killed, the rest can still be listed.
    for name in sorted(folder.list_files(), key=lambda name: name == RECORD):
        folder.remove(name)
    if folder.local:
        shutil.rmtree(folder.local, ignore_errors=True)


@dataclass(frozen=True)
class CheckResult:
    """What a check of all parts found.

    Attributes:
        parts: how many were read.
        damaged: addresses of the parts that this check set aside.
        before: addresses of the parts that had been set aside before.
    """

    parts: int
    damaged: tuple[str, ...]
    before: tuple[str, ...]


def open_spaces(root: Path) -> list[VectorStore]:
    """Returns every space of a store whose record can be read.

    Raises:
        StoreError: the store cannot be read.
    """
    try:
        found = [_read_space(folder) for folder, _ in _list_spaces(root)]
    except OSError as error:
        raise StoreError(f"cannot read the store {root}: {error.strerror or error}") from error
    return [VectorStore(root, *each) for each in found if each]


def verify(root: Path, callback: Callback = SILENT) -> CheckResult:
    """Reads every part of a store, compares it with its checksums, and sets damaged ones aside.

    Args:
        root: the store's folder.
        callback: told, after every part, how many were read and how many there are.

    Raises:
        StoreError: a part cannot be read, though nothing says that it is damaged.
    """
    stores = open_spaces(root)
    before = [
        f"{folder.address}/{name}"
        for folder, _ in _list_spaces(root)
        for name in folder.list_names()
        if name.endswith(DAMAGED)
    ]
    for store in stores:
        store.refresh()
    found_damaged = sum(len(store.set_aside) for store in stores)
    parts = [(store, name) for store in stores for name in store.part_sizes]
    for done, (store, name) in enumerate(parts, 1):
        with contextlib.suppress(FileNotFoundError, DamagedPartError):
            store.read_part(name)
        callback.on_part_checked(done, len(parts))
    damaged = [part for store in stores for part in store.set_aside]
    return CheckResult(len(parts) + found_damaged, tuple(damaged), tuple(before))


def compact_all(root: Path) -> int:
    """Compacts all spaces of a store; returns how many parts fewer there are.

    Raises:
        StoreError: a part cannot be read, written or removed.
    """
    return sum(compact(store) for store in open_spaces(root))
