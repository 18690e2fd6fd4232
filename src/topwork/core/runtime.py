"""What there is to run on: cores, versions, OpenVINO without its telemetry, what is hidden."""

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


def import_openvino() -> Any:
    """Imports OpenVINO and returns the module.

    When it is imported, OpenVINO forks the process to report its use, and leaves an identifier
    in the user's home. Nobody who trains a classifier has agreed to that, and a fork beside
    JAX's threads may hang. It does without where its telemetry package is not installed, so
    for the time of the import it is not.
    """
    package = "openvino_telemetry"
    if "openvino" not in sys.modules and package not in sys.modules:
        sys.modules[package] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            del sys.modules[package]
    import openvino

    return openvino


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
    """Finds no package of some names; asked before all other finders."""

    def __init__(self, packages: Collection[str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        del path, target
        if name in self._packages:
            raise ModuleNotFoundError(f"{name} is hidden from this process", name=name)


def hide(*packages: str) -> None:
    """Lets this process do without packages that may be installed.

    Keras imports whatever it could work with, seconds of it where all of that is there.
    """
    sys.meta_path.insert(0, _Hidden(packages))


def find_version(package: str) -> str:
    """Returns the version of a package that is installed.

    The standard library's `version` parses all that a package says of itself, its whole readme
    too: for a handful of packages a tenth of a second.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    facts = distribution(package)
    text = facts.read_text("METADATA") or facts.read_text("PKG-INFO") or ""
    found = re.search(r"^Version: *(\S+)", text, re.MULTILINE)
    if found is None:
        raise PackageNotFoundError(package)
    return found[1]
