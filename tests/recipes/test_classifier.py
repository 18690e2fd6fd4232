import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from pictures import COLOURS, encode, picture
from PIL import Image
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks as checks

import topwork
from topwork.core.config import Preset, Settings
from topwork.core.errors import DatasetError, ModelError, SettingsError
from topwork.core.task import Task
from topwork.data.checks import weigh
from topwork.heads.dense import Dense, Head
from topwork.recipes import train as pipeline

SMALL = {
    "image_size": 32,
    "epochs": 10,
    "learning_rate": 0.01,
    "batch_size": 8,
    "precision": "f32",
}


def make(**changes):
    return topwork.Classifier(**SMALL | changes)


@pytest.fixture(scope="module")
def images(photos):
    """Paths and labels, 36 images of three colours."""
    paths = [p for p in sorted(photos.rglob("*.png")) if p.parent.parent.name != "test"]
    return [str(path) for path in paths], [path.parent.name for path in paths]


@pytest.fixture(scope="module")
def fitted(images, store):
    return make(store=store).fit(*images)


@pytest.fixture(scope="module")
def new_images():
    """A few that no classifier was trained on."""
    return [encode(picture(colour, seed=900 + n)) for n, colour in enumerate(COLOURS.values())]


def run_python(code, *args, **env):
    """Runs code in a fresh process and returns the JSON it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, args)],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The checks that feed numbers to `fit` have no meaning for images.
@pytest.mark.parametrize(
    "check",
    [
        checks.check_do_not_raise_errors_in_init_or_set_params,
        checks.check_estimator_cloneable,
        checks.check_estimator_repr,
        checks.check_estimator_tags_renamed,
        checks.check_estimators_unfitted,
        checks.check_get_params_invariance,
        checks.check_mixin_order,
        checks.check_no_attributes_set_in_init,
        checks.check_parameters_default_constructible,
        checks.check_set_params,
        checks.check_valid_tag_types,
    ],
)
def test_scikit_learn_finds_its_manners(check):
    check("Classifier", topwork.Classifier())


def test_parameters_are_read_set_and_cloned(fitted):
    classifier = make(optimizer="sgd", seed=3)
    assert classifier.get_params()["optimizer"] == "sgd"
    assert classifier.set_params(seed=4, base="xception") is classifier
    assert clone(classifier).get_params() == classifier.get_params()
    assert clone(fitted).get_params() == fitted.get_params()
    assert not hasattr(clone(fitted), "model_")
    with pytest.raises(ValueError, match="Invalid parameter 'epoch'"):
        classifier.set_params(epoch=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer", "adamw"), ("epochs", 0), ("learning_rate", -1), ("image_size", 16),
        ("base", "no-such-base"), ("seed", None), ("precision", "f16"), ("strict", "perhaps"),
        ("learning_rate", "fast"), ("preset", "fastest"), ("head", "svm"), ("views", -1),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named_when_fitting(name, value, images):
    with pytest.raises(SettingsError, match=f"{name}.*{value}"):
        make(**{name: value}).fit(*images)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda c, p, y: c.fit(p), "a label for each"),
        (lambda c, p, y: c.fit(p, y[1:]), "36 images and 35 labels"),
        (lambda c, p, y: c.fit(p, ["red"] * 36), "2 classes"),
        (lambda c, p, y: c.fit([], []), "at least one image"),
        (lambda c, p, y: c.fit(p[0], y[:1]), "a list of images"),
        (lambda c, p, y: c.fit(topwork.Dataset.from_sources(p, y), y), "its own labels"),
    ],
)
def test_what_cannot_be_fitted_says_why(call, reason, images):
    with pytest.raises(DatasetError, match=reason):
        call(make(), *images)


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.predict(["a.jpg"]),
        lambda c: c.predict_proba(["a.jpg"]),
        lambda c: c.score(["a.jpg"], ["a"]),
        lambda c: c.score(topwork.Dataset.from_sources(["a.jpg", "b.jpg"], ["a", "b"])),
        lambda c: c.save("model"),
        lambda c: c.to_keras(),
    ],
)
def test_before_fit_there_is_nothing_to_use(call):
    with pytest.raises(NotFittedError):
        call(topwork.Classifier())


def test_probabilities_are_rows_in_the_order_of_the_classes(fitted, images, new_images):
    paths, _ = images
    assert fitted.classes_.tolist() == ["blue", "green", "red"]
    chances = fitted.predict_proba(paths)
    assert chances.shape == (36, 3)
    assert chances.dtype == np.float32
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
    assert np.array_equal(fitted.predict(paths), fitted.classes_[chances.argmax(axis=1)])
    assert fitted.predict(new_images).tolist() == list(COLOURS)
    assert fitted.skipped_ == ()


def test_many_images_are_predicted_as_few_are(fitted, images):
    paths, _ = images
    many = fitted.predict_proba(paths)
    few = np.concatenate([fitted.predict_proba(paths[n : n + 9]) for n in range(0, 36, 9)])
    np.testing.assert_allclose(many, few, atol=1e-5)


@pytest.mark.parametrize("kind", ["Path", "bytes", "uint8 array", "Dataset"])
def test_images_are_taken_in_any_form(kind, fitted, images, new_images):
    paths, labels = images
    given = {
        "Path": lambda: ([Path(p) for p in paths], labels),
        "bytes": lambda: ([Path(p).read_bytes() for p in paths], labels),
        "uint8 array": lambda: (np.stack([np.asarray(Image.open(p)) for p in paths]), labels),
        "Dataset": lambda: (topwork.Dataset.from_sources(paths, labels),),
    }[kind]()
    classifier = make()
    assert classifier.fit(*given) is classifier
    assert classifier.classes_.tolist() == fitted.classes_.tolist()
    np.testing.assert_allclose(
        classifier.predict_proba(new_images), fitted.predict_proba(new_images), atol=1e-5
    )
    np.testing.assert_allclose(
        classifier.predict_proba(given[0]), fitted.predict_proba(paths), atol=1e-5
    )


@pytest.mark.parametrize(
    "named",
    [
        {"red": "r", "green": "g\u00fcn", "blue": "b"},
        {"red": 10, "green": 9, "blue": -1},
        {"red": True, "green": False, "blue": False},
        {"red": 1.0, "green": 2.0, "blue": 10.0},
    ],
)
def test_labels_keep_their_dtype(named, images, new_images):
    paths, colours = images
    labels = np.array([named[colour] for colour in colours])
    classifier = make().fit(paths, labels)
    assert classifier.classes_.dtype == labels.dtype
    assert classifier.classes_.tolist() == sorted({*named.values()})
    assert classifier.predict(paths).dtype == labels.dtype
    assert classifier.predict(new_images).tolist() == [named[colour] for colour in COLOURS]
    assert classifier.score(paths, labels) > 0.9


NFC, NFD = (unicodedata.normalize(form, "\u00e9t\u00e9") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("named", "given"),
    [
        ({"blue": 2, "green": 9, "red": 10}, np.int64),
        ({"blue": -1, "green": 3, "red": 11}, object),
        ({"blue": False, "green": True}, bool),
        ({"blue": -2.0, "green": 1.5, "red": 10.0}, np.float32),
        ({"blue": NFD, "green": "f", "red": "z"}, str),
        ({"blue": NFC, "green": "f", "red": "z"}, str),
        ({"blue": "f", "green": "z", "red": NFD}, object),
        ({"blue": "z", "green": "f", "red": NFD}, str),
    ],
)
def test_one_mapping_orders_classes_labels_and_probabilities(named, given, fitted, images):
    paths, labels, classifier = relabel(fitted, images, named, given)
    assert classifier.classes_.tolist() == sorted({*labels.tolist()})
    assert classifier.classes_.dtype.kind == labels.dtype.kind
    chances = classifier.predict_proba(paths)
    right = np.mean(classifier.predict(paths) == labels)
    assert right > 0.9
    assert classifier.score(paths, labels) == pytest.approx(right)
    assert np.array_equal(classifier.classes_[chances.argmax(axis=1)], classifier.predict(paths))
    truth = np.searchsorted(classifier.classes_, labels)
    shown = chances if len(named) > 2 else chances[:, 1]
    assert roc_auc_score(truth, shown, multi_class="ovr") > 0.95


def relabel(fitted, images, named, given):
    """A classifier that was trained with other labels: its head's outputs in their order."""
    colours = np.array(images[1])
    kept = np.isin(colours, [*named])
    paths, colours = np.array(images[0])[kept].tolist(), colours[kept]
    labels = np.array([named[colour] for colour in colours], given)
    dataset = topwork.Dataset.from_sources(paths, labels)
    order = [fitted.model_.classes.index(colours[list(dataset.labels).index(n)])
             for n in range(len(dataset.classes))]  # fmt: skip
    (layer,) = fitted.model_.head.layers
    kernel, bias = layer.kernel[:, order], layer.bias[order]
    if dataset.task is Task.BINARY:
        kernel, bias = kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
    classifier = topwork.Classifier()
    classifier._take(
        replace(
            fitted.model_,
            classes=dataset.classes,
            task=dataset.task,
            head=Head((Dense(kernel, bias),)),
            class_labels=dataset.class_labels,
        )
    )
    return paths, labels, classifier


