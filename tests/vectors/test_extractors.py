import numpy as np
import pytest
from pictures import encode, picture
from recorder import Recorder
from vectors.test_embed import LENGTH, FakeEngine, one_by_one, open_store

from topwork.core import files
from topwork.core.config import EngineKind, Precision, Settings
from topwork.core.errors import DatasetError, ImageError, SettingsError
from topwork.data.dataset import Dataset
from topwork.vectors import extractors
from topwork.vectors.embed import embed_images
from topwork.vectors.extractors import (
    FeatureExtractor,
    choose_engine,
    choose_precision,
    make_extractors,
    prepare_networks,
)


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.setattr(extractors, "has_accelerator", lambda: True)


def test_auto_is_the_cpu_without_an_accelerator(monkeypatch):
    monkeypatch.setattr(extractors, "has_accelerator", lambda: False)
    assert choose_engine(Settings.create()) is EngineKind.OPENVINO
    assert choose_engine(Settings.create(engine="keras")) is EngineKind.KERAS
    assert choose_precision(Settings.create(engine="keras")) is Precision.F32


@pytest.mark.usefixtures("accelerator")
def test_auto_is_keras_on_an_accelerator_unless_bytes_are_wanted():
    assert choose_engine(Settings.create()) is EngineKind.KERAS
    assert choose_precision(Settings.create()) is Precision.BF16
    assert choose_precision(Settings.create(precision="f32")) is Precision.F32
    assert choose_engine(Settings.create(precision="int8")) is EngineKind.OPENVINO
    assert choose_engine(Settings.create(engine="openvino")) is EngineKind.OPENVINO


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"engine": "keras", "precision": "int8"}, "int8 runs in OpenVINO"),
        ({"address": "ray://head:10001"}, "address: is for engine ray"),
        ({"engine": "gpu"}, "engine: .*'gpu'"),
    ],
)
def test_what_contradicts_itself_is_refused(values, said):
    with pytest.raises(SettingsError, match=said):
        Settings.create(**values)


@pytest.mark.system
def test_keras_and_openvino_open_the_same_network(small, store, monkeypatch):
    opened = []
    monkeypatch.setattr(
        extractors, "KerasEngine", lambda *args, **kinds: opened.append((args, kinds))
    )
    settings = small.model_copy(update={"engine": EngineKind.KERAS, "flip": True})
    (extractor,) = make_extractors(prepare_networks(settings, store), settings, store)
    extractor.open_engine()
    (((folder, size, precision), options),) = opened
    assert (size, precision, options) == (32, Precision.F32, {"flip": True})
    assert (folder / "model.weights.h5").is_file()
    assert extractor.run_remotely is None


def test_ray_runs_what_the_store_lacks(small, store, monkeypatch):
    asked = []

    class FakeCluster:
        def run(self, tasks, **about):
            asked.append((tasks, about))

    monkeypatch.setattr(extractors, "join_cluster", lambda address: FakeCluster())
    settings = small.model_copy(update={"engine": EngineKind.RAY})
    (extractor,) = make_extractors(prepare_networks(settings, store), settings, store)
    extractor.run_remotely(["task"])
    ((tasks, about),) = asked
    assert tasks == ["task"]
    assert about["space"] == extractor.store.space
    assert about["network"].is_file()
    assert about["root"] == store


@pytest.fixture
def images():
    return [encode(picture(seed=n, size=(6, 5))) for n in range(9)]


def send_to(store, bad=()):
    """Others, who run every image but some, and write the vectors."""
    heard = []

    def send(tasks):
        for task in tasks:
            heard.append(task.sha256)
            if task.image_index in bad:
                yield task.image_index, ImageError("damaged or cut off")
            else:
                store.write([task.sha256], one_by_one([task.source]))
                yield task.image_index, None

    return send, heard


def refuse():
    pytest.fail("the engine of this machine was opened")


def test_others_run_what_is_missing_and_the_store_has_it(tmp_path, images):
    store, others = open_store(tmp_path), open_store(tmp_path)
    embed_images(Dataset.from_sources(images[:2]), [FeatureExtractor(store, FakeEngine)])
    send, heard = send_to(others)
    steps = []
    dataset = Dataset.from_sources([*images, images[3]])
    callback = Recorder(on_run=steps.append)
    kept, found = embed_images(dataset, [FeatureExtractor(store, refuse, send)], callback=callback)
    assert (len(kept), found.embedded, found.reused) == (10, 7, 3)
    assert len(heard) == len({*heard}) == 7
    assert np.array_equal(found.values, one_by_one(dataset.sources))
    assert found.values.shape == (10, LENGTH)
    assert (steps[-1].done, steps[-1].total, steps[-1].reused) == (7, 7, 2)


def test_what_others_cannot_use_is_left_out(tmp_path, images):
    send, _ = send_to(open_store(tmp_path), bad={4})
    extractor = FeatureExtractor(open_store(tmp_path), refuse, send)
    kept, found = embed_images(Dataset.from_sources(images), [extractor])
    assert (len(kept), len(found.hashes)) == (8, 8)
    assert "damaged" in kept.skipped[0].reason
    send, _ = send_to(open_store(tmp_path), bad={4})
    with pytest.raises(DatasetError, match="damaged"):
        embed_images(
            Dataset.from_sources(images),
            [FeatureExtractor(open_store(tmp_path), refuse, send)],
            strict=True,
        )


def test_weights_are_hashed_once(tmp_path, monkeypatch, small):
    read = []
    hash_ = files.hash_file
    monkeypatch.setattr(files, "hash_file", lambda path: read.append(path) or hash_(path))
    first, again = (prepare_networks(small, tmp_path) for _ in range(2))
    assert first == again
    assert len([path for path in read if path.suffix == ".pth"]) == 1
