"""The command predict: a model put to images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topwork.cli.app import app
from topwork.cli.options import (
    AbstainBelow,
    Coverage,
    Images,
    ModelPath,
    Strict,
    find_images,
    print_json,
)
from topwork.core.errors import DatasetError, printable


@app.command()
def predict(
    model: ModelPath,
    images: Images,
    top: Annotated[int, typer.Option(help="How many classes to show per image.", min=1)] = 3,
    abstain_below: AbstainBelow = None,
    coverage: Coverage = None,
    strict: Strict = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object per image and line on stdout.")
    ] = False,
) -> None:
    """Predict the classes of images."""
    from concurrent.futures import ThreadPoolExecutor

    from topwork.core import warm_up
    from topwork.models.folder import load_model

    paths = find_images(images)
    warm_up.predicting()
    loaded = load_model(model)
    with ThreadPoolExecutor(1) as pool:
        # Networks are compiled without Python, which goes on to import what has no libraries.
        compiling = pool.submit(loaded.engines_for, len(paths))
        from topwork.cli.show_results import show_prediction
        from topwork.models import answers
        from topwork.recipes.console import make_console
    compiling.result()
    answers.check_abstain(loaded, abstain_below)
    threshold = answers.find_threshold(loaded, coverage)
    console, errors = make_console(stderr=False), make_console(stderr=True)
    good, unscaled = 0, list[Path]()
    for start, found in answers.predict(loaded, paths):
        predictions = dict(answers.answer(loaded, found, top, abstain_below, threshold))
        good += len(predictions)
        unscaled += [paths[start + row] for row in found.unscaled]
        for row, path in enumerate(paths[start : start + len(predictions) + len(found.failed)]):
            reason = found.failed.get(row)
            if reason is not None and strict:
                raise DatasetError(f"{path}: {reason}; mend it, or leave out --strict")
            answer = predictions.get(row, {"error": reason})
            if as_json:
                print_json({"path": str(path)} | answer)
            else:
                show_prediction(errors if reason else console, path, answer)
    if unscaled:
        from topwork.data.pixel_kinds import say_unscaled

        errors.print(printable(say_unscaled(list(map(str, unscaled)))), style="yellow")
    if not good:
        raise DatasetError(f"none of the {len(paths)} images could be read")
