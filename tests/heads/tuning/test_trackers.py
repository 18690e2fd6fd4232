import contextlib
import io
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from topwork.core.config import HeadSettings, Tracker
from topwork.core.errors import SettingsError, StoreError
from topwork.heads.examples import HeadFit
from topwork.heads.tuning.trackers import open_tracker, settings_id
from topwork.heads.tuning.trials import Journal, make_record

pytestmark = pytest.mark.system
needs_tensorboard = pytest.mark.skipif(
    find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
needs_mlflow = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("mlflow", "sqlalchemy", "alembic")),
    reason="mlflow-skinny, sqlalchemy or alembic is not installed",
)
BOTH = [
    pytest.param(Tracker.TENSORBOARD, marks=needs_tensorboard),
    pytest.param(Tracker.MLFLOW, marks=needs_mlflow),
]

# TensorBoard keeps float32; these are the same in it.
CURVE = {
    "loss": [0.875, 0.5, 0.25],
    "accuracy": [0.5, 0.75, 0.875],
    "val_loss": [1.0, 0.625, 0.75],
    "val_accuracy": [0.25, 0.75, 0.5],
}
RECIPE = HeadSettings(learning_rate=0.01, dropout=0.25, normalize=True)
OTHER = HeadSettings(head="logistic", penalty=0.5)


def record(key="0123456789abcdef", replicate="fold 1 of 2, seed 0", recipe=RECIPE, **changed):
    fit = HeadFit(recipe, None, changed.pop("best_epoch", 2), CURVE | changed)
    # As it comes out of the file.
    return json.loads(json.dumps(make_record(key, replicate, fit)))


RECORDS = [
    record("a" * 32),
    record("b" * 32, "fold 2 of 2, seed 0"),
    record("c" * 32, recipe=OTHER, val_loss=[1.0, 0.5, math.nan], loss=[0.5, 0.25, math.inf]),
    record("d" * 32, "fold 2 of 2, seed 0", recipe=OTHER, val_loss=[math.nan] * 3, best_epoch=0),
]


def without_nan(curve, name):
    """What should be found of a metric: epoch and value."""
    return [(n, value) for n, value in enumerate(curve[name], 1) if value is not None]


# TensorBoard


