"""What a run on a cluster needs, and one Ray for the whole run of the tests."""

import pytest
from vectors.cluster.work import Work, make_space, write_network


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("network"))


@pytest.fixture
def work(tmp_path, network):
    (tmp_path / "images").mkdir()
    return Work(tmp_path / "store", network, make_space(), tmp_path / "images")


@pytest.fixture(scope="session")
def ray():
    """Ray on this machine, once for all tests: it takes seconds to start."""
    ray = pytest.importorskip("ray", reason="needs Ray, the extra ray")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
    )
    yield ray
    ray.shutdown()
    patch.undo()
