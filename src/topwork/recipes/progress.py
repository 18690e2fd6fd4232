"""How far a recipe is, in the terminal: the bar, the spinner, and what is known meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Job
from rich.status import Status
from rich.text import Text

from topwork.bases import Stack
from topwork.core.callbacks import Callback
from topwork.core.config import Settings
from topwork.core.errors import counted, printable
from topwork.data.apply_fixes import Correction
from topwork.data.dataset import Dataset
from topwork.data.listing import Note
from topwork.heads.tuning.trials import Trial
from topwork.heads.tuning.tuner import Tuner
from topwork.metrics.history import History
from topwork.recipes.console import WIDTH
from topwork.recipes.show_training import (
    show_dataset,
    show_division,
    show_history,
    show_quantization,
    show_skipped,
    show_trials,
)
from topwork.vectors import embed_job
from topwork.vectors.duplicates import Pair
from topwork.vectors.embed import Embedding
from topwork.vectors.quantize import Quantization

PLAIN_EVERY_S = 10.0
BAR_EVERY_S = 0.1


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

    def on_notes(self, notes: Sequence[Note]) -> None:
        """Prints what was guessed of the data."""
        self._stop()
        for note in notes:
            style = "yellow" if note.doubtful else "dim"
            self.console.print(Text(f"{printable(note.text)}."), style=style)

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

    def on_run(self, progress: embed_job.Progress) -> None:
        """Shows how many vectors are made and how many were there."""
        self._count("vectors", progress.done, progress.total, f"{progress.reused} reused")
        self._embedding_s = self._clock() - self._began

    def on_embedded(self, dataset: Dataset, vectors: Embedding) -> None:
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
