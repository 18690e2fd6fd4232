import io
import json
import sys
import tarfile
import tempfile
import unicodedata
import zipfile
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import FileServer

from topwork.core.errors import DatasetError, ImageError, SettingsError
from topwork.data.dataset import Dataset
from topwork.data.readers.folder import DiskTree
from topwork.data.readers.layout import descend
from topwork.data.readers.table import is_table
from topwork.data.readers.tree import is_image_name
from topwork.images.decode import read_bytes

CLASSES = {"cat/1.png": b"one", "cat/deep/2.png": b"two", "dog/3.png": b"three"}
TABLE = {
    "1.png": b"one",
    "deep/2.png": b"two",
    "3 é.png": b"three",
    "labels.csv": "path,label\n1.png,cat\n./deep/2.png,cat\n3 é.png,dog\n".encode(),
}
EXPECTED = {b"one": "cat", b"two": "cat", b"three": "dog"}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def write(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return file.getvalue()


def tarred(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as opened:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return file.getvalue()


PACKERS = {"zip": zipped, "tar.gz": tarred}


def open_all(place, tmp_path, **options):
    """Opens data, and checks that every image is there with its label."""
    dataset = Dataset.open(place, cache=tmp_path / "cache", **options)
    found = zip(dataset.sources, dataset.label_texts, strict=True)
    assert {read_bytes(source): label for source, label in found} == EXPECTED
    return dataset


# Each kind of place


@pytest.mark.parametrize("files", [CLASSES, TABLE])
def test_a_folder(tmp_path, files):
    root = write(tmp_path / "p", files)
    assert open_all(root, tmp_path, strict=True).skipped == ()
    assert open_all(str(root) + "/", tmp_path).skipped == ()


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("top", ["", "photos/", "a/b/"])
@pytest.mark.parametrize("files", [CLASSES, TABLE])
def test_an_archive_as_the_folder_that_was_packed(tmp_path, kind, top, files):
    path = tmp_path / f"photos.{kind}"
    path.write_bytes(PACKERS[kind]({top + name: data for name, data in files.items()}))
    dataset = open_all(path, tmp_path, strict=True)
    assert dataset.root.startswith(str(path))
    assert not [left for left in tmp_path.iterdir() if left.name not in (path.name, "cache")]


ROWS = [("1.png", "cat"), ("deep/2.png", "cat"), ("3 é.png", "dog")]
TABLES = {
    "t.csv": "path,label\n" + "".join(f"{path},{label}\n" for path, label in ROWS),
    "t.tsv": "path\tlabel\n" + "".join(f"{path}\t{label}\n" for path, label in ROWS),
    "t.jsonl": "".join(json.dumps({"path": path, "label": label}) + "\n" for path, label in ROWS),
    "t.json": json.dumps([{"path": path, "label": label} for path, label in ROWS]),
}


def make_table(root, name):
    write(root, {k: v for k, v in TABLE.items() if k != "labels.csv"})
    if name == "t.parquet":
        paths, labels = zip(*ROWS, strict=True)
        pq.write_table(pa.table({"path": paths, "label": labels}), root / name)
    else:
        (root / name).write_text(TABLES[name], encoding="utf-8")
    return root / name


@pytest.mark.parametrize("name", [*TABLES, "t.parquet"])
def test_a_table(tmp_path, name):
    path = make_table(tmp_path / "p", name)
    assert open_all(path, tmp_path, strict=True).root == str(path)
    assert open_all(path.as_uri(), tmp_path, strict=True).root == str(path)


def test_a_folder_that_datasets_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    cells = [{"bytes": data, "path": None} for data in EXPECTED]
    made = datasets.Dataset.from_dict({"image": cells, "label": list(EXPECTED.values())})
    datasets.disable_progress_bars()
    made.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "saved")
    open_all(tmp_path / "saved", tmp_path)
    open_all((tmp_path / "saved").as_uri(), tmp_path)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json"])
def test_a_table_on_standard_input(tmp_path, monkeypatch, name):
    path = make_table(tmp_path / "p", name)
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert open_all("-", tmp_path).root == "stdin"


def test_an_empty_standard_input_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(DatasetError, match="stdin must start with a line of column names"):
        Dataset.open("-", cache=tmp_path)


# A folder that may be several things


@pytest.mark.parametrize("name", ["metadata.csv", "labels.parquet", "x.jsonl"])
@pytest.mark.parametrize("top", ["", "train/"])
def test_a_table_beside_class_folders_is_not_read(tmp_path, name, top):
    files = {top + path: data for path, data in CLASSES.items()} | {name: b"no table at all"}
    open_all(write(tmp_path / "p", files), tmp_path, strict=True)
    (tmp_path / "z.zip").write_bytes(zipped(files))
    open_all(tmp_path / "z.zip", tmp_path, strict=True)


def test_a_table_beside_class_folders_is_read_if_a_column_of_it_is_named(tmp_path):
    files = {"a/1.png": b"one", "b/2.png": b"two", "b/3.png": b"three"}
    files["t.csv"] = b"path,kind\na/1.png,cat\nb/2.png,cat\nb/3.png,dog\n"
    (tmp_path / "z.zip").write_bytes(zipped(files))
    for place in (write(tmp_path / "p", files), tmp_path / "z.zip"):
        assert Dataset.open(place, cache=tmp_path / "c").classes == ("a", "b")
        open_all(place, tmp_path, label_column="kind", strict=True)


@pytest.mark.parametrize("top", ["images/", "train/"])
def test_a_table_beside_one_folder_of_images_is_read(tmp_path, top):
    files = {top + Path(name).name: b for name, b in TABLE.items() if name != "labels.csv"}
    rows = "".join(f"{top}{Path(path).name},{label}\n" for path, label in ROWS)
    files["labels.csv"] = f"path,label\n{rows}".encode()
    open_all(write(tmp_path / "p", files), tmp_path, strict=True)


@pytest.mark.parametrize("name", ["config.json", ".labels.csv", "notes.txt"])
def test_what_is_no_table_of_images_changes_nothing(tmp_path, name):
    write(tmp_path / "p", {"1.png": b"one", name: b"{}"})
    with pytest.raises(DatasetError, match="no class folders; make one folder per class"):
        Dataset.open(tmp_path / "p", cache=tmp_path)


def test_two_tables_and_no_class_folders_are_refused(tmp_path):
    write(tmp_path / "p", TABLE | {"more.csv": b"path,label\n1.png,cat\n"})
    with pytest.raises(DatasetError, match=r"several tables: labels.csv, more.csv; keep the one"):
        Dataset.open(tmp_path / "p", cache=tmp_path)


# What cannot be read


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("notes.txt", b"x", "a zip or tar file, or a URL of one: it is another kind of file"),
        ("photo.png", b"x", "it is another kind of file"),
        ("x.zip", b"no zip", "must be a zip or tar file: it is neither"),
        ("x.csv", b"", "must start with a line of column names"),
        ("x.parquet", b"PAR1", "cannot be read, or is damaged"),
        ("x.csv", None, "cannot read the table .*x.csv: No such file"),
        ("x.zip", None, "there is no such file"),
        ("x", None, "there is no such folder"),
        ("x" * 300, None, "there is no such folder"),
        ("a\0b", None, "there is no such folder"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, data, reason):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=reason):
        Dataset.open(tmp_path / name, cache=tmp_path / "cache")


