"""OpenVINO, imported without its telemetry."""

from __future__ import annotations

import sys
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