def read_events(folder):
    """Scalars and parameters of each run, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    runs = {}
    for file in sorted(Path(folder).rglob("*tfevents*")):
        events = EventAccumulator(str(file.parent)).Reload()
        scalars = {
            name: [(event.step, event.value) for event in events.Scalars(name)]
            for name in events.Tags()["scalars"]
        }
        (content,) = events.PluginTagToContent("hparams").values()
        start = HParamsPluginData.FromString(content).session_start_info
        parameters = {
            name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()
        }
        runs[str(file.parent.relative_to(folder))] = scalars, parameters, start.group_name
    return runs


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    with open_tracker(Tracker.TENSORBOARD, str(folder), "cats and dogs") as tracking:
        for one in RECORDS:
            tracking.on_record(one)
    return read_events(folder)


@needs_tensorboard
def test_tensorboard_has_a_run_for_each_record(events):
    recipe, other = settings_id(RECORDS[0]), settings_id(RECORDS[2])

    assert sorted(events) == sorted(
        [
            f"cats and dogs/{recipe}/fold 1 of 2, seed 0-aaaaaaaa",
            f"cats and dogs/{recipe}/fold 2 of 2, seed 0-bbbbbbbb",
            f"cats and dogs/{other}/fold 1 of 2, seed 0-cccccccc",
            f"cats and dogs/{other}/fold 2 of 2, seed 0-dddddddd",
        ]
    )


@needs_tensorboard
def test_tensorboard_has_the_curve_by_epoch(events):
    found = {run[-1]: scalars for run, (scalars, _, _) in events.items()}

    for name in CURVE:
        assert found["a"][name] == without_nan(RECORDS[0]["curve"], name)
        assert found["c"].get(name, []) == without_nan(RECORDS[2]["curve"], name)
    assert found["a"]["best_epoch"] == [(2, 2.0)]
    assert found["a"]["best_val_accuracy"] == [(2, 0.75)]
    assert found["a"]["best_val_loss"] == [(2, 0.625)]
    assert found["d"]["best_epoch"] == [(0, 0.0)]
    assert "val_loss" not in found["d"]
    assert "best_val_accuracy" not in found["d"]
    assert [found[key]["diverged"][0][1] for key in "abcd"] == [0, 0, 1, 1]


@needs_tensorboard
def test_tensorboard_groups_the_replicates_of_a_recipe(events):
    groups = {run[-1]: group for run, (_, _, group) in events.items()}

    assert groups["a"] == groups["b"] == settings_id(RECORDS[0])
    assert groups["c"] == groups["d"] == settings_id(RECORDS[2])
    assert groups["a"] != groups["c"]


@needs_tensorboard
def test_tensorboard_has_the_settings_that_were_used(events):
    parameters = {run[-1]: values for run, (_, values, _) in events.items()}

    assert parameters["a"]["learning_rate"] == 0.01
    assert parameters["a"]["dropout"] == 0.25
    assert parameters["a"]["normalize"] is True
    assert parameters["a"]["optimizer"] == "adam"
    assert parameters["c"]["penalty"] == 0.5
    # Numbers all: a word among them would make words of them all.
    assert "learning_rate" not in parameters["c"]
    assert "penalty" not in parameters["a"]


@needs_tensorboard
def test_tensorboard_has_a_record_once_however_often_it_is_told(tmp_path):
    for _ in range(2):
        with open_tracker(Tracker.TENSORBOARD, str(tmp_path), "m") as tracking:
            tracking.on_record(RECORDS[0])
            tracking.on_record(RECORDS[0])

    ((scalars, _, _),) = read_events(tmp_path).values()
    assert scalars["loss"] == without_nan(RECORDS[0]["curve"], "loss")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


@needs_tensorboard
@pytest.mark.parametrize("name", ["../up", "/", "..", 'a:b*"c', "été"])
def test_tensorboard_stays_in_its_folder(tmp_path, name):
    with open_tracker(Tracker.TENSORBOARD, str(tmp_path / "in"), name) as tracking:
        tracking.on_record(record(replicate="../../.."))

    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert len(file.relative_to(tmp_path).parts) == 5


@needs_tensorboard
def test_tensorboard_does_not_import_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise RuntimeError('imported')")
    script = f"""
from topwork.heads.tuning.trackers import open_tracker
with open_tracker("tensorboard", {str(tmp_path / "out")!r}, "m") as tracking:
    tracking.on_record({RECORDS[0]!r})
