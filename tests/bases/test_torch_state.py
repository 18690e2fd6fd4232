"""State dicts written by hand, byte by byte: good ones, damaged ones and malicious ones."""

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.bases import find_weights, get_base
from topwork.bases.torch_state import MAGIC, read_torch_state
from topwork.core.errors import WeightsError

pytestmark = pytest.mark.system


class Global:
    """Something that a pickle names by module and name."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        raise NotImplementedError


class Call:
    """Something that a pickle makes by calling a global."""

    def __init__(self, called, *arguments):
        self.called, self.arguments = called, arguments

    def __call__(self):
        raise NotImplementedError

    def __reduce__(self):
        return self.called, self.arguments


class Storage:
    def __init__(self, kind, key, values):
        self.kind, self.key, self.values = kind, key, values


class Writer(pickle._Pickler):
    """Writes storages as persistent ids and `Global`s as globals that need not exist."""

    def persistent_id(self, found):
        if isinstance(found, Storage):
            return ("storage", Global("torch", found.kind), found.key, "cpu", len(found.values))
        return None

    def save(self, found, save_persistent_id=True):
        if isinstance(found, Global):
            self.write(pickle.GLOBAL + f"{found.module}\n{found.name}\n".encode())
        else:
            super().save(found, save_persistent_id)


def dump(content):
    file = io.BytesIO()
    Writer(file, 2).dump(content)
    return file.getvalue()


REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def tensor(storage, offset, shape, stride):
    return Call(REBUILD, storage, offset, shape, stride, False, OrderedDict())


def write(path, state, storages=(), counts=None):
    """Writes a state dict in PyTorch's old layout."""
    content = pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2)
    content += pickle.dumps({"little_endian": True}, 2) + dump(state)
    content += pickle.dumps([storage.key for storage in storages], 2)
    for storage, count in zip(
        storages, counts or [len(storage.values) for storage in storages], strict=True
    ):
        content += np.array([count], "<i8").tobytes() + storage.values.tobytes()
    path.write_bytes(content)
    return path


def make_good(path):
    numbers = Storage("FloatStorage", "1", np.arange(12, dtype="<f4"))
    counts = Storage("LongStorage", "2", np.array([7], "<i8"))
    halves = Storage("HalfStorage", "3", np.array([1, 2], "<f2"))
    doubles = Storage("DoubleStorage", "4", np.array([0.1, 0.2], "<f8"))
    state = OrderedDict(
        whole=tensor(numbers, 0, (3, 4), (4, 1)),
        turned=tensor(numbers, 0, (4, 3), (1, 4)),
        part=tensor(numbers, 5, (2, 2), (4, 2)),
        wide=tensor(numbers, 3, (2, 3), (0, 1)),
        last=tensor(numbers, 11, (1,), (1,)),
        count=tensor(counts, 0, (), ()),
        halves=tensor(halves, 0, (2,), (1,)),
        doubles=tensor(doubles, 1, (1,), (1,)),
        empty=tensor(numbers, 0, (0, 4), (4, 1)),
        empty_end=tensor(numbers, 12, (0,), (1,)),
    )
    return write(path, state, [numbers, counts, halves, doubles])


def test_tensors_are_read_whatever_their_stride_and_offset(tmp_path):
    found = read_torch_state(make_good(tmp_path / "good.pth"))
    numbers = np.arange(12, dtype=np.float32)
    wanted = {
        "whole": numbers.reshape(3, 4),
        "turned": numbers.reshape(3, 4).T,
        "part": np.array([[5, 7], [9, 11]], np.float32),
        "wide": np.array([[3, 4, 5], [3, 4, 5]], np.float32),
        "last": numbers[11:],
        "count": np.array(7),
        "halves": np.array([1, 2], np.float16),
        "doubles": np.array([0.2]),
        "empty": np.empty((0, 4), np.float32),
        "empty_end": np.empty(0, np.float32),
    }
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(found[name], values)


