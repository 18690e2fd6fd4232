import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial

import pytest
from leavings import (
    begin,
    beside,
    change,
    end,
    fill,
    mark_of,
    of_alive,
    of_dead,
    of_unknown,
    scratch,
)

from topwork.core import leftovers
from topwork.core.leftovers import Owner, judge, make_beside, make_scratch, name_beside, sweep

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
MARKED = "a" * 8 + "-" + "b" * 8 + "-1-2-"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder for temporary files that nobody else uses."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def age(path, seconds):
    at_s = time.time() - seconds
    os.utime(path, (at_s, at_s), follow_symlinks=False)


# Marks


@pytest.mark.parametrize(
    "name",
    ["photos.model", "a b", "[f]*?", "é\n-topwork-", "\udcff", "..", "-", "x" * 300, "ä" * 200, ""],
)
def test_who_makes_a_file_is_in_its_name(tmp_path, name):
    for ending in (".tmp", ".old"):
        made = f"{name_beside(name)}0123456789abcdef{ending}"
        assert judge(made) is Owner.ALIVE
        assert made.startswith(f".{name[:30]}")
        assert len(os.fsencode(made)) <= 143
        (tmp_path / made).touch()


def test_folders_are_marked(tmp_path, place):
    for folder in (make_beside(tmp_path / "a.model"), make_scratch(), make_scratch("serve")):
        assert judge(folder.name) is Owner.ALIVE
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sum(name.startswith("topwork-serve-") for name in names(place)) == 1
    assert len(names(place)) == 2
    assert sum(name.startswith(".a.model-topwork-") for name in names(tmp_path)) == 1


@LINUX
def test_the_mark_says_what_the_system_says():
    psutil = pytest.importorskip("psutil")
    _, _, pid, start = mark_of(name_beside("a"))
    assert int(pid) == os.getpid()
    ticks = os.sysconf("SC_CLK_TCK")
    booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert booted_s + int(start) / ticks == pytest.approx(psutil.Process().create_time(), abs=2)


SAYS = (
    "from topwork.core.leftovers import name_beside; print(name_beside('a'), flush=True); input()"
)


@LINUX
def test_a_process_is_alive_until_it_is_killed():
    process, said = begin(SAYS, stdin=subprocess.PIPE)
    name = f"{said}abcdefgh.tmp"
    assert judge(name) is Owner.ALIVE
    process.kill()
    # It is a zombie as long as nobody has asked how it ended.
    deadline = time.monotonic() + 60
    while judge(name) is Owner.ALIVE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert leftovers._find_state(process.pid)[0] == "Z"
    assert judge(name) is Owner.DEAD
    end(process)
    process.stdin.close()
    assert judge(name) is Owner.DEAD


@LINUX
@pytest.mark.parametrize("title", ["a b", "a) S 1 2 (", "1 2 3) Z (4", "))"])
def test_a_process_may_be_called_anything(title):
    code = f"open('/proc/self/comm', 'w').write({title!r}); {SAYS}"
    process, said = begin(code, stdin=subprocess.PIPE)
    try:
        assert judge(f"{said}abcdefgh.tmp") is Owner.ALIVE
        assert judge(f"{of_dead(said)}abcdefgh.tmp") is Owner.DEAD
    finally:
        process.stdin.close()
        end(process)


FORKS = """
import os
from topwork.core.leftovers import name_beside
before = name_beside("a")
if not os.fork():
    print(before, name_beside("a"), flush=True)
    os._exit(0)
os.wait()
"""


@LINUX
def test_after_a_fork_the_child_is_another():
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)
    parent, child = done.stdout.split()
    assert mark_of(parent)[:2] == mark_of(child)[:2] == mark_of(name_beside("a"))[:2]
    assert mark_of(parent)[2] != mark_of(child)[2]


