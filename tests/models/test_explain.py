import io
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, picture
from PIL import Image

from topwork.core.config import Settings
from topwork.core.errors import ImageError, NetworkError, SettingsError
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.heads.dense import Dense, Head, init_head
from topwork.models.explain import (
    Explainer,
    Explanation,
    describe,
    draw,
    find_answers,
    rank_answers,
    regrid,
    say_probability,
)
from topwork.models.folder import load_model
from topwork.models.heatmap import is_ours
from topwork.models.model_facts import NetworkFile
from topwork.recipes import train as pipeline

ANSWERS = {Task.CLASSES: 3, Task.BINARY: 2, Task.LABELS: 3, Task.NUMBER: 2}


def make_head(task, length, inner_units=0, seed=0):
    outputs = 1 if task is Task.BINARY else ANSWERS[task]
    rng = np.random.default_rng(seed)
    layers = init_head(length, outputs, seed, inner_units).layers
    return Head(tuple(Dense(k, rng.normal(0, 1, b.shape).astype(np.float32)) for k, b in layers))


def make_explanation(task, *, inner_units=0, sides=(3, 5), seed=0):
    """An explanation of an image that networks of these sides saw."""
    rng = np.random.default_rng(seed)
    features = tuple(rng.normal(0, 1, (side, side, 4 + side)).astype(np.float32) for side in sides)
    head = make_head(task, sum(part.shape[2] for part in features), inner_units, seed)
    return Explanation(task, head, features)


def signed_logit(task, head, vector, answer):
    logits = head.logits(vector[None])[0]
    return (2 * answer - 1) * logits[0] if task is Task.BINARY else logits[answer]


@pytest.fixture(scope="module")
def inner(photos, store):
    """One network and a head with an inner layer."""
    settings = Settings.create(
        image_size=32, inner_units=16, epochs=5, learning_rate=0.003, precision="f32"
    )
    return pipeline.train(Dataset.from_folder(photos), settings, store)


# Against the model.


@pytest.mark.parametrize("name", ["trained", "inner", "stacked"])
def test_the_mean_of_a_map_and_the_rest_are_the_logit_that_the_model_predicts(
    name, request, photos
):
    model = request.getfixturevalue(name).model
    paths = sorted((photos / "test").rglob("*.png"))[::4]
    explainer = Explainer(model)
    found = model.predict(paths)
    for row, path in enumerate(paths):
        explanation = explainer.explain(path)
        assert explanation.exact == (name == "trained")
        np.testing.assert_allclose(explanation.logits[0], found.logits[row], atol=1e-4)
        for answer in range(3):
            maps, rest = explanation.maps(answer), explanation.rest(answer)
            assert len(maps) == len(model.bases)
            whole = sum(part.mean(dtype=np.float64) for part in maps) + rest
            assert whole == pytest.approx(found.logits[row, answer], abs=1e-4)
            one = explanation.map(answer)
            assert one.mean(dtype=np.float64) + rest == pytest.approx(whole, abs=1e-4)
        predicted = explanation.predictions
        np.testing.assert_allclose(predicted.probabilities[0], found.probabilities[row], atol=1e-4)
        assert (predicted.indices.tolist(), predicted.failed) == ([0], {})


def test_a_saved_model_is_explained_alike(trained, saved, photos):
    path = next((photos / "test" / "red").iterdir())
    first, second = (Explainer(m).explain(path) for m in (trained.model, load_model(saved)))
    np.testing.assert_allclose(first.map(2), second.map(2), atol=1e-4)


def test_of_one_layer_the_rest_is_the_bias(trained, photos):
    model = trained.model
    explanation = Explainer(model).explain(next((photos / "test" / "red").iterdir()))
    for answer in range(3):
        assert explanation.rest(answer) == pytest.approx(
            model.head.layers[0].bias[answer], abs=1e-5
        )


def test_a_map_lies_as_the_picture_does(trained):
    # At a larger size than it was trained at, so that the map has seven places a side.
    (base,) = trained.model.bases
    large = base.model_copy(update={"space": replace(base.space, image_size=224)})
    explainer = Explainer(replace(trained.model, bases=(large,)))
    grey = np.full((224, 224, 3), 128, np.uint8)
    before = explainer.explain_pixels({224: grey}).features[0]
    assert before.shape[:2] == (7, 7)
    for y, x in ((1, 5), (5, 1), (3, 3), (5, 5)):
        changed = grey.copy()
        changed[32 * y : 32 * y + 32, 32 * x : 32 * x + 32] = (255, 0, 0)
        after = explainer.explain_pixels({224: changed}).features[0]
        change = np.abs(after - before).sum(axis=2)
        top = np.array(np.unravel_index(change.argmax(), (7, 7)))
        assert (np.abs(top - (y, x)) <= 1).all()