def test_labels_in_two_encodings_are_one_class(fitted, images):
    mixed = {"blue": NFC, "green": "f", "red": "z"}
    paths, labels, classifier = relabel(fitted, images, mixed, object)
    score = classifier.score(paths, labels)
    labels[::2] = [unicodedata.normalize("NFD", label) for label in labels[::2]]
    assert len({*labels}) == 4
    dataset = topwork.Dataset.from_sources(paths, labels)
    assert dataset.classes == ("f", "z", NFC)
    assert dataset.class_labels.values == dataset.classes
    assert classifier.predict_proba(paths).shape == (len(paths), 3)
    assert classifier.score(paths, labels) == score > 0.9


def test_numbers_are_scored_as_their_texts_and_the_other_way_round(fitted, images):
    named = {"blue": 2, "green": 9, "red": 10}
    paths, labels, classifier = relabel(fitted, images, named, int)
    score = classifier.score(paths, labels)
    texts = relabel(fitted, images, {key: str(value) for key, value in named.items()}, str)[2]
    assert texts.classes_.tolist() == ["10", "2", "9"]
    assert roc_auc_score(labels.astype(str), texts.predict_proba(paths), multi_class="ovr") > 0.95
    assert classifier.score(paths, labels.astype(float)) == score
    for other in (labels.astype(str), labels[:, None], labels.tolist()):
        assert classifier.score(paths, other) == texts.score(paths, other) == score
    with pytest.raises(DatasetError, match=r"knows the classes 2, 9, 10, and none .* as 'cat'"):
        classifier.score(paths, ["cat"] * len(paths))


