"""What a person sees in the terminal: tables, shapes, the progress bar, the verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Job
from rich.status import Status
from rich.table import Table
from rich.text import Text

from topwork.bases import Stack
from topwork.core.callbacks import Callback
from topwork.core.config import HeadKind, Settings
from topwork.core.errors import counted, printable
from topwork.core.task import Task
from topwork.data.apply_fixes import Correction
from topwork.data.dataset import Dataset
from topwork.data.listing import Skipped
from topwork.heads.tuning.search import Tuner
from topwork.heads.tuning.trials import Trial, rank, standard_error
from topwork.metrics.calibration import Calibration
from topwork.metrics.conformal import Residuals
from topwork.metrics.history import History
from topwork.metrics.scores import Report, say_number, say_report
from topwork.models.folder import REPORT_FILE
from topwork.models.save import Saved
from topwork.recipes.result import TrainResult
from topwork.reports.trial_plot import describe_recipe
from topwork.vectors import embed_job as backlog
from topwork.vectors.duplicates import Pair
from topwork.vectors.embed import Vectors
from topwork.vectors.quantize import LEAST_KEPT, Quantization

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


class Screen(Callback):
    """Shows a recipe's progress on a console.

    Args:
        console: where it is shown.
        clock: tells the time in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._bar: Progress | None = None
        self._spinner: Status | None = None
        self._counted, self._done = "", 0
        self._waiting, self._received = "", 0
        self._began = self._started = self._shown = self._embedding_s = 0.0

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def on_wait(self, what: str) -> None:
        """Turns a spinner, on a terminal only."""
        self._stop()
        self._waiting = printable(what)
        if self.console.is_terminal:
            self._spinner = self.console.status(self._waiting)
            self._spinner.start()

    def on_received(self, count: int) -> None:
        """Shows how much has come from other machines."""
        self._received = count
        if self._spinner is not None:
            self._spinner.update(f"{self._waiting}, {_say_bytes(count)} received")

    def on_found(self, dataset: Dataset) -> None:
        """Prints how many images each class has in each split."""
        show_dataset(self.console, dataset)

    def on_corrected(self, correction: Correction) -> None:
        """Prints what the user's verdicts changed."""
        self._stop()
        dropped = counted(correction.dropped, "image")
        line = f"Verdicts: {dropped} dropped, {correction.relabelled} relabelled"
        if correction.missing:
            line += f"; {correction.missing} more on images that are not in this data"
        self.console.print(line, style="yellow" if correction.missing else "")

    def on_shapes(self, stack: Stack, settings: Settings, classes: int) -> None:
        """Prints the shapes on the way through the networks."""
        self._stop()
        self.console.print()
        for line in shape_lines(stack, settings.batch_size, classes):
            self.console.print(line, style="cyan")
        self.console.print()

    def on_quantized(self, quantization: Quantization) -> None:
        """Prints what int8 keeps, and what it costs."""
        self._stop()
        show_quantization(self.console, quantization)

    def on_read(self, done: int, total: int) -> None:
        """Shows how many images were read."""
        note = f"{_say_bytes(self._received)} received" if self._received else ""
        self._count("images read", done, total, note)

    def on_run(self, progress: backlog.Progress) -> None:
        """Shows how many vectors are made and how many were there."""
        self._count("vectors", progress.done, progress.total, f"{progress.reused} reused")
        self._embedding_s = self._clock() - self._began

    def on_embedded(self, dataset: Dataset, vectors: Vectors) -> None:
        """Prints how many vectors are new and how many were there already."""
        self._stop()
        count = vectors.embedded + vectors.reused
        line = f"{count} vectors: {vectors.embedded} new, {vectors.reused} reused"
        if self._embedding_s and vectors.embedded:
            rate = vectors.embedded / self._embedding_s
            line += f", {rate:.0f} images/s"
        if self._received:
            line += f", {_say_bytes(self._received)} received"
        self.console.print(line)
        show_skipped(self.console, dataset.skipped)

    def on_split(self, dataset: Dataset, pairs: Sequence[Pair]) -> None:
        """Prints how the validation images were chosen, or what leaks into them."""
        self._stop()
        show_division(self.console, dataset, pairs)

    def on_measured(self, done: int, total: int) -> None:
        """Shows how many images were measured."""
        self._count("measured", done, total, "")

    def on_compared(self, done: int, total: int) -> None:
        """Shows how many images were made small and compared with others."""
        self._count("compared", done, total, "")

    def on_tried(self, done: int, total: int | None) -> None:
        """Shows how many heads were trained to choose from."""
        self._count("heads", done, total, "", "heads/s")

    def on_chosen(self, tuner: Tuner, trial: Trial) -> None:
        """Prints the best of what was compared, and what was chosen."""
        self._stop()
        show_trials(self.console, tuner, trial)

    def on_trained(self, history: History) -> None:
        """Prints a line per epoch."""
        self._stop()
        show_history(self.console, history)

    def _count(
        self, what: str, done: int, total: int | None, note: str, unit: str = "images/s"
    ) -> None:
        """Moves a bar, or without a terminal says every ten seconds how far it is."""
        now = self._clock()
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


