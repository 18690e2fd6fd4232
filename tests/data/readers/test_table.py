import csv
import gzip
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, picture

from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError, ImageError, SettingsError
from topwork.data.listing import Split
from topwork.data.readers.table import is_table, read_table
from topwork.images.decode import read_bytes

ANYTHING = b"an image"


def anywhere(text):
    """A place where every path is an image."""
    return ANYTHING


def read(data, place="t.csv", resolve=anywhere, strict=False, labelled=True, **columns):
    data = data.encode() if isinstance(data, str) else data
    settings = DataSettings.create(**columns)
    return read_table(place, data, settings, resolve, strict=strict, labelled=labelled)


def rows(listing):
    return list(zip(listing.lines, listing.names, listing.labels, strict=True))


def left_out(listing):
    return [(item.path, item.reason) for item in listing.skipped]


@pytest.mark.parametrize(
    "name",
    [
        "a.csv", "a.TSV", "a.jsonl", "a.ndjson", "a.json", "/x/a.Parquet", "a.csv.gz",
        "https://x.org/a.csv?version=1.2",
    ],
)  # fmt: skip
def test_a_table_is_told_by_its_suffix(name):
    assert is_table(name)


@pytest.mark.parametrize("name", ["a", "a.jpg", "a.gz", "csv", "a.csv.zip", "a.csv/b", ""])
def test_other_files_are_no_tables(name):
    assert not is_table(name)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_delimiter_and_mark_are_found_out(delimiter, bom):
    lines = [["id", "File Name", "Class", "a,b"], ["1", "a.jpg", "é", "x"]]
    data = bom + "\r\n".join(map(delimiter.join, lines[1:])).encode()
    header = delimiter.join(f'"{cell}"' for cell in lines[0]).encode()
    found = read(bom + header + b"\r\n" + data.removeprefix(bom))
    assert rows(found) == [(2, "a.jpg", "é")]
    assert found.sources == [ANYTHING]
    assert (found.root, found.splits, found.groups, found.weights) == ("t.csv", None, None, None)


def test_lines_are_counted_as_an_editor_does():
    found = read('\npath,label\n\n"a\n.jpg","x\r\ny"\nb.jpg, "c, d"\n\n,\nc.jpg\n e.jpg , f \n')
    assert rows(found) == [(4, "a\n.jpg", "x\r\ny"), (7, "b.jpg", "c, d"), (11, "e.jpg", "f")]
    assert left_out(found) == [
        ("t.csv line 9", "there is no label"),
        ("t.csv line 10", "it must have 2 fields like the first line, received 1"),
    ]


@pytest.mark.parametrize(
    "line", ['"b.jpg,x', 'b.jpg,"x', 'b.jpg,"x"y', '"' + "b" * 200_000], ids=range(4)
)
def test_a_quote_that_does_not_match_costs_its_own_line_only(line):
    found = read(f"path,label\na.jpg,x\n{line}\nc.jpg,x\nd.jpg,x\n")
    assert [name for _, name, _ in rows(found)] == ["a.jpg", "c.jpg", "d.jpg"]
    assert left_out(found) == [("t.csv line 3", "its quotes do not match")]


def test_what_is_not_utf8_is_left_out_where_it_is_used():
    # Some of it is UTF-8, so that all of it is meant to be.
    data = b"path,label,note\na.jpg,x,\xe9\nb.jpg,\xe9,y\n\xe9.jpg,x,y\nc.jpg,x,\xc3\xa9\n"
    found = read(data)
    assert rows(found) == [(2, "a.jpg", "x"), (5, "c.jpg", "x")]
    assert [path for path, reason in left_out(found) if "UTF-8" in reason] == [
        "t.csv line 3", "t.csv line 4"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("a.jpg,x\nb.JPG,y\n", [(1, "a.jpg", "x"), (2, "b.JPG", "y")]),
        ("x;https://x.org/a.png?w=1\n", [(1, "https://x.org/a.png?w=1", "x")]),
    ],
)
def test_a_table_without_a_header_may_be_paths_and_labels(data, expected):
    assert rows(read(data)) == expected


