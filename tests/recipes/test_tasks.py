"""Each task from a table of pictures to answers, as a user goes through it."""

import csv
import json
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from pictures import COLOURS, encode, picture
from PIL import Image
from sklearn.metrics import f1_score, mean_absolute_error, r2_score

import topwork
from topwork.core.config import Search, Settings
from topwork.core.errors import DatasetError, SettingsError
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.models import evaluate as evaluation
from topwork.models.folder import load_model
from topwork.recipes import train as pipeline

# Splits of the pictures, by their number.
TRAIN, VALIDATION, COUNT = 60, 80, 100


def paint(colour, seed):
    """Returns a picture of stripes whose colour is as strong as said, 0..1 for each."""
    stripes = [
        np.asarray(picture(np.array(own) * share, size=(16, 48), seed=seed))
        for own, share in zip(COLOURS.values(), colour, strict=True)
    ]
    return encode(Image.fromarray(np.concatenate(stripes, axis=1)))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A folder with pictures, a table of them for each task, and what is true of them."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(0)
    present = rng.random((COUNT, 3)) < 0.5
    shares = np.where(present, 1, 0.1)
    shares[:, 2] = rng.random(COUNT)  # how much red, in other pictures
    columns = {name: [] for name in ("classes", "binary", "labels", "flags", "number", "numbers")}
    for n in range(COUNT):
        split = "train" if n < TRAIN else "validation" if n < VALIDATION else "test"
        for kind, stripes in (
            ("set", np.where(present[n], 1, 0.1)),
            ("red", [0.3, 0.3, *shares[n, 2:]]),
        ):
            (folder / f"{kind}{n}.png").write_bytes(paint(stripes, n))
        one = n % 3
        (folder / f"one{n}.png").write_bytes(paint(np.eye(3)[one] * 0.9 + 0.1, n))
        price, kilos = 10_000 + 90_000 * shares[n, 2], 2 - shares[n, 2]
        names = [name for name, there in zip(COLOURS, present[n], strict=True) if there]
        columns["classes"].append((f"one{n}.png", split, [*COLOURS][one]))
        columns["binary"].append((f"one{n}.png", split, "warm" if one == 2 else "cold"))
        columns["labels"].append((f"set{n}.png", split, "; ".join(names)))
        columns["flags"].append((f"set{n}.png", split, *present[n].astype(int)))
        columns["number"].append((f"red{n}.png", split, f"{price:.2f}"))
        columns["numbers"].append((f"red{n}.png", split, f"{price:.2f}", f"{kilos:.4f}"))
    heads = {"flags": COLOURS, "number": ["price"], "numbers": ["price", "kilos"]}
    for name, rows in columns.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path", "split", *heads.get(name, ["label"])], *rows])
    return folder


OPTIONS = {
    "classes": {},
    "binary": {},
    "labels": {"label_separator": ";"},
    "flags": {"label_column": "blue,green,red"},
    "number": {"task": "number", "label_column": "price"},
    "numbers": {"task": "number", "label_column": "price,kilos"},
}
TASKS = {
    "classes": Task.CLASSES, "binary": Task.BINARY, "labels": Task.LABELS, "flags": Task.LABELS,
    "number": Task.NUMBER, "numbers": Task.NUMBER,
}  # fmt: skip
# Whole journeys take seconds each: the table that is least like the rest of the tests is gone
# through here, and the others with whole systems.
JOURNEYS = ["labels"] + [
    pytest.param(name, marks=pytest.mark.system) for name in sorted(OPTIONS.keys() - {"labels"})
]
SMALL = ("--image-size", 32, "--precision", "f32")


def flags(name):
    """Returns the options of a table as the command line takes them."""
    return [
        part
        for option, value in OPTIONS[name].items()
        for part in (f"--{option.replace('_', '-')}", value)
    ]


@pytest.fixture(scope="module")
def open_table(tables):
    return lambda name: Dataset.open(tables / f"{name}.csv", **OPTIONS[name])


@pytest.fixture(scope="module")
def train(open_table, store):
    """Trains on a table once, and saves the model beside it."""
    known = {}

    def train_once(name):
        if name not in known:
            settings = Settings.create(
                image_size=32, precision="f32", learning_rate=0.05, epochs=30
            )
            known[name] = pipeline.train(open_table(name), settings, store)
        return known[name]

    return train_once


@pytest.fixture(scope="module")
def save(train, tables):
    def save_once(name):
        path = tables / f"{name}.model"
        if not path.exists():
            train(name).save(path)
        return path

    return save_once


def test_parts(dataset, split):
    return dataset.select(dataset.splits == split)


test_parts.__test__ = False


