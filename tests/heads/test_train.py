import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from heads.keras_reference import ask
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from topwork.core.config import ClassWeight, HeadKind, Settings
from topwork.core.errors import DatasetError, TopworkError
from topwork.core.task import Task
from topwork.heads import train as training
from topwork.heads.class_weights import balance, weigh
from topwork.heads.dense import init_head, probabilities
from topwork.heads.many_heads import batch_order
from topwork.heads.train import LabeledVectors, RowSplit, join, train_head, train_heads, train_on

OUTPUTS = {Task.CLASSES: 10, Task.BINARY: 1, Task.LABELS: 5, Task.NUMBER: 1}


def make(task, count, seed, *, length=64, scale=1.0, outputs=None):
    """Returns vectors as pooled activations are, none below 0, and targets with noise."""
    outputs = outputs or OUTPUTS[task]
    rng = np.random.default_rng(seed)
    vectors = np.maximum(rng.normal(0.3, 1, (count, length)), 0)
    directions = np.random.default_rng(99).normal(0, 0.3, (length, outputs))
    scores = (vectors - 0.55) @ directions + rng.normal(0, 0.7, (count, outputs))
    match task:
        case Task.CLASSES:
            targets = scores.argmax(axis=1).astype(np.int32)
        case Task.NUMBER:
            # Of another scale each, far from zero.
            targets = (scores * [2, 0.1][:outputs] + [30, 4][:outputs]).astype(np.float32)
        case _:
            targets = (scores > 0).astype(np.float32)
    return LabeledVectors((vectors * scale).astype(np.float32), targets)


def case(task, *, train=500, validation=137, scale=1.0, outputs=None, **settings):
    """Returns what `train_head` takes."""
    outputs = outputs or OUTPUTS[Task(task)]
    options = {"batch_size": 32, "epochs": 10} | settings
    if "penalty" not in settings:
        options.setdefault("learning_rate", 0.01)
    return {
        "task": Task(task),
        "training": make(Task(task), train, 1, scale=scale, outputs=outputs),
        "validation": make(Task(task), validation, 2, scale=scale, outputs=outputs),
        "settings": Settings.create(**options).head_settings(),
        "outputs": outputs,
        "seed": 3,
    }


def change(given, **settings):
    """Returns a case with other settings, also some that a user could not choose."""
    return given | {"settings": given["settings"].model_copy(update=settings)}


def weighted(given):
    """Returns a case whose training images count differently."""
    count = len(given["training"].vectors)
    weights = np.random.default_rng(7).choice([0, 0.5, 1, 4], count).astype(np.float32)
    return given | {"training": replace(given["training"], weights=weights)}


CASES = {
    "one of many": case("classes"),
    "one of many, sgd, class weights": case("classes", optimizer="sgd", class_weight="balanced"),
    "two": case("binary"),
    "two, sgd, decay, smoothing": case(
        "binary", optimizer="sgd", weight_decay=3, label_smoothing=0.2
    ),
    "labels": case("labels"),
    "number": case("number"),
    "two numbers": case("number", outputs=2),
    "number, some count more": weighted(case("number")),
    "two, class weights": case("binary", class_weight="balanced"),
    "some count more": weighted(case("classes")),
    "labels, some count more": weighted(case("labels")),
    "number, sgd": case("number", optimizer="sgd"),
    # Gradients near Adam's epsilon.
    "tiny vectors": case("classes", scale=1e-5),
    "one image, large batch": case("classes", train=1, validation=1, epochs=3),
    "inner layer, decay, smoothing": case(
        "classes", inner_units=12, weight_decay=3, label_smoothing=0.2
    ),
}
ONE_HOT = {"one of many, sgd, class weights", "inner layer, decay, smoothing"}


def scale_of(numbers):
    """Returns the means of training numbers (N, C), and their deviations."""
    return numbers.mean(axis=0), numbers.std(axis=0)


