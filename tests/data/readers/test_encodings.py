import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError, SettingsError
from topwork.data.readers.table import read_table

LABELS = ["été", "naïve", "x", "über"]


def read(data, place="t.csv", **columns):
    settings = DataSettings.create(**columns)
    return read_table(place, data, settings, DISK, strict=True)


class Anywhere:
    def __call__(self, text):
        return b"an image"


DISK = Anywhere()


def csv_of(labels=LABELS):
    return "path,label\n" + "".join(f"{n}.png,{label}\n" for n, label in enumerate(labels))


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", False), ("utf-8-sig", False), ("utf-16", False), ("utf-16-le", False),
        ("utf-16-be", False), ("utf-32", False), ("cp1252", True), ("latin-1", True),
        ("iso8859-15", True),
    ],
)  # fmt: skip
def test_an_encoding_is_recognised(encoding, said):
    found = read(csv_of().encode(encoding))
    assert found.labels == LABELS
    assert ["--encoding" in note.text for note in found.notes if "UTF-8" in note.text] == [
        True
    ] * said
    lines = "".join(f'{{"path": "{n}", "label": "{x}"}}\n' for n, x in enumerate(LABELS))
    assert read(lines.encode(encoding), "t.jsonl").labels == LABELS
    array = "[" + ",".join(lines.splitlines()) + "]"
    assert read(array.encode(encoding), "t.json").labels == LABELS


@pytest.mark.parametrize(
    ("encoding", "labels"),
    [
        ("cp1251", ["кот", "пёс"]), ("shift_jis", ["猫", "犬"]), ("gb18030", ["狗", "猫"]),
        ("mac-roman", LABELS), ("cp437", LABELS), ("utf-8", LABELS), ("utf-16", LABELS),
    ],
)  # fmt: skip
def test_an_encoding_can_be_said(encoding, labels):
    found = read(csv_of(labels).encode(encoding), encoding=encoding)
    assert found.labels == labels
    assert not any("UTF-8" in note.text for note in found.notes)


@pytest.mark.parametrize("name", ["nonsense", "base64", "", "utf-99"])
def test_what_is_no_encoding_is_refused(name):
    with pytest.raises(SettingsError, match="no text encoding called"):
        DataSettings.create(encoding=name)


def test_the_wrong_encoding_is_refused():
    with pytest.raises(DatasetError, match=r"t.csv cannot be read as utf-16.*--encoding"):
        read(b"path,label\n1,xy", encoding="utf-16-le")


@pytest.mark.parametrize("line", ["sep={}\n", '"sep={}"\r\n', "SEP={}\n", "\ufeffsep={}\n"])
@pytest.mark.parametrize("delimiter", [";", ",", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_what_excel_writes_above_the_names_is_understood(line, delimiter, encoding):
    if encoding == "cp1252" and "\ufeff" in line:
        return
    rows = ["path,label", "1.png,été", "2.png,x"]
    text = line.format(delimiter) + "\n".join(rows).replace(",", delimiter)
    found = read(text.encode(encoding))
    assert (found.names, found.labels, found.lines) == (["1.png", "2.png"], ["été", "x"], [3, 4])


@given(st.lists(st.text("abéüß ñ", min_size=1).map(str.strip).filter(bool), min_size=1))
def test_any_western_text_comes_back(labels):
    for encoding in ("utf-8", "utf-16", "cp1252"):
        assert read(csv_of(labels).encode(encoding)).labels == labels


@given(st.binary(max_size=60))
def test_no_bytes_are_an_unforeseen_error(data):
    try:
        read(b"path,label\n" + data)
    except DatasetError as error:
        assert str(error)
