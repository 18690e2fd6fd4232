"""From a saved model to a folder for another program, or to nothing at all."""

import csv
import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from pictures import COLOURS, encode, picture
from recorder import Recorder

from topwork.bases.engines import resolve_precision
from topwork.core.config import Precision, Settings
from topwork.core.errors import ModelError, SettingsError
from topwork.core.runtime import import_openvino
from topwork.data.dataset import Dataset
from topwork.models.export import Input, export_model, exporting, read_export
from topwork.models.export.head_file import read_head
from topwork.models.export.openvino_file import run_openvino
from topwork.models.folder import load_model
from topwork.recipes import train as pipeline

pytestmark = pytest.mark.system


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def say_inputs(path):
    model = import_openvino().Core().read_model(path)
    return {port.get_any_name(): port.get_element_type().to_string() for port in model.inputs}


@pytest.mark.parametrize(
    ("precision", "pixels", "kind"),
    [("f32", "float32", "f32"), ("f32", "uint8", "u8"), ("f16", "uint8", "u8")],
)
def test_openvino_says_what_the_model_says(
    saved, photos, images, exact, tmp_path, precision, pixels, kind
):
    found = export_model(
        saved, tmp_path / "out", format="openvino", precision=precision, input=pixels, data=photos
    )
    assert found.path == tmp_path / "out" / "model.xml"
    assert {path.name for path in found.folder.iterdir()} == {
        "model.xml", "model.bin", "export.json",
    }  # fmt: skip
    logits = run_openvino(found.path, images.pixels, Input(pixels), Precision.F32)["logits"]
    share = np.abs(logits - exact).max() / np.abs(exact).max()
    assert share == pytest.approx(found.parity.difference, abs=1e-6)
    assert share < {"f32": 1e-3, "f16": 1e-2}[precision]
    assert say_inputs(found.path) == {"image": kind}
    size = (saved / "model.bin").stat().st_size
    assert (found.folder / "model.bin").stat().st_size < size / (1.9 if precision == "f16" else 0.9)
    model = import_openvino().Core().read_model(found.path)
    said = json.loads(model.get_rt_info(["topwork"]).astype(str))
    assert said == {key: value for key, value in found.facts.items() if key in said}
    assert said["classes"] == [*COLOURS]


def test_export_json_says_all_of_it(saved, photos, tmp_path):
    found = export_model(saved, tmp_path / "out", format="numpy", data=photos)
    said = read_export(tmp_path / "out")
    assert said == found.facts == json.loads(json.dumps(found.facts))
    assert said["activation"] == "softmax"
    assert said["preprocessing"]["interpolation"] == "sampled"
    assert said["inputs"] == [{"name": "vectors", "shape": ["N", 1280], "dtype": "float32"}]
    assert said["temperature"] == {"value": load_model(saved).temperature, "folded_in": True}
    assert said["check"]["images"] == 12
    assert said["check"]["runtime"] == f"numpy {np.__version__}"
    assert said["check"]["as_trained"]["value"] == load_model(saved).validation.value
    assert said["files"]["head.npz"]["bytes"] == found.path.stat().st_size == found.size_bytes
    assert found.to_json()["path"] == str(found.path)


def test_numpy_is_the_head(saved, photos, tmp_path):
    found = export_model(saved, tmp_path / "out", format="numpy", data=photos)
    head = load_model(saved).head
    for read, wanted in zip(read_head(found.path).layers, head.layers, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(read, wanted, strict=True))
    with np.load(found.path, allow_pickle=False) as file:
        assert file["classes"].tolist() == [*COLOURS]
        assert json.loads(str(file["topwork"]))["classes"] == [*COLOURS]


def test_keras_opens_its_file_and_finds_what_it_is(saved, photos, tmp_path):
    found = export_model(saved, tmp_path / "out", format="keras", data=photos)
    assert found.parity.difference < 1e-3
    assert found.parity.agreement == 1
    with zipfile.ZipFile(found.path) as archive:
        assert json.loads(archive.read("topwork.json"))["format"] == "keras"
        assert archive.testzip() is None