def for_keras(case, *, one_hot=False):
    """Says the same to Keras."""
    training, validation, settings = case["training"], case["validation"], case["settings"]
    outputs = case["outputs"]
    count, length = training.vectors.shape
    head = init_head(length, outputs, case["seed"], settings.inner_units)
    targets = [training.targets, validation.targets]
    if case["task"] is Task.NUMBER:
        # Heads learn numbers on the scale of a logit.
        mean, deviation = scale_of(training.targets)
        targets = [((numbers - mean) / deviation).astype(np.float32) for numbers in targets]
    if one_hot:
        targets = [np.eye(outputs, dtype=np.float32)[classes] for classes in targets]
    told = {
        "do": "fit",
        "task": "one-hot" if one_hot else str(case["task"]),
        "optimizer": str(settings.optimizer),
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "label_smoothing": settings.label_smoothing,
        "vectors": training.vectors,
        "targets": targets[0],
        "val_vectors": validation.vectors,
        "val_targets": targets[1],
        "order": batch_order(count, settings.batch_size, settings.epochs, case["seed"]),
    }
    for number, layer in enumerate(head.layers):
        told |= {f"kernel {number}": layer.kernel, f"bias {number}": layer.bias}
    if settings.class_weight is ClassWeight.BALANCED:
        labels = training.targets.ravel()
        told["class_weights"] = compute_class_weight(
            "balanced", classes=np.unique(labels), y=labels
        )
    if training.weights is not None:
        told["weights"] = training.weights / training.weights.mean()
    return told


def assert_same(case, keras):
    """Compares all epochs' figures and the kept head."""
    head, history = train_head(**case)
    figures = dict(keras["history"])
    # Ours is the loss without smoothing; what Keras calls so has it.
    figures.pop("plain", None)
    figures["val_loss"] = figures.pop("val_plain", figures["val_loss"])
    assert history.history.keys() == figures.keys()
    mean, deviation = np.float32(0), np.float32(1)
    if case["task"] is Task.NUMBER:
        mean, deviation = scale_of(case["training"].targets)
    # Of one number in its unit; several have none in common.
    unit = float(deviation[0]) if case["task"] is Task.NUMBER and case["outputs"] == 1 else 1.0
    powers = {"loss": 2, "val_loss": 2}
    for name, values in figures.items():
        wanted = np.array(values) * unit ** powers.get(name, 1)
        np.testing.assert_allclose(
            history.history[name], wanted, rtol=1e-5, atol=1e-4, err_msg=name
        )
    name, choose = ("val_loss", min) if case["task"] is Task.NUMBER else ("val_accuracy", max)
    assert history.row(history.best_epoch)[name] == choose(history.history[name])
    found = [array for layer in head.layers for array in layer]
    *inner, kernel, bias = map(np.array, keras["heads"][history.best_epoch - 1])
    expected = [*inner, kernel * deviation, bias * deviation + mean]
    for array, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=0, atol=3e-4)
    return history


@pytest.fixture(scope="module")
def keras_says(tmp_path_factory):
    told = {name: for_keras(case, one_hot=name in ONE_HOT) for name, case in CASES.items()}
    return ask(told, tmp_path_factory.mktemp("keras"))


@pytest.mark.system
@pytest.mark.parametrize("name", CASES)
def test_the_history_is_that_of_keras_fit(name, keras_says):
    assert_same(CASES[name], keras_says[name])