def test_an_unknown_setting_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="unknown setting 'colour'"):
        Dataset.open(tmp_path, colour="red")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("none.png,cat", "none.png: there is no such file"),
        (",cat", "there is no image"),
        ("1.png,", "there is no label"),
        ("1.png,cat,9", "must have 2 fields"),
        ("deep,cat", "it is a folder|no such file"),
        ("deep/,cat", "it is a folder|no such file"),
        ("ftp://x/1.png,cat", None),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_bad_row_is_left_out_and_named_with_its_line(tmp_path, row, reason, kind):
    table = TABLE["labels.csv"] + row.encode() + b"\n1.png,cat\n"
    files = TABLE | {"labels.csv": table}
    (tmp_path / "p.zip").write_bytes(zipped(files))
    place = write(tmp_path / "p", files) if kind == "folder" else tmp_path / "p.zip"
    dataset = Dataset.open(place, cache=tmp_path / "cache")
    if reason is None:
        # Another machine is asked only when its image is read.
        with pytest.raises(ImageError, match="ftp:// is not supported"):
            read_bytes(dataset.sources[3])
        return
    assert len(dataset) == 4
    (left_out,) = dataset.skipped
    assert left_out.path == f"{place}/labels.csv line 5"
    with pytest.raises(DatasetError, match=f"labels.csv line 5: .*({reason}).*--strict"):
        Dataset.open(place, cache=tmp_path / "cache", strict=True)


