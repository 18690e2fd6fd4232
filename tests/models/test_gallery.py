import io
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import encode, picture
from PIL import Image
from recorder import Recorder

from topwork.core.errors import ModelError, SettingsError
from topwork.models.gallery import GALLERY_FILE, SIDE_PX, choose_evenly, load_gallery, write_gallery

LENGTH = 12


def make_vectors(count, seed=0, length=LENGTH):
    return np.random.default_rng(seed).normal(0, 1, (count, length)).astype(np.float32)


def write(folder, count=20, **options):
    """Writes a gallery of generated pictures and returns its vectors."""
    vectors = options.pop("vectors", make_vectors(count))
    sources = [encode(picture(size=(60, 20), seed=n)) for n in range(count)]
    names = options.pop("names", [f"{n}.png" for n in range(count)])
    labels = options.pop("labels", [f"label {n % 3}" for n in range(count)])
    sources = options.pop("sources", sources)
    found = write_gallery(folder / GALLERY_FILE, names, labels, sources, vectors, **options)
    return vectors, found


def cosines(vector, vectors):
    left, right = vector.astype(np.float64), vectors.astype(np.float64)
    lengths = np.linalg.norm(right, axis=1) * np.linalg.norm(left)
    return right @ left / np.where(lengths > 0, lengths, 1)


def test_the_nearest_are_found_with_their_pictures(tmp_path):
    vectors, skipped = write(tmp_path, 200)
    gallery = load_gallery(tmp_path, LENGTH)
    assert (len(gallery), skipped) == (200, ())
    for seed in range(5):
        vector = make_vectors(1, seed=99 + seed)[0]
        near = gallery.find(vector, 7)
        wanted = cosines(vector, vectors)
        assert [one.similarity for one in near] == pytest.approx(np.sort(wanted)[:-8:-1], abs=1e-3)
        for one in near:
            place = int(one.name.removesuffix(".png"))
            assert one.similarity == pytest.approx(wanted[place], abs=1e-3)
            assert one.label == f"label {place % 3}"
            with Image.open(io.BytesIO(one.thumbnail)) as image:
                assert (image.format, image.size) == ("WEBP", (SIDE_PX, SIDE_PX // 3))


@given(
    count=st.integers(1, 40), wanted=st.integers(1, 50), kinds=st.integers(1, 5),
    seed=st.integers(0, 999), zero=st.booleans(),
)  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equal_ones_come_in_order_and_none_is_missed(tmp_path, count, wanted, kinds, seed, zero):
    rng = np.random.default_rng(seed)
    # Many are equal, and of different length.
    vectors = make_vectors(kinds, seed)[rng.integers(0, kinds, count)]
    vectors = vectors * rng.choice([0.5, 1, 4], (count, 1)).astype(np.float32)
    pixel = encode(Image.new("RGB", (1, 1)))
    write(tmp_path, count, vectors=vectors, sources=[pixel] * count)
    gallery = load_gallery(tmp_path, LENGTH)
    vector = np.zeros(LENGTH, np.float32) if zero else make_vectors(1, seed + 1)[0]
    near = gallery.find(vector, wanted)
    assert len(near) == min(count, wanted)
    stored = cosines(vector, gallery.vectors)
    places = [int(one.name.removesuffix(".png")) for one in near]
    assert len({*places}) == len(places)
    assert [one.similarity for one in near] == pytest.approx(
        np.sort(stored)[::-1][: len(near)], abs=1e-6
    )
    for first, second in pairwise(near):
        if first.similarity == second.similarity:
            assert int(first.name[:-4]) < int(second.name[:-4])


def test_an_image_of_the_gallery_is_its_own_nearest(tmp_path):
    vectors, _ = write(tmp_path)
    first, *_ = load_gallery(tmp_path, LENGTH).find(vectors[7], 3)
    assert first.name == "7.png"
    assert first.similarity == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_length_of_a_vector_does_not_matter(scale, tmp_path):
    vectors = make_vectors(20) * np.float32(scale)
    write(tmp_path, vectors=vectors)
    found = [one.similarity for one in load_gallery(tmp_path, LENGTH).find(vectors[3], 20)]
    assert found == pytest.approx(np.sort(cosines(vectors[3], vectors))[::-1], abs=1e-3)


@pytest.mark.parametrize(
    ("vector", "count", "said"),
    [
        (np.zeros(LENGTH + 1, np.float32), 1, r"must have 12 values, received \(13,\)"),
        (np.zeros((1, LENGTH), np.float32), 1, r"received \(1, 12\)"),
        (np.full(LENGTH, np.nan, np.float32), 3, "must be finite"),
        (np.full(LENGTH, np.inf, np.float32), 99, "must be finite"),
        (np.zeros(LENGTH), 3, "float32"),
        (np.zeros(LENGTH, np.float32), 0, "count: must be at least 1"),
        (np.zeros(LENGTH, np.float32), -1, "count: must be at least 1"),
    ],
)
def test_what_cannot_be_found_is_refused(vector, count, said, tmp_path):
    write(tmp_path)
    with pytest.raises(SettingsError, match=said):
        load_gallery(tmp_path, LENGTH).find(vector, count)


def test_images_that_have_gone_are_named_and_left_out(tmp_path):
    sources = [encode(picture(seed=0)), tmp_path / "gone.png", b"no image"]
    recorder = Recorder()
    _, skipped = write(tmp_path, 3, sources=sources, callback=recorder)
    assert [(item.path, item.reason.split(",")[0]) for item in skipped] == [
        ("1.png", "there is no such file"), ("2.png", "not an image")
    ]  # fmt: skip
    assert recorder.told["on_drawn"] == [(1, 3), (2, 3), (3, 3)]
    assert load_gallery(tmp_path, LENGTH).names == ("0.png",)


def test_a_gallery_may_be_empty(tmp_path):
    write(tmp_path, 1, sources=[b""])
    gallery = load_gallery(tmp_path, LENGTH)
    assert len(gallery) == 0
    assert gallery.find(make_vectors(1)[0], 3) == []


def test_names_may_hold_anything(tmp_path):
    names = ["\udcff.png", "a\n\x1b[31m<b>.png", "猫.png"]
    write(tmp_path, 3, names=names, labels=["\udcfe", "", "[red]"])
    gallery = load_gallery(tmp_path, LENGTH)
    assert gallery.names == ("\\udcff.png", *names[1:])
    assert gallery.labels == ("\\udcfe", "", "[red]")


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=60),
    st.integers(1, 70),
)
def test_labels_keep_their_shares(labels, most):
    rows = choose_evenly(labels, most)
    assert rows == sorted({*rows})
    assert len(rows) == min(len(labels), most)
    for label in {*labels}:
        share = labels.count(label) / len(labels)
        kept = sum(labels[row] == label for row in rows)
        assert abs(kept - share * len(rows)) <= 1


