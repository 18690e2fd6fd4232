import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import encode, encode_tiff, picture
from PIL import Image, ImageFilter
from recorder import Recorder

from topwork.core.errors import ImageError
from topwork.images.decode import image_hash
from topwork.inspection import image_stats as module
from topwork.inspection.image_issues import find_image_issues
from topwork.inspection.image_stats import FIGURES, SIDE_PX, ImageStats, edge_sharpness, measure

SHARED = Path(__file__).parents[3] / "shared/data/clothing-dataset-small"


def measure_all(sources, store, **options):
    hashes = [image_hash(s if isinstance(s, bytes) else s.read_bytes()) for s in sources]
    return measure(sources, hashes, store, **options)


def step(deviation, height=1.0):
    """A vertical step of luma, blurred by a Gaussian, from its formula."""
    places = np.arange(SIDE_PX) - SIDE_PX / 2 + 0.3
    row = [height * (1 + math.erf(index / deviation / 2**0.5)) / 2 for index in places]
    return np.tile(np.array(row, np.float32), (SIDE_PX, 1))


def photo(size=(300, 300), *, blur=0, seed=0, light=128, depth=60):
    """Blocks of grey with sharp edges between them."""
    blocks = np.random.default_rng(seed).choice([-1, 0, 1], (9, 9, 1)).repeat(3, axis=2)
    image = Image.fromarray(np.uint8(np.clip(light + depth * blocks, 0, 255)))
    image = image.resize(size, Image.Resampling.NEAREST)
    return image.filter(ImageFilter.GaussianBlur(blur)) if blur else image


def table(count=60, **columns):
    """Measures of ordinary photos, but for some columns."""
    usual = {
        "width": np.full(count, 400),
        "height": np.full(count, 300),
        "brightness": np.full(count, 0.5, np.float32),
        "contrast": np.full(count, 0.2, np.float32),
        "low": np.full(count, 0.2, np.float32),
        "high": np.full(count, 0.8, np.float32),
        "sharpness": np.full(count, 2, np.float32),
        "size_bytes": np.full(count, 50_000),
        "frames": np.ones(count, int),
        "orientation": np.ones(count, int),
        "modes": ("RGB",) * count,
        "formats": ("JPEG",) * count,
        "failed": {},
    }
    for name, (index, value) in columns.items():
        column = list(usual[name])
        column[index] = value
        changed = tuple(column) if isinstance(usual[name], tuple) else np.array(column)
        usual[name] = changed
    return ImageStats(**usual)


def found(measures):
    return [(issue.index, issue.kind) for issue in find_image_issues(measures)]


def test_figures_are_those_of_the_picture(tmp_path):
    grey = np.full((30, 50, 3), 51, np.uint8)
    grey[:, 25:] = 204
    exif = Image.Exif()
    exif[274] = 6
    files = [
        encode(Image.fromarray(grey)),
        encode(Image.fromarray(grey), "JPEG", exif=exif, quality=95),
        encode(Image.fromarray(grey).convert("CMYK"), "TIFF"),
        encode(
            Image.fromarray(grey), "GIF", save_all=True, append_images=[picture(), picture(seed=1)]
        ),
    ]
    found = measure_all(files, tmp_path)
    assert found.width.tolist() == [50, 30, 50, 50]
    assert found.height.tolist() == [30, 50, 30, 30]
    assert found.orientation.tolist() == [1, 6, 1, 1]
    assert found.frames.tolist() == [1, 1, 1, 3]
    assert found.modes == ("RGB", "RGB", "CMYK", "P")
    assert found.formats == ("PNG", "JPEG", "TIFF", "GIF")
    assert found.size_bytes.tolist() == [len(data) for data in files]
    np.testing.assert_allclose(found.brightness[:3], 0.5, atol=0.01)
    np.testing.assert_allclose(found.contrast[:3], 0.3, atol=0.01)
    np.testing.assert_allclose(found.low[:3], 0.2, atol=0.02)
    np.testing.assert_allclose(found.high[:3], 0.8, atol=0.02)
    assert found.failed == {}
    assert len(found) == 4


