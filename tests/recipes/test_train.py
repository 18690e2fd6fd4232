import base64
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from recorder import Recorder
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, log_loss

from topwork.core.config import HeadSettings, Search, Settings
from topwork.core.errors import DatasetError, SettingsError, WeightsError
from topwork.data.dataset import Dataset
from topwork.heads import train as training
from topwork.heads.tuning.trials import Journal
from topwork.images.decode import image_hash, read_pixels
from topwork.metrics.calibration import fit_temperature
from topwork.models import explain
from topwork.models.folder import load_model
from topwork.models.gallery import load_gallery
from topwork.models.predictions import report_logits
from topwork.models.trust import say_kept, say_trust
from topwork.recipes import fit_head
from topwork.recipes import layers as layers_of_network
from topwork.recipes import save as saving
from topwork.recipes import train as pipeline
from topwork.recipes.layers import describe_layers
from topwork.reports.report.drawings import draw_curves


def test_the_history_has_keras_names_and_an_entry_for_every_epoch(trained):
    history = trained.model.history.history
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert {len(values) for values in history.values()} == {5}


def test_the_figures_are_of_the_kept_head_on_the_validation_images(trained, photos):
    paths = sorted((photos / "validation").rglob("*.png"))
    predicted = trained.model.predict(paths).logits.argmax(axis=1)
    true = np.array([trained.model.classes.index(path.parent.name) for path in paths])
    report, history = trained.report, trained.model.history
    assert report.accuracy == pytest.approx((predicted == true).mean())
    assert report.macro_accuracy == pytest.approx(balanced_accuracy_score(true, predicted))
    kept = history.row(history.best_epoch)
    assert kept["val_accuracy"] == pytest.approx(report.accuracy)
    assert kept["val_accuracy"] == max(history.history["val_accuracy"])


def test_training_never_looks_at_the_test_images(trained, photos, small, tmp_path, other_store):
    tests = {image_hash(path.read_bytes()) for path in (photos / "test").rglob("*.png")}
    assert not tests & {*trained.model.images.hashes}
    without = shutil.copytree(photos, tmp_path / "p", ignore=shutil.ignore_patterns("test"))
    again = pipeline.train(Dataset.from_folder(without), small, other_store)
    assert again.model.history == trained.model.history


def test_the_same_seed_gives_the_same_result_in_another_store(
    flat, flat_trained, small, other_store
):
    again = pipeline.train(Dataset.from_folder(flat), small, other_store)
    assert again.model.history == flat_trained.model.history
    assert_same_head(again.model.head, flat_trained.model.head)
    assert again.model.data == flat_trained.model.data
    assert again.images.embedded == 30


def test_another_seed_divides_otherwise(flat, flat_trained, small, store):
    other = pipeline.train(Dataset.from_folder(flat), small.model_copy(update={"seed": 1}), store)
    assert other.model.images.splits != flat_trained.model.images.splits
    assert other.images.embedded == 0
    assert other.images.reused == 30


def test_the_split_that_was_made_is_recorded(flat_trained, small):
    assert flat_trained.model.data.split == {"made_by": "topwork", "fraction": 0.2, "seed": 0}
    assert flat_trained.model.data.counts["validation"] == {"blue": 2, "green": 2, "red": 2}


def test_figures_become_json_even_where_there_are_none(trained):
    diverged = replace(
        trained.model.history,
        history={name: [float("nan")] * 5 for name in trained.model.history.history},
    )
    model = replace(trained.model, history=diverged)
    content = json.loads(json.dumps(replace(trained, model=model).to_json(), allow_nan=False))
    assert content["history"]["val_loss"] == [None] * 5
    assert content["search"] is None


def test_a_class_whose_images_all_fail_is_named(photos, small, store, tmp_path):
    data = shutil.copytree(photos, tmp_path / "p")
    for path in (data / "train" / "green").iterdir():
        path.write_bytes(b"<html>")
    with pytest.raises(DatasetError, match="no usable training image is left of the class green"):
        pipeline.train(Dataset.from_folder(data), small, store)


