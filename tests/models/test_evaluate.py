import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from pictures import COLOURS, encode, fill, make_photos, picture
from scipy.special import expit, softmax

from topwork.core.callbacks import SILENT
from topwork.core.config import Precision
from topwork.core.errors import DatasetError, NetworkError, SettingsError
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.heads.dense import Head
from topwork.images.decode import image_hash
from topwork.metrics.calibration import calibration_error
from topwork.metrics.conformal import find_residuals
from topwork.models import answers
from topwork.models import evaluate as evaluation
from topwork.models.folder import load_model
from topwork.models.model import QUICK
from topwork.recipes.open_data import open_model_data


def test_evaluate_finds_the_images_of_a_split_that_was_made(flat, flat_trained, store, tmp_path):
    data = shutil.copytree(flat, tmp_path / "more")
    fill(data / "red", 3, COLOURS["red"], start=200)
    fill(data / "blue", 1, COLOURS["blue"], start=300)
    # Moved and renamed: the content tells what an image is.
    (data / "green" / "025.png").rename(data / "green" / "other.PNG")
    sizes = {}
    for split in ("train", "validation", "test", "all"):
        found = evaluation.evaluate(flat_trained.model, Dataset.from_folder(data), split, store)
        sizes[split] = (len(found), found.seen)
    assert sizes == {"train": (24, 24), "validation": (6, 6), "test": (4, 0), "all": (34, 30)}
    again = evaluation.evaluate(flat_trained.model, Dataset.from_folder(data), "validation", store)
    assert again.report.accuracy == flat_trained.report.accuracy


def test_evaluate_takes_the_folders_of_a_divided_dataset(trained, photos, store):
    for split in ("train", "validation", "test"):
        found = evaluation.evaluate(trained.model, Dataset.from_folder(photos), split, store)
        paths = sorted((photos / split).rglob("*.png"))
        predicted = trained.model.predict(paths).logits.argmax(axis=1)
        true = [trained.model.classes.index(path.parent.name) for path in paths]
        assert found.report.accuracy == pytest.approx(np.mean(predicted == true))
        assert found.seen == (0 if split == "test" else len(paths))


def test_a_training_image_copied_into_the_test_folder_is_noticed(trained, photos, store, tmp_path):
    leaky = shutil.copytree(photos, tmp_path / "leaky")
    source = next((leaky / "train" / "red").iterdir())
    shutil.copy(source, leaky / "test" / "red" / "copy.png")
    found = evaluation.evaluate(trained.model, Dataset.from_folder(leaky), "test", store)
    assert (len(found), found.seen) == (13, 1)


@pytest.mark.parametrize(
    ("refitted", "split", "learnt"),
    [
        (False, "validation", 0),
        (True, "validation", 12),
        (False, "train", 24),
        (True, "train", 24),
        (True, "test", 0),
    ],
)
def test_evaluate_knows_what_the_model_learnt_from(trained, photos, store, refitted, split, learnt):
    facts = trained.model.data.model_copy(update={"refitted": refitted})
    model = replace(trained.model, data=facts)
    found = evaluation.evaluate(model, Dataset.from_folder(photos), split, store)
    assert found.learnt == found.to_json()["learnt"] == learnt


def test_evaluate_wants_classes_that_the_model_knows(trained, store, tmp_path):
    data = make_photos(tmp_path / "p", train=0, validation=0, test=2)
    shutil.rmtree(data / "test" / "green")
    found = evaluation.evaluate(trained.model, Dataset.from_folder(data), "test", store)
    assert found.report.support.tolist() == [2, 0, 2]
    fill(data / "test" / "pink", 1, (250, 100, 200))
    with pytest.raises(DatasetError, match=r"knows the classes blue, green, red; .* has pink"):
        evaluation.evaluate(trained.model, Dataset.from_folder(data), "test", store)


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("kind", ["folder", "table", "sources"])
def test_images_of_one_class_are_evaluated(trained, store, tmp_path, kind, divided):
    folder = tmp_path / "p" / ("test/red" if divided else "red")
    fill(folder, 4, COLOURS["red"], start=700)
    if kind == "table":
        rows = "".join(f"{path.relative_to(tmp_path)},red\n" for path in folder.iterdir())
        (tmp_path / "t.csv").write_text(f"path,label\n{rows}")
    place = tmp_path / ("t.csv" if kind == "table" else "p")
    images = sorted(folder.iterdir())
    dataset = (
        Dataset.from_sources(images, ["red"] * 4)
        if kind == "sources"
        else open_model_data(trained.model, str(place), {}, store, SILENT, strict=True)
    )
    found = evaluation.evaluate(trained.model, dataset, "test", store)
    assert found.report.support.tolist() == [0, 0, 4]
    answers = trained.model.predict(images).logits.argmax(axis=1)
    assert found.report.accuracy == pytest.approx(np.mean(answers == 2))
    with pytest.raises(DatasetError, match=r"2 classes|no training images"):
        dataset.check_training()


