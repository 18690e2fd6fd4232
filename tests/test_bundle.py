import json
import shutil

import numpy as np
import pytest
from pictures import encode, picture
from safetensors.numpy import save_file

from topwork import bundle
from topwork.bundle import LOADED_FILES, copy_model, find_keras_file, load_model
from topwork.errors import ModelError
from topwork.heads import Head
from topwork.images import image_hash


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


def left_behind(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_saved_model_is_the_folder_that_is_documented(saved):
    assert sorted(path.name for path in saved.iterdir()) == sorted(
        [
            "model.json", "head.safetensors", "model.keras", "model.xml", "model.bin",
            "history.json", "history.png", "images.parquet",
        ]
    )  # fmt: skip
    card = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    assert card["schema_version"] == 1
    assert card["classes"] == ["blue", "green", "red"]
    assert card["space"]["image_size"] == 32
    assert card["settings"]["epochs"] == 5
    assert card["data"]["counts"]["train"] == {"blue": 8, "green": 8, "red": 8}
    assert card["parity"].keys() == {"openvino", "keras"}
    assert max(card["parity"].values()) < 1e-3
    assert card["versions"].keys() >= {"python", "topwork", "keras", "openvino"}


def test_a_loaded_model_is_the_one_that_was_saved(trained, saved):
    loaded, model = load_model(saved), trained.model
    for name in ("classes", "task", "history", "space", "base", "settings", "data", "validation"):
        assert getattr(loaded, name) == getattr(model, name)
    assert loaded.images == model.images
    assert np.array_equal(loaded.head.kernel, model.head.kernel)


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
        ('{"schema_version": 1}', "classes"),
        ('{"schema_version": 2}', r"newer Topwork \(schema 2; this one reads up to 1\); upgrade"),
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
        ("space", {"base": 1}),
        ("base", {"feature_shape": [1, 1], "vector_length": 1280, "parameters": 1}),
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


def wrong_head(model):
    return Head(model.head.kernel[:, ::-1].copy(), model.head.bias)


def test_an_openvino_file_that_predicts_something_else_is_refused(trained, tmp_path, monkeypatch):
    write = bundle.write_openvino_file
    monkeypatch.setattr(
        bundle, "write_openvino_file", lambda n, k, b, p: write(n, *wrong_head(trained.model), p)
    )
    with pytest.raises(ModelError, match="the openvino file does not predict what was trained"):
        trained.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_keras_file_that_predicts_something_else_is_refused(trained, copy, monkeypatch):
    write = bundle.write_keras_file
    before = (copy / "model.json").read_bytes()
    monkeypatch.setattr(
        bundle,
        "write_keras_file",
        lambda n, k, b, p: write(n, np.ascontiguousarray(k[:, ::-1]), b, p),
    )
    with pytest.raises(ModelError, match="the keras file does not predict what was trained"):
        trained.save(copy)
    assert (copy / "model.json").read_bytes() == before
    assert left_behind(copy.parent) == []


def test_logits_that_are_not_finite_are_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle.OpenVINOEngine, "run_all", lambda *_: np.full((8, 3), np.nan))
    with pytest.raises(ModelError, match="does not predict what was trained"):
        trained.save(tmp_path / "m")


def full_disk(*_args, **_kwargs):
    raise OSError(28, "No space left on device")


def openvino_on_a_full_disk(*_args, **_kwargs):
    raise RuntimeError("basic_ios::clear: iostream error")


@pytest.mark.parametrize(
    ("place", "failure", "reason"),
    [
        ("topwork.bundle._write_json", full_disk, "No space left on device"),
        ("topwork.bundle.write_keras_file", full_disk, "No space left on device"),
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
    for name in ("head.safetensors", "model.bin", "history.json", "images.parquet"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
