"""The recipe export: a saved model in, a folder for another program out, or nothing at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from topwork.bases.engines import resolve_precision
from topwork.core.arrays import Pixels
from topwork.core.callbacks import SILENT, Callback
from topwork.core.child_process import ask_child
from topwork.core.config import Precision
from topwork.core.errors import DatasetError, ModelError, SettingsError, counted
from topwork.core.files import hash_file, open_beside, write_folder
from topwork.core.leftovers import sweep
from topwork.data.dataset import Dataset
from topwork.data.listing import Skipped
from topwork.models.checks.exported import Parity, compare_export, find_fault, refuse
from topwork.models.checks.tolerances import MIN_AGREEMENT, find_max_difference
from topwork.models.export.batches import Arrays
from topwork.models.export.facts import (
    EXPORT_FILE,
    describe_export,
    find_runtime,
    read_export,
    write_facts,
)
from topwork.models.export.formats import Format, Input, Numbers, Request, make_request
from topwork.models.export.head_file import run_head, write_head
from topwork.models.export.images import GIVE_DATA, read_predictions
from topwork.models.export.keras_file import run_keras, write_keras
from topwork.models.export.openvino_file import run_openvino, write_openvino
from topwork.models.export.stand_ins import CheckedImages, Origin, find_checked, find_fitted
from topwork.models.folder import OPENVINO_FILE, find_keras_file, load_model
from topwork.models.model import Model

# Ends the name of a folder with a file that does not say what the model says.
DIFFERS = "-differs"


@dataclass(frozen=True)
class Exported:
    """An export, and how it compares with the model.

    Attributes:
        folder: that holds it.
        path: of its main file; the folder itself for a SavedModel.
        size_bytes: of its files, without `export.json`.
        parity: how it compares, in its own runtime.
        skipped: images of the model that it could not be compared on, with the reasons.
        facts: the content of `export.json`.
        fault: why it does not say what the model says, if it was kept all the same.
    """

    folder: Path
    path: Path
    size_bytes: int
    parity: Parity
    skipped: tuple[Skipped, ...]
    facts: dict[str, Any]
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns what `topwork export --json` prints."""
        return {"path": str(self.path), "bytes": self.size_bytes, **self.facts}


@dataclass(frozen=True)
class _Job:
    """A model on its way to another program.

    Attributes:
        model: the model.
        folder: of the model.
        request: what is made of it.
        fitted: for int8, training images to fit the ranges to; by the name of the input.
    """

    model: Model
    folder: Path
    request: Request
    fitted: dict[str, Pixels]

    @property
    def arithmetic(self) -> Precision:
        """What OpenVINO computes in when the file is checked.

        For bf16 and int8 that is what it chooses by itself on this machine.
        """
        exact = self.request.numbers in (Numbers.F32, Numbers.F16)
        return Precision.F32 if exact else resolve_precision(Precision.AUTO)

    def find_file(self, folder: Path) -> Path:
        """Returns the main file in the folder of an export."""
        return folder / (self.request.traits.file or "")


def export_model(
    model: Path | str,
    path: Path | str,
    *,
    format: Format | str,
    precision: Numbers | str = Numbers.F32,
    input: Input | str = Input.FLOAT32,
    data: Dataset | Path | str | None = None,
    cache: Path | None = None,
    keep_differing: bool = False,
    callback: Callback = SILENT,
) -> Exported:
    """Exports a saved model, runs the export on real images, and keeps it if it agrees.

    Args:
        model: folder of the model.
        path: the folder to make. An older export there is replaced, all at once; anything else
            is left alone.
        format: the program it is for.
        precision: the numbers its weights are kept in.
        input: the numbers that it takes pixels in, 0 to 255.
        data: where the images that the model was trained with are, or any like them; None where
            the model knows. The file is compared on those of validation, int8 is fitted to those
            of training. Where they are gone, the file is compared on what there is instead; see
            `stand_ins`.
        cache: folder for what of the data comes from other machines or has to be unpacked.
        keep_differing: keep a file that does not agree, in a folder whose name ends in
            `-differs`, and say so in what is returned.
        callback: hears how it gets on.

    Raises:
        SettingsError: the format cannot do it, or a package or the data is missing.
        DatasetError: the data cannot be read, or there is no image to fit int8 to.
        ModelError: the model is damaged, the folder is not ours to replace or cannot be
            written, another program breaks, or the file does not say what the model says.
        NetworkError: Keras or OpenVINO does not open a file.
    """
    request = make_request(format, precision, input)
    folder, path = Path(model), Path(path).absolute()
    sweep(cache, folder.absolute(), path)
    check_target(path)
    _check_arithmetic(request)
    loaded = load_model(folder)
    _check_int8(loaded, folder, request)
    predictions = read_predictions(loaded, folder)
    dataset = _open_data(loaded, data, cache, callback)
    fitted: dict[str, Pixels] = {}
    if request.numbers is Numbers.INT8:
        missing = DatasetError(
            f"precision: int8 is fitted to images; {GIVE_DATA}, or any like them"
        )
        fitted = find_fitted(loaded, dataset, missing, callback)
    checked = find_checked(loaded, folder, predictions, dataset, callback)
    job = _Job(loaded, folder, request, fitted)
    return _make_folder(job, path, checked, callback, keep_differing=keep_differing)