def test_evaluate_names_the_splits_there_are(trained, flat_trained, flat, photos, store, tmp_path):
    without = shutil.copytree(photos, tmp_path / "p", ignore=shutil.ignore_patterns("test"))
    with pytest.raises(DatasetError, match=r"no images in the split 'test'.*train, validation"):
        evaluation.evaluate(trained.model, Dataset.from_folder(without), "test", store)
    with pytest.raises(DatasetError, match="the model was trained with all of them"):
        evaluation.evaluate(flat_trained.model, Dataset.from_folder(flat), "test", store)
    fill(tmp_path / "others" / "red", 3, COLOURS["red"], start=800)
    others = Dataset.from_folder(tmp_path / "others")
    with pytest.raises(DatasetError, match="none of them is a train image of this model"):
        evaluation.evaluate(flat_trained.model, others, "train", store)


@pytest.mark.parametrize("count", [1, 5, 13])
def test_predictions_come_in_chunks_and_in_order(trained, count):
    colours = list(COLOURS.values())
    images = [encode(picture(colours[n % 3], seed=n)) for n in range(count)]
    if count > 4:
        images[3] = b"broken"
    chunks = list(answers.predict(trained.model, images, chunk=4))
    assert [start for start, _ in chunks] == list(range(0, count, 4))
    logits = np.full((count, 3), np.nan, np.float32)
    failed = {}
    for start, found in chunks:
        logits[start + found.indices] = found.logits
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


def test_predictions_without_the_store_equal_those_with_it(trained, photos, store):
    dataset = Dataset.from_folder(photos)
    direct = evaluation.predict_all(trained.model, dataset, store, few=10_000)
    stored = evaluation.predict_all(trained.model, dataset, store, few=0)
    np.testing.assert_allclose(direct, stored, rtol=0, atol=1e-4)


def test_a_bf16_model_runs_in_f32_where_the_cpu_has_no_bf16(trained, photos, tmp_path, monkeypatch):
    (base,) = trained.model.bases
    space = replace(base.space, precision="bf16")
    model = replace(trained.model, bases=(base.model_copy(update={"space": space}),))
    monkeypatch.setattr(
        "topwork.models.model_facts.resolve_precision", lambda wanted: Precision.F32
    )
    assert [engine.precision for engine in model.engines] == [Precision.F32]
    found = evaluation.evaluate(model, Dataset.from_folder(photos), "test", tmp_path)
    assert len(found) == 12
    # Its vectors are not taken for those of bf16.
    (space,) = (tmp_path / "vectors").glob("*/space.json")
    assert json.loads(space.read_text())["precision"] == "f32"


@pytest.mark.parametrize("name", ["trained", "stacked"])
def test_one_image_at_a_time_is_answered_as_many_are(name, photos, request):
    model = request.getfixturevalue(name).model
    paths = sorted((photos / "test").rglob("*.png"))
    alone = [model.predict([path]).logits for path in paths]
    assert len(paths) > QUICK
    np.testing.assert_allclose(
        np.concatenate(alone), model.predict(paths).logits, rtol=0, atol=1e-4
    )


def test_a_few_images_do_not_wait_for_the_networks_of_many(saved, photos):
    model = load_model(saved)
    paths = sorted((photos / "test").rglob("*.png"))
    model.predict(paths[:QUICK])
    assert "quick_engines" in vars(model)
    assert "engines" not in vars(model)
    copy = pickle.loads(pickle.dumps(model))
    assert not {"quick_engines", "engines"} & vars(copy).keys()


def test_an_evaluation_keeps_every_answer_beside_its_image(trained, photos, store):
    dataset = Dataset.from_folder(photos)
    found = evaluation.evaluate(trained.model, dataset, "test", store).predictions
    assert (found.split, found.seen, len(found)) == ("test", 0, 12)
    np.testing.assert_allclose(
        found.logits, trained.model.predict(found.sources).logits, rtol=0, atol=1e-4
    )
    for name, source, label, digest in zip(
        found.names, found.sources, found.labels, found.hashes, strict=True
    ):
        assert name.endswith(source.name)
        assert source.parent.name == trained.model.classes[label]
        assert image_hash(source.read_bytes()) == digest


