import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from pictures import COLOURS, encode, fill, make_photos, picture
from sklearn.metrics import balanced_accuracy_score

from topwork import pipeline
from topwork.bundle import load_model
from topwork.config import Precision, Settings
from topwork.dataset import Dataset
from topwork.errors import DatasetError, NetworkError, SettingsError, WeightsError
from topwork.images import image_hash


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Class folders without splits."""
    root = tmp_path_factory.mktemp("data") / "flat"
    for place, (name, colour) in enumerate(COLOURS.items()):
        fill(root / name, 10, colour, start=20 * place)
    return root


@pytest.fixture(scope="module")
def flat_trained(flat, small, store):
    return pipeline.train(Dataset.from_folder(flat), small, store)


@pytest.fixture
def other_store(trained, store, tmp_path):
    """A store with the network and without vectors."""
    shutil.copytree(store / "bases", tmp_path / "store" / "bases")
    return tmp_path / "store"


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
    assert np.array_equal(again.model.head.kernel, flat_trained.model.head.kernel)
    assert again.model.data == flat_trained.model.data
    assert again.embedded == 30


def test_another_seed_divides_otherwise(flat, flat_trained, small, store):
    other = pipeline.train(Dataset.from_folder(flat), small.model_copy(update={"seed": 1}), store)
    assert other.model.images.splits != flat_trained.model.images.splits
    assert other.embedded == 0
    assert other.reused == 30


def test_the_split_that_was_made_is_recorded(flat_trained, small):
    assert flat_trained.model.data.split == {"made_by": "topwork", "fraction": 0.2, "seed": 0}
    assert flat_trained.model.data.counts["validation"] == {"blue": 2, "green": 2, "red": 2}


def test_evaluate_finds_the_images_of_a_split_that_was_made(flat, flat_trained, store, tmp_path):
    data = shutil.copytree(flat, tmp_path / "more")
    fill(data / "red", 3, COLOURS["red"], start=200)
    fill(data / "blue", 1, COLOURS["blue"], start=300)
    # Moved and renamed: the content tells what an image is.
    (data / "green" / "025.png").rename(data / "green" / "other.PNG")
    sizes = {}
    for split in ("train", "validation", "test", "all"):
        found = pipeline.evaluate(flat_trained.model, Dataset.from_folder(data), split, store)
        sizes[split] = (len(found), found.seen)
    assert sizes == {"train": (24, 24), "validation": (6, 6), "test": (4, 0), "all": (34, 30)}
    again = pipeline.evaluate(flat_trained.model, Dataset.from_folder(data), "validation", store)
    assert again.report.accuracy == flat_trained.report.accuracy


def test_evaluate_takes_the_folders_of_a_divided_dataset(trained, photos, store):
    for split in ("train", "validation", "test"):
        found = pipeline.evaluate(trained.model, Dataset.from_folder(photos), split, store)
        paths = sorted((photos / split).rglob("*.png"))
        predicted = trained.model.predict(paths).logits.argmax(axis=1)
        true = [trained.model.classes.index(path.parent.name) for path in paths]
        assert found.report.accuracy == pytest.approx(np.mean(predicted == true))
        assert found.seen == (0 if split == "test" else len(paths))


def test_a_training_image_copied_into_the_test_folder_is_noticed(trained, photos, store, tmp_path):
    leaky = shutil.copytree(photos, tmp_path / "leaky")
    source = next((leaky / "train" / "red").iterdir())
    shutil.copy(source, leaky / "test" / "red" / "copy.png")
    found = pipeline.evaluate(trained.model, Dataset.from_folder(leaky), "test", store)
    assert (len(found), found.seen) == (13, 1)


def test_evaluate_wants_classes_that_the_model_knows(trained, store, tmp_path):
    data = make_photos(tmp_path / "p", train=0, validation=0, test=2)
    shutil.rmtree(data / "test" / "green")
    found = pipeline.evaluate(trained.model, Dataset.from_folder(data), "test", store)
    assert found.report.support.tolist() == [2, 0, 2]
    fill(data / "test" / "pink", 1, (250, 100, 200))
    with pytest.raises(DatasetError, match=r"knows the classes blue, green, red; .* has pink"):
        pipeline.evaluate(trained.model, Dataset.from_folder(data), "test", store)


def test_evaluate_names_the_splits_there_are(trained, flat_trained, flat, photos, store, tmp_path):
    without = shutil.copytree(photos, tmp_path / "p", ignore=shutil.ignore_patterns("test"))
    with pytest.raises(DatasetError, match=r"no images in the split 'test'.*train, validation"):
        pipeline.evaluate(trained.model, Dataset.from_folder(without), "test", store)
    with pytest.raises(DatasetError, match="the model was trained with all of them"):
        pipeline.evaluate(flat_trained.model, Dataset.from_folder(flat), "test", store)


def test_figures_become_json_even_where_there_are_none(trained, store, tmp_path):
    data = make_photos(tmp_path / "p", train=0, validation=0, test=1)
    shutil.rmtree(data / "test" / "green")
    found = pipeline.evaluate(trained.model, Dataset.from_folder(data), "test", store)
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["recall"][1] is None
    diverged = replace(
        trained.model.history,
        history={name: [float("nan")] * 5 for name in trained.model.history.history},
    )
    model = replace(trained.model, history=diverged)
    content = json.loads(json.dumps(replace(trained, model=model).to_json(), allow_nan=False))
    assert content["history"]["val_loss"] == [None] * 5


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


@pytest.mark.parametrize("count", [1, 5, 13])
def test_predictions_come_in_chunks_and_in_order(trained, monkeypatch, count):
    monkeypatch.setattr(pipeline, "PREDICT_CHUNK", 4)
    colours = list(COLOURS.values())
    images = [encode(picture(colours[n % 3], seed=n)) for n in range(count)]
    if count > 4:
        images[3] = b"broken"
    chunks = list(pipeline.predict(trained.model, images))
    assert [start for start, _ in chunks] == list(range(0, count, 4))
    logits = np.full((count, 3), np.nan, np.float32)
    failed = {}
    for start, found in chunks:
        logits[start + found.places] = found.logits
        failed |= {start + place: reason for place, reason in found.failed.items()}
    assert failed.keys() == ({3} if count > 4 else set())
    for place, image in enumerate(images):
        if place not in failed:
            alone = trained.model.predict([image]).logits[0]
            np.testing.assert_allclose(logits[place], alone, rtol=0, atol=1e-4)


def test_probabilities_are_the_softmax_of_the_logits(trained):
    found = trained.model.predict([encode(picture(seed=n)) for n in range(3)])
    wanted = np.exp(found.logits) / np.exp(found.logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-6)


def test_predictions_without_the_store_equal_those_with_it(trained, photos, store, monkeypatch):
    dataset = Dataset.from_folder(photos)
    monkeypatch.setattr(pipeline, "FEW", 10_000)
    direct = pipeline.predict_all(trained.model, dataset, store)
    monkeypatch.setattr(pipeline, "FEW", 0)
    stored = pipeline.predict_all(trained.model, dataset, store)
    np.testing.assert_allclose(direct, stored, rtol=0, atol=1e-4)


def test_a_bf16_model_runs_in_f32_where_the_cpu_has_no_bf16(trained, photos, tmp_path, monkeypatch):
    model = replace(trained.model, space=replace(trained.model.space, precision="bf16"))
    monkeypatch.setattr("topwork.model.resolve_precision", lambda wanted: Precision.F32)
    assert model.engine.precision is Precision.F32
    found = pipeline.evaluate(model, Dataset.from_folder(photos), "test", tmp_path)
    assert len(found) == 12
    # Its vectors are not taken for those of bf16.
    (space,) = (tmp_path / "vectors").glob("*/space.json")
    assert json.loads(space.read_text())["precision"] == "f32"


def test_describe_shows_the_way_from_pixels_to_logits(store):
    layers = pipeline.describe(Settings.create(image_size=32), 7, store)
    assert [layer.stage for layer in layers] == ["INPUTS", "BASE", "VECTORS", "OUTPUTS"]
    shapes = [layer.output_shape for layer in layers]
    assert shapes == [(32, 32, 32, 3), (32, 1, 1, 1280), (32, 1280), (32, 7)]
    assert [layer.trained for layer in layers] == [False, False, False, True]
    assert layers[-1].parameters == 1280 * 7 + 7


def test_describe_needs_no_weights(trained, store, monkeypatch):
    asked = []
    monkeypatch.setattr(
        pipeline, "prepare_network", lambda settings, _: asked.append(settings) or trained.network
    )
    pipeline.describe(Settings.create(base="vgg16"), 2, store)
    pipeline.describe(Settings.create(), 2, store)
    assert [settings.weights for settings in asked] == ["random", None]


@pytest.mark.parametrize(
    ("values", "error", "reason"),
    [
        ({"base": "xeption"}, SettingsError, r"no base 'xeption'; did you mean xception"),
        ({"base": "xception", "image_size": 70}, SettingsError, "at least 71 pixels, received 70"),
        ({"weights": "/nowhere.pth"}, WeightsError, r"cannot be read from /nowhere\.pth"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_run(photos, store, values, error, reason):
    with pytest.raises(error, match=reason):
        pipeline.train(Dataset.from_folder(photos), Settings.create(**values), store)


def test_a_model_whose_network_is_gone_says_so(saved, tmp_path, photos):
    model = load_model(shutil.copytree(saved, tmp_path / "m"))
    (tmp_path / "m" / "model.xml").unlink()
    with pytest.raises(NetworkError, match=r"model\.xml"):
        model.predict(sorted((photos / "test").rglob("*.png")))