"""
    path = os.pathsep.join([str(tmp_path), *sys.path])
    run = [sys.executable, "-W", "error", "-c", script]
    own = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(run, check=False, env=own, capture_output=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert read_events(tmp_path / "out")


@needs_tensorboard
def test_a_journal_is_whole_when_its_records_cannot_be_tracked(tmp_path):
    journal = Journal(tmp_path / "trials.jsonl")
    with open_tracker(Tracker.TENSORBOARD, str(tmp_path), "m") as tracking:
        journal.callback = tracking
        (tmp_path / "m" / settings_id(RECORDS[1])).write_text("in the way")
        with pytest.raises(StoreError, match="cannot track the heads"):
            journal.add(RECORDS)

    again = Journal(tmp_path / "trials.jsonl")
    again.open()
    assert list(again.known) == [one["key"] for one in RECORDS]


# MLflow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a database and four runs; making the database takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow") / "a folder"
    said = io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        open_tracker(Tracker.MLFLOW, str(folder), "cats and dogs") as tracking,
    ):
        for one in RECORDS:
            tracking.on_record(one)
    assert said.getvalue() == ""
    return folder


def make_client(folder):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")


def read_runs(folder, name):
    client = make_client(folder)
    experiment = client.get_experiment_by_name(name).experiment_id
    runs = client.search_runs([experiment], max_results=1000)
    return {run.data.tags["key"][0]: run for run in runs}


def history(folder, run, name):
    metrics = make_client(folder).get_metric_history(run.info.run_id, name)
    return sorted((metric.step, metric.value) for metric in metrics)


@needs_mlflow
def test_mlflow_has_a_run_for_each_record(folder):
    runs = read_runs(folder, "cats and dogs")

    assert sorted(runs) == ["a", "b", "c", "d"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert [runs[key].data.tags["diverged"] for key in "abcd"] == ["false"] * 2 + ["true"] * 2
    assert runs["a"].info.run_name == f"{settings_id(RECORDS[0])} fold 1 of 2, seed 0"
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]


@needs_mlflow
def test_mlflow_has_the_curve_by_epoch(folder):
    runs = read_runs(folder, "cats and dogs")

    for name in CURVE:
        assert history(folder, runs["a"], name) == without_nan(RECORDS[0]["curve"], name)
        assert history(folder, runs["c"], name) == without_nan(RECORDS[2]["curve"], name)
    assert runs["a"].data.metrics["best_epoch"] == 2
    assert runs["a"].data.metrics["best_val_accuracy"] == 0.75
    assert runs["a"].data.metrics["best_val_loss"] == 0.625
    assert runs["d"].data.metrics["best_epoch"] == 0
    assert not {"val_loss", "best_val_accuracy"} & set(runs["d"].data.metrics)


@needs_mlflow
def test_mlflow_has_the_settings_that_were_used_and_the_replicate(folder):
    runs = read_runs(folder, "cats and dogs")

    parameters = runs["a"].data.params
    assert parameters["learning_rate"] == "0.01"
    assert parameters["normalize"] == "True"
    assert parameters["replicate"] == "fold 1 of 2, seed 0"
    assert "penalty" not in parameters
    assert runs["c"].data.params["penalty"] == "0.5"


@needs_mlflow
def test_mlflow_groups_by_recipe(folder):
    runs = read_runs(folder, "cats and dogs")

    recipes = [runs[key].data.tags["recipe"] for key in "abcd"]
    assert recipes[0] == recipes[1] == settings_id(RECORDS[0])
    assert recipes[2] == recipes[3] == settings_id(RECORDS[2])


@needs_mlflow
def test_mlflow_has_a_record_once_however_often_it_is_told(folder):
    for records in ([RECORDS[0], *RECORDS[:2]], RECORDS):
        with open_tracker(Tracker.MLFLOW, f"sqlite:///{folder}/mlflow.db", "again") as tracking:
            for one in records:
                tracking.on_record(one)

    client = make_client(folder)
    experiment = client.get_experiment_by_name("again").experiment_id
    assert len(client.search_runs([experiment])) == 4


@needs_mlflow
def test_mlflow_writes_a_run_again_that_was_cut_off(folder):
    client = make_client(folder)
    experiment = client.create_experiment("cut off")
    client.create_run(experiment, tags={"key": RECORDS[0]["key"]})
    with open_tracker(Tracker.MLFLOW, str(folder / "mlflow.db"), "cut off") as tracking:
        tracking.on_record(RECORDS[0])

    states = [run.info.status for run in client.search_runs([experiment])]
    assert sorted(states) == ["FINISHED", "RUNNING"]


@needs_mlflow
def test_mlflow_takes_more_epochs_than_fit_in_one_request(folder):
    epochs = [float(n) for n in range(1, 701)]
    long = record("e", best_epoch=700, **dict.fromkeys(CURVE, epochs))
    with open_tracker(Tracker.MLFLOW, str(folder), "long") as tracking:
        tracking.on_record(long)

    (run,) = read_runs(folder, "long").values()
    for name in CURVE:
        assert history(folder, run, name) == [(n, float(n)) for n in range(1, 701)]


@needs_mlflow
def test_mlflow_is_quiet_and_leaves_the_environment_alone(folder, tmp_path):
    script = f"""
import os, socket
from topwork.heads.tuning.trackers import open_tracker
def refuse(*args, **kwargs):
    raise AssertionError("a connection")