@pytest.mark.slow
def test_the_history_is_that_of_keras_fit_on_the_reference_vectors(
    reference_photos, xception_weights, tmp_path
):
    from topwork.data.dataset import Dataset
    from topwork.data.listing import Split
    from topwork.recipes.prepare import prepare_examples
    from topwork.vectors.extractors import prepare_networks

    settings = Settings.create(
        base="xception", image_size=150, interpolation="nearest", weights=xception_weights
    )
    dataset = Dataset.from_folder(reference_photos)
    prepared = prepare_examples(
        dataset.select(dataset.splits != Split.TEST),
        prepare_networks(settings, tmp_path),
        settings,
        tmp_path,
    )
    examples, split = prepared.examples, prepared.split
    training, validation = (
        LabeledVectors(examples.vectors[rows], examples.targets[rows])
        for rows in (split.training[0], split.held_out)
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


def weights_of(head):
    return np.concatenate([array.ravel() for layer in head.layers for array in layer])


@pytest.mark.parametrize("name", ["one of many", "two", "labels", "number"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name):
    head, history = train_head(**CASES[name])
    again, same = train_head(**CASES[name])
    other, different = train_head(**CASES[name] | {"seed": 2**32 - 1})
    assert weights_of(head).tobytes() == weights_of(again).tobytes()
    assert history == same
    assert not np.array_equal(weights_of(head), weights_of(other))
    assert history != different


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.1},
        {"learning_rate": 0.1, "dropout": 0.5, "normalize": True},
        {"head": "logistic", "penalty": 0.1, "normalize": True, "class_weight": "balanced"},
    ],
)
def test_the_kept_head_scores_what_the_history_says(settings):
    given = case("classes", **settings)
    head, history = train_head(**given)
    kept = history.row(history.best_epoch)
    validation = given["validation"]
    logits = head.logits(validation.vectors)
    accuracy = (logits.argmax(axis=1) == validation.targets).mean()
    chances = probabilities(Task.CLASSES, logits)[np.arange(len(logits)), validation.targets]
    assert history.epochs == (1 if "head" in settings else 10)
    assert "head" in settings or 1 < history.best_epoch < 10
    assert accuracy == pytest.approx(kept["val_accuracy"], abs=1e-6)
    assert -np.log(chances).mean() == pytest.approx(kept["val_loss"], rel=1e-4)


def test_dropout_makes_training_harder_and_each_time_in_the_same_way():
    dropping = case("classes", dropout=0.5)
    head, history = train_head(**dropping)
    again, same = train_head(**dropping)
    _, plain = train_head(**case("classes"))
    assert history == same
    assert weights_of(head).tobytes() == weights_of(again).tobytes()
    assert history.history["loss"][-1] > 1.1 * plain.history["loss"][-1]


def test_a_rate_at_which_it_diverges_is_named_with_a_smaller_one():
    with pytest.raises(
        TopworkError, match=r"none of the 10 epochs at learning rate 1e\+20; .*1e\+19"
    ):
        train_head(**change(CASES["number, sgd"], learning_rate=1e20))


@pytest.mark.parametrize(("rate", "smaller"), [(10, "1.0"), (0.3, "0.01"), (0.001, "0.0001")])
def test_the_proposed_rate_is_a_power_of_ten_below(rate, smaller):
    targets = CASES["one of many"]["validation"].targets
    huge = LabeledVectors(np.full((len(targets), 64), 3e38, np.float32), targets)
    given = change(CASES["one of many"], learning_rate=rate) | {"validation": huge}
    with pytest.raises(TopworkError, match=rf"learning rate {rate}; .*such as {smaller}$"):
        train_head(**given)


def test_a_head_from_before_it_diverged_is_kept():
    head, history = train_head(**change(CASES["number, sgd"], learning_rate=0.3))
    losses = history.history["val_loss"]
    assert not math.isfinite(losses[-1])
    kept = history.row(history.best_epoch)["val_loss"]
    assert kept == min(value for value in losses if math.isfinite(value))
    assert np.isfinite(weights_of(head)).all()


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
    empty = LabeledVectors(given[part].vectors[:0], given[part].targets[:0])
    with pytest.raises(DatasetError, match=f"{part} needs at least 1 vector"):
        train_head(**given | {part: empty})


@pytest.mark.parametrize(
    "settings",
    [{"inner_units": 12}, {"head": "logistic", "penalty": 0.01}],
    ids=["dense", "logistic"],
)
def test_normalizing_is_training_on_standardised_vectors(settings):
    given = case("classes", **settings)
    training, validation = given["training"], given["validation"]
    # The statistics are those of the training vectors; the others lie elsewhere.
    validation.vectors[:] = 3 * validation.vectors + 1
    # A value that is the same for every image, and one that is so in training.
    training.vectors[:, :2] = validation.vectors[:, :1] = np.float32(0.1)
    training.vectors[:, 2] *= 1000
    head, history = train_head(**change(given, normalize=True))

    scaler = StandardScaler().fit(training.vectors.astype(np.float64))
    scaled = {
        name: LabeledVectors(
            scaler.transform(given[name].vectors).astype(np.float32), given[name].targets
        )
        for name in ("training", "validation")
    }
    other, wanted = train_head(**given | scaled)
    assert history.best_epoch == wanted.best_epoch
    for name, values in wanted.history.items():
        np.testing.assert_allclose(history.history[name], values, atol=1e-4, err_msg=name)
    for name in ("training", "validation"):
        found = head.logits(given[name].vectors)
        np.testing.assert_allclose(found, other.logits(scaled[name].vectors), atol=1e-3)