@pytest.mark.parametrize("name", OPTIONS)
def test_what_the_pictures_show_is_learnt(name, train, open_table):
    dataset, trained = open_table(name), train(name)
    assert (dataset.task, trained.model.task) == (TASKS[name], TASKS[name])
    assert trained.model.head.outputs == dataset.outputs
    test = test_parts(dataset, "test")
    found = trained.model.predict(test.sources)
    match dataset.task:
        case Task.CLASSES | Task.BINARY:
            assert found.probabilities.shape == (20, len(dataset.classes))
            assert (found.probabilities.argmax(axis=1) == test.labels).mean() > 0.8
        case Task.LABELS:
            assert f1_score(test.labels, found.logits > 0, average="macro") > 0.85
        case Task.NUMBER:
            each = r2_score(test.labels, found.logits, multioutput="raw_values")
            assert (each > 0.5).all()


@pytest.mark.parametrize("name", OPTIONS)
def test_the_report_is_that_of_the_kept_head_on_validation(name, train, open_table):
    trained = train(name)
    validation = test_parts(open_table(name), "validation")
    found = trained.model.predict(validation.sources)
    kept = trained.model.history.row(trained.model.history.best_epoch)
    match TASKS[name]:
        case Task.NUMBER:
            value = mean_absolute_error(validation.labels, found.logits)
            assert name == "numbers" or kept["val_mae"] == pytest.approx(value, rel=1e-3)
        case Task.LABELS:
            value = ((found.logits > 0) == validation.labels).mean()
            assert kept["val_accuracy"] == pytest.approx(value)
        case _:
            value = (found.probabilities.argmax(axis=1) == validation.labels).mean()
            assert kept["val_accuracy"] == pytest.approx(value)
    assert trained.report.value == pytest.approx(value, rel=1e-3)
    assert trained.model.validation.value == trained.report.value
    assert trained.model.validation.metric == trained.report.metric == TASKS[name].metric
    assert json.loads(json.dumps(trained.to_json(), allow_nan=False))["task"] == TASKS[name]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_saved_model_comes_back_and_evaluates_the_same(name, train, save, open_table, store):
    model, again = train(name).model, load_model(save(name))
    for field in ("task", "classes", "validation", "settings", "data", "search", "images"):
        assert getattr(again, field) == getattr(model, field), field
    assert again.calibration.to_json() == model.calibration.to_json()
    test = test_parts(open_table(name), "test")
    np.testing.assert_allclose(
        again.predict(test.sources).logits, model.predict(test.sources).logits, rtol=1e-3, atol=1e-3
    )
    coverage = None if TASKS[name] is Task.LABELS else 0.8
    run = partial(evaluation.evaluate, dataset=open_table(name), split="test", store=store)
    first, second = (run(one, coverage=coverage).to_json() for one in (model, again))
    assert first == second
    assert json.loads(json.dumps(first, allow_nan=False))["images"] == 20
    if coverage:
        assert 0.5 < first["calibration"]["covered"] <= 1


@pytest.mark.system
@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"flags"}))
def test_stock_keras_predicts_the_same(name, save, tables, open_table, monkeypatch):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "jax")
    estimator = topwork.load(save(name))
    estimator.store = tables / "store"
    test = test_parts(open_table(name), "test")
    pixels = np.stack([np.asarray(Image.open(path).resize((32, 32))) for path in test.sources])
    vectors = estimator._logits(pixels)
    logits = np.asarray(estimator.to_keras().predict(np.float32(pixels), verbose=0))
    temperature = estimator.model_.temperature
    assert temperature > 0
    scale = np.abs(vectors).max(axis=0)
    np.testing.assert_allclose(logits / scale, vectors / scale, atol=2e-3)


@pytest.mark.parametrize("name", OPTIONS)
def test_estimators_answer_in_the_form_of_their_labels(name, save, open_table, store):
    estimator = topwork.load(save(name))
    estimator.store = store
    dataset = open_table(name)
    test = test_parts(dataset, "test")
    answers = estimator.predict(test.sources)
    if TASKS[name] is Task.NUMBER:
        assert isinstance(estimator, topwork.Regressor)
        assert answers.shape == ((20,) if name == "number" else (20, 2))
        wanted = r2_score(test.labels, answers)
    else:
        assert estimator.predict_proba(test.sources).shape == (20, len(dataset.classes))
        if TASKS[name] is Task.LABELS:
            assert set(np.unique(answers)) <= {0, 1}
            wanted = (answers == test.labels).all(axis=1).mean()
        else:
            assert set(answers) <= set(dataset.classes)
            wanted = (answers == np.array(dataset.classes)[test.labels]).mean()
    assert estimator.score(dataset) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("name", JOURNEYS)