def _make_folder(
    job: _Job,
    path: Path,
    checked: CheckedImages,
    callback: Callback,
    *,
    keep_differing: bool,
) -> Exported:
    """Makes the folder of an export that agrees; refuses one that does not, or keeps it aside."""
    traits = job.request.traits
    aside = path.with_name(path.name + DIFFERS)
    if keep_differing:
        check_target(aside)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_beside(path) as new:
            exported = _export(job, new, checked, callback)
            if exported.fault is not None and not keep_differing:
                refuse(traits.title, f"{exported.fault}; --keep-differing keeps it aside")
            target = path if exported.fault is None else aside
            write_folder(target, lambda folder: _move_all(new, folder))
    except OSError as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot write an export to {path}: {reason}") from error
    return replace(exported, folder=target, path=job.find_file(target))


def _move_all(source: Path, target: Path) -> None:
    for path in [*source.iterdir()]:
        path.rename(target / path.name)


def _export(job: _Job, new: Path, checked: CheckedImages, callback: Callback) -> Exported:
    """Fills a folder with an export, whether or not it agrees."""
    traits, images = job.request.traits, checked.images
    callback.on_wait(f"writing {traits.title}")
    facts = describe_export(job.model, job.folder, job.request)
    write_export(job, new, write_facts(facts))
    callback.on_wait(f"running {traits.title} on {counted(len(images), 'image')}")
    parity = _compare(job, new, checked)
    fault = find_fault(parity, job.request.numbers)
    if checked.origin is Origin.GENERATED and find_max_difference(job.request.numbers) is None:
        # Answers to what is no photograph are too close to each other for so few bits.
        fault = None
    files = sorted(file for file in new.rglob("*") if file.is_file())
    sizes = {file.relative_to(new).as_posix(): file.stat().st_size for file in files}
    facts["files"] = {
        name: {"bytes": size, "sha256": hash_file(new / name)} for name, size in sizes.items()
    }
    skipped = tuple(Skipped(checked.names[row], why) for row, why in images.lost.items())
    about = {"on": str(checked.origin), "fault": fault, "learnt_from": job.model.data.refitted}
    facts["check"] = parity.to_json() | _describe_check(job, skipped) | about
    (new / EXPORT_FILE).write_text(write_facts(facts) + "\n", encoding="utf-8")
    return Exported(new, new, sum(sizes.values()), parity, skipped, facts, fault)


def check_target(path: Path) -> None:
    """Refuses to replace anything but an export.

    Raises:
        ModelError: something else is there.
    """
    if not path.exists():
        return
    try:
        read_export(path)
    except ModelError as error:
        raise ModelError(
            f"{path} exists and is not an export of Topwork; choose another place with -o, or "
            "move it"
        ) from error


def _check_arithmetic(request: Request) -> None:
    bf16 = request.numbers is Numbers.BF16
    if bf16 and resolve_precision(Precision.AUTO) is not Precision.BF16:
        raise SettingsError(
            "precision: bf16 is checked in bf16 arithmetic, which this CPU lacks; take f16, whose "
            "file holds the same weights"
        )


def _check_int8(model: Model, folder: Path, request: Request) -> None:
    if model.precision is Precision.INT8 and request.format is not Format.OPENVINO:
        raise SettingsError(
            f"format: {folder} computes in int8, which no {request.format} file of it would; take "
            "openvino, or train it without --precision int8"
        )


def _open_data(
    model: Model, data: Dataset | Path | str | None, cache: Path | None, callback: Callback
) -> Dataset | None:
    """Opens the data; None where nobody said where it is and the model cannot find it."""
    if isinstance(data, Dataset):
        return data
    columns: dict[str, Any] = {**model.data.columns}
    try:
        path = model.find_data() if data is None else str(data)
        callback.on_wait(f"reading {path}")
        return Dataset.open(path, labelled=False, cache=cache, callback=callback, **columns)
    except (SettingsError, DatasetError):
        if data is not None:
            raise
        return None