def test_a_table_without_a_header_may_be_paths_alone():
    assert rows(read("a.jpg\nb.jpg\n", labelled=False)) == [(1, "a.jpg", None), (2, "b.jpg", None)]
    with pytest.raises(DatasetError, match="column of labels"):
        read("a.jpg\nb.jpg\n")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("a.jpg,x,y", r"column of images.*a\.jpg, x, y.*--image-column.*line of names"),
        ("number,label", "column of images.*number, label.*--image-column"),
        ("path,colour,size", "column of labels.*path, colour, size.*--label-column"),
        ("path,url,label", "several columns.*path, url.*--image-column"),
        ("path,label,Label", "several columns.*label, Label.*--label-column"),
        ("path,label,set,split", "several columns.*set, split.*--split-column"),
        ('"path,label', "quotes"),
        ("", "empty"),
    ],
)
def test_columns_that_cannot_be_told(header, said):
    with pytest.raises(DatasetError, match=said):
        read(f"{header}\n{','.join('x' for _ in header.split(','))}\n" if header else "")


def test_settings_say_which_column_is_which():
    data = "path,url,label,set,colour,product,trust\na,b.jpg,x,1,red,p,0.5\n"
    found = read(
        data, image_column="URL", label_column="colour", split_column="", group_column="product",
        weight_column="trust",
    )  # fmt: skip
    assert rows(found) == [(2, "b.jpg", "red")]
    assert (found.splits, found.groups, found.weights) == (None, ["p"], [0.5])


def test_a_column_with_a_role_is_not_guessed_for_another():
    assert rows(read("path,url,label\na,b,x\n", group_column="url")) == [(2, "a", "x")]


@pytest.mark.parametrize("option", ["image", "label", "split", "group", "weight"])
def test_a_column_that_is_not_there(option):
    with pytest.raises(SettingsError, match=rf"--{option}-column.*'nothing'.*path, label"):
        read("path,label\na.jpg,x\n", **{f"{option}_column": "nothing"})


def test_several_label_columns():
    found = read("path,dog,cat\na.jpg,1,0\nb.jpg,1,\n", label_column="cat, Dog")
    # An image may have any of several labels, and so it may have none.
    assert rows(found) == [(2, "a.jpg", ("0", "1")), (3, "b.jpg", ("", "1"))]
    assert found.label_columns == ("cat", "dog")
    assert left_out(found) == []


def test_splits_groups_and_weights():
    texts = ["Train", "training", "val", "VALID", "validation", "dev", "test", "testing"]
    kinds = [Split.TRAIN] * 2 + [Split.VALIDATION] * 4 + [Split.TEST] * 2
    lines = [f"{n}.jpg,x,{text},g{n % 2},{n}" for n, text in enumerate(texts)]
    bad = [
        "a,x,,g,1",
        "b,x,extra,g,1",
        "c,x,train,,-1",
        "d,x,train,,inf",
        "e,x,train,,",
        "f,x,dev,,0",
    ]
    found = read("\n".join(["path,label,split,group,weight", *lines, *bad]))
    assert found.splits == [*kinds, Split.VALIDATION]
    assert found.groups == ["g0", "g1"] * 4 + [""]
    assert found.weights == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    assert [re.sub("[;,].*", "", reason) for _, reason in left_out(found)] == [
        "the split must be train", "the split must be train",
        *["the weight must be a number of 0 or more"] * 3,
    ]  # fmt: skip


def test_without_labels_only_the_image_is_needed():
    found = read("path,label,weight\na.jpg,,-1\nb.jpg,x,\n", labelled=False)
    assert rows(found) == [(2, "a.jpg", None), (3, "b.jpg", "x")]
    assert (found.splits, found.weights) == (None, None)


def test_without_labels_splits_and_groups_are_still_those_of_the_table():
    text = "path,split,group\na.jpg,test,g\nb.jpg,train,\nc.jpg,?,h\n"
    found = read(text, labelled=False)
    assert rows(found) == [(2, "a.jpg", None), (3, "b.jpg", None)]
    assert (found.splits, found.groups) == ([Split.TEST, Split.TRAIN], ["g", ""])
    assert [where for where, _ in left_out(found)] == ["t.csv line 4"]