def test_each_task_is_tuned(name, open_table, store):
    settings = Settings.create(image_size=32, precision="f32", epochs=3)
    # What varies without another program, so that it is soon done.
    pinned = frozenset(("normalize", "weight_decay", "dropout", "inner_units", "epochs"))
    tuning = pipeline.Tuning(Search.create(folds=2), pinned)
    found = pipeline.tune(open_table(name), settings, store, tuning)
    kinds = {str(trial.settings.head) for trial in found.trials}
    assert kinds == {"dense", "logistic"}
    weights = {str(trial.settings.class_weight) for trial in found.trials}
    assert ("balanced" in weights) == (TASKS[name] is not Task.NUMBER)
    assert {trial.metric for trial in found.trials} == {TASKS[name].metric}
    assert found.model.search.mean > 0


@pytest.mark.parametrize("name", JOURNEYS)
def test_a_preset_is_for_every_task(name, open_table, store, tmp_path):
    settings = Settings.create(preset="fast", image_size=32)
    found = pipeline.train(open_table(name), settings, store)
    number = TASKS[name] is Task.NUMBER
    assert found.model.settings.class_weight == ("none" if number else "balanced")
    found.save(tmp_path / "model")
    assert topwork.load(tmp_path / "model").class_weight == ("none" if number else "balanced")


@pytest.mark.parametrize("name", ["number", "numbers"])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"class_weight": "balanced"}, "class_weight: .* not for numbers, received balanced"),
        ({"label_smoothing": 0.1}, "label_smoothing: .* not for numbers, received 0.1"),
        ({"head": "logistic", "class_weight": "balanced"}, "class_weight: "),
    ],
)
def test_what_numbers_cannot_have_is_refused(name, values, said, open_table, store):
    settings = Settings.create(image_size=32, **values)
    for recipe in (pipeline.train, pipeline.tune):
        with pytest.raises(SettingsError, match=said):
            recipe(open_table(name), settings, store)


# The command line.


@pytest.fixture
def here(tables, monkeypatch):
    monkeypatch.chdir(tables)
    return tables


@pytest.mark.parametrize("name", JOURNEYS)
def test_train_evaluate_and_predict_fit_the_terminal(name, run, here, tmp_path):
    path = os.path.relpath(tmp_path / "m")
    monkey = ("--epochs", 3, "--learning-rate", 0.05)
    out = []
    for command in (
        ("train", f"{name}.csv", *flags(name), *SMALL, *monkey, "-o", path),
        ("evaluate", path, f"{name}.csv", *flags(name)),
        ("predict", path, "set1.png", "red2.png"),
    ):
        code, printed, err = run(*command)
        assert (code, err) == (0, "")
        out.append(printed.splitlines())
        # Paths, and what is to be copied, are not broken.
        ours = [line for line in out[-1] if path not in line]
        assert all(len(line) <= 80 for line in ours), ours
    said = {
        Task.CLASSES: "Found 100 images of 3 classes in",
        Task.BINARY: "Found 100 images of 2 classes in",
        Task.LABELS: "Found 100 images of 3 labels in",
        Task.NUMBER: "Found 100 images with a number, price, in",
    }
    first = "Found 100 images of 2 numbers in" if name == "numbers" else said[TASKS[name]]
    assert out[0][0].startswith("Columns, guessed: images from path")
    assert next(line for line in out[0] if line.startswith("Found ")).startswith(first)
    outputs = {"classes": 3, "binary": 1, "number": 1, "numbers": 2}.get(name, 3)
    assert any(f"OUTPUTS (32, {outputs})" in line for line in out[0])
    heading = "mean absolute error" if TASKS[name] is Task.NUMBER else "accuracy"
    assert any(line.startswith(f"Test images: {heading} ") for line in out[1])
    assert len(out[2]) == 2 and out[2][0].startswith("set1.png: ")


def predict_json(run, path, *options):
    code, out, err = run("predict", path, "set1.png", "red2.png", "--json", *options)
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_json_of_numbers(run, save, here):
    path = save("numbers")
    plain, ranged = predict_json(run, path), predict_json(run, path, "--coverage", 0.8)
    widths = load_model(path).calibration.half_widths(0.8)
    for answer, other in zip(plain, ranged, strict=True):
        assert answer.keys() == {"path", "numbers"}
        assert [number["name"] for number in answer["numbers"]] == ["price", "kilos"]
        assert all(number.keys() == {"name", "value"} for number in answer["numbers"])
        for n, number in enumerate(other["numbers"]):
            assert number["value"] == answer["numbers"][n]["value"]
            low, high = number["range"]
            assert (high - low) / 2 == pytest.approx(widths[n])
            assert (high + low) / 2 == pytest.approx(number["value"])
    # Too many for 20 validation images to promise.
    (number, _), _ = (a["numbers"] for a in predict_json(run, path, "--coverage", 0.999))
    assert number["range"] == [None, None]