@LINUX
def test_a_number_that_was_given_again_is_another_process():
    name = name_beside("a")
    assert judge(f"{of_dead(name)}abcdefgh.tmp") is Owner.DEAD
    # Started long after this process, which has imported all of its tests.
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert judge(f"{change(name, pid=other.pid)}abcdefgh.tmp") is Owner.DEAD
    assert judge(f"{change(name, pid=2**22 + 7)}abcdefgh.tmp") is Owner.DEAD


@LINUX
def test_before_the_machine_was_started_all_are_dead():
    name = change(name_beside("a"), boot="0" * 8) + "abcdefgh.tmp"
    assert judge(name) is Owner.DEAD
    assert judge(name, 0.0) is Owner.DEAD
    # Two machines that are copies of each other, and one store.
    assert judge(name, time.time()) is Owner.UNKNOWN


def test_of_other_machines_nothing_is_known():
    assert judge(f"{of_unknown(name_beside('a'))}abcdefgh.tmp") is Owner.UNKNOWN
    assert judge(f"{of_unknown(of_dead(name_beside('a')))}abcdefgh.tmp", 0.0) is Owner.UNKNOWN


def test_machines_and_containers_are_told_apart(monkeypatch, tmp_path):
    hosts = {leftovers._find_host()}
    monkeypatch.setattr(leftovers.platform, "node", lambda: "another")
    hosts.add(leftovers._find_host())
    machine = tmp_path / "machine-id"
    machine.write_text("1234\n")
    hosts.add(leftovers._find_host(machine=machine))
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "pid").symlink_to("pid:[1]")
    hosts.add(leftovers._find_host(tmp_path, machine))
    assert len(hosts) == 4


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "a", ".x.tmp", ".a-topwork-.tmp", f"a-topwork-{MARKED}abcdefgh.tmp",
        f".a-topwork-{MARKED}abcdefgh", f".a-topwork-{MARKED}abcdefgh.tmp2",
        f".a-topwork-{MARKED}abcdefgh.tmp\n", f".a-topwork-{MARKED}ABCDEFGH.tmp",
        f".a-topwork-{MARKED}abc.tmp", f".a-{MARKED}abcdefgh.tmp", f"topwork-{MARKED}abcdefgh.tmp",
        f"topwork-Serve-{MARKED}abcdefgh", f"topwork-a-b-{MARKED}abcdefgh",
        f".a-topwork-{MARKED}abcdefgh.tmp".replace("-1-", "-0-"),
        f".a-topwork-{MARKED}abcdefgh.tmp".replace("-1-", "--1-"),
        f".a-topwork-{MARKED}abcdefgh.tmp".replace("-1-", "-\u0661-"),
        f".a-topwork-{MARKED}abcdefgh.tmp".replace("-1-", "-12345678901-"),
        f".a-topwork-{MARKED}abcdefgh.tmp".replace("a" * 8, "a" * 7),
    ],
)  # fmt: skip
def test_other_names_say_nothing(name, monkeypatch):
    monkeypatch.setattr(leftovers, "_find_host", lambda: "a" * 8)
    monkeypatch.setattr(leftovers, "_find_boot", lambda: "b" * 8)
    assert judge(name) is Owner.UNKNOWN
    assert judge(f".a-topwork-{MARKED}abcdefgh.tmp") is not Owner.UNKNOWN


def test_a_number_that_no_process_can_have_is_unknown():
    name = change(name_beside("a"), pid=9_999_999_999)
    assert judge(f"{name}abcdefgh.tmp") is Owner.UNKNOWN


@LINUX
def test_without_proc_the_number_has_to_do(monkeypatch, tmp_path):
    for name in ("_find_host", "_find_boot", "_find_state"):
        find = partial(getattr(leftovers, name), proc=tmp_path / "none")
        monkeypatch.setattr(leftovers, name, find)
    name = name_beside("a")
    assert mark_of(name)[3] == "0"
    assert judge(f"{name}abcdefgh.tmp") is Owner.ALIVE
    assert judge(f"{change(name, pid=os.getppid())}abcdefgh.tmp") is Owner.ALIVE
    assert judge(f"{change(name, pid=2**22 + 7)}abcdefgh.tmp") is Owner.DEAD