def test_a_single_column_that_is_left_over_holds_the_labels():
    assert rows(read("image,price,split\na.jpg,12,train\n")) == [(2, "a.jpg", "12")]
    assert rows(read("image,price\na.jpg,12\n", labelled=False)) == [(2, "a.jpg", None)]
    assert rows(read("image,price,class\na.jpg,12,cheap\n")) == [(2, "a.jpg", "cheap")]
    asked = read("path,split\na.jpg,?\nb.jpg,dev\n", labelled=False, split_column="split")
    assert asked.splits == [Split.VALIDATION]
    assert rows(read("path\na.jpg\n", labelled=False, label_column="gone")) == [(2, "a.jpg", None)]


def test_files_are_looked_for_once(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "folder").mkdir()
    asked = []

    def resolve(text):
        asked.append(text)
        return tmp_path / text

    names = ["a.jpg", "b.jpg", "a.jpg", "b.jpg", "folder", "a.jpg/c.jpg", "x\0y", "n" * 300]
    found = read("path,label\n" + "".join(f"{name},x\n" for name in names), resolve=resolve)
    assert asked == ["a.jpg", "b.jpg", "folder", "a.jpg/c.jpg", "x\0y", "n" * 300]
    assert rows(found) == [(2, "a.jpg", "x"), (4, "a.jpg", "x")]
    assert found.sources == [tmp_path / "a.jpg"] * 2
    assert left_out(found)[:5] == [
        ("t.csv line 3", "b.jpg: there is no such file"),
        ("t.csv line 5", "b.jpg: there is no such file"),
        ("t.csv line 6", "folder: it is a folder"),
        ("t.csv line 7", "a.jpg/c.jpg: there is no such file"),
        ("t.csv line 8", "x\0y: not a path"),
    ]
    assert len(found.skipped) == 6


def test_a_place_may_say_why_there_is_no_image():
    def resolve(text):
        if text == "b":
            raise ImageError("the server refuses it")
        return ANYTHING

    found = read("url,label\na,x\nb,x\n", resolve=resolve)
    assert left_out(found) == [("t.csv line 3", "b: the server refuses it")]


def test_no_row_that_can_be_used(tmp_path):
    lines = "".join(f"in/{n}.jpg,x\n" for n in range(9))
    with pytest.raises(DatasetError) as caught:
        read(f"path,label\n{lines}", resolve=lambda text: tmp_path / text)
    said = str(caught.value)
    assert "t.csv line 2: in/0.jpg: there is no such file" in said
    assert f"and 6 more. Paths are relative to {tmp_path}/" in said
    with pytest.raises(DatasetError, match="no rows"):
        read("path,label\n")


def test_strict_stops_at_the_first():
    with pytest.raises(DatasetError, match=r"t\.csv line 3: there is no label"):
        read("path,label\na.jpg,x\nb.jpg,\n,x\n", strict=True)
    assert rows(read("path,label\na.jpg,x\n", strict=True))


def test_files_bytes_and_packed_files_are_the_same(tmp_path):
    data = b"path,label\na.jpg,x\n"
    for name, content in (("t.csv", data), ("t.csv.gz", gzip.compress(data)), ("t", data)):
        path = tmp_path / name
        path.write_bytes(content)
        for given_ in (path, content):
            found = read_table(str(path), given_, DataSettings(), anywhere)
            assert rows(found) == [(2, "a.jpg", "x")]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_table_that_cannot_be_read(name, tmp_path):
    for path in (tmp_path / name, tmp_path, tmp_path / "x\0y"):
        with pytest.raises(DatasetError, match=r"cannot read|not a path"):
            read_table(name, path, DataSettings(), anywhere)
    packed = gzip.compress(b"path,label\n" * 999)
    for data in (packed[:-9], packed[:20] + b"?" + packed[21:], b"\x1f\x8b"):
        with pytest.raises(DatasetError):
            read(data, name)