def test_json_of_labels(run, save, here):
    for answer in predict_json(run, save("labels"), "--top", 2):
        assert answer.keys() == {"path", "predictions", "present"}
        assert len(answer["predictions"]) == 2
    (first, _) = predict_json(run, save("labels"))
    chances = {p["label"]: p["probability"] for p in first["predictions"]}
    assert list(chances.values()) == sorted(chances.values(), reverse=True)
    assert first["present"] == [name for name, chance in chances.items() if chance > 0.5]


def test_json_of_two_classes(run, save, here):
    options = ("--coverage", 0.8, "--abstain-below", 0.75)
    for answer in predict_json(run, save("binary"), *options):
        assert answer.keys() == {"path", "predictions", "abstained", "labels"}
        first, second = answer["predictions"]
        assert first["probability"] + second["probability"] == pytest.approx(1)
        assert answer["abstained"] == (first["probability"] < 0.75)
        assert first["label"] in answer["labels"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("labels", ("--coverage", 0.9), "coverage: is for one of many classes or for numbers"),
        ("labels", ("--abstain-below", 0.9), "abstain_below: is for one of many classes, not for"),
        ("number", ("--abstain-below", 0.9), "abstain_below: is for one of many classes, not for"),
        ("binary", ("--abstain-below", 1.1), "abstain_below: must be 0 to 1, received 1.1"),
        ("number", ("--coverage", 1), "coverage must lie between 0 and 1"),
    ],
)
def test_what_a_task_cannot_answer_is_refused(name, options, said, run, save, here):
    path = save(name)
    for command in (("predict", path, "set1.png"), ("evaluate", path, f"{name}.csv", *flags(name))):
        code, out, err = run(*command, *options)
        assert code == 2
        assert said in err
        # Nothing but what was guessed of the table.
        assert not out or out.startswith("Columns, guessed: ")
        assert len(out.splitlines()) <= 2


@pytest.mark.parametrize("options", [("--class-weight", "balanced"), ("--label-smoothing", 0.1)])
@pytest.mark.parametrize("command", ["train", "tune"])
def test_options_of_classes_are_refused_for_numbers(command, options, run, here, tmp_path):
    code, out, err = run(
        command, "number.csv", *flags("number"), *SMALL, *options, "-o", tmp_path / "m"
    )
    assert code == 2 and out.startswith("Columns, guessed: ") and len(out.splitlines()) <= 2
    assert "not for numbers" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("number", "labels", "trained for the task number, received labels for the task labels"),
        ("labels", "number", "trained for the task labels, received labels for the task number"),
        ("number", "numbers", "answers with 1 numbers, the data has 2"),
        ("classes", "binary", "knows the classes blue, green, red; the data also has cold, warm"),
        ("binary", "classes", "knows the classes cold, warm; the data also has blue"),
    ],
)
def test_data_of_another_task_is_refused(model, data, said, train, open_table, store):
    with pytest.raises(DatasetError, match=said):
        evaluation.evaluate(train(model).model, open_table(data), "test", store)


def test_a_model_of_two_classes_is_tested_on_images_of_one(run, save, here, tmp_path):
    lines = (here / "binary.csv").read_text().splitlines()
    kept = [lines[0], *(line for line in lines if ",test,warm" in line)]
    (here / "warm.csv").write_text("\n".join(kept))
    code, out, err = run("evaluate", save("binary"), "warm.csv", "--json")
    assert code == 0, err
    content = json.loads(out)
    assert content["support"] == [0, len(kept) - 1]


def test_weights_of_rows_reach_the_head(open_table, store, tables):
    header, *rows = (tables / "number.csv").read_text().splitlines()
    lines = [f"{header},weight"]
    for n, row in enumerate(rows):
        # A third of the images have wrong numbers, and do not count.
        spoilt = n < TRAIN and n % 3 == 0
        lines.append(f"{row.rpartition(',')[0]},{n % 2}000000,0" if spoilt else f"{row},1")
    (tables / "weighed.csv").write_text("\n".join(lines))
    dataset = Dataset.open(tables / "weighed.csv", **OPTIONS["number"])
    settings = Settings.create(image_size=32, precision="f32", head="logistic", penalty=0.01)
    test = test_parts(dataset, "test").sources
    weighed, without, blind = (
        pipeline.train(data, settings, store).model.predict(test).logits
        for data in (
            dataset,
            dataset.select(dataset.weights > 0),
            replace(dataset, weights=None),
        )
    )
    np.testing.assert_allclose(weighed, without, rtol=1e-3)
    assert np.abs(blind - without).max() > 10_000
