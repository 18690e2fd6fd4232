"""A model is saved: first what makes it a model, then what can be added to it."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable
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
from topwork.core.task import Task
from topwork.data.listing import Skipped, make_writable
from topwork.heads.dense import Floats, Head
from topwork.metrics.scores import say_number
from topwork.models.agreement import Agreement
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
from topwork.models.model import ImageTable, Model, find_networks
from topwork.models.parity import Check, Samples, without_int8
from topwork.models.predictions import ANSWERS_FILE, Answers, write_answers


@dataclass(frozen=True)
class Saved:
    """A model that was saved, and what is known of its files.

    Attributes:
        parity: largest difference of a logit, as a share of the largest, of the `openvino` file
            from what was trained and of the `keras` file from that in f32; without what is not
            known.
        agreement: how the answers of the OpenVINO file compare; None if that is not known.
        doubts: what a person should know of it, in words.
        lost: images of its gallery that could no longer be read.
    """

    parity: dict[str, float]
    agreement: Agreement | None
    doubts: tuple[str, ...]
    lost: tuple[Skipped, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns it for `topwork train --json`."""
        content = asdict(self)
        del content["lost"]
        return content


@dataclass(frozen=True)
class Core:
    """What makes a model a model, written before anything is drawn.

    Attributes:
        model: as it was saved.
        stack: its networks, as they were saved.
        agreement: see `Saved`.
        files: SHA-256 of each file by its name.
    """

    model: Model
    stack: Stack
    agreement: Agreement | None
    files: dict[str, str] = field(default_factory=dict)


def save_core(
    model: Model,
    stack: Stack,
    path: Path,
    samples: Samples,
    answers: Answers,
    doubts: list[str],
    stop: Callable[[], bool],
) -> Core:
    """Writes a model folder that can be used, and nothing that can wait.

    Its OpenVINO file is compared with what was trained before the folder gets its name. Where
    its answers are others, networks in f32 take the place of those in bf16 or int8.

    Args:
        model: the model, as trained.
        stack: its networks.
        path: the folder to make. An older Topwork model there is replaced, all at once;
            anything else is left alone.
        samples: real images to compare the files on.
        answers: what it says of its validation images.
        doubts: where to say what is doubtful.
        stop: whether there is no time to compare.

    Raises:
        ModelError: the folder is not ours to replace, or the disk is full.
    """

    def write(folder: Path) -> Core:
        # A large file is the disk, and another is OpenVINO: they need not wait for each other.
        with ThreadPoolExecutor(1) as pool:
            keras = folder / KERAS_FILE
            writing = pool.submit(write_keras_file, stack.folder, model.head.layers, keras)
            write_answers(answers, folder / ANSWERS_FILE)
            # What it writes itself only its owner can read.
            (folder / HEAD_FILE).write_bytes(_save_arrays(_name_arrays(model.head)))
            _write_json(folder / HISTORY_FILE, model.history.to_json())
            _write_images(model.images, folder / IMAGES_FILE)
            core = _write_networks(model, stack, folder, samples, doubts, stop)
            writing.result()
        parity = {} if core.agreement is None else {"openvino": core.agreement.difference}
        saved = Saved(parity, core.agreement, tuple(doubts))
        card = _describe(core.model, folder, saved)
        _write_json(folder / CARD_FILE, card.model_dump(mode="json"))
        return replace(core, files=card.files)

    return save_folder(path, write)


def _save_arrays(arrays: dict[str, Floats]) -> bytes:
    from safetensors.numpy import save

    return bytes(save(arrays))


