"""What classifiers and regressors have in common: settings, fitting, saving."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topwork.bases import write_keras_file
from topwork.bases.network import KERAS_FILES
from topwork.core import warm_up
from topwork.core.callbacks import SILENT, Callback
from topwork.core.config import Settings
from topwork.core.errors import DatasetError, ModelError, NetworkError
from topwork.core.files import open_scratch
from topwork.core.leftovers import sweep
from topwork.core.task import Task
from topwork.data.checks import weigh
from topwork.data.dataset import Dataset
from topwork.data.given_images import is_missing
from topwork.data.listing import SHOWN, Note, Skipped
from topwork.heads.dense import Floats
from topwork.metrics.history import History
from topwork.models import evaluate as evaluation
from topwork.models.folder import KERAS_FILE, copy_model, find_keras_file
from topwork.models.model import Model
from topwork.recipes.arguments import FIELDS, make_signature
from topwork.recipes.sklearn_protocol import SklearnProtocol
from topwork.vectors.backends import find_store

if TYPE_CHECKING:
    import keras

    from topwork.heads.tuning.trials import Trial
    from topwork.recipes.result import TrainResult

_SIGNATURE = make_signature(store=("str | Path | None", None), verbose=("bool", False))


class Estimator(SklearnProtocol):
    """A new head on a pretrained, frozen base, with scikit-learn's manners."""

    base: str
    preset: str | None
    strict: bool
    store: str | Path | None
    verbose: bool
    history_: History
    skipped_: tuple[Skipped, ...]
    trials_: tuple[Trial, ...]
    model_: Model
    _trained: TrainResult | None
    # Which tasks it is for, and what to use for others.
    _tasks: ClassVar[tuple[Task, ...]]
    _other: ClassVar[str]

    def __init__(self, *args: Any, **options: Any) -> None:
        try:
            given = _SIGNATURE.bind(self, *args, **options)
        except TypeError as error:
            raise TypeError(f"Estimator.__init__() {error}") from None
        given.apply_defaults()
        del given.arguments["self"]
        for name, value in given.arguments.items():
            setattr(self, name, value)

    # What scikit-learn, `help` and editors read.
    __init__.__signature__ = _SIGNATURE  # type: ignore[attr-defined]

    def fit(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:  # noqa: N803
        """Trains a head on labelled images.

        Args:
            X: a `Dataset`, or N images: paths, encoded bytes, images of Pillow, or arrays (H, W)
                or (H, W, 3), gray or RGB, uint8 in 0..255. Images of Pillow are read as their
                files would be, with EXIF, transparency and all bits.
            y: N labels, see the class; none for a `Dataset`.
            sample_weight: (N,) how much each image counts in training, 0 or more; not for a
                `Dataset` with weights of its own.

        Returns:
            self.

        Raises:
            TopworkError: any of its kinds; see `topwork.core.errors`.

        Warns:
            UserWarning: images were left out; `skipped_` says which and why. Or something about
                the data is doubtful. Or int8 was asked for, and another precision took its place.
        """
        from topwork.recipes.train import train

        settings = Settings.create(**self._settings())
        store = self._store
        sweep(store)
        dataset = self._read(X, y)
        if sample_weight is not None:
            dataset = weigh(dataset, sample_weight)
        with open_screen(self.verbose) as screen:
            trained = train(dataset, settings, store, screen)
        self._take(trained.model, trained)
        warn_of(trained.images.skipped, "see skipped_")
        warn_of_notes(trained.images.notes)
        if trained.quantization is not None and not trained.quantization.kept:
            warnings.warn(
                f"int8 keeps too little of what {self.base} tells of these images; trained in "
                f"{trained.quantization.precision} instead",
                UserWarning,
                stacklevel=2,
            )
        return self

    def _read(self, images: Any, labels: Any) -> Dataset:
        if not isinstance(images, Dataset):
            if labels is None:
                raise DatasetError(
                    "fit needs a Dataset, or images and a label for each; for a folder call "
                    "fit(topwork.Dataset.from_folder(path))"
                )
            task = Task.NUMBER if self._tasks == (Task.NUMBER,) else None
            return Dataset.from_sources(images, labels, task=task)
        if labels is not None:
            raise DatasetError("a Dataset has its own labels; call fit(dataset) without any")
        if images.task not in self._tasks:
            raise DatasetError(
                f"the dataset is for the task {images.task}; use topwork.{self._other}"
            )
        return images

    def _take(self, model: Model, trained: TrainResult | None = None) -> None:
        """Takes a model that was trained now, or was loaded."""
        self.model_ = model
        self.history_ = model.history
        self.skipped_ = () if trained is None else trained.images.skipped
        self.trials_ = () if trained is None else trained.trials
        self._trained = trained

    def _check_fitted(self) -> None:
        """Refuses to answer before there is a model.

        Raises:
            sklearn.exceptions.NotFittedError: fit was not called.
        """
        if not hasattr(self, "model_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with "
                "appropriate arguments before using this estimator."
            )

    def _evaluate(self, dataset: Dataset) -> evaluation.Evaluation:
        """Tests on the test split of a dataset."""
        try:
            found = evaluation.evaluate(
                self.model_, dataset, "test", self._store, strict=self.strict
            )
        except NetworkError:
            self._refuse_lost()
            raise
        warn_of(found.skipped, "they do not count", stacklevel=4)
        return found

    def save(self, path: str | Path) -> None:
        """Writes the model as a folder that needs nothing else; see `topwork.load`.

        That is how a model travels. A pickle holds the head alone: it works where the networks
        lie that it was fitted with.

        Raises:
            ModelError: it cannot be written, or the networks are gone.

        Warns:
            UserWarning: something of what was saved is doubtful.
        """
        self._check_fitted()
        if self._trained is None:
            copy_model(self._folder, Path(path))
        else:
            self._refuse_lost()
            warm_up.saving()
            for warning in self._trained.save(Path(path)).warnings:
                warnings.warn(f"{path} is saved; {warning}", UserWarning, stacklevel=2)

    def to_keras(self) -> keras.Model:
        """Returns the whole network, from pixels (N, S, S, 3) in 0..255 to logits (N, C).

        Bases of several sizes give it an input for each, `image_S`.

        It runs on the Keras backend of this process: the one chosen by `KERAS_BACKEND` or
        Keras' own settings, JAX if neither chose one and TensorFlow is not installed. Resize
        images as `model_.interpolation` says.

        Raises:
            ModelError: the networks are gone.
        """
        self._check_fitted()
        self._refuse_lost()
        _choose_keras_backend()
        import keras

        if self._trained is None:
            return keras.saving.load_model(find_keras_file(self._folder), compile=False)
        head = self.model_.head
        with open_scratch() as folder:
            path = folder / KERAS_FILE
            write_keras_file(self._trained.stack.folder, head.layers, path)
            return keras.saving.load_model(path, compile=False)

    @property
    def _store(self) -> Path:
        return find_store(self.store).absolute()

    @property
    def _folder(self) -> Path:
        return self.model_.networks[0].path.parent

    def _settings(self) -> dict[str, Any]:
        values = {name: value for name, value in self.get_params().items() if name in FIELDS}
        if self.preset is None:
            return values
        return {
            name: value
            for name, value in values.items()
            if value != _SIGNATURE.parameters[name].default
        }

    def _logits(self, X: Any, failed: dict[int, str] | None = None) -> Floats:  # noqa: N803
        self._check_fitted()
        if failed is not None and isinstance(X, list | tuple):
            there = [n for n, image in enumerate(X) if not is_missing(image)]
            if 0 < len(there) < len(X):
                return self._logits_of(X, there, failed)
        dataset = X if isinstance(X, Dataset) else Dataset.from_sources(X)
        try:
            return evaluation.predict_all(self.model_, dataset, self._store, failed=failed)
        except NetworkError:
            self._refuse_lost()
            raise

    def _logits_of(self, images: Sequence[Any], there: list[int], failed: dict[int, str]) -> Floats:
        """Returns logits of images some of which are missing: rows of 0 for these."""
        reasons: dict[int, str] = {}
        found = self._logits([images[n] for n in there], reasons)
        failed.update(dict.fromkeys({*range(len(images))} - {*there}, "there is no image"))
        failed.update({there[n]: reason for n, reason in reasons.items()})
        logits = np.zeros((len(images), found.shape[1]), found.dtype)
        logits[there] = found
        return logits

    def _refuse_lost(self) -> None:
        """Says so where the networks are gone: from a store, or with the machine they were on.

        Raises:
            ModelError: with the first file.
        """
        needed = [file.path for file in self.model_.networks]
        if self._trained is not None:
            needed += [self._trained.stack.folder / name for name in KERAS_FILES]
        lost = [path for path in needed if not path.is_file()]
        if lost:
            raise ModelError(
                f"the network of this {type(self).__name__.lower()} was in {lost[0]}, and is gone; "
                "fit it again. To take it elsewhere use save(path) and topwork.load(path): a "
                "pickle holds the head alone"
            )


def open_screen(verbose: bool) -> AbstractContextManager[Callback]:
    """Returns what shows on stderr how far a training is, or nothing."""
    if not verbose:
        return nullcontext(SILENT)
    from topwork.recipes.console import make_console
    from topwork.recipes.progress import Screen

    return Screen(make_console(stderr=True))


def mask_rows(answers: NDArray[Any], failed: dict[int, str] | None) -> NDArray[Any]:
    """Returns answers of N images with the rows of those that failed masked; as is for None."""
    if failed is None:
        return answers
    mask = np.zeros(answers.shape, bool)
    mask[[*failed]] = True
    return np.ma.MaskedArray(answers, mask)


def check_labels_given(images: Any, labels: ArrayLike | None, weights: ArrayLike | None) -> None:
    """Refuses to score images without labels, or a dataset with labels of its own.

    Raises:
        DatasetError: with the reason.
    """
    if not isinstance(images, Dataset):
        if labels is None:
            raise DatasetError("score needs a Dataset, or images and a label for each")
    elif labels is not None or weights is not None:
        raise DatasetError("a Dataset has its own labels; call score(dataset) without any")


def warn_of(skipped: Sequence[Skipped], advice: str, stacklevel: int = 3) -> None:
    """Warns the caller `stacklevel` calls above of images that were left out."""
    if skipped:
        some = "; ".join(f"{item.path}: {item.reason}" for item in skipped[:SHOWN])
        warnings.warn(
            f"{len(skipped)} images or folders were left out ({some}); {advice}",
            UserWarning,
            stacklevel=stacklevel,
        )


def warn_of_notes(notes: Iterable[Note]) -> None:
    """Warns the caller of the caller of what is doubtful about the data."""
    for note in notes:
        if note.doubtful:
            warnings.warn(note.text, UserWarning, stacklevel=3)


def _choose_keras_backend() -> None:
    """Chooses JAX where nobody chose a backend and Keras' own choice, TensorFlow, is absent."""
    if "keras" in sys.modules or "KERAS_BACKEND" in os.environ:
        return
    home = os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser()
    try:
        chosen = json.loads(Path(home, "keras.json").read_text(encoding="utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        chosen = "tensorflow"
    # Keras itself writes "tensorflow" there, so that one may be nobody's choice.
    if chosen == "tensorflow" and importlib.util.find_spec("tensorflow") is None:
        os.environ["KERAS_BACKEND"] = "jax"
