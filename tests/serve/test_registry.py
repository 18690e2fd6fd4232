import asyncio
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, picture

from topwork.core.errors import ModelError, SettingsError
from topwork.core.files import write_folder
from topwork.models.folder import load_model
from topwork.serve.prometheus import ServerMetrics
from topwork.serve.registry import ModelRegistry, name_models, open_model

IMAGE = encode(picture())


@pytest.fixture(scope="module")
def other(flat_trained, tmp_path_factory):
    """Another model of the same images."""
    path = tmp_path_factory.mktemp("models") / "other.model"
    flat_trained.save(path)
    return path


@pytest.fixture
def own(saved, tmp_path):
    """A model that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "own.model"))


def replace_folder(path, source):
    write_folder(path, lambda new: shutil.copytree(source, new, dirs_exist_ok=True))


def read_version(site):
    return site.ask("GET", "/models")[2]["models"][0]["version"]


def wait_for(check):
    for _ in range(3000):
        if check():
            return
        time.sleep(0.02)
    raise AssertionError("it never came")


def has_figure(site, line):
    return line in site.ask("GET", "/metrics")[2].decode().splitlines()


def test_a_replaced_model_is_taken_and_no_request_is_lost(open_site, own, other, caplog):
    caplog.set_level("INFO", "topwork.serve")
    site, found, stop = open_site(own, check_every_s=0.05), [], threading.Event()

    def ask():
        while not stop.is_set():
            found.append(site.predict(IMAGE))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    old = read_version(site)
    replace_folder(own, other)
    wait_for(lambda: read_version(site) != old)
    seen = len(found)
    wait_for(lambda: len(found) > seen + 20)
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for status, _, _ in found} == {200}
    wanted = {}
    for model, version in ((load_model(other), read_version(site)),):
        wanted[version] = model.predict([IMAGE]).probabilities[0].max()
    versions = {content["version"] for _, _, content in found}
    assert versions == {old, *wanted}
    last = found[-1][2]
    share = last["results"][0]["predictions"][0]["probability"]
    assert share == pytest.approx(wanted[last["version"]], abs=1e-3)
    assert has_figure(site, 'topwork_reloads_total{model="own",outcome="loaded"} 1.0')
    assert any("own was replaced: version" in record.getMessage() for record in caplog.records)
    lines = site.ask("GET", "/metrics")[2].decode().splitlines()
    assert len([line for line in lines if line.startswith("topwork_model_info{")]) == 1


@pytest.mark.parametrize(
    "way",
    [
        "cut",
        "json",
        *(pytest.param(way, marks=pytest.mark.system) for way in ("changed", "schema")),
    ],
)
def test_a_damaged_one_is_refused_and_the_old_one_goes_on(
    open_site, own, other, tmp_path, caplog, way
):
    site = open_site(own, check_every_s=0.05)
    old = read_version(site)
    bad = Path(shutil.copytree(other, tmp_path / "bad"))
    if way == "cut":
        os.truncate(bad / "model.bin", 1000)
    elif way == "changed":
        (bad / "head.safetensors").write_bytes(b"no head")
    elif way == "json":
        (bad / "model.json").write_text("{")
    else:
        card = json.loads((bad / "model.json").read_text())
        (bad / "model.json").write_text(json.dumps(card | {"schema_version": 99}))
    replace_folder(own, bad)
    refused = 'topwork_reloads_total{model="own",outcome="refused"} 1.0'
    wait_for(lambda: has_figure(site, refused))
    assert read_version(site) == old
    assert site.predict(IMAGE)[0] == site.ask("POST", "/explain", IMAGE)[0] == 200
    (line,) = [r.getMessage() for r in caplog.records if "cannot be used" in r.getMessage()]
    assert str(own) in line
    assert "topwork-serve-" not in line
    # Mended, it is taken.
    replace_folder(own, other)
    wait_for(lambda: read_version(site) != old)


def test_files_that_are_written_over_do_not_reach_the_model_at_work(open_site, own, other):
    site = open_site(own, check_every_s=0.05)
    before = site.predict(IMAGE)[2]
    for file in own.iterdir():
        os.truncate(file, 10)
    assert site.predict(IMAGE)[2]["results"] == before["results"]
    assert site.ask("POST", "/explain", IMAGE)[0] == 200
    shutil.copytree(other, own, dirs_exist_ok=True)
    wait_for(lambda: read_version(site) != before["version"])


def test_a_folder_that_is_gone_is_waited_for(open_site, own, other, caplog):
    # A server that a test before started here may have asked for a line for each request.
    caplog.set_level("WARNING", "topwork.serve")
    site = open_site(own, check_every_s=0.05)
    old = read_version(site)
    shutil.rmtree(own)
    for _ in range(20):
        assert site.predict(IMAGE)[0] == 200
        time.sleep(0.02)
    assert not caplog.records
    shutil.copytree(other, own)
    wait_for(lambda: read_version(site) != old)


def test_a_replaced_model_goes_on_until_its_last_request_is_answered(own, other):
    registry = ModelRegistry({"own": own}, ServerMetrics(lambda: 0))
    pixels = {32: np.zeros((32, 32, 3), np.uint8)}
    with registry.lease(None) as old:
        replace_folder(own, other)
        asyncio.run(registry._exchange("own"))
        with registry.lease("own") as new:
            assert new is not old
        assert old.retired
        assert old.folder.exists()
        assert old.batcher.submit(pixels).result(60).shape == (1280,)
    wait_for(lambda: not old.folder.exists())
    assert new.batcher.submit(pixels).result(60).shape == (1280,)
    registry.close()
    assert not new.folder.exists()


def test_copies_are_removed(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    served = open_model(saved, "a", lambda count: None)
    (copy,) = tmp_path.iterdir()
    assert copy == served.folder
    assert not list(copy.glob("*.keras"))
    pixels = {32: np.zeros((32, 32, 3), np.uint8)}
    assert served.batcher.submit(pixels).result(60).shape == (1280,)
    served.close()
    bad = Path(shutil.copytree(saved, tmp_path / "bad.model"))
    (bad / "model.xml").write_text("")
    with pytest.raises(ModelError, match=r"bad\.model/model\.xml was cut off"):
        open_model(bad, "bad", lambda count: None)
    with pytest.raises(ModelError, match=r"it has no model\.json"):
        open_model(tmp_path, "none", lambda count: None)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.model"]


def test_a_second_model_that_cannot_be_used_leaves_nothing_of_the_first(
    saved, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads = threading.active_count()
    with pytest.raises(ModelError, match="there is no such folder"):
        ModelRegistry({"a": saved, "b": tmp_path / "none"}, ServerMetrics(lambda: 0))
    assert (list(tmp_path.iterdir()), threading.active_count()) == ([], threads)


def test_models_are_called_as_their_folders_are(tmp_path):
    paths = [Path("a.model"), Path("b/c"), Path("d\n.model")]
    assert [*name_models(paths)] == ["a", "c", "d\\n"]
    with pytest.raises(SettingsError, match="both called a; rename"):
        name_models([Path("a.model"), Path("b/a")])
    with pytest.raises(SettingsError, match="at least one"):
        name_models([])


def test_a_copy_that_is_at_work_looks_new(saved, tmp_path, monkeypatch):
    """Where nobody can ask for the server, what is a day old is taken for left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    registry = ModelRegistry({"a": saved}, ServerMetrics(lambda: 0))
    (copy,) = tmp_path.iterdir()
    os.utime(copy, (0, 0))

    async def watch():
        watching = asyncio.create_task(registry.watch(0.01, 0.01))
        while not copy.stat().st_mtime:
            await asyncio.sleep(0.01)
        watching.cancel()

    asyncio.run(asyncio.wait_for(watch(), 60))
    registry.close()
    assert not [*tmp_path.iterdir()]
