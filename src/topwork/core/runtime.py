"""The machine and its packages: cores, versions, OpenVINO without telemetry, hidden packages."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any


def cores() -> int:
    """Returns how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_TELEMETRY, _CONVERTER = "openvino_telemetry", "openvino.tools.ovc"


def import_openvino() -> Any:
    """Imports OpenVINO and returns the module.

    OpenVINO forks the process when it is imported, to report its use, and leaves an identifier in
    the user's home. Users of Topwork have not agreed to that, and a fork beside JAX's threads may
    hang. Without its telemetry package it does neither, so that package is hidden during the
    import.

    Its converter of other frameworks' networks, which Topwork does not use, takes as long to import
    as the rest: `openvino.convert_model` imports it when it is asked for.

    The first array that OpenVINO is given makes it look for NumPy's functions, and two threads
    that give it one at the same time wait for each other for ever. So it is given one here.
    """
    if "openvino" not in sys.modules:
        hidden = {_TELEMETRY, _CONVERTER} - sys.modules.keys()
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
        try:
            import openvino
        finally:
            for package in hidden:
                del sys.modules[package]
        if _CONVERTER in hidden:
            openvino.__getattr__ = _find_converter
    import openvino

    _open_numpy(openvino)
    return openvino


def _find_converter(name: str) -> Any:
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    from openvino.tools.ovc import convert_model

    return convert_model


@cache
def _open_numpy(openvino: Any) -> None:
    import numpy as np

    openvino.Tensor(np.zeros(1, np.float32)).data.copy()


@cache
def import_jpeg_packages() -> Any:
    """Returns the modules simplejpeg and cv2, or None where one is not installed."""
    try:
        import cv2
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg, cv2


class _Hidden:
    """Hides some packages; asked before all other finders."""

    def __init__(self, packages: Collection[str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        del path, target
        if name in self._packages:
            raise ModuleNotFoundError(f"{name} is hidden from this process", name=name)


def hide(*packages: str) -> None:
    """Makes this process behave as if some packages were not installed.

    Keras imports everything it could work with, which takes seconds if all of it is installed.
    """
    sys.meta_path.insert(0, _Hidden(packages))


def find_version(package: str) -> str:
    """Returns the version of a package that is installed.

    The standard library's `version` parses all metadata of a package, with its whole readme: a
    tenth of a second for a handful of packages.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    facts = distribution(package)
    text = facts.read_text("METADATA") or facts.read_text("PKG-INFO") or ""
    found = re.search(r"^Version: *(\S+)", text, re.MULTILINE)
    if found is None:
        raise PackageNotFoundError(package)
    return found[1]
