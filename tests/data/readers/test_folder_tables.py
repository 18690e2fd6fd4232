import zipfile

import pytest

from topwork.core.errors import DatasetError, SettingsError
from topwork.data.dataset import Dataset
from topwork.images.decode import read_bytes

FLAT = [f"{split}/{n}.png" for split in ("train", "test") for n in range(3)]
CLASSES = [
    f"{split}/{c}/{n}.png" for split in ("train", "test") for c in ("cat", "dog") for n in range(2)
]


def table(rows, header="file_name,label"):
    return "\n".join([header, *(",".join(map(str, row)) for row in rows), ""])


@pytest.fixture(params=["folder", "zip"])
def opened(request, tmp_path):
    """Opens files as a folder, and as an archive."""

    def open_files(files, **options):
        root = tmp_path / "p"
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content, encoding="utf-8")
        place = root
        if request.param == "zip":
            place = tmp_path / "p.zip"
            with zipfile.ZipFile(place, "w") as packed:
                for name, content in files.items():
                    packed.writestr(name, content)
        return Dataset.open(place, cache=tmp_path / "cache", **options)

    return open_files


def pictures(names):
    return {name: name for name in names}


def found(dataset):
    """The path of each image with its label and split."""
    rows = zip(dataset.sources, dataset.label_texts, dataset.splits.tolist(), strict=True)
    return {read_bytes(source).decode(): (label, split) for source, label, split in rows}


def texts(dataset):
    return " ".join(note.text for note in dataset.notes)


def test_rows_of_a_table_above_split_folders_are_of_the_split_of_their_path(opened):
    rows = [(name, "ab"[n % 2]) for n, name in enumerate(FLAT)]
    dataset = opened(pictures(FLAT) | {"metadata.csv": table(rows)})
    assert found(dataset) == {name: (label, name.partition("/")[0]) for name, label in rows}
    assert "--split-column ''" in texts(dataset)
    whole = opened(pictures(FLAT) | {"metadata.csv": table(rows)}, split_column="")
    assert not whole.divided


def test_a_table_in_each_split_folder_is_read(opened):
    files = pictures(FLAT)
    for split in ("train", "test"):
        files[f"{split}/metadata.csv"] = table([(f"{n}.png", "ab"[n % 2]) for n in range(3)])
    dataset = opened(files)
    assert found(dataset) == {
        f"{split}/{n}.png": ("ab"[n % 2], split) for split in ("train", "test") for n in range(3)
    }
    assert set(dataset.names) == {*FLAT}
    assert "train/metadata.csv as train" in texts(dataset)


def test_a_table_for_each_split_is_read(opened):
    names = [f"img/{n}.png" for n in range(6)]
    files = pictures(names)
    for n, split in enumerate(("train", "val", "test")):
        files[f"{split}.csv"] = table([(names[2 * n], "a"), (names[2 * n + 1], "b")])
    files["sample_submission.csv"] = table([(name, "a") for name in names])
    dataset = opened(files)
    splits = ["train", "train", "validation", "validation", "test", "test"]
    assert [split for _, split in map(found(dataset).get, names)] == splits
    assert "Passed over: sample_submission.csv" in texts(dataset)


@pytest.mark.parametrize("place", ["metadata.csv", "train/metadata.csv"])
def test_a_table_that_agrees_with_the_folders_is_named(opened, place):
    above = place.rpartition("/")[0]
    rows = [(n.removeprefix(f"{above}/"), n.split("/")[1]) for n in CLASSES if n.startswith(above)]
    dataset = opened(pictures(CLASSES) | {place: table(rows)})
    assert found(dataset) == {name: (name.split("/")[1], name.split("/")[0]) for name in CLASSES}
    assert f"{place} is not read" in texts(dataset)


@pytest.mark.parametrize("place", ["metadata.csv", "train/metadata.csv"])
def test_a_table_that_contradicts_the_folders_is_refused_with_both_readings(opened, place):
    above = place.rpartition("/")[0]
    own = [name for name in CLASSES if name.startswith(above)]
    rows = [(name.removeprefix(f"{above}/"), "xy"[n % 2]) for n, name in enumerate(own)]
    files = pictures(CLASSES) | {place: table(rows)}
    with pytest.raises(DatasetError, match=rf"two ways: .*{place}.* --label-column label .*--fold"):
        opened(files)
    assert opened(files, folders="parts").classes == ("cat", "dog")
    assert opened(files, label_column="label").classes == ("x", "y")


def test_a_table_about_something_else_is_named_and_costs_nothing(opened):
    names = ["cat/1.png", "dog/2.png"]
    rows = [(name, "joe") for name in names]
    files = pictures(names) | {"exif.csv": table(rows, "filename,photographer"), "x.xlsx": ""}
    dataset = opened(files | {"coco.json": "{}"})
    assert dataset.classes == ("cat", "dog")
    assert "--label-column photographer" in texts(dataset)
    assert "Passed over: coco.json, x.xlsx" in texts(dataset)


HAM = [f"ham_images_part_{1 + n % 2}/ISIC_{n}.jpg" for n in range(6)]
HAM_ROWS = [(f"L{n // 2}", f"ISIC_{n}", ["nv", "mel"][n % 2], 50) for n in range(6)]


def test_ids_are_found_in_the_folders_beside_the_table(opened):
    files = pictures(HAM) | {"meta.csv": table(HAM_ROWS, "lesion_id,image_id,dx,age")}
    with pytest.raises(DatasetError, match=r"two ways.*Or read meta\.csv.*--image-column"):
        opened(files)
    dataset = opened(files, image_column="image_id", label_column="dx", group_column="lesion_id")
    assert {name: label for name, (label, _) in found(dataset).items()} == {
        name: ["nv", "mel"][n % 2] for n, name in enumerate(HAM)
    }
    assert "ISIC_0 is read as ham_images_part_1/ISIC_0.jpg" in texts(dataset)


def test_ids_of_a_competition_are_found(opened):
    names = [f"train_images/a{n}.png" for n in range(4)]
    files = pictures([*names, "test_images/t0.png"])
    files["train.csv"] = table([(f"a{n}", n % 2) for n in range(4)], "id_code,diagnosis")
    files["test.csv"] = "id_code\nt0\n"
    files["sample_submission.csv"] = "id_code,diagnosis\nt0,0\n"
    dataset = opened(files)
    assert {name: label for name, (label, _) in found(dataset).items()} == {
        name: str(n % 2) for n, name in enumerate(names)
    }
    assert "test.csv" in texts(dataset)


def test_the_only_folder_is_passed_as_in_an_archive(opened):
    names = [f"photos/Images/{c}/{n}.png" for c in ("cat", "dog") for n in range(2)]
    dataset = opened(pictures(names))
    assert dataset.classes == ("cat", "dog")
    assert "photos/Images/ is taken for the data" in texts(dataset)
    assert opened(pictures(names), folders="classes").classes == ("photos",)


def test_a_folder_of_images_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("path,label\n1,a\n")
    with pytest.raises(SettingsError, match=r"images: there is no such folder.*nowhere"):
        Dataset.open(tmp_path / "t.csv", cache=tmp_path, image_folder="nowhere")
