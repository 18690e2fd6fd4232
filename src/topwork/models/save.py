"""Writes a model: first what makes it one, then what can be added to it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from topwork.bases import Stack, write_keras_file, write_openvino_file
from topwork.core.arrow import make_strings
from topwork.core.config import Precision
from topwork.core.errors import ModelError
from topwork.core.files import hash_file, open_beside, write_file
from topwork.core.runtime import cores
from topwork.data.listing import Skipped, make_writable
from topwork.heads.dense import Head
from topwork.models.checks.agreement import Agreement
from topwork.models.checks.images import CheckImages
from topwork.models.checks.keras_file import without_int8
from topwork.models.checks.saved import ModelChecker
from topwork.models.folder import (
    CARD_FILE,
    CHECKED_FILES,
    HEAD_FILE,
    HISTORY_FILE,
    IMAGES_FILE,
    KERAS_FILE,
    OPENVINO_FILE,
    SCHEMA_VERSION,
    Card,
    read_card,
    save_folder,
)
from topwork.models.model import Model
from topwork.models.model_facts import ImageTable, find_networks
from topwork.models.predictions import ANSWERS_FILE, LabeledPredictions, write_predictions


@dataclass(frozen=True)
class SavedModel:
    """A model as it was saved.

    Attributes:
        model: it computes in f32 where what it was trained in would give other answers.
        stack: its networks, likewise.
        agreement: how the answers of the OpenVINO file compare; None if that is not known.
        warnings: what a person should know of it, in words.
        files: SHA-256 of each file by its name.
    """

    model: Model
    stack: Stack
    agreement: Agreement | None
    warnings: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SaveReport:
    """What is known of the files of a saved model.

    Attributes:
        parity: largest difference of a logit, as a share of the largest, of the `openvino` file
            from what was trained and of the `keras` file from that in f32; without what is not
            known.
        agreement: how the answers of the OpenVINO file compare; None if that is not known.
        warnings: what a person should know of it, in words.
        lost: images of its gallery that could no longer be read.
        drift: how its answers in the precision of its training compare with those in f32; None
            where that is f32, or not known.
    """

    parity: dict[str, float]
    agreement: Agreement | None
    warnings: tuple[str, ...]
    lost: tuple[Skipped, ...] = ()
    drift: Agreement | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns it for `topwork train --json`."""
        return {
            "parity": self.parity,
            "agreement": None if self.agreement is None else asdict(self.agreement),
            "drift": None if self.drift is None else asdict(self.drift),
            "doubts": self.warnings,
        }


def save_model(
    model: Model,
    stack: Stack,
    path: Path,
    images: CheckImages,
    predictions: LabeledPredictions,
    warnings: Sequence[str],
    stop: Callable[[], bool],
) -> SavedModel:
    """Writes a model folder that can be used, and nothing that can wait.

    Its OpenVINO file is compared with what was trained before the folder gets its name. Where
    its answers are others, networks in f32 take the place of those in bf16 or int8.

    Args:
        model: the model, as trained.
        stack: its networks.
        path: the folder to make. An older Topwork model there is replaced, all at once;
            anything else is left alone.
        images: real images to compare the files on.
        predictions: what it says of its validation images.
        warnings: what a person should know already.
        stop: whether there is no time to compare.

    Returns:
        The model as it was saved, with all warnings.

    Raises:
        ModelError: the folder is not ours to replace, or the disk is full.
    """

    def write(folder: Path) -> SavedModel:
        # A large file is the disk, and another is OpenVINO: they need not wait for each other.
        with ThreadPoolExecutor(1) as pool:
            keras = folder / KERAS_FILE
            writing = pool.submit(write_keras_file, stack.folder, model.head.layers, keras)
            write_predictions(predictions, folder / ANSWERS_FILE)
            _write_head(model.head, folder / HEAD_FILE)
            _write_json(folder / HISTORY_FILE, model.history.to_json())
            _write_images(model.images, folder / IMAGES_FILE)
            saved = _write_networks(model, stack, folder, images, stop)
            writing.result()
        saved = replace(saved, warnings=_add(warnings, saved.warnings))
        card = _describe(saved, folder)
        _write_json(folder / CARD_FILE, card.model_dump(mode="json"))
        return replace(saved, files=card.files)

    return save_folder(path, write)


def _write_networks(
    model: Model, stack: Stack, folder: Path, images: CheckImages, stop: Callable[[], bool]
) -> SavedModel:
    """Writes the OpenVINO file: in f32 where another precision does not say what was trained."""
    trained_in, path = model.precision, folder / OPENVINO_FILE
    saved = _write_openvino(model, stack, path, images, trained_in, stop)
    agreement = saved.agreement
    if agreement is None or agreement.holds:
        return saved
    warnings = _add(saved.warnings, [agreement.say()])
    if agreement.precision == Precision.F32:
        return replace(saved, warnings=warnings)
    plain = without_int8(stack)
    try:
        with open_beside(path) as trial:
            exact = _write_openvino(
                _in_f32(model, plain), plain, trial / OPENVINO_FILE, images, trained_in, stop
            )
            warnings = _add(warnings, exact.warnings)
            if exact.agreement is not None and exact.agreement.share > agreement.share:
                for file in list(trial.iterdir()):
                    file.replace(folder / file.name)
                said = f"so it was saved in f32: {exact.agreement.say()}"
                return replace(exact, warnings=_add(warnings, [said]))
    except OSError as error:
        said = f"there is no room to try f32 instead: {error.strerror or error}"
        return replace(saved, warnings=_add(warnings, [said]))
    why = "could not be compared" if exact.agreement is None else "agrees no better"
    said = f"in f32 it {why}, so it was saved in {agreement.precision}"
    return replace(saved, warnings=_add(warnings, [said]))