@pytest.mark.parametrize("deviation", [1, 1.5, 2])
@pytest.mark.parametrize("height", [1, 0.1])
def test_sharpness_of_a_blurred_step_is_its_formula(deviation, height):
    expected = 1 / (2**0.5 * deviation)
    assert edge_sharpness(step(deviation, height)) == pytest.approx(expected, rel=0.06)
    assert edge_sharpness(step(deviation, height).T) == pytest.approx(expected, rel=0.06)


@given(arrays(np.uint8, (16, 16)))
def test_sharpness_is_a_number_for_any_picture(pixels):
    sharpness = edge_sharpness(pixels.astype(np.float32) / 255)
    assert 0 <= sharpness < 1e3


def test_a_plain_picture_has_no_edges(tmp_path):
    found = measure_all([encode(Image.new("RGB", (64, 64), "navy"))], tmp_path)
    assert np.isnan(found.sharpness).all()
    assert found.contrast[0] == 0


def test_sharpness_hardly_depends_on_the_size_of_the_file(tmp_path):
    sizes = [300, 600, 1200, 2400]
    sharp = measure_all([encode(photo((s, s)), "JPEG", quality=95) for s in sizes], tmp_path)
    assert sharp.sharpness.max() / sharp.sharpness.min() < 1.6
    assert sharp.sharpness.min() > 1
    soft = [encode(photo((s, s), blur=s / 60), "JPEG", quality=95) for s in sizes]
    assert measure_all(soft, tmp_path).sharpness.max() < 0.4


def test_figures_are_kept_and_nothing_is_read_again(tmp_path, monkeypatch):
    files = [encode(picture(seed=n)) for n in range(3)]
    recorder = Recorder()
    first = measure_all(files, tmp_path, callback=recorder)
    assert recorder.told["on_measured"] == [(1, 3), (2, 3), (3, 3)]
    monkeypatch.setattr(module, "measure_image", lambda data: pytest.fail("measured again"))
    again = measure_all([*files, files[1]], tmp_path, callback=recorder)
    assert len(recorder.told["on_measured"]) == 3
    np.testing.assert_array_equal(again.brightness, [*first.brightness, first.brightness[1]])
    assert again.modes == ("RGB",) * 4


def test_another_recipe_measures_again(tmp_path, monkeypatch):
    files = [encode(picture())]
    measure_all(files, tmp_path)
    monkeypatch.setattr(module, "MEASURES", "2")
    recorder = Recorder()
    measure_all(files, tmp_path, callback=recorder)
    assert recorder.told["on_measured"] == [(1, 1)]


def test_a_damaged_part_is_measured_again(tmp_path):
    files = [encode(picture())]
    first = measure_all(files, tmp_path / "store")
    (part,) = (tmp_path / "store").rglob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:-40])
    assert measure_all(files, tmp_path / "store").brightness == first.brightness


def test_what_was_measured_before_an_interruption_is_kept(tmp_path):
    files = [encode(picture(seed=n)) for n in range(5)]

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_all(files, tmp_path, callback=Recorder(on_measured=stop))
    recorder = Recorder()
    measure_all(files, tmp_path, callback=recorder)
    assert recorder.told["on_measured"] == [(1, 2), (2, 2)]


def test_bad_images_are_named_and_left_out(tmp_path):
    good, twin, gone, changed = (tmp_path / name for name in "abcd")
    for path in (good, twin, gone):
        path.write_bytes(encode(picture(seed=path.name == "c")))
    changed.write_bytes(encode(picture(seed=9)))
    damaged = encode(picture())[:-200]
    sources = [gone, twin, damaged, changed, good]
    hashes = [image_hash(s if isinstance(s, bytes) else s.read_bytes()) for s in sources]
    gone.unlink()
    changed.write_bytes(encode(picture(seed=10)))
    twin.unlink()
    found = measure(sources, hashes, tmp_path / "store")
    assert sorted(found.failed) == [0, 2, 3]
    assert "no such file" in found.failed[0]
    assert "damaged" in found.failed[2]
    assert "changed" in found.failed[3]
    # An equal file stands in for one that is gone.
    assert found.width.tolist() == [0, 40, 0, 0, 40]
    assert np.isnan(found.brightness[[0, 2, 3]]).all()
    assert find_image_issues(found) == []


