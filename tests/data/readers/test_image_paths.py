import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.core.errors import DatasetError, ImageError
from topwork.data.dataset import Dataset
from topwork.data.readers.image_paths import ArchiveFinder, DiskFinder, NameIndex


def no_url(url):
    raise AssertionError(url)


@pytest.fixture
def photos(tmp_path):
    for name in ("a.jpg", "b.v1.png", "deep/c.JPG", "deep/x/d.png", "e.png", "e.gif", "f/1.png",
                 "g/1.png", "notes.txt", unicodedata.normalize("NFD", "é.png")):  # fmt: skip
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a.jpg", "a.jpg"), ("a", "a.jpg"), ("b.v1", "b.v1.png"), ("deep/c", "deep/c.JPG"),
        ("deep\\c", "deep/c.JPG"), ("./deep/x/d", "deep/x/d.png"), ("deep/../a", "a.jpg"),
    ],
)  # fmt: skip
def test_a_suffix_is_found_without_searching(photos, text, name):
    find = DiskFinder(photos, no_url)
    assert find(text).resolve() == photos / name
    assert bool(find.notes()) is (text != name)
    assert DiskFinder(photos, no_url)(str(photos / text)).resolve() == photos / name


@pytest.mark.parametrize("text", ["c", "c.JPG", "d", "x/d", "x/d.png"])
def test_other_folders_are_searched_only_if_they_may_be(photos, text):
    found = DiskFinder(photos, no_url, below=True)(text)
    assert found.stem == text.rpartition("/")[2].partition(".")[0]
    assert found.is_file()
    assert not DiskFinder(photos, no_url)(text).exists()


@pytest.mark.parametrize("text", ["e", "1", "1.png"])
def test_several_files_of_one_name_are_named_and_none_is_taken(photos, text):
    with pytest.raises(ImageError, match=r"several files may be meant: .*, .*--images"):
        DiskFinder(photos, no_url, below=True)(text)


@pytest.mark.parametrize("text", ["z", "notes", "deep", "../photos2/a", "x\0y", "/a", "", ".."])
def test_what_is_not_there_is_not_found(photos, text):
    assert not DiskFinder(photos, no_url, below=True)(text).is_file()


def test_accents_may_be_encoded_otherwise(photos):
    assert DiskFinder(photos, no_url)("é.png").read_text() == unicodedata.normalize("NFD", "é.png")
    assert DiskFinder(photos, no_url)("é").is_file()


def test_an_archive_is_searched_and_not_left(photos):
    files = {"p/a.jpg", "p/deep/c.png", "q/1.png", "p/2.png"}
    find = ArchiveFinder(files, lambda name: name.encode(), "p/", no_url)
    assert [find(text) for text in ("a", "c", "deep/c.png", "2.png", "../q/1.png")] == [
        b"p/a.jpg", b"p/deep/c.png", b"p/deep/c.png", b"p/2.png", b"q/1.png"
    ]  # fmt: skip
    for text in ("1", "1.png", "../x/a.jpg", "/etc/passwd", "../../p/a.jpg"):
        with pytest.raises(ImageError, match="no such file in the archive"):
            find(text)


@given(st.lists(st.sampled_from(["a", "b", "a.png", "c.jpg", "é.png", "x.y.gif"]), min_size=1))
def test_an_index_finds_what_ends_so(parts):
    path = "/".join(["top", *parts[:-1], f"{parts[-1]}.png"])
    index = NameIndex([path])
    for start in range(len(parts)):
        text = "/".join(parts[start:])
        assert index.find(text) == index.find(f"{text}.png") == path
    assert index.find(f"other/{parts[-1]}") is None


def test_a_folder_of_images_is_named_beside_the_table(photos, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("id,species\na,x\nb.v1,y\nd,x\nphotos/deep/c,y\n")
    with pytest.raises(DatasetError, match=r"^3 files or rows were left out .*a: there is no such"):
        Dataset.open(path, cache=tmp_path).check_training()
    (tmp_path / "none.csv").write_text("id,species\na,x\nb.v1,y\n")
    with pytest.raises(DatasetError, match="say with --images where else they lie"):
        Dataset.open(tmp_path / "none.csv", cache=tmp_path)
    dataset = Dataset.open(path, cache=tmp_path, image_folder=str(photos), strict=True)
    assert [source.stem for source in dataset.sources] == ["a", "b.v1", "d", "c"]
    assert dataset.label_texts == ("x", "y", "x", "y")


def test_a_model_remembers_a_folder_from_wherever_it_is_looked_for(photos, monkeypatch):
    monkeypatch.chdir(photos)
    path = photos / "t.csv"
    path.write_text("id,label\nc,x\n")
    dataset = Dataset.open(path, cache=photos, image_folder="deep")
    assert dataset.read_as.to_remember() == {"image_folder": str(photos / "deep")}
    url = dataset.read_as.create(image_folder="s3://b/p", folders="parts")
    assert url.to_remember() == {"image_folder": "s3://b/p", "folders": "parts"}
