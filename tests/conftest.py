"""Generated pictures and folders, one store for the whole run, and the reference data."""

import os
import shutil
import sys
from pathlib import Path

import hypothesis
import pytest
from pictures import COLOURS, fill, make_photos

from topwork.core.config import Settings

# No screen here; and no test may find what this machine's user has stored.
os.environ["MPLBACKEND"] = "agg"

# No test is about time, and machines are shared. `make test-slow` takes many examples.
hypothesis.settings.register_profile("few", deadline=None, max_examples=20)
hypothesis.settings.register_profile("many", deadline=None, max_examples=300)
hypothesis.settings.load_profile("few")


def pytest_configure(config):
    """Lets workers, and later runs, share what JAX has compiled."""
    if cache := getattr(config, "cache", None):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache.mkdir("programs"))
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def _quiet_home(tmp_path_factory):
    """For the whole session: fixtures that are made once predict too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPWORK_STORE", str(shared_folder(tmp_path_factory) / "store"))
        patch.setenv("KERAS_HOME", str(shared_folder(tmp_path_factory) / "keras"))
        patch.delenv("KERAS_BACKEND", raising=False)
        yield


def shared_folder(tmp_path_factory):
    """A folder that all workers of this run share: built networks are built once."""
    base = tmp_path_factory.getbasetemp()
    return base.parent / "shared" if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return shared_folder(tmp_path_factory) / "store"


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def small():
    """Settings of the smallest real network."""
    return Settings.create(image_size=32, epochs=5, learning_rate=0.01, precision="f32")


@pytest.fixture(scope="session")
def trained(photos, small, store):
    from topwork.data.dataset import Dataset
    from topwork.recipes import train as pipeline

    return pipeline.train(Dataset.from_folder(photos), small, store)


@pytest.fixture(scope="session")
def saved(trained, tmp_path_factory):
    """A saved model; tests that change it copy it first."""
    path = tmp_path_factory.mktemp("models") / "colours.model"
    trained.save(path)
    return path


@pytest.fixture(scope="session")
def flat(tmp_path_factory):
    """Class folders without splits."""
    root = tmp_path_factory.mktemp("data") / "flat"
    for place, (name, colour) in enumerate(COLOURS.items()):
        fill(root / name, 10, colour, start=20 * place)
    return root


@pytest.fixture(scope="session")
def flat_trained(flat, small, store):
    from topwork.data.dataset import Dataset
    from topwork.recipes import train as pipeline

    return pipeline.train(Dataset.from_folder(flat), small, store)


@pytest.fixture(scope="session")
def stacked(photos, store):
    """Two sizes of a base side by side, each the mean over mirror images, and an inner layer."""
    from topwork.data.dataset import Dataset
    from topwork.recipes import train as pipeline

    settings = Settings.create(
        base="efficientnet-lite0@64,efficientnet-lite0@32",
        flip=True,
        inner_units=8,
        epochs=5,
        learning_rate=0.003,
        precision="f32",
    )
    return pipeline.train(Dataset.from_folder(photos), settings, store)


@pytest.fixture(scope="session")
def stacked_saved(stacked, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "stacked.model"
    stacked.save(path)
    return path


@pytest.fixture
def other_store(trained, store, tmp_path):
    """A store with the networks and without vectors."""
    shutil.copytree(store / "bases", tmp_path / "store" / "bases")
    return tmp_path / "store"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line in this process: exit code, stdout, stderr."""

    def run_topwork(*args):
        from topwork.cli import main

        monkeypatch.setattr(sys, "argv", ["topwork", *map(str, args)])
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_topwork


def shared_path(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs the reference data, and {name} is not beside the checkout")
    return path


@pytest.fixture(scope="session")
def reference_photos():
    return shared_path("data/clothing-dataset-small")


@pytest.fixture(scope="session")
def xception_weights():
    return shared_path("weights/xception_imagenet_notop.h5")


@pytest.fixture(scope="session")
def mobilenet_weights():
    return shared_path("weights/mobilenet_v2_imagenet_top_224.h5")
