"""What an exported file says of itself, and `export.json` beside it."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from topwork.core.errors import ModelError
from topwork.core.files import hash_file
from topwork.core.task import Task
from topwork.models.export.formats import Format, Request, Traits
from topwork.models.model import Model

SCHEMA = 1
EXPORT_FILE = "export.json"
# What the facts are called inside a file.
KEY = "topwork"
ACTIVATIONS = {
    Task.CLASSES: "softmax",
    Task.BINARY: "sigmoid",
    Task.LABELS: "sigmoid",
    Task.NUMBER: "none",
}
_PACKAGES = (
    "topwork", "numpy", "keras", "openvino", "tensorflow", "tensorflow-cpu", "tf2onnx", "onnx",
    "onnxruntime", "ai-edge-litert", "nncf",
)  # fmt: skip


def describe_export(model: Model, folder: Path, request: Request) -> dict[str, Any]:
    """Returns what whoever runs an exported file has to know.

    Args:
        model: the model.
        folder: of the model.
        request: what is asked of the export.
    """
    first = model.bases[0].space
    return {
        "schema_version": SCHEMA,
        "format": str(request.format),
        "precision": str(request.numbers),
        "task": str(model.task),
        "classes": list(model.classes),
        "inputs": _describe_inputs(model, request),
        "output": {"name": "logits", "shape": ["N", model.head.outputs], "dtype": "float32"},
        "activation": ACTIVATIONS[model.task],
        "temperature": {"value": model.temperature, "folded_in": True},
        "preprocessing": {
            "resize": f"stretch to a square with the filter {first.interpolation}",
            "interpolation": first.interpolation,
            "decoder": first.decoder,
            "ranges": first.ranges or None,
            "scaling": "inside the file",
        },
        "bases": [
            {
                "base": base.space.base,
                "image_size": base.space.image_size,
                "weights_sha256": base.space.weights_sha256,
                "vector_length": base.vector_length,
            }
            for base in model.bases
        ],
        "flip": "inside the file" if model.settings.flip else None,
        "model": {
            "sha256": hash_file(folder / "model.json"),
            "data_fingerprint": model.data.fingerprint,
            "versions": model.versions,
        },
        "versions": _find_versions(),
    }


def _describe_inputs(model: Model, request: Request) -> list[dict[str, Any]]:
    if request.format is Format.NUMPY:
        shape = ["N", model.vector_length]
        return [{"name": "vectors", "shape": shape, "dtype": "float32"}]
    return [
        {
            "name": name,
            "shape": ["N", size, size, 3],
            "dtype": str(request.pixels),
            "channels": "RGB",
            "range": [0, 255],
        }
        for name, size in model.inputs.items()
    ]


def _find_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def find_runtime(traits: Traits) -> str:
    """Returns the program that runs a format, with its version: `onnxruntime 1.23.0`."""
    name, versions = traits.runtime, _find_versions()
    if name == "tensorflow" and name not in versions:
        name = "tensorflow-cpu"
    return f"{name} {versions[name]}"


def write_facts(facts: dict[str, Any]) -> str:
    """Returns facts as JSON in ASCII, which every format and its tools can hold."""
    return json.dumps(facts, indent=1, allow_nan=False)


def read_export(folder: Path) -> dict[str, Any]:
    """Returns the content of an export's `export.json`.

    Args:
        folder: that `export_model` made.

    Raises:
        ModelError: it is not one, or is damaged.
    """
    path = folder / EXPORT_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder} is not an export of Topwork: it has no {EXPORT_FILE}; make one with "
            "topwork export"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}; export the model again") from error
    if not isinstance(facts, dict) or "schema_version" not in facts or "format" not in facts:
        raise ModelError(f"{path} is not of an export of Topwork; export the model again")
    return facts