def test_a_validation_split_whose_images_all_fail_is_named(photos, small, store, tmp_path):
    data = shutil.copytree(photos, tmp_path / "p")
    for path in (data / "validation").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="validation"):
        pipeline.train(Dataset.from_folder(data), small, store)


def test_describe_shows_the_way_from_pixels_to_logits(store):
    layers = describe_layers(Settings.create(image_size=32), 7, store)
    assert [layer.stage for layer in layers] == ["INPUTS", "BASE", "VECTORS", "OUTPUTS"]
    shapes = [layer.output_shape for layer in layers]
    assert shapes == [(32, 32, 32, 3), (32, 1, 1, 1280), (32, 1280), (32, 7)]
    assert [layer.trained for layer in layers] == [False, False, False, True]
    assert layers[-1].parameters == 1280 * 7 + 7


def test_describe_needs_no_weights(trained, store, monkeypatch):
    asked = []
    monkeypatch.setattr(
        layers_of_network,
        "prepare_networks",
        lambda settings, _: asked.append(settings) or trained.stack,
    )
    for base in ("vgg16", "efficientnet-lite0", "efficientnet-lite0,vgg16"):
        describe_layers(Settings.create(base=base), 2, store)
    assert [settings.weights for settings in asked] == ["random", None, "random"]


def test_describe_shows_every_base_of_a_stack_and_the_inner_layer(trained, store, monkeypatch):
    (network,) = trained.stack.networks
    larger = replace(network, image_size=64, feature_shape=(2, 2, 1280), parameters=7)
    stack = replace(trained.stack, networks=(larger, network))
    monkeypatch.setattr(layers_of_network, "prepare_networks", lambda *_: stack)
    base = "efficientnet-lite0@64,efficientnet-lite0@32"
    layers = describe_layers(Settings.create(base=base, inner_units=8), 3, store)
    assert [(layer.stage, layer.output_shape, layer.parameters) for layer in layers] == [
        ("INPUTS", (32, 64, 64, 3), 0),
        ("BASE", (32, 2, 2, 1280), 7),
        ("INPUTS", (32, 32, 32, 3), 0),
        ("BASE", (32, 1, 1, 1280), network.parameters),
        ("VECTORS", (32, 2560), 0),
        ("INNER", (32, 8), 2561 * 8),
        ("OUTPUTS", (32, 3), 9 * 3),
    ]
    assert [layer.trained for layer in layers] == [False] * 5 + [True] * 2