def test_an_epoch_learns_from_the_next_view_and_padding_is_not_scored():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(637, 64)) * rng.uniform(0.1, 4, (637, 1))).astype(np.float32)
    examples = LabeledVectors(vectors, rng.integers(0, 10, 637).astype(np.int32))
    views = np.stack([rng.permutation(550)[:500] for _ in range(3)]).astype(np.int32)
    seen = rng.permutation(636)[:70].astype(np.int32)
    held_out = np.concatenate([seen, np.full(67, -1, np.int32)])
    # So small a rate leaves the head as it was.
    recipe = change(case("classes"), learning_rate=1e-30)["settings"]
    (fit,) = train_heads(examples, RowSplit(views, held_out), [recipe], 10, seed=7)

    logits = init_head(64, 10, 7).logits(vectors).astype(np.float64)
    losses = -log_softmax(logits, axis=1)[np.arange(637), examples.targets]
    right = logits.argmax(axis=1) == examples.targets
    epochs = [views[epoch % 3] for epoch in range(10)]
    wanted = {
        "loss": [losses[rows].mean() for rows in epochs],
        "accuracy": [right[rows].mean() for rows in epochs],
        "val_loss": [losses[seen].mean()] * 10,
        "val_accuracy": [right[seen].mean()] * 10,
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(fit.curve[name], values, rtol=1e-5, err_msg=name)
    assert len(set(wanted["loss"])) == 3


def test_a_logistic_head_learns_from_all_views_and_is_scored_on_the_images_themselves():
    given = case("classes", head="logistic", penalty=0.01)
    examples, split = join(given["training"], given["validation"])
    seen = split.held_out[:9]
    halves = RowSplit(split.training.reshape(2, -1), np.append(seen, np.int32([-1, -1])))
    (fit,) = train_heads(examples, halves, [given["settings"]], 10)
    (whole,) = train_heads(examples, split, [given["settings"]], 10)
    logits = fit.head.logits(examples.vectors)
    np.testing.assert_allclose(logits, whole.head.logits(examples.vectors), atol=1e-5)

    losses = -log_softmax(logits.astype(np.float64), axis=1)
    losses = losses[np.arange(637), examples.targets]
    right = logits.argmax(axis=1) == examples.targets
    wanted = {
        "loss": losses[:250].mean(),
        "accuracy": right[:250].mean(),
        "val_loss": losses[seen].mean(),
        "val_accuracy": right[seen].mean(),
    }
    assert fit.best_epoch == 1
    assert fit.curve == {name: [pytest.approx(value)] for name, value in wanted.items()}


# Three shapes in turn; one head of the first diverges.
RECIPES = [
    {"learning_rate": 0.01},
    {"head": HeadKind.LOGISTIC, "penalty": 0.1},
    {"learning_rate": 0.05, "inner_units": 12},
    {"learning_rate": math.inf},
    {"head": HeadKind.LOGISTIC, "penalty": 0.001, "class_weight": ClassWeight.BALANCED},
    {"learning_rate": 0.3, "label_smoothing": 0.1, "class_weight": ClassWeight.BALANCED},
    {"learning_rate": 0.1, "weight_decay": 0.5},
]


@cache
def train_alone(place):
    given = change(case("classes"), **RECIPES[place])
    (fit,) = train_heads(
        *join(given["training"], given["validation"]), [given["settings"]], 10, seed=3
    )
    return fit


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        ({}, [4, 1]),
        ({"most_heads": 2}, [2, 2, 1]),
        # Of 64 · 10 weights, or 64 · 12 with an inner layer, at least one head at a time.
        ({"most_weights": 64 * 12}, [1, 1, 1, 1, 1]),
    ],
)
def test_heads_keep_their_order_over_shapes_and_portions(limits, sizes, monkeypatch):
    train, found = training.train_many, []

    def spy(examples, split, recipes, *others):
        found.append(len(recipes))
        return train(examples, split, recipes, *others)

    monkeypatch.setattr(training, "train_many", spy)
    given = case("classes")
    recipes = [change(given, **recipe)["settings"] for recipe in RECIPES]
    examples, split = join(given["training"], given["validation"])
    fits = train_heads(examples, split, recipes, 10, seed=3, **limits)
    assert found == sizes
    assert [fit.settings for fit in fits] == recipes
    assert [fit.best_epoch for fit in fits].count(0) == 1
    for place, fit in enumerate(fits):
        alone = train_alone(place)
        assert fit.best_epoch == alone.best_epoch
        for name, values in alone.curve.items():
            np.testing.assert_allclose(fit.curve[name], values, rtol=1e-4, atol=1e-5)
        if alone.head is None:
            assert fit.head is None
        else:
            wanted = alone.head.logits(examples.vectors)
            np.testing.assert_allclose(fit.head.logits(examples.vectors), wanted, atol=1e-3)