def test_a_proc_that_counts_otherwise_tells_nothing(tmp_path):
    (tmp_path / "self").symlink_to("1")
    pid = os.getpid()
    (tmp_path / str(pid)).mkdir()
    (tmp_path / str(pid) / "stat").write_text(f"{pid} (x) Z {' '.join('123456789' * 3)}")
    assert leftovers._find_state(pid, tmp_path) == ("", 0)


@pytest.mark.parametrize("content", ["", "1 (a", "1 (a) S", "1 (a) S " + "x " * 30, "\xff"])
def test_a_state_that_cannot_be_read_is_no_state(tmp_path, content):
    (tmp_path / "self").symlink_to(str(os.getpid()))
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_bytes(content.encode("latin-1"))
    assert leftovers._find_state(7, tmp_path) == ("", 0)


def test_a_process_of_another_user_is_alive(monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    name = change(name_beside("a"), pid=2**22 + 7)
    assert judge(f"{name}abcdefgh.tmp") is Owner.ALIVE


def test_on_windows_nobody_is_asked(monkeypatch):
    def ends_it(*_):
        raise AssertionError

    monkeypatch.setattr(os, "kill", ends_it)
    monkeypatch.setattr(os, "name", "nt")
    assert leftovers._judge_process(os.getppid(), 0) is Owner.UNKNOWN
    assert leftovers._judge_process(os.getpid(), 0) is Owner.ALIVE


# Sweeping


def litter(folder, name):
    """Puts temporary folders of dead, living and unknown processes into a folder."""
    for number, how in enumerate((of_dead, of_alive, of_unknown)):
        fill(folder / beside(f"{name}{number}", how=how))
    old = fill(folder / beside(f"{name}3", how=of_unknown))
    age(old, leftovers.STALE_S + 60)


PLACES = [".", "bases", "vectors", "vectors/x", "remote", "remote/ab", "archives", "copies"]


def test_what_dead_processes_left_in_a_store_goes_and_nothing_else(root):
    for folder in PLACES:
        litter(root / folder, "a")
        (root / folder / "whole.bin").write_bytes(b"1")
        (root / folder / beside("file")).write_bytes(bytes(5))
    litter(root / "mine", "a")
    litter(root / "bases" / "xception", "a")
    mine = names(root / "mine")
    assert sweep(root) == len(PLACES) * 2005
    for folder in PLACES:
        kept = [name for name in names(root / folder) if name.startswith(".")]
        assert [name.partition("-")[0] for name in kept] == [".a1", ".a2"]
        assert (root / folder / "whole.bin").exists()
    assert names(root / "mine") == mine
    assert len(names(root / "bases" / "xception")) == 4
    assert sweep(root) == 0


def test_what_has_no_mark_goes_after_a_day(root):
    ours = {
        ".": [f".weights-{'0' * 16}.tmp", f".shared-{'1' * 16}-{'2' * 16}.tmp"],
        "bases": [".x-32-0123456789abcdef-ab1_efgh.tmp"],
        "vectors/x": [f".part-{'0' * 24}-{'1' * 16}.tmp"],
    }
    others = {
        ".": [".x.tmp", ".mine-ab1_efgh.tmp", f".notes-{'0' * 16}.tmp", "topwork-ab1_efgh"],
        "bases": [".x.tmp", "x-ab1_efgh.tmp", ".x-ab1_efgh", f".{MARKED}tmp"],
        "vectors/x": ["part-1.parquet", ".part.swp"],
    }
    for folder in ours:
        (root / folder).mkdir(parents=True, exist_ok=True)
    paths = [root / folder / name for folder, some in ours.items() for name in some]
    foreign = [root / folder / name for folder, some in others.items() for name in some]
    for path in (*paths, *foreign):
        path.write_bytes(bytes(10))
        age(path, leftovers.STALE_S - 60)
    assert sweep(root) == 0
    for path in (*paths, *foreign):
        age(path, leftovers.STALE_S + 60)
    assert sweep(root) == 10 * len(paths)
    assert not any(path.exists() for path in paths)
    assert all(path.exists() for path in foreign)


def test_folders_among_the_temporary_files(place):
    fill(place / scratch())
    fill(place / scratch("serve"))
    kept = [
        fill(place / scratch(how=of_alive)),
        fill(place / scratch("serve", how=of_unknown)),
        # What a user may have called so.
        fill(place / "topwork-pictures"),
        fill(place / "topwork-1_photos"),
        fill(place / "topwork-serve-ab1_efgh"),
        fill(place / "another-ab1_efgh"),
        fill(place / beside("a")),
    ]
    (place / f"{scratch()}x").touch()
    (place / scratch("file")).touch()
    assert sweep() == 2000
    assert all(folder.exists() for folder in kept)
    for folder in kept:
        folder.chmod(0o755 if "photos" in folder.name else 0o700)
        age(folder, leftovers.STALE_S + 60)
    assert sweep() == 2000
    assert not kept[1].exists()
    assert not kept[4].exists()
    assert len(names(place)) == 7


def test_another_user_is_left_alone(place, monkeypatch):
    fill(place / scratch())
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert sweep() == 0
    assert not [*leftovers.find_scratch()]
    assert len(names(place)) == 1


@pytest.mark.parametrize("name", ["photos.model", "[p]*?.model", "a b", "-", "x" * 200])
def test_beside_a_model(tmp_path, name):
    folder = tmp_path / "models"
    target = folder / name
    fill(target)
    litter(folder, "another.model")
    older = [fill(folder / f".{name}-{end}.tmp") for end in ("ab1_efgh", "ab1_efgx")]
    foreign = [fill(folder / other) for other in (".x.tmp", ".y-ab1_efgh.tmp", "photos-ab1_efgh")]
    for path in (older[0], *foreign):
        age(path, leftovers.STALE_S + 60)
    assert sweep(None, target) == 3000
    assert target.exists()
    assert older[1].exists()
    assert all(path.exists() for path in foreign)
    assert len(names(folder)) == 1 + 2 + 1 + 3


def test_links_are_not_followed(root, place, tmp_path):
    precious = fill(tmp_path / "precious")
    inside = fill(precious / beside("a"))
    (root / "bases").mkdir(parents=True)
    (root / "vectors").symlink_to(precious)
    (root / "remote").mkdir()
    (root / "remote" / "ab").symlink_to(precious)
    (root / "bases" / beside("link")).symlink_to(precious)
    (root / "bases" / beside("file")).symlink_to(precious / "a")
    (place / scratch("link")).symlink_to(precious)
    holder = fill(root / "bases" / beside("folder"))
    (holder / "link").symlink_to(precious)
    (holder / "deep" / "file").symlink_to(precious / "a")
    sweep(root, precious / "model")
    assert not holder.exists()
    assert not inside.exists()
    assert names(precious) == ["a", "deep"]
    assert [path.is_symlink() for path in (root / "bases").iterdir()] == [True, True]
    assert len(names(place)) == 1
    inside = fill(precious / beside("a"))
    sweep(root)
    assert inside.exists()


def test_many_may_sweep_at_once(root):
    for number in range(60):
        fill(root / "bases" / beside(f"a{number}"))
        (root / "bases" / beside(f"b{number}")).write_bytes(b"1")
        fill(root / "bases" / beside(f"c{number}", ".old") / "00" / f"c{number}")
    failed = []

    def work():
        try:
            sweep(root)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    sweep(root)
    assert names(root / "bases") == sorted(f"c{number}" for number in range(60))
    assert all((root / "bases" / f"c{number}" / "a").exists() for number in range(60))


def test_what_cannot_be_removed_stays(root, place, monkeypatch):
    path = root / "bases" / beside("a")
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(10))
    folder = fill(place / scratch())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        for name in ("unlink", "rmdir"):
            patched.setattr(os, name, refuse)
        assert sweep(root) == 0
    assert path.exists()
    assert (folder / "deep" / "b").exists()
    assert [found.owner for found in leftovers.find_in_store(root)] == [Owner.DEAD]
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refuse)
        assert sweep(root, root / "a.model") == 0
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "gettempdir", refuse)
        assert sweep() == 0
    assert sweep(root) == 1010