def test_the_published_weights_are_read():
    path = find_weights(get_base("efficientnet-lite0")).path
    state = read_torch_state(path)
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert sum(values.size for values in state.values()) * 4 < path.stat().st_size
    assert all(np.isfinite(values).all() for values in state.values())


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (13,), (1,)),
        (12, (1,), (1,)),
        (11, (2, 2), (1, 0)),
        (0, (2, 2), (11, 1)),
        (-1, (1,), (1,)),
        (-(2**62), (1,), (1,)),
        (2**62, (1,), (1,)),
        (11, (12,), (-1,)),
        (6, (2, 2), (-1, 1)),
        (0, (-1,), (1,)),
        (0, (2, -3), (1, 1)),
        (0, (2**40,), (0,)),
        (0, (2**33, 2**33), (0, 0)),
        (0, (2**31,), (0,)),
        (0, (2, 2), (1,)),
        (0.5, (1,), (1,)),
        ("0", (1,), (1,)),
        (0, 5, 1),
        (0, None, None),
    ],
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path, offset, shape, stride):
    numbers = Storage("FloatStorage", "1", np.arange(12, dtype="<f4"))
    path = write(tmp_path / "far.pth", {"far": tensor(numbers, offset, shape, stride)}, [numbers])
    with pytest.raises(WeightsError, match=r"far\.pth"):
        read_torch_state(path)