def test_no_recipes_give_no_heads():
    given = case("classes")
    assert train_heads(*join(given["training"], given["validation"]), [], 10) == []


@pytest.mark.parametrize("seed", range(3))
def test_balanced_weights_are_those_of_scikit_learn(seed):
    labels = np.random.default_rng(seed).choice(4, 50, p=[0.6, 0.1, 0.05, 0.25]).astype(np.int32)
    (weights,) = balance(Task.CLASSES, labels, 4)
    present = np.unique(labels)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(
        weights[present], compute_class_weight("balanced", classes=present, y=labels), rtol=1e-6
    )


def test_a_class_without_images_weighs_nothing_and_the_mean_over_images_is_1():
    labels = np.int32([2, 0, 2, 2, 4])
    (weights,) = balance(Task.CLASSES, labels, 6)
    assert weights[[1, 3, 5]].tolist() == [0, 0, 0]
    assert weights[labels].mean() == pytest.approx(1)
    assert weights[0] == weights[4] == pytest.approx(3 * weights[2])


@pytest.mark.parametrize("seed", range(3))
def test_both_sides_of_each_label_are_balanced_as_by_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    targets = (rng.random((60, 3)) < [0.1, 0.5, 0.8]).astype(np.float32)
    targets[:2, :] = [[0], [1]]
    weights = balance(Task.LABELS, targets, 3)
    assert weights.shape == (2, 3) and weights.dtype == np.float32
    for n in range(3):
        wanted = compute_class_weight("balanced", classes=np.arange(2), y=targets[:, n])
        np.testing.assert_allclose(weights[:, n], wanted, rtol=1e-6)
    shares = weigh(Task.LABELS, targets, weights)
    np.testing.assert_allclose(shares, np.where(targets > 0, weights[1], weights[0]))
    np.testing.assert_allclose(shares.mean(axis=0), 1, rtol=1e-6)
    assert np.array_equal(balance(Task.BINARY, targets[:, :1], 1), weights[:, :1])


def test_a_label_that_all_images_agree_on_weighs_1_and_numbers_weigh_the_same():
    targets = np.float32([[1, 0], [1, 0], [1, 1], [1, 0]])
    weights = balance(Task.LABELS, targets, 2)
    assert weights[:, 0].tolist() == [0, 1]
    np.testing.assert_allclose(weights[:, 1], [4 / 6, 2])
    assert (balance(Task.NUMBER, targets, 2) == 1).all()
    labels = np.int32([2, 0, 2])
    by_class = balance(Task.CLASSES, labels, 3)
    assert weigh(Task.CLASSES, labels, by_class).tolist() == by_class[0][labels].tolist()