def _say_bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


class _RateColumn(ProgressColumn):
    def render(self, task: Job) -> Text:
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
        if dataset.groups is not None:
            line += "; groups and pictures that occur twice stay on one side"
        console.print(line, style="dim")
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
    if chosen is not ranked[0]:
        console.print(
            "Chosen: the simplest recipe within one standard error of the best.", style="dim"
        )


def _mean(trial: Trial) -> str:
    mean, error = float(trial.figures.mean()), standard_error(trial.figures)
    if trial.metric == "mae":
        return say_number(mean) + ("" if math.isnan(error) else f" ± {say_number(error)}")
    return f"{mean * 100:.1f}" + ("" if math.isnan(error) else f" ± {error * 100:.1f}") + " %"


def _figure(value: float, places: int) -> str:
    """Returns a figure for a column, also one as large as the squares of prices are."""
    if abs(value) < 10_000 or not math.isfinite(value):
        return f"{value:.{places}f}"
    return f"{value:.1f}" if abs(value) < 1e7 else f"{value:.{places}e}"


def show_history(console: Console, history: History) -> None:
    """Prints a line per epoch, the kept one marked."""
    names = list(history.history)
    console.print(Text("epoch" + "".join(f"{name:>15}" for name in names)), style="dim")
    for epoch in range(1, history.epochs + 1):
        row = history.row(epoch)
        kept = epoch == history.best_epoch
        line = f"{epoch:>5}" + "".join(f"{_figure(row[name], 4):>15}" for name in names)
        console.print(Text(line + ("  kept" if kept else "")), style="bold green" if kept else "")


def verdict(history: History, report: Report, *, solved: bool = False) -> list[str]:
    """Says in words what the curve and the validation figures mean.

    Args:
        history: the record of the training.
        report: the kept epoch on the validation split.
        solved: whether the head was solved to its optimum, in no epochs.
    """
    best = history.row(history.best_epoch)
    number = history.metric == "mae"
    why = (
        "the lowest validation loss"
        if number
        else f"the highest validation {history.metric} (ties go to the lower loss)"
    )
    kept = (
        "Solved to its optimum: there are no epochs to choose from."
        if solved
        else f"Kept epoch {history.best_epoch} of {history.epochs}: {why}."
    )
    lines = [kept, say_report("Validation", report)]
    if solved:
        return lines
    found = history.overfitting()
    if found is not None:
        ahead = (
            f"the training error is {-found.gap:.3g} below validation"
            if number
            else f"training accuracy is {found.gap * 100:.0f} points above validation"
        )
        lines.append(
            f"It overfits from epoch {found.from_epoch}: by the last epoch the validation loss has "
            f"risen from {found.lowest_loss:.3g} to {found.last_loss:.3g}, and {ahead}."
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
                if gap > 0.05 and not number
                else "."
            )
        )
    return lines


def show_trained(
    console: Console,
    trained: TrainResult,
    saved: Saved,
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
    console.print(Text(_say_calibration(trained.model.calibration)))
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
    for doubt in saved.doubts:
        console.print(Text(f"Doubtful: {printable(doubt)}"), style="bold yellow")
    console.print(Text(f"Model saved in {printable(path)}"), style="bold", soft_wrap=True)
    if (path / REPORT_FILE).exists():
        report = printable(path / REPORT_FILE)
        console.print(Text(f"Curves and mistakes: {report}"), style="bold", soft_wrap=True)
    command = Text(f"Next: {next_command(path, data, has_test)}")
    # A terminal wraps it without breaking it, so that it can be copied.
    console.print(command, style="bold cyan", soft_wrap=True)


def _say_calibration(found: Calibration | Residuals) -> str:
    where = "folds" if found.source == "folds" else "the validation images"
    if isinstance(found, Residuals):
        widths = found.half_widths(0.9)
        if not np.isfinite(widths).all():
            return f"Ranges: {len(found.scores)} images are too few to promise any."
        said = ", ".join(map(say_number, widths))
        return f"Ranges: 9 of 10 numbers lie within ± {said} of the truth, measured on {where}."
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
