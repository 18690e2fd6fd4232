import errno
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import COLOURS, encode, fill, make_photos, picture
from PIL import Image
from recorder import Recorder
from vectors.test_store import SPACE

from topwork.bases.engines import OpenVINOEngine
from topwork.core.config import Interpolation, Precision, default_store
from topwork.core.errors import DatasetError, NetworkError, StoreError
from topwork.core.runtime import cores
from topwork.data.dataset import Dataset
from topwork.images.augment import ORIGINAL
from topwork.images.decode import decode
from topwork.vectors import embed_job, extractors, image_tasks
from topwork.vectors.embed import embed_images
from topwork.vectors.embed_job import Pace
from topwork.vectors.extractors import FeatureExtractor
from topwork.vectors.space import FLIP
from topwork.vectors.store import VectorStore

SIZE, LENGTH = 8, 3
WEIGHTS = np.random.default_rng(0).normal(size=(SIZE * SIZE * 3, LENGTH))


def vector_of(pixels):
    return (pixels.reshape(-1) / 255 @ WEIGHTS).astype(np.float32)


class FakeEngine:
    """Projects pixels, a few at a time as a real engine does; may break before an image."""

    image_size = SIZE
    ahead = 0
    outruns_threads = False

    def __init__(self, *, batch=4, breaks_at=None, error=RuntimeError):
        self.batch, self.breaks_at, self.error = batch, breaks_at, error
        self.ran = 0

    def __call__(self):
        return self

    def run(self, images):
        waiting = []
        for pair in images:
            waiting.append(pair)
            if len(waiting) == self.batch:
                yield from self.finish(waiting)
                waiting = []
        yield from self.finish(waiting)

    def finish(self, waiting):
        for tag, pixels in waiting:
            if self.ran == self.breaks_at:
                raise self.error
            self.ran += 1
            yield tag, vector_of(pixels)


def embed(dataset, store, open_engine, **options):
    """Embeds images with a single network."""
    return embed_images(dataset, [FeatureExtractor(store, open_engine)], **options)


def refuse_engine():
    raise AssertionError("the base is not needed")


def one_by_one(sources):
    """The vectors of files or bytes, without the store, the threads and the batches."""
    contents = (s.read_bytes() if isinstance(s, Path) else s for s in sources)
    return np.stack([vector_of(decode(data, SIZE, Interpolation.SAMPLED)) for data in contents])


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


def open_store(tmp_path):
    return VectorStore(tmp_path / "store", replace(SPACE, image_size=SIZE), LENGTH)


@pytest.fixture
def folder(tmp_path):
    for n, (name, colour) in enumerate(COLOURS.items()):
        fill(tmp_path / "data" / name, 10, colour, start=10 * n)
    return tmp_path / "data"


SMALL_PARTS = Pace(part_vectors=4)


def parts(store):
    return sorted(store.folder.glob("part-*"))


def sha(source):
    return sha256(Path(source).read_bytes() if isinstance(source, Path) else source).hexdigest()


def test_vectors_are_those_made_one_by_one_in_the_order_of_the_images(folder, store):
    dataset = Dataset.from_folder(folder)
    some = np.random.default_rng(0).random(len(dataset)) < 0.4
    embed(dataset.select(some), store, FakeEngine(), pace=SMALL_PARTS)
    order = np.random.default_rng(1).permutation(len(dataset))
    shuffled = Dataset.from_sources([dataset.sources[n] for n in order], dataset.labels[order])
    engine = FakeEngine()
    same, vectors = embed(shuffled, store, engine, pace=SMALL_PARTS)
    assert same.sources is shuffled.sources
    assert same.hashes == vectors.hashes
    assert np.array_equal(vectors.values, one_by_one(shuffled.sources))
    assert vectors.hashes == tuple(map(sha, shuffled.sources))
    assert engine.ran == vectors.embedded == 30 - some.sum()
    assert vectors.reused == some.sum()


def test_the_second_run_needs_no_base(folder, tmp_path):
    _, first = embed(Dataset.from_folder(folder), open_store(tmp_path), FakeEngine())
    recorder = Recorder()
    _, again = embed(
        Dataset.from_folder(folder), open_store(tmp_path), refuse_engine, callback=recorder
    )
    assert np.array_equal(again.values, first.values)
    assert (again.embedded, again.reused) == (0, 30)
    assert not recorder.told["on_run"]


