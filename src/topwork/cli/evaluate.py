"""The command evaluate: a model tested on labelled images."""

from __future__ import annotations

from typing import Any

from topwork.cli.app import app
from topwork.cli.options import (
    AbstainBelow,
    Coverage,
    Data,
    Json,
    ModelPath,
    Overrides,
    SplitName,
    Store,
    Strict,
    check_split,
    open_store,
    print_json,
    with_settings,
)


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
    from topwork.models.match_data import apply_verdicts
    from topwork.recipes.console import make_console
    from topwork.recipes.open_data import open_model_data
    from topwork.recipes.progress import Screen

    verdicts = None if overrides is None else read_verdicts(overrides)
    loaded = load_model(model)
    folder = open_store(store)
    console = make_console(stderr=as_json)
    with Screen(console) as screen:
        dataset = open_model_data(loaded, data, columns, folder, screen, strict=strict)
        result = evaluation.evaluate(
            loaded,
            apply_verdicts(loaded, dataset, verdicts, strict=strict, callback=screen),
            split,
            folder,
            strict=strict,
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