def _write_openvino(
    model: Model,
    stack: Stack,
    path: Path,
    images: CheckImages,
    trained_in: Precision,
    stop: Callable[[], bool],
) -> SavedModel:
    """Writes a model's OpenVINO file, and compares it with the stored vectors."""
    write_openvino_file(stack, model.head.layers, path)
    checker = ModelChecker(
        stack, model.head, model.task, images, model.interpolation, model.ranges, trained_in
    )
    precision = Precision(model.bases[0].local_space.precision)
    agreement = checker.compare_openvino(path, precision, stop)
    return SavedModel(model, stack, agreement, tuple(checker.warnings))


def _add(warnings: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    """Returns warnings and more of them, none twice."""
    return tuple(dict.fromkeys((*warnings, *more)))


def _in_f32(model: Model, stack: Stack) -> Model:
    """Returns a model that computes in f32, whatever it was trained on."""
    bases = []
    for base in model.bases:
        space = replace(base.space, precision=str(Precision.F32), calibration="")
        bases.append(base.model_copy(update={"space": space}))
    return replace(
        model,
        bases=tuple(bases),
        settings=model.settings.model_copy(update={"precision": Precision.F32}),
        networks=find_networks(stack),
    )


def complete(path: Path, saved: SavedModel, report: SaveReport) -> None:
    """Adds to a saved model what was found out since.

    Nothing is done if the folder is another model's by now, or cannot be written any more.

    Args:
        path: the folder of `save_model`.
        saved: what that returned.
        report: what is known now.
    """
    with contextlib.suppress(OSError, ModelError):
        card = read_card(path)
        if card.files == saved.files:
            news = {
                "parity": report.parity,
                "agreement": report.agreement,
                "drift": report.drift,
                "doubts": report.warnings,
            }
            content = card.model_copy(update=news).model_dump(mode="json")
            _write_json(path / CARD_FILE, content)


def add_file(path: Path, saved: SavedModel, source: Path) -> None:
    """Adds a file to a saved model, whole or not at all.

    Args:
        path: the model's folder.
        saved: what `save_model` returned.
        source: the file; it keeps its name.

    Raises:
        ModelError: the folder is another model's by now, or none.
        OSError: it cannot be written.
    """
    if read_card(path).files != saved.files:
        raise ModelError("another run has replaced the model")

    def copy(target: BinaryIO) -> None:
        with source.open("rb") as file:
            shutil.copyfileobj(file, target)

    write_file(path / source.name, copy)


def _describe(saved: SavedModel, folder: Path) -> Card:
    """Returns the card of a model whose files are written."""
    model, agreement = saved.model, saved.agreement
    # Hashing needs no Python.
    with ThreadPoolExecutor(cores()) as pool:
        hashes = [*pool.map(hash_file, [folder / name for name in CHECKED_FILES])]
    return Card(
        schema_version=SCHEMA_VERSION,
        classes=model.classes,
        task=model.task,
        members=model.bases,
        settings=model.settings,
        data=model.data,
        validation=model.validation,
        calibration=model.calibration.to_json(),
        search=model.search,
        parity={} if agreement is None else {"openvino": agreement.difference},
        agreement=agreement,
        doubts=saved.warnings,
        versions=model.versions,
        making=model.provenance,
        files=dict(zip(CHECKED_FILES, hashes, strict=True)),
        class_labels=model.class_labels,
    )


def _write_head(head: Head, path: Path) -> None:
    from safetensors.numpy import save

    *inner, last = head.layers
    arrays = {"kernel": last.kernel, "bias": last.bias}
    for layer in inner:
        arrays |= {"inner_kernel": layer.kernel, "inner_bias": layer.bias}
    # Not with safetensors' own function: a file that it writes only its owner can read.
    path.write_bytes(save({name: np.ascontiguousarray(part) for name, part in arrays.items()}))


def _write_images(images: ImageTable, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "name": list(map(make_writable, images.names)),
        "label": images.labels,
        "split": images.splits,
        "sha256": images.hashes,
    }
    pq.write_table(pa.table({name: make_strings(v) for name, v in columns.items()}), path)


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    # Names of files may hold what UTF-8 cannot say; as an escape it is read back as it was.
    data = text.encode("utf-8", "backslashreplace")
    write_file(path, lambda file: file.write(data))