def test_a_model_without_the_labels_type_gives_sorted_texts(fitted, saved, images, tmp_path):
    """As Topwork wrote models at first."""
    _, labels, classifier = relabel(fitted, images, {"blue": 2, "green": 9, "red": 10}, int)
    model = replace(classifier.model_, class_labels=None)
    old = topwork.Classifier()
    old._take(model)
    assert old.classes_.tolist() == ["10", "2", "9"]
    assert np.array_equal(old.predict(images[0]), classifier.predict(images[0]).astype(str))
    assert np.array_equal(
        old.predict_proba(images[0]), classifier.predict_proba(images[0])[:, [2, 0, 1]]
    )
    assert old.score(images[0], labels) > 0.9
    assert "class_labels" in json.loads((saved / "model.json").read_text())


def test_weights_of_images_count_in_training(images, new_images):
    paths, labels = images
    # What has a weight of 0 is not learnt from, whatever its label says.
    weights = np.ones(len(paths))
    weights[::3] = 0
    wrong = [sorted(COLOURS)[n % 2] if not weights[n] else label for n, label in enumerate(labels)]
    classifier = make().fit(paths, wrong, weights)
    assert classifier.predict(new_images).tolist() == list(COLOURS)
    assert classifier.model_.data.columns == {}
    for bad, reason in [
        (weights[1:], r"one for each of 36 images, received shape \(35,\)"),
        (np.where(weights, weights, -1), r"received -1.0 for image 0"),
        (np.where(weights, weights, np.nan), r"received nan for image 0"),
        (np.where(weights, weights, np.inf), r"received inf for image 0"),
        (["a"] * 36, "weights must be numbers"),
        (1.0, r"received shape \(\)"),
        (np.zeros(36), "every training image has weight 0"),
    ]:
        with pytest.raises(DatasetError, match=reason):
            make().fit(paths, wrong, sample_weight=bad)
    dataset = topwork.Dataset.from_sources(*images)
    without = weigh(dataset, dataset.labels != 1)
    assert [note.text for note in without.notes] == [
        f"Every image of {dataset.classes[1]} has weight 0: nothing of it is learnt"
    ]
    assert weigh(dataset, np.arange(36)).notes == ()
    dataset = replace(topwork.Dataset.from_sources(*images), weights=weights.astype(np.float32))
    with pytest.raises(DatasetError, match="weights of its own"):
        make().fit(dataset, sample_weight=weights)


@pytest.mark.parametrize("count", [2, 35])
def test_the_others_are_answered_where_an_image_is_bad(count, fitted, images):
    classifier = topwork.Classifier()
    classifier._take(fitted.model_)
    paths = images[0][:count]
    failed = {}
    found = classifier.predict([paths[0], b"no image", *paths[1:], "none.png"], failed=failed)
    assert {index: reason[:12] for index, reason in failed.items()} == {
        1: "not an image", count + 1: "there is no ",
    }  # fmt: skip
    assert found.mask.tolist() == [n in failed for n in range(count + 2)]
    assert found.compressed().tolist() == classifier.predict(paths).tolist()
    failed = {}
    chances = classifier.predict_proba([b"no image", *paths], failed=failed)
    assert failed.keys() == {0}
    assert chances.mask.all(axis=1).tolist() == [True] + [False] * count
    np.testing.assert_allclose(chances[1:].data, classifier.predict_proba(paths), atol=1e-5)
    failed = {}
    assert not classifier.predict(paths, failed=failed).mask.any()
    assert failed == {}
    assert classifier.predict([b"a", b"b"], failed=failed).mask.all()
    failed = {}
    found = classifier.predict([None, b"no image", paths[0], float("nan")], failed=failed)
    assert failed == {0: "there is no image", 1: failed[1], 3: "there is no image"}
    assert found.mask.tolist() == [True, True, False, True]
    assert found[2] == classifier.predict(paths[:1])[0]