JSON_ROWS = """\
{"image": "a.jpg", "label": 3, "weight": 2}

{"image": "b.jpg", "label": 3.0, "weight": 0.5, "note": {"x": [1]}}
{"image": "c.jpg", "label": 0.25, "weight": "1"}
{"image": "d.jpg", "label": true, "weight": 1}
{"image": "e.jpg", "label": "x", "weight": 1, "split": "test"}
"""


def test_json_lines():
    found = read(JSON_ROWS, "t.jsonl", split_column="")
    assert rows(found) == [
        (1, "a.jpg", "3"), (3, "b.jpg", "3"), (4, "c.jpg", "0.25"), (5, "d.jpg", "true"),
        (6, "e.jpg", "x"),
    ]  # fmt: skip
    assert found.weights == [2, 0.5, 1, 1, 1]
    found = read(JSON_ROWS, "t.jsonl")
    assert rows(found) == [(6, "e.jpg", "x")]
    assert len(found.skipped) == 4


@pytest.mark.parametrize("place", ["t.json", "standard input"])
def test_json_is_an_array_or_lines(place):
    for mark in ("", "\ufeff"):
        lines = mark + '{"file": "a.jpg", "label": "x"}\n{"file": "b.jpg"}\n'
        assert left_out(read(lines, place)) == [(f"{place} line 2", "there is no label")]
        array = mark + '[\n{"file": "a.jpg", "label": "x"},\n{"file": "b.jpg"}, 3]'
        found = read(array, place)
        assert rows(found) == [(1, "a.jpg", "x")]
        assert [path for path, _ in left_out(found)] == [f"{place} row 2", f"{place} row 3"]
    with pytest.raises(DatasetError, match="not JSON"):
        read('[{"file": "a.jpg"', place)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"path": "b.jpg"', "not JSON"),
        (b'"b.jpg"', "JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"label": ' + b"1" * 5000 + b"}", "not JSON"),
        (b"{}", "no label"),
        (b"[]", "received a list"),
        (b'{"path": "b.jpg"}', "no label"),
        (b'{"path": null, "label": "x"}', "no image"),
        (b'{"path": ["b.jpg"], "label": "x"}', "received a list"),
        (b'{"path": "b.jpg", "label": {"x": 1}}', "received a dict"),
        (b'{"path": "b.jpg", "label": NaN}', "no label"),
        (b'{"path": "b.jpg", "label": "\\ud800"}', "UTF-8"),
        (b'{"path": "b.jpg", "label": ["x", ""]}', "separates"),
        (b'{"path": "b.jpg", "label": ["x|y"]}', "separates"),
    ],
)
def test_bad_lines_of_json_are_named(line, reason):
    good = b'{"path": "a.jpg", "label": "x"}\n'
    found = read(good + line + b"\n" + good, "t.ndjson")
    assert [number for number, *_ in rows(found)] == [1, 3]
    assert [number for number, *_ in rows(read(line + b"\n" + good, "t.ndjson"))] == [2]
    assert [path for path, why in left_out(found) if reason in why] == ["t.ndjson line 2"]
    with pytest.raises(DatasetError):
        read(line, "t.ndjson")


def test_a_line_of_json_that_is_not_utf8_is_named_where_others_are():
    lines = [b'{"path": "a.jpg", "label": "\xc3\xa9"}', b'{"path": "b.jpg", "label": "\xe9"}']
    found = read(b"\n".join(lines), "t.jsonl")
    assert rows(found) == [(1, "a.jpg", "é")]
    assert ["--encoding" in reason for _, reason in left_out(found)] == [True]


def test_lists_of_labels_are_joined():
    data = '{"path": "a", "tags": ["x", 2]}\n{"path": "b", "tags": []}\n{"path": "c", "tags": "y"}'
    assert rows(read(data, "t.jsonl")) == [(1, "a", "x|2"), (2, "b", ""), (3, "c", "y")]
    assert read(data, "t.jsonl", label_separator=" ").labels == ["x 2", "", "y"]