def test_the_path_and_the_time_are_no_part_of_the_key(folder, store, tmp_path):
    embed(Dataset.from_folder(folder), store, FakeEngine())
    folder.rename(tmp_path / "moved")
    for n, path in enumerate(sorted((tmp_path / "moved").rglob("*.png"))):
        os.utime(path, (n, n))
        path.rename(path.with_name(f"other-{n}.jpg"))
    dataset, vectors = embed(Dataset.from_folder(tmp_path / "moved"), store, refuse_engine)
    assert np.array_equal(vectors.values, one_by_one(dataset.sources))


def test_other_bytes_of_the_same_pixels_are_another_image(store):
    image = picture()
    first, other = encode(image), encode(image, compress_level=0)
    embed(Dataset.from_sources([first]), store, FakeEngine())
    _, vectors = embed(Dataset.from_sources([first, other]), store, engine := FakeEngine())
    assert engine.ran == 1
    assert np.array_equal(vectors.values[0], vectors.values[1])


def test_a_changed_file_is_a_new_image(folder, store):
    embed(Dataset.from_folder(folder), store, FakeEngine())
    changed = sorted(folder.rglob("*.png"))[7]
    changed.write_bytes(encode(picture(seed=99)))
    dataset, vectors = embed(Dataset.from_folder(folder), store, engine := FakeEngine())
    assert engine.ran == vectors.embedded == 1
    assert np.array_equal(vectors.values, one_by_one(dataset.sources))


IMAGES = [encode(picture(seed=n, size=(6, 5))) for n in range(6)] + [b"bad", b"worse", b""]


@given(
    st.lists(st.sampled_from(range(len(IMAGES))), min_size=1, max_size=25),
    st.sets(st.sampled_from(range(6))),
    st.integers(1, 5),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equal_images_are_run_once_and_bad_ones_left_out(tmp_path_factory, chosen, there, batch):
    store = open_store(tmp_path_factory.mktemp("run"))
    if there:
        embed(Dataset.from_sources([IMAGES[n] for n in there]), store, FakeEngine())
    dataset = Dataset.from_sources([IMAGES[n] for n in chosen])
    good = [place for place, n in enumerate(chosen) if n < 6]
    steps = []
    engine = FakeEngine(batch=batch)
    if not good:
        with pytest.raises(DatasetError, match="no image can be used"):
            embed(dataset, store, engine)
        return
    kept, vectors = embed(dataset, store, engine, callback=Recorder(on_run=steps.append))
    new = {chosen[place] for place in good} - there
    assert engine.ran == vectors.embedded == len(new)
    assert vectors.reused == len(good) - len(new)
    assert kept.names == tuple(f"image {place}" for place in good)
    assert np.array_equal(vectors.values, one_by_one(kept.sources))
    assert [item.path for item in kept.skipped] == sorted(
        (f"image {place}" for place, n in enumerate(chosen) if n >= 6),
        key=lambda name: (dataset.sources[int(name[6:])] != b"", int(name[6:])),
    )
    check_progress(steps)
    assert {step.reused for step in steps} <= {sum(n in there for n in chosen)}


def check_progress(steps):
    done = [step.done for step in steps]
    assert done == list(range(len(done)))
    assert not steps or done[-1] == steps[-1].total


def test_progress_counts_every_image_good_or_bad(folder, store):
    for n in range(4):
        (folder / "red" / f"zz{n}.png").write_bytes(b"bad %d" % n)
    embed(Dataset.from_sources(sorted(folder.glob("blue/*"))), store, FakeEngine())
    steps, threads = [], set()

    def hear(progress):
        steps.append(progress)
        threads.add(threading.current_thread())

    embed(Dataset.from_folder(folder), store, FakeEngine(batch=1), callback=Recorder(on_run=hear))
    check_progress(steps)
    assert {step.total for step in steps} == {24}
    assert {step.reused for step in steps} == {10}
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, NetworkError])
@pytest.mark.parametrize("breaks_at", [0, 1, 4, 17, 29])
def test_an_interrupted_run_keeps_what_was_finished(folder, tmp_path, error, breaks_at):
    dataset = Dataset.from_folder(folder)
    broken = FakeEngine(breaks_at=breaks_at, error=error)
    with pytest.raises(error):
        embed(dataset, open_store(tmp_path), broken, pace=SMALL_PARTS)
    before = {path: path.read_bytes() for path in parts(open_store(tmp_path))}
    store, engine = open_store(tmp_path), FakeEngine()
    _, vectors = embed(dataset, store, engine, pace=SMALL_PARTS)
    assert (engine.ran, vectors.reused) == (30 - breaks_at, breaks_at)
    assert np.array_equal(vectors.values, one_by_one(dataset.sources))
    images = [image for path in parts(store) for image in pq.read_table(path)["image"].to_pylist()]
    assert sorted(images) == sorted(vectors.hashes)
    assert {path: path.read_bytes() for path in before} == before


