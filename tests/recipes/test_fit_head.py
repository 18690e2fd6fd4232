from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from topwork.core.config import Settings
from topwork.core.errors import TopworkError
from topwork.data.dataset import Dataset
from topwork.heads.examples import LabeledVectors, RowSplit
from topwork.heads.train import train_heads
from topwork.metrics.calibration import fit_temperature
from topwork.recipes import fit_head as module
from topwork.recipes.fit_head import fit_head
from topwork.recipes.prepare import TrainingData

NONE = np.array([-1], np.int32)


def make_data(seed=0, count=60, views=0):
    """Vectors of three classes that overlap, a third of them for validation."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    dataset = Dataset.from_sources([b"x"] * count, [f"c{label}" for label in labels])
    splits = np.where(np.arange(count) % 6 < 4, "train", "validation")
    training = np.flatnonzero(splits == "train").astype(np.int32)
    held_out = np.flatnonzero(splits == "validation").astype(np.int32)
    rows = np.concatenate([np.arange(count), *[training] * views])
    vectors = np.eye(3, 5, dtype=np.float32)[labels][rows]
    vectors = vectors + random.normal(0, 0.6, (len(rows), 5)).astype(np.float32)
    shape = views, len(training)
    number = count + np.arange(views * len(training), dtype=np.int32).reshape(shape)
    split = RowSplit(np.concatenate([training[None], number]), held_out)
    examples = LabeledVectors(vectors, dataset.targets[rows])
    return TrainingData(replace(dataset, splits=splits), None, examples, split)


def rows_of(data):
    return np.concatenate([data.split.training.ravel(), data.split.held_out])


def test_a_solved_head_is_that_of_training_and_validation_images():
    data = make_data()
    settings = Settings.create(head="logistic", penalty=0.03)
    fitted = fit_head(data, settings.head_settings(), settings)
    rows = rows_of(data)
    problem = LogisticRegression(C=1 / (0.03 * len(rows)), tol=1e-8, max_iter=10_000)
    problem.fit(data.examples.vectors[rows].astype(float), data.examples.targets[rows])
    kernel = fitted.head.layers[0].kernel * fitted.calibration.temperature
    np.testing.assert_allclose(kernel, problem.coef_.T, atol=2e-3)
    # The figures are of a head that has not learnt from the validation images.
    training = data.split.training.ravel()
    problem = LogisticRegression(C=1 / (0.03 * len(training)), tol=1e-8, max_iter=10_000)
    problem.fit(data.examples.vectors[training].astype(float), data.examples.targets[training])
    logits = problem.decision_function(data.examples.vectors[data.split.held_out])
    found = fitted.unseen_logits * fitted.calibration.temperature
    np.testing.assert_allclose(found, logits, atol=2e-2)
    wanted = fit_temperature(logits.astype(np.float32), data.examples.targets[data.split.held_out])
    assert fitted.calibration.temperature == pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_dense_head_is_refitted_for_as_many_epochs_as_were_kept_if_asked(views, seed):
    data = make_data(seed, views=views)
    settings = Settings.create(epochs=12, learning_rate=0.05, refit=True)
    fitted = fit_head(data, settings.head_settings(), settings)
    plain = fit_head(data, settings.head_settings(), settings.model_copy(update={"refit": False}))
    assert fitted.refitted and not plain.refitted
    # The history and the calibration are those of the head before.
    assert fitted.history == plain.history
    assert fitted.calibration.to_json() == plain.calibration.to_json()
    np.testing.assert_array_equal(fitted.unseen_logits, plain.logits)
    # Trained by hand: on all images, so many epochs, the last of which is kept.
    training, held_out = data.split.training, data.split.held_out
    both = np.concatenate([training, np.tile(held_out, (len(training), 1))], axis=1)
    epochs = fitted.history.best_epoch
    recipe = settings.head_settings().model_copy(update={"epochs": epochs})
    (fit,) = train_by_hand(data, RowSplit(both, NONE), recipe)
    assert fit.best_epoch == epochs
    assert np.isnan(fit.curve["val_loss"]).all()
    cooled = fit.head.cooled(fitted.calibration.temperature)
    for found, wanted in zip(fitted.head.layers, cooled.layers, strict=True):
        np.testing.assert_array_equal(found.kernel, wanted.kernel)
        np.testing.assert_array_equal(found.bias, wanted.bias)
    (more,) = train_by_hand(
        data, RowSplit(both, NONE), recipe.model_copy(update={"epochs": epochs + 1})
    )
    assert more.curve["loss"][:epochs] == pytest.approx(fit.curve["loss"])
    assert not np.array_equal(more.head.layers[0].kernel, fit.head.layers[0].kernel)


def train_by_hand(data, split, recipe):
    return train_heads(data.examples, split, [recipe], data.dataset.outputs)


def test_a_refit_that_fails_costs_nothing(monkeypatch):
    data = make_data()
    settings = Settings.create(head="logistic", penalty=0.03)
    real = module.train_heads

    def fail_to_refit(examples, split, *args, **options):
        if (split.held_out < 0).all():
            raise TopworkError("did not reach its optimum")
        return real(examples, split, *args, **options)

    monkeypatch.setattr(module, "train_heads", fail_to_refit)
    fitted = fit_head(data, settings.head_settings(), settings)
    assert not fitted.refitted
    assert fitted.logits.shape == (20, 3)
