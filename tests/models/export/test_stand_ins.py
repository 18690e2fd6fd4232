"""What an export is checked on where the images of its model are gone."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from pictures import fill

from topwork.core.config import Interpolation
from topwork.core.errors import DatasetError
from topwork.data.dataset import Dataset
from topwork.images.decode import decode
from topwork.models.export import export_model, read_export
from topwork.models.export.images import read_predictions
from topwork.models.export.stand_ins import Origin, find_checked, find_fitted
from topwork.models.folder import load_model
from topwork.models.gallery import GALLERY_FILE, write_gallery

MISSING = DatasetError("say where they are")


@pytest.fixture
def find(saved):
    """Finds images for a model in some data, which is a folder or None."""
    model = load_model(saved)

    def find(data, folder=saved):
        dataset = None if data is None else Dataset.open(data, labelled=False)
        return find_checked(model, folder, read_predictions(model, saved), dataset)

    return find


def test_images_that_were_renamed_are_found_by_their_bytes(find, photos, tmp_path):
    for n, path in enumerate(sorted(photos.rglob("*.png"))):
        folder = tmp_path / "moved" / f"part{n % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{n}.png")
    found, wanted = find(tmp_path / "moved"), find(photos)
    assert found.origin is Origin.VALIDATION
    assert found.images.rows.tolist() == list(range(12))
    assert not found.images.lost
    assert np.array_equal(found.images.pixels["image"], wanted.images.pixels["image"])
    assert np.array_equal(found.predictions.labels, wanted.predictions.labels)


def test_names_that_were_exchanged_are_seen_through(find, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    first, second, third = sorted((tmp_path / "photos" / "validation").rglob("*.png"))[:3]
    first.rename(tmp_path / "kept.png")
    second.rename(first)
    (tmp_path / "kept.png").rename(second)
    third.write_bytes(b"other")
    found, wanted = find(tmp_path / "photos"), find(photos)
    names = {found.names[row] for row in found.images.lost}
    assert names == {third.relative_to(tmp_path / "photos").as_posix()}
    assert np.array_equal(
        found.images.pixels["image"], wanted.images.pixels["image"][found.images.rows]
    )


def test_other_images_show_that_a_file_says_the_same(find, tmp_path):
    fill(tmp_path, 5, (90, 90, 90), start=700)
    (tmp_path / "bad.png").write_bytes(b"no image")
    found = find(tmp_path)
    assert (found.origin, found.predictions, found.images.lost) == (Origin.DATA, None, {})
    good = [path for path in tmp_path.glob("*.png") if path.name != "bad.png"]
    wanted = {decode(path.read_bytes(), 32, Interpolation.SAMPLED).tobytes() for path in good}
    assert {pixels.tobytes() for pixels in found.images.pixels["image"]} == wanted
    assert len(wanted) == 5


def test_pictures_that_the_model_carries_stand_in(find, saved, photos, tmp_path):
    model = load_model(saved)
    sources = sorted(photos.rglob("*.png"))[:4]
    write_gallery(
        tmp_path / GALLERY_FILE,
        [path.name for path in sources],
        ["a"] * 4,
        sources,
        np.ones((4, model.vector_length), np.float32),
    )
    found = find(None, tmp_path)
    assert (found.origin, len(found.images)) == (Origin.GALLERY, 4)
    (tmp_path / GALLERY_FILE).write_bytes(b"damaged")
    assert find(None, tmp_path).origin is Origin.GENERATED


def test_generated_pictures_are_all_different_and_of_each_size(saved, tmp_path):
    model = load_model(saved)
    (first,) = model.bases
    larger = first.model_copy(update={"space": replace(first.space, image_size=75)})
    model = replace(model, bases=(larger, first))
    found = find_checked(model, tmp_path, read_predictions(model, saved), None)
    assert found.origin is Origin.GENERATED
    shapes = {name: pixels.shape for name, pixels in found.images.pixels.items()}
    assert shapes == {"image_32": (16, 32, 32, 3), "image_75": (16, 75, 75, 3)}
    for pixels in found.images.pixels.values():
        assert len({image.tobytes() for image in pixels}) == 16


def test_int8_is_fitted_to_images_alone(saved, photos, tmp_path):
    model = load_model(saved)
    assert len(find_fitted(model, Dataset.from_folder(photos), MISSING)["image"]) == 24
    fill(tmp_path / "others", 5, (90, 90, 90), start=700)
    other = Dataset.open(tmp_path / "others", labelled=False)
    assert len(find_fitted(model, other, MISSING)["image"]) == 5
    with pytest.raises(DatasetError, match="say where they are"):
        find_fitted(model, None, MISSING)
    with pytest.raises(DatasetError, match="none of the 24 training images"):
        find_fitted(model, Dataset.from_sources([b"x"]), MISSING)


def test_the_record_says_what_a_file_was_checked_on(saved, tmp_path):
    found = export_model(saved, tmp_path / "out", format="numpy")
    check = read_export(tmp_path / "out")["check"]
    assert check == found.facts["check"]
    assert (check["on"], check["images"]) == ("generated pictures", 16)
    assert check["difference"] < 1e-4
    assert check["metric"] is check["exported"] is check["as_trained"] is None
    fill(tmp_path / "others", 5, (90, 90, 90), start=700)
    found = export_model(saved, tmp_path / "out", format="numpy", data=tmp_path / "others")
    assert found.facts["check"]["on"] == "other images of the data"
    with pytest.raises(DatasetError, match=r"int8 is fitted to images; .*--data DATA"):
        export_model(saved, tmp_path / "out", format="openvino", precision="int8")
    with pytest.raises(DatasetError):
        export_model(saved, tmp_path / "out", format="numpy", data=tmp_path / "nothing")
