import math

import numpy as np
import pytest
from heads.keras_reference import ask
from hypothesis import given
from hypothesis import strategies as st

from topwork.config import Optimizer, Settings
from topwork.errors import DatasetError, TopworkError
from topwork.heads import Task, init_head, probabilities
from topwork.training import Labelled, batch_order, train_head

OUTPUTS = {Task.CLASSES: 10, Task.BINARY: 1, Task.LABELS: 5, Task.NUMBER: 2}


def make(task, count, seed, *, length=64, scale=1.0):
    """Returns vectors as pooled activations are, none below 0, and targets with noise."""
    outputs = OUTPUTS[task]
    rng = np.random.default_rng(seed)
    vectors = np.maximum(rng.normal(0.3, 1, (count, length)), 0)
    directions = np.random.default_rng(99).normal(0, 0.3, (length, outputs))
    scores = (vectors - 0.55) @ directions + rng.normal(0, 0.7, (count, outputs))
    match task:
        case Task.CLASSES:
            targets = scores.argmax(axis=1).astype(np.int32)
        case Task.NUMBER:
            targets = scores.astype(np.float32)
        case _:
            targets = (scores > 0).astype(np.float32)
    return Labelled((vectors * scale).astype(np.float32), targets)


def case(task, optimizer="adam", *, train=500, validation=137, batch_size=32, epochs=10, scale=1.0):
    return {
        "task": Task(task),
        "optimizer": Optimizer(optimizer),
        "training": make(Task(task), train, 1, scale=scale),
        "validation": make(Task(task), validation, 2, scale=scale),
        "outputs": OUTPUTS[Task(task)],
        "batch_size": batch_size,
        "epochs": epochs,
        "learning_rate": 0.01,
        "seed": 3,
    }


CASES = {
    "one of many": case("classes"),
    "one of many, sgd": case("classes", "sgd"),
    "two": case("binary"),
    "two, sgd": case("binary", "sgd"),
    "labels": case("labels"),
    "number": case("number"),
    "number, sgd": case("number", "sgd"),
    # Gradients near Adam's epsilon.
    "tiny vectors": case("classes", train=90, scale=1e-5),
    "one image, large batch": case("classes", train=1, validation=1, epochs=3),
}
ONE_HOT = "one of many, sgd"


def for_keras(case, *, one_hot=False):
    """Says the same to Keras."""
    training, validation, outputs = case["training"], case["validation"], case["outputs"]
    count, length = training.vectors.shape
    head = init_head(length, outputs, case["seed"])
    targets = [training.targets, validation.targets]
    if one_hot:
        targets = [np.eye(outputs, dtype=np.float32)[classes] for classes in targets]
    return {
        "do": "fit",
        "task": "one-hot" if one_hot else str(case["task"]),
        "optimizer": str(case["optimizer"]),
        "learning_rate": case["learning_rate"],
        "vectors": training.vectors,
        "targets": targets[0],
        "val_vectors": validation.vectors,
        "val_targets": targets[1],
        "kernel": head.kernel,
        "bias": head.bias,
        "order": batch_order(count, case["batch_size"], case["epochs"], case["seed"]),
    }


def assert_same(case, keras):
    """Compares all epochs' figures and the kept head."""
    head, history = train_head(**case)
    assert history.history.keys() == keras["history"].keys()
    for name, values in keras["history"].items():
        np.testing.assert_allclose(history.history[name], values, rtol=0, atol=1e-4, err_msg=name)
    name, choose = ("val_loss", min) if case["task"] is Task.NUMBER else ("val_accuracy", max)
    assert history.row(history.best_epoch)[name] == choose(history.history[name])
    kernel, bias = keras["heads"][history.best_epoch - 1]
    np.testing.assert_allclose(head.kernel, kernel, rtol=0, atol=1e-4)
    np.testing.assert_allclose(head.bias, bias, rtol=0, atol=1e-4)
    return history


@pytest.fixture(scope="module")
def keras_says(tmp_path_factory):
    told = {name: for_keras(case, one_hot=name == ONE_HOT) for name, case in CASES.items()}
    return ask(told, tmp_path_factory.mktemp("keras"))


@pytest.mark.parametrize("name", CASES)
def test_the_history_is_that_of_keras_fit(name, keras_says):
    assert_same(CASES[name], keras_says[name])