def test_where_nothing_is_nothing_is_made(tmp_path, place):
    (tmp_path / "file").touch()
    assert sweep(tmp_path / "none", tmp_path / "no" / "model") == 0
    assert sweep(tmp_path / "file", tmp_path / "file" / "model") == 0
    shutil.rmtree(place)
    assert sweep() == 0
    assert names(tmp_path) == ["file"]


def test_what_was_moved_away_comes_back(tmp_path):
    holder = tmp_path / beside("a.model", ".old")
    fill(holder / "00" / "a.model", 10)
    fill(holder / "01" / "a.model", 20)
    (holder / "02").mkdir()
    assert sweep(None, tmp_path / "another") == 10
    assert names(tmp_path) == ["a.model", "temporary"]
    assert sum(path.stat().st_size for path in (tmp_path / "a.model").rglob("?")) >= 20
    # Where there is one, it is the newer one.
    fill(tmp_path / beside("a.model", ".old") / "00" / "a.model", 30)
    assert sweep(None, tmp_path / "another") == 30
    assert names(tmp_path) == ["a.model", "temporary"]


def test_what_cannot_come_back_is_kept(tmp_path, monkeypatch):
    holder = tmp_path / beside("a.model", ".old")
    fill(holder / "00" / "a.model", 10)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", refuse)
        assert sweep(None, tmp_path / "a.model") == 0
    assert (holder / "00" / "a.model" / "a").exists()
    sweep(None, tmp_path / "a.model")
    assert (tmp_path / "a.model" / "a").exists()
    assert not holder.exists()


