"""How whatever takes a while says how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from topwork.bases import Stack
    from topwork.core.config import Settings
    from topwork.data.apply_fixes import Correction
    from topwork.data.dataset import Dataset
    from topwork.data.listing import Note
    from topwork.heads.tuning.trials import Record, Trial
    from topwork.heads.tuning.tuner import Tuner
    from topwork.metrics.history import History
    from topwork.serve.server import Ready
    from topwork.vectors.duplicates import Pair
    from topwork.vectors.embed import Embedding
    from topwork.vectors.embed_job import Progress
    from topwork.vectors.quantize import Quantization


class Callback:
    """Hears how something gets on; each method does nothing unless overridden."""

    # One is shared by all who want to hear nothing: it cannot be given anything to do.
    __slots__ = ()

    def on_wait(self, what: str) -> None:
        """Something takes seconds and has no steps to count; the next news ends it."""

    def on_received(self, count: int) -> None:
        """So many bytes have come from other machines by now; heard from any thread."""

    def on_notes(self, notes: Sequence[Note]) -> None:
        """Something was guessed of the data, or is doubtful about it."""

    def on_corrected(self, correction: Correction) -> None:
        """The user's verdicts were applied."""

    def on_found(self, dataset: Dataset) -> None:
        """The images, classes and splits are known."""

    def on_shapes(self, stack: Stack, settings: Settings, classes: int) -> None:
        """The shapes on the way through the networks are known."""

    def on_quantized(self, quantization: Quantization) -> None:
        """The networks compute in int8, and it is known what that costs."""

    def on_read(self, done: int, total: int) -> None:
        """An image more has been read, of those that have to be."""

    def on_run(self, progress: Progress) -> None:
        """An image more has been run through the base."""

    def on_embedded(self, dataset: Dataset, vectors: Embedding) -> None:
        """Every image has its vector; `dataset` lacks those that could not be used."""

    def on_split(self, dataset: Dataset, pairs: Sequence[Pair]) -> None:
        """It is settled what is for validation; some pairs of images show the same picture."""

    def on_measured(self, done: int, total: int) -> None:
        """The pixels of an image more have been measured."""

    def on_compared(self, done: int, total: int) -> None:
        """An image more has been made small, to be compared with others."""

    def on_skipped(self, index: int, reason: str) -> None:
        """The image with this index cannot be decoded; only its bytes are compared."""

    def on_tried(self, done: int, total: int | None) -> None:
        """Some heads more were trained to choose from; how many will be, if that is known."""

    def on_record(self, record: Record) -> None:
        """A head that was trained to choose from has been written down."""

    def on_chosen(self, tuner: Tuner, trial: Trial) -> None:
        """A way to train the head was chosen among several."""

    def on_trained(self, history: History) -> None:
        """The head is trained."""

    def on_saved(self) -> None:
        """The model is safe; what there is to look at may still be drawn."""

    def on_drawn(self, done: int, total: int) -> None:
        """A small picture more has been made, for a page or a gallery."""

    def on_part_checked(self, done: int, total: int) -> None:
        """A part more of the store has been compared with its checksums."""

    def on_ready(self, ready: Ready) -> None:
        """The server takes requests."""


SILENT = Callback()
