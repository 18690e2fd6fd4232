from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, picture
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from recorder import Recorder

from topwork.core.config import Interpolation
from topwork.core.errors import ImageError, SettingsError
from topwork.images.decode import decode, image_hash, read_bytes
from topwork.vectors import candidates, neighbors
from topwork.vectors import duplicates as module
from topwork.vectors.candidates import QUICK, USUAL, WHOLE, Effort
from topwork.vectors.duplicates import Likeness, Pair, find_duplicates, group_duplicates
from topwork.vectors.known_duplicates import find_duplicates_cached

SAME, NEAR, MIRRORED, CHANGED = Likeness


def scene(seed, size=(240, 180)):
    """Returns a picture of soft shapes and some texture, unlike its mirror image."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, tuple(rng.integers(60, 200, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = rng.uniform(-0.1, 0.9, 2) * size
        width, height = rng.uniform(0.1, 0.4, 2) * size
        colour = tuple(rng.integers(0, 256, 3).tolist())
        draw.ellipse((left, top, left + width, top + height), fill=colour)
    image = image.filter(ImageFilter.GaussianBlur(2))
    noise = rng.normal(0, 5, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def product(*, text=None, colour=(180, 40, 40), at=(120, 90), side=8):
    """Returns a product on white: a shirt, with a detail of so many pixels if it has one."""
    image = Image.new("RGB", (256, 192), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((70, 50, 186, 180), fill=colour)
    draw.rectangle((30, 50, 226, 90), fill=colour)
    if text is not None:
        draw.rectangle((*at, at[0] + side - 1, at[1] + side - 1), fill=text)
    return image


def scaled(image, scale):
    return image.resize((round(image.width * scale), round(image.height * scale)))


def jpeg(image, quality=90):
    return encode(image, "JPEG", quality=quality)


def see(sources):
    """Returns vectors that say little: of these pictures nearly all are candidates."""
    small = [decode(read_bytes(s), 8, Interpolation.BILINEAR).ravel() for s in sources]
    return np.array(small, np.float32).reshape(len(sources), 192)


def find(sources, **options):
    hashes = [image_hash(read_bytes(source)) for source in sources]
    return find_duplicates(hashes, see(sources), sources, **options)


def kinds(pairs):
    return [(pair.first, pair.second, pair.likeness) for pair in pairs]


COPIES = {
    "quality 30": lambda image: jpeg(image, 30),
    "quality 95": lambda image: jpeg(image, 95),
    "half the size": lambda image: jpeg(scaled(image, 0.5)),
    "70 % of the size": lambda image: jpeg(scaled(image, 0.7), 75),
    "twice the size": lambda image: jpeg(scaled(image, 2)),
    "PNG": encode,
    "WebP": lambda image: encode(image, "WEBP", quality=80),
    "BMP, half the size": lambda image: encode(scaled(image, 0.5), "BMP"),
}


class TestCopies:
    @pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
    def test_a_picture_saved_again_is_found(self, copy):
        sources = [jpeg(scene(1)), encode(scene(2)), copy(scene(1))]
        (pair,) = find(sources)
        assert (pair.first, pair.second, pair.likeness) == (0, 2, NEAR)
        assert 0.98 <= pair.similarity <= 1

    @pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
    def test_a_mirrored_picture_is_found(self, copy):
        sources = [jpeg(scene(1)), copy(ImageOps.mirror(scene(1))), encode(scene(2))]
        assert kinds(find(sources)) == [(0, 1, MIRRORED)]

    def test_a_picture_that_is_its_mirror_image_is_near(self):
        half = scene(3)
        image = Image.fromarray(np.maximum(np.asarray(half), np.asarray(ImageOps.mirror(half))))
        assert kinds(find([encode(image), jpeg(image)])) == [(0, 1, NEAR)]

    def test_a_large_picture_and_a_small_one(self):
        large = scene(4, size=(1600, 1200))
        assert kinds(find([jpeg(large), jpeg(scaled(large, 0.1))])) == [(0, 1, NEAR)]

    @pytest.mark.parametrize("scale", [0.5, 0.7])
    @pytest.mark.parametrize("period", [7, 8])
    def test_a_picture_of_narrow_stripes_at_another_size(self, period, scale):
        down, across = np.mgrid[0:534, 0:400]
        stripes = np.sin(2 * np.pi * across / period + down / 90) > 0
        grey = np.where(stripes & (across + down > 300), 247, 7).astype(np.uint8)
        image = Image.fromarray(grey).convert("RGB").filter(ImageFilter.GaussianBlur(0.7))
        assert kinds(find([jpeg(image), jpeg(scaled(image, scale))])) == [(0, 1, NEAR)]

    def test_a_picture_that_lies_on_its_side(self):
        exif = Image.Exif()
        exif[274] = 6
        turned = encode(scene(5).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
        assert kinds(find([jpeg(scene(5)), turned])) == [(0, 1, NEAR)]

    @pytest.mark.parametrize(
        "change",
        [
            ImageOps.flip,
            lambda image: Image.merge("RGB", image.split()[::-1]),
        ],
        ids=["upside down", "other colours"],
    )
    def test_other_changes_are_other_pictures(self, change):
        assert find([jpeg(scene(6)), jpeg(change(scene(6)))]) == []


def cut(image, share, seed=0):
    """Takes a part of a picture whose sides are shorter by a share."""
    rng = np.random.default_rng(seed)
    size = np.array(image.size)
    left, top = (rng.uniform(0, 1, 2) * size * share).astype(int).tolist()
    width, height = (size * (1 - share)).astype(int).tolist()
    return image.crop((left, top, left + width, top + height))


def turned(image, degrees):
    return image.rotate(degrees, Image.Resampling.BICUBIC, expand=degrees % 90 == 0)


CHANGES = {
    **{f"cut by {p} %": lambda image, p=p: cut(image, p / 100, seed=p) for p in (2, 5, 10, 20)},
    **{f"turned by {d}": lambda image, d=d: turned(image, d) for d in (1, 5, 15, 45, 90, 180, 270)},
    "grey": lambda image: image.convert("L").convert("RGB"),
    "darker": lambda image: image.point(lambda value: value * 0.8),
    "brighter": lambda image: image.point(lambda value: value * 1.2),
    "cut and grey": lambda image: cut(image, 0.1).convert("L").convert("RGB"),
    "cut and turned": lambda image: turned(cut(image, 0.1), 180),
}


class TestChangedCopies:
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_a_picture_that_was_changed_is_found(self, change):
        pictures = [scene(seed, (300, 225)) for seed in (20, 21, 22)]
        sources = [jpeg(one) for one in (*pictures, *map(change, pictures))]
        found = {(pair.first, pair.second) for pair in find(sources)}
        assert found == {(0, 3), (1, 4), (2, 5)}

    def test_how_it_is_alike_is_said(self):
        pairs = find([jpeg(scene(6)), jpeg(cut(scene(6), 0.1))])
        assert kinds(pairs) == [(0, 1, CHANGED)]
        assert 0.97 <= pairs[0].similarity <= 1

    def test_of_too_many_images_none_is_registered(self):
        sources = [jpeg(scene(6)), jpeg(cut(scene(6), 0.1))]
        assert find(sources, effort=Effort(most_registered=1)) == []

    def test_with_less_effort_only_likely_pairs_are_laid_over_each_other(self):
        pictures = [scene(20), scene(21), cut(scene(20), 0.02), turned(scene(21), 180)]
        vectors = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0.3], [0, 1, 1.4]], np.float32)
        sources = [jpeg(one) for one in pictures]
        hashes = [image_hash(source) for source in sources]
        assert kinds(find_duplicates(hashes, vectors, sources)) == [
            (0, 2, CHANGED), (1, 3, CHANGED),
        ]  # fmt: skip
        assert kinds(find_duplicates(hashes, vectors, sources, effort=QUICK)) == [(0, 2, CHANGED)]

    def test_pairs_that_are_laid_over_each_other_are_the_most_alike(self):
        vectors = np.random.default_rng(0).normal(1, 1, (300, 8)).astype(np.float32)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        every, few = (candidates.pair_nearest(vectors, effort) for effort in (WHOLE, USUAL))
        assert 100 <= len(few) <= 150 < len(every)
        cosines = (unit[every[:, 0]] * unit[every[:, 1]]).sum(axis=1)
        best = every[np.argsort(-cosines)[: len(few)]]
        assert {*map(tuple, few.tolist())} == {*map(tuple, best.tolist())}

    @pytest.mark.parametrize("change", [CHANGES["cut by 5 %"], CHANGES["turned by 5"]])
    def test_a_product_with_another_detail_is_another_picture(self, change):
        printed = product(text=(250, 250, 250), side=16)
        assert find([jpeg(product()), jpeg(change(printed))]) == []

    def test_a_product_of_another_colour_is_another_picture(self):
        first, second = product(colour=(120, 70, 60)), product(colour=(60, 90, 70))
        assert find([jpeg(first), jpeg(cut(second, 0.05))]) == []


class TestLookalikes:
    @pytest.mark.parametrize("at", [(120, 90), (122, 91), (123, 93)])
    def test_products_that_differ_in_a_small_detail(self, at):
        plain, printed = product(), product(text=(250, 250, 250), at=at)
        assert find([jpeg(plain), jpeg(printed)]) == []
        assert kinds(find([jpeg(printed), jpeg(printed, 60), jpeg(plain)])) == [(0, 1, NEAR)]

    def test_products_that_differ_in_a_faint_and_larger_detail(self):
        printed = product(text=(200, 80, 80), side=40)
        assert find([jpeg(product()), jpeg(printed)]) == []

    def test_products_whose_detail_has_another_colour(self):
        # These are as bright, and their grey pictures equal.
        red = product(text=(200, 50, 50), side=16)
        blue = product(text=(60, 81, 255), side=16)
        assert find([jpeg(red), jpeg(blue)]) == []

    def test_products_of_another_colour(self):
        # Grey pictures of two colours correlate fully, however dark either is.
        first, second = product(colour=(120, 70, 60)), product(colour=(60, 50, 150))
        assert find([jpeg(first), jpeg(second)]) == []

    def test_mirrored_products_that_differ_in_a_small_detail(self):
        printed = product(text=(250, 250, 250))
        assert find([jpeg(product()), jpeg(ImageOps.mirror(printed))]) == []

    def test_scenes_are_not_alike(self):
        assert find([jpeg(scene(seed)) for seed in range(12)]) == []


class TestUniformPictures:
    def test_pictures_of_one_colour_are_no_copies(self):
        sources = [
            encode(Image.new("RGB", (50, 50), colour))
            for colour in ("white", "#fefefe", "black", "white")
        ]
        sources[3] = jpeg(Image.new("RGB", (40, 40), "white"))
        assert find(sources) == []

    def test_noise_on_one_colour_is_no_copy(self):
        sources = [jpeg(picture(size=(200, 200), seed=seed)) for seed in range(3)]
        assert find(sources) == []

    def test_blank_sheets_with_the_same_shadow_are_no_copies(self):
        shadow = np.linspace(250, 255, 100).astype(np.uint8)[None, :].repeat(80, axis=0)
        sheet = Image.fromarray(shadow).convert("RGB")
        assert find([encode(sheet), encode(scaled(sheet, 2))]) == []

    def test_the_same_bytes_are(self):
        blank = encode(Image.new("RGB", (50, 50), "white"))
        assert find([blank, blank]) == [Pair(0, 1, SAME, 1.0)]

    def test_a_picture_on_it_is_another(self):
        sources = [encode(Image.new("RGB", (256, 192), "white")), encode(product())]
        assert find(sources) == []


class TestEqualImages:
    def test_each_is_paired_with_the_next(self):
        a, b = encode(scene(1)), encode(scene(2))
        assert kinds(find([a, b, a, a, b])) == [(0, 2, SAME), (1, 4, SAME), (2, 3, SAME)]

    def test_a_near_copy_is_paired_once_with_all_of_them(self):
        a, near = encode(scene(1)), jpeg(scene(1))
        assert kinds(find([near, a, a, near, a])) == [
            (0, 1, NEAR),
            (0, 3, SAME),
            (1, 2, SAME),
            (2, 4, SAME),
        ]

    def test_places_are_those_of_all_images(self):
        a, b = encode(scene(1)), encode(scene(2))
        assert kinds(find([a, a, b, jpeg(scene(2))])) == [(0, 1, SAME), (2, 3, NEAR)]

    def test_nothing_is_decoded_where_all_are_equal(self):
        assert kinds(find_duplicates(["a", "a"], np.ones((2, 3), np.float32), [b"", b""])) == [
            (0, 1, SAME)
        ]


def test_many_copies_are_connected_by_as_few_pairs():
    qualities = range(40, 60)
    sources = [jpeg(scene(1), quality) for quality in qualities]
    sources += [jpeg(ImageOps.mirror(scene(1)), quality) for quality in qualities]
    sources += [jpeg(scene(2)), jpeg(scene(2), 50)]
    pairs = find(sources, fine_batch=3)
    assert len(pairs) == len(sources) - 2
    assert group_duplicates(pairs, len(sources)).tolist() == [0] * 40 + [1, 1]
    assert {pair.likeness for pair in pairs} == {NEAR, MIRRORED}


def test_groups_that_meet_later_are_one(monkeypatch):
    # In this order two groups form and meet; the last pair connects nothing new.
    order = np.array([[0, 3], [0, 4], [1, 2], [1, 3], [3, 4]])
    monkeypatch.setattr(module, "similar_blocks", lambda vectors, threshold: [order])
    pairs = find([jpeg(scene(1), quality) for quality in range(60, 65)])
    assert [[pair.first, pair.second] for pair in pairs] == order[:4].tolist()


def test_only_what_the_vectors_find_alike_is_compared():
    sources = [jpeg(scene(1)), jpeg(scene(1), 50)]
    hashes = [image_hash(source) for source in sources]
    recorder = Recorder()
    vectors = np.array([[1, 0], [0.3, 0.9]], np.float32)
    found = find_duplicates(hashes, vectors, sources, callback=recorder)
    assert found == []
    assert recorder.told["on_compared"] == [(2, 2)]


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_has_no_copy(count):
    assert find([jpeg(scene(1))][:count]) == []


def test_counts_have_to_agree():
    with pytest.raises(SettingsError, match="received 2, 3 and 2"):
        find_duplicates(["a", "b"], np.zeros((3, 4), np.float32), [b"", b""])


def test_progress_is_told_picture_by_picture():
    recorder = Recorder()
    find([jpeg(scene(seed)) for seed in (1, 2, 3)], callback=recorder)
    assert recorder.told["on_compared"] == [(1, 3), (2, 3), (3, 3), (3, 3)]


class Broken:
    def read(self):
        raise ImageError("the archive is gone")


class TestBadImages:
    def find(self, bad, hashed=None):
        """Finds copies among three files, one of which is bad by now."""
        small = scaled(scene(1), 0.5)
        good = [jpeg(small), jpeg(small, 50)]
        sources = [good[0], bad, good[1]]
        hashes = [image_hash(good[0]), hashed or image_hash(bad), image_hash(good[1])]
        recorder = Recorder()
        vectors = np.ones((3, 2), np.float32)
        pairs = find_duplicates(hashes, vectors, sources, callback=recorder)
        return kinds(pairs), recorder.told["on_skipped"]

    def test_that_cannot_be_decoded(self):
        pairs, skipped = self.find(jpeg(scene(2))[:-400])
        assert pairs == [(0, 2, NEAR)]
        assert [place for place, _ in skipped] == [1]
        assert "damaged or cut off" in skipped[0][1]

    def test_that_is_gone(self, tmp_path):
        pairs, skipped = self.find(tmp_path / "gone.jpg", "hash")
        assert (pairs, skipped) == ([(0, 2, NEAR)], [(1, "there is no such file")])

    def test_of_an_archive_that_is_gone(self):
        assert self.find(Broken(), "hash")[1] == [(1, "the archive is gone")]

    def test_that_has_changed(self):
        pairs, skipped = self.find(jpeg(scene(1)), "of what was there before")
        assert pairs == [(0, 2, NEAR)]
        assert skipped == [(1, "the file has changed since its vector was made")]

    @settings(max_examples=25)
    @given(st.binary(max_size=300))
    def test_any_bytes(self, data):
        assert self.find(data)[0] == [(0, 2, NEAR)]


class TestThreshold:
    def test_leaves_about_so_many_candidates_per_image(self):
        rng = np.random.default_rng(0)
        vectors = rng.normal(1, 1, (1500, 12)).astype(np.float32)
        whole = neighbors.unit(vectors)
        reached = np.triu(whole @ whole.T, 1) >= candidates.choose_threshold(vectors)
        assert reached.sum() == pytest.approx(candidates.CANDIDATES * 1500, rel=0.1)

    def test_stays_where_copies_may_be(self):
        rng = np.random.default_rng(0)
        unlike = rng.normal(0, 1, (500, 64)).astype(np.float32)
        alike = 1 + 0.01 * np.abs(unlike)
        assert candidates.choose_threshold(unlike) == pytest.approx(candidates.LEAST_COSINE)
        assert candidates.choose_threshold(alike) == pytest.approx(candidates.MOST_COSINE)


class TestGroups:
    def test_are_numbered_by_their_first_image(self):
        pairs = [Pair(1, 4, SAME, 1.0), Pair(0, 3, NEAR, 0.99), Pair(3, 5, MIRRORED, 0.99)]
        assert group_duplicates(pairs, 6).tolist() == [0, 1, 2, 0, 1, 0]

    @pytest.mark.parametrize("count", [0, 3])
    def test_without_pairs_each_is_its_own(self, count):
        assert group_duplicates([], count).tolist() == list(range(count))

    @given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11))))
    def test_are_what_pairs_connect(self, ends):
        pairs = [Pair(min(e), max(e), NEAR, 1.0) for e in ends if e[0] != e[1]]
        groups = list(range(12))
        for pair in pairs:
            old, new = groups[pair.second], groups[pair.first]
            groups = [new if group == old else group for group in groups]
        numbers = {group: n for n, group in enumerate(dict.fromkeys(groups))}
        assert group_duplicates(pairs, 12).tolist() == [numbers[group] for group in groups]


@pytest.mark.slow
def test_real_photos(reference_photos):
    """One photograph is there twice, under two labels, and one besides as a part of itself."""
    paths = sorted(reference_photos.glob("*/*/*.jpg"))
    with Image.open(paths[100]) as image:
        copies = [jpeg(scaled(image, 0.5), 60), jpeg(ImageOps.mirror(image), 40)]
    for place in (700, 1300, 2100, 2900):
        with Image.open(paths[place]) as image:
            copies.append(jpeg(image, 30 + place // 100))
    pairs = find([*paths, *copies])
    by_likeness = [pair.likeness for pair in pairs if pair.second >= len(paths)]
    assert sorted(by_likeness) == [MIRRORED] + 5 * [NEAR]
    own = [pair for pair in pairs if pair.second < len(paths)]
    names = [
        Path(*paths[p].parts[-3:-1]).as_posix() for pair in own for p in (pair.first, pair.second)
    ]
    assert [pair.likeness for pair in own] == [CHANGED, NEAR]
    assert names == ["test/dress", "train/dress", "train/shorts", "train/skirt"]


class Counted:
    """An image that says how often it was read."""

    def __init__(self, data):
        self.data, self.times = data, 0

    def read(self):
        self.times += 1
        return self.data


class Lost:
    def read(self):
        raise ImageError("there is no such file")


class TestCachedResult:
    @pytest.fixture
    def pictures(self):
        one, other = scene(1), scene(2)
        return [encode(one), jpeg(one), encode(other), encode(one)]

    @pytest.fixture
    def known(self, pictures):
        """Hashes and vectors, for sources that need not be those."""
        return [image_hash(data) for data in pictures], see(pictures)

    def test_the_second_call_reads_nothing(self, pictures, known, tmp_path):
        sources = [Counted(data) for data in pictures]
        first = find_duplicates_cached(*known, sources, tmp_path)
        assert first == find_duplicates(*known, pictures)
        assert kinds(first) == [(0, 1, NEAR), (0, 3, SAME)]
        assert sum(source.times for source in sources) > 0
        assert find_duplicates_cached(*known, [Lost()] * 4, tmp_path) == first

    def test_other_images_vectors_or_thresholds_are_found_anew(self, pictures, known, tmp_path):
        hashes, vectors = known
        find_duplicates_cached(hashes, vectors, pictures, tmp_path)

        def is_found_anew(order, vectors, **options):
            sources = [Counted(pictures[n]) for n in order]
            found = find_duplicates_cached(
                [hashes[n] for n in order], vectors, sources, tmp_path, **options
            )
            assert found == find_duplicates(
                [hashes[n] for n in order], vectors, [pictures[n] for n in order], **options
            )
            return any(source.times for source in sources)

        everything = [0, 1, 2, 3]
        assert not is_found_anew(everything, vectors)
        assert is_found_anew([1, 0, 2, 3], vectors[[1, 0, 2, 3]])
        assert is_found_anew(everything, vectors, effort=Effort(0.5))
        assert is_found_anew(everything, vectors + np.float32(1))
        assert is_found_anew([0, 1, 2], vectors[:3])
        # As a base may see two pictures alike.
        assert is_found_anew([0, 2, 1, 3], vectors)
        assert len(list((tmp_path / "copies").iterdir())) == 6

    @pytest.mark.parametrize(
        "content",
        [
            b"", b"[[0, 1", b"\xff\xfe", b"null", b"{}x", b'{"a": 1}', b"[[0, 1]]",
            b'[[0, 1, "alike", 1.0]]', b'[[0, 1, "same", null]]', b'[[0, 9, "same", 1.0]]',
            b'[[1, 0, "same", 1.0]]', b'[[-1, 0, "same", 1.0]]', b"3",
        ],
    )  # fmt: skip
    def test_a_damaged_file_is_replaced(self, content, pictures, known, tmp_path):
        first = find_duplicates_cached(*known, pictures, tmp_path)
        (path,) = (tmp_path / "copies").iterdir()
        path.write_bytes(content)
        assert find_duplicates_cached(*known, pictures, tmp_path) == first
        assert find_duplicates_cached(*known, [Lost()] * 4, tmp_path) == first

    def test_a_store_that_cannot_be_written_is_no_error(self, pictures, known, tmp_path):
        store = tmp_path / "file"
        store.write_bytes(b"")
        first = find_duplicates_cached(*known, pictures, store)
        assert first == find_duplicates(*known, pictures)
        assert store.read_bytes() == b""

    def test_what_images_that_are_gone_have_left_out_is_not_remembered(
        self, pictures, known, tmp_path
    ):
        partly = find_duplicates_cached(*known, [pictures[0], Lost(), *pictures[2:]], tmp_path)
        assert kinds(partly) == [(0, 3, SAME)]
        assert kinds(find_duplicates_cached(*known, pictures, tmp_path)) == [
            (0, 1, NEAR),
            (0, 3, SAME),
        ]

    def test_no_pairs_are_remembered_too(self, pictures, known, tmp_path):
        hashes, vectors = known
        assert find_duplicates_cached(hashes[1:3], vectors[1:3], pictures[1:3], tmp_path) == []
        assert find_duplicates_cached(hashes[1:3], vectors[1:3], [Lost()] * 2, tmp_path) == []

    def test_progress_is_told(self, pictures, known, tmp_path):
        recorder = Recorder()
        find_duplicates_cached(*known, pictures, tmp_path, callback=recorder)
        assert recorder.told["on_compared"][-1] == (3, 3)