SOLVED = {"head": "logistic", "penalty": 0.02}
TASKS = ["classes", "binary", "labels", "number"]


@pytest.mark.parametrize("task", TASKS)
def test_a_solved_head_takes_a_weight_for_copies_and_none_for_absence(task):
    given = case(task, train=200, **SOLVED)
    training = given["training"]
    copies = np.random.default_rng(4).choice([0, 1, 2, 3], 200)
    rows = np.repeat(np.arange(200), copies)
    weighted = replace(training, weights=copies.astype(np.float32))
    copied = LabeledVectors(training.vectors[rows], training.targets[rows])
    head, history = train_head(**given | {"training": weighted})
    other, wanted = train_head(**given | {"training": copied})
    vectors = given["validation"].vectors
    np.testing.assert_allclose(head.logits(vectors), other.logits(vectors), atol=2e-2)
    assert history.history["val_loss"] == pytest.approx(wanted.history["val_loss"], rel=1e-2)
    plain, _ = train_head(**given)
    assert np.abs(head.logits(vectors) - plain.logits(vectors)).max() > 0.1


@pytest.mark.parametrize("task", TASKS[:3])
@pytest.mark.parametrize("settings", [SOLVED, {"epochs": 4}], ids=["solved", "dense"])
def test_the_weight_of_an_image_and_that_of_its_class_multiply(task, settings):
    given = weighted(case(task, train=200, **settings))
    training = given["training"]
    head, _ = train_head(**change(given, class_weight=ClassWeight.BALANCED))
    if task == "labels":
        plain, _ = train_head(**given)
        vectors = training.vectors
        assert np.abs(head.logits(vectors) - plain.logits(vectors)).max() > 0.01
        return
    own = weigh(Task(task), training.targets, balance(Task(task), training.targets, 10))
    own = own.reshape(200, -1)[:, 0] * training.weights / training.weights.mean()
    if "epochs" in settings:
        # There, the classes' weights do not change the mean over the images.
        own = own / own.mean()
    other, _ = train_head(**given | {"training": replace(training, weights=own)})
    vectors = given["validation"].vectors
    tolerance = 2e-2 if settings is SOLVED else 0.2
    np.testing.assert_allclose(head.logits(vectors), other.logits(vectors), atol=tolerance)


@pytest.mark.parametrize("task", TASKS)
def test_training_in_epochs_leaves_images_without_weight_alone(task):
    given = case(task, train=100, epochs=3, batch_size=100)
    training = given["training"]
    weights = np.ones(100, np.float32)
    weights[70:] = 0
    spoilt = training.targets.copy()
    spoilt[70:] = spoilt[:30]
    heads = []
    if task == "number":
        # Their scale is taken from all images, so it has to stay.
        spoilt[70:] = np.sort(training.targets[70:], axis=0)
    for targets in (training.targets, spoilt):
        changed = LabeledVectors(training.vectors, targets, weights)
        heads.append(train_head(**given | {"training": changed})[0])
    first, second = (head.logits(given["validation"].vectors) for head in heads)
    np.testing.assert_allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("settings", [{"learning_rate": 0.03, "epochs": 30}, SOLVED])
@pytest.mark.parametrize("normalize", [False, True])
def test_numbers_in_thousands_are_learnt_in_their_own_unit(settings, normalize):
    small = change(case("number", **settings), normalize=normalize)
    large = dict(small)
    for name in ("training", "validation"):
        part = small[name]
        large[name] = replace(part, targets=np.float32(1e5 + 4000 * (part.targets - 30)))
    (head, history), (other, wanted) = (train_head(**given) for given in (large, small))
    truth = large["validation"].targets
    errors = np.abs(head.logits(large["validation"].vectors) - truth)
    spread = np.abs(truth - truth.mean()).mean()
    kept = history.row(history.best_epoch)
    assert errors.mean() < 0.5 * spread
    assert kept["val_mae"] == pytest.approx(errors.mean(), rel=1e-3)
    assert kept["val_loss"] == pytest.approx(np.square(errors).mean(), rel=1e-3)
    # In another unit it is the same history.
    assert history.best_epoch == wanted.best_epoch
    for name, values in wanted.history.items():
        scale = 4000.0 ** (2 if name.endswith("loss") else 1)
        np.testing.assert_allclose(history.history[name], np.array(values) * scale, rtol=1e-3)
    vectors = small["validation"].vectors
    np.testing.assert_allclose(
        head.logits(vectors), 1e5 + 4000 * (other.logits(vectors) - 30), rtol=1e-3
    )


