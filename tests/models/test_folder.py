import json
import shutil

import numpy as np
import pytest
from pictures import encode, picture
from recorder import Recorder
from safetensors.numpy import load_file, save_file

from topwork.bases import reopen_keras_file
from topwork.bases.engines import run_file
from topwork.core.config import Precision
from topwork.core.errors import ModelError, NetworkError
from topwork.data.dataset import Dataset
from topwork.images.decode import image_hash, read_pixels
from topwork.models import evaluate as evaluation
from topwork.models.folder import LOADED_FILES, copy_model, find_keras_file, load_model
from topwork.models.model_facts import Provenance


@pytest.fixture
def copy(saved, tmp_path):
    """A model to damage."""
    return shutil.copytree(saved, tmp_path / "copy.model")


@pytest.fixture
def images():
    return [encode(picture(colour, seed=9)) for colour in ((200, 40, 40), (40, 60, 200))]


def change(path, **values):
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | values), encoding="utf-8")


def seal(folder, name):
    """Makes the card agree with a file that was changed."""
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    digest = image_hash((folder / name).read_bytes())
    change(folder / "model.json", files=card["files"] | {name: digest})


def assert_same_head(found, wanted):
    for layer, other in zip(found.layers, wanted.layers, strict=True):
        assert np.array_equal(layer.kernel, other.kernel)
        assert np.array_equal(layer.bias, other.bias)