def test_a_prediction_needs_no_store_that_can_be_written(fitted, images, photos, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    classifier = topwork.Classifier(store=tmp_path / "file" / "store")
    classifier._take(fitted.model_)
    wanted = fitted.model_.predict([Path(path) for path in images[0]]).probabilities
    np.testing.assert_allclose(classifier.predict_proba(images[0]), wanted, atol=1e-5)
    assert classifier.score(*images) > 0.9
    assert classifier.score(topwork.Dataset.from_folder(photos)) > 0.9


def test_score_is_the_accuracy(fitted, images, photos):
    paths, _ = images
    right = fitted.predict(paths)
    labels = right.copy()
    labels[:9] = np.where(labels[:9] == "red", "blue", "red")
    assert fitted.score(paths, labels) == pytest.approx(27 / 36)
    weights = np.r_[np.full(9, 5.0), np.ones(27)]
    assert fitted.score(paths, labels, weights) == pytest.approx(27 / 72)
    with pytest.raises(DatasetError, match="a label for each"):
        fitted.score(paths)


def test_score_of_a_dataset_is_of_its_test_split(fitted, photos):
    paths = sorted((photos / "test").rglob("*.png"))
    labels = ["red", "red", *(path.parent.name for path in paths[2:])]  # two are wrong
    dataset = topwork.Dataset.from_folder(photos)
    places = np.flatnonzero(dataset.splits == "test")
    dataset.labels[places[:2]] = sorted(COLOURS).index("red")
    assert fitted.score(dataset) == pytest.approx(fitted.score(paths, labels))
    assert 0.5 < fitted.score(dataset) <= 10 / 12
    labels = ["red"] * len(dataset)
    with pytest.raises(DatasetError, match="its own labels"):
        fitted.score(dataset, labels)
    with pytest.raises(DatasetError, match="its own labels"):
        fitted.score(dataset, sample_weight=np.ones(len(dataset)))


def test_a_bad_test_image_is_left_out_of_the_score_and_said(fitted, photos, tmp_path):
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    (tmp_path / "test" / "red" / "bad.png").write_bytes(b"no image")
    dataset = topwork.Dataset.from_folder(tmp_path)
    with pytest.warns(UserWarning, match=r"1 images.*test/red/bad.png: .*not an image") as caught:
        score = fitted.score(dataset)
    assert caught[0].filename == __file__
    assert score == fitted.score(topwork.Dataset.from_folder(photos))
    strict = pickle.loads(pickle.dumps(fitted)).set_params(strict=True)
    with pytest.raises(DatasetError, match=r"bad\.png"):
        strict.score(dataset)


@pytest.mark.parametrize("count", [2, 36])
def test_a_bad_image_to_predict_is_named(count, fitted, images, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    given = [*images[0][: count - 1], tmp_path / "bad.png"]
    for call in (fitted.predict, fitted.predict_proba):
        with pytest.raises(DatasetError, match=r"bad\.png: .*not an image"):
            call(given)
    with pytest.raises(DatasetError, match=r"image 1: .*not an image"):
        fitted.predict([images[0][0], b"no image"])


def test_bad_images_are_left_out_of_fit_with_a_warning_that_names_them(images, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    missing = tmp_path / "none.png"
    given = [*images[0], tmp_path / "bad.png", missing], [*images[1], "red", "red"]
    with pytest.warns(UserWarning, match=r"2 images .*see skipped_") as caught:
        classifier = make().fit(*given)
    assert caught[0].filename == __file__
    reasons = {Path(item.path).name: item.reason for item in classifier.skipped_}
    assert reasons.keys() == {"bad.png", "none.png"}
    assert "not an image" in reasons["bad.png"]
    assert "no such file" in reasons["none.png"]
    with pytest.raises(DatasetError, match=r"(bad|none)\.png"):
        make(strict=True).fit(*given)


FOLDS = StratifiedKFold(2, shuffle=True, random_state=0)


@pytest.fixture(scope="module")
def deep():
    """Grey pictures of 12 bits in 16: dark ones and bright ones."""
    generator = np.random.default_rng(0)
    labels = ["dark", "bright"] * 8
    levels = [1000 if label == "dark" else 3000 for label in labels]
    values = [generator.normal(level, 300, (32, 32)).clip(0, 4095) for level in levels]
    return [encode(Image.fromarray(array.astype(np.uint16))) for array in values], labels


def test_the_range_of_16_bits_is_guessed_once_said_and_kept(deep, store, tmp_path):
    files, _ = deep
    with pytest.warns(UserWarning, match=r"uint16 pixels are read as 0\.\.4095.*--range"):
        classifier = make(store=store).fit(*deep)
    model = classifier.model_
    assert model.ranges == model.settings.range == "uint16 0..4095"
    classifier.save(tmp_path / "deep.model")
    loaded = topwork.load(tmp_path / "deep.model")
    assert loaded.model_.ranges == "uint16 0..4095"
    # One picture alone has another range, and many come from the store.
    for count in (1, len(files), 3 * len(files)):
        asked = (3 * files)[:count]
        assert loaded.predict(asked).tolist() == classifier.predict(asked).tolist()
        assert np.allclose(loaded.predict_proba(asked), classifier.predict_proba(asked))
    opened = [Image.open(io.BytesIO(data)) for data in files]
    assert np.array_equal(classifier.predict_proba(opened), classifier.predict_proba(files))


def test_a_range_that_is_said_is_not_guessed(deep, store):
    model = make(store=store, range="0..3500").fit(*deep).model_
    assert model.ranges == model.settings.range == "0..3500"


def test_it_is_cross_validated(images):
    scores = cross_val_score(make(), *images, cv=FOLDS)
    assert scores.shape == (2,)
    assert scores.min() > 0.8


@pytest.mark.slow
def test_cross_validation_in_two_processes_gives_the_same(images):
    alone, together = (cross_val_score(make(), *images, cv=FOLDS, n_jobs=n) for n in (1, 2))
    assert np.array_equal(alone, together)


def test_a_grid_search_finds_the_learning_rate(images, new_images):
    search = GridSearchCV(make(), {"learning_rate": [1e-6, 0.01]}, cv=FOLDS).fit(*images)
    assert search.best_params_ == {"learning_rate": 0.01}
    assert search.predict(new_images).tolist() == list(COLOURS)


@pytest.mark.system
def test_a_grid_search_over_two_options_trains_only_heads(images, new_images, store, monkeypatch):
    make(store=store).fit(*images)
    monkeypatch.setattr("topwork.vectors.extractors.OpenVINOEngine", None)  # every vector is there
    grid = {"learning_rate": [1e-6, 0.01], "weight_decay": [0.0, 0.1]}
    search = GridSearchCV(make(store=store), grid, cv=2).fit(*images)
    assert search.best_params_["learning_rate"] == 0.01
    tried = [(p["learning_rate"], p["weight_decay"]) for p in search.cv_results_["params"]]
    assert len({*tried}) == 4
    scores = dict(zip(tried, search.cv_results_["mean_test_score"], strict=True))
    assert scores[0.01, 0.0] > scores[1e-6, 0.0]
    assert search.best_estimator_.model_.settings.weight_decay in grid["weight_decay"]
    monkeypatch.undo()
    assert search.predict(new_images).tolist() == list(COLOURS)


@pytest.fixture(scope="module")
def tuned(photos, store):
    """Chosen among few recipes: the rest is pinned."""
    return topwork.tune(photos, folds=2, store=store, **PINNED)


PINNED = {"image_size": 32, "precision": "f32", "epochs": 3, "head": "dense", "dropout": 0,
          "inner_units": 0, "weight_decay": 0, "label_smoothing": 0}  # fmt: skip


def test_tune_returns_a_fitted_classifier_whose_arguments_are_what_was_chosen(
    tuned, photos, new_images
):
    assert tuned.classes_.tolist() == sorted(COLOURS)
    assert tuned.predict(new_images).tolist() == list(COLOURS)
    assert len(tuned.trials_) > 20
    found = tuned.get_params()
    assert {name: found[name] for name in PINNED} == PINNED
    chosen = tuned.model_.settings
    assert found["learning_rate"] == chosen.learning_rate
    assert found["normalize"] == chosen.normalize
    assert any(trial.settings == chosen.head_settings() for trial in tuned.trials_)
    again = clone(tuned).fit(topwork.Dataset.from_folder(photos))
    assert again.history_ == tuned.history_
    assert again.trials_ == ()


def test_tune_writes_its_trials_down_and_goes_on_from_them(tuned, photos, store, tmp_path):
    trials = tmp_path / "trials.jsonl"
    first = topwork.tune(photos, trials=trials, budget=6, folds=2, store=store, **PINNED)
    lines = trials.read_text().splitlines()
    assert len(lines) == 6
    assert len(first.trials_) == 3
    dataset = topwork.Dataset.from_folder(photos)
    again = topwork.tune(dataset, trials=str(trials), budget="6", folds=2, store=store, **PINNED)
    assert trials.read_text().splitlines() == lines
    assert again.get_params() == first.get_params()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"folds": 1}, "folds: .*received 1"),
        ({"budget": 0}, "budget: .*received '0'"),
        ({"budget": "-5s"}, "budget: .*received '-5s'"),
        ({"seeds": 0}, "seeds: .*received 0"),
        ({"epoch": 3}, "unknown setting 'epoch'"),
        ({"head": "logistic", "dropout": 0.5}, "the logistic head has no dropout"),
    ],
)
def test_a_search_that_cannot_be_is_refused(values, reason, photos):
    with pytest.raises(SettingsError, match=reason):
        topwork.tune(photos, image_size=32, **values)