@pytest.mark.parametrize(
    ("values", "error", "reason"),
    [
        ({"base": "xeption"}, SettingsError, r"no base 'xeption'; did you mean xception"),
        ({"base": "xception", "image_size": 70}, SettingsError, "at least 71 pixels, received 70"),
        ({"weights": "/nowhere.pth"}, WeightsError, r"cannot be read from /nowhere\.pth"),
        ({"base": "vgg16,vgg16"}, SettingsError, "vgg16 at 224 pixels is named twice"),
        (
            {"base": "vgg16@64,vgg19", "weights": "w.h5"},
            SettingsError,
            "weights: several bases need a name for each file, such as vgg16=FILE,vgg19=FILE",
        ),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_run(photos, store, values, error, reason):
    with pytest.raises(error, match=reason):
        pipeline.train(Dataset.from_folder(photos), Settings.create(**values), store)


def with_values(settings, **values):
    return Settings.create(**settings.model_dump() | values)


@pytest.fixture(scope="module")
def left_open(flat, small, store):
    """Trained with a learning rate that was left to Topwork, which is the default."""
    assert Settings.create().learning_rate == "auto"
    return pipeline.train(
        Dataset.from_folder(flat), with_values(small, learning_rate="auto"), store
    )


def test_the_chosen_learning_rate_and_how_it_was_chosen_are_recorded(left_open):
    chosen = left_open.model.settings.learning_rate
    facts = left_open.model.search
    rates = [trial.settings.learning_rate for trial in left_open.trials]
    assert len(rates) == len({*rates}) == facts.recipes > 5
    assert chosen in rates
    (trial,) = [t for t in left_open.trials if t.settings.learning_rate == chosen]
    assert (facts.folds, facts.replicates, facts.heads) == (True, 3, 3 * len(rates))
    assert (facts.mean, facts.error) == (trial.mean, trial.error)
    assert facts.mean >= max(t.mean for t in left_open.trials) - 0.2
    assert left_open.to_json()["search"] == facts.model_dump()
    assert left_open.to_json()["settings"]["learning_rate"] == chosen


def test_what_was_chosen_trains_like_what_was_asked_for(left_open, flat, store):
    asked = pipeline.train(Dataset.from_folder(flat), left_open.model.settings, store)
    assert asked.trials == ()
    assert asked.model.search is None
    assert asked.model.history == left_open.model.history
    # The head that ships is scored, whatever heads of folds would have been worth.
    assert asked.model.calibration.source == "validation"
    assert left_open.model.calibration.to_json() == asked.model.calibration.to_json()
    assert_same_head(left_open.model.head, asked.model.head)


def test_with_too_few_images_for_folds_the_validation_images_choose(photos, small, store, tmp_path):
    data = shutil.copytree(photos, tmp_path / "p")
    for path in sorted((data / "train" / "green").iterdir())[1:]:
        path.unlink()
    found = pipeline.train(
        Dataset.from_folder(data), with_values(small, learning_rate="auto"), store
    )
    facts = found.model.search
    assert (facts.folds, facts.replicates) == (False, 1)
    assert found.model.calibration.source == "validation"
    best = max(trial.mean for trial in found.trials)
    assert facts.mean == found.report.accuracy == best
    # One occasion has no spread, but so many images have an error by chance.
    count = found.report.count
    share = (best * count + 1) / (count + 2)
    assert facts.error == pytest.approx((share * (1 - share) / count) ** 0.5)


def test_the_penalty_of_a_logistic_head_is_chosen_too(flat, small, store):
    values = {"head": "logistic", "normalize": True, "learning_rate": "auto"}
    found = pipeline.train(Dataset.from_folder(flat), with_values(small, **values), store)
    penalties = {trial.settings.penalty for trial in found.trials}
    assert found.model.settings.penalty in penalties
    assert found.model.search.recipes == len(penalties) > 2
    assert found.model.history.epochs == 1
    asked = pipeline.train(Dataset.from_folder(flat), found.model.settings, store)
    assert asked.trials == ()
    assert asked.report.accuracy == found.report.accuracy
    assert found.model.calibration.source == "folds"
    assert asked.model.calibration.source == "validation"
    # Both learnt from the validation images in the end, and say so.
    for result in (found, asked):
        assert_refitted(result)


def assert_refitted(result):
    """The head is that of all images; what is said of the validation images is of one before."""
    model, predictions = result.model, result.predictions
    assert model.data.refitted
    assert result.to_json()["refitted"] is True
    found = report_logits(
        model.task, predictions.labels, predictions.unseen_logits, len(model.classes)
    )
    assert result.report.accuracy == found.accuracy == model.validation.value
    assert not np.array_equal(predictions.unseen_logits, predictions.logits)


def test_the_temperature_is_folded_into_the_head(flat, small, store, monkeypatch):
    kept = []

    def keep(fit):
        kept.append(training.keep(fit))
        return kept[-1]

    monkeypatch.setattr(fit_head, "keep", keep)
    model = pipeline.train(Dataset.from_folder(flat), small, store).model
    ((head, history),) = kept
    places = np.array(model.images.splits) == "validation"
    paths = [
        flat / name for name, held_out in zip(model.images.names, places, strict=True) if held_out
    ]
    found = model.predict(paths).logits
    labels = np.array([model.classes.index(path.parent.name) for path in paths])
    raw = found * model.calibration.temperature
    assert model.calibration.temperature == pytest.approx(fit_temperature(raw, labels), rel=0.01)
    assert model.calibration.temperature != 1
    for layer, cooled in zip(head.layers, model.head.layers, strict=True):
        wanted = layer.kernel / np.float32(model.calibration.temperature)
        np.testing.assert_allclose(cooled.kernel, wanted, rtol=1e-5)
    # The record is of the training, before the temperature.
    assert model.history == history
    assert np.array_equal(raw.argmax(axis=1), found.argmax(axis=1))
    loss = history.row(history.best_epoch)["val_loss"]
    assert log_loss(labels, softmax(raw.astype(float), axis=1)) == pytest.approx(loss, rel=1e-3)
    assert model.validation.loss == loss


@pytest.fixture(scope="module")
def with_views(flat, small, store):
    return pipeline.train(Dataset.from_folder(flat), with_values(small, views=2), store)


def test_training_with_views_learns_from_them_and_is_the_same_again(
    with_views, flat_trained, flat, small, store
):
    again = pipeline.train(Dataset.from_folder(flat), with_values(small, views=2), store)
    assert (again.images.embedded, again.images.reused) == (0, 30 + 2 * 24)
    assert again.model.history == with_views.model.history
    assert_same_head(again.model.head, with_views.model.head)
    history, plain = with_views.model.history.history, flat_trained.model.history.history
    # The first epoch is of the images themselves, the second of their first view.
    assert history["loss"][0] == plain["loss"][0]
    assert history["loss"][1] != plain["loss"][1]
    assert with_views.model.history != flat_trained.model.history
    assert with_views.model.data == flat_trained.model.data


def assert_same_head(found, wanted):
    for layer, other in zip(found.layers, wanted.layers, strict=True):
        assert np.array_equal(layer.kernel, other.kernel)
        assert np.array_equal(layer.bias, other.bias)


PINNED = {"head": "dense", "dropout": 0, "inner_units": 0, "epochs": 3, "label_smoothing": 0.1}


def tune(data, store, trials, **options):
    recorder = Recorder()
    settings = Settings.create(image_size=32, precision="f32", **PINNED)
    found = pipeline.tune(
        Dataset.from_folder(data),
        settings,
        store,
        pipeline.Tuning(pinned=frozenset(PINNED), journal=Journal(trials), **options),
        callback=recorder,
    )
    ((tuner, _),) = recorder.told["on_chosen"]
    return found, tuner


@pytest.fixture(scope="module")
def tuned(flat, store, tmp_path_factory):
    trials = tmp_path_factory.mktemp("tuning") / "deep" / "trials.jsonl"
    return trials, *tune(flat, store, trials, plan=Search.create(folds=2))


def test_a_search_compares_recipes_on_folds_and_writes_every_head_down(tuned):
    trials, found, tuner = tuned
    facts = found.model.search
    lines = [json.loads(line) for line in trials.read_text().splitlines()]
    assert facts.heads == len(lines) == tuner.trained == 2 * facts.recipes
    assert (facts.folds, facts.replicates) == (True, 2)
    assert facts.recipes == len(found.trials) > 20
    assert {line["replicate"] for line in lines} == {"fold 1 of 2, seed 0", "fold 2 of 2, seed 0"}
    varied = {
        name
        for name in HeadSettings.model_fields
        if len({line["settings"][name] for line in lines}) > 1
    }
    assert varied == {"learning_rate", "normalize", "weight_decay", "class_weight"}


def test_what_is_pinned_stays_as_it_is(tuned):
    _, found, _ = tuned
    for settings in (found.model.settings, *(trial.settings for trial in found.trials)):
        assert {name: getattr(settings, name) for name in PINNED} == PINNED


def test_a_second_search_trains_no_head_and_finds_the_same(tuned, flat, store):
    trials, first, _ = tuned
    before = trials.read_bytes()
    again, tuner = tune(flat, store, trials, plan=Search.create(folds=2))
    assert (tuner.trained, tuner.reused) == (0, first.model.search.heads)
    assert trials.read_bytes() == before
    assert again.model.settings == first.model.settings
    assert again.model.search == first.model.search
    assert_same_head(again.model.head, first.model.head)


def test_a_search_that_was_cut_off_goes_on(tuned, flat, store, tmp_path):
    trials, first, _ = tuned
    cut = tmp_path / "trials.jsonl"
    content = trials.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    lines = cut.read_bytes().count(b"\n")
    again, tuner = tune(flat, store, cut, plan=Search.create(folds=2))
    assert tuner.reused == lines
    assert tuner.trained == first.model.search.heads - lines
    assert again.model.settings == first.model.settings
    assert len(cut.read_bytes().splitlines()) == first.model.search.heads + 1


def test_what_a_search_found_trains_like_what_was_asked_for(tuned, flat, store):
    _, found, _ = tuned
    asked = pipeline.train(Dataset.from_folder(flat), found.model.settings, store)
    assert asked.model.history == found.model.history


def test_a_budget_ends_a_search(flat, store, tmp_path):
    plan = Search.create(folds=2, budget="7")
    found, tuner = tune(flat, store, tmp_path / "trials.jsonl", plan=plan)
    assert (found.model.search.recipes, found.model.search.heads) == (3, 6)
    assert found.model.settings.learning_rate in {t.settings.learning_rate for t in found.trials}
    # What was left out before is what a longer search trains.
    _, tuner = tune(flat, store, tmp_path / "trials.jsonl", plan=Search.create(folds=2, budget="8"))
    assert (tuner.reused, tuner.trained) == (6, 2)


def test_a_search_is_drawn_if_there_was_a_choice(tuned, tmp_path):
    _, found, _ = tuned
    for trials in ((), found.trials[:1]):
        replace(found, trials=trials).save(tmp_path / "m")
        assert not (tmp_path / "m" / "tuning.svg").exists()
        assert "data:image/svg" not in (tmp_path / "m" / "report.html").read_text("utf-8")
    found.save(tmp_path / "m")
    plot = (tmp_path / "m" / "tuning.svg").read_bytes()
    assert plot.startswith(b"<svg ")
    assert base64.b64encode(plot).decode() in (tmp_path / "m" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"budget": "0"}, "budget: must be a number of heads .* received '0'"),
        ({"budget": "-5s"}, "budget: must be .* above 0, received '-5s'"),
        ({"budget": "soon"}, "budget: must be .* received 'soon'"),
        ({"budget": "3"}, "budget: must be at least 5 heads, one for each fold"),
        ({"folds": 1}, "folds: .*received 1"),
        ({"folds": 1000}, "folds: must be 2 to 8, .* the class blue has 8 .* received 1000"),
        ({"seeds": 0}, "seeds: .* received 0"),
        ({"folds": -1}, "folds: .* received -1"),
        ({"fold": 1}, "unknown setting 'fold'; the settings are folds, seeds, budget"),
    ],
)
def test_a_search_that_cannot_be_is_refused(flat, store, values, reason):
    with pytest.raises(SettingsError, match=reason):
        tune(flat, store, None, plan=Search.create(**values))