@pytest.mark.slow
def test_the_history_is_that_of_keras_fit_on_the_reference_vectors(
    reference_photos, xception_weights, tmp_path
):
    from topwork import pipeline
    from topwork.dataset import Dataset
    from topwork.engines import OpenVINOEngine
    from topwork.store import VectorStore
    from topwork.vectors import embed

    settings = Settings.create(
        base="xception", image_size=150, interpolation="nearest", weights=xception_weights
    )
    network = pipeline.prepare_network(settings, tmp_path)
    space = pipeline.make_space(network, settings)
    dataset, vectors = embed(
        Dataset.from_folder(reference_photos),
        VectorStore(tmp_path, space, network.vector_length),
        lambda: OpenVINOEngine(network.openvino_path, 150, space.precision),
    )
    training, validation = (
        Labelled(vectors.values[dataset.splits == split], dataset.labels[dataset.splits == split])
        for split in ("train", "validation")
    )
    assert (len(training.vectors), len(validation.vectors)) == (3068, 341)
    reference = case("classes") | {"training": training, "validation": validation}
    keras = ask({"reference": for_keras(reference)}, tmp_path)["reference"]
    history = assert_same(reference, keras)
    assert max(history.history["val_accuracy"]) == pytest.approx(0.8328, abs=0.02)
    assert history.history["accuracy"][-1] > 0.97


@given(st.integers(1, 70), st.integers(1, 80), st.integers(1, 4), st.integers(0, 9))
def test_each_epoch_is_a_permutation_with_padding_only_at_its_end(count, size, epochs, seed):
    order = batch_order(count, size, epochs, seed)
    assert order.dtype == np.int32
    assert order.shape == (epochs, math.ceil(count / size), min(size, count))
    for rows in order.reshape(epochs, -1):
        assert sorted(rows[:count]) == list(range(count))
        assert (rows[count:] == -1).all()
        assert len(rows) - count < size


def test_epochs_and_seeds_have_orders_of_their_own():
    order = batch_order(100, 32, 3, 0)
    assert np.array_equal(order, batch_order(100, 32, 3, 0))
    assert np.array_equal(order[:2], batch_order(100, 32, 2, 0))
    assert not np.array_equal(order, batch_order(100, 32, 3, 1))
    assert not np.array_equal(order[0], order[1])


@pytest.mark.parametrize("name", ["one of many", "two", "labels", "number"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name):
    head, history = train_head(**CASES[name])
    again, same = train_head(**CASES[name])
    other, different = train_head(**CASES[name] | {"seed": 4})
    assert head.kernel.tobytes() == again.kernel.tobytes()
    assert head.bias.tobytes() == again.bias.tobytes()
    assert history == same
    assert not np.array_equal(head.kernel, other.kernel)
    assert history != different


def test_the_kept_head_scores_what_the_history_says():
    head, history = train_head(**CASES["one of many"] | {"learning_rate": 0.1})
    kept = history.row(history.best_epoch)
    validation = CASES["one of many"]["validation"]
    logits = head.logits(validation.vectors)
    accuracy = (logits.argmax(axis=1) == validation.targets).mean()
    chances = probabilities(Task.CLASSES, logits)[np.arange(len(logits)), validation.targets]
    assert 1 < history.best_epoch < 10
    assert accuracy == pytest.approx(kept["val_accuracy"], abs=1e-6)
    assert -np.log(chances).mean() == pytest.approx(kept["val_loss"], rel=1e-4)


def test_a_rate_at_which_it_diverges_is_named_with_a_smaller_one():
    with pytest.raises(
        TopworkError, match=r"none of the 10 epochs at learning rate 1e\+20; .*1e\+19"
    ):
        train_head(**CASES["number, sgd"] | {"learning_rate": 1e20})


@pytest.mark.parametrize(("rate", "smaller"), [(10, "1.0"), (0.3, "0.01"), (0.001, "0.0001")])
def test_the_proposed_rate_is_a_power_of_ten_below(rate, smaller):
    targets = CASES["one of many"]["validation"].targets
    huge = Labelled(np.full((len(targets), 64), 3e38, np.float32), targets)
    with pytest.raises(TopworkError, match=rf"learning rate {rate}; .*such as {smaller}$"):
        train_head(**CASES["one of many"] | {"validation": huge, "learning_rate": rate})


def test_a_head_from_before_it_diverged_is_kept():
    head, history = train_head(**CASES["number, sgd"] | {"learning_rate": 0.3})
    losses = history.history["val_loss"]
    assert not math.isfinite(losses[-1])
    kept = history.row(history.best_epoch)["val_loss"]
    assert kept == min(value for value in losses if math.isfinite(value))
    assert np.isfinite(head.kernel).all()


@pytest.mark.parametrize("part", ["training", "validation"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_vectors_that_are_not_finite_are_refused(part, value):
    given = case("classes", train=20, validation=20, epochs=1)
    given[part].vectors[7, 3] = value
    with pytest.raises(DatasetError, match=f"the {part} vectors must be finite"):
        train_head(**given)


@pytest.mark.parametrize("part", ["training", "validation"])
def test_no_vectors_are_refused(part):
    given = case("classes", train=20, validation=20, epochs=1)
    empty = Labelled(given[part].vectors[:0], given[part].targets[:0])
    with pytest.raises(DatasetError, match=f"{part} needs at least 1 vector"):
        train_head(**given | {part: empty})
