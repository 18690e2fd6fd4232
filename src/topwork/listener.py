"""How a recipe says how far it is."""

from __future__ import annotations

from topwork.bases import Stack
from topwork.config import Settings
from topwork.dataset import Dataset
from topwork.history import History
from topwork.trials import Trial
from topwork.tuning import Tuner
from topwork.vectors import Progress, Vectors


class Listener:
    """Hears how a recipe gets on; each method does nothing unless overridden."""

    def waiting(self, what: str) -> None:
        """Something takes seconds and has no steps to count; the next news ends it."""

    def found(self, dataset: Dataset) -> None:
        """The images, classes and splits are known."""

    def shapes(self, stack: Stack, settings: Settings, classes: int) -> None:
        """The shapes on the way through the networks are known."""

    def read(self, done: int, total: int) -> None:
        """An image more has been read, to find out whether its vector is there."""

    def progressed(self, progress: Progress) -> None:
        """An image more has been run through the base."""

    def embedded(self, dataset: Dataset, vectors: Vectors) -> None:
        """Every image has its vector; `dataset` lacks those that could not be used."""

    def tried(self, done: int, total: int | None) -> None:
        """Some heads more were trained to choose from."""

    def chosen(self, tuner: Tuner, trial: Trial) -> None:
        """A way to train the head was chosen among several."""

    def trained(self, history: History) -> None:
        """The head is trained."""
