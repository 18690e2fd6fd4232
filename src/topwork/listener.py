"""How a recipe says how far it is."""

from __future__ import annotations

from collections.abc import Sequence

from topwork.backlog import Progress
from topwork.bases import Stack
from topwork.config import Settings
from topwork.corrections import Correction
from topwork.dataset import Dataset
from topwork.duplicates import Pair
from topwork.history import History
from topwork.quantization import Quantization
from topwork.trials import Trial
from topwork.tuning import Tuner
from topwork.vectors import Vectors


class Listener:
    """Hears how a recipe gets on; each method does nothing unless overridden."""

    def waiting(self, what: str) -> None:
        """Something takes seconds and has no steps to count; the next news ends it."""

    def received(self, count: int) -> None:
        """So many bytes have come from other machines by now; heard from any thread."""

    def corrected(self, correction: Correction) -> None:
        """The user's verdicts were applied."""

    def found(self, dataset: Dataset) -> None:
        """The images, classes and splits are known."""

    def shapes(self, stack: Stack, settings: Settings, classes: int) -> None:
        """The shapes on the way through the networks are known."""

    def quantized(self, quantization: Quantization) -> None:
        """The networks compute in int8, and it is known what that costs."""

    def read(self, done: int, total: int) -> None:
        """An image more has been read, to find out whether its vector is there."""

    def progressed(self, progress: Progress) -> None:
        """An image more has been run through the base."""

    def embedded(self, dataset: Dataset, vectors: Vectors) -> None:
        """Every image has its vector; `dataset` lacks those that could not be used."""

    def divided(self, dataset: Dataset, pairs: Sequence[Pair]) -> None:
        """It is settled what is for validation; some pairs of images show the same picture."""

    def measured(self, done: int, total: int) -> None:
        """The pixels of an image more have been measured."""

    def compared(self, done: int, total: int) -> None:
        """An image more has been made small, to be compared with others."""

    def tried(self, done: int, total: int | None) -> None:
        """Some heads more were trained to choose from."""

    def chosen(self, tuner: Tuner, trial: Trial) -> None:
        """A way to train the head was chosen among several."""

    def trained(self, history: History) -> None:
        """The head is trained."""