def test_the_paths_of_a_table_may_be_of_many_kinds(tmp_path):
    root = write(tmp_path / "p", {k: v for k, v in TABLE.items() if k != "labels.csv"})
    write(tmp_path, {"beside.png": b"four", "p/back\\slash.png": b"five"})
    paths = [
        str(root / "1.png"), "deep\\2.png", (root / "3 é.png").as_uri(), "../beside.png",
        "./deep/../1.png", "back\\slash.png", ".\\deep\\2.png",
    ]  # fmt: skip
    rows = "".join(f"{path},{'ab'[n % 2]}\n" for n, path in enumerate(paths))
    (root / "t.csv").write_text("path,label\n" + rows, encoding="utf-8")
    dataset = Dataset.open(root / "t.csv", cache=tmp_path / "cache", strict=True)
    contents = [b"one", b"two", b"three", b"four", b"one", b"five", b"two"]
    assert [read_bytes(source) for source in dataset.sources] == contents
    assert dataset.names == tuple(paths)


def test_the_paths_of_a_table_in_an_archive_may_be_of_many_kinds(tmp_path):
    accents = unicodedata.normalize("NFD", "3 é.png")
    files = {"p/1.png": b"one", "p/deep/2.png": b"two", f"p/{accents}": b"three"}
    paths = ["1.png", "./1.png", "deep\\2.png", "deep/../1.png", "3 é.png", "../p/1.png"]
    rows = "".join(f"{path},{'ab'[n % 2]}\n" for n, path in enumerate(paths))
    files["p/t.csv"] = f"path,label\n{rows}".encode()
    (tmp_path / "z.zip").write_bytes(zipped(files))
    dataset = Dataset.open(tmp_path / "z.zip", cache=tmp_path / "cache", strict=True)
    contents = [b"one", b"one", b"two", b"one", b"three", b"one"]
    assert [read_bytes(source) for source in dataset.sources] == contents


def test_a_path_of_a_table_in_an_archive_does_not_lead_out_of_it(tmp_path):
    (tmp_path / "1.png").write_bytes(b"mine")
    table = f"path,label\n{tmp_path}/1.png,a\n../1.png,a\n2.png,b\n3.png,a\n"
    files = {"t.csv": table.encode(), "2.png": b"", "3.png": b""}
    (tmp_path / "z.zip").write_bytes(zipped(files))
    dataset = Dataset.open(tmp_path / "z.zip", cache=tmp_path / "cache")
    assert dataset.names == ("2.png", "3.png")
    assert [item.path[-6:] for item in dataset.skipped] == ["line 2", "line 3"]


@pytest.mark.parametrize("kind", ["folder", "zip", "csv", "parquet"])
def test_without_labels_every_image_is_there(tmp_path, kind):
    files = TABLE | {"labels.csv": b"path,id,when\n1.png,7,1\ndeep/2.png,8,1\n"}
    root = write(tmp_path / "p", files)
    (tmp_path / "p.zip").write_bytes(zipped(files))
    pq.write_table(pa.table({"path": ["1.png", "deep/2.png"]}), root / "t.parquet")
    place = {
        "folder": root, "zip": tmp_path / "p.zip", "csv": root / "labels.csv",
        "parquet": root / "t.parquet",
    }[kind]  # fmt: skip
    if kind == "folder":
        (root / "t.parquet").unlink()
    dataset = Dataset.open(place, cache=tmp_path / "cache", labelled=False)
    assert [read_bytes(source) for source in dataset.sources] == [b"one", b"two"]
    assert (dataset.classes, dataset.labels.tolist()) == ((), [-1, -1])
    with pytest.raises(DatasetError, match="column of labels"):
        Dataset.open(place, cache=tmp_path / "cache")


def test_some_labels_may_be_missing_where_none_is_needed(tmp_path):
    files = TABLE | {"labels.csv": b"path,label\n1.png,cat\ndeep/2.png,\n"}
    dataset = Dataset.open(write(tmp_path / "p", files), cache=tmp_path, labelled=False)
    assert dataset.label_texts == ("cat", "")


# On other machines


@pytest.fixture(scope="module")
def site():
    pytest.importorskip("aiohttp")
    with FileServer() as site:
        for name, data in CLASSES.items():
            site.files[f"/classes/{name}"] = data
        for name, data in TABLE.items():
            site.files[f"/table/{name}"] = data
        for kind, pack in PACKERS.items():
            site.files[f"/z/classes.{kind}"] = pack(CLASSES)
            site.files[f"/z/table.{kind}"] = pack(TABLE)
        pictures = {"/1.png": b"one", "/d/2.png": b"two", "/d/3 é.png": b"three"}
        site.files |= pictures
        rows = [("/1.png", "cat"), ("/d/2.png", "cat"), ("/d/3 é.png", "dog")]
        table = "path,label\n" + "".join(f"{site.url}{quote(p)},{c}\n" for p, c in rows)
        site.files["/t.csv"] = table.encode()
        yield site