def test_a_callback_that_breaks_loses_nothing(folder, store, tmp_path):
    def interrupt(progress):
        if progress.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(Dataset.from_folder(folder), store, FakeEngine(), callback=Recorder(on_run=interrupt))
    _, vectors = embed(Dataset.from_folder(folder), open_store(tmp_path), FakeEngine())
    assert vectors.reused == 7


def test_a_full_disk_stops_the_run_and_keeps_the_parts_before(folder, tmp_path, monkeypatch):
    write, written = pq.write_table, []

    def fill_up(*args, **options):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(args)
        write(*args, **options)

    with monkeypatch.context() as full:
        full.setattr(pq, "write_table", fill_up)
        with pytest.raises(StoreError, match=r"No space left on device.*12 vectors"):
            embed(Dataset.from_folder(folder), open_store(tmp_path), FakeEngine(), pace=SMALL_PARTS)
    _, vectors = embed(
        Dataset.from_folder(folder), open_store(tmp_path), FakeEngine(), pace=SMALL_PARTS
    )
    assert (vectors.embedded, vectors.reused) == (18, 12)


@pytest.mark.parametrize(("size", "age_s", "count"), [(4, 99, 8), (1000, 99, 1), (1000, -1, 30)])
def test_parts_are_written_by_size_and_by_age(folder, store, size, age_s, count):
    pace = Pace(part_vectors=size, part_age_s=age_s)
    embed(Dataset.from_folder(folder), store, FakeEngine(), pace=pace)
    assert len(parts(store)) == count


def odd_images():
    photo = picture(size=(60, 40))
    exif = Image.Exif()
    exif[274] = 6
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    deep = np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16)
    blue = Image.new("RGB", (60, 40), "blue")
    return {
        "png-inside.jpg": encode(photo, compress_level=3),
        "cmyk.jpg": encode(photo.convert("CMYK"), "JPEG"),
        "sixteen-bits.png": encode(Image.fromarray(deep)),
        "palette.png": encode(palette, transparency=0),
        "animated.gif": encode(photo.quantize(), "GIF", save_all=True, append_images=[blue]),
        "turned.jpeg": encode(photo, "JPEG", exif=exif),
        "one-pixel.bmp": encode(Image.new("RGB", (1, 1), "red"), "BMP"),
        "fifty-megapixels.png": encode(Image.new("L", (10_000, 5_000), 90)),
    }


BAD_IMAGES = {
    "zero-bytes.jpg": (b"", "empty"),
    "truncated.jpg": (encode(picture(size=(200, 150)), "JPEG")[:2000], "cut off"),
    "truncated.png": (encode(picture(size=(200, 150)))[:2000], "cut off"),
    "page.jpg": (b"<!DOCTYPE html><html>404</html>", "web page"),
    "text.webp": (b"just text", "not an image"),
    "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
    "bomb.png": (encode(Image.new("1", (20_000, 20_000))), "limit of 179 million pixels"),
}


def test_every_bad_image_is_named_and_the_good_ones_are_embedded(
    folder, tmp_path, store, monkeypatch
):
    red = folder / "red"
    for name, data in odd_images().items():
        (red / name).write_bytes(data)
    for name, (data, _) in BAD_IMAGES.items():
        (red / name).write_bytes(data)
    (red / "lost.png").symlink_to("nowhere")
    (red / "locked.png").write_bytes(encode(picture(seed=70)))
    os.mkfifo(red / "pipe.jpg")
    (red / "device.jpg").symlink_to("/dev/zero")
    for n in (71, 72, 73):
        (red / f"fleeting-{n}.png").write_bytes(encode(picture(seed=n)))
    dataset = Dataset.from_folder(folder)
    (red / "fleeting-71.png").unlink()
    before = snapshot(folder)
    read_bytes = Path.read_bytes

    def refuse(path):
        if path.name == "locked.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read_bytes(path)

    def open_engine():
        # Every image has been hashed by now, and none decoded.
        (red / "fleeting-72.png").unlink()
        (red / "fleeting-73.png").write_bytes(encode(picture(seed=74)))
        return FakeEngine()

    with monkeypatch.context() as locked:
        locked.setattr(Path, "read_bytes", refuse)
        kept, vectors = embed(dataset, store, open_engine)
    reasons = {name: reason for name, (_, reason) in BAD_IMAGES.items()} | {
        "lost.png": "no such file", "locked.png": "permission", "pipe.jpg": "pipe or device",
        "device.jpg": "pipe or device", "fleeting-71.png": "no such file",
        "fleeting-72.png": "no such file", "fleeting-73.png": "changed while it was being read",
    }  # fmt: skip
    named = {item.path: item.reason for item in kept.skipped}
    assert named.keys() == {f"red/{name}" for name in reasons}
    assert len(kept.skipped) == len(reasons)
    for name, reason in reasons.items():
        assert reason in named[f"red/{name}"]
    assert {*kept.names} == {*dataset.names} - named.keys()
    assert len(kept) == 30 + len(odd_images()) == vectors.embedded
    assert np.array_equal(vectors.values, one_by_one(kept.sources))
    after = snapshot(folder)
    for name in ("fleeting-72.png", "fleeting-73.png"):
        assert before.pop(red / name) != after.pop(red / name, None)
    assert after == before