def test_no_image_can_be_measured(tmp_path):
    found = measure([b"text", b""], ["0" * 64, "1" * 64], tmp_path)
    assert sorted(found.failed) == [0, 1]
    assert find_image_issues(found) == []
    assert len(measure([], [], tmp_path)) == 0


@given(
    st.binary(max_size=300) | st.binary(max_size=50).map(lambda data: encode(picture())[:-9] + data)
)
def test_any_bytes_are_measured_or_refused(data):
    try:
        figures = module.measure_image(data)
    except ImageError:
        return
    assert np.isfinite(figures).all()
    assert figures.shape == (len(FIGURES),)


def test_odd_pictures_are_found(tmp_path):
    usual = [encode(photo(seed=n)) for n in range(12)]
    frames = [photo(seed=n) for n in (1, 2)]
    exif = Image.Exif()
    exif[274] = 3
    odd = [
        encode(Image.new("RGB", (300, 300), "black")),
        encode(photo(light=10, depth=10)),
        encode(photo(light=245, depth=10)),
        encode(photo(blur=8)),
        encode(photo((40, 40))),
        encode(photo((1500, 300))),
        encode(photo().convert("CMYK"), "JPEG"),
        encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        encode(photo(seed=3), "JPEG", exif=exif, quality=95),
    ]
    found = find_image_issues(measure_all(usual + odd, tmp_path))
    # Moving WebP is said to be RGBA, which is rare here as well.
    found = [issue for issue in found if (issue.index, issue.kind) != (19, "mode")]
    kinds = {issue.index - 12: issue.kind for issue in found}
    assert len(found) == len(kinds)
    assert kinds == {
        0: "uniform", 1: "dark", 2: "bright", 3: "blurred", 4: "small", 5: "long", 6: "mode",
        7: "animated", 8: "turned",
    }  # fmt: skip
    details = {issue.kind: issue.detail for issue in found}
    assert details["small"] == "40 x 40 pixels"
    assert details["long"] == "1500 x 300 pixels, 5.0 to 1"
    assert details["mode"].startswith("CMYK")
    assert details["animated"].startswith("2 frames")
    assert "half round" in details["turned"]


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("contrast", 0.01, "uniform"),
        ("high", 0.1, "dark"),
        ("low", 0.95, "bright"),
        ("sharpness", 0.9, "blurred"),
        ("width", 110, "small"),
        ("width", 2000, "long"),
        ("modes", "LA", "mode"),
        ("orientation", 6, "turned"),
    ],
)
def test_what_most_are_like_is_not_odd(column, value, kind):
    assert found(table(**{column: (7, value)})) == [(7, kind)]
    measures = table()
    same = (value,) * 60 if column == "modes" else np.full(60, value)
    assert found(ImageStats(**{**measures.__dict__, column: same})) == []


@pytest.mark.parametrize(("mode", "said"), [("F", "--range"), ("I;16", "--range"), ("RGB", "")])
def test_pictures_of_one_colour_are_odd_even_if_all_are(mode, said):
    plain = ImageStats(
        **{
            **table().__dict__,
            "contrast": np.full(60, 0.002, np.float32),
            "modes": (mode,) * 60,
        }
    )
    issues = find_image_issues(plain)
    assert [(issue.index, issue.kind) for issue in issues] == [(n, "uniform") for n in range(60)]
    assert all(said in issue.detail for issue in issues)
    # Those of little contrast are what the data is.
    faint = ImageStats(**{**plain.__dict__, "contrast": np.full(60, 0.01, np.float32)})
    assert find_image_issues(faint) == []