@pytest.mark.parametrize(
    "path",
    [
        "/classes", "/classes/", "/table", "/table/labels.csv", "/table/labels.csv?sig=secret",
        "/z/classes.zip", "/z/table.zip", "/z/classes.tar.gz", "/z/table.tar.gz", "/t.csv",
    ],
)  # fmt: skip
def test_the_same_on_a_web_server(site, tmp_path, path):
    dataset = open_all(site.url + path, tmp_path)
    assert dataset.skipped == ()
    assert "secret" not in dataset.root


def test_urls_in_a_local_table_and_in_an_archive(site, tmp_path):
    write(tmp_path, {"p/1.png": b"one"})
    rows = f"path,label\n1.png,cat\n{site.url}/d/2.png,cat\n{site.url}/d/3%20%C3%A9.png,dog\n"
    (tmp_path / "p/t.csv").write_text(rows)
    open_all(tmp_path / "p/t.csv", tmp_path)
    (tmp_path / "z.zip").write_bytes(zipped({"1.png": b"one", "t.csv": rows.encode()}))
    open_all(tmp_path / "z.zip", tmp_path)


@pytest.mark.parametrize("path", ["/none", "/none.csv", "/none.zip", "/z/none/"])
def test_what_a_server_does_not_have_is_said(site, tmp_path, path):
    with pytest.raises(DatasetError, match=r"none"):
        Dataset.open(site.url + path, cache=tmp_path)


def test_an_image_that_a_server_does_not_have_is_an_image_error(site, tmp_path):
    site.files["/table/bad.csv"] = b"path,label\n1.png,cat\nnone.png,dog\n"
    try:
        dataset = Dataset.open(f"{site.url}/table/bad.csv", cache=tmp_path)
    finally:
        del site.files["/table/bad.csv"]
    with pytest.raises(ImageError):
        read_bytes(dataset.sources[1])


# Anything


CELLS = st.sampled_from(
    ["1.png", "deep/2.png", "none.png", "", "deep", "a,b", '"', "cat", "dog", "Café", "train",
     "val", "test", "7", "-1", "nan", "1e99", "yes", "0", "x|y", "\0", "../1.png", "http://", "é"]
) | st.text(max_size=5)  # fmt: skip
COLUMNS = st.lists(
    st.sampled_from(["path", "label", "split", "group", "weight", "tags", "id", "", "label"]),
    max_size=5,
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "task": st.sampled_from(["classes", "binary", "labels", "number"]),
        "label_column": st.sampled_from(["label", "tags", "label,tags", "none", ""]),
        "label_separator": st.sampled_from(["|", ","]),
        "split_column": st.sampled_from(["", "split"]),
        "strict": st.booleans(),
        "labelled": st.booleans(),
    },
)


@given(COLUMNS, st.lists(st.lists(CELLS, max_size=5), max_size=6), OPTIONS)
def test_any_table_is_read_or_refused(columns, rows, options):
    with tempfile.TemporaryDirectory() as folder:
        root = write(Path(folder), {"1.png": b"one", "deep/2.png": b"two"})
        lines = [",".join(columns), *(",".join(cells) for cells in rows)]
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
        (root / "t.csv").write_bytes(text)
        try:
            dataset = Dataset.open(root / "t.csv", cache=root / "c", **options)
        except (DatasetError, SettingsError) as error:
            assert str(error)
            return
        assert len(dataset.labels) == len(dataset.splits) == len(dataset.names) == len(dataset)
        assert len(dataset.label_texts) == len(dataset) > 0
        assert len(dataset) + len(dataset.skipped) <= len(lines) + text.count(b"\r")
        dataset.counts()
        assert dataset.targets.shape[0] == len(dataset)
        try:
            made = dataset.with_validation(0.3, 0)
        except DatasetError as error:
            assert str(error)
            return
        assert {*made.splits} >= {"train", "validation"}


NAMES = st.text(
    st.characters(exclude_characters="/\0\\\n\r", codec="utf-8"), min_size=1, max_size=6
)
WORDS = st.text("abcé ü-_", min_size=1, max_size=4).map(str.strip).filter(bool)
GOOD = st.lists(
    st.tuples(NAMES, WORDS, st.sampled_from(["train", "val", "Test", "DEV"]), WORDS | st.just("")),
    min_size=3,
    max_size=8,
    unique_by=lambda row: row[0],
)


