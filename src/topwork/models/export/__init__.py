"""A model as a file for other programs: written, run there on real images, and only then kept.

    model folder ── `images`: its validation images, decoded
        │                                        │
        ├─ `formats`: what can be asked for      │
        ├─ `facts`: what a file says of itself   │
        ▼                                        ▼
    `openvino_file`, `keras_file`, `head_file`   `checks`: the file's logits beside the exact ones
    `child`: whatever needs TensorFlow, NNCF         │
        │     or another program's runtime           │
        └──────────────► `exporting` ◄───────────────┘
                             ▼
            a folder with the file and export.json, or nothing

TensorFlow, NNCF, ONNX Runtime and LiteRT are imported in a child process only.
"""

from topwork.models.export.exporting import Exported, export_model
from topwork.models.export.facts import read_export
from topwork.models.export.formats import Format, Input, Numbers, Request, make_request, name_export

__all__ = [
    "Exported",
    "Format",
    "Input",
    "Numbers",
    "Request",
    "export_model",
    "make_request",
    "name_export",
    "read_export",
]
