"""The same recipes with scikit-learn's manners: `Classifier`, `tune`, and `load`."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from topwork import evaluation, pipeline
from topwork.bases import write_keras_file
from topwork.bundle import KERAS_FILE, copy_model, find_keras_file, load_model
from topwork.config import Search, Settings, Tracker, default_store
from topwork.console import Screen, make_console
from topwork.dataset import Dataset
from topwork.errors import DatasetError, SettingsError
from topwork.heads import Floats, probabilities
from topwork.history import History
from topwork.listing import SHOWN, Skipped, Split
from topwork.task import Task
from topwork.tracking import tracked
from topwork.trials import Journal, Trial

if TYPE_CHECKING:
    import keras

_DEFAULT = Settings.create()


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifies images with a new head on a pretrained, frozen base.

    Every image is run through the base once, in any process that shares the store; fitting
    again with another learning rate, or on another fold, takes a second or two.

        classifier = topwork.Classifier(epochs=20).fit(topwork.Dataset.from_folder("photos"))
        classifier.history_.plot()
        classifier.predict(["new.jpg"])

    Args:
        base: name of the pretrained network, or several such as `a,b@300`, whose vectors are
            put side by side; see `topwork bases`.
        preset: `fast`, `balanced` or `best`: values for the arguments that are left at their
            defaults.
        image_size: side of the square input in pixels; None for the base's own.
        views: augmented views of each training image, besides itself.
        flip: take the mean of an image's vector and that of its mirror image.
        head: `dense`, trained in epochs, or `logistic`, solved to its optimum.
        epochs: passes over the training vectors; the best one is kept.
        learning_rate: step size of the optimizer, or `auto`.
        batch_size: vectors per training step.
        optimizer: `adam` or `sgd`.
        weight_decay: times the learning rate, the share that each weight loses per step.
        label_smoothing: share of each label that is spread over all classes, 0..1.
        dropout: share of the last layer's inputs that is dropped in training, 0..1.
        inner_units: units of a layer with ReLU before the last; 0 for none.
        class_weight: `none`, or `balanced` for classes that count the same in training.
        normalize: bring every value of the vectors to mean 0 and deviation 1.
        penalty: L2 penalty of the logistic head, or `auto`.
        seed: of the split, the head's first weights and the order of the batches.
        validation_fraction: share of the training images to validate on, where the data has
            no validation split.
        interpolation: filter of the resize.
        precision: arithmetic of the base, `auto`, `bf16` or `f32`.
        weights: file with the base's weights, instead of the published ones.
        strict: raise at the first image that cannot be used, instead of leaving it out.
        store: folder of vectors and built networks; None for `$TOPWORK_STORE` or the user's
            cache.
        verbose: show what the command line shows.

    Attributes:
        classes_: (C,) the labels, sorted; of the dtype that `fit` was given.
        history_: losses and accuracies of all epochs; `history_.plot()` draws them.
        skipped_: what was left out, with the reasons.
        model_: the trained `Model`.
        trials_: what was compared to choose the head; none if nothing was left open.
    """

    classes_: NDArray[Any]
    history_: History
    skipped_: tuple[Skipped, ...]
    trials_: tuple[Trial, ...]

    def __init__(
        self,
        base: str = _DEFAULT.base,
        *,
        preset: str | None = _DEFAULT.preset,
        image_size: int | None = _DEFAULT.image_size,
        views: int = _DEFAULT.views,
        flip: bool = _DEFAULT.flip,
        head: str = str(_DEFAULT.head),
        epochs: int = _DEFAULT.epochs,
        learning_rate: float | str = _DEFAULT.learning_rate,
        batch_size: int = _DEFAULT.batch_size,
        optimizer: str = str(_DEFAULT.optimizer),
        weight_decay: float = _DEFAULT.weight_decay,
        label_smoothing: float = _DEFAULT.label_smoothing,
        dropout: float = _DEFAULT.dropout,
        inner_units: int = _DEFAULT.inner_units,
        class_weight: str = str(_DEFAULT.class_weight),
        normalize: bool = _DEFAULT.normalize,
        penalty: float | str = _DEFAULT.penalty,
        seed: int = _DEFAULT.seed,
        validation_fraction: float = _DEFAULT.validation_fraction,
        interpolation: str = str(_DEFAULT.interpolation),
        precision: str = str(_DEFAULT.precision),
        weights: str | Path | None = _DEFAULT.weights,
        strict: bool = _DEFAULT.strict,
        store: str | Path | None = None,
        verbose: bool = False,
    ) -> None:
        self.base = base
        self.preset = preset
        self.image_size = image_size
        self.views = views
        self.flip = flip
        self.head = head
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.dropout = dropout
        self.inner_units = inner_units
        self.class_weight = class_weight
        self.normalize = normalize
        self.penalty = penalty
        self.seed = seed
        self.validation_fraction = validation_fraction
        self.interpolation = interpolation
        self.precision = precision
        self.weights = weights
        self.strict = strict
        self.store = store
        self.verbose = verbose

    def fit(self, X: Any, y: ArrayLike | None = None) -> Self:  # noqa: N803
        """Trains a head on labelled images.

        Args:
            X: a `Dataset`, or N images: paths, encoded bytes, or uint8 arrays (H, W) or
                (H, W, 3) in 0..255.
            y: N labels, text or numbers; none for a `Dataset`.

        Returns:
            self.

        Raises:
            TopworkError: any of its kinds; see `topwork.errors`.

        Warns:
            UserWarning: images were left out; `skipped_` says which and why.
        """
        settings = Settings.create(**self._settings())
        dataset = _as_dataset(X, y)
        with Screen(make_console(stderr=True)) if self.verbose else nullcontext() as screen:
            trained = pipeline.train(dataset, settings, self._store, screen)
        self._take(trained, dataset, y)
        _warn_of(trained.skipped, "see skipped_")
        return self

    def _take(self, trained: pipeline.Trained, dataset: Dataset, y: ArrayLike | None) -> None:
        self.classes_ = np.array(dataset.classes) if y is None else np.unique(np.asarray(y))
        self.model_ = trained.model
        self.history_ = trained.model.history
        self.skipped_ = trained.skipped
        self.trials_ = trained.trials
        self._trained: pipeline.Trained | None = trained

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Returns the most probable label (N,) of each of N images, of the dtype of `classes_`.

        Raises:
            DatasetError: an image cannot be read.
        """
        best = self._logits(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: Any) -> Floats:  # noqa: N803
        """Returns the probabilities (N, C) float32 of the classes in the order of `classes_`.

        Raises:
            DatasetError: an image cannot be read.
        """
        return probabilities(Task.CLASSES, self._logits(X))

    def score(
        self,
        X: Any,  # noqa: N803
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Returns the accuracy, 0..1.

        Args:
            X: N images as in `fit`, or a `Dataset`, whose test split is used.
            y: N true labels; none for a `Dataset`.
            sample_weight: (N,) how much each image counts; not for a `Dataset`.

        Raises:
            DatasetError: labels are missing or too many, or an image cannot be read.

        Warns:
            UserWarning: images of a `Dataset` were left out, unless `strict`.
        """
        check_is_fitted(self, "model_")
        if not isinstance(X, Dataset):
            if y is None:
                raise DatasetError("score needs a Dataset, or images and a label for each")
            return float(super().score(X, y, sample_weight))
        if y is not None or sample_weight is not None:
            raise DatasetError("a Dataset has its own labels; call score(dataset) without any")
        found = evaluation.evaluate(
            self.model_, X, str(Split.TEST), self._store, strict=self.strict
        )
        _warn_of(found.skipped, "they do not count")
        return found.report.accuracy

    def save(self, path: str | Path) -> None:
        """Writes the model as a folder that needs nothing else; see `topwork.load`.

        Raises:
            ModelError: it cannot be written, or does not predict what was trained.
        """
        check_is_fitted(self, "model_")
        if self._trained is None:
            copy_model(self._folder, Path(path))
        else:
            self._trained.save(Path(path))

    def to_keras(self) -> keras.Model:
        """Returns the whole network, from pixels (N, S, S, 3) in 0..255 to logits (N, C).

        Bases of several sizes give it an input for each, `image_S`.

        It runs on the Keras backend of this process: the one chosen by `KERAS_BACKEND` or
        Keras' own settings, JAX if neither chose one and TensorFlow is not installed. Resize
        images as `model_.interpolation` says.
        """
        check_is_fitted(self, "model_")
        _choose_keras_backend()
        import keras

        if self._trained is None:
            return keras.saving.load_model(find_keras_file(self._folder), compile=False)
        head = self.model_.head
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, KERAS_FILE)
            write_keras_file(self._trained.stack.folder, head.layers, path)
            return keras.saving.load_model(path, compile=False)

    @property
    def _store(self) -> Path:
        return (default_store() if self.store is None else Path(self.store)).absolute()

    @property
    def _folder(self) -> Path:
        return self.model_.networks[0].path.parent

    def _settings(self) -> dict[str, Any]:
        values = {name: value for name, value in self.get_params().items() if name in _FIELDS}
        if self.preset is None:
            return values
        plain = _DEFAULT.model_dump(mode="json")
        return {name: value for name, value in values.items() if value != plain[name]}

    def _logits(self, X: Any) -> Floats:  # noqa: N803
        check_is_fitted(self, "model_")
        dataset = X if isinstance(X, Dataset) else Dataset.from_sources(X)
        return evaluation.predict_all(self.model_, dataset, self._store)