def left_behind(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_saved_model_is_the_folder_that_is_documented(saved):
    assert sorted(path.name for path in saved.iterdir()) == sorted(
        [
            "model.json", "head.safetensors", "model.keras", "model.xml", "model.bin",
            "history.json", "history.svg", "images.parquet", "answers.parquet", "report.html",
        ]
    )  # fmt: skip
    card = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    assert card["schema_version"] == 3
    assert card["classes"] == ["blue", "green", "red"]
    (member,) = card["members"]
    assert member["space"]["image_size"] == 32
    assert (member["feature_shape"], member["vector_length"]) == ([1, 1, 1280], 1280)
    assert card["settings"]["epochs"] == 5
    assert card["data"]["counts"]["train"] == {"blue": 8, "green": 8, "red": 8}
    assert card["parity"].keys() == {"openvino", "keras"}
    assert max(card["parity"].values()) < 1e-4
    assert (card["agreement"]["share"], card["doubts"]) == (1, [])
    assert card["versions"].keys() >= {"python", "topwork", "keras", "openvino"}


def test_a_loaded_model_is_the_one_that_was_saved(trained, saved):
    loaded, model = load_model(saved), trained.model
    for name in (
        "classes", "task", "history", "bases", "settings", "data", "validation", "search",
        "images", "versions", "interpolation", "precision", "vector_length",
    ):  # fmt: skip
        assert getattr(loaded, name) == getattr(model, name), name
    assert loaded.calibration.to_json() == model.calibration.to_json()
    assert_same_head(loaded.head, model.head)


def test_any_user_may_read_a_model(saved):
    assert {path.stat().st_mode & 0o444 for path in saved.iterdir()} == {0o444}


def test_a_model_remembers_the_command_that_made_it(trained, tmp_path):
    provenance = Provenance(command="topwork train photos", data="/data/photos")
    trained.save(tmp_path / "m", provenance)
    assert load_model(tmp_path / "m").provenance == provenance
    assert "topwork train photos" in (tmp_path / "m" / "report.html").read_text("utf-8")
    assert trained.model.provenance is None


def test_a_stack_is_saved_with_an_output_for_each_network(stacked, stacked_saved):
    card = json.loads((stacked_saved / "model.json").read_text(encoding="utf-8"))
    assert [member["space"]["image_size"] for member in card["members"]] == [64, 32]
    assert {member["space"]["view"] for member in card["members"]} == {"flip"}
    assert card["parity"].keys() == {"openvino", "keras"}
    assert max(card["parity"].values()) < 1e-4
    assert (card["agreement"]["share"], card["doubts"]) == (1, [])
    loaded = load_model(stacked_saved)
    assert [file.output for file in loaded.networks] == ["vectors_1", "vectors_2"]
    assert loaded.bases == stacked.model.bases
    assert [len(layer.bias) for layer in loaded.head.layers] == [8, 3]
    assert_same_head(loaded.head, stacked.model.head)


def read_stack(model, folder, images):
    """Logits of the saved networks, and of the vectors that they give."""
    pixels = {
        f"image_{size}": np.stack(
            [read_pixels(image, size, model.interpolation) for image in images]
        )
        for size in (32, 64)
    }

    def run(output):
        return run_file(folder / "model.xml", pixels, Precision.F32, output=output)

    vectors = np.concatenate([run("vectors_1"), run("vectors_2")], axis=1)
    return run("logits"), model.head.logits(vectors), pixels


def test_vectors_files_and_the_loaded_model_of_a_stack_agree(stacked, stacked_saved, images):
    wanted = stacked.model.predict(images).logits
    limit = {"rtol": 0, "atol": 1e-3 * np.abs(wanted).max()}
    np.testing.assert_allclose(load_model(stacked_saved).predict(images).logits, wanted, **limit)
    for logits in read_stack(stacked.model, stacked_saved, images)[:2]:
        np.testing.assert_allclose(logits, wanted, **limit)
    # What was stored in training is what a prediction sees.
    images = stacked.checks.images
    np.testing.assert_allclose(
        stacked.model.predict(images.sources).logits,
        stacked.model.head.logits(images.vectors),
        **limit,
    )


def test_a_loaded_stack_finds_what_its_training_stored(stacked, stacked_saved, photos, store):
    recorder = Recorder()
    dataset = Dataset.from_folder(photos)
    found = evaluation.evaluate(
        load_model(stacked_saved), dataset, "validation", store, callback=recorder
    )
    ((_, vectors),) = recorder.told["on_embedded"]
    assert (vectors.embedded, vectors.reused) == (0, 2 * 12)
    assert found.report.accuracy == stacked.report.accuracy
    assert np.array_equal(found.report.confusion, stacked.report.confusion)
    assert found.seen == 12


def test_a_stack_predicts_around_an_image_that_cannot_be_read(stacked, stacked_saved, photos):
    images = [path.read_bytes() for path in sorted((photos / "test").rglob("*.png"))[::4]]
    whole = stacked.model.predict(images)
    for model in (stacked.model, load_model(stacked_saved)):
        found = model.predict([images[0], b"<html>", *images[1:]])
        assert found.indices.tolist() == [0, 2, 3]
        assert found.failed == {1: "not an image: it starts like a web page"}
        np.testing.assert_allclose(found.logits, whole.logits, rtol=0, atol=1e-3)
    assert whole.logits.std(axis=0).min() > 0.1


@pytest.mark.slow
def test_stock_keras_opens_a_stack_and_agrees(stacked, stacked_saved, images, tmp_path):
    wanted = stacked.model.predict(images).logits
    pixels = read_stack(stacked.model, stacked_saved, images)[2]
    reopened = reopen_keras_file(find_keras_file(stacked_saved), tmp_path)
    found = run_file(reopened, pixels, Precision.F32)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("place", [0, 1])
def test_every_layer_of_a_head_is_compared(stacked_saved, tmp_path, place):
    copy = shutil.copytree(stacked_saved, tmp_path / "copy.model")
    arrays = load_file(copy / "head.safetensors")
    assert {name: array.shape for name, array in arrays.items()} == {
        "inner_kernel": (2560, 8), "inner_bias": (8,), "kernel": (8, 3), "bias": (3,)
    }  # fmt: skip
    name = ("inner_kernel", "kernel")[place]
    save_file(arrays | {name: arrays[name][:-1].copy()}, copy / "head.safetensors")
    seal(copy, "head.safetensors")
    with pytest.raises(ModelError, match=rf"{name} must be float32 \({arrays[name].shape[0]}, "):
        load_model(copy)


def test_the_temperature_is_in_the_head_and_on_the_card(trained, saved):
    card = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    found = card["calibration"]
    assert found == trained.model.calibration.to_json()
    assert found["temperature"] == trained.model.calibration.temperature != 1
    assert found["source"] == "validation"
    assert len(found["scores"]) == 12


@pytest.mark.parametrize("values", [{"temperature": -1}, {"scores": []}, {"source": "test"}])
def test_a_calibration_that_was_edited_badly_is_refused(copy, values):
    card = json.loads((copy / "model.json").read_text(encoding="utf-8"))
    change(copy / "model.json", calibration=card["calibration"] | values)
    with pytest.raises(ModelError, match=r"cannot be read: .*; train it again"):
        load_model(copy)


def test_a_loaded_model_needs_nothing_but_its_folder(trained, copy, images, monkeypatch, tmp_path):
    wanted = trained.model.predict(images)
    monkeypatch.setenv("TOPWORK_STORE", str(tmp_path / "nothing"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "nothing"))
    found = load_model(copy).predict(images)
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=0, atol=1e-4)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", [*LOADED_FILES, "model.keras"])
@pytest.mark.parametrize("damage", ["cut", "edit", "remove"])
def test_a_damaged_file_is_named(copy, name, damage):
    path = copy / name
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "edit":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        path.unlink()
    with pytest.raises(ModelError, match=f"{name}.*train it again"):
        find_keras_file(copy) if name == "model.keras" else load_model(copy)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ("{}", "schema_version"),
        ('{"schema_version": 3}', "classes"),
        ('{"schema_version": "3"}', "classes"),
        (
            '{"schema_version": 2}',
            r"older Topwork \(schema 2; this one reads 3\); train it again with topwork train",
        ),
        (
            '{"schema_version": 4}',
            r"newer Topwork \(schema 4; this one reads 3\); upgrade with pip install -U topwork",
        ),
    ],
)
def test_a_card_that_is_no_card_is_refused(copy, text, reason):
    (copy / "model.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=reason):
        load_model(copy)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", "blue"),
        ("task", "guess"),
        ("members", {"base": 1}),
        ("members", [{"feature_shape": [1, 1], "vector_length": 1280, "parameters": 1}]),
        ("calibration", "good"),
        ("calibration", None),
        ("search", {"heads": "many"}),
        ("settings", {"epochs": 0}),
        ("data", None),
        ("validation", {"accuracy": "good"}),
        ("files", {"model.xml": 3}),
    ],
)
def test_a_card_that_was_edited_badly_says_where(copy, name, value):
    change(copy / "model.json", **{name: value})
    with pytest.raises(ModelError, match=f"model.json is damaged: {name}"):
        load_model(copy)


