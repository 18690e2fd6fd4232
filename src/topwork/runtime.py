"""What is installed: the versions of packages, and OpenVINO, imported without its telemetry."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any


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
