import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.core.errors import DatasetError
from topwork.data.fix_list import (
    COLUMNS,
    FixListRow,
    Verdict,
    Verdicts,
    apply,
    read_verdicts,
    write_fix_list,
    write_label,
)

A, B, C = "a" * 64, "b" * 64, "0123456789abcdef" * 4

texts = st.text(max_size=12) | st.text(alphabet="=+-@'\t\r\n ,;\"ak", max_size=6)
labels = texts.filter(bool) | st.sampled_from(["keep", "Drop", "label:x", "'=1", "=1", " a ", "-"])


def fill_in(path, verdicts, *, delimiter=",", coding="utf-8-sig", order=COLUMNS, newline="\r\n"):
    """Does what a spreadsheet does: reads the cells, fills in the last column, saves."""
    text = path.read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    out = io.StringIO(newline="")
    writer = csv.DictWriter(
        out, order, delimiter=delimiter, extrasaction="ignore", lineterminator=newline
    )
    writer.writeheader()
    for row, verdict in zip(rows, verdicts, strict=True):
        writer.writerow(row | {"verdict": verdict})
    path.write_bytes(out.getvalue().encode(coding))


def save(path, *rows, header="image,sha256,verdict"):
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def test_a_list_says_what_is_in_doubt(tmp_path):
    path = tmp_path / "fix.csv"
    write_fix_list(
        path,
        [
            FixListRow("train/hat/1.jpg", A, "train", "hat", "shoes", 0.98765, "looks like shoes"),
            FixListRow("test/é.jpg", B, "test", "hat", score=float("nan"), why="twice, as 2.jpg"),
        ],
    )
    assert path.read_bytes().decode("utf-8") == (
        "\ufeffimage,sha256,split,label,suggested,score,why,verdict\r\n"
        f"train/hat/1.jpg,{A},train,hat,shoes,0.988,looks like shoes,\r\n"
        f'test/é.jpg,{B},test,hat,,,"twice, as 2.jpg",\r\n'
    )
    assert len(read_verdicts(path)) == 0


@given(st.lists(st.tuples(texts, labels), min_size=1, max_size=4))
def test_any_names_and_labels_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("lists") / "fix.csv"
    hashes = [f"{n:064x}" for n in range(len(rows))]
    write_fix_list(
        path,
        [FixListRow(name, h, "train", lb, lb) for (name, lb), h in zip(rows, hashes, strict=True)],
    )
    fill_in(path, [write_label(label) for _, label in rows])
    verdicts = read_verdicts(path)
    assert [(v.name, v.sha256, v.action, v.label) for v in verdicts] == [
        (name, h, "label", label) for (name, label), h in zip(rows, hashes, strict=True)
    ]
    # The unfilled list says the labels, too, as they are.
    for classes in ([label for _, label in rows], None):
        changes = apply(verdicts, hashes, [name for name, _ in rows], [""] * len(rows), classes)
        assert changes.relabel == {n: label for n, (_, label) in enumerate(rows)}