@pytest.mark.parametrize("settings", [{"learning_rate": 0.03, "epochs": 30}, SOLVED])
def test_a_number_is_learnt_as_well_beside_one_of_another_scale(settings):
    given = case("number", outputs=2, **settings)
    for name in ("training", "validation"):
        given[name].targets[:, 0] *= 10_000
    head, _ = train_head(**given)
    for n in range(2):
        alone = given | {
            name: replace(given[name], targets=given[name].targets[:, n : n + 1])
            for name in ("training", "validation")
        }
        other, _ = train_head(**alone | {"outputs": 1})
        truth = given["validation"].targets[:, n]
        vectors = given["validation"].vectors
        errors = np.abs(head.logits(vectors)[:, n] - truth).mean()
        assert errors == pytest.approx(np.abs(other.logits(vectors)[:, 0] - truth).mean(), rel=0.1)
        assert errors < 0.6 * np.abs(truth - truth.mean()).mean()


@pytest.mark.parametrize("settings", [{"epochs": 3}, SOLVED])
def test_a_number_that_is_always_the_same_is_learnt(settings):
    given = case("number", outputs=2, **settings)
    for name in ("training", "validation"):
        given[name].targets[:, 1] = 7
    head, history = train_head(**given)
    assert np.isfinite(history.history["val_loss"]).all()
    assert np.abs(head.logits(given["validation"].vectors)[:, 1] - 7).max() < 2


def test_a_solved_number_has_no_use_for_balance():
    given = case("number", **SOLVED)
    head, _ = train_head(**given)
    other, _ = train_head(**change(given, class_weight=ClassWeight.BALANCED))
    assert weights_of(head).tobytes() == weights_of(other).tobytes()


def rising(count=200):
    """Returns examples that a small step learns for long, of each of three classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count).astype(np.int32)
    vectors = (np.eye(3)[labels] @ rng.normal(size=(3, 20)) + rng.normal(size=(count, 20))) * 0.5
    split = RowSplit(np.arange(count - 60, dtype=np.int32)[None], np.arange(count - 60, count))
    return LabeledVectors(vectors.astype(np.float32), labels), replace(
        split, held_out=split.held_out.astype(np.int32)
    )


@pytest.mark.parametrize("most", [1, 5])
def test_a_head_goes_on_while_its_last_epoch_is_the_best(most):
    examples, split = rising()
    settings = Settings.create(learning_rate=0.001, epochs=2, dropout=0.2).head_settings()
    fit = train_on(examples, split, settings, 3, seed=3, most_epochs=most)
    assert fit.settings.epochs == len(fit.curve["loss"]) <= max(most, 2)
    longer = fit.settings
    # It is as if it had been asked for as many at once.
    (wanted,) = train_heads(examples, split, [longer], 3, seed=3)
    assert wanted.curve == fit.curve and wanted.best_epoch == fit.best_epoch
    assert fit.best_epoch < longer.epochs or longer.epochs == max(most, 2)
    (first,) = train_heads(examples, split, [settings], 3, seed=3)
    for name, values in first.curve.items():
        np.testing.assert_allclose(fit.curve[name][:2], values, rtol=1e-6)


def test_a_head_that_has_had_its_best_epoch_or_is_solved_does_not_go_on():
    examples, split = rising()
    settings = Settings.create(learning_rate=1, epochs=12).head_settings()
    fit = train_on(examples, split, settings, 3, most_epochs=100)
    assert fit.best_epoch < 12 == fit.settings.epochs
    settings = Settings.create(head="logistic", penalty=0.1, epochs=1).head_settings()
    assert train_on(examples, split, settings, 3, most_epochs=9).settings.epochs == 1
