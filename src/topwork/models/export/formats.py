"""What can be asked of an export: formats, numbers, inputs, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import TypeVar

from topwork.core.errors import SettingsError

Choice = TypeVar("Choice", bound=StrEnum)


class Format(StrEnum):
    """The programs that a model can be exported for."""

    KERAS = "keras"
    OPENVINO = "openvino"
    ONNX = "onnx"
    LITERT = "litert"
    SAVED_MODEL = "saved-model"
    NUMPY = "numpy"


class Numbers(StrEnum):
    """The numbers of a file.

    In `f16` and `bf16` weights take half the bytes of `f32`. The arithmetic is the runtime's
    choice: for `bf16` the file is checked in that of OpenVINO on a CPU with bf16. In `int8` the
    convolutions compute with bytes.
    """

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    INT8 = "int8"


class Input(StrEnum):
    """The numbers that the pixels come in, 0 to 255 either way."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


@dataclass(frozen=True)
class Traits:
    """What a format can do and what it needs.

    Attributes:
        title: its name in a sentence.
        file: what the main file in the folder is called; None where it is the folder.
        numbers: what its weights may be kept in.
        packages: what has to be installed, by the name of its import.
        runtime: the package that runs the file, whose version is recorded.
    """

    title: str
    file: str | None
    numbers: tuple[Numbers, ...]
    packages: tuple[str, ...]
    runtime: str


_ALL = (Numbers.F32, Numbers.F16, Numbers.INT8)
TRAITS = {
    Format.KERAS: Traits("Keras", "model.keras", (Numbers.F32,), (), "keras"),
    Format.OPENVINO: Traits("OpenVINO", "model.xml", tuple(Numbers), (), "openvino"),
    Format.ONNX: Traits(
        "ONNX", "model.onnx", _ALL, ("tensorflow", "tf2onnx", "onnx", "onnxruntime"), "onnxruntime"
    ),
    Format.LITERT: Traits(
        "LiteRT", "model.tflite", _ALL, ("tensorflow", "ai_edge_litert"), "ai-edge-litert"
    ),
    Format.SAVED_MODEL: Traits("SavedModel", None, (Numbers.F32,), ("tensorflow",), "tensorflow"),
    Format.NUMPY: Traits("NumPy", "head.npz", (Numbers.F32,), (), "numpy"),
}
# LiteRT's own converter makes bytes of its weights; for the others NNCF does.
_INT8_PACKAGES = {Format.OPENVINO: ("nncf",), Format.ONNX: ("nncf",)}


@dataclass(frozen=True)
class Request:
    """What is asked of an export.

    Attributes:
        format: the program it is for.
        numbers: what its weights are kept in.
        pixels: what it takes.
    """

    format: Format
    numbers: Numbers
    pixels: Input

    @property
    def traits(self) -> Traits:
        """What the format can do and needs."""
        return TRAITS[self.format]


def make_request(format_: str, numbers: str, pixels: str) -> Request:
    """Returns what is asked for, if it can be done here.

    Args:
        format_: of `Format`.
        numbers: of `Numbers`.
        pixels: of `Input`.

    Raises:
        SettingsError: there is no such thing, the format cannot do it, or a package is not
            installed; with what works, or the command that installs it.
    """
    request = Request(
        _choose(Format, "format", format_),
        _choose(Numbers, "precision", numbers),
        _choose(Input, "input", pixels),
    )
    works = request.traits.numbers
    if request.numbers not in works:
        others = ", ".join(name for name, found in TRAITS.items() if numbers in found.numbers)
        raise SettingsError(
            f"precision: {format_} files can be {' or '.join(works)}, received {numbers}; "
            f"{numbers} works with {others}"
        )
    if request.format is Format.NUMPY and request.pixels is not Input.FLOAT32:
        raise SettingsError("input: a numpy file takes vectors, not pixels; leave out --input")
    _check_packages(f"format: {format_}", request.traits.packages, "export")
    if request.numbers is Numbers.INT8:
        packages = _INT8_PACKAGES.get(request.format, ())
        _check_packages(f"precision: int8 for {format_}", packages, "int8")
    return request


def _choose(kind: type[Choice], name: str, value: str) -> Choice:
    try:
        return kind(value)
    except ValueError:
        raise SettingsError(f"{name}: must be {', '.join(kind)}, received {value!r}") from None


def _check_packages(what: str, packages: tuple[str, ...], extra: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"{what} needs packages that are not installed ({', '.join(missing)}): "
            f"pip install 'topwork[{extra}]'"
        )


def name_export(model: str, request: Request) -> str:
    """Returns what to call the folder of an export, if the user does not say.

    Args:
        model: name of the model's folder.
        request: what is asked of the export.
    """
    parts = [model.removesuffix(".model"), str(request.format)]
    parts += [str(request.numbers)] if request.numbers is not Numbers.F32 else []
    parts += [str(request.pixels)] if request.pixels is not Input.FLOAT32 else []
    return "-".join(parts)
