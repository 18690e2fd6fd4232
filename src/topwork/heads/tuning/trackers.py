"""Tracking: every head that a search trains, as a run in MLflow or TensorBoard."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import tempfile
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from topwork.core.callbacks import Callback
from topwork.core.config import AUTO, Tracker
from topwork.core.errors import SettingsError, StoreError, printable
from topwork.core.files import write_file

if TYPE_CHECKING:
    from topwork.heads.tuning.trials import Journal, Record

OnRecord: TypeAlias = "Callable[[Record], None]"


# TensorBoard reads files that have "tfevents" in their names.
EVENTS_FILE = "heads.tfevents"
DATABASE = "mlflow.db"
DATABASE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
SQLITE = "sqlite:///"

# MLflow is set up by variables alone. It reads the first two when it is imported, the others
# with every request: a server that is not there should be missed at once, not in minutes.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


@contextmanager
def open_tracker(kind: Tracker, location: str, name: str) -> Iterator[Callback]:
    """Opens a place that shows the heads of a search; what it yields hears of each record.

    A record becomes a run. Its parameters are the settings that the head used; its metrics are
    those of the curve, with the epoch, from 1, as step, without what was not finite; and
    `best_epoch` with the held-out metrics there, such as `best_val_accuracy`. Runs of the same
    settings share `recipe`. A record that is there already makes no second run, so that a search
    that goes on may tell of those that its journal had.

    MLflow's runs are written while the next heads are trained; leaving the context waits for
    the last. A run that cannot be written raises with a later record, or then.

    Args:
        kind: the program that will show them.
        location: for TensorBoard a folder. For MLflow a tracking URI, or the file of a database,
            or a folder for one.
        name: of the model; MLflow's experiment, TensorBoard's group of runs.

    Raises:
        SettingsError: when entered: the package is not installed.
        StoreError: the place cannot be opened or written to.
    """
    opened = {Tracker.MLFLOW: _open_mlflow, Tracker.TENSORBOARD: _open_tensorboard}
    with opened[kind](location, name) as track:
        yield _Tracking(track)


@contextmanager
def tracked(journal: Journal, kind: Tracker | None, location: str, name: str) -> Iterator[None]:
    """Lets a program hear of a journal's heads while it is open, those of earlier runs included.

    Args:
        journal: of the search.
        kind: the program; None for none.
        location: as for `open_tracker`.
        name: as for `open_tracker`.

    Raises:
        SettingsError: when entered: the package is not installed.
        StoreError: the place cannot be opened or written to.
    """
    if kind is None:
        yield
        return
    with open_tracker(kind, location, name) as tracking:
        journal.open()
        for record in journal.known.values():
            tracking.on_record(record)
        journal.callback = tracking
        yield


class _Tracking(Callback):
    """Has every record written where it is shown."""

    def __init__(self, track: OnRecord) -> None:
        self._track = track

    def on_record(self, record: Record) -> None:
        self._track(record)


def settings_id(record: Record) -> str:
    """Returns eight hexadecimal digits that tell the settings of a record from others."""
    text = json.dumps(record["settings"], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _used_settings(record: Record) -> dict[str, Any]:
    """Returns the settings without those of another kind of head, which were left open."""
    return {n: value for n, value in record["settings"].items() if value not in (None, AUTO)}


def _points(record: Record) -> Iterator[tuple[str, int, float]]:
    """Yields name, epoch and value of all figures of a record that are finite."""
    best = record["best_epoch"]
    yield "best_epoch", best, best
    for name, values in record["curve"].items():
        for epoch, value in enumerate(values, 1):
            if value is None:
                continue
            yield name, epoch, value
            if epoch == best and name.startswith("val_"):
                yield f"best_{name}", epoch, value


@contextmanager
def _open_tensorboard(location: str, name: str) -> Iterator[OnRecord]:
    try:
        # None of these imports TensorFlow, not even where it is installed.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise _missing(Tracker.TENSORBOARD) from error

    folder = Path(location, _folder_name(name))
    with _told(location):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()

    def events(record: Record) -> Iterator[Any]:
        now = time.time()
        yield Event(wall_time=now, file_version="brain.Event:2")
        # Runs of one trial are a row in the table of parameters, with the means of their metrics.
        parameters = hparams_pb(_used_settings(record), settings_id(record), now)
        yield Event(wall_time=now, summary=parameters)
        values = defaultdict(list)
        for metric, epoch, value in _points(record):
            values[epoch].append(Summary.Value(tag=metric, simple_value=value))
        diverged = float(record["diverged"])
        values[record["best_epoch"]].append(Summary.Value(tag="diverged", simple_value=diverged))
        for epoch in sorted(values):
            yield Event(wall_time=now, step=epoch, summary=Summary(value=values[epoch]))

    def track(record: Record) -> None:
        run = f"{record['replicate']}-{record['key'][:8]}"
        path = folder / settings_id(record) / _folder_name(run) / EVENTS_FILE
        content = [event.SerializeToString() for event in events(record)]

        def write(file: Any) -> None:
            writer = RecordWriter(file)
            for event in content:
                writer.write(event)

        with _told(location):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, write)

    yield track


@contextmanager
def _open_mlflow(location: str, name: str) -> Iterator[OnRecord]:
    with _told(location), _quietly():
        is_local = "://" not in location or location.startswith(SQLITE)
        try:
            from mlflow.tracking import MlflowClient

            if is_local:
                # Not part of the small package of MLflow, which is enough for a server.
                import_module("alembic")
                import_module("sqlalchemy")
        except ImportError as error:
            raise _missing(Tracker.MLFLOW) from error
        uri, artifacts = _local_database(location) if is_local else (location, None)
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name, artifacts)
        known = _known_keys(client, experiment)

    def write(record: Record) -> None:
        with _told(location):
            _write_run(client, experiment, record)

    with _in_background(write) as write_later:

        def track(record: Record) -> None:
            if record["key"] not in known:
                known.add(record["key"])
                write_later(record)

        yield track


def _local_database(location: str) -> tuple[str, str]:
    """Returns the tracking URI of a database, and that of a folder beside it for files.

    Where it cannot be opened MLflow would try for minutes; so it is opened here first.
    """
    path = Path(location.removeprefix(SQLITE)).absolute()
    if not (location.startswith(SQLITE) or path.is_file() or path.suffix in DATABASE_SUFFIXES):
        path /= DATABASE
    if re.search("[%?]", str(path)):
        raise SettingsError(
            f"MLflow needs a path without % and ?, received {printable(path)}; choose another"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=20)) as database:
        database.execute("BEGIN IMMEDIATE")
    return f"{SQLITE}{path}", (path.parent / "artifacts").as_uri()


def _known_keys(client: Any, experiment: str) -> set[str]:
    """Returns the keys of the records whose runs are complete."""
    keys: set[str] = set()
    token = None
    while True:
        runs = client.search_runs(
            [experiment], "attributes.status = 'FINISHED'", max_results=1000, page_token=token
        )
        keys.update(run.data.tags.get("key", "") for run in runs)
        token = runs.token
        if not token:
            return keys


def _write_run(client: Any, experiment: str, record: Record) -> None:
    from mlflow.entities import Metric, Param

    now = time.time_ns() // 1_000_000
    settings = {**_used_settings(record), "replicate": record["replicate"]}
    parameters = [Param(name, str(value)) for name, value in settings.items()]
    metrics = [Metric(name, value, now, epoch) for name, epoch, value in _points(record)]
    own = settings_id(record)
    tags = {
        "recipe": own,
        "key": record["key"],
        "diverged": str(record["diverged"]).lower(),
    }
    run = client.create_run(experiment, tags=tags, run_name=f"{own} {record['replicate']}")
    run_id = run.info.run_id
    client.log_batch(run_id, metrics, parameters)
    # Not set_terminated, which prints the address of the run.
    client.update_run(run_id, status="FINISHED")


@contextmanager
def _in_background(write: OnRecord) -> Iterator[OnRecord]:
    """Lets records be written one after the other in a thread; raises what that raises."""
    with ThreadPoolExecutor(1, "tracker") as pool:
        waiting: deque[Future[None]] = deque()

        def write_later(record: Record) -> None:
            while waiting and waiting[0].done():
                waiting.popleft().result()
            waiting.append(pool.submit(write, record))

        try:
            yield write_later
            for future in waiting:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps MLflow quiet while it is opened; what the user has set stays."""
    added = {name: value for name, value in QUIET.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _told(location: str) -> Iterator[None]:
    """Turns what the libraries raise into an error that names the place, without a password."""
    try:
        yield
    except (SettingsError, StoreError):
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        message = (
            f"cannot track the heads in {location}: {reason}; the trials that were written down "
            "are kept: choose a place that can be written to, and start again to go on"
        )
        raise StoreError(printable(re.sub("//[^/@]*@", "//", message))) from error


def _missing(kind: Tracker) -> SettingsError:
    return SettingsError(
        f"{kind} is not installed, which tracking in it needs; pip install 'topwork[track]'"
    )


def _folder_name(text: str) -> str:
    """Returns a name that is a folder's, whatever the text: letters, digits and a few signs."""
    return re.sub(r"[^\w ,.@=+-]", "_", text).strip(". ") or "_"