def write_parquet(table, **options):
    file = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), file, **options)
    return file.getvalue()


def test_parquet_cells_of_any_type_become_text():
    labels = {
        "3": pa.array([3], pa.int8()), "4": pa.array([4.0]), "0.1": pa.array([0.1]),
        "x": pa.array(["x"]).dictionary_encode(), "y": pa.array(["y"], pa.large_string()),
        "true": pa.array([True]), "z": pa.array([b"z"]), "2020-01-02": pa.array(
            [18263], pa.int32()).cast(pa.date32()),
    }  # fmt: skip
    for text, column in labels.items():
        found = read(write_parquet({"path": ["a"], "label": column}), "t.parquet")
        assert rows(found) == [(1, "a", text)]


def test_parquet_rows():
    table = {
        "path": ["a", None, "b", "c", "d"],
        "label": pa.array([1, 2, None, 3, 4]),
        "split": ["train", "train", "train", "?", "test"],
        "group": pa.array([7, 7, 7, 7, None]),
    }
    found = read(write_parquet(table, row_group_size=2), "t.parquet")
    assert rows(found) == [(1, "a", "1"), (5, "d", "4")]
    assert (found.splits, found.groups) == ([Split.TRAIN, Split.TEST], ["7", ""])
    assert [path for path, _ in left_out(found)] == [f"t.parquet row {n}" for n in (2, 3, 4)]
    flags = {"path": ["a"], "x": [True], "y": [False]}
    found = read(write_parquet(flags), "t.parquet", label_column="x,y")
    assert found.labels == [("1", "0")]


PICTURES = [encode(picture(size=(4, 4), seed=n)) for n in range(30)]


@pytest.mark.parametrize("statistics", [True, False])
def test_images_may_lie_in_a_parquet_file(statistics, tmp_path):
    cells = [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(PICTURES)]
    cells[3] = {"bytes": PICTURES[3], "path": None}
    cells[5] = {"bytes": None, "path": "elsewhere"}
    cells[6] = {"bytes": None, "path": None}
    cells[7] = None
    cells[8:12] = [{"bytes": None, "path": "elsewhere"}] * 4
    table = {"n": range(30), "image": cells, "mask": cells, "path": ["?"] * 30, "y": range(30)}
    table["file"] = [b"?"] * 30
    path = tmp_path / "t.parquet"
    path.write_bytes(write_parquet(table, row_group_size=4, write_statistics=statistics))
    for data in (path, path.read_bytes()):
        found = read(data, "t.parquet")
        assert [(item.path, item.reason) for item in found.skipped] == [
            ("t.parquet row 7", "there is no image"), ("t.parquet row 8", "there is no image")
        ]  # fmt: skip
        assert found.names[:6] == ["0.png", "1.png", "2.png", "row 4", "4.png", "elsewhere"]
        with ThreadPoolExecutor(4) as pool:
            read_back = list(pool.map(read_bytes, found.sources))
        expected = [*PICTURES[:5], *[ANYTHING] * 5, *PICTURES[12:]]
        assert read_back == expected
        assert [read_bytes(source) for source in reversed(found.sources)] == expected[::-1]


def test_images_may_be_plain_bytes():
    found = read(write_parquet({"photo": PICTURES[:2], "label": ["x", "y"]}), "t.parquet")
    assert rows(found) == [(1, "row 1", "x"), (2, "row 2", "y")]
    assert [read_bytes(source) for source in found.sources] == PICTURES[:2]
    found = read(write_parquet({"photo": PICTURES[:2]}), "t.parquet", labelled=False)
    assert found.labels == [None, None]
    # Bytes beside paths are something else.
    found = read(write_parquet({"path": ["a"], "hash": [b"\1"], "label": ["x"]}), "t.parquet")
    assert found.sources == [ANYTHING]