def list_numbers(content, place=()):
    """The places of all numbers in JSON."""
    if isinstance(content, bool) or content is None or isinstance(content, str):
        return []
    if isinstance(content, int | float):
        return [place]
    items = content.items() if isinstance(content, dict) else enumerate(content[:2])
    return [found for key, value in items for found in list_numbers(value, (*place, key))]


def put(content, place, value):
    for key in place[:-1]:
        content = content[key]
    content[place[-1]] = value


@pytest.mark.parametrize("value", [10**15, -1, float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["members", "data", "search", "settings", "calibration"])
def test_numbers_that_no_model_has_are_refused(saved, copy, part, value):
    card = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    places = list_numbers(card[part])
    assert places or (part == "search" and card[part] is None)
    free = {("mean",), ("error",)} if part == "search" and abs(value) < 1e300 else set()
    for place in {*places} - free:
        changed = json.loads(json.dumps(card))
        put(changed[part], place, value)
        (copy / "model.json").write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ModelError, match=r"is damaged|cannot be read"):
            load_model(copy)


def test_the_size_of_images_is_that_of_the_network(saved, copy, images):
    card = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    for size, reason in ((10**9, "members.0: .*image_size must be 1 to"), (0, "image_size")):
        put(card, ("members", 0, "space", "image_size"), size)
        (copy / "model.json").write_text(json.dumps(card), encoding="utf-8")
        with pytest.raises(ModelError, match=reason):
            load_model(copy)
    put(card, ("members", 0, "space", "image_size"), 64)
    (copy / "model.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(NetworkError, match="have 32 pixels along each side, received 64"):
        load_model(copy).predict(images)


def test_a_file_that_the_card_does_not_vouch_for_is_refused(copy):
    card = json.loads((copy / "model.json").read_text(encoding="utf-8"))
    del card["files"]["head.safetensors"]
    change(copy / "model.json", files=card["files"])
    with pytest.raises(ModelError, match=r"head\.safetensors was .* changed"):
        load_model(copy)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"kernel": np.zeros((1280, 3), np.float32)}, r"bias must be float32 \(3,\), .* nothing"),
        (
            {"kernel": np.zeros((1280, 3), np.float32), "bias": np.zeros(4, np.float32)},
            r"bias must be float32 \(3,\), received float32 \(4,\)",
        ),
        (
            {"kernel": np.zeros((7, 3), np.float32), "bias": np.zeros(3, np.float32)},
            r"kernel must be float32 \(1280, 3\), received float32 \(7, 3\)",
        ),
        (
            {"kernel": np.zeros((1280, 3), np.float64), "bias": np.zeros(3, np.float32)},
            "received float64",
        ),
    ],
)
def test_every_array_of_the_head_is_compared_with_what_it_should_be(copy, arrays, reason):
    save_file(arrays, copy / "head.safetensors")
    seal(copy, "head.safetensors")
    with pytest.raises(ModelError, match=reason):
        load_model(copy)