def write_export(job: _Job, folder: Path, facts: str) -> None:
    """Writes the files of an export into a folder, unchecked."""
    request, source, path = job.request, job.folder / OPENVINO_FILE, job.find_file(folder)
    match request.format:
        case Format.NUMPY:
            write_head(job.model.head, job.model.classes, path, facts)
        case Format.OPENVINO if request.numbers is Numbers.INT8:
            _quantize("quantize_openvino", source.absolute(), job, path, facts)
        case Format.OPENVINO:
            write_openvino(source, path, request.numbers, request.pixels, facts)
        case Format.KERAS:
            write_keras(find_keras_file(job.folder), path, request.pixels, facts)
        case Format.SAVED_MODEL:
            _write_with_tensorflow("write_saved_model", job, path, facts)
        case Format.LITERT:
            numbers = str(request.numbers)
            _write_with_tensorflow("write_litert", job, path, facts, numbers=numbers)
        case Format.ONNX if request.numbers is Numbers.INT8:
            with open_beside(path) as scratch:
                whole = scratch / path.name
                _write_with_tensorflow("write_onnx", job, whole, facts, numbers="f32")
                _quantize("quantize_onnx", whole, job, path, facts)
        case Format.ONNX:
            numbers = str(request.numbers)
            _write_with_tensorflow("write_onnx", job, path, facts, numbers=numbers)


def _write_with_tensorflow(task: str, job: _Job, path: Path, facts: str, **options: str) -> None:
    request = {
        "keras_file": str(find_keras_file(job.folder).absolute()),
        "path": str(path),
        "pixels": str(job.request.pixels),
        "facts": facts,
    }
    images = job.fitted if task == "write_litert" else {}
    ask_child(task, request | options, images)


def _quantize(task: str, source: Path, job: _Job, path: Path, facts: str) -> None:
    pixels = str(job.request.pixels)
    request = {"source": str(source), "path": str(path), "pixels": pixels, "facts": facts}
    ask_child(task, request, job.fitted)


def run_export(job: _Job, folder: Path, arrays: dict[str, Pixels]) -> Arrays:
    """Runs an export in the program that it is for; see `batches.run_batches`.

    Args:
        job: what was exported.
        folder: of the export.
        arrays: (N, S, S, 3) uint8 for the name of each input.
    """
    request, path = job.request, job.find_file(folder)
    match request.format:
        case Format.NUMPY:
            return run_head(path, _find_vectors(job, arrays))
        case Format.OPENVINO:
            return run_openvino(path, arrays, request.pixels, job.arithmetic)
        case Format.KERAS:
            return run_keras(path, arrays, request.pixels)
    task = f"run_{request.format}".replace("-", "_")
    return ask_child(task, {"path": str(path), "pixels": str(request.pixels)}, arrays)


def _find_vectors(job: _Job, arrays: dict[str, Pixels]) -> Any:
    """Returns the exact vectors (N, D) of images."""
    names = [file.output for file in job.model.networks if file.output is not None]
    source = job.folder / OPENVINO_FILE
    return run_openvino(source, arrays, Input.FLOAT32, Precision.F32, names)["logits"]


def _compare(job: _Job, folder: Path, checked: CheckedImages) -> Parity:
    model, source = job.model, job.folder / OPENVINO_FILE
    pixels = checked.images.pixels
    outputs = run_export(job, folder, pixels)
    exact = run_openvino(source, pixels, Input.FLOAT32, Precision.F32, ["logits"])
    return compare_export(
        job.request.traits.title,
        model.task,
        len(model.classes),
        checked.predictions,
        exported=outputs["logits"],
        exact=exact["logits"],
        batches=tuple(array for name, array in outputs.items() if name != "logits"),
    )


def _describe_check(job: _Job, skipped: Sequence[Skipped]) -> dict[str, Any]:
    limit = find_max_difference(job.request.numbers)
    openvino = job.request.format is Format.OPENVINO
    return {
        "runtime": find_runtime(job.request.traits),
        "arithmetic": str(job.arithmetic) if openvino else None,
        "limit": {"difference": limit} if limit else {"agreement": MIN_AGREEMENT},
        "fitted_to": len(next(iter(job.fitted.values()))) if job.fitted else None,
        "skipped": [asdict(item) for item in skipped],
    }