def test_bad_images_are_left_out_of_a_search_with_a_warning(photos, store, tmp_path):
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    (tmp_path / "train" / "red" / "bad.png").write_bytes(b"no image")
    plan = {"budget": 2, "folds": 2, "store": store, **PINNED}
    with pytest.warns(UserWarning, match=r"1 images.*bad.png: .*see skipped_") as caught:
        found = topwork.tune(tmp_path, **plan)
    assert caught[0].filename == __file__
    assert [item.path for item in found.skipped_] == ["train/red/bad.png"]
    with pytest.raises(DatasetError, match=r"bad\.png"):
        topwork.tune(tmp_path, strict=True, **plan)
    (tmp_path / "train" / "red" / "bad.png").rename(tmp_path / "train" / "red" / "bad.heic")
    with pytest.raises(DatasetError, match=r"bad\.heic: .*leave out --strict"):
        topwork.tune(tmp_path, strict=True, **plan)


@pytest.fixture
def settings_of(monkeypatch, images):
    """Returns the settings that a classifier would train with."""

    def find(classifier):
        seen = []

        def stop(dataset, settings, *_):
            seen.append(settings)
            raise DatasetError("enough")

        with monkeypatch.context() as patched, pytest.raises(DatasetError, match="enough"):
            patched.setattr(pipeline, "train", stop)
            classifier.fit(*images)
        return seen[0]

    return find


@pytest.mark.parametrize("name", list(Preset))
def test_a_preset_fills_in_the_arguments_that_are_left_alone(name, settings_of):
    assert settings_of(topwork.Classifier(preset=str(name))) == Settings.create(preset=name)
    # What equals its default counts as left alone.
    changes = {"base": "vgg16", "epochs": 3, "seed": 1, "image_size": 64, "penalty": 0.5}
    found = settings_of(topwork.Classifier(preset=name, normalize=False, **changes))
    assert found == Settings.create(preset=name, **changes)
    assert {key: getattr(found, key) for key in changes} == changes