def test_answers_of_data_that_is_not_divided_are_of_the_chosen_split(flat_trained, flat, store):
    found = evaluation.evaluate(flat_trained.model, Dataset.from_folder(flat), "validation", store)
    wanted = flat_trained.predictions
    assert sorted(found.predictions.hashes) == sorted(wanted.hashes)
    order = [found.predictions.hashes.index(one) for one in wanted.hashes]
    same = found.predictions.take(np.array(order))
    np.testing.assert_allclose(same.logits, wanted.logits, rtol=0, atol=1e-5)
    assert same.labels.tolist() == wanted.labels.tolist()
    assert same.seen == len(wanted)


def test_the_model_knows_its_validation_images_where_the_data_has_only_test_images_apart(
    flat, flat_trained, store, tmp_path
):
    data = tmp_path / "data"
    shutil.copytree(flat, data / "train")
    fill(data / "test" / "red", 2, COLOURS["red"], start=300)
    for name in ("blue", "green"):
        fill(data / "test" / name, 2, COLOURS[name], start=300)
    dataset = Dataset.from_folder(data)
    for split, count in (("train", 24), ("validation", 6), ("test", 6)):
        found = evaluation.evaluate(flat_trained.model, dataset, split, store)
        assert (len(found), found.seen) == (count, count if split != "test" else 0)
    with pytest.raises(DatasetError, match="no images in the split 'validation'"):
        evaluation.evaluate(
            flat_trained.model, dataset.select(dataset.splits == "test"), "validation", store
        )


def test_a_model_whose_network_is_gone_says_so(saved, tmp_path, photos):
    model = load_model(shutil.copytree(saved, tmp_path / "m"))
    (tmp_path / "m" / "model.xml").unlink()
    with pytest.raises(NetworkError, match=r"model\.xml"):
        model.predict(sorted((photos / "test").rglob("*.png")))


def test_recall_is_null_where_there_are_no_images(trained, store, tmp_path):
    data = make_photos(tmp_path / "p", train=0, validation=0, test=1)
    shutil.rmtree(data / "test" / "green")
    found = evaluation.evaluate(trained.model, Dataset.from_folder(data), "test", store)
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["recall"][1] is None


@pytest.fixture(scope="module")
def known(trained, photos):
    """What the model says of the test images, and their labels."""
    paths = sorted((photos / "test").rglob("*.png"))
    classes = trained.model.classes
    labels = np.array([classes.index(path.parent.name) for path in paths])
    return trained.model.predict(paths), labels


def judge(trained, photos, store, **options):
    dataset = Dataset.from_folder(photos)
    return evaluation.evaluate(trained.model, dataset, "test", store, **options).calibration


def test_the_calibration_error_is_given_with_and_without_the_temperature(
    trained, known, photos, store
):
    answers, labels = known
    temperature = trained.model.calibration.temperature
    assert not 0.9 < temperature < 1.1
    found = judge(trained, photos, store)
    after, before = (
        calibration_error(softmax(answers.logits * factor, axis=1), labels)
        for factor in (1, temperature)
    )
    assert (found.error, found.error_before) == pytest.approx((after, before), abs=1e-3)
    assert abs(found.error - found.error_before) > 0.01
    for value in (found.answered, found.answered_accuracy, found.covered, found.set_size):
        assert value is None


def test_only_sure_answers_count_where_others_are_held_back(trained, known, photos, store):
    answers, labels = known
    top = answers.probabilities.max(axis=1)
    threshold = float(np.median(top))
    found = judge(trained, photos, store, abstain_below=threshold)
    sure = top >= threshold
    assert 0 < sure.mean() < 1
    right = answers.logits.argmax(axis=1) == labels
    assert found.answered == pytest.approx(sure.mean(), abs=1 / 12)
    assert found.answered_accuracy == pytest.approx(right[sure].mean(), abs=1 / 6)
    assert judge(trained, photos, store, abstain_below=0).answered == 1
    none = judge(trained, photos, store, abstain_below=1)
    assert none.answered == 0
    assert np.isnan(none.answered_accuracy)


