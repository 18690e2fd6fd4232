"""The command export: a model for another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topwork.cli.app import app
from topwork.cli.options import Json, ModelPath, Store, open_store, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from topwork.metrics.scores import Report
    from topwork.models.export import Exported


FormatName = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        show_default=False,
        help="keras, openvino, onnx, litert, saved-model, or numpy for the head alone.",
    ),
]
NumbersName = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        help="Numbers that weights are kept in: f32, f16, bf16 or int8, as the format can.",
    ),
]
InputName = Annotated[
    str, typer.Option("--input", metavar="TYPE", help="Type of the pixels: float32 or uint8.")
]
TrainedOn = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        show_default=False,
        help="Where the images it was trained with are, or any like them, to check the file on "
        "[where they were].",
    ),
]
ExportFolder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        show_default=False,
        help="Folder to make [the model's name with the format's].",
    ),
]
KeepDiffering = Annotated[
    bool,
    typer.Option(
        "--keep-differing",
        help="Keep a file that does not say what the model says, in DIR-differs.",
    ),
]


@app.command()
def export(
    model: ModelPath,
    *,
    format_: FormatName,
    precision: NumbersName = "f32",
    input_: InputName = "float32",
    data: TrainedOn = None,
    output: ExportFolder = None,
    keep_differing: KeepDiffering = False,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Export a model to another program's format, checked there on real images."""
    from topwork.models.export import export_model, make_request, name_export
    from topwork.recipes.console import make_console
    from topwork.recipes.progress import Screen

    console = make_console(stderr=as_json)
    path = output or Path(
        name_export(model.absolute().name, make_request(format_, precision, input_))
    )
    with Screen(console) as screen:
        found = export_model(
            model,
            path,
            format=format_,
            precision=precision,
            input=input_,
            data=data,
            cache=open_store(store),
            keep_differing=keep_differing,
            callback=screen,
        )
    show_export(console, found)
    if as_json:
        print_json(found.to_json())
    if found.fault is not None:
        raise typer.Exit(1)


def show_export(console: Console, found: Exported) -> None:
    """Prints how an export compares with its model, and where it is."""
    from rich.table import Table
    from rich.text import Text

    from topwork.core.errors import counted, printable
    from topwork.recipes.show_training import show_skipped

    facts, parity = found.facts, found.parity
    show_skipped(console, found.skipped)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    metric = "" if parity.exact is None else parity.exact.metric
    for name in ("", metric, "95 % interval"):
        table.add_column(name, justify="left" if not name else "right")
    for name, report in (
        ("model, as trained", parity.trained),
        ("model, in f32", parity.exact),
        (f"{facts['format']}, {facts['precision']}", parity.exported),
    ):
        if report is not None:
            table.add_row(name, *_say_report(report))
    if parity.exact is not None:
        console.print(table)
    else:
        console.print(
            f"None of the model's validation images was found: checked on {facts['check']['on']}, "
            "which do not show how good the file is. Say where the images are with --data DATA.",
            style="yellow",
        )
    what = "validation image" if parity.exact is not None else "image"
    console.print(
        f"On {counted(parity.images, what)} {parity.agreement:.1%} of the answers "
        f"are those of the model; largest difference of a logit {parity.difference:.2g} of the "
        f"{'range' if facts['task'] == 'number' else 'largest'}."
        + (
            ""
            if parity.kept is None
            else f" {parity.kept:.1%} of the answers are those of the model as trained."
        )
    )
    if parity.exact is not None and facts["check"]["learnt_from"]:
        console.print(
            "The model learnt from these images too: the figures compare files, and do not say "
            "how good it is.",
            style="dim",
        )
    console.print(f"Run by {facts['check']['runtime']}, in batches of 1, 3 and 8.", style="dim")
    if found.fault is not None:
        fault = f"The file does not say what the model says: {found.fault}."
        console.print(Text(fault, style="bold yellow"))
    done = "Exported to" if found.fault is None else "Kept aside, as you asked, in"
    text = f"{done} {printable(found.path)}, {found.size_bytes / 1e6:.1f} MB"
    console.print(Text(text, style="bold"))


def _say_report(report: Report) -> tuple[str, str]:
    from topwork.metrics.scores import say_number

    say = say_number if report.metric == "mae" else "{:.1%}".format
    low, high = report.interval
    return say(report.value), f"{say(low)} to {say(high)}"