@given(st.lists(texts, min_size=1, max_size=5))
def test_no_cell_begins_like_a_formula(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("lists") / "fix.csv"
    write_fix_list(path, [FixListRow(name, A, name, name, name, -1.5, name) for name in names])
    text = path.read_bytes().decode("utf-8-sig")
    for row in csv.reader(io.StringIO(text, newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in row)


@pytest.mark.parametrize(
    "habits",
    [
        {"delimiter": ";"},
        {"delimiter": "\t", "coding": "utf-16"},
        {"coding": "utf-8"},
        {"newline": "\n"},
        {"order": ("verdict", "why", "sha256", "image")},
        {"order": (*COLUMNS, "my notes")},
    ],
)
def test_what_spreadsheets_make_of_it_is_understood(tmp_path, habits):
    path = tmp_path / "fix.csv"
    names = ["a.jpg", "=b.jpg", "ü;,\n.jpg", "d"]
    write_fix_list(
        path, [FixListRow(n, h, "train", "hat") for n, h in zip(names, [A, B, C, A], strict=True)]
    )
    fill_in(path, ["Keep", " DROP ", "ärmel", ""], **habits)
    assert list(read_verdicts(path)) == [
        Verdict(A, "a.jpg", "keep", None, 2),
        Verdict(B, "=b.jpg", "drop", None, 3),
        Verdict(C, "ü;,\n.jpg", "label", "ärmel", 4),
    ]


def test_rows_without_a_verdict_may_hold_anything(tmp_path):
    rows = ["", ",,", "x,short", f"a,{A.upper()},keep", "b,nonsense,  ", f"c,{B}", ",,,,,"]
    path = save(tmp_path / "v.csv", *rows, header="Image, SHA256 ,Verdict")
    assert list(read_verdicts(path)) == [Verdict(A, "a", "keep", None, 5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty file"),
        ("image,verdict\na,keep\n", "`sha256`.*received 'image, verdict'"),
        (f"sha256,verdict,verdict\n{A},keep,drop\n", "one column"),
        (f"sha256,verdict\n{A},keep\n{A[1:]},drop\n", "line 3: sha256 must be the 64 hex digits"),
        (f"sha256,verdict\n{A},label:\n", "line 2: label: must be followed"),
        (f"sha256,verdict\n{A},keep\n\n{A},drop\n", "line 4.*received drop and in line 2 keep"),
        (f"image,sha256,verdict\na,{A},hat\nb,{A},shoes\n", "line 3.*shoes and in line 2 hat"),
        ("sha256,verdict\n" + "x" * 200_000, "field larger"),
    ],
)
def test_what_cannot_be_understood_is_refused(tmp_path, text, message):
    path = tmp_path / "v.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=f"v.csv.*{message}"):
        read_verdicts(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04...", "received a workbook"),
        ("sha256,verdict\n,é".encode("latin-1"), "must be UTF-8"),
        (b"\xff\xfea", "must be UTF-8"),
    ],
)
def test_other_files_are_refused(tmp_path, data, message):
    (tmp_path / "v.csv").write_bytes(data)
    with pytest.raises(DatasetError, match=message):
        read_verdicts(tmp_path / "v.csv")


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DatasetError, match=r"cannot read the verdicts .*No such file"):
        read_verdicts(tmp_path / "none.csv")
    with pytest.raises(DatasetError, match=r"cannot write the list .*choose another place"):
        write_fix_list(tmp_path / "none" / "fix.csv", [])


@given(
    st.binary(max_size=200) | st.text(max_size=60).map(lambda t: f"sha256,verdict\n{t}".encode())
)
def test_any_file_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("lists") / "v.csv"
    path.write_bytes(data)
    try:
        read_verdicts(path)
    except DatasetError as error:
        assert "v.csv" in str(error)


def test_a_list_that_was_filled_in_is_not_replaced(tmp_path):
    path = tmp_path / "fix.csv"
    write_fix_list(path, [FixListRow("a", A, "train", "hat")])
    write_fix_list(path, [FixListRow("b", B, "train", "hat")])
    assert b"b,bbb" in path.read_bytes()
    fill_in(path, ["drop"])
    before = path.read_bytes()
    with pytest.raises(DatasetError, match="holds 1 verdicts"):
        write_fix_list(path, [])
    assert path.read_bytes() == before
    path.write_text("my own notes")
    with pytest.raises(DatasetError, match="not replaced"):
        write_fix_list(path, [])
    assert path.read_text() == "my own notes"


def judge(tmp_path, *rows, classes=("hat", "shoes", "T-shirt"), names="abc", hashes=(A, B, C)):
    verdicts = read_verdicts(save(tmp_path / "v.csv", *rows))
    return apply(verdicts, hashes, list(names), ["hat"] * len(hashes), classes)


