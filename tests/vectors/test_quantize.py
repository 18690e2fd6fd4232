import json
from dataclasses import replace

import numpy as np
import pytest
from recorder import Recorder
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import r2_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from topwork.core.config import Precision
from topwork.core.errors import SettingsError
from topwork.data.dataset import Dataset
from topwork.models.export import export_model
from topwork.models.folder import load_model
from topwork.recipes import train as pipeline
from topwork.recipes.embed import embed
from topwork.vectors import quantize as quantization
from topwork.vectors.extractors import prepare_networks
from topwork.vectors.quantize import Fitted, fit_networks, measure_agreement, measure_cost

pytest.importorskip("nncf")
pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def settings(small):
    return small.model_copy(update={"precision": Precision.INT8})


@pytest.fixture(scope="module")
def dataset(photos):
    return Dataset.from_folder(photos)


@pytest.fixture(scope="module")
def recorder():
    return Recorder()


@pytest.fixture(scope="module")
def trained(dataset, settings, store, recorder):
    return pipeline.train(dataset, settings, store, recorder)


def test_agreement_is_the_explained_variance():
    numbers = np.random.default_rng(0)
    others = numbers.normal(3, 2, (50, 8)).astype(np.float32)
    values = others + numbers.normal(0, 0.5, others.shape).astype(np.float32)
    wanted = r2_score(others, values, multioutput="variance_weighted")
    assert measure_agreement(values, others) == pytest.approx(wanted, abs=1e-6)
    assert measure_agreement(others, others) == 1


def test_agreement_of_images_that_are_all_the_same():
    others = np.ones((3, 4), np.float32)
    assert measure_agreement(others, others) == 1
    assert measure_agreement(others + 1, others) == 0


def test_says_what_it_found(trained, recorder):
    ((found,),) = recorder.told["on_quantized"]
    assert trained.quantization == found
    assert found.precision in (Precision.BF16, Precision.F32)
    assert 0.85 <= found.agreement[0] < 1
    json.dumps(trained.to_json(), allow_nan=False)


def test_a_model_predicts_what_it_was_trained_on(trained, dataset, tmp_path):
    found = trained.save(tmp_path / "model")
    assert found.parity["keras"] < 1e-4
    assert (found.agreement.share, found.agreement.precision) == (1, "int8")
    assert found.agreement.probability < 1e-5
    assert found.warnings == ()
    model = load_model(tmp_path / "model")
    assert model.precision is Precision.INT8
    places = [n for n, s in enumerate(dataset.splits) if s == "validation"][:4]
    few = dataset.select(np.isin(np.arange(len(dataset)), places))
    found = model.predict(few.sources)
    by_name = dict(zip(trained.predictions.names, trained.predictions.logits, strict=True))
    wanted = np.stack([by_name[name] for name in few.names])
    assert np.abs(found.logits - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_it_is_exported_to_openvino_alone(trained, tmp_path):
    trained.save(tmp_path / "model")
    with pytest.raises(SettingsError, match=r"computes in int8.*take openvino"):
        export_model(tmp_path / "model", tmp_path / "keras", format="keras")
    assert not (tmp_path / "keras").exists()


def test_vectors_of_int8_and_of_another_precision_have_places_of_their_own(
    trained, dataset, settings, small, store
):
    again = embed(dataset, settings, store)
    usual = embed(dataset, small, store)
    assert again.spaces[0].calibration
    assert not usual.spaces[0].calibration
    assert again.spaces[0].name != usual.spaces[0].name
    assert again.spaces[0].calibration == trained.model.bases[0].space.calibration


def test_more_images_keep_the_calibration(trained, dataset, settings, store):
    training = np.flatnonzero(dataset.splits == "train")
    fewer = dataset.select(np.arange(len(dataset)) != training[0])
    found = fit_networks(prepare_networks(settings, store), fewer, settings, store)
    (network,) = found.stack.networks
    assert network.int8.calibration == trained.model.bases[0].space.calibration
    assert found.quantization is not None


def test_poor_agreement_gives_way_to_the_usual_arithmetic(
    trained, dataset, settings, small, store, monkeypatch
):
    monkeypatch.setattr(quantization, "LEAST_KEPT", 0.99999)
    recorder = Recorder()
    found = pipeline.train(dataset, settings, store, recorder)
    ((said,),) = recorder.told["on_quantized"]
    assert said.kept is False
    assert found.model.precision is said.precision
    assert found.model.settings.precision is Precision.AUTO
    assert found.to_json()["quantization"]["kept"] is False
    wanted = pipeline.train(dataset, small.model_copy(update={"precision": Precision.AUTO}), store)
    assert found.model.history == wanted.model.history
    # Vectors are then shared with those who never asked for int8.
    assert embed(dataset, settings, store).spaces[0].calibration == ""


def test_other_precisions_are_left_alone(dataset, small, store):
    stack = prepare_networks(small, store)
    found = fit_networks(stack, dataset, small, store)
    assert found == Fitted(stack, dataset, small)


def test_cost_counts_what_heads_get_right(dataset):
    numbers = np.random.default_rng(0)
    sample = dataset.select(dataset.splits == "train")
    labels = np.asarray(sample.labels)
    useless = numbers.normal(size=(len(sample), 4)).astype(np.float32)
    telling = np.eye(3, dtype=np.float32)[labels] + 0.01 * useless[:, :3]
    cost = measure_cost(useless, telling, sample)
    if cost is None:
        pytest.skip("too few images of a class")
    assert cost.usual == 1
    assert cost.accuracy < 0.8
    same = measure_cost(telling, telling, sample)
    assert (same.accuracy, same.error) == (1, 0)


@pytest.mark.parametrize(("classes", "length", "count"), [(2, 64, 40), (3, 700, 200), (8, 30, 200)])
def test_heads_that_are_compared_are_ridge_regressions_on_standardized_vectors(
    dataset, classes, length, count
):
    numbers = np.random.default_rng(classes)
    labels = numbers.integers(0, classes, count)
    vectors = numbers.normal(size=(count, length)) + 0.2 * np.outer(labels, range(length)) / length
    vectors[:, 0] = 1  # says nothing, and has no variance
    head = make_pipeline(StandardScaler(), RidgeClassifier(quantization.PENALTY * length))
    folds = StratifiedKFold(quantization.FOLDS, shuffle=True, random_state=0)
    wanted = (cross_val_predict(head, vectors, labels, cv=folds) == labels).mean()
    sample = replace(dataset, sources=(b"",) * count, labels=labels)
    cost = measure_cost(vectors.astype(np.float32), vectors.astype(np.float32), sample)
    assert cost.accuracy == cost.usual == pytest.approx(wanted)
    assert 1 / classes < cost.accuracy < 1
