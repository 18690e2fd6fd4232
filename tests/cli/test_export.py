"""The command export, as a user sees it."""

import json
import shutil

import pytest

import topwork.cli.export  # noqa: F401 (registers the command)


@pytest.fixture
def here(tmp_path, monkeypatch, saved):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved, "colours.model")
    return tmp_path


def words(text):
    return " ".join(text.split())


def test_a_table_and_where_it_is(run, here, photos):
    code, out, err = run("export", "colours.model", "--format", "numpy", "--data", photos)
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines())
    said = words(out)
    assert "On 12 validation images 100.0% of the answers are those of the model" in said
    assert "model, as trained" in said
    assert "95 % interval" in said
    assert (here / "colours-numpy" / "head.npz").is_file()
    assert str(here / "colours-numpy" / "head.npz") in out.replace("\n", "")


def test_json_has_the_check_and_stdout_nothing_else(run, here, photos):
    code, out, _ = run(
        "export", "colours.model", "--format", "openvino", "--precision", "f16", "--input",
        "uint8", "--data", photos, "-o", "there", "--json",
    )  # fmt: skip
    assert code == 0
    said = json.loads(out)
    assert said["path"] == str(here / "there" / "model.xml")
    assert said["inputs"][0]["dtype"] == "uint8"
    assert said["check"]["difference"] < 1e-2
    on_disk = json.loads((here / "there" / "export.json").read_text())
    assert on_disk == {key: value for key, value in said.items() if key not in ("path", "bytes")}


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--format", "coreml"), 2, "format: must be keras, openvino"),
        (("--format", "onnx", "--precision", "bf16"), 2, "bf16 works with openvino"),
        (("--format", "numpy", "--data", "nowhere"), 1, "nowhere"),
        (("--format", "numpy", "-o", "colours.model"), 1, "is not an export of Topwork"),
        ((), 2, "--format"),
    ],
)
def test_errors_are_a_line(run, here, options, code, says):
    found, out, err = run("export", "colours.model", *options)
    assert (found, out) == (code, "")
    assert says in err
    assert err.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["colours.model"]


def test_a_missing_extra_is_said_before_anything_is_read(run, here, photos, monkeypatch):
    monkeypatch.setattr("topwork.models.export.formats.find_spec", lambda name: None)
    code, _, err = run("export", "no.model", "--format", "onnx", "--data", photos)
    assert code == 2
    assert "pip install 'topwork[export]'" in err


def test_lost_images_are_listed(run, here, photos):
    shutil.copytree(photos, "photos")
    lost = min((here / "photos" / "validation").rglob("*.png"))
    lost.unlink()
    code, out, _ = run("export", "colours.model", "--format", "numpy", "--data", "photos")
    assert code == 0
    assert f"Left out 1 file: validation/blue/{lost.name}: not in the data any more" in words(out)


def test_a_file_that_differs_is_kept_on_request(run, here, photos, monkeypatch):
    from topwork.models.export import exporting

    monkeypatch.setattr(exporting, "find_fault", lambda *_: "a logit differs by 0.3 of the largest")
    options = ("export", "colours.model", "--format", "numpy", "--data", photos)
    code, _, err = run(*options)
    assert code == 1
    assert "was not kept: a logit differs by 0.3 of the largest; --keep-differing keeps it" in err
    assert not (here / "colours-numpy").exists()
    code, out, err = run(*options, "--keep-differing")
    assert code == 1
    assert "The file does not say what the model says: a logit differs by 0.3" in words(out)
    assert "Kept aside, as you asked, in" in words(out)
    assert str(here / "colours-numpy-differs" / "head.npz") in out.replace("\n", "")
    assert err == ""


def test_without_the_models_images_it_says_what_the_file_was_checked_on(run, here):
    code, out, _ = run("export", "colours.model", "--format", "numpy")
    assert code == 0
    said = " ".join(out.split())
    assert "None of the model's validation images was found: checked on generated pictures" in said
    assert "with --data DATA" in said
    assert "accuracy" not in said