socket.socket.connect = socket.getaddrinfo = refuse
before = dict(os.environ)
with open_tracker("mlflow", {str(folder)!r}, "quiet") as tracking:
    assert dict(os.environ) == before
    tracking.on_record({RECORDS[0]!r})
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
"""
    # With these MLflow would say nothing to its makers in any case.
    quiet = ("PYTEST", "MLFLOW", "CI", "DO_NOT_TRACK")
    own = {name: value for name, value in os.environ.items() if not name.startswith(quiet)}
    own |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    run = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(run, check=False, env=own, cwd=tmp_path, capture_output=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(tmp_path.iterdir()) == []
    assert read_runs(folder, "quiet")


@needs_mlflow
def test_a_server_that_is_not_there_is_missed_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()

    with pytest.raises(StoreError, match=f"127.0.0.1:{port}") as caught:
        enter(Tracker.MLFLOW, f"http://me:secret@127.0.0.1:{port}")
    assert "secret" not in str(caught.value)
    # MLflow itself tries for about four minutes.
    assert time.monotonic() - started < 60


@needs_mlflow
def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path):
    path = tmp_path / "notes.db"
    path.write_text("Not a database, but long enough to be told from an empty one." * 20)
    before = path.read_bytes()

    with pytest.raises(StoreError, match=r"notes\.db"):
        enter(Tracker.MLFLOW, str(path))
    assert path.read_bytes() == before


@needs_mlflow
@pytest.mark.parametrize("name", ["100%", "what?"])
def test_a_path_that_mlflow_would_misread_is_refused(tmp_path, name):
    with pytest.raises(SettingsError, match="without % and"):
        enter(Tracker.MLFLOW, str(tmp_path / name))
    assert list(tmp_path.iterdir()) == []


@needs_mlflow
def test_a_run_that_cannot_be_written_is_told_of_at_the_end(folder, monkeypatch):
    from mlflow.tracking import MlflowClient

    def fail(*args, **kwargs):
        raise OSError("the disk is full")

    with (
        pytest.raises(StoreError, match="a folder: the disk is full"),
        open_tracker(Tracker.MLFLOW, str(folder), "failing") as tracking,
    ):
        monkeypatch.setattr(MlflowClient, "log_batch", fail)
        tracking.on_record(RECORDS[0])


@needs_mlflow
def test_records_are_written_while_the_search_goes_on(folder, monkeypatch):
    from mlflow.tracking import MlflowClient

    go_on = threading.Event()
    real = MlflowClient.log_batch

    def log_batch(*args):
        assert go_on.wait(20)
        real(*args)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    with open_tracker(Tracker.MLFLOW, str(folder), "later") as tracking:
        for one in RECORDS:
            tracking.on_record(one)
        go_on.set()

    assert len(read_runs(folder, "later")) == 4


@needs_mlflow
def test_what_waits_is_dropped_when_the_search_fails(folder, monkeypatch):
    from mlflow.tracking import MlflowClient

    begun, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *a: (begun.set(), go_on.wait(60)))
    with (
        pytest.raises(KeyboardInterrupt),
        open_tracker(Tracker.MLFLOW, str(folder), "stopped") as tracking,
    ):
        for one in RECORDS:
            tracking.on_record(one)
        begun.wait(60)
        threading.Timer(0.1, go_on.set).start()
        raise KeyboardInterrupt

    assert len(read_runs(folder, "stopped")) == 1


# Both


def enter(kind, place):
    with open_tracker(kind, place, "m"):
        pass


@pytest.mark.parametrize("kind", BOTH)
def test_a_place_below_a_file_is_refused(kind, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match=r"cannot track the heads in .*file/below"):
        enter(kind, str(tmp_path / "file" / "below"))


@pytest.mark.parametrize("kind", list(Tracker))
def test_a_missing_package_says_what_to_install(kind, tmp_path, monkeypatch):
    for name in [*sys.modules]:
        if name.split(".")[0] == kind:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, str(kind), None)

    with pytest.raises(SettingsError, match=r"pip install 'topwork\[track\]'"):
        enter(kind, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_nothing_is_imported_before_it_is_used():
    script = (
        "import sys, topwork.heads.tuning.trackers\n"
        "print({'mlflow', 'tensorboard', 'numpy'} & {*sys.modules})"
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"


def test_a_recipe_is_told_from_others_by_its_settings_alone():
    assert settings_id(record("x", "one")) == settings_id(record("y", "two", best_epoch=1))
    assert settings_id(record()) != settings_id(record(recipe=OTHER))
    # Stable: runs of different days are compared.
    assert settings_id({"settings": {"b": 1, "a": "x"}}) == settings_id(
        {"settings": {"a": "x", "b": 1}}
    )