def test_only_so_many_are_kept(tmp_path):
    labels = ["rare"] * 10 + ["often"] * 40
    write(tmp_path, 50, labels=labels, most=10)
    gallery = load_gallery(tmp_path, LENGTH)
    assert sorted(gallery.labels) == ["often"] * 8 + ["rare"] * 2
    vectors = make_vectors(50)
    for name, vector in zip(gallery.names, gallery.vectors, strict=True):
        own = vectors[int(name.removesuffix(".png"))]
        np.testing.assert_allclose(vector, own / np.linalg.norm(own), atol=1e-3)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="as many, received 20, 20, 20 and 19"):
        write(tmp_path, vectors=make_vectors(19))
    with pytest.raises(SettingsError, match="at least 1 image, received 0"):
        write(tmp_path, most=0)
    with pytest.raises(SettingsError, match="must be finite"):
        write(tmp_path, vectors=np.full((20, LENGTH), np.nan, np.float32))
    with pytest.raises(ModelError, match="cannot write"):
        write(tmp_path / "none")
    assert not [*tmp_path.iterdir()]


# Files that are not what they should be.


def test_a_model_without_pictures_has_none(tmp_path):
    assert load_gallery(tmp_path, LENGTH) is None


def test_a_gallery_of_another_network_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(ModelError, match=rf"{GALLERY_FILE} is damaged: vector must be .*\[13\]"):
        load_gallery(tmp_path, LENGTH + 1)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    write(folder)
    return pq.read_table(folder / GALLERY_FILE), (folder / GALLERY_FILE).read_bytes()


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("name", pa.array([1] * 20)),
        ("label", pa.array([None] * 20, pa.string())),
        ("thumbnail", pa.array([b"GIF89a"] * 20)),
        ("thumbnail", pa.array(["text"] * 20)),
        ("vector", pa.array([[0.0] * LENGTH] * 20, pa.list_(pa.float32(), LENGTH))),
        ("vector", pa.array([np.full(LENGTH, np.nan, np.float16)] * 20,
                            pa.list_(pa.field("element", pa.float16()), LENGTH))),
        ("vector", pa.array([[None] * LENGTH] * 20,
                            pa.list_(pa.field("element", pa.float16()), LENGTH))),
        ("vector", None),
    ],
)  # fmt: skip
def test_other_columns_are_refused(name, column, good, tmp_path):
    table = good[0].drop_columns([name])
    if column is not None:
        table = table.append_column(name, column)
    pq.write_table(table, tmp_path / GALLERY_FILE)
    with pytest.raises(ModelError, match=f"{GALLERY_FILE} is damaged: .*topwork train"):
        load_gallery(tmp_path, LENGTH)


@given(
    cut=st.integers(0, 10**6), place=st.integers(0, 10**6), bits=st.integers(0, 255),
)  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_refused_or_harmless(good, tmp_path, cut, place, bits):
    data = bytearray(good[1])
    place %= len(data)
    data[place] ^= bits
    if cut < 10**5:
        data = data[: cut % len(data)]
    (tmp_path / GALLERY_FILE).write_bytes(data)
    try:
        gallery = load_gallery(tmp_path, LENGTH)
    except ModelError as error:
        assert "is damaged" in str(error)
    else:
        assert len(gallery.find(make_vectors(1)[0], 3)) == min(3, len(gallery))


def test_a_single_changed_bit_of_a_picture_is_noticed(good, tmp_path):
    table, data = good
    for picture_ in table["thumbnail"].to_pylist()[::7]:
        changed = bytearray(data)
        changed[data.index(picture_) + len(picture_) // 2] ^= 1
        (tmp_path / GALLERY_FILE).write_bytes(changed)
        with pytest.raises(ModelError, match="is damaged"):
            load_gallery(tmp_path, LENGTH)


def test_a_folder_in_its_place_is_refused(tmp_path):
    (tmp_path / GALLERY_FILE).mkdir()
    with pytest.raises(ModelError, match="is damaged"):
        load_gallery(tmp_path, LENGTH)