_FIELDS = frozenset(Settings.model_fields)


def _as_dataset(images: Any, labels: ArrayLike | None) -> Dataset:
    if isinstance(images, Dataset):
        if labels is not None:
            raise DatasetError("a Dataset has its own labels; call fit(dataset) without any")
        return images
    if labels is None:
        raise DatasetError(
            "fit needs a Dataset, or images and a label for each; for a folder call "
            "fit(topwork.Dataset.from_folder(path))"
        )
    return Dataset.from_sources(images, labels)


def _warn_of(skipped: Sequence[Skipped], advice: str) -> None:
    if skipped:
        some = "; ".join(f"{item.path}: {item.reason}" for item in skipped[:SHOWN])
        warnings.warn(
            f"{len(skipped)} images or folders were left out ({some}); {advice}",
            UserWarning,
            stacklevel=3,
        )


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


def tune(
    data: Dataset | str | Path,
    *,
    trials: str | Path | None = None,
    folds: int | None = None,
    seeds: int | None = None,
    budget: str | int | None = None,
    track: str | None = None,
    track_to: str | Path | None = None,
    store: str | Path | None = None,
    verbose: bool = False,
    **settings: Any,
) -> Classifier:
    """Tries many ways to train a classifier at once and returns the chosen one, fitted.

        classifier = topwork.tune("photos", budget=300)
        classifier.trials_  # every recipe, with its mean and standard error over the folds

    Args:
        data: a dataset, or the path of a folder of labelled images.
        trials: file that every head is written to, a JSON object a line; what it has already is
            not trained again.
        folds: stratified folds of the training images to compare on; 0 for the validation
            images; None for five, or 0 where there are 1,000 validation images.
        seeds: how often, from other first weights.
        budget: most heads to train, or time such as `60s`.
        track: `mlflow` or `tensorboard`, to show every head there as well.
        track_to: its folder, database or server; needed with `track`.
        store: folder of vectors and built networks; None for `$TOPWORK_STORE` or the user's
            cache.
        verbose: show what the command line shows.
        settings: arguments of `Classifier`; what is given stays as it is, all other options of
            the head are searched.

    Returns:
        A fitted classifier; its arguments are what was chosen.

    Raises:
        TopworkError: any of its kinds; see `topwork.errors`.
    """
    wanted = Settings.create(**settings)
    strict = wanted.strict
    dataset = data if isinstance(data, Dataset) else Dataset.from_folder(data, strict=strict)
    plan = Search.create(folds=folds, seeds=seeds, budget=None if budget is None else str(budget))
    place = (default_store() if store is None else Path(store)).absolute()
    journal = Journal(None if trials is None else Path(trials))
    program = _choose_tracker(track, track_to)
    screen_of = Screen(make_console(stderr=True)) if verbose else nullcontext()
    with tracked(journal, program, str(track_to), "topwork"), screen_of as screen:
        trained = pipeline.tune(
            dataset,
            wanted,
            place,
            plan=plan,
            pinned=frozenset(settings),
            journal=journal,
            listener=screen,
        )
    classifier = _make_classifier(trained.model.settings, store=store, verbose=verbose)
    classifier._take(trained, dataset, None)
    _warn_of(trained.skipped, "see skipped_")
    return classifier


def _choose_tracker(track: str | None, track_to: str | Path | None) -> Tracker | None:
    if (track is None) != (track_to is None):
        raise SettingsError("track: needs track_to, the place, and track_to needs track")
    if track is not None and track not in list(Tracker):
        raise SettingsError(f"track: must be {' or '.join(Tracker)}, received {track!r}")
    return None if track is None else Tracker(track)


def _make_classifier(settings: Settings, **others: Any) -> Classifier:
    """Returns a classifier whose arguments say all that a preset did."""
    return Classifier(**settings.model_dump(mode="json") | {"preset": None}, **others)


def load(path: str | Path) -> Classifier:
    """Opens a model that `topwork train` or `Classifier.save` wrote.

    Args:
        path: the model's folder.

    Returns:
        A fitted classifier. Its labels are text, also where `fit` was given numbers.

    Raises:
        ModelError: it is not a model, was made by a newer Topwork, or is damaged.
    """
    model = load_model(Path(path).absolute())
    classifier = _make_classifier(model.settings)
    classifier.classes_ = np.array(model.classes)
    classifier.model_ = model
    classifier.history_ = model.history
    classifier.skipped_ = ()
    classifier.trials_ = ()
    classifier._trained = None
    return classifier