def snapshot(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (sha(path), path.stat().st_mtime_ns) for path in paths}


@pytest.mark.parametrize("bad", ["zero-bytes.jpg", "page.jpg", "truncated.png"])
def test_strict_raises_at_the_first_bad_image(folder, store, bad):
    (folder / "green" / bad).write_bytes(BAD_IMAGES[bad][0])
    (folder / "red" / "text.webp").write_bytes(BAD_IMAGES["text.webp"][0])
    reason = f"green/{bad}: .*{BAD_IMAGES[bad][1]}.*leave out --strict"
    with pytest.raises(DatasetError, match=reason):
        embed(Dataset.from_folder(folder), store, FakeEngine(), strict=True)
    kept, vectors = embed(Dataset.from_folder(folder), store, FakeEngine())
    assert (len(kept), len(kept.skipped)) == (30, 2)
    assert vectors.reused >= (0 if bad == "zero-bytes.jpg" else 10)


@pytest.mark.parametrize("data", [b"", b"hello"])
def test_where_no_image_can_be_used_the_first_is_named(tmp_path, store, data):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").write_bytes(data)
    with pytest.raises(DatasetError, match=r"no image can be used: all 2 failed.*a/1.png"):
        embed(Dataset.from_folder(tmp_path / "data"), store, FakeEngine())
    assert not parts(store)


def test_an_equal_image_stands_in_for_one_that_is_gone(tmp_path, store):
    data = [encode(picture(seed=n)) for n in range(3)]
    for n in range(9):
        (tmp_path / f"{n}.png").write_bytes(data[n % 3])
    dataset = Dataset.from_sources([tmp_path / f"{n}.png" for n in range(9)])

    def open_engine():
        for n in (0, 1, 3, 4, 7):
            (tmp_path / f"{n}.png").unlink()
        return FakeEngine()

    steps = []
    kept, vectors = embed(dataset, store, open_engine, callback=Recorder(on_run=steps.append))
    assert [Path(name).stem for name in kept.names] == ["2", "5", "6", "8"]
    assert np.array_equal(vectors.values, one_by_one(kept.sources))
    assert vectors.embedded == 2
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert done[-1] == steps[-1].total
    assert {Path(item.path).stem for item in kept.skipped} == {"0", "1", "3", "4", "7"}


def test_many_equal_bad_files_are_decoded_once(store, monkeypatch):
    tried = []

    def count(data, *args):
        tried.append(data)
        return decode(data, *args)

    monkeypatch.setattr(image_tasks, "decode", count)
    sources = [b"<html>not found</html>"] * 500 + [encode(picture())]
    kept, _ = embed(Dataset.from_sources(sources), store, FakeEngine())
    assert (len(kept), len(kept.skipped), len(tried)) == (1, 500, 2)


def test_two_runs_at_once_may_share_a_store(folder, tmp_path):
    dataset, barrier = Dataset.from_folder(folder), threading.Barrier(2)

    def run(chosen):
        barrier.wait()
        return embed(dataset.select(chosen), open_store(tmp_path), FakeEngine(), pace=SMALL_PARTS)

    halves = [np.arange(30) < 20, np.arange(30) >= 10]
    with ThreadPoolExecutor(2) as pool:
        for kept, vectors in pool.map(run, halves):
            assert np.array_equal(vectors.values, one_by_one(kept.sources))
    _, vectors = embed(dataset, open_store(tmp_path), refuse_engine, pace=SMALL_PARTS)
    assert np.array_equal(vectors.values, one_by_one(dataset.sources))


