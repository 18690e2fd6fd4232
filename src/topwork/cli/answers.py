"""Commands that use a model: evaluate, predict."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from topwork.cli.app import app
from topwork.cli.options import (
    AbstainBelow,
    Coverage,
    Data,
    Images,
    Json,
    ModelPath,
    Overrides,
    SplitName,
    Store,
    Strict,
    check_split,
    open_model_data,
    open_store,
    print_json,
    with_settings,
)
from topwork.core.errors import DatasetError, SettingsError


@app.command()
@with_settings(data=True)
def evaluate(
    model: ModelPath,
    data: Data,
    columns: dict[str, Any],
    *,
    overrides: Overrides = None,
    split: SplitName = "test",
    abstain_below: AbstainBelow = None,
    coverage: Coverage = None,
    store: Store = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Test a model on labelled images: accuracy, a row per class, the confusion matrix."""
    check_split(split)
    from topwork.cli.show_results import show_evaluation
    from topwork.data.fix_list import read_verdicts
    from topwork.models import evaluate as evaluation
    from topwork.models.folder import load_model
    from topwork.recipes.progress import Screen, make_console

    verdicts = None if overrides is None else read_verdicts(overrides)
    loaded = load_model(model)
    folder = open_store(store)
    console = make_console(stderr=as_json)
    with Screen(console) as screen:
        result = evaluation.evaluate(
            loaded,
            open_model_data(loaded, data, columns, folder, screen, strict=strict),
            split,
            folder,
            strict=strict,
            verdicts=verdicts,
            abstain_below=abstain_below,
            coverage=coverage,
            callback=screen,
        )
    show_evaluation(console, loaded, result)
    if as_json:
        print_json(
            {
                "model": str(model),
                "task": str(loaded.task),
                "classes": loaded.classes,
                **result.to_json(),
            }
        )


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
        from topwork.models import evaluate as evaluation
        from topwork.recipes.progress import make_console
    compiling.result()
    evaluation.check_abstain(loaded, abstain_below)
    threshold = evaluation.find_threshold(loaded, coverage)
    console, errors = make_console(stderr=False), make_console(stderr=True)
    good = 0
    for start, found in evaluation.predict(loaded, paths):
        answers = dict(evaluation.answer(loaded, found, top, abstain_below, threshold))
        good += len(answers)
        for place, path in enumerate(paths[start : start + len(answers) + len(found.failed)]):
            reason = found.failed.get(place)
            if reason is not None and strict:
                raise DatasetError(f"{path}: {reason}; mend it, or leave out --strict")
            answer = answers.get(place, {"error": reason})
            if as_json:
                print_json({"path": str(path)} | answer)
            else:
                show_prediction(errors if reason else console, path, answer)
    if not good:
        raise DatasetError(f"none of the {len(paths)} images could be read")


def find_images(patterns: list[str]) -> list[Path]:
    """Returns the files that are meant by files, folders and globs, each once."""
    import glob

    from topwork.data.readers.folder import list_images

    found: dict[Path, None] = {}
    for pattern in patterns:
        if pattern == "-":
            lines = sys.stdin.buffer.read().splitlines()
            found.update(dict.fromkeys(Path(os.fsdecode(line)) for line in lines if line))
            continue
        path = Path(pattern)
        if path.is_dir():
            matches = list_images(path)
        elif path.exists() or not glob.has_magic(pattern):
            matches = [path]
        else:
            matches = sorted(
                file
                for name in glob.glob(pattern, recursive=True)  # noqa: PTH207 (absolute too)
                if (file := Path(name)).is_file()
            )
        if not matches:
            what = "holds no images" if path.is_dir() else "matches no files"
            raise SettingsError(f"IMAGE: {pattern} {what}")
        found.update(dict.fromkeys(matches))
    return list(found)