@pytest.mark.system
def test_a_model_of_a_preset_is_fitted_again_as_it_was(trained, saved, settings_of, tmp_path):
    """What was said beside the preset is not lost, though it may equal a default."""
    settings = trained.model.settings.model_copy(update={"preset": Preset.BEST})
    assert not settings.normalize
    model = replace(trained.model, settings=settings)
    replace(trained, model=model).save(tmp_path / "m")
    loaded = topwork.load(tmp_path / "m")
    assert loaded.model_.settings.preset == Preset.BEST
    found = settings_of(clone(loaded))
    assert found == trained.model.settings
    assert not found.normalize


def test_what_is_left_open_is_chosen_and_recorded(images, new_images, store):
    classifier = make(learning_rate="auto", store=store).fit(*images)
    chosen = classifier.model_.settings.learning_rate
    assert classifier.learning_rate == "auto"
    assert chosen in {trial.settings.learning_rate for trial in classifier.trials_}
    assert classifier.predict(new_images).tolist() == list(COLOURS)
    again = make(learning_rate=chosen, store=store).fit(*images)
    assert again.history_ == classifier.history_


@pytest.mark.slow
def test_a_stack_is_fitted_pickled_and_loaded(stacked, stacked_saved, photos, new_images):
    loaded = topwork.load(stacked_saved)
    assert loaded.base == "efficientnet-lite0@64,efficientnet-lite0@32"
    assert (loaded.flip, loaded.inner_units) == (True, 8)
    chances = loaded.predict_proba(new_images)
    wanted = stacked.model.predict(new_images).probabilities
    np.testing.assert_allclose(chances, wanted, rtol=0, atol=1e-3)
    assert np.array_equal(pickle.loads(pickle.dumps(loaded)).predict_proba(new_images), chances)
    again = clone(loaded).fit(topwork.Dataset.from_folder(photos))
    assert again.history_ == stacked.model.history
    assert again.score(topwork.Dataset.from_folder(photos)) > 0.5


def test_it_ends_a_pipeline(images, photos):
    paths, labels = images
    names = [str(Path(path).relative_to(photos)) for path in paths]
    find = FunctionTransformer(lambda names: [photos / name for name in names])
    steps = Pipeline([("find", find), ("classify", make())])
    steps.set_params(classify__learning_rate=0.02).fit(names, labels)
    assert steps.score(names, labels) > 0.9
    assert steps[-1].model_.settings.learning_rate == 0.02


def test_the_same_seed_gives_the_same_classifier(fitted, images, new_images):
    again = clone(fitted).fit(*images)
    assert again.history_ == fitted.history_
    assert np.array_equal(again.predict_proba(new_images), fitted.predict_proba(new_images))
    assert clone(fitted).set_params(seed=1).fit(*images).history_ != fitted.history_


def test_the_history_is_drawn(fitted):
    ax = fitted.history_.plot()
    assert isinstance(ax, plt.Axes)
    assert fitted.history_.epochs == 10
    plt.close(ax.figure)


def test_verbose_shows_on_stderr_and_quiet_nowhere(images, capfd):
    make().fit(*images)
    assert capfd.readouterr() == ("", "")
    make(verbose=True).fit(*images)
    out, err = capfd.readouterr()
    assert out == ""
    assert "36" in err


OPEN_AND_PREDICT = """
import json, sys, topwork
classifier = topwork.load(sys.argv[1])
chances = classifier.predict_proba(sys.argv[2:])
heavy = sorted({"keras", "jax"} & {*sys.modules})
print(json.dumps([classifier.classes_.tolist(), chances.tolist(), heavy]))
"""


@pytest.mark.system
def test_a_saved_classifier_predicts_the_same_in_another_process(fitted, images, tmp_path):
    fitted.save(tmp_path / "model")
    classes, chances, heavy = run_python(OPEN_AND_PREDICT, tmp_path / "model", *images[0][:5])
    assert heavy == []
    assert classes == fitted.classes_.tolist()
    np.testing.assert_allclose(chances, fitted.predict_proba(images[0][:5]), atol=1e-5)


def test_a_loaded_classifier_is_whole(saved, small, photos, new_images, tmp_path):
    loaded = topwork.load(saved)
    settings = Settings.create(
        **{k: v for k, v in loaded.get_params().items() if k in Settings.model_fields}
    )
    assert settings == small
    assert loaded.skipped_ == ()
    assert loaded.history_.epochs == small.epochs
    assert loaded.classes_.tolist() == sorted(COLOURS)
    chances = loaded.predict_proba(new_images)

    loaded.save(tmp_path / "copy")
    copy = topwork.load(tmp_path / "copy")
    copy.save(tmp_path / "copy")  # onto itself
    assert np.array_equal(copy.predict_proba(new_images), chances)
    again = topwork.load(str(tmp_path / "copy"))
    assert np.array_equal(again.predict_proba(new_images), chances)
    assert clone(again).fit(topwork.Dataset.from_folder(photos)).history_ == loaded.history_


def test_relative_paths_still_hold_in_another_folder(saved, images, new_images, monkeypatch):
    monkeypatch.chdir(saved.parent)
    loaded = topwork.load(saved.name)
    monkeypatch.chdir("/")
    assert loaded.predict(new_images).tolist() == list(COLOURS)