def test_a_model_from_before_ranges_were_recorded_is_loaded(copy, images):
    card = json.loads((copy / "model.json").read_text(encoding="utf-8"))
    wanted = load_model(copy).predict(images).logits
    for base in card["members"]:
        del base["space"]["ranges"]
    del card["settings"]["range"]
    change(copy / "model.json", **card)
    found = load_model(copy)
    assert found.ranges == ""
    assert found.settings.range is None
    assert np.array_equal(found.predict(images).logits, wanted)


@pytest.mark.parametrize("text", ["1..0", "rubbish", "0..1e999", "uint9 0..1"])
def test_a_range_that_was_edited_badly_is_refused(copy, text):
    card = json.loads((copy / "model.json").read_text(encoding="utf-8"))
    for base in card["members"]:
        base["space"]["ranges"] = text
    change(copy / "model.json", members=card["members"])
    with pytest.raises(ModelError, match="LOW"):
        load_model(copy)


def test_what_is_no_model_says_so(tmp_path):
    with pytest.raises(ModelError, match="there is no such folder"):
        load_model(tmp_path / "none")
    with pytest.raises(ModelError, match=r"it has no model\.json"):
        load_model(tmp_path)


def test_saving_replaces_a_model_and_nothing_else(trained, copy, tmp_path):
    (copy / "notes.txt").touch()
    trained.save(copy)
    assert not (copy / "notes.txt").exists()
    assert load_model(copy).classes == trained.model.classes

    theirs = tmp_path / "thesis"
    theirs.mkdir()
    (theirs / "chapter.tex").write_text("x")
    with pytest.raises(ModelError, match="is not a Topwork model; choose another place with -o"):
        trained.save(theirs)
    with pytest.raises(ModelError, match="is not a Topwork model"):
        trained.save(theirs / "chapter.tex")
    assert (theirs / "chapter.tex").read_text() == "x"
    assert left_behind(tmp_path) == []


def full_disk(*_args, **_kwargs):
    raise OSError(28, "No space left on device")


def openvino_on_a_full_disk(*_args, **_kwargs):
    raise RuntimeError("basic_ios::clear: iostream error")


@pytest.mark.parametrize(
    ("place", "failure", "reason"),
    [
        ("topwork.models.save._write_json", full_disk, "No space left on device"),
        ("topwork.models.save.write_keras_file", full_disk, "No space left on device"),
        ("openvino.save_model", openvino_on_a_full_disk, "needs 14 MB; .* MB are free"),
        ("tempfile.mkdtemp", full_disk, "No space left on device"),
    ],
)
def test_a_full_disk_leaves_the_old_model_and_no_litter(
    trained, copy, monkeypatch, place, failure, reason
):
    before = (copy / "model.json").read_bytes()
    monkeypatch.setattr(place, failure)
    with pytest.raises(ModelError, match=f"cannot write a model to .*{reason}"):
        trained.save(copy)
    assert (copy / "model.json").read_bytes() == before
    assert left_behind(copy.parent) == []


def test_a_copy_is_checked_before_and_whole_after(copy, tmp_path):
    copy_model(copy, tmp_path / "second")
    assert load_model(tmp_path / "second").classes == ("blue", "green", "red")
    (copy / "model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.bin"):
        copy_model(copy, tmp_path / "third")
    (tmp_path / "second" / "model.keras").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.keras"):
        copy_model(tmp_path / "second", tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_the_same_training_saves_the_same_head_and_networks(trained, saved, tmp_path):
    trained.save(tmp_path / "again")
    # The report names its folder.
    names = {path.name for path in saved.iterdir()} - {"report.html"}
    for name in names:
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
