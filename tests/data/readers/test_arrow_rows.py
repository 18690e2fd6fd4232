import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError
from topwork.data.readers.arrow_rows import to_python
from topwork.data.readers.rows import BadCell
from topwork.data.readers.table import read_table
from topwork.images.decode import read_bytes

FAR = 2**62


def read(table, **columns):
    file = io.BytesIO()
    pq.write_table(table, file)
    settings = DataSettings.create(**columns)
    return read_table("t.parquet", file.getvalue(), settings, lambda text: b"an image")


def view(values, kind, of="int64"):
    return pa.array(np.array(values, of)).view(kind)


def text_that_is_none():
    offsets = pa.array([0, 1, 3], pa.int32()).buffers()[1]
    return pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"x\xff\xfe"))


CELLS = {
    "date32": view([1, 2**31 - 1], pa.date32(), "int32"),
    "date64": view([86_400_000, FAR], pa.date64()),
    "timestamp[us]": view([1, FAR], pa.timestamp("us")),
    "timestamp[us, UTC]": view([1, FAR], pa.timestamp("us", tz="UTC")),
    "time64": view([1, FAR], pa.time64("us")),
    "text": text_that_is_none(),
    "list": pa.ListArray.from_arrays(
        pa.array([0, 1, 2], pa.int32()), view([1, 2**31 - 1], pa.date32(), "int32")
    ),
}


@pytest.mark.parametrize("role", ["label", "group", "weight", "split"])
@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_beyond_what_python_knows_costs_its_row(kind, role):
    if role in ("weight", "split") or (role == "group" and kind == "list"):
        # What is no weight, split or group at all leaves no row.
        with pytest.raises(DatasetError, match=r"none of its rows can be used.*row 2"):
            read(pa.table({"path": ["a", "b"], "label": ["x", "y"], role: CELLS[kind]}))
        return
    columns = {"path": ["a", "b"], "label": ["x", "y"], role: CELLS[kind]}
    found = read(pa.table(columns))
    assert found.names == ["a"]
    (left_out,) = found.skipped
    assert left_out.path == "t.parquet row 2"
    assert f"the {role} cannot be read" in left_out.reason


def test_durations_beyond_what_python_knows_are_named():
    for unit in ("s", "us"):
        table = pa.table({"path": ["a", "b"], "label": view([1, FAR], pa.duration(unit))})
        with pytest.raises(DatasetError, match=r"row 1: the label must be .*row 2: the label "):
            read(table)


def test_a_time_zone_that_this_machine_lacks_is_no_damage():
    zone = view([1, 2], pa.timestamp("us", tz="Mars/Olympus"))
    table = pa.table({"path": ["a", "b"], "label": ["x", "y"], "group": zone})
    with pytest.raises(DatasetError, match=r"row 1: .*does not know its time zone, Mars/Olympus"):
        read(table)
    assert read(table, group_column="").labels == ["x", "y"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (pa.array([1, 2]), ["1", "2"]),
        (pa.array([1.5, None]), ["1.5", "row 2"]),
        (pa.array([{"a": "q"}, {"a": "r"}]), ["row 1", "row 2"]),
        (pa.array([["q"], ["r"]]), ["row 1", "row 2"]),
        (pa.array([b"\xff", b"r"]), ["row 1", "r"]),
        (view([1, FAR], pa.timestamp("us")), ["1970-01-01 00:00:00.000001", "row 2"]),
        (view([1, 2], pa.timestamp("us", tz="Mars/Olympus")), ["row 1", "row 2"]),
    ],
)
def test_a_picture_is_there_whatever_it_is_called(paths, names):
    images = pa.StructArray.from_arrays([pa.array([b"one", b"two"]), paths], ["bytes", "path"])
    found = read(pa.table({"image": images, "label": ["x", "y"]}))
    assert found.names == names
    assert [read_bytes(source) for source in found.sources] == [b"one", b"two"]


def test_a_struct_without_a_picture_in_it_is_named():
    inner = pa.StructArray.from_arrays([pa.array([b"one", b"two"])], ["bytes"])
    for image in (
        pa.StructArray.from_arrays([inner], ["image"]),
        pa.StructArray.from_arrays([inner, pa.array(["a", "b"])], ["bytes", "path"]),
    ):
        with pytest.raises(DatasetError, match=r"row 1: the path must be a text.*received a dict"):
            read(pa.table({"image": image, "label": ["x", "y"]}))


def test_good_cells_are_those_of_arrow():
    column = pa.chunked_array([[1, 2], [None]])
    assert to_python(column) == [1, 2, None]
    first, second = to_python(CELLS["date32"])
    assert first.isoformat() == "1970-01-02"
    assert isinstance(second, BadCell)