def test_what_a_living_process_moved_away_stays(tmp_path):
    holder = tmp_path / beside("a.model", ".old", of_alive)
    fill(holder / "00" / "a.model")
    sweep(None, tmp_path / "a.model")
    assert names(tmp_path) == [holder.name, "temporary"]


# Processes that are killed

WORK = """
import sys, time
from pathlib import Path
from topwork.core.files import open_scratch, write_file, write_folder
from topwork.serve.registry import open_model

def stop():
    print("here", flush=True)
    time.sleep(600)

def fill(folder):
    (folder / "big").write_bytes(bytes(700_000))
    (folder / "deep").mkdir()
    (folder / "deep" / "big").write_bytes(bytes(300_000))
    stop()

def write(file):
    file.write(bytes(1_000_000))
    file.flush()
    stop()

path, what = Path(sys.argv[1]), sys.argv[2]
if what == "folder":
    write_folder(path / "bases" / "x", fill)
elif what == "file":
    write_file(path / "vectors" / "x" / "part-1.parquet", write)
elif what == "scratch":
    with open_scratch() as folder:
        fill(folder)
elif what == "serve":
    open_model(Path(sys.argv[3]), "a", lambda count: None)
    stop()
"""


def count(*folders):
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files)


@pytest.mark.system
@LINUX
@pytest.mark.parametrize("what", ["folder", "file", "scratch", "serve"])
def test_what_a_killed_process_left_is_removed_at_the_next_start(root, place, saved, what):
    for folder in ("bases", "vectors/x"):
        (root / folder).mkdir(parents=True)
    environment = os.environ | {"TMPDIR": str(place)}
    process, said = begin(WORK, root, what, saved, env=environment)
    try:
        assert said == "here"
        held = count(root, place)
        assert held >= (10_000 if what == "serve" else 1_000_000)
        # As long as it lives nobody takes it away.
        assert sweep(root) == 0
        assert count(root, place) == held
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        assert count(root, place) == held
        assert sweep(root) == held
        assert count(root, place) == 0
        assert not [*root.rglob("*.tmp"), *place.iterdir()]
    finally:
        end(process)