class BrokenEngine(FakeEngine):
    """Answers dark images with what is not a number."""

    def finish(self, waiting):
        for tag, vector in super().finish(waiting):
            yield tag, vector / (np.linalg.norm(vector) > 0)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_an_image_whose_vector_is_not_finite_is_left_out(store):
    dark = encode(Image.new("RGB", (9, 9)))
    kept, vectors = embed(Dataset.from_sources([dark, IMAGES[0]]), store, BrokenEngine())
    assert kept.sources == (IMAGES[0],)
    assert "NaN or infinity" in kept.skipped[0].reason
    assert np.isfinite(vectors.values).all()
    with pytest.raises(DatasetError, match="image 0: the base answers it with NaN"):
        embed(Dataset.from_sources([dark]), store, BrokenEngine())


def test_all_damaged_parts_are_computed_again_in_one_run(folder, tmp_path):
    dataset = Dataset.from_folder(folder)
    _, first = embed(dataset, open_store(tmp_path), FakeEngine(), pace=SMALL_PARTS)
    for path in parts(open_store(tmp_path))[:6]:
        data = bytearray(path.read_bytes())
        data[data.index(pq.read_table(path)["vector"][0].values.to_numpy().tobytes())] ^= 1
        path.write_bytes(data)
    lost = sum(pq.read_metadata(p).num_rows for p in parts(open_store(tmp_path))[:6])
    store = open_store(tmp_path)
    _, again = embed(dataset, store, FakeEngine(), pace=SMALL_PARTS)
    assert np.array_equal(again.values, first.values)
    assert (again.embedded, len(store.set_aside)) == (lost, 6)
    embed(dataset, open_store(tmp_path), refuse_engine, pace=SMALL_PARTS)


def test_a_disk_that_damages_what_is_written_is_an_error(folder, store, monkeypatch):
    write = store.write

    def spoil(images, values):
        part = Path(write(images, values))
        part.write_bytes(part.read_bytes()[:-9])

    monkeypatch.setattr(store, "write", spoil)
    with pytest.raises(StoreError, match="damaged as soon as they are written"):
        embed(Dataset.from_folder(folder), store, FakeEngine())


def test_the_number_of_decoded_images_in_memory_is_bounded(store, monkeypatch):
    alive, most, lock = 0, 0, threading.Lock()

    def count(*args):
        nonlocal alive, most
        pixels = decode(*args).copy()
        with lock:
            alive += 1
            most = max(most, alive)
        weakref.finalize(pixels, forget)
        return pixels

    def forget():
        nonlocal alive
        with lock:
            alive -= 1

    monkeypatch.setattr(image_tasks, "decode", count)
    sources = [encode(picture(seed=n, size=(6, 5))) for n in range(600)]
    embed(Dataset.from_sources(sources), store, FakeEngine())
    assert most <= embed_job.AHEAD * cores() + 8
    assert alive <= 1


class DoubledEngine(FakeEngine):
    """Another network: twice the values of the first, and none for some images."""

    def __init__(self, *without, **options):
        super().__init__(**options)
        self.without = [vector_of(decode(data, SIZE, Interpolation.SAMPLED)) for data in without]

    def finish(self, waiting):
        for tag, vector in super().finish(waiting):
            lost = any(np.array_equal(vector, other) for other in self.without)
            yield tag, np.full_like(vector, np.nan) if lost else 2 * vector


def make_pair(root, first, second):
    """Extractors of two networks that differ in the weights alone."""
    spaces = [replace(SPACE, image_size=SIZE, weights_sha256=name) for name in ("one", "two")]
    return [
        FeatureExtractor(VectorStore(root / "store", space, LENGTH), engine)
        for space, engine in zip(spaces, (first, second), strict=True)
    ]


def test_columns_stand_side_by_side_and_images_are_read_for_all_at_once(folder, tmp_path):
    dataset, recorder = Dataset.from_folder(folder), Recorder()
    first, second = FakeEngine(), DoubledEngine()
    kept, vectors = embed_images(
        dataset,
        make_pair(tmp_path, first, second),
        callback=recorder,
    )
    assert kept.sources is dataset.sources
    assert kept.hashes == vectors.hashes
    wanted = one_by_one(dataset.sources)
    assert np.array_equal(vectors.values, np.concatenate([wanted, 2 * wanted], axis=1))
    assert vectors.hashes == tuple(map(sha, dataset.sources))
    assert (vectors.embedded, vectors.reused, first.ran, second.ran) == (60, 0, 30, 30)
    assert recorder.told["on_read"] == [(done, 30) for done in range(1, 31)]
    _, again = embed_images(dataset, make_pair(tmp_path, refuse_engine, refuse_engine))
    assert np.array_equal(again.values, vectors.values)
    assert (again.embedded, again.reused) == (0, 60)