def test_several_networks_with_mirror_and_inner_layer(stacked_saved, photos, tmp_path):
    for format_, inputs in (
        ("numpy", ["vectors"]),
        ("openvino", ["image_32", "image_64"]),
    ):
        found = export_model(stacked_saved, tmp_path / format_, format=format_, data=photos)
        assert [item["name"] for item in found.facts["inputs"]] == inputs
        assert found.parity.difference < 1e-3
    assert say_inputs(found.path) == {"image_32": "f32", "image_64": "f32"}
    with np.load(tmp_path / "numpy" / "head.npz") as file:
        assert {"kernel", "inner_kernel", "inner_bias"} <= {*file}


@pytest.fixture(scope="module")
def tables(tmp_path_factory, store):
    """A saved model for each of the other tasks, and its data."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    kinds = {
        "binary": (["label"], lambda red, blue: ["warm" if red else "cold"], {}),
        "labels": (
            ["label"],
            lambda red, blue: ["|".join(["r"] * red + ["b"] * blue)],
            {"task": "labels"},
        ),
        "number": (
            ["year"],
            lambda red, blue: [2000 + 5 * red],
            {"task": "number", "label_column": "year"},
        ),
    }
    rows = [(n, *map(bool, rng.random(2) < 0.5)) for n in range(30)]
    for n, red, blue in rows:
        colour = (200 if red else 40, 60, 200 if blue else 40)
        (folder / f"{n}.png").write_bytes(encode(picture(colour, seed=n)))
    made = {}
    for name, (heads, say, options) in kinds.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "split", *heads])
            for n, red, blue in rows:
                writer.writerow([f"{n}.png", "train" if n % 2 else "val", *say(red, blue)])
        settings = Settings.create(image_size=32, precision="f32", learning_rate=0.05, epochs=5)
        data = Dataset.open(folder / f"{name}.csv", **options)
        pipeline.train(data, settings, store).save(folder / f"{name}.model")
        made[name] = (folder / f"{name}.model", folder / f"{name}.csv")
    return made


@pytest.mark.parametrize(
    ("name", "activation", "metric", "outputs"),
    [
        ("binary", "sigmoid", "accuracy", 1),
        ("labels", "sigmoid", "accuracy", 2),
        ("number", "none", "mae", 1),
    ],
)
def test_every_task(tables, tmp_path, name, activation, metric, outputs):
    model, data = tables[name]
    found = export_model(model, tmp_path / "out", format="openvino", input="uint8", data=data)
    assert found.facts["activation"] == activation
    assert found.facts["output"]["shape"] == ["N", outputs]
    assert found.facts["check"]["metric"] == metric
    assert found.parity.agreement == 1
    assert found.parity.exact.value == pytest.approx(found.parity.trained.value, rel=1e-3)


def sabotaged(write, tmp_path):
    """A head whose file holds another bias."""

    def write_another(head, classes, path, facts):
        last = head.layers[-1]
        shift = np.linspace(0, 5, len(last.bias), dtype=np.float32)
        write(type(head)((last._replace(bias=last.bias + shift),)), classes, path, facts)

    return write_another


def test_a_file_that_says_something_else_is_not_kept(saved, photos, tmp_path, monkeypatch):
    good = export_model(saved, tmp_path / "out", format="numpy", data=photos)
    before = files_of(good.folder)
    monkeypatch.setattr(exporting, "write_head", sabotaged(exporting.write_head, tmp_path))
    for name in ("out", "new"):
        with pytest.raises(ModelError, match=r"the NumPy file .* was not kept: a logit differs"):
            export_model(saved, tmp_path / name, format="numpy", data=photos)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert files_of(good.folder) == before


def test_on_request_it_is_kept_aside_under_a_name_that_says_so(
    saved, photos, tmp_path, monkeypatch
):
    good = export_model(saved, tmp_path / "out", format="numpy", data=photos, keep_differing=True)
    assert good.fault is None
    before = files_of(good.folder)
    monkeypatch.setattr(exporting, "write_head", sabotaged(exporting.write_head, tmp_path))
    for _ in range(2):  # the second takes the place of the first
        found = export_model(
            saved, tmp_path / "out", format="numpy", data=photos, keep_differing=True
        )
        assert found.folder == tmp_path / "out-differs"
        assert found.path == tmp_path / "out-differs" / "head.npz"
        assert found.fault.startswith("a logit differs by ")
        assert json.loads((found.folder / "export.json").read_text())["check"]["fault"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-differs"]
    assert files_of(good.folder) == before


def test_what_is_in_the_way_of_a_file_kept_aside_is_said_first(saved, photos, tmp_path):
    (tmp_path / "out-differs").mkdir()
    with pytest.raises(ModelError, match="out-differs exists and is not an export"):
        export_model(saved, tmp_path / "out", format="numpy", data=photos, keep_differing=True)


def test_a_corrupted_network_is_not_kept(saved, photos, tmp_path, monkeypatch):
    real = exporting.write_openvino

    def write(source, path, *rest):
        real(source, path, *rest)
        weights = np.fromfile(path.with_suffix(".bin"), np.float32)
        weights[len(weights) // 2 :] *= 1.1
        weights.tofile(path.with_suffix(".bin"))

    monkeypatch.setattr(exporting, "write_openvino", write)
    with pytest.raises(ModelError, match="was not kept"):
        export_model(saved, tmp_path / "out", format="openvino", data=photos)
    assert not [*tmp_path.iterdir()]


def test_what_is_not_an_export_is_left_alone(saved, photos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    (tmp_path / "file").write_text("keep me too")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "export.json").write_text('{"somebody": "else"}')
    before = files_of(tmp_path)
    for name in ("mine", "file", "other"):
        with pytest.raises(ModelError, match=r"exists and is not an export .* with -o"):
            export_model(saved, tmp_path / name, format="numpy", data=photos)
    with pytest.raises(ModelError, match="exists and is not an export"):
        export_model(saved, saved, format="numpy", data=photos)
    assert files_of(tmp_path) == before


def test_an_older_export_is_replaced_as_a_whole(saved, photos, tmp_path):
    export_model(saved, tmp_path / "out", format="openvino", data=photos)
    export_model(saved, tmp_path / "out", format="numpy", data=photos)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"head.npz", "export.json"}


def test_a_full_disk_leaves_nothing(saved, photos, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_head", full)
    with pytest.raises(ModelError, match=r"cannot write an export to .*: No space left on device"):
        export_model(saved, tmp_path / "out", format="numpy", data=photos)
    assert not [*tmp_path.iterdir()]


def test_a_child_that_breaks_leaves_nothing(saved, photos, tmp_path, monkeypatch):
    def broken(task, *arguments, **options):
        raise ModelError(f"the process that does {task} broke: no more memory")

    monkeypatch.setattr("topwork.models.export.formats.find_spec", lambda name: object())
    monkeypatch.setattr(exporting, "ask_child", broken)
    for format_, precision in (("onnx", "f32"), ("onnx", "int8"), ("litert", "f16")):
        with pytest.raises(ModelError, match="broke: no more memory"):
            export_model(saved, tmp_path / "out", format=format_, precision=precision, data=photos)
    assert not [*tmp_path.iterdir()]


def test_an_image_that_is_lost_is_told_and_changes_nothing_else(saved, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    lost = min((tmp_path / "photos" / "validation").rglob("*.png"))
    lost.unlink()
    found = export_model(saved, tmp_path / "out", format="numpy", data=tmp_path / "photos")
    assert [item.path for item in found.skipped] == [f"validation/blue/{lost.name}"]
    assert found.facts["check"]["images"] == 11
    assert found.facts["check"]["skipped"][0]["reason"] == "not in the data any more"


def test_names_of_classes_may_hold_anything(saved, photos, tmp_path, monkeypatch):
    odd = ("\x1b[31m", "<b>&\u0000", "\udc80\u20ac")
    real = exporting.load_model
    monkeypatch.setattr(exporting, "load_model", lambda path: replace(real(path), classes=odd))
    for format_ in ("openvino", "numpy"):
        found = export_model(saved, tmp_path / format_, format=format_, data=photos)
        assert tuple(read_export(found.folder)["classes"]) == odd
    model = import_openvino().Core().read_model(tmp_path / "openvino" / "model.xml")
    assert tuple(json.loads(model.get_rt_info(["topwork"]).astype(str))["classes"]) == odd


def test_what_takes_time_is_told(saved, photos, tmp_path):
    heard = []

    def count(*counts):
        heard.append(counts)

    ear = Recorder(on_wait=heard.append, on_read=count)
    export_model(saved, tmp_path / "out", format="numpy", data=str(photos), callback=ear)
    assert heard[0] == f"reading {photos}"
    assert (12, 12) in heard
    assert heard[-2:] == ["writing NumPy", "running NumPy on 12 images"]


def test_bf16_needs_a_cpu_that_has_it(saved, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "resolve_precision", lambda wanted: Precision.F32)
    with pytest.raises(SettingsError, match="bf16 arithmetic, which this CPU lacks; take f16"):
        export_model(saved, tmp_path / "out", format="openvino", precision="bf16", data=photos)


ALL = [
    ("keras", "f32", "uint8"),
    ("onnx", "f32", "float32"),
    ("onnx", "f16", "uint8"),
    ("litert", "f32", "float32"),
    ("litert", "f16", "uint8"),
    ("saved-model", "f32", "float32"),
    ("saved-model", "f32", "uint8"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("format_", "precision", "pixels"), ALL)
@pytest.mark.parametrize("name", ["saved", "stacked_saved"])
def test_every_format_on_its_own(request, photos, tmp_path, name, format_, precision, pixels):
    model = request.getfixturevalue(name)
    code = "from importlib.util import find_spec as f; print(f('tf2onnx') and f('ai_edge_litert'))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if there.stdout.strip() == "None":
        pytest.skip("needs the extra export")
    found = export_model(
        model, tmp_path / "out", format=format_, precision=precision, input=pixels, data=photos
    )
    assert found.parity.agreement == 1
    assert found.parity.difference < (1e-2 if precision == "f16" else 1e-3)
    assert found.parity.batch_difference < 1e-3
    assert {item["dtype"] for item in found.facts["inputs"]} == {pixels}


@pytest.fixture(scope="module")
def clothes(reference_photos, tmp_path_factory):
    """A model of real photographs: int8 and bf16 make no sense of noise."""
    folder = tmp_path_factory.mktemp("clothes")
    settings = Settings.create(image_size=96, learning_rate=0.01)
    dataset = Dataset.from_folder(reference_photos)
    pipeline.train(dataset, settings, folder / "store").save(folder / "clothes.model")
    return folder / "clothes.model"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format_", "precision", "pixels"),
    [
        ("openvino", "bf16", "float32"),
        ("openvino", "int8", "uint8"),
        ("onnx", "int8", "uint8"),
        ("litert", "int8", "float32"),
    ],
)
def test_real_photographs(clothes, reference_photos, tmp_path, format_, precision, pixels):
    if precision == "int8":
        pytest.importorskip("nncf", reason="needs the extra int8")
    elif resolve_precision(Precision.AUTO) is not Precision.BF16:
        pytest.skip("needs a CPU with bf16 arithmetic")
    found = export_model(
        clothes,
        tmp_path / "out",
        format=format_,
        precision=precision,
        input=pixels,
        data=reference_photos,
    )
    assert found.parity.agreement >= 0.95
    assert found.parity.images == 341
    assert found.facts["check"]["fitted_to"] == (300 if precision == "int8" else None)
    low, high = found.parity.exact.interval
    assert low < found.parity.exported.value < high
    whole = (clothes / "model.bin").stat().st_size
    assert found.size_bytes < whole * (0.6 if precision == "bf16" else 0.35)