def test_verdicts_are_applied_by_content(tmp_path):
    moved = judge(tmp_path, f"elsewhere,{A},drop", f"b,{B},shoes", f"c,{C},keep")
    assert moved.drop == (0,)
    assert moved.relabel == {1: "shoes"}
    assert moved.missing == ()


def test_a_label_that_it_has_already_changes_nothing(tmp_path):
    assert judge(tmp_path, f"a,{A},hat").relabel == {}


def test_images_that_are_not_there_are_said(tmp_path):
    changes = judge(tmp_path, f"a,{A},drop", f"z,{'9' * 64},drop")
    assert changes.missing == (Verdict("9" * 64, "z", "drop", None, 3),)
    assert changes.drop == (0,)


def test_of_equal_images_the_named_one_is_dropped_and_all_are_labelled(tmp_path):
    twins = {"hashes": (A, A, B), "names": "abc"}
    assert judge(tmp_path, f"b,{A},drop", **twins).drop == (1,)
    assert judge(tmp_path, f"gone,{A},drop", **twins).drop == (0, 1)
    both = judge(tmp_path, f"a,{A},shoes", f"b,{A},drop", **twins)
    assert (both.drop, both.relabel) == ((1,), {0: "shoes"})
    assert judge(tmp_path, f"a,{A},shoes", **twins).relabel == {0: "shoes", 1: "shoes"}


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (
            "t-shirt",
            "line 2: .* keep, drop or one of the classes hat, shoes, T-shirt; .*Is T-shirt",
        ),
        ("hut", "received 'hut'. Is hat meant"),
        ("giraffe", "for a new class change the data"),
        ("kep", "must be keep, drop"),
        ("label:keep", "received 'keep'"),
    ],
)
def test_a_label_that_no_class_has_is_refused(tmp_path, verdict, message):
    with pytest.raises(DatasetError, match=message):
        judge(tmp_path, f"a,{A},{verdict}")
    # Also where the image is not in the data.
    with pytest.raises(DatasetError, match=message):
        judge(tmp_path, f"a,{'9' * 64},{verdict}")


@pytest.mark.parametrize("verdict", ["label:keep", "LABEL:keep", "label: keep", " label:keep "])
def test_a_class_may_be_called_keep(tmp_path, verdict):
    changes = judge(tmp_path, f"a,{A},{verdict}", f"b,{B},keep", classes=["keep", "hat"])
    assert changes.relabel == {0: "keep"}


def test_the_suggestion_may_be_copied_as_the_list_spells_it(tmp_path):
    assert judge(tmp_path, f"a,{A},'=1", classes=["=1"]).relabel == {0: "=1"}
    assert judge(tmp_path, f"a,{A},''t", classes=["'t"]).relabel == {0: "'t"}
    assert judge(tmp_path, f"a,{A},'t", classes=["'t"]).relabel == {0: "'t"}


def test_accents_may_be_encoded_in_two_ways(tmp_path):
    assert judge(tmp_path, f"a,{A},a\u0308rmel", classes=["\xe4rmel"]).relabel == {0: "\xe4rmel"}


def test_numbers_and_joined_labels_are_kept_as_text(tmp_path):
    changes = judge(tmp_path, f"a,{A},12.5", f"b,{B},hat|shoes", classes=None)
    assert changes.relabel == {0: "12.5", 1: "hat|shoes"}


def test_many_classes_are_not_all_listed(tmp_path):
    with pytest.raises(DatasetError, match=r"c0, .*c9 and 20 more; received"):
        judge(tmp_path, f"a,{A},x", classes=[f"c{n}" for n in range(30)])


def test_no_verdicts_change_nothing(tmp_path):
    changes = apply(Verdicts(tmp_path, ()), [A], ["a"], ["hat"], ["hat"])
    assert (changes.drop, changes.relabel, changes.missing) == ((), {}, ())