def test_label_sets_are_made_by_the_scores_of_the_calibration(trained, known, photos, store):
    answers, labels = known
    found = judge(trained, photos, store, coverage=0.8)
    scores = trained.model.calibration.scores
    threshold = np.sort(scores)[int(np.ceil(13 * 0.8)) - 1]
    assert len(scores) == 12
    assert trained.model.calibration.threshold(0.8) == pytest.approx(float(threshold))
    sets = 1 - answers.probabilities <= threshold
    sets[np.arange(12), answers.logits.argmax(axis=1)] = True
    assert found.covered == pytest.approx(sets[np.arange(12), labels].mean())
    assert found.set_size == pytest.approx(sets.sum(axis=1).mean())
    # Twelve images cannot promise as much as this; only all labels can.
    everything = judge(trained, photos, store, coverage=0.99)
    assert (everything.covered, everything.set_size) == (1, 3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"abstain_below": -0.1}, r"abstain_below: must be 0 to 1, received -0\.1"),
        ({"abstain_below": 1.5}, r"abstain_below: must be 0 to 1, received 1\.5"),
        ({"abstain_below": float("nan")}, "abstain_below: must be 0 to 1, received nan"),
        ({"coverage": 0}, "coverage must lie between 0 and 1, .* got 0"),
        ({"coverage": 1}, "coverage must lie between 0 and 1, .* got 1"),
        ({"coverage": float("nan")}, "coverage must lie between 0 and 1, .* got nan"),
    ],
)
def test_a_share_that_is_none_is_refused(trained, photos, store, options, reason):
    with pytest.raises(SettingsError, match=reason):
        judge(trained, photos, store, **options)


def as_task(model, task, outputs):
    """Returns a model that answers another task, with as many of its outputs."""
    *inner, last = model.head.layers
    cut = last._replace(kernel=last.kernel[:, :outputs], bias=last.bias[:outputs])
    calibration = model.calibration
    if task is Task.NUMBER:
        calibration = find_residuals(
            np.zeros((40, outputs), np.float32), GRID[:, :outputs], "folds"
        )
    return replace(model, task=task, head=Head((*inner, cut)), calibration=calibration)


GRID = np.arange(120).reshape(40, 3) / 10.0


def labelled_as(dataset, task, labels, classes):
    return replace(dataset, task=task, labels=labels, classes=classes)


@pytest.fixture
def test_images(photos):
    dataset = Dataset.from_folder(photos)
    return dataset.select(dataset.splits == "test")


test_images.__test__ = False


def test_every_decision_about_a_label_counts_for_its_calibration(trained, test_images, store):
    model = as_task(trained.model, Task.LABELS, 3)
    labels = np.eye(3, dtype=bool)[test_images.labels]
    labels[::3, 1] = True
    dataset = labelled_as(test_images, Task.LABELS, labels, model.classes)
    found = evaluation.evaluate(model, dataset, "test", store)
    logits = model.predict(dataset.sources).logits
    chances = expit(logits.astype(np.float64)).ravel()
    pairs = np.stack([1 - chances, chances], axis=1).astype(np.float32)
    assert found.calibration.error == pytest.approx(
        calibration_error(pairs, labels.ravel().astype(int)), abs=1e-5
    )
    assert found.report.accuracy == pytest.approx(((logits > 0) == labels).mean())
    assert found.calibration.covered is None


@pytest.mark.parametrize("outputs", [1, 2])
def test_ranges_of_numbers_are_judged_by_all_of_them(trained, test_images, store, outputs):
    model = as_task(trained.model, Task.NUMBER, outputs)
    model = replace(model, classes=("a", "b")[:outputs])
    logits = model.predict(test_images.sources).logits.astype(np.float64)
    reach = model.calibration.half_widths(0.5)
    truth = logits.copy()
    truth[:3, 0] += 1.01 * reach[0]
    truth[3:5, -1] -= 1.01 * reach[-1]
    truth[5:, :] += 0.99 * reach
    dataset = labelled_as(test_images, Task.NUMBER, truth, ("x", "y")[:outputs])
    found = evaluation.evaluate(model, dataset, "test", store, coverage=0.5).calibration
    assert found.covered == pytest.approx(7 / 12)
    assert found.set_size == pytest.approx(2 * reach.mean())
    assert found.error is None and found.answered is None
    assert evaluation.evaluate(model, dataset, "test", store).calibration.covered is None


def test_a_model_of_classes_answers_data_of_two(trained, test_images, store):
    kept = test_images.select(test_images.labels != 1)
    two = labelled_as(kept, Task.BINARY, (kept.labels > 0).astype(np.int32), ("blue", "red"))
    found = evaluation.evaluate(trained.model, two, "test", store)
    assert found.report.support.tolist() == [4, 0, 4]


def test_unreadable_images_have_no_answer_whatever_the_task(trained, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    for task in Task:
        model = as_task(trained.model, task, 1 if task is Task.BINARY else 3)
        found = model.predict([tmp_path / "bad.png"])
        assert [*answers.answer(model, found, 3)] == []
        assert found.failed == {0: "the file is empty (0 bytes)"}