def test_a_picture_that_is_transparent_may_be_of_one_colour_by_that():
    (issue, *_) = find_image_issues(table(contrast=(4, 0.0), modes=(4, "RGBA")))
    assert "transparent" in issue.detail


def test_figures_are_those_of_the_range(tmp_path):
    values = np.linspace(250, 320, 900).reshape(30, 30).astype(np.float32)
    files = [encode_tiff(values)]
    lost = measure_all(files, tmp_path)
    found_ = measure_all(files, tmp_path, ranges="float32 250..320")
    assert lost.contrast[0] < 0.01
    assert found_.contrast[0] == pytest.approx(12**-0.5, abs=0.01)
    assert [issue.kind for issue in find_image_issues(lost)] == ["uniform"]


def test_a_huge_picture_is_odd_among_ordinary_ones():
    sizes = {"width": (3, 12_000), "height": (3, 9_000)}
    assert found(table(**sizes)) == [(3, "large")]


def test_the_furthest_beyond_its_bound_comes_first():
    measures = table(width=(5, 60), height=(5, 60), sharpness=(9, 0.9), modes=(2, "CMYK"))
    measures.high[1] = 0.01
    assert found(measures) == [(1, "dark"), (5, "small"), (9, "blurred"), (2, "mode")]


def test_a_single_colour_is_said_once():
    measures = table(contrast=(4, 0.0), high=(4, 0.0), sharpness=(4, np.nan))
    assert found(measures) == [(4, "uniform")]


def test_small_pictures_are_not_blurred_for_being_enlarged():
    # At 128 of 256 pixels edges are twice as wide.
    assert found(table(width=(4, 128), height=(4, 128), sharpness=(4, 0.8))) == []
    assert found(table(sharpness=(4, 0.8))) == [(4, "blurred")]


def test_an_animation_in_a_jpeg_is_none():
    assert found(table(frames=(3, 2))) == []
    assert found(table(frames=(3, 2), formats=(3, "GIF"))) == [(3, "animated")]


@given(
    arrays(np.float32, (5, 6), elements=st.floats(0, 1, width=32) | st.just(np.nan)),
    st.lists(st.integers(0, 20_000), min_size=10, max_size=10),
)
def test_any_figures_can_be_judged(light, sides):
    measures = ImageStats(
        width=np.array(sides[:5]), height=np.array(sides[5:]),
        brightness=light[:, 0], contrast=light[:, 1], low=light[:, 2], high=light[:, 3],
        sharpness=light[:, 4], size_bytes=np.ones(5, int), frames=np.ones(5, int),
        orientation=np.ones(5, int), modes=("RGB",) * 5, formats=("PNG",) * 5, failed={},
    )  # fmt: skip
    for issue in find_image_issues(measures):
        assert measures.width[issue.index] > 0
        assert issue.detail


def test_mpo_files_of_phones_are_still_pictures(tmp_path):
    file = io.BytesIO()
    photo().save(file, "MPO", save_all=True, append_images=[photo(seed=1)])
    found = measure_all([file.getvalue()], tmp_path)
    assert found.formats == ("MPO",)
    assert find_image_issues(found) == []


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_reference_photos_have_two_blurred_ones(tmp_path):
    files = sorted(SHARED.glob("*/*/*.jpg"))
    found = find_image_issues(measure_all(files, tmp_path))
    assert [(files[issue.index].name[:8], issue.kind) for issue in found] == [
        ("ff3f01d5", "blurred"),
        ("5e1c4241", "blurred"),
    ]


def test_heic_is_measured_as_it_is_seen():
    pytest.importorskip("pillow_heif", reason="needs the extra heic").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(picture(size=(64, 48)), "HEIF", exif=exif.tobytes())
    header = module.read_header(data)
    with Image.open(io.BytesIO(data)) as image:
        assert (header.width, header.height) == image.size
    assert header.orientation == 1
    assert np.isfinite(module.measure_image(data)).all()