@pytest.mark.parametrize("most", [7, 100])
def test_a_model_carries_as_many_small_pictures_as_asked(photos, small, store, tmp_path, most):
    data = shutil.copytree(photos, tmp_path / "photos")
    settings = small.model_copy(update={"thumbnails": most})
    trained = pipeline.train(Dataset.from_folder(data), settings, store)
    names, checked = trained.extras.gallery.names, trained.checks.images.sources
    assert not set(trained.extras.gallery.sources) & set(checked)
    gone = names[0]
    (data / gone).unlink()
    saved = trained.save(tmp_path / "m")
    assert [item.path for item in saved.lost] == [gone]
    gallery = load_gallery(tmp_path / "m", trained.model.vector_length)
    assert gallery.names == tuple(name for name in names if name != gone)
    assert len(gallery) == min(most, 24) - 1
    counts = [gallery.labels.count(name) for name in trained.model.classes]
    assert max(counts) - min(counts) <= 2
    # The vectors are those of its own images, which are therefore nearest to themselves.
    for name in gallery.names:
        assert name.startswith("train/")
        vector = trained.model.engines[0].run_all(
            read_pixels(data / name, 32, trained.model.interpolation)[None]
        )
        assert name in [near.name for near in gallery.find(vector[0], 3) if near.similarity > 0.999]


