"""What a model says of images whose labels are known: the matter of a report and a comparison.

Those for its validation images are a table in the model's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.arrays import Floats32
from topwork.core.arrow import make_lists, make_strings
from topwork.core.errors import ModelError
from topwork.core.task import Task
from topwork.data.listing import make_writable
from topwork.heads.dense import decide, probabilities
from topwork.images.decode import Source
from topwork.metrics.scores import Report, make_report

ANSWERS_FILE = "answers.parquet"


@dataclass(frozen=True)
class LabeledPredictions:
    """A model's logits for N images of one split, with the truth.

    Attributes:
        split: `train`, `validation`, `test` or `all`.
        names: of the images.
        hashes: SHA-256 of each image's bytes, hex.
        labels: as `Dataset.labels` has them, with classes numbered as the model does: (N,) int32,
            (N, C) bool for many labels, (N, C) float64 for numbers.
        logits: (N, C) float32, calibrated.
        sources: the images themselves; None where they are not at hand.
        seen: how many of them the model was trained or chosen on.
        unseen_logits: (N, C) float32, calibrated, by the head as it was before it learnt from
            these images too; None if it did not.
    """

    split: str
    names: tuple[str, ...]
    hashes: tuple[str, ...]
    labels: NDArray[Any]
    logits: Floats32
    sources: tuple[Source | None, ...]
    seen: int
    unseen_logits: Floats32 | None = None

    @property
    def judged_logits(self) -> Floats32:
        """The logits (N, C) that say how good the model is: of a head that has not learnt these."""
        return self.logits if self.unseen_logits is None else self.unseen_logits

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: NDArray[np.int64]) -> LabeledPredictions:
        """Returns those of some images, in the order of `rows`."""
        return LabeledPredictions(
            self.split,
            tuple(self.names[row] for row in rows),
            tuple(self.hashes[row] for row in rows),
            self.labels[rows],
            self.logits[rows],
            tuple(self.sources[row] for row in rows),
            self.seen,
            None if self.unseen_logits is None else self.unseen_logits[rows],
        )


def report_logits(task: Task, labels: NDArray[Any], logits: Floats32, classes: int) -> Report:
    """Returns how good logits are.

    Args:
        task: what they mean.
        labels: N true ones, as `LabeledPredictions.labels` has them, N at least 1.
        logits: (N, C) float32; one column for two classes.
        classes: C.
    """
    answers, chances = decide(task, logits), probabilities(task, logits)
    return make_report(task, labels, answers, chances, classes)


def write_predictions(predictions: LabeledPredictions, path: Path) -> None:
    """Writes a model's answers as a table; the images themselves stay where they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    truth = predictions.labels.reshape(len(predictions), -1).astype(np.float64)
    columns = {
        "name": make_strings(list(map(make_writable, predictions.names))),
        "sha256": make_strings(predictions.hashes),
        "truth": make_lists(truth),
        "logits": make_lists(predictions.logits),
    }
    if predictions.unseen_logits is not None:
        columns["unseen_logits"] = make_lists(predictions.unseen_logits)
    facts = {"split": predictions.split, "seen": str(predictions.seen)}
    pq.write_table(pa.table(columns).replace_schema_metadata(facts), path)


def load_predictions(folder: Path, task: Task) -> LabeledPredictions | None:
    """Returns what a saved model says of its validation images, or None if it did not say.

    Args:
        folder: of the model.
        task: of the model.

    Raises:
        ModelError: the file is damaged.
    """
    import pyarrow.parquet as pq

    path = folder / ANSWERS_FILE
    if not path.exists():
        return None
    kinds = {Task.LABELS: np.bool_, Task.NUMBER: np.float64}
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        truth = np.array(table["truth"].to_pylist(), np.float64)
        if task.picks_one:
            truth = truth[:, 0]
        unseen = None
        if "unseen_logits" in table.column_names:
            unseen = np.array(table["unseen_logits"].to_pylist(), np.float32)
        facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        return LabeledPredictions(
            split=facts["split"],
            names=tuple(table["name"].to_pylist()),
            hashes=tuple(table["sha256"].to_pylist()),
            labels=truth.astype(kinds.get(task, np.int32)),
            logits=np.array(table["logits"].to_pylist(), np.float32),
            sources=(None,) * len(table),
            seen=int(facts["seen"]),
            unseen_logits=unseen,
        )
    except (OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(
            f"{path} is damaged: {error}; train it again with topwork train"
        ) from error
