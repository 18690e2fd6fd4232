"""From a dataset and settings to vectors of every network and view."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from pictures import picture
from recorder import Recorder

from topwork.bases.engines import OpenVINOEngine, resolve_precision
from topwork.core.config import Interpolation, Precision, Settings
from topwork.core.errors import DatasetError, ImageError
from topwork.data.dataset import Dataset
from topwork.data.listing import Skipped
from topwork.images.augment import view_name
from topwork.images.decode import decode
from topwork.recipes.prepare import check_classes, check_usable, prepare_examples
from topwork.vectors import extractors, image_tasks
from topwork.vectors.embed import embed_images
from topwork.vectors.extractors import make_extractors, make_space


@pytest.fixture(scope="module")
def dataset(photos):
    dataset = Dataset.from_folder(photos)
    return dataset.select(dataset.splits != "test")


@pytest.fixture(scope="module")
def stack(trained):
    return trained.stack


@pytest.fixture(scope="module")
def engine(stack):
    return OpenVINOEngine(stack.networks[0].openvino_path, 32, Precision.F32)


@pytest.fixture(scope="module")
def with_views(small):
    return small.model_copy(update={"views": 2})


@pytest.fixture(scope="module")
def whole(dataset, stack, with_views, tmp_path_factory):
    """A store with two views of every training image, and what was prepared with it."""
    store = tmp_path_factory.mktemp("views")
    return store, prepare_examples(dataset, stack, with_views, store)


def stored(store):
    """How many vectors there are of each view and image size."""
    found = {}
    for path in store.glob("vectors/*/space.json"):
        space = json.loads(path.read_text())
        rows = sum(pq.read_metadata(part).num_rows for part in path.parent.glob("part-*"))
        found[space["view"], space["image_size"]] = rows
    return found


def test_a_space_says_the_view_and_the_precision_of_this_cpu(stack):
    (network,) = stack.networks
    plain = make_space(network, Settings.create())
    assert plain.view == "original"
    assert plain.precision == resolve_precision(Precision.AUTO)
    assert make_space(network, Settings.create(flip=True)).view == "flip"
    # A view is a picture of its own, whatever a prediction does with the image.
    for flip in (False, True):
        space = make_space(network, Settings.create(flip=flip), "augmented-1-3")
        assert space.view == "augmented-1-3"
    fields = {"interpolation": "lanczos", "precision": "f32"}
    other = make_space(network, Settings.create(**fields))
    assert {name: getattr(other, name) for name in fields} == fields


def test_views_are_of_training_images_alone_and_kept_in_spaces_of_their_own(dataset, whole):
    store, found = whole
    assert stored(store) == {
        ("original", 32): 36, ("augmented-1-1", 32): 24, ("augmented-1-2", 32): 24
    }  # fmt: skip
    assert (found.vectors.embedded, found.vectors.reused) == (36 + 2 * 24, 0)

    rows = found.split.training
    training = np.flatnonzero(dataset.splits == "train")
    assert rows.shape == (3, 24)
    assert np.array_equal(rows[0], training)
    assert np.array_equal(rows[1:].ravel(), np.arange(36, 36 + 48))
    assert np.array_equal(found.split.held_out, np.flatnonzero(dataset.splits == "validation"))
    assert found.examples.vectors.shape == (84, 1280)
    assert np.array_equal(found.examples.vectors[:36], found.vectors.values)
    for view in rows:
        assert np.array_equal(found.examples.targets[view], dataset.labels[training])


def test_the_vector_of_a_view_is_that_of_its_picture(dataset, engine, whole):
    _, found = whole
    data = [source.read_bytes() for source in dataset.select(dataset.splits == "train").sources]
    for number, rows in enumerate(found.split.training):
        pixels = [decode(d, 32, Interpolation.SAMPLED, view_name(number)) for d in data]
        wanted = engine.run_all(np.stack(pixels))
        np.testing.assert_allclose(found.examples.vectors[rows], wanted, rtol=0, atol=1e-4)
        assert np.abs(wanted).max() > 0.1


@pytest.mark.parametrize("second", ["red", "blue"])
def test_a_picture_under_two_labels_is_said(dataset, stack, small, store, second):
    red, other = (int(np.flatnonzero(dataset.labels == n)[0]) for n in (2, 0))
    sources, labels = list(dataset.sources), dataset.labels.copy()
    sources[other] = sources[red]
    labels[other] = dataset.classes.index(second)
    told = Recorder()
    twice = replace(dataset, sources=tuple(sources), labels=labels)
    found = prepare_examples(twice, stack, small, store, told)
    assert found.dataset.notes == sum((n for (n,) in told.told["on_notes"]), ())
    said = [note.text for note in found.dataset.notes if note.text.startswith("Two labels: 1 pair")]
    assert bool(said) is (second == "blue")


def test_the_second_run_needs_no_base_and_more_views_only_the_new_ones(
    dataset, stack, with_views, whole, tmp_path, monkeypatch
):
    first = whole[1]
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    more = prepare_examples(dataset, stack, with_views.model_copy(update={"views": 3}), tmp_path)
    assert (more.vectors.embedded, more.vectors.reused) == (24, 36 + 2 * 24)
    monkeypatch.setattr(extractors, "OpenVINOEngine", None)
    again = prepare_examples(dataset, stack, with_views, tmp_path)
    assert (again.vectors.embedded, again.vectors.reused) == (0, 36 + 2 * 24)
    assert np.array_equal(again.examples.vectors, first.examples.vectors)
    none = prepare_examples(dataset, stack, with_views.model_copy(update={"views": 0}), tmp_path)
    assert np.array_equal(none.examples.vectors, first.vectors.values)
    assert len(none.split.training) == 1


@pytest.mark.system
@pytest.mark.parametrize("after", [10, 50])
def test_a_run_that_was_interrupted_goes_on(dataset, stack, with_views, whole, tmp_path, after):
    steps = []

    def interrupt(progress):
        steps.append(progress.done)
        # Each view starts with the news that nothing is done.
        if len(steps) - steps.count(0) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_examples(dataset, stack, with_views, tmp_path, Recorder(on_run=interrupt))
    assert sum(stored(tmp_path).values()) == after
    found = prepare_examples(dataset, stack, with_views, tmp_path)
    assert (found.vectors.embedded, found.vectors.reused) == (84 - after, after)
    np.testing.assert_allclose(found.examples.vectors, whole[1].examples.vectors, rtol=0, atol=1e-5)


def test_an_image_without_a_view_stands_in_for_it(
    dataset, stack, with_views, whole, tmp_path, monkeypatch
):
    bad = dataset.sources[3].read_bytes()

    def fail(data, size_px, interpolation, view="original", ranges=""):
        if data == bad and view == "augmented-1-2":
            raise ImageError("no such view")
        return decode(data, size_px, interpolation, view, ranges)

    monkeypatch.setattr(image_tasks, "decode", fail)
    found = prepare_examples(dataset, stack, with_views, tmp_path)
    (row,) = np.flatnonzero(found.split.training[0] == 3)
    place = found.split.training[2, row]
    vectors, wanted = found.examples.vectors, whole[1].examples.vectors.copy()
    assert np.abs(vectors[place] - wanted[place]).max() > 1e-3
    wanted[place] = wanted[3]
    np.testing.assert_allclose(vectors, wanted, rtol=0, atol=1e-5)


def test_networks_side_by_side_reuse_what_each_has_stored(dataset, stack, small, tmp_path):
    settings = small.model_copy(update={"flip": True})
    (network,) = stack.networks
    # The same file, but for the store another base.
    pair = replace(stack, networks=(replace(network, weights_sha256="other"), network), flip=True)
    parts = [replace(pair, networks=(one,)) for one in pair.networks]
    second = embed_images(dataset, make_extractors(parts[1], settings, tmp_path))[1]
    assert (second.embedded, second.reused) == (36, 0)
    found = prepare_examples(dataset, pair, settings, tmp_path)
    assert (found.vectors.embedded, found.vectors.reused) == (36, 36)
    assert [*stored(tmp_path)] == [("flip", 32)]
    assert len([*tmp_path.glob("vectors/*")]) == 2
    first = embed_images(dataset, make_extractors(parts[0], settings, tmp_path))[1]
    assert (first.embedded, first.reused) == (0, 36)
    values = np.concatenate([first.values, second.values], axis=1)
    assert np.array_equal(found.examples.vectors, values)
    assert values.shape == (36, 2 * 1280)


def test_a_flipped_vector_is_the_mean_over_an_image_and_its_mirror(
    dataset, stack, small, engine, tmp_path
):
    settings = small.model_copy(update={"flip": True})
    found = prepare_examples(dataset, stack, settings, tmp_path)
    data = [source.read_bytes() for source in dataset.sources]
    pixels = np.stack([decode(d, 32, Interpolation.SAMPLED) for d in data])
    mirrored = np.ascontiguousarray(pixels[:, :, ::-1])
    wanted = (engine.run_all(pixels) + engine.run_all(mirrored)) / 2
    np.testing.assert_allclose(found.examples.vectors, wanted, rtol=0, atol=1e-4)


def test_a_class_that_has_lost_its_training_images_is_named():
    dataset = Dataset.from_sources([picture_bytes(n) for n in range(3)], ["a", "b", "c"])
    check_classes(dataset)
    with pytest.raises(DatasetError, match="is left of the class a, c"):
        check_classes(dataset.select(np.array([False, True, False])))
    moved = replace(dataset, splits=np.array(["train", "validation", "train"]))
    with pytest.raises(DatasetError, match="is left of the class b"):
        check_classes(moved)


def test_validation_images_that_all_failed_are_not_replaced_by_others(dataset):
    left = dataset.select(dataset.splits == "train")
    left = replace(left, skipped=(Skipped("validation/a.png", "it is empty"),))
    with pytest.raises(
        DatasetError, match=r"left in validation; .* validation/a\.png: it is empty"
    ):
        check_usable(dataset, left)
    # Where there were none, or some are left, all is well.
    check_usable(left, left)
    check_usable(dataset, dataset.select(np.arange(len(dataset)) > 0))


def picture_bytes(seed):
    return np.asarray(picture(seed=seed))