def _write_networks(
    model: Model,
    stack: Stack,
    folder: Path,
    samples: Samples,
    doubts: list[str],
    stop: Callable[[], bool],
) -> Core:
    """Writes the OpenVINO file: in f32 where another precision does not say what was trained."""
    trained_in = model.precision

    def write(model: Model, stack: Stack, path: Path) -> Core:
        write_openvino_file(stack, model.head.layers, path)
        check = Check(stack, model.head, model.task, samples, model.interpolation, trained_in)
        precision = Precision(model.members[0].local_space.precision)
        found = check.compare_openvino(path, precision, stop)
        doubts.extend(doubt for doubt in check.doubts if doubt not in doubts)
        return Core(model, stack, found)

    trained = write(model, stack, folder / OPENVINO_FILE)
    found = trained.agreement
    if found is None or found.holds:
        return trained
    doubts.append(found.say())
    if found.precision == Precision.F32:
        return trained
    plain = without_int8(stack)
    try:
        with open_beside(folder / OPENVINO_FILE) as trial:
            exact = write(_in_f32(model, plain), plain, trial / OPENVINO_FILE)
            if exact.agreement is not None and exact.agreement.share > found.share:
                for file in list(trial.iterdir()):
                    file.replace(folder / file.name)
                doubts.append(f"so it was saved in f32: {exact.agreement.say()}")
                return exact
    except OSError as error:
        doubts.append(f"there is no room to try f32 instead: {error.strerror or error}")
        return trained
    why = "could not be compared" if exact.agreement is None else "agrees no better"
    doubts.append(f"in f32 it {why}, so it was saved in {found.precision}")
    return trained


def _in_f32(model: Model, stack: Stack) -> Model:
    """Returns a model that computes in f32, whatever it was trained on."""
    members = []
    for member in model.members:
        space = replace(member.space, precision=str(Precision.F32), calibration="")
        members.append(member.model_copy(update={"space": space}))
    return replace(
        model,
        members=tuple(members),
        settings=model.settings.model_copy(update={"precision": Precision.F32}),
        networks=find_networks(stack),
    )


def complete(path: Path, core: Core, saved: Saved) -> None:
    """Adds to a saved model what was found out since.

    Nothing is done if the folder is another model's by now, or cannot be written any more.

    Args:
        path: the folder of `save_core`.
        core: what that returned.
        saved: what is known now.
    """
    card = path / CARD_FILE
    with contextlib.suppress(OSError, ModelError):
        before = read_card(path)
        if before.files == core.files:
            content = before.model_copy(
                update={
                    "parity": saved.parity,
                    "agreement": saved.agreement,
                    "doubts": saved.doubts,
                }
            )
            _write_json(card, content.model_dump(mode="json"))


def add_file(path: Path, core: Core, source: Path) -> None:
    """Adds a file to a saved model, whole or not at all.

    Args:
        path: the model's folder.
        core: what `save_core` returned.
        source: the file; it keeps its name.

    Raises:
        ModelError: the folder is another model's by now, or none.
        OSError: it cannot be written.
    """
    if read_card(path).files != core.files:
        raise ModelError("another run has replaced the model")

    def copy(target: BinaryIO) -> None:
        with source.open("rb") as file:
            shutil.copyfileobj(file, target)

    write_file(path / source.name, copy)


def _describe(model: Model, folder: Path, saved: Saved) -> Card:
    """Returns the card of a model whose files are written."""
    # Hashing needs no Python.
    with ThreadPoolExecutor(cores()) as pool:
        hashes = [*pool.map(hash_file, [folder / name for name in CHECKED_FILES])]
    return Card(
        schema_version=SCHEMA_VERSION,
        classes=model.classes,
        task=model.task,
        members=model.members,
        settings=model.settings,
        data=model.data,
        validation=model.validation,
        calibration=model.calibration.to_json(),
        search=model.search,
        parity=saved.parity,
        agreement=saved.agreement,
        doubts=saved.doubts,
        versions=model.versions,
        making=model.making,
        files=dict(zip(CHECKED_FILES, hashes, strict=True)),
    )


def draw_history(model: Model, path: Path) -> None:
    """Draws the curve of a model's training into a PNG."""
    bases = " + ".join(f"{m.space.base}, {m.space.image_size} px" for m in model.members)
    model.history.save_plot(path, f"{bases}: {_say_validation(model)}")


def _say_validation(model: Model) -> str:
    found = model.validation
    if model.task is Task.NUMBER and len(model.classes) > 1:
        # Several numbers have no unit in common.
        share = found.figures["r2"]
        return f"validation R² {math.nan if share is None else share:.3f}"
    say = say_number if model.task is Task.NUMBER else "{:.3f}".format
    low, high = (say(math.nan if end is None else end) for end in found.interval)
    return f"validation {found.metric} {say(found.value)} (95 % interval {low} to {high})"


def _name_arrays(head: Head) -> dict[str, Floats]:
    *inner, last = head.layers
    arrays = {"kernel": last.kernel, "bias": last.bias}
    for layer in inner:
        arrays |= {"inner_kernel": layer.kernel, "inner_bias": layer.bias}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


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