def test_with_flip_the_mirror_image_has_the_mirrored_map(stacked):
    sizes = [base.space.image_size for base in stacked.model.bases]
    rng = np.random.default_rng(0)
    pixels = {size: rng.integers(0, 256, (size, size, 3), np.uint8) for size in sizes}
    mirror = {size: found[:, ::-1] for size, found in pixels.items()}
    explainer = Explainer(stacked.model)
    first, second = (explainer.explain_pixels(found).maps(1) for found in (pixels, mirror))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other[:, ::-1], atol=1e-4)


def test_a_bad_image_and_a_missing_network_say_so(trained, tmp_path):
    with pytest.raises(ImageError, match="empty"):
        Explainer(trained.model).explain(b"")
    gone = NetworkFile(tmp_path / "gone.xml", None, flip=False)
    with pytest.raises(NetworkError, match=r"gone\.xml"):
        Explainer(replace(trained.model, networks=(gone,)))


# Against independent arithmetic.


@pytest.mark.parametrize("inner_units", [0, 6])
@pytest.mark.parametrize("task", Task)
def test_weights_are_the_gradient(task, inner_units):
    explanation = make_explanation(task, inner_units=inner_units)
    layers = [(jnp.asarray(k), jnp.asarray(b)) for k, b in explanation.head.layers]

    def logit(vector, answer):
        for kernel, bias in layers[:-1]:
            vector = jax.nn.relu(vector @ kernel + bias)
        logits = vector @ layers[-1][0] + layers[-1][1]
        return (2 * answer - 1) * logits[0] if task is Task.BINARY else logits[answer]

    for answer in range(ANSWERS[task]):
        wanted = jax.grad(logit)(jnp.asarray(explanation.vector[0]), answer)
        np.testing.assert_allclose(explanation.weights(answer), wanted, atol=1e-5)


@pytest.mark.parametrize("task", Task)
def test_without_a_place_the_logit_lacks_what_the_map_says(task):
    explanation = make_explanation(task)
    for answer in range(ANSWERS[task]):
        maps = explanation.maps(answer)
        for part, found in enumerate(maps):
            for y, x in np.ndindex(found.shape):
                features = [np.array(own) for own in explanation.features]
                features[part][y, x] = 0
                vector = np.concatenate([own.mean(axis=(0, 1)) for own in features])
                without = signed_logit(task, explanation.head, vector, answer)
                lost = explanation.logit(answer) - without
                assert lost * found.size == pytest.approx(found[y, x], abs=1e-4)


@pytest.mark.parametrize("task", Task)
def test_with_a_little_less_of_a_place_so_does_that_of_an_inner_layer(task):
    explanation = make_explanation(task, inner_units=6)
    step = 1e-3
    layers = [(k.astype(np.float64), b.astype(np.float64)) for k, b in explanation.head.layers]

    def logit(features, answer):
        vector = np.concatenate([own.mean(axis=(0, 1)) for own in features])
        values = np.maximum(vector @ layers[0][0] + layers[0][1], 0) @ layers[1][0] + layers[1][1]
        return (2 * answer - 1) * values[0] if task is Task.BINARY else values[answer]

    whole = [own.astype(np.float64) for own in explanation.features]
    for answer in range(ANSWERS[task]):
        for part, found in enumerate(explanation.maps(answer)):
            for y, x in np.ndindex(found.shape):
                less = [own.copy() for own in whole]
                less[part][y, x] *= 1 - step
                lost = (logit(whole, answer) - logit(less, answer)) / step * found.size
                assert lost == pytest.approx(found[y, x], abs=1e-4)


def test_of_two_classes_one_map_is_the_other_with_the_other_sign():
    explanation = make_explanation(Task.BINARY)
    np.testing.assert_array_equal(explanation.map(0), -explanation.map(1))
    assert explanation.rest(0) == pytest.approx(-explanation.rest(1), abs=1e-6)
    assert explanation.logit(0) == -explanation.logit(1)


def test_a_heat_map_is_the_sum_of_the_maps_between_their_places():
    explanation = make_explanation(Task.CLASSES, sides=(5,))
    np.testing.assert_allclose(explanation.heat(1, 5, 5), explanation.maps(1)[0], atol=1e-6)
    two = make_explanation(Task.CLASSES, sides=(3, 3))
    assert two.heat(1, 30, 12).shape == (12, 30)
    np.testing.assert_allclose(two.heat(1, 3, 3), sum(two.maps(1)), atol=1e-5)
    heat, found = two.heat(1, 33, 33), sum(two.maps(1))
    # The middle pixel of a place, of eleven, has its value; the corner that of the outer place.
    np.testing.assert_allclose(heat[5::11, 5::11], found, atol=1e-5)
    np.testing.assert_allclose(heat[0, -1], found[0, -1], atol=1e-5)
    assert found.min() - 1e-5 <= heat.min() and heat.max() <= found.max() + 1e-5


# In words and pictures.