def test_a_model_carries_no_pictures_unless_asked(trained, saved):
    assert trained.extras.gallery is None
    assert load_gallery(saved, trained.model.vector_length) is None


def fail(*_args, **_kwargs):
    raise MemoryError


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("draw_history", "history.svg"),
        ("render_report", "report.html"),
        ("write_gallery", "gallery.parquet"),
        ("open_networks", "report.html"),
    ],
)
def test_what_cannot_be_drawn_costs_nothing_but_itself(
    photos, small, store, tmp_path, monkeypatch, step, name
):
    settings = small.model_copy(update={"thumbnails": 3})
    found = pipeline.train(Dataset.from_folder(photos), settings, store)
    monkeypatch.setattr(explain if step == "open_networks" else saving, step, fail)
    saved = found.save(tmp_path / "m")
    assert f"{name} could not be made: MemoryError" in saved.warnings
    assert not (tmp_path / "m" / name).exists()
    assert load_model(tmp_path / "m").classes == found.model.classes
    others = {"history.svg", "report.html", "gallery.parquet"} - {name}
    assert {path.name for path in (tmp_path / "m").iterdir()} > others


def test_what_cannot_be_added_to_a_model_costs_nothing(trained, tmp_path, monkeypatch):
    def fill(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "add_file", fill)
    saved = trained.save(tmp_path / "m")
    assert saved.warnings == (
        "history.svg could not be written: No space left on device",
        "report.html could not be written: No space left on device",
    )
    assert load_model(tmp_path / "m").classes == trained.model.classes