def test_classes_of_a_hugging_face_parquet_have_names():
    features = {
        "fine": {"_type": "ClassLabel", "names": ["cat", "dog"]},
        "many": {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["p", "q"]}},
    }
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    table = {"img": list("abcd"), "fine": [0, 1, -1, 2], "many": [[0, 1], [], [1], [5]]}
    data = write_parquet(pa.table(table).replace_schema_metadata(meta))
    found = read(data, "t.parquet", label_column="fine")
    assert rows(found) == [(1, "a", "cat"), (2, "b", "dog")]
    assert len(found.skipped) == 2
    assert read(data, "t.parquet", label_column="many").labels == ["p|q", "", "q"]
    one = pa.table(table).select(["img", "fine"]).replace_schema_metadata(meta)
    assert read(write_parquet(one), "t.parquet").labels == ["cat", "dog"]


def test_a_damaged_parquet_file(tmp_path):
    whole = write_parquet({"image": PICTURES, "label": range(30)}, compression="none")
    for data in (b"", b"PAR1", b"PAR1PAR1", whole[:-1], whole[: len(whole) // 2], b"path,label\n"):
        with pytest.raises(DatasetError, match=r"t\.parquet"):
            read(data, "t.parquet")
    path = tmp_path / "t.parquet"
    path.write_bytes(whole)
    found = read(path, "t.parquet")
    path.write_bytes(whole[:4] + bytes(len(whole) - 4))
    with pytest.raises(ImageError, match=r"t\.parquet"):
        read_bytes(found.sources[0])


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
CELLS = st.tuples(TEXT, TEXT | st.sampled_from(['"', "\n", "\r\n", ";", "a\tb", "x,y"]), TEXT)


@given(
    st.lists(CELLS | st.lists(TEXT, min_size=4, max_size=5), min_size=1, max_size=6),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_every_row_of_csv_comes_back_or_is_named(cells, delimiter, end, encoding):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["note", "path", "label"])
    good, bad = [], []
    for row in cells:
        number = len(re.findall("\r\n|\r|\n", file.getvalue())) + 1
        writer.writerow(row)
        path, label = row[1].strip(), row[2].strip()
        if len(row) == 3 and path and label:
            good.append((number, path, label))
        else:
            bad.append(f"t.csv line {number}")
    data = file.getvalue().encode(encoding)
    if not good:
        with pytest.raises(DatasetError, match=bad[0]):
            read(data)
        return
    found = read(data)
    assert rows(found) == good
    assert [path for path, _ in left_out(found)] == bad


@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"path": st.none() | TEXT, "label": st.none() | TEXT | st.integers()}
        )
        | st.lists(st.integers(), max_size=2),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_every_row_of_json_comes_back_or_is_named(objects, ascii_only):
    data = "\n".join(json.dumps(item, ensure_ascii=ascii_only) for item in objects)
    good, bad = [], []
    for number, item in enumerate(objects, 1):
        cells = item if isinstance(item, dict) else {}
        path, label = cells.get("path"), cells.get("label")
        path, label = (path or "").strip(), "" if label is None else str(label).strip()
        if path and label:
            good.append((number, path, label))
        else:
            bad.append(f"t.jsonl line {number}")
    if not good:
        with pytest.raises(DatasetError):
            read(data, "t.jsonl")
        return
    found = read(data, "t.jsonl")
    assert rows(found) == good
    assert [path for path, _ in left_out(found)] == bad


PIECES = st.sampled_from(
    [
        b"path,label\n", b'{"path": "a", "label": "b"}\n', b'"', b"\n", b"a.jpg,x\n", b"[", b"{}",
        b"\xff", b"\0", b",", b"\x1f\x8b", b"PAR1",
    ]
)  # fmt: skip


@given(
    st.lists(PIECES | st.binary(max_size=9), max_size=9).map(b"".join),
    st.sampled_from(["t.csv", "t.jsonl", "t.json", "t.parquet", "-"]),
    st.booleans(),
)
def test_nothing_in_a_table_is_an_unforeseen_error(data, place, labelled):
    try:
        found = read(data, place, lambda text: Path("/nowhere", text), labelled=labelled)
    except (DatasetError, SettingsError):
        return
    assert not found.names, "there are no such files"
