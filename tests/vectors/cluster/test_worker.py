import os
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import encode, picture
from servers import s3_server
from vectors.cluster.work import LENGTH, SIZE, compute, make_space, write_network

from topwork.bases.engines import OpenVINOEngine
from topwork.bases.network import KERAS_FILES
from topwork.core.config import Interpolation, Precision
from topwork.core.errors import ImageError, NetworkError, SettingsError, StoreError
from topwork.images.decode import decode
from topwork.vectors.backends import open_elsewhere
from topwork.vectors.cluster import worker as module
from topwork.vectors.cluster.connection import _read_files
from topwork.vectors.cluster.worker import IR_FILES, RunConfig, Worker, WorkerResources, open_engine
from topwork.vectors.image_tasks import ChangedError, ImageTask
from topwork.vectors.store import VectorStore


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch, tmp_path):
    """A reference is here what it stands for; and a worker moves to where it is sent."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda reference: reference))
    monkeypatch.chdir(tmp_path)


def make_worker(work, *, network=None, **changes):
    mark = work.root / ".shared-1"
    work.root.mkdir(exist_ok=True)
    mark.touch()
    config = RunConfig(
        root=work.root,
        url=None,
        mark=mark,
        folder=work.images,
        space=work.space,
        vector_length=LENGTH,
        resources=WorkerResources(1, 0, 1),
    )
    files = _read_files(network or work.network, with_keras=False)
    return Worker(replace(config, **changes), [files], seen_s=0.1)


def ask(worker, *batches):
    answers = worker({"batch": [pickle.dumps(batch) for batch in batches]})["answer"]
    return [pickle.loads(answer) for answer in answers]


def read(work, tasks):
    store = VectorStore(work.root, work.space, LENGTH)
    store.refresh()
    return store.read([task.sha256 for task in tasks])


def pixels_of(tasks):
    data = [task.source.read_bytes() for task in tasks]
    return np.stack([decode(content, SIZE, Interpolation.NEAREST) for content in data])


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * wanted.max())


def test_a_batch_becomes_one_part_with_the_vectors_of_its_images(work):
    tasks = work.photos(9)
    first, second = ask(make_worker(work), tasks[:5], tasks[5:])
    assert first == [(place, None) for place in range(5)]
    assert second == [(place, None) for place in range(5, 9)]
    assert_close(read(work, tasks), compute(pixels_of(tasks)))
    engine = OpenVINOEngine(work.network, SIZE, Precision.F32)
    alone = engine.run_all(pixels_of(tasks))
    np.testing.assert_allclose(read(work, tasks), alone, rtol=1e-6, atol=0)
    assert len(list(work.root.rglob("part-*.parquet"))) == 2


def test_a_vector_may_be_the_mean_over_image_and_mirror(work):
    work.space = make_space(view="flip")
    tasks = work.photos(3)
    ask(make_worker(work), tasks)
    pixels = pixels_of(tasks)
    wanted = (compute(pixels) + compute(pixels[:, :, ::-1])) / 2
    assert_close(read(work, tasks), wanted)


def test_an_image_that_cannot_be_used_is_named_and_the_others_are_run(work):
    tasks = work.photos(3)
    tasks.append(work.add("003.png", b"no image"))
    tasks.append(work.add("004.png", encode(picture(seed=4)), sha256="1" * 64))
    tasks.append(work.task(work.images / "005.png"))
    (outcomes,) = ask(make_worker(work), tasks)
    found = dict(outcomes)
    assert len(outcomes) == len(found) == 6
    assert [found[place] for place in range(3)] == [None] * 3
    assert "not an image" in str(found[3])
    assert not isinstance(found[3], ChangedError)
    assert isinstance(found[4], ChangedError)
    assert "changed" in str(found[4])
    assert isinstance(found[5], ChangedError)
    assert str(found[5]) == "there is no such file"
    assert read(work, tasks[:3]).shape == (3, LENGTH)


def test_where_no_file_of_a_batch_is_there_the_reason_says_where_they_must_be(work):
    tasks = [work.task(work.images / f"{place:03}.png") for place in range(3)]
    (outcomes,) = ask(make_worker(work), tasks)
    for _, error in outcomes:
        assert isinstance(error, ChangedError)
        assert str(error).startswith("there is no such file; the machine ")
        assert "all machines share" in str(error)
    assert not (work.root / "vectors").exists()


def test_bytes_that_came_with_the_task_are_never_missing_on_this_machine(work):
    (outcomes,) = ask(make_worker(work), [ImageTask(0, "0" * 64, b"")])
    assert str(outcomes[0][1]) == "the file is empty (0 bytes)"


def test_a_relative_path_starts_where_the_work_was_asked_for(work):
    tasks = work.photos(2)
    near = [task._replace(source=task.source.relative_to(work.images)) for task in tasks]
    (outcomes,) = ask(make_worker(work), near)
    assert outcomes == [(0, None), (1, None)]


def test_a_vector_that_is_not_finite_is_an_image_that_cannot_be_used(work, tmp_path):
    network = write_network(tmp_path, factor=np.inf)
    (outcomes,) = ask(make_worker(work, network=network), work.photos(2))
    assert [place for place, _ in outcomes] == [0, 1]
    assert all("NaN or infinity" in str(error) for _, error in outcomes)
    assert not any(isinstance(error, ChangedError) for _, error in outcomes)


def test_a_store_that_this_machine_does_not_see_ends_the_work(work):
    (error,) = ask(make_worker(work, mark=work.root / ".shared-2"), work.photos(1))
    assert isinstance(error, StoreError)
    assert str(work.root) in str(error)
    assert "s3://" in str(error)
    assert not (work.root / "vectors").exists()


def test_vectors_may_go_to_a_bucket(work, tmp_path, monkeypatch):
    pytest.importorskip("moto")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with s3_server({}) as (address, client, *_):
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("TOPWORK_STORE", str(tmp_path / "home"))
        tasks = work.photos(3)
        url = "s3://photos/store"
        # This machine has never heard of the store before.
        (outcomes,) = ask(make_worker(work, url=url, mark=None, root=tmp_path / "elsewhere"), tasks)
        assert outcomes == [(place, None) for place in range(3)]
        keys = [each["Key"] for each in client.list_objects_v2(Bucket="photos")["Contents"]]
        assert sum("/part-" in key for key in keys) == 1
        store = VectorStore(open_elsewhere(url), work.space, LENGTH)
        store.refresh()
        found = store.read([task.sha256 for task in tasks])
    assert_close(found, compute(pixels_of(tasks)))
    assert not (tmp_path / "elsewhere").exists()


def test_a_store_that_cannot_be_written_ends_the_work(work):
    worker = make_worker(work)
    (work.root / "vectors").write_text("a file in its place")
    (error,) = ask(worker, work.photos(1))
    assert isinstance(error, StoreError)
    assert str(work.root) in str(error)


def test_another_version_of_the_decoder_would_make_other_vectors(work):
    (error,) = ask(make_worker(work, space=make_space(decoder="0")), work.photos(1))
    assert isinstance(error, SettingsError)
    assert "same version" in str(error)


def test_a_machine_without_bf16_is_named(work, monkeypatch):
    def refuse(precision):
        raise SettingsError(f"no {precision}")

    monkeypatch.setattr(module, "resolve_precision", refuse)
    (error,) = ask(make_worker(work, space=make_space(precision="bf16")), work.photos(1))
    assert isinstance(error, SettingsError)
    assert "the machine " in str(error)
    assert "--precision f32" in str(error)


def test_a_network_that_cannot_be_loaded_ends_the_work(work, tmp_path):
    for name in IR_FILES:
        (tmp_path / name).write_bytes(b"?")
    (error,) = ask(make_worker(work, network=tmp_path / "network.xml"), work.photos(1))
    assert isinstance(error, NetworkError)


def test_what_is_wrong_with_one_image_survives_the_way_back():
    found = pickle.loads(
        pickle.dumps([ChangedError("gone"), ImageError("bad"), StoreError("full")])
    )
    assert [type(error) for error in found] == [ChangedError, ImageError, StoreError]
    assert [str(error) for error in found] == ["gone", "bad", "full"]


@pytest.fixture
def opened(monkeypatch):
    """What a stand-in for the Keras engine was opened with; `able` is whether JAX finds a GPU."""
    calls = SimpleNamespace(able=True, made=[])

    def open_keras(*args, **options):
        calls.made.append((args, options))
        return "engine"

    stub = SimpleNamespace(KerasEngine=open_keras, has_accelerator=lambda: calls.able)
    monkeypatch.setitem(sys.modules, "topwork.bases.engines.keras", stub)
    return calls


def test_a_worker_with_a_gpu_runs_keras(opened, tmp_path):
    space = make_space(precision="bf16", view="flip")
    assert open_engine(tmp_path, space, WorkerResources(8, 1, 2)) == "engine"
    assert opened.made == [((tmp_path, SIZE, Precision.BF16), {"flip": True})]


def test_a_gpu_that_jax_cannot_use_is_named(opened, tmp_path):
    opened.able = False
    with pytest.raises(SettingsError, match="pip install 'jax"):
        open_engine(tmp_path, make_space(), WorkerResources(8, 1, 2))
    assert opened.made == []


def test_the_keras_file_is_sent_instead_where_there_are_gpus(tmp_path):
    names = (*IR_FILES, *KERAS_FILES)
    for name in names:
        (tmp_path / name).write_text(name)
    wanted = {name: name.encode() for name in names}
    sent = [_read_files(tmp_path / "network.xml", with_keras=keras) for keras in (False, True)]
    assert sent == [{name: wanted[name] for name in found} for found in (IR_FILES, KERAS_FILES)]
