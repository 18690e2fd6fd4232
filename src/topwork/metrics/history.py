"""The record of a training: what each epoch scored, which was kept, and where it overfits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Up to this share above its lowest point, the validation loss is called flat.
FLAT = 0.05


@dataclass(frozen=True)
class Overfitting:
    """The head goes on learning the training images and gets worse on the others.

    Attributes:
        from_epoch: first epoch after the lowest validation loss, counted from 1.
        lowest_loss: the lowest validation loss.
        last_loss: the validation loss of the last epoch.
        gap: last training metric minus last validation metric, in the metric's own unit.
    """

    from_epoch: int
    lowest_loss: float
    last_loss: float
    gap: float


@dataclass(frozen=True)
class History:
    """Losses and metrics of all epochs under Keras' names.

    Attributes:
        history: `loss`, `accuracy`, `val_loss`, `val_accuracy`, each a list with one float an
            epoch (`mae` instead of `accuracy` for a number).
        best_epoch: the kept epoch, counted from 1.
    """

    history: dict[str, list[float]]
    best_epoch: int

    @property
    def epochs(self) -> int:
        """How many epochs were trained."""
        return len(self.history["loss"])

    @property
    def metric(self) -> str:
        """The metric's name: `accuracy`, or `mae` for a number."""
        return next(name for name in self.history if name != "loss" and name[:4] != "val_")

    def row(self, epoch: int) -> dict[str, float]:
        """Returns the figures of an epoch, counted from 1."""
        return {name: values[epoch - 1] for name, values in self.history.items()}

    def overfitting(self) -> Overfitting | None:
        """Says whether and from where the head overfits.

        It does when the validation loss has turned and ends more than 5 % above its lowest
        point, while the training loss has gone on falling. A training that diverged does not.
        """
        val_loss, loss = self.history["val_loss"], self.history["loss"]
        if self.diverged() is not None:
            return None
        lowest = min(range(self.epochs), key=val_loss.__getitem__)
        if val_loss[-1] <= val_loss[lowest] * (1 + FLAT) or loss[-1] >= loss[lowest]:
            return None
        last = self.row(self.epochs)
        gap = last[self.metric] - last[f"val_{self.metric}"]
        return Overfitting(lowest + 2, val_loss[lowest], val_loss[-1], gap)

    def diverged(self) -> int | None:
        """Returns the first epoch, counted from 1, whose losses are not finite; None if all are."""
        pairs = zip(self.history["loss"], self.history["val_loss"], strict=True)
        lost = (epoch for epoch, pair in enumerate(pairs, 1) if not all(map(math.isfinite, pair)))
        return next(lost, None)

    def plot(self, ax: Axes | None = None, *, values: str | None = None) -> Axes:
        """Draws a figure of training and validation over the epochs.

        Args:
            ax: where to draw; a new figure's axes if not given.
            values: `loss` or the metric's name (the default).

        Returns:
            The axes, for further drawing.
        """
        from matplotlib.ticker import MaxNLocator

        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=(6, 4), layout="constrained")
        name = values or self.metric
        if self.epochs == 1:
            return self._plot_bars(ax, name)
        epochs = range(1, self.epochs + 1)
        train, validation = self.history[name], self.history[f"val_{name}"]
        ax.plot(epochs, train, "o-", color="#9a5b13", ms=4, label="training")
        ax.plot(epochs, validation, "s-", color="#1f5f8b", ms=4, label="validation")
        ax.axvline(self.best_epoch, color="#777777", lw=1, ls=":")
        kept = validation[self.best_epoch - 1]
        ax.plot(
            [self.best_epoch], [kept], "o", ms=11, mfc="none", mec="#1f5f8b", mew=1.5,
            label=f"kept: epoch {self.best_epoch}, {_say(kept)}",
        )  # fmt: skip
        ax.set(xlabel="epoch", ylabel=name)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return ax

    def _plot_bars(self, ax: Axes, name: str) -> Axes:
        """Draws two bars: a single epoch, or a head that was solved, has no curve."""
        pair = [self.history[name][0], self.history[f"val_{name}"][0]]
        bars = ax.barh(["training", "validation"], pair, 0.6, color=["#9a5b13", "#1f5f8b"])
        ax.bar_label(bars, fmt=_say, padding=4)
        ax.set(xlabel=name, xlim=(0, max(1.0, *pair) * 1.12))
        ax.invert_yaxis()
        ax.spines[["top", "right"]].set_visible(False)
        return ax

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` takes; a figure that is not finite becomes None."""
        history = {
            name: [v if math.isfinite(v) else None for v in values]
            for name, values in self.history.items()
        }
        return {"best_epoch": self.best_epoch, "history": history}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> History:
        """Builds a history from the content of `history.json`.

        Raises:
            KeyError, TypeError, ValueError: the content is not a history.
        """
        history = {
            str(name): [math.nan if v is None else float(v) for v in values]
            for name, values in data["history"].items()
        }
        lengths = {len(values) for values in history.values()}
        best = int(data["best_epoch"])
        if len(lengths) != 1 or "val_loss" not in history or not 1 <= best <= lengths.pop():
            raise ValueError("the lists of a history must be equally long and hold the best epoch")
        return cls(history, best)


def _say(figure: float) -> str:
    return f"{figure:.3f}" if abs(figure) < 1000 else f"{figure:.4g}"