def test_a_column_reuses_what_was_stored_for_it_alone(folder, tmp_path):
    dataset = Dataset.from_folder(folder)
    pair = make_pair(tmp_path, FakeEngine(), refuse_engine)
    embed_images(dataset, pair[:1])
    swapped = make_pair(tmp_path, refuse_engine, DoubledEngine())[::-1]
    _, vectors = embed_images(dataset, swapped)
    assert (vectors.embedded, vectors.reused) == (30, 30)
    wanted = one_by_one(dataset.sources)
    assert np.array_equal(vectors.values, np.concatenate([2 * wanted, wanted], axis=1))


@pytest.mark.parametrize("hashes_known", [False, True])
def test_an_image_that_one_network_cannot_use_leaves_the_others(tmp_path, hashes_known):
    dataset = Dataset.from_sources(IMAGES[:5])
    engines = FakeEngine(), DoubledEngine(IMAGES[1], IMAGES[3])
    hashes = [sha(image) for image in IMAGES[:5]] if hashes_known else None
    kept, vectors = embed_images(dataset, make_pair(tmp_path, *engines), hashes=hashes)
    assert kept.names == ("image 0", "image 2", "image 4")
    assert {item.path for item in kept.skipped} == {"image 1", "image 3"}
    wanted = one_by_one(kept.sources)
    assert np.array_equal(vectors.values, np.concatenate([wanted, 2 * wanted], axis=1))
    assert vectors.hashes == tuple(map(sha, kept.sources))
    assert (vectors.embedded, vectors.reused) == (8, 0)
    with pytest.raises(DatasetError, match="image 1: the base answers it with NaN"):
        embed_images(dataset, make_pair(tmp_path, *engines), strict=True)


def test_no_image_is_hashed_whose_hash_is_known(store):
    """But it has to be what was hashed when it is run."""
    hashes = [sha(image) for image in IMAGES[:3]]
    recorder = Recorder()
    dataset = Dataset.from_sources(IMAGES[:3])
    _, vectors = embed(dataset, store, FakeEngine(), hashes=hashes, callback=recorder)
    assert np.array_equal(vectors.values, one_by_one(IMAGES[:3]))
    assert not recorder.told["on_read"]
    kept, _ = embed(dataset, store, FakeEngine(), hashes=[*hashes[:2], sha(IMAGES[4])])
    assert [item.path for item in kept.skipped] == ["image 2"]
    assert "changed while it was being read" in kept.skipped[0].reason


def test_the_view_of_the_space_is_what_is_decoded(tmp_path):
    """The view of a mirrored mean is the whole image: the engine mirrors it."""
    photo = encode(picture(size=(60, 40)))
    for view, decoded in (("augmented-1-2", "augmented-1-2"), (FLIP, ORIGINAL)):
        space = replace(SPACE, image_size=SIZE, view=view)
        store = VectorStore(tmp_path / "store", space, LENGTH)
        _, vectors = embed(Dataset.from_sources([photo]), store, FakeEngine())
        pixels = decode(photo, SIZE, Interpolation.SAMPLED, decoded)
        assert np.array_equal(vectors.values[0], vector_of(pixels))
    assert len([*(tmp_path / "store" / "vectors").iterdir()]) == 2


def test_vectors_of_the_real_base_are_those_of_single_images(tmp_path, small):
    (network,) = extractors.prepare_networks(small, default_store()).networks
    space = extractors.make_space(network, small)

    def open_engine(**options):
        return OpenVINOEngine(network.openvino_path, 32, Precision.F32, **options)

    dataset = Dataset.from_folder(make_photos(tmp_path / "data", train=5, validation=0, test=2))
    store = VectorStore(tmp_path / "store", space, network.vector_length)
    _, vectors = embed(dataset, store, open_engine)
    alone = open_engine(batch_size=1, streams=1)
    for source, found in zip(dataset.sources, vectors.values, strict=True):
        pixels = decode(source.read_bytes(), 32, Interpolation.SAMPLED)
        wanted = alone.run_all(pixels[None])[0]
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    _, again = embed(dataset, store, refuse_engine)
    assert np.array_equal(again.values, vectors.values)
