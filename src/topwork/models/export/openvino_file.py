"""A model as OpenVINO IR: only the logits, weights in all their bytes or in half of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topwork.bases.engines.compiled import open_core
from topwork.bases.engines.openvino import mapped_errors
from topwork.bases.quantizing import fuse
from topwork.core.config import Precision
from topwork.core.runtime import import_openvino
from topwork.models.export.batches import Arrays, Run, run_batches
from topwork.models.export.facts import KEY
from topwork.models.export.formats import Input, Numbers


def open_logits(path: Path, pixels: Input) -> Any:
    """Returns the part of a model file that gives logits, for pixels of a type.

    Args:
        path: `model.xml` of a saved model.
        pixels: what its inputs are to take.

    Raises:
        NetworkError: the file is missing or damaged.
    """
    openvino = import_openvino()
    with mapped_errors(path):
        whole = openvino.Core().read_model(path)
        logits = whole.output("logits")
        model = openvino.Model([logits.get_node()], whole.get_parameters(), "topwork")
        if pixels is Input.UINT8:
            edit = openvino.preprocess.PrePostProcessor(model)
            for port in model.inputs:
                edit.input(port.get_any_name()).tensor().set_element_type(openvino.Type.u8)
            model = edit.build()
    return model


def write_openvino(source: Path, path: Path, numbers: Numbers, pixels: Input, facts: str) -> None:
    """Writes a model's file again, for `f16` and `bf16` with its weights in half the bytes.

    Those bytes are f16 both times: they lose an eighth of what bf16 would, and what the runtime
    computes in does not depend on them.

    Args:
        source: `model.xml` of a saved model.
        path: ends in `.xml`.
        numbers: `f32`, `f16` or `bf16`.
        pixels: what its inputs are to take.
        facts: JSON, to be found in the file's runtime information under `topwork`.

    Raises:
        NetworkError: the source is missing or damaged.
        OSError: the file cannot be written.
    """
    model, half = open_logits(source, pixels), numbers is not Numbers.F32
    if half:
        fuse(model)
    save_openvino(model, path, facts, half=half)


def save_openvino(model: Any, path: Path, facts: str, *, half: bool = False) -> None:
    """Writes an OpenVINO model with what it says of itself.

    Raises:
        OSError: it cannot be written.
    """
    model.set_rt_info(facts, [KEY])
    try:
        import_openvino().save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:
        # It does not say why; a full disk is the likeliest reason.
        raise OSError(f"OpenVINO could not write {path.name}; is the disk full?") from error


def run_openvino(
    path: Path,
    arrays: Arrays,
    pixels: Input,
    precision: Precision,
    outputs: Sequence[str] = (),
) -> Arrays:
    """Runs an OpenVINO file in OpenVINO; see `batches.run_batches`.

    Args:
        path: of the file.
        arrays: (N, S, S, 3) uint8 for the name of each input.
        pixels: what the file's inputs take.
        precision: `bf16` or `f32`, the arithmetic.
        outputs: names of those to return, side by side; the first if none is named.

    Raises:
        NetworkError: the file is damaged, or has other inputs.
    """
    with mapped_errors(path):
        run = open_runner(path, precision, outputs)
        return run_batches(run, arrays, str(pixels))


def open_runner(path: Path, precision: Precision, outputs: Sequence[str] = ()) -> Run:
    """Compiles a file and returns a function from a batch of each input, by name, to its output.

    Args:
        path: of the file.
        precision: `bf16` or `f32`, the arithmetic.
        outputs: as for `run_openvino`.
    """
    hints = {"INFERENCE_PRECISION_HINT": str(precision), "PERFORMANCE_HINT": "LATENCY"}
    compiled = open_core().compile_model(path, "CPU", hints)
    names = [port.get_node().get_friendly_name() for port in compiled.inputs]
    ports = [compiled.output(name) for name in outputs] or [compiled.output(0)]

    def run(batch: Arrays) -> Any:
        # Where there is only one input, its name does not matter.
        given = [batch[name] for name in names] if len(names) > 1 else [*batch.values()]
        found = compiled(given)
        return np.concatenate([found[port] for port in ports], axis=1)

    return run