@given(GOOD, st.sampled_from(["csv", "jsonl", "parquet"]), st.booleans())
def test_every_good_row_is_there_with_label_split_and_group(rows, kind, packed):
    """Through whichever format, and from a folder or an archive."""
    rows = [(f"{n} {name.strip()}.png", *rest) for n, (name, *rest) in enumerate(rows)]
    cells = [dict(zip(["file", "label", "split", "group"], row, strict=True)) for row in rows]
    file = io.BytesIO()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(cells), file)
    elif kind == "jsonl":
        file.write("".join(json.dumps(row) + "\n" for row in cells).encode())
    else:
        text = ["file,label,split,group"]
        text += [",".join(f'"{x.replace(chr(34), 2 * chr(34))}"' for x in row) for row in rows]
        file.write("\n".join(text).encode())
    files = {name: str(n).encode() for n, (name, *_) in enumerate(rows)}
    files[f"t.{kind}"] = file.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        place = root / f"p/t.{kind}"
        if packed:
            place = root / "z.zip"
            place.write_bytes(zipped(files))
        else:
            write(root / "p", files)
        try:
            dataset = Dataset.open(place, cache=root / "c", strict=True)
        except DatasetError as error:
            training = {row[1] for row in rows if row[2] == "train"}
            assert "at least 2 classes" in str(error)
            assert training
            assert len({row[1] for row in rows}) == 1
            return
        splits = {"val": "validation", "DEV": "validation", "Test": "test"}
        found = zip(dataset.sources, dataset.label_texts, dataset.splits.tolist(), strict=True)
        assert [(int(read_bytes(source)), *rest) for source, *rest in found] == [
            (n, label, splits.get(split, split)) for n, (_, label, split, _) in enumerate(rows)
        ]
        groups = {}
        for number, (*_, group) in zip(dataset.groups.tolist(), rows, strict=True):
            key = group or object()
            assert groups.setdefault(key, number) == number
        assert len({*groups.values()}) == len(groups)


PATHS = st.tuples(
    st.lists(
        st.sampled_from(["cat", "dog", "train", "Val", "test", "é", "x.png", "a b"]), max_size=3
    ),
    st.sampled_from(["1.png", "2.JPG", "notes.txt", "t.csv", "3"]),
).map(lambda path: "/".join([*path[0], path[1]]))


@given(st.lists(PATHS, min_size=1, max_size=10, unique=True), st.sampled_from([*PACKERS]))
def test_any_folder_is_read_the_same_packed_and_on_the_disk(names, kind):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = {}
        for name in names:
            data = b"path,label\n1.png,a\nnone.png,b\n2.JPG,b\n" if name.endswith("csv") else b"x"
            try:
                write(root / "p", {name: data})
            except OSError:  # a file where a folder has to be
                continue
            files[name] = data
        (root / f"z.{kind}").write_bytes(PACKERS[kind](files))

        def read(place, base):
            try:
                dataset = Dataset.open(place, cache=root / "c")
            except DatasetError as error:
                assert str(error)
                return None
            rows = zip(dataset.names, dataset.label_texts, dataset.splits.tolist(), strict=True)
            left_out = [item.path.removeprefix(f"{place}/") for item in dataset.skipped]
            return (
                [(name.removeprefix(base), *rest) for name, *rest in rows],
                [path.removeprefix(base) for path in left_out],
            )

        base = descend(DiskTree(root / "p"), is_table)
        packed = read(root / f"z.{kind}", base)
        assert packed == read(root / "p" / base, "")
        if packed and ".csv line" not in str(packed):
            images = {name.removeprefix(base) for name in files if is_image_name(name)}
            assert images == {name for name, *_ in packed[0]} | {
                path for path in packed[1] if is_image_name(path)
            }


def test_nothing_of_the_user_is_touched(tmp_path):
    root = write(tmp_path / "p", TABLE)
    (root / "z.zip").write_bytes(zipped(CLASSES))
    (root / "z.tar.gz").write_bytes(tarred(CLASSES))
    before = {path: path.stat() for path in root.rglob("*")}
    for place in (root, root / "labels.csv", root / "z.zip", root / "z.tar.gz"):
        Dataset.open(place, cache=tmp_path / "cache")
    after = {path: path.stat() for path in root.rglob("*")}
    assert after.keys() == before.keys()
    assert all(after[path].st_mtime_ns == stat.st_mtime_ns for path, stat in before.items())
    assert {path.name for path in tmp_path.iterdir()} == {"p", "cache"}
