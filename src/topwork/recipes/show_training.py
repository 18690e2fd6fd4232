"""What a person sees of a training: its images, the heads compared, the epochs, the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from topwork.core.config import HeadKind
from topwork.core.errors import counted, printable
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.listing import Skipped, Split
from topwork.data.validation import find_lacking
from topwork.heads.tuning.trials import Trial, rank
from topwork.heads.tuning.tuner import Tuner
from topwork.metrics.history import History
from topwork.metrics.missing import list_names
from topwork.metrics.scores import finite, say_number
from topwork.models.folder import REPORT_FILE
from topwork.models.save import SaveReport
from topwork.models.trust import say_kept, say_trust
from topwork.recipes.result import TrainResult
from topwork.recipes.verdict import (
    say_calibration,
    say_folds,
    say_mean,
    say_refit,
    verdict,
)
from topwork.reports.trial_plot import describe_recipe
from topwork.vectors.duplicates import Pair
from topwork.vectors.quantize import LEAST_KEPT, Quantization

SHOWN_SKIPPED = 10
SHOWN_CLASSES = 20
SHOWN_TRIALS = 10


def show_dataset(console: Console, dataset: Dataset) -> None:
    """Prints a table of images per class and split; of numbers, their range."""
    where = f" in {printable(dataset.root)}" if dataset.root else ""
    kinds = {Task.LABELS: "labels", Task.NUMBER: "numbers"}
    what = f"of {len(dataset.classes)} {kinds.get(dataset.task, 'classes')}"
    if dataset.task is Task.NUMBER and len(dataset.classes) == 1:
        what = f"with a number, {printable(dataset.classes[0])},"
    console.print(Text(f"Found {len(dataset)} images {what}{where}"), style="bold")
    sizes = dataset.split_sizes()
    table = Table(box=None, padding=(0, 2), header_style="dim")
    headers = {Task.LABELS: "label", Task.NUMBER: ""}
    table.add_column(headers.get(dataset.task, "class"), overflow="ellipsis", no_wrap=True)
    for split in sizes:
        table.add_column(split, justify="right")
    if dataset.task is Task.NUMBER:
        for n, name in enumerate(dataset.classes):
            for kind, find in (("least", np.min), ("mean", np.mean), ("most", np.max)):
                values = [find(dataset.labels[dataset.splits == split, n]) for split in sizes]
                table.add_row(f"{printable(name)}, {kind}", *map(say_number, values))
    else:
        _add_classes(table, dataset, list(sizes))
    table.add_row("all", *(str(size) for size in sizes.values()), style="bold")
    console.print(table)
    if dataset.groups is not None:
        console.print(f"{len(np.unique(dataset.groups))} groups of images", style="dim")
        divided = dataset.divided_groups()
        if divided:
            console.print(
                f"{divided} of them in more than one split of the data: its accuracies are too "
                "good by what images of a group have in common. Keep each group in one split.",
                style="bold yellow",
            )


def _add_classes(table: Table, dataset: Dataset, splits: list[str]) -> None:
    counts = dataset.counts()
    for name in dataset.classes[:SHOWN_CLASSES]:
        table.add_row(Text(printable(name)), *(str(counts[split][name]) for split in splits))
    rest = dataset.classes[SHOWN_CLASSES:]
    if rest:
        sums = (str(sum(counts[split][name] for name in rest)) for split in splits)
        table.add_row(f"and {len(rest)} more", *sums)


def show_quantization(console: Console, found: Quantization) -> None:
    """Prints what int8 keeps of the vectors, and the accuracy of heads on both."""
    kept = ", ".join(f"{share:.3f}" for share in found.agreement)
    console.print(
        f"int8, fitted to {counted(found.fitted, 'image')}: its vectors agree with "
        f"{found.precision}'s to {kept}"
    )
    if not found.kept:
        console.print(
            f"That is too little to go on in int8: {LEAST_KEPT:g} is needed. Going on in "
            f"{found.precision}, as --precision {found.precision} would.",
            style="bold yellow",
        )
    if found.cost is not None:
        cost, points = found.cost, 100 * (found.cost.accuracy - found.cost.usual)
        console.print(
            f"Cost of int8 on {counted(found.images, 'training image')}, by folds: accuracy "
            f"{cost.accuracy:.3f}, with {found.precision} {cost.usual:.3f}: {points:+.1f} ± "
            f"{100 * cost.error:.1f} points"
        )


def show_division(console: Console, dataset: Dataset, pairs: Sequence[Pair]) -> None:
    """Says how the validation images were chosen, and what is on both sides."""
    made = dataset.split_made
    if made is not None:
        sizes = dataset.split_sizes()
        line = (
            f"No validation split: {sizes['validation']} of the training images were set aside, "
            f"{made.fraction:.0%}, stratified, seed {made.seed}"
        )
        together = [
            name
            for name, units in (("groups", dataset.groups), ("copies of a picture", dataset.copies))
            if units is not None
        ]
        if together:
            line += f"; {' and '.join(together)} stay on one side"
        if made.copied:
            line += ", but for " + list_names(made.copied)
        console.print(Text(printable(line)), style="dim")
        return
    across = [p for p in pairs if dataset.splits[p.first] != dataset.splits[p.second]]
    if across:
        first, second = (printable(dataset.names[n]) for n in (across[0].first, across[0].second))
        console.print(
            Text(
                f"Leakage: {counted(len(across), 'pair')} of one picture, one to train and one to "
                f"validate, such as {first} and {second}: the figures are too good by them. See "
                "topwork inspect."
            ),
            style="bold yellow",
        )


def show_skipped(console: Console, skipped: Iterable[Skipped]) -> None:
    """Prints the files that were left out, with the reasons."""
    skipped = list(skipped)
    if not skipped:
        return
    console.print(f"Left out {counted(len(skipped), 'file')}:", style="yellow")
    for item in skipped[:SHOWN_SKIPPED]:
        console.print(Text(f"  {printable(item.path)}: {item.reason}"), style="yellow")
    if len(skipped) > SHOWN_SKIPPED:
        console.print(
            f"  and {len(skipped) - SHOWN_SKIPPED} more; --json lists them all", style="yellow"
        )


def show_trials(console: Console, tuner: Tuner, chosen: Trial) -> None:
    """Prints the best few recipes, the chosen one marked; one line if only a number was open."""
    trials = tuner.trials
    name = "penalty" if chosen.settings.head is HeadKind.LOGISTIC else "learning_rate"
    rest = {trial.settings.model_copy(update={name: 1.0}) for trial in trials}
    if len(rest) == 1 and len(trials) <= SHOWN_TRIALS:
        value = f"{name.replace('_', ' ').capitalize()} {getattr(chosen.settings, name):g}"
        how = f"chosen among {len(trials)}" if len(trials) > 1 else "tried"
        where = tuner.occasions.replace(" of the training images", "")
        console.print(Text(f"{value}, {how} on {where}: {chosen.metric} {_mean(chosen)}"))
        return
    heads = sum(len(trial.fits) for trial in trials)
    title = f"{heads} heads: {len(trials)} recipes on {tuner.occasions}"
    console.print(Text(title), style="bold")
    ranked = sorted(trials, key=rank, reverse=True)
    shown = ranked[:SHOWN_TRIALS]
    shown += [] if chosen in shown else [chosen]
    wide = max(12, *(len(_mean(trial)) for trial in shown))
    console.print(Text(f"{chosen.metric:>{wide}} {'loss':>9} {'epoch':>6}  recipe"), style="dim")
    for trial in shown:
        mark, style = ("  chosen", "bold green") if trial is chosen else ("", "")
        said = describe_recipe(trial.settings) + mark
        loss = _figure(trial.loss, 3)
        line = f"{_mean(trial):>{wide}} {loss:>9} {trial.epoch:>6}  {said}"
        console.print(Text(line), style=style)
    lost = [trial for trial in trials if trial.diverged]
    if lost:
        names = "; ".join(describe_recipe(trial.settings) for trial in lost[:3])
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        console.print(Text(f"Diverged, and lost: {names}{more}"), style="yellow")
    if len({trial.settings.class_weight for trial in trials}) > 1:
        console.print(
            "Balanced class weights serve the macro average, none the accuracy; --class-weight "
            "says which.",
            style="dim",
        )
    if chosen is not ranked[0]:
        console.print(
            "Chosen: the simplest recipe within one standard error of the best.", style="dim"
        )


def _mean(trial: Trial) -> str:
    return say_mean(trial.metric, float(trial.figures.mean()), finite(trial.error))


def _figure(value: float, digits: int) -> str:
    """Returns a figure for a column, also one as large as the squares of prices are."""
    if abs(value) < 10_000 or not math.isfinite(value):
        return f"{value:.{digits}f}"
    return f"{value:.1f}" if abs(value) < 1e7 else f"{value:.{digits}e}"


def show_history(console: Console, history: History) -> None:
    """Prints a line per epoch, the kept one marked."""
    names = list(history.history)
    console.print(Text("epoch" + "".join(f"{name:>15}" for name in names)), style="dim")
    for epoch in range(1, history.epochs + 1):
        row = history.row(epoch)
        kept = epoch == history.best_epoch
        line = f"{epoch:>5}" + "".join(f"{_figure(row[name], 4):>15}" for name in names)
        console.print(Text(line + ("  kept" if kept else "")), style="bold green" if kept else "")


def show_trained(
    console: Console,
    trained: TrainResult,
    saved: SaveReport,
    path: Path,
    has_test: bool,
    data: str,
    trials: Path | None = None,
) -> None:
    """Prints the verdict, where the model and the trials are, and what to try next."""
    console.print()
    model = trained.model
    solved = model.settings.head is HeadKind.LOGISTIC
    lacking = find_lacking(model.data.counts, Split.VALIDATION)
    kept, *lines = verdict(
        model.history,
        trained.report,
        solved=solved,
        classes=model.classes,
        kept_by=say_kept(model),
    )
    for line in (kept, *say_folds(model), *lines, *say_refit(model)):
        console.print(Text(printable(line)))
    for line in say_trust(model):
        console.print(Text(printable(line)), style="bold yellow")
    if trained.went_on_from is not None:
        went_on = (
            f"Went on from {trained.went_on_from} epochs to {model.history.epochs}, since "
            f"the last was the best; --epochs {trained.went_on_from} keeps to as many."
        )
        console.print(Text(went_on), style="dim")
    if not lacking or model.calibration.source == "folds":
        console.print(Text(say_calibration(model.calibration)))
    seconds = trained.seconds
    searched = f"search {seconds['search']:.1f} s, " if trained.trials else ""
    console.print(
        Text(
            f"Took {seconds['total']:.1f} s: vectors {seconds['vectors']:.1f} s, "
            f"{searched}head {seconds['head']:.1f} s, saving {seconds['save']:.1f} s."
        )
    )
    if trials is not None:
        console.print(Text(f"Every head is in {printable(trials)}"), soft_wrap=True)
    show_skipped(console, saved.lost)
    if saved.agreement is not None:
        console.print(Text(saved.agreement.say()), style="dim")
    if saved.drift is not None and saved.drift.holds:
        console.print(Text(f"{saved.drift.say_change()}; --precision f32 is exact"), style="dim")
    for doubt in saved.warnings:
        console.print(Text(f"Doubtful: {printable(doubt)}"), style="bold yellow")
    console.print(Text(f"Model saved in {printable(path)}"), style="bold", soft_wrap=True)
    if (path / REPORT_FILE).exists():
        report = printable(path / REPORT_FILE)
        console.print(Text(f"Curves and mistakes: {report}"), style="bold", soft_wrap=True)
    command = Text(f"Next: {next_command(path, data, has_test)}")
    # A terminal wraps it without breaking it, so that it can be copied.
    console.print(command, style="bold cyan", soft_wrap=True)


def next_command(path: Path, data: str, has_test: bool) -> str:
    """Returns the command that a user would want after training."""
    from shlex import quote

    if has_test:
        return f"topwork evaluate {quote(printable(path))} {quote(data)}"
    return f"topwork predict {quote(printable(path))} IMAGE..."
