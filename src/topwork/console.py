"""What a person sees in the terminal: tables, shapes, the progress bar, the verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from topwork import vectors
from topwork.bases import BaseSpec, Stack
from topwork.calibration import Calibration
from topwork.config import HeadKind, Settings
from topwork.dataset import Dataset
from topwork.errors import printable
from topwork.evaluation import Evaluation, Sureness
from topwork.history import History
from topwork.listener import Listener
from topwork.listing import Skipped, Split
from topwork.metrics import Report
from topwork.model import Model
from topwork.pipeline import TRIALS_PLOT, Layer, Trained
from topwork.trial_plot import describe_recipe
from topwork.trials import Trial, rank
from topwork.tuning import Tuner

WIDTH = 80
SHOWN_SKIPPED = 10
SHOWN_CLASSES = 20
SHOWN_TRIALS = 10
PLAIN_EVERY_S = 10.0
BAR_EVERY_S = 0.1


def make_console(stderr: bool) -> Console:
    """Returns a console of at most 80 columns; plain text when it is not a terminal."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    return console


class Screen(Listener):
    """Shows a recipe's progress on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._spinner: Status | None = None
        self._counted, self._done = "", 0
        self._began = self._started = self._shown = 0.0

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def waiting(self, what: str) -> None:
        """Turns a spinner, on a terminal only."""
        self._stop()
        if self.console.is_terminal:
            self._spinner = self.console.status(printable(what))
            self._spinner.start()

    def found(self, dataset: Dataset) -> None:
        """Prints how many images each class has in each split."""
        show_dataset(self.console, dataset)

    def shapes(self, stack: Stack, settings: Settings, classes: int) -> None:
        """Prints the shapes on the way through the networks."""
        self._stop()
        self.console.print()
        for line in shape_lines(stack, settings.batch_size, classes):
            self.console.print(line, style="cyan")
        self.console.print()

    def read(self, done: int, total: int) -> None:
        """Shows how many images were read."""
        self._count("images read", done, total, "")

    def progressed(self, progress: vectors.Progress) -> None:
        """Shows how many vectors are made and how many were there."""
        self._count("vectors", progress.done, progress.total, f"{progress.reused} reused")

    def embedded(self, dataset: Dataset, vectors: vectors.Vectors) -> None:
        """Prints how many vectors are new and how many were there already."""
        self._stop()
        count = vectors.embedded + vectors.reused
        line = f"{count} vectors: {vectors.embedded} new, {vectors.reused} reused"
        if self._counted == "vectors" and vectors.embedded:
            rate = vectors.embedded / max(time.monotonic() - self._began, 1e-9)
            line += f", {rate:.0f} images/s"
        self.console.print(line)
        show_skipped(self.console, dataset.skipped)

    def tried(self, done: int, total: int | None) -> None:
        """Shows how many heads were trained to choose from."""
        self._count("heads", done, total, "", "heads/s")

    def chosen(self, tuner: Tuner, trial: Trial) -> None:
        """Prints the best of what was compared, and what was chosen."""
        self._stop()
        show_trials(self.console, tuner, trial)

    def trained(self, history: History) -> None:
        """Prints a line per epoch."""
        self._stop()
        show_history(self.console, history)

    def _count(
        self, what: str, done: int, total: int | None, note: str, unit: str = "images/s"
    ) -> None:
        """Moves a bar, or without a terminal says every ten seconds how far it is."""
        now = time.monotonic()
        if what != self._counted:
            self._counted, self._began = what, now
            self._done = done + 1
        if done < self._done:  # another job, or the same for another network or view
            self._stop()
            self._started = self._shown = now
        self._done = done
        if now - self._shown < (BAR_EVERY_S if self.console.is_terminal else PLAIN_EVERY_S):
            return
        self._shown = now
        if self.console.is_terminal:
            self._move(what, done, total, note, unit)
        else:
            rate = done / (now - self._started)
            line = f"{what} {done}{f' of {total}' if total else ''}, {rate:.0f} {unit}"
            line += f", {(total - done) / rate:.0f} s left" if rate and total else ""
            self.console.print(f"{line}, {note}" if note else line)

    def _move(self, what: str, done: int, total: int | None, note: str, unit: str) -> None:
        if self._bar is None:
            counts = "{task.completed:.0f}" + ("/{task.total:.0f}" if total else "")
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn(counts),
                _RateColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self._bar.add_task(what, total=total, note=note, unit=unit)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, note=note)

    def _stop(self) -> None:
        for live in (self._bar, self._spinner):
            if live is not None:
                live.stop()
        self._bar = self._spinner = None


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.0f} {task.fields['unit']}")


def shape_lines(stack: Stack, batch_size: int, classes: int) -> list[str]:
    """Returns the shapes of a batch on its way, in as few lines of 80 columns as they need."""
    ways = []
    for network in stack.networks:
        size = network.image_size
        ways.append(
            f"INPUTS ({batch_size}, {size}, {size}, 3)"
            f" ⇒ BASE {(batch_size, *network.feature_shape)}"
        )
    rest = f"VECTORS {(batch_size, stack.vector_length)} ⇒ OUTPUTS {(batch_size, classes)}"
    if len(ways) == 1 and len(f"{ways[0]} ⇒ {rest}") <= WIDTH:
        return [f"{ways[0]} ⇒ {rest}"]
    return [*ways, f"⇒ {rest}"]


def show_dataset(console: Console, dataset: Dataset) -> None:
    """Prints a table of images per class and split."""
    counts = dataset.counts()
    splits = [
        str(s)
        for s in (Split.TRAIN, Split.VALIDATION, Split.TEST)
        if sum(counts.get(s, {}).values())
    ]
    where = f" in {printable(dataset.root)}" if dataset.root else ""
    console.print(
        f"Found {len(dataset)} images of {len(dataset.classes)} classes{where}", style="bold"
    )
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("class", overflow="ellipsis", no_wrap=True)
    for split in splits:
        table.add_column(split, justify="right")
    for name in dataset.classes[:SHOWN_CLASSES]:
        table.add_row(Text(printable(name)), *(str(counts[s].get(name, 0)) for s in splits))
    if len(dataset.classes) > SHOWN_CLASSES:
        rest = dataset.classes[SHOWN_CLASSES:]
        table.add_row(
            f"and {len(rest)} more", *(str(sum(counts[s].get(c, 0) for c in rest)) for s in splits)
        )
    table.add_row("all", *(str(sum(counts[s].values())) for s in splits), style="bold")
    console.print(table)
    if dataset.split_made is not None:
        made = dataset.split_made
        console.print(
            f"No validation split: {made.fraction:.0%} of the training images were set aside, "
            f"stratified, seed {made.seed}",
            style="dim",
        )


def show_skipped(console: Console, skipped: Iterable[Skipped]) -> None:
    """Prints the files that were left out, with the reasons."""
    skipped = list(skipped)
    if not skipped:
        return
    console.print(f"Left out {len(skipped)} files:", style="yellow")
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
        console.print(Text(f"{value}, {how} on {where}: accuracy {_mean(chosen)}"))
        return
    heads = sum(len(trial.fits) for trial in trials)
    title = f"{heads} heads: {len(trials)} recipes on {tuner.occasions}"
    console.print(Text(title), style="bold")
    console.print(Text(f"{'accuracy':>12} {'loss':>7} {'epoch':>6}  recipe"), style="dim")
    ranked = sorted(trials, key=rank, reverse=True)
    shown = ranked[:SHOWN_TRIALS]
    for trial in [*shown, *(() if chosen in shown else (chosen,))]:
        mark, style = ("  chosen", "bold green") if trial is chosen else ("", "")
        said = describe_recipe(trial.settings) + mark
        line = f"{_mean(trial):>12} {trial.loss:>7.3f} {trial.epoch:>6}  {said}"
        console.print(Text(line), style=style)
    lost = [trial for trial in trials if trial.diverged]
    if lost:
        names = "; ".join(describe_recipe(trial.settings) for trial in lost[:3])
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        console.print(Text(f"Diverged, and lost: {names}{more}"), style="yellow")
    if chosen is not ranked[0]:
        console.print(
            "Chosen: the simplest recipe within one standard error of the best.", style="dim"
        )


def _mean(trial: Trial) -> str:
    error = "" if math.isnan(trial.error) else f" ± {trial.error * 100:.1f}"
    return f"{trial.mean * 100:.1f}{error} %"


def show_history(console: Console, history: History) -> None:
    """Prints a line per epoch, the kept one marked."""
    names = list(history.history)
    console.print(Text("epoch" + "".join(f"{name:>15}" for name in names)), style="dim")
    for epoch in range(1, history.epochs + 1):
        row = history.row(epoch)
        kept = epoch == history.best_epoch
        line = f"{epoch:>5}" + "".join(f"{row[name]:>15.4f}" for name in names)
        console.print(Text(line + ("  kept" if kept else "")), style="bold green" if kept else "")


def verdict(history: History, report: Report, *, solved: bool = False) -> list[str]:
    """Says in words what the curve and the validation figures mean.

    Args:
        history: the record of the training.
        report: the kept epoch on the validation split.
        solved: whether the head was solved to its optimum, in no epochs.
    """
    best = history.row(history.best_epoch)
    low, high = report.interval
    kept = (
        "Solved to its optimum: there are no epochs to choose from."
        if solved
        else f"Kept epoch {history.best_epoch} of {history.epochs}: the highest validation "
        f"{history.metric} (ties go to the lower loss)."
    )
    lines = [
        kept,
        f"Validation accuracy {report.accuracy:.1%}, 95 % interval {low:.1%} to {high:.1%} "
        f"({report.support.sum()} images), macro average {report.macro_accuracy:.1%}.",
    ]
    if solved:
        return lines
    found = history.overfitting()
    if found is not None:
        lines.append(
            f"It overfits from epoch {found.from_epoch}: by the last epoch the validation loss has "
            f"risen from {found.lowest_loss:.3f} to {found.last_loss:.3f}, and training accuracy "
            f"is {found.gap * 100:.0f} points above validation."
        )
    elif (lost := history.diverged()) is not None:
        lines.append(
            f"It diverged: from epoch {lost} the loss is not finite. The learning rate is too high."
        )
    elif history.best_epoch == history.epochs and history.epochs > 1:
        lines.append("It does not overfit, and the last epoch is the best: more may help.")
    else:
        gap = best[history.metric] - best[f"val_{history.metric}"]
        lines.append(
            "It does not overfit: the validation loss has not turned"
            + (
                f", though training accuracy is {gap * 100:.0f} points above."
                if gap > 0.05
                else "."
            )
        )
    return lines


def show_trained(
    console: Console,
    trained: Trained,
    path: Path,
    has_test: bool,
    data: str,
    trials: Path | None = None,
) -> None:
    """Prints the verdict, where the model and the trials are, and what to try next."""
    console.print()
    solved = trained.model.settings.head is HeadKind.LOGISTIC
    for line in verdict(trained.model.history, trained.report, solved=solved):
        console.print(Text(line))
    if trained.model.calibration is not None:
        console.print(Text(_say_calibration(trained.model.calibration)))
    seconds = trained.seconds
    searched = f"search {seconds['search']:.1f} s, " if trained.trials else ""
    drawn = len(trained.trials) > 1
    plot = f", the search in {printable(path / TRIALS_PLOT)}" if drawn else ""
    console.print(
        Text(
            f"Took {seconds['total']:.1f} s: vectors {seconds['vectors']:.1f} s, "
            f"{searched}head {seconds['head']:.1f} s, saving {seconds['save']:.1f} s. "
            f"The curve is in {printable(path / 'history.png')}{plot}"
        )
    )
    if trials is not None:
        console.print(Text(f"Every head is in {printable(trials)}"), soft_wrap=True)
    console.print(Text(f"Model saved in {printable(path)}"), style="bold", soft_wrap=True)
    command = Text(f"Next: {next_command(path, data, has_test)}")
    # A terminal wraps it without breaking it, so that it can be copied.
    console.print(command, style="bold cyan", soft_wrap=True)


def _say_calibration(found: Calibration) -> str:
    where = "folds" if found.source == "folds" else "the validation images"
    return (
        f"Probabilities: calibrated on {where} with temperature {found.temperature:.2f}; expected "
        f"calibration error {found.error_before:.3f} before, {found.error_after:.3f} after."
    )


def next_command(path: Path, data: str, has_test: bool) -> str:
    """Returns the command that a user would want after training."""
    from shlex import quote

    if has_test:
        return f"topwork evaluate {quote(printable(path))} {quote(data)}"
    return f"topwork predict {quote(printable(path))} IMAGE..."


def show_evaluation(console: Console, model: Model, result: Evaluation) -> None:
    """Prints accuracy, a row per class and the confusion matrix."""
    report = result.report
    low, high = report.interval
    if result.seen and result.split in ("test", "all"):
        console.print(
            f"{result.seen} of these images were used in training or validation: "
            "the accuracy is too good to be honest",
            style="bold yellow",
        )
    console.print(
        f"Accuracy {report.accuracy:.1%} on {report.support.sum()} images ({result.split}), "
        f"95 % interval {low:.1%} to {high:.1%}",
        style="bold",
    )
    console.print(f"Macro average {report.macro_accuracy:.1%} (every class counts the same)")
    for line in _say_sureness(result.sureness):
        console.print(Text(line))
    console.print()
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("class", overflow="ellipsis", no_wrap=True, max_width=30)
    for name in ("precision", "recall", "support"):
        table.add_column(name, justify="right")
    rows = zip(model.classes, report.precision, report.recall, report.support, strict=True)
    for name, precision, recall, support in rows:
        table.add_row(Text(printable(name)), _percent(precision), _percent(recall), str(support))
    console.print(table)
    show_confusion(console, model.classes, report)


def _say_sureness(found: Sureness) -> list[str]:
    lines = [
        f"Calibration error {found.error:.3f} ({found.error_before:.3f} before the temperature; "
        f"chance: {found.error_by_chance:.3f})"
    ]
    if found.answered is not None:
        share = found.answered_accuracy
        accuracy = _percent(math.nan if share is None else share)
        lines.append(f"Answers {found.answered:.1%} of the images, {accuracy} of those right")
    if found.covered is not None:
        lines.append(
            f"Label sets hold the true class for {found.covered:.1%} of the images, "
            f"{found.set_size:.2f} classes on average"
        )
    return lines


def show_confusion(console: Console, classes: tuple[str, ...], report: Report) -> None:
    """Prints the matrix if it fits in 80 columns, else the most frequent mistakes."""
    cell = max(len(str(report.confusion.max())), len(str(len(classes)))) + 1
    label = min(20, max(map(len, classes)))
    console.print()
    if label + 5 + cell * len(classes) <= WIDTH:
        console.print(Text("Confusion: rows are true classes, columns predicted ones"), style="dim")
        head = "".join(f"{n:>{cell}}" for n in range(1, len(classes) + 1))
        console.print(Text(" " * (label + 4) + head), style="dim")
        for number, (name, row) in enumerate(zip(classes, report.confusion, strict=True), 1):
            line = Text(f"{printable(name)[:label]:<{label}}{number:>4}")
            for column, count in enumerate(row, 1):
                style = "green" if column == number else "red" if count else "dim"
                line.append(f"{count:>{cell}}" if count else f"{'·':>{cell}}", style=style)
            console.print(line)
        return
    console.print(Text("Most frequent mistakes (--json has the whole matrix)"), style="dim")
    mistakes = report.confusion.copy()
    mistakes[range(len(classes)), range(len(classes))] = 0
    for flat in mistakes.ravel().argsort(kind="stable")[::-1][:10]:
        true, predicted = divmod(int(flat), len(classes))
        if mistakes[true, predicted]:
            names = f"{classes[true]} taken for {classes[predicted]}"
            console.print(Text(f"{mistakes[true, predicted]:>5}  {printable(names)}"))


def show_prediction(console: Console, path: Path, answer: dict[str, Any]) -> None:
    """Prints one line for an image.

    Args:
        console: where.
        path: of the image.
        answer: `predictions`, the most probable first, or `error`; perhaps `abstained` and
            `labels`, as `topwork predict --json` prints them.
    """
    if "error" in answer:
        text = Text(f"{printable(path)}: {answer['error']}", style="yellow")
        console.print(text, soft_wrap=True)
        return
    said = ", ".join(f"{p['label']} {_percent(p['probability'])}" for p in answer["predictions"])
    said = f"not sure ({said})" if answer.get("abstained") else said
    if "labels" in answer:
        said += f"; one of: {', '.join(answer['labels'])}"
    console.print(Text(f"{printable(path)}: {printable(said)}"), soft_wrap=True)


def show_layers(console: Console, layers: list[Layer]) -> None:
    """Prints the shape table of a network."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("", "output shape"):
        table.add_column(name)
    table.add_column("parameters", justify="right")
    table.add_column("")
    for layer in layers:
        note = "trained" if layer.trained else "frozen" if layer.parameters else ""
        table.add_row(layer.stage, str(layer.output_shape), f"{layer.parameters:,}", note)
    console.print(table)


def show_bases(console: Console, rows: list[tuple[BaseSpec, bool]]) -> None:
    """Prints a row per base."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("base", no_wrap=True)
    table.add_column("vector", justify="right")
    table.add_column("size", justify="right")
    table.add_column("license", no_wrap=True)
    table.add_column("weights from", no_wrap=True)
    table.add_column("here")
    for spec, here in rows:
        table.add_row(
            spec.name,
            str(spec.vector_length),
            str(spec.image_size),
            spec.license,
            spec.install or "download by Keras",
            Text("yes", style="green") if here else Text("no", style="dim"),
        )
    console.print(table)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.1%}"