@pytest.mark.parametrize(
    "attack",
    [
        lambda mark: Call(Global("os", "system"), f"touch {mark}"),
        lambda mark: Call(Global("posix", "system"), f"touch {mark}"),
        lambda mark: Call(Global("builtins", "eval"), f"open({mark!r}, 'w')"),
        lambda mark: Call(Global("builtins", "exec"), f"open({mark!r}, 'w')"),
        lambda mark: Call(Global("builtins", "open"), mark, "w"),
        lambda mark: Call(Global("pathlib", "Path"), mark),
        lambda mark: Call(Call(Global("builtins", "getattr"), Global("os", "system")), mark),
        lambda mark: Call(Global("operator", "attrgetter"), "system"),
        lambda mark: Call(Global("torch", "load"), mark),
        lambda mark: Call(Global("torch._utils", "_import_dotted_name"), "os.system"),
        lambda mark: Call(Global("collections", "OrderedDict.fromkeys"), [mark]),
        lambda mark: Call(Global("collections", "_sys.modules"), [mark]),
        lambda mark: Call(Global("subprocess", "Popen"), ["touch", mark]),
        lambda mark: Global("topwork.bases.torch_state", "os"),
        lambda mark: Global("numpy", "load"),
    ],
)
@pytest.mark.parametrize("place", ["state", "storage", "magic", "keys"])
def test_a_pickle_that_calls_something_else_is_refused_and_not_run(
    tmp_path, monkeypatch, attack, place
):
    monkeypatch.chdir(tmp_path)
    mark, path = str(tmp_path / "was_here"), tmp_path / "evil.pth"
    numbers = Storage("FloatStorage", "1", np.arange(4, dtype="<f4"))
    bad = attack(mark)
    good = pickle.dumps(MAGIC, 2) + 2 * pickle.dumps(1, 2)
    match place:
        case "state":
            write(path, {"x": bad}, [numbers])
        case "storage":
            write(path, {"x": tensor(bad, 0, (1,), (1,))}, [numbers])
        case "magic":
            path.write_bytes(dump(bad))
        case "keys":
            path.write_bytes(good + dump({"x": tensor(numbers, 0, (1,), (1,))}) + dump([bad]))
    with pytest.raises(WeightsError, match=r"evil\.pth is not a safe state dict: it asks for"):
        read_torch_state(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "state",
    [
        [1, 2],
        None,
        {"x": 5},
        {"x": {"y": 1}},
        {"x": Call(Global("torch", "FloatStorage"))},
        {"x": Global("torch", "FloatStorage")},
        {"x": tensor("no storage", 0, (1,), (1,))},
        {"x": Call(Global("collections", "OrderedDict"), 5)},
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, state):
    with pytest.raises(WeightsError, match=r"odd\.pth is not a PyTorch state dict"):
        read_torch_state(write(tmp_path / "odd.pth", state))


@pytest.mark.parametrize("pid", [None, "torch.FloatStorage", (), ("storage", 1, 2, 3, 4), 5])
def test_odd_names_of_storages_are_refused(tmp_path, pid):
    class Odd(pickle.Pickler):
        def persistent_id(self, found):
            return pid if found == "here" and pid is not None else None

    file = io.BytesIO()
    Odd(file, 2).dump({"x": "here"})
    path = tmp_path / "odd.pth"
    head = pickle.dumps(MAGIC, 2) + 2 * pickle.dumps(1, 2)
    path.write_bytes(head + file.getvalue() + pickle.dumps(["2"], 2))
    with pytest.raises(WeightsError, match=r"odd\.pth"):
        read_torch_state(path)


@pytest.mark.parametrize("count", [-1, 3, 5, 2**40, 2**62])
def test_a_storage_of_another_length_than_announced_is_refused(tmp_path, count):
    numbers = Storage("FloatStorage", "1", np.arange(4, dtype="<f4"))
    state = {"x": tensor(numbers, 0, (4,), (1,))}
    with pytest.raises(WeightsError, match="cut off"):
        read_torch_state(write(tmp_path / "count.pth", state, [numbers], [count]))


@pytest.mark.parametrize("count", [-1, -4, 2**40, 2**62])
def test_a_storage_announced_too_long_is_refused_before_memory_is_taken(tmp_path, count):
    class Long(Storage):
        def __init__(self, values):
            super().__init__("FloatStorage", "1", values)

    numbers = Long(np.arange(4, dtype="<f4"))
    state = dump({"x": tensor(numbers, 0, (4,), (1,))})
    said = dump(count)[2:-1]
    path = tmp_path / "long.pth"
    head = pickle.dumps(MAGIC, 2) + 2 * pickle.dumps(1, 2)
    # The count is the last thing in the storage's tuple.
    changed = state.replace(b"K\x04t", said + b"t", 1)
    assert changed != state
    values = np.array([count], "<i8").tobytes() + numbers.values.tobytes()
    path.write_bytes(head + changed + pickle.dumps(["1"], 2) + values)
    with pytest.raises(WeightsError, match=r"long\.pth"):
        read_torch_state(path)


def test_a_storage_that_is_missing_is_refused(tmp_path):
    numbers = Storage("FloatStorage", "1", np.arange(4, dtype="<f4"))
    state = {"x": tensor(numbers, 0, (4,), (1,))}
    with pytest.raises(WeightsError, match=r"missing\.pth"):
        read_torch_state(write(tmp_path / "missing.pth", state))


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path):
    whole = make_good(tmp_path / "good.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"cut\.pth"):
            read_torch_state(path)


def test_pytorchs_new_layout_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "zip.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    with pytest.raises(WeightsError, match="_use_new_zipfile_serialization=False"):
        read_torch_state(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot read .*none\.pth: No such file"):
        read_torch_state(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match=r"cannot read .*: Is a directory"):
        read_torch_state(tmp_path)


@given(data=st.data())
def test_any_bytes_give_tensors_or_a_weights_error(tmp_path_factory, data):
    """Random bytes, and a good file with a few bytes changed."""
    folder = tmp_path_factory.getbasetemp()
    path = folder / "any.pth"
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(st.binary(max_size=200)))
    else:
        content = bytearray(make_good(path).read_bytes())
        places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
        for place, value in data.draw(st.lists(places, min_size=1, max_size=4)):
            content[place] = value
        path.write_bytes(content)
    try:
        state = read_torch_state(path)
    except WeightsError:
        return
    assert all(isinstance(values, np.ndarray) for values in state.values())