@pytest.mark.parametrize("loaded", [False, True])
def test_save_leaves_alone_what_is_in_the_way(loaded, fitted, saved, tmp_path):
    classifier = topwork.load(saved) if loaded else fitted
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("one")
    (tmp_path / "note").write_text("two")
    for name in ("thesis", "note"):
        with pytest.raises(ModelError, match=f"{name} exists and is not a Topwork model"):
            classifier.save(tmp_path / name)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "one"
    assert (tmp_path / "note").read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["note", "thesis"]


def test_what_is_no_model_is_not_loaded(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ModelError, match=path.name):
            topwork.load(path)


def test_a_pickled_classifier_predicts_and_saves(fitted, new_images, tmp_path):
    fitted.predict(new_images)  # opens the engine, which cannot be pickled
    joblib.dump(fitted, tmp_path / "classifier.joblib")
    for copy in (joblib.load(tmp_path / "classifier.joblib"), pickle.loads(pickle.dumps(fitted))):
        assert np.array_equal(copy.predict_proba(new_images), fitted.predict_proba(new_images))
    copy.save(tmp_path / "model")
    loaded = topwork.load(tmp_path / "model")
    np.testing.assert_allclose(
        loaded.predict_proba(new_images), fitted.predict_proba(new_images), atol=1e-5
    )


@pytest.mark.parametrize("kept", [True, False])
def test_a_pickle_without_its_networks_says_how_a_model_travels(kept, fitted, images, tmp_path):
    networks = tuple(replace(file, path=tmp_path / "gone.xml") for file in fitted.model_.networks)
    if kept:  # what keras needs is gone alone
        networks = fitted.model_.networks
    stack = replace(fitted._trained.stack, folder=tmp_path / "gone")
    lost = topwork.Classifier(store=tmp_path / "store")
    lost._take(
        replace(fitted.model_, networks=networks),
        replace(fitted._trained, stack=stack),
    )
    lost = pickle.loads(pickle.dumps(lost))
    calls = [lambda: lost.save(tmp_path / "m"), lost.to_keras]
    if not kept:
        calls += [lambda: lost.predict(images[0]), lambda: lost.predict_proba(images[0][:2])]
    for call in calls:
        with pytest.raises(ModelError, match=r"was in .*gone.* use save\(path\) and topwork.load"):
            call()
    assert not (tmp_path / "m").exists()


TO_KERAS = """
import json, sys, warnings, joblib, numpy, topwork
from pathlib import Path
path = Path(sys.argv[1])
model = (topwork.load(path) if path.is_dir() else joblib.load(path)).to_keras()
warnings.simplefilter("ignore")  # what Keras warns of after that is its own affair
import keras
kernel = model.layers[-1].get_weights()[0].tolist()
logits = [model.predict(numpy.load(file), verbose=0).tolist() for file in sys.argv[2:]]
print(json.dumps([keras.backend.backend(), kernel, *logits]))
"""


@pytest.mark.system
def test_the_keras_model_has_the_head_and_the_backend_of_keras_settings(fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "classifier")
    (tmp_path / "keras.json").write_text('{"backend": "openvino"}')
    backend, kernel = run_python(TO_KERAS, tmp_path / "classifier", KERAS_HOME=str(tmp_path))
    assert backend == "openvino"
    assert np.array_equal(np.float32(kernel), fitted.model_.head.layers[-1].kernel)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "chosen"), [("fitted", "jax"), ("loaded", "jax"), ("loaded", "")])
def test_the_keras_model_gives_the_same_logits(kind, chosen, fitted, images, tmp_path):
    from topwork.images.decode import read_pixels

    if kind == "loaded":
        fitted.save(tmp_path / "classifier")
    else:
        joblib.dump(fitted, tmp_path / "classifier")
    paths, model = [Path(path) for path in images[0][::4]], fitted.model_
    pixels = [read_pixels(path, 32, model.interpolation) for path in paths]
    np.save(tmp_path / "pixels.npy", np.stack(pixels).astype(np.float32))
    # Keras writes this itself: nobody chose it.
    (tmp_path / "keras.json").write_text('{"backend": "tensorflow"}')
    backend, _, logits = run_python(
        TO_KERAS, tmp_path / "classifier", tmp_path / "pixels.npy",
        KERAS_HOME=str(tmp_path), **({"KERAS_BACKEND": chosen} if chosen else {}),
    )  # fmt: skip
    wanted = model.predict(paths).logits
    assert backend == (chosen or ("tensorflow" if find_spec("tensorflow") else "jax"))
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())
    np.testing.assert_allclose(softmax(logits, axis=1), fitted.predict_proba(paths), atol=1e-3)


# Two classes, many labels, numbers.


@pytest.fixture(scope="module")
def brightness():
    """Pictures of greys, how bright each is, and on which side of the middle."""
    levels = np.random.default_rng(0).permutation(np.linspace(20, 235, 40))
    return [encode(picture((v, v, v), size=(32, 32), seed=n)) for n, v in enumerate(levels)], levels


