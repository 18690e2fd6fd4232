"""A built network in int8: files in the store beside it, one set for each calibration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.bases.network import NETWORK_FILE, Int8, Network, fill_folder, read_folder
from topwork.core.child_process import ask_nncf
from topwork.core.errors import SettingsError
from topwork.core.files import open_scratch
from topwork.core.runtime import find_version

# Part of every calibration's name, to be raised when the same images would give another network.
CALIBRATION_VERSION = "2"
FILES = (NETWORK_FILE, "network.bin")
RECORD = "int8.json"


def check_int8() -> None:
    """Refuses int8 if NNCF is not installed.

    Raises:
        SettingsError: with the command that installs it.
    """
    if find_spec("nncf") is None:
        raise SettingsError(
            "precision: int8 needs the package nncf, which is not installed: "
            "pip install 'topwork[int8]'"
        )


def find_int8(network: Network, images: Collection[str], seed: int, least: float) -> Int8 | None:
    """Returns an earlier calibration of a network that can be used for these images too.

    A network that is fitted to other images gives other vectors. If a few new images led to a new
    calibration, all vectors would have to be computed again.

    Args:
        network: the network.
        images: SHA-256 of the images' bytes, hex.
        seed: of the choice of the images to fit to.
        least: share of the images of a calibration that must be among these, 0..1.

    Returns:
        The calibration with the largest share, or None.
    """
    there = set(images)
    found: list[tuple[float, str, Path]] = []
    for folder in network.folder.parent.glob(f"{network.folder.name}-int8-*"):
        facts = read_folder(folder, FILES, RECORD)
        if facts is None or facts.get("key") != _key(network, seed):
            continue
        fitted = facts["images"]
        share = sum(image in there for image in fitted) / len(fitted)
        if share >= least:
            found.append((share, folder.name, folder))
    if not found:
        return None
    folder = max(found)[2]
    return Int8(folder, folder.name.rpartition("-")[2])


def make_int8(
    network: Network, images: Sequence[str], pixels: NDArray[np.uint8], seed: int
) -> Network:
    """Returns a network in int8, fitted to images now or found in the store.

    Args:
        network: the network.
        images: SHA-256 of the images' bytes, hex; N, at least 1.
        pixels: (N, S, S, 3) uint8 of them.
        seed: that they were drawn with.

    Raises:
        StoreError: the store cannot be written.
        NetworkError: NNCF breaks.
    """
    key = _key(network, seed)
    digest = hashlib.sha256(json.dumps([key, *images]).encode()).hexdigest()[:16]
    folder = network.folder.with_name(f"{network.folder.name}-int8-{digest}")

    def build(scratch: Path) -> dict[str, Any]:
        with open_scratch() as folder:
            arrays = folder / "pixels.npy"
            np.save(arrays, pixels)
            ask_nncf(
                {
                    "source": str(network.openvino_path),
                    "pixels": str(arrays),
                    "target": str(scratch / NETWORK_FILE),
                }
            )
        return {"key": key, "images": list(images)}

    if read_folder(folder, FILES, RECORD) is None:
        fill_folder(folder, build, FILES, RECORD)
    return replace(network, int8=Int8(folder, digest))


def _key(network: Network, seed: int) -> list[Any]:
    return [network.folder.name, CALIBRATION_VERSION, find_version("nncf"), seed]
