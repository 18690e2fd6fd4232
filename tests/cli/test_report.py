import json
import shutil

import pytest

import topwork.cli.report
from topwork.inspection.cache import remember
from topwork.models.folder import load_model
from topwork.models.model_facts import Provenance


@pytest.fixture
def model(trained, photos, tmp_path):
    """A model that knows where its images are."""
    path = tmp_path / "colours.model"
    trained.save(path, Provenance(command="topwork train photos", data=str(photos)))
    (path / "report.html").unlink()
    return path


def test_the_report_of_a_model_is_in_its_folder(run, model, store):
    code, out, err = run("report", model)
    assert (code, err) == (0, "")
    assert "Validation images: accuracy" in out
    assert "(12 images)" in out
    assert "Page: " in out
    html = (model / "report.html").read_text()
    assert "<h1>Report of colours.model</h1>" in html
    assert "data:image/webp" in html
    assert "not at hand" not in out
    load_model(model)


def test_the_test_split_is_looked_at_only_when_asked(run, model, photos, tmp_path):
    page = tmp_path / "new" / "test.html"
    code, out, err = run("report", model, photos, "--split", "test", "-o", page, "--json")
    assert code == 0
    said = json.loads(out)
    assert (said["split"], said["images"], said["seen"], said["at_hand"]) == ("test", 12, 0, 12)
    assert said["report"] == str(page)
    assert sum(map(sum, said["confusion"])) == 12
    assert "an honest test" in page.read_text()
    assert "Test images: accuracy" in err


@pytest.mark.parametrize(("split", "images"), [("train", 24), ("validation", 12), ("all", 48)])
def test_each_split_has_its_images(run, model, photos, tmp_path, split, images):
    page = tmp_path / "page.html"
    code, out, _ = run("report", model, photos, "--split", split, "-o", page, "--json")
    assert (code, json.loads(out)["images"]) == (0, images)


def test_data_that_is_gone_leaves_names_and_says_so(run, trained, tmp_path):
    path = tmp_path / "colours.model"
    gone = tmp_path / "gone"
    trained.save(path, Provenance(command="topwork train gone", data=str(gone)))
    code, out, _ = run("report", path)
    assert code == 0
    assert "12 of 12 images are not at hand" in out
    assert "data:image/webp" not in (path / "report.html").read_text()
    code, _, err = run("report", path, "--split", "test")
    assert code == 1
    assert "topwork report MODEL DATA" in err
    assert str(gone) in err


def test_a_model_made_in_python_has_kept_answers(run, saved, tmp_path):
    code, out, _ = run("report", saved, "-o", tmp_path / "page.html")
    assert code == 0
    assert "not at hand" in out
    assert "not at hand" in (tmp_path / "page.html").read_text()


def test_a_model_without_kept_answers_needs_data(run, model, photos, tmp_path):
    (model / "answers.parquet").unlink()
    code, _, _ = run("report", model)
    assert code == 0
    assert "data:image/webp" in (model / "report.html").read_text()


def test_validation_images_that_topwork_set_aside_are_found(run, flat_trained, flat, tmp_path):
    path = tmp_path / "flat.model"
    flat_trained.save(path, Provenance(command="topwork train flat", data=str(flat)))
    kept = len(flat_trained.predictions)
    for place in ([], [flat]):
        code, out, _ = run("report", path, *place, "--json")
        assert (code, json.loads(out)["images"]) == (0, kept)


def test_divided_data_without_a_validation_split(run, photos, small, store, tmp_path):
    from topwork.data.dataset import Dataset
    from topwork.recipes import train as pipeline

    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    shutil.rmtree(root / "validation")
    trained = pipeline.train(Dataset.from_folder(root), small, store)
    path = tmp_path / "two.model"
    trained.save(path)
    for split, images in (("validation", len(trained.predictions)), ("test", 12)):
        code, out, _ = run("report", path, root, "--split", split, "--json")
        assert (code, json.loads(out)["images"]) == (0, images)


def test_what_was_inspected_is_in_the_report(run, model, store, tmp_path):
    hashes = load_model(model).images.hashes
    found = {"findings": {"leaks": {"count": 7, "worst": ["this one"]}}}
    remember(tmp_path / "store", hashes, found)
    code, _, _ = run("report", model, "--store", tmp_path / "store")
    assert code == 0
    assert "this one" in (model / "report.html").read_text()


def test_inspect_writes_down_what_report_shows(run, model, photos, store, tmp_path):
    code, _, err = run(
        "inspect", photos, "--image-size", 32, "--precision", "f32", "-o", tmp_path / "i.html"
    )
    assert code == 0, err
    run("report", model)
    html = (model / "report.html").read_text()
    assert "These images were not inspected" not in html


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--split", "tset"], "split: must be train, validation, test or all"),
        (["-o", "page.pdf"], "output: must end in .html"),
        (["--label-column", "x", "/nowhere"], "no such folder"),
        (["--task", "number"], "is not a finite number"),
    ],
)
def test_bad_usage_is_told(run, model, options, words):
    code, _, err = run("report", model, *options)
    assert code in (1, 2)
    assert words in err
    assert not (model / "report.html").exists()


def test_a_page_that_cannot_be_written_is_told(run, model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = run("report", model, "-o", tmp_path / "file" / "page.html")
    assert code == 1
    assert "cannot write" in err
    code, _, err = run("report", tmp_path / "no.model")
    assert code == 1
    assert "not a Topwork model" in err


def test_the_command_is_there():
    assert topwork.cli.report.report.__name__ == "report"