def test_two_numbers_as_classes_come_back_as_numbers(brightness, store):
    sources, levels = brightness
    labels = np.where(levels > 128, 7, 3)
    found = make(store=store, epochs=60).fit(sources, labels)
    assert found.model_.task is Task.BINARY
    assert found.classes_.tolist() == [3, 7]
    chances = found.predict_proba(sources)
    assert chances.shape == (40, 2)
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
    answers = found.predict(sources)
    assert answers.dtype == labels.dtype
    assert np.array_equal(answers, np.array([3, 7])[chances.argmax(axis=1)])
    assert found.score(sources, labels) == (answers == labels).mean() > 0.7


LABEL_SETS = [["blue"], ["green", "blue"], [], ["red"]] * 9


@pytest.mark.parametrize("as_array", [False, True])
def test_many_labels_are_lists_or_an_array(as_array, images, store):
    sources = images[0]
    names = ["blue", "green", "red"]
    flags = np.array([[name in own for name in names] for own in LABEL_SETS]).astype(int)
    found = make(store=store).fit(sources, flags if as_array else LABEL_SETS)
    assert found.model_.task is Task.LABELS
    assert found.classes_.tolist() == (["0", "1", "2"] if as_array else names)
    answers = found.predict(sources)
    assert answers.shape == (36, 3) and answers.dtype == np.int64
    assert np.array_equal(answers, found.predict_proba(sources) > 0.5)
    exact = (answers == flags).all(axis=1).mean()
    if not as_array:
        assert found.score(sources, LABEL_SETS) == pytest.approx(exact)
        with pytest.raises(DatasetError, match="does not know the label pink"):
            found.score(sources, [["pink"]] * 36)


def regressor(**changes):
    return topwork.Regressor(**SMALL | {"epochs": 40, "learning_rate": 0.05} | changes)


def test_a_number_is_fitted_scored_and_cross_validated(brightness, store):
    sources, levels = brightness
    found = regressor(store=store).fit(sources, levels * 1000)
    assert found.history_.metric == "mae"
    answers = found.predict(sources)
    assert answers.shape == (40,) and answers.dtype == np.float32
    assert found.score(sources, levels * 1000) == pytest.approx(r2_score(levels * 1000, answers))
    assert found.score(sources, levels * 1000) > 0.5
    copy = clone(found)
    assert not hasattr(copy, "model_")
    scores = cross_val_score(copy, np.array(sources, object), levels, cv=2)
    assert scores.shape == (2,) and np.isfinite(scores).all()


def test_several_numbers_of_other_scales_are_learnt_alike(brightness, store):
    sources, levels = brightness
    numbers = np.stack([levels * 1e6, 1 - levels / 1000], axis=1)
    found = regressor(store=store).fit(sources, numbers)
    answers = found.predict(sources)
    assert answers.shape == (40, 2)
    each = r2_score(numbers, answers, multioutput="raw_values")
    assert (each > 0.5).all()
    assert found.score(sources, numbers) == pytest.approx(each.mean())


def test_a_regressor_is_saved_and_loaded_as_one(brightness, store, tmp_path):
    sources, levels = brightness
    found = regressor(store=store, epochs=3).fit(sources, levels)
    found.save(tmp_path / "grey.model")
    again = topwork.load(tmp_path / "grey.model")
    assert isinstance(again, topwork.Regressor)
    assert not hasattr(again, "classes_")
    np.testing.assert_allclose(again.predict(sources), found.predict(sources), rtol=1e-3)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1.0, None] * 20, "numbers are needed|finite numbers"),
        (["dark", "light"] * 20, "numbers are needed"),
        ([1.0, np.nan] * 20, "finite numbers .* NaN"),
        ([1.0], "one label"),
    ],
)
def test_what_is_no_number_is_refused(labels, said, brightness):
    with pytest.raises(DatasetError, match=said):
        regressor().fit(brightness[0], labels)


def test_data_of_the_other_kind_is_refused_with_what_to_use(photos, brightness):
    with pytest.raises(DatasetError, match=r"for the task classes; use topwork\.Classifier"):
        regressor().fit(topwork.Dataset.from_folder(photos))
    numbers = topwork.Dataset.from_sources(brightness[0], brightness[1], task="number")
    with pytest.raises(DatasetError, match=r"for the task number; use topwork\.Regressor"):
        make().fit(numbers)


@pytest.mark.parametrize("values", [{"class_weight": "balanced"}, {"label_smoothing": 0.1}])
def test_options_of_classes_are_refused_for_numbers(values, brightness, store):
    with pytest.raises(SettingsError, match="not for numbers"):
        regressor(store=store, **values).fit(*brightness)


def test_a_preset_serves_numbers_too(brightness, store):
    found = topwork.Regressor(preset="fast", image_size=32, store=store).fit(*brightness)
    assert found.model_.settings.head == "logistic"
    assert found.score(*brightness) > 0.5


def test_tuning_numbers_gives_a_regressor(brightness, store):
    numbers = topwork.Dataset.from_sources(brightness[0], brightness[1], task="number")
    found = topwork.tune(
        numbers, store=store, folds=2, image_size=32, precision="f32", epochs=3,
        head="logistic", normalize=True,
    )  # fmt: skip
    assert isinstance(found, topwork.Regressor)
    assert {trial.metric for trial in found.trials_} == {"mae"}
    assert found.get_params()["penalty"] == found.model_.settings.penalty
    assert found.score(*brightness) > 0.5