def test_names_are_found_each_once(trained):
    assert find_answers(trained.model, ["red", "blue", "red"]) == [2, 0]
    assert find_answers(trained.model, []) == []
    with pytest.raises(SettingsError, match="class: the model knows blue, green, red; received pi"):
        find_answers(trained.model, ["red", "pink"])


@pytest.mark.parametrize("task", Task)
def test_the_most_probable_are_explained(task):
    explanation = make_explanation(task)
    chances = explanation.predictions.probabilities[0]
    ranked = rank_answers(explanation, 2)
    match task:
        case Task.NUMBER:
            assert ranked == [0, 1]
        case Task.BINARY:
            assert ranked == [int(chances.argmax())]
        case _:
            assert ranked == np.argsort(-chances).tolist()[:2]
    assert len(rank_answers(explanation, 100)) == (1 if task is Task.BINARY else ANSWERS[task])


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("inner_units", [0, 6])
def test_json_adds_up(task, inner_units):
    explanation = make_explanation(task, inner_units=inner_units)
    names = [f"name {n}" for n in range(ANSWERS[task])]
    said = json.loads(json.dumps(describe(explanation, names, [1, 0]), allow_nan=False))
    assert said["exact"] == (inner_units == 0)
    number = task is Task.NUMBER
    chances = explanation.predictions.probabilities[0]
    for answer, about in zip((1, 0), said["maps"], strict=True):
        assert about["name" if number else "label"] == names[answer]
        found = np.array(about["map"])
        assert found.shape == (5, 5)
        logit = about["value" if number else "logit"]
        assert found.mean() + about["rest"] == pytest.approx(logit, abs=1e-4)
        vector = explanation.vector[0]
        assert logit == pytest.approx(
            signed_logit(task, explanation.head, vector, answer), abs=1e-5
        )
        if not number:
            assert about["probability"] == pytest.approx(chances[answer])


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("inner_units", [0, 6])
def test_a_picture_has_the_photograph_and_the_maps(task, inner_units, tmp_path):
    path = tmp_path / "out.png"
    explanation = make_explanation(task, inner_units=inner_units)
    names = ["$x^2$ [red]", "<b>猫\x1b[31m\n</b>" + "long " * 40, "c"][: ANSWERS[task]]
    source = encode(picture(size=(90, 40)))
    draw(explanation, source, names, range(len(names)), path, "a\n$file$ 猫.png")
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and image.width > image.height
    assert is_ours(path)
    assert [*tmp_path.iterdir()] == [path]


def test_nothing_is_left_of_a_picture_that_cannot_be_made(tmp_path):
    explanation = make_explanation(Task.CLASSES)
    with pytest.raises(ImageError):
        draw(explanation, b"no image", "abc", [0], tmp_path / "out.png")
    with pytest.raises(OSError, match="No such file"):
        draw(explanation, encode(picture()), "abc", [0], tmp_path / "none" / "out.png")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.0, "0.0%"), (0.0004, "<0.1%"), (0.5, "50.0%"), (0.9996, ">99.9%"), (1.0, "100.0%")],
)
def test_a_probability_is_only_certain_where_it_is(share, said):
    assert say_probability(share) == said


@pytest.mark.slow
def test_xception_on_photographs(reference_photos, xception_weights, tmp_path):
    settings = Settings.create(
        base="xception", image_size=150, weights=str(xception_weights), precision="f32",
        learning_rate=0.01,
    )  # fmt: skip
    dataset = Dataset.from_folder(reference_photos)
    rows = np.arange(len(dataset)) % 60 == 0
    model = pipeline.train(dataset.select(rows), settings, tmp_path / "store").model
    explainer = Explainer(model)
    paths = sorted((reference_photos / "test").rglob("*.jpg"))[::60]
    found = model.predict(paths)
    for row, path in enumerate(paths):
        explanation = explainer.explain(io.BytesIO(path.read_bytes()).getvalue())
        assert explanation.features[0].shape == (5, 5, 2048)
        for answer in range(len(model.classes)):
            whole = explanation.map(answer).mean(dtype=np.float64) + explanation.rest(answer)
            assert whole == pytest.approx(found.logits[row, answer], abs=1e-4)
            assert explanation.rest(answer) == pytest.approx(
                model.head.layers[0].bias[answer], abs=1e-4
            )


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_another_grid_keeps_the_mean(old, new, seed):
    values = np.random.default_rng(seed).normal(size=(old, old)).astype(np.float32)
    found = regrid(values, new)
    assert found.shape == (new, new)
    assert found.mean() == pytest.approx(values.mean(), abs=1e-6)


def test_another_grid_has_the_values_where_they_were():
    values = np.arange(4, dtype=np.float32).reshape(2, 2)
    np.testing.assert_allclose(regrid(values, 4), np.kron(values, np.ones((2, 2))))
    np.testing.assert_allclose(regrid(values, 3)[1, 1], values.mean())
    np.testing.assert_allclose(regrid(values, 3)[0, 2], values[0, 1])