def test_a_model_is_there_before_anything_is_drawn(trained, tmp_path, monkeypatch):
    """Whatever then ends the process costs a picture and no training."""

    def leave(_, path, *rest):
        assert load_model(path).classes == trained.model.classes
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "_check_files", leave)
    with pytest.raises(KeyboardInterrupt):
        trained.save(tmp_path / "m")
    assert load_model(tmp_path / "m").classes == trained.model.classes
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]


def lacking(photos, path, kept):
    """Photos whose validation has no red one, and so many green and blue ones to train on."""
    data = shutil.copytree(photos, path)
    for file in (data / "validation" / "red").iterdir():
        file.unlink()
    for name in ("green", "blue"):
        for file in sorted((data / "train" / name).iterdir())[kept:]:
            file.unlink()
    return data


def test_validation_that_lacks_a_class_leaves_the_choice_to_folds(photos, small, store, tmp_path):
    data = Dataset.from_folder(lacking(photos, tmp_path / "p", 4))
    found = pipeline.train(data, with_values(small, learning_rate="auto"), store)
    assert found.model.search.folds and found.model.calibration.source == "folds"
    history = found.model.history
    assert history.best_epoch == history.epochs <= small.epochs
    assert found.model.validation.figures["macro_accuracy"] is None
    said = " ".join(say_trust(found.model))
    assert "so it chose nothing: what was left open, the epoch and the calibration come" in said
    kept_by = say_kept(found.model)
    assert kept_by == "folds chose how many, and the last is kept"
    assert draw_curves(found.model.history, kept_by).verdict.endswith(f"was kept: {kept_by}.")


def test_where_there_are_no_folds_either_nothing_is_chosen(photos, small, store, tmp_path):
    data = Dataset.from_folder(lacking(photos, tmp_path / "p", 1))
    found = pipeline.train(data, with_values(small, learning_rate="auto"), store)
    model = found.model
    assert model.search is None and model.settings.learning_rate == 0.0032
    assert model.history.best_epoch == small.epochs
    assert model.calibration.temperature == 1
    assert model.calibration.threshold(0.9) == np.inf
    assert "nothing was chosen" in " ".join(say_trust(model))
    path = tmp_path / "m.model"
    found.save(path)
    page = (path / "report.html").read_text()
    assert "Validation has no images of: red" in page and "nothing was chosen" in page
    assert "was kept: the last, since nothing was chosen" in page
    assert "Probabilities are not calibrated" in page and "where the temperature" not in page
    assert load_model(path).data.counts == model.data.counts
