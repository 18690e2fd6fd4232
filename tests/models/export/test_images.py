"""The images of an export are those that the model remembers, whatever became of the data."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import fill
from recorder import Recorder

from topwork.core.config import Interpolation
from topwork.core.errors import DatasetError, ModelError, SettingsError
from topwork.data.dataset import Dataset
from topwork.images.decode import decode
from topwork.models.export import images
from topwork.models.folder import load_model
from topwork.models.model_facts import Provenance


@pytest.fixture(scope="module")
def model(saved):
    return load_model(saved)


@pytest.fixture(scope="module")
def answers(model, saved):
    return images.read_predictions(model, saved)


def read(model, answers, folder, **options):
    recorder = Recorder()
    dataset = Dataset.open(folder, labelled=False)
    found = images.read_checked(model, answers, dataset, recorder, **options)
    return found, recorder.told["on_read"]


def test_validation_images_are_decoded_as_the_model_does(model, answers, photos):
    found, seen = read(model, answers, photos)
    assert found.rows.tolist() == list(range(12))
    assert not found.lost
    assert seen[-1] == (12, 12)
    assert found.pixels["image"].dtype == np.uint8
    for row, pixels in zip(found.rows, found.pixels["image"], strict=True):
        data = (photos / answers.names[row]).read_bytes()
        assert np.array_equal(pixels, decode(data, 32, Interpolation.SAMPLED))


def test_int8_is_fitted_to_training_images_alone(model, photos):
    found = images.read_fitted(model, Dataset.from_folder(photos))
    wanted = sorted((photos / "train").rglob("*.png"))
    assert len(wanted) == 24
    whole = {decode(p.read_bytes(), 32, Interpolation.SAMPLED).tobytes() for p in wanted}
    assert {pixels.tobytes() for pixels in found["image"]} == whole


def test_lost_and_changed_images_are_named(model, answers, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "moved")
    gone, changed, damaged = sorted((tmp_path / "moved" / "validation").rglob("*.png"))[:3]
    gone.unlink()
    changed.write_bytes(changed.read_bytes() + b"more")
    damaged.write_bytes(b"")
    found, _ = read(model, answers, tmp_path / "moved")
    assert len(found.rows) == len(found.pixels["image"]) == 9
    reasons = {Path(answers.names[row]).name: reason for row, reason in found.lost.items()}
    assert reasons[gone.name] == "not in the data any more"
    assert reasons[changed.name] == "changed since the model was trained"
    assert damaged.name in reasons


def test_other_data_is_refused(model, answers, tmp_path):
    fill(tmp_path, 5, (90, 90, 90), start=700)
    with pytest.raises(DatasetError, match=r"none of the 12 validation images .* with --data DATA"):
        read(model, answers, tmp_path)


def test_many_images_are_spread_over_all(model, answers, photos):
    found, _ = read(model, answers, photos, most=5)
    assert found.rows.tolist() == [0, 3, 6, 8, 11]


def test_two_sizes_are_two_inputs(model, answers, photos):
    (first,) = model.bases
    larger = first.model_copy(update={"space": replace(first.space, image_size=64)})
    found, _ = read(replace(model, bases=(larger, first)), answers, photos)
    shapes = {name: pixels.shape for name, pixels in found.pixels.items()}
    assert shapes == {"image_32": (12, 32, 32, 3), "image_64": (12, 64, 64, 3)}


def test_a_model_without_answers_is_refused(model, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "old.model")
    (tmp_path / "old.model" / "answers.parquet").unlink()
    with pytest.raises(ModelError, match=r"lacks its answers .* train it again"):
        images.read_predictions(model, tmp_path / "old.model")


def test_the_data_is_where_it_was(model, photos, tmp_path):
    def made(data):
        return replace(model, provenance=Provenance(command="topwork train", data=data))

    assert made(str(photos)).find_data() == str(photos)
    assert made("https://example.com/a.zip").find_data().startswith("https")
    for nowhere in (model, made(None)):
        with pytest.raises(SettingsError, match=r"does not know where the images .* --data DATA"):
            nowhere.find_data()
    with pytest.raises(SettingsError, match=r"where there is nothing now; .* --data DATA"):
        made(str(tmp_path / "gone")).find_data()