REPLACE = """
import os, signal, shutil, sys
from pathlib import Path
from topwork.core import files
path, number = Path(sys.argv[1]), int(sys.argv[2])
rename = Path.rename
def count(self, target):
    global number
    number -= 1
    if not number:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = count
if number == 4:
    shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
files.write_folder(path, lambda folder: (folder / "a").write_text("new"))
"""


@LINUX
@pytest.mark.parametrize(
    ("step", "wanted"), [(1, "old"), (2, "old"), (3, "new"), (4, "new"), (5, "new")]
)
def test_killed_while_a_model_is_replaced_one_of_the_two_is_there(tmp_path, step, wanted):
    """Moved away, put in place, marked as replaced, removed."""
    path = tmp_path / "models" / "[a] model"
    path.mkdir(parents=True)
    (path / "a").write_text("old")
    done = subprocess.run([sys.executable, "-c", REPLACE, path, str(step)], check=False)
    assert done.returncode == (0 if step == 5 else -signal.SIGKILL)
    assert path.exists() == (step != 2)
    sweep(None, path)
    assert (path / "a").read_text() == wanted
    assert names(path.parent) == [path.name]
    if step == 3:
        # What was replaced does not come back when the new one is moved by its user.
        return
    path.rename(tmp_path / "elsewhere")
    sweep(None, path)
    assert names(path.parent) == []


# Where it is done


@pytest.fixture
def left(root, place, tmp_path):
    """What dead processes left: in the store, among the temporary files, beside a model."""
    folders = root / "bases" / beside("x"), place / scratch(), tmp_path / beside("a.model")
    return [fill(folder) for folder in folders]


def still_there(left):
    return [path.exists() for path in left]


def test_no_command_no_sweep(run, left):
    run("--help")
    assert still_there(left) == [True] * 3


def test_commands_that_open_a_store_sweep_it(run, root, left):
    code, output, _ = run("store", "--store", root, "--json")
    assert (code, json.loads(output)["swept_bytes"]) == (0, 2000)
    assert still_there(left) == [False, False, True]


@pytest.mark.parametrize("command", ["train", "tune"])
def test_training_sweeps_where_the_model_will_be(run, root, tmp_path, left, command):
    code, _, _ = run(command, tmp_path / "none", "-o", tmp_path / "a.model", "--store", root)
    assert code != 0
    assert still_there(left) == [False] * 3


def test_a_model_that_was_moved_away_is_not_refused(run, root, tmp_path):
    fill(tmp_path / beside("b.model", ".old") / "00" / "b.model")
    code, _, errors = run("train", tmp_path / "none", "-o", tmp_path / "b.model", "--store", root)
    assert code != 0
    assert "b.model" in errors
    assert (tmp_path / "b.model" / "a").exists()


def test_estimators_sweep(root, left):
    import topwork

    for work in (lambda: topwork.Classifier(store=root).fit([], []), lambda: topwork.tune([])):
        with pytest.raises((topwork.TopworkError, TypeError)):
            work()
    assert still_there(left) == [False, False, True]


def test_serving_sweeps(tmp_path, left):
    from topwork.core.errors import ModelError
    from topwork.serve import server

    with pytest.raises(ModelError):
        server.serve([tmp_path / "a.model"], server.Options(port=0))
    assert still_there(left) == [True, False, False]


def test_exporting_sweeps(tmp_path, root, left):
    from topwork.core.errors import ModelError
    from topwork.models.export import export_model

    with pytest.raises(ModelError):
        export_model(tmp_path / "a.model", tmp_path / "out" / "x", format="openvino", cache=root)
    assert still_there(left) == [False] * 3
