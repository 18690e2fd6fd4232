"""The same recipes with scikit-learn's manners: `Classifier`, `Regressor`, `tune`, `load`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topwork.core.config import Search, Settings, Tracker
from topwork.core.errors import DatasetError, SettingsError
from topwork.core.leftovers import sweep
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.labels import name_class, number_labels
from topwork.data.listing import SHOWN, Skipped
from topwork.heads.dense import Floats, decide, probabilities
from topwork.metrics.history import History
from topwork.metrics.scores import NumberReport
from topwork.models.folder import load_model
from topwork.models.model import Model
from topwork.recipes.arguments import document_settings
from topwork.recipes.estimator import (
    Estimator,
    check_labels_given,
    mask_rows,
    open_screen,
    warn_of,
    warn_of_notes,
)
from topwork.vectors.backends import find_store

if TYPE_CHECKING:
    from topwork.heads.tuning.trials import Trial
    from topwork.recipes.result import TrainResult


@document_settings
class Classifier(Estimator):
    """Classifies images with a new head on a pretrained, frozen base.

    Every image is run through the base once, in any process that shares the store; fitting
    again with another learning rate, or on another fold, takes a second or two.

        classifier = topwork.Classifier(epochs=20).fit(topwork.Dataset.from_folder("photos"))
        classifier.history_.plot()
        classifier.predict(["new.jpg"])

    A label may be one of many classes or of two: texts or numbers (N,). Or an image may have any
    of many labels: lists of texts, or an array (N, C) of 0 and 1.

    In brackets stands what is taken for None.

    Args:
        settings: every field of `Settings`, as it is described there.
        store: folder of vectors and built networks, or the URL of a bucket; None for
            `$TOPWORK_STORE` or the user's cache.
        verbose: show what the command line shows.

    Attributes:
        classes_: (C,) the labels, sorted; of the dtype that `fit` was given, texts for many labels.
            Texts that differ only in how their accents are encoded are one label.
        history_: losses and accuracies of all epochs; `history_.plot()` draws them.
        skipped_: what was left out, with the reasons.
        model_: the trained `Model`.
        trials_: what was compared to choose the head; none if nothing was left open.
    """

    classes_: NDArray[Any]
    history_: History
    skipped_: tuple[Skipped, ...]
    trials_: tuple[Trial, ...]
    _estimator_type: ClassVar = "classifier"
    _tasks: ClassVar = (Task.CLASSES, Task.BINARY, Task.LABELS)
    _other: ClassVar = "Regressor"

    def _take(self, model: Model, trained: TrainResult | None = None) -> None:
        super()._take(model, trained)
        self.classes_ = model.class_values[self._columns]

    @property
    def _columns(self) -> NDArray[np.int64]:
        """Which of the model's classes each of `classes_` is, (C,)."""
        values = self.model_.class_values
        if self.model_.task is Task.LABELS:
            return np.arange(len(values))
        return np.argsort(values, kind="stable")

    def predict(self, X: Any, *, failed: dict[int, str] | None = None) -> NDArray[Any]:  # noqa: N803
        """Returns the most probable label (N,) of each of N images, of the dtype of `classes_`.

        For many labels (N, C) of 0 and 1, in the order of `classes_`.

        Args:
            X: N images as in `fit`.
            failed: takes the reason for each image that cannot be read, by its index; the answer
                is then a masked array, in which the rows of those are masked. None to refuse
                such images.

        Raises:
            DatasetError: an image cannot be read.
        """
        logits = self._logits(X, failed)
        answers = decide(self.model_.task, np.nan_to_num(logits))
        if self.model_.task is Task.LABELS:
            return mask_rows(answers.astype(np.int64), failed)
        return mask_rows(np.asarray(self.model_.class_values[answers]), failed)

    def predict_proba(self, X: Any, *, failed: dict[int, str] | None = None) -> Floats:  # noqa: N803
        """Returns the probabilities (N, C) float32 of the classes in the order of `classes_`.

        Args and Raises as for `predict`.
        """
        logits = self._logits(X, failed)
        return mask_rows(probabilities(self.model_.task, logits)[:, self._columns], failed)

    def score(
        self,
        X: Any,  # noqa: N803
        y: Any = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Returns the accuracy, 0..1; for many labels the share of images that are all right.

        Args:
            X: N images as in `fit`, or a `Dataset`, whose test split is used.
            y: N true labels; none for a `Dataset`.
            sample_weight: (N,) how much each image counts; not for a `Dataset`.

        Raises:
            DatasetError: labels are missing or too many, or an image cannot be read.

        Warns:
            UserWarning: images of a `Dataset` were left out, unless `strict`.
        """
        self._check_fitted()
        check_labels_given(X, y, sample_weight)
        if isinstance(X, Dataset):
            figures = self._evaluate(X).report.figures
            return figures["exact" if self.model_.task is Task.LABELS else "accuracy"]
        from sklearn.metrics import accuracy_score

        if self.model_.task is Task.LABELS:
            truth, found = self._flags(y), self.predict(X)
        else:
            truth, found = self._number(y), decide(self.model_.task, self._logits(X))
        return float(accuracy_score(truth, found, sample_weight=sample_weight))

    def _number(self, labels: Any) -> NDArray[np.int64]:
        """Returns the number of each label among the model's classes (N,), -1 for an unknown one.

        Texts are compared as they look, however their accents are encoded; a number may also be
        given as its text, and the other way round.
        """
        model = self.model_
        given = np.asarray(labels)
        given = given[:, 0] if given.ndim == 2 and given.shape[1] == 1 else given
        number_of: dict[Any, int] = {name: n for n, name in enumerate(model.classes)}
        number_of |= {value: n for n, value in enumerate(model.class_values.tolist())}

        def find(label: Any) -> int:
            return number_of.get(label, number_of.get(name_class(str(label)), -1))

        found = np.array([find(label) for label in given.tolist()], np.int64)
        if len(found) and (found < 0).all():
            raise DatasetError(
                f"the model knows the classes {', '.join(model.classes[:SHOWN])}, and none of the "
                f"labels to score is one of them, such as {given.tolist()[0]!r}"
            )
        return found

    def _flags(self, labels: Any) -> NDArray[np.int64]:
        """Returns many labels as (N, C) of 0 and 1 in the order of `classes_`."""
        _, names, flags, _ = number_labels(labels, Task.LABELS)
        column_of = {name: n for n, name in enumerate(self.model_.classes)}
        unknown = [name for name in names if name not in column_of]
        if unknown:
            raise DatasetError(f"the model does not know the label {unknown[0]}")
        found = np.zeros((len(flags), len(column_of)), np.int64)
        found[:, [column_of[name] for name in names]] = flags
        return found


class Regressor(Estimator):
    """Estimates numbers of images with a new head on a pretrained, frozen base.

        regressor = topwork.Regressor().fit(paths, prices)
        regressor.predict(["new.jpg"])

    Labels are numbers (N,), or several for each image, (N, C). The arguments are those of
    `Classifier`; `class_weight` and `label_smoothing` are not for numbers.

    Attributes:
        history_: losses and mean absolute errors of all epochs; `history_.plot()` draws them.
        skipped_: what was left out, with the reasons.
        model_: the trained `Model`.
        trials_: what was compared to choose the head; none if nothing was left open.
    """

    _estimator_type: ClassVar = "regressor"
    _tasks: ClassVar = (Task.NUMBER,)
    _other: ClassVar = "Classifier"

    def predict(self, X: Any, *, failed: dict[int, str] | None = None) -> NDArray[np.float32]:  # noqa: N803
        """Returns the numbers (N,) float32 of N images; (N, C) where there are several.

        Args and Raises as for `Classifier.predict`.
        """
        logits = self._logits(X, failed)
        return mask_rows(logits[:, 0] if logits.shape[1] == 1 else logits, failed)

    def score(
        self,
        X: Any,  # noqa: N803
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Returns R², the share of the variance that is explained, at most 1.

        Args:
            X: N images as in `fit`, or a `Dataset`, whose test split is used.
            y: N true numbers; none for a `Dataset`.
            sample_weight: (N,) how much each image counts; not for a `Dataset`.

        Raises:
            DatasetError: numbers are missing or too many, or an image cannot be read.
        """
        self._check_fitted()
        check_labels_given(X, y, sample_weight)
        if not isinstance(X, Dataset):
            from sklearn.metrics import r2_score

            return float(r2_score(y, self.predict(X), sample_weight=sample_weight))
        report = self._evaluate(X).report
        assert isinstance(report, NumberReport)
        return report.r2


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
) -> Classifier | Regressor:
    """Tries many ways to train a classifier at once and returns the chosen one, fitted.

        classifier = topwork.tune("photos", budget=300)
        classifier.trials_  # every recipe, with its mean and standard error over the folds

    Args:
        data: a dataset, or what `Dataset.open` takes, such as the path of a folder.
        trials: file that every head is written to, a JSON object a line; what it has already is
            not trained again.
        folds: stratified folds of the training images to compare on; 0 for the validation
            images; None for five, or 0 where there are 1,000 validation images.
        seeds: how often, from other first weights.
        budget: most heads to train, or time such as `60s`.
        track: `mlflow` or `tensorboard`, to show every head there as well.
        track_to: its folder, database or server; needed with `track`.
        store: folder of vectors and built networks, or the URL of a bucket; None for
            `$TOPWORK_STORE` or the user's cache.
        verbose: show what the command line shows.
        settings: arguments of `Classifier`; what is given stays as it is, all other options of
            the head are searched.

    Returns:
        A fitted classifier, or for numbers a regressor; its arguments are what was chosen.

    Raises:
        TopworkError: any of its kinds; see `topwork.core.errors`.
    """
    from topwork.heads.tuning.trackers import tracked
    from topwork.heads.tuning.trials import Journal
    from topwork.recipes import train as pipeline

    wanted = Settings.create(**settings)
    dataset = data if isinstance(data, Dataset) else Dataset.open(data, strict=wanted.strict)
    plan = Search.create(folds=folds, seeds=seeds, budget=None if budget is None else str(budget))
    folder = find_store(store).absolute()
    sweep(folder)
    journal = Journal(None if trials is None else Path(trials))
    program = _choose_tracker(track, track_to)
    with tracked(journal, program, str(track_to), "topwork"), open_screen(verbose) as screen:
        tuning = pipeline.Tuning(plan, frozenset(settings), journal)
        trained = pipeline.tune(dataset, wanted, folder, tuning, callback=screen)
    estimator = _make_estimator(trained.model, store=store, verbose=verbose)
    estimator._take(trained.model, trained)
    warn_of(trained.images.skipped, "see skipped_")
    warn_of_notes(trained.images.notes)
    return estimator


def _choose_tracker(track: str | None, track_to: str | Path | None) -> Tracker | None:
    if (track is None) != (track_to is None):
        raise SettingsError("track: needs track_to, the place, and track_to needs track")
    if track is not None and track not in list(Tracker):
        raise SettingsError(f"track: must be {' or '.join(Tracker)}, received {track!r}")
    return None if track is None else Tracker(track)


def _make_estimator(model: Model, **others: Any) -> Classifier | Regressor:
    """Returns an estimator whose arguments say all that a preset did."""
    kind = Regressor if model.task is Task.NUMBER else Classifier
    return kind(**model.settings.model_dump(mode="json") | {"preset": None}, **others)


def load(path: str | Path) -> Classifier | Regressor:
    """Opens a model that `topwork train` or `Classifier.save` wrote.

    Args:
        path: the model's folder.

    Returns:
        A fitted classifier, or for numbers a regressor. Its labels are of the dtype that `fit`
        was given; text where the model was saved by a Topwork that did not keep it.

    Raises:
        ModelError: it is not a model, was made by a newer Topwork, or is damaged.
    """
    model = load_model(Path(path).absolute())
    estimator = _make_estimator(model)
    estimator._take(model)
    return estimator
