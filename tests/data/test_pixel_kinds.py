import numpy as np
import pytest
from pictures import encode, encode_png, encode_tiff, picture
from PIL import Image
from recorder import Recorder

from topwork.core.config import Interpolation, Settings
from topwork.core.ranges import leave_out_usual
from topwork.data.dataset import Dataset
from topwork.data.hashing import hash_images
from topwork.data.pixel_kinds import look_at_pixels, settle_pixels
from topwork.images.decode import decode

SIDE = 32


def shares(count, seed=0):
    """Pictures (SIDE, SIDE) in 0..1 that reach nearly everywhere."""
    generator = np.random.default_rng(seed)
    return [generator.uniform(0.0, 1.0, (SIDE, SIDE)) for _ in range(count)]


def rows(values):
    return [row.astype(">u2").tobytes() for row in values]


def floats(low, high):
    return lambda share: encode_tiff((low + share * (high - low)).astype(np.float32))


def wide(top, low=0):
    return lambda share: encode_tiff(np.rint(low + share * (top - low)).astype(np.uint16))


def wide_png(top, channels):
    def write(share):
        gray = np.rint(share * top).astype(np.uint16)
        values = np.stack([gray] * channels, axis=2)
        if channels in (2, 4):
            values[..., -1] = 65535
        return encode_png(rows(values), SIDE, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels])

    return write


KINDS = {
    "a little above 1": (floats(0, 1.003), "float32 0..1"),
    "kelvin": (floats(250, 320), "float32 250..320"),
    "below zero": (floats(-300, 600), "float32 -300..600"),
    "around zero": (floats(-1, 1), "float32 -1..1"),
    "metres": (floats(0, 10), "float32 0..10"),
    "dim": (floats(0, 0.02), "float32 0..0.02"),
    "8 bits, floating": (floats(0, 255.4), "float32 0..255"),
    "10 in 16": (wide(1023), "uint16 0..1023"),
    "12 in 16": (wide(4095), "uint16 0..4095"),
    "14 in 16": (wide(16383), "uint16 0..16383"),
    "8 in 16": (wide(255), "uint16 0..255"),
    "hundredths of kelvin": (wide(31_000, 27_000), "uint16 27000..31000"),
    "12 in 16, grey PNG": (wide_png(4095, 1), "uint16 0..4095"),
    "12 in 16, LA": (wide_png(4095, 2), "uint16 0..4095"),
    "12 in 16, RGB": (wide_png(4095, 3), "uint16 0..4095"),
    "12 in 16, RGBA": (wide_png(4095, 4), "uint16 0..4095"),
    "signed": (
        lambda share: encode_tiff(np.rint(share * 3000 - 1000).astype(np.int16)),
        "int16 -1000..2000",
    ),
    "32 bits": (
        lambda share: encode_tiff(np.rint(share * 4095).astype(np.int32)), "int32 0..4095",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_one_range_is_found_for_all_images_and_their_contrast_is_kept(name):
    write, wanted = KINDS[name]
    pictures = shares(12)
    dataset = Dataset.from_sources([write(share) for share in pictures])
    dataset, settings = settle_pixels(dataset, Settings.create())
    assert settings.range == wanted
    said = dataset.notes[0].text
    kind, ends = wanted.split(" ")
    assert said.startswith(f"{kind} pixels are read as {ends}, black to white, by the values of 12")
    assert said.endswith("--range LOW..HIGH changes it")
    for source, share in zip(dataset.sources, pictures, strict=True):
        pixels = decode(source, SIDE, Interpolation.NEAREST, ranges=settings.range)
        assert np.abs(pixels[..., 0] - share * 255).max() <= 0.04 * 255


def test_a_dark_picture_stays_dark_among_others():
    write = KINDS["12 in 16"][0]
    pictures = [*shares(4), shares(1, seed=5)[0] * 0.1]
    sources = [write(share) for share in pictures]
    ranges = look_at_pixels(hash_images(Dataset.from_sources(sources), False), "").ranges
    dark = decode(sources[-1], SIDE, Interpolation.NEAREST, ranges=ranges)
    assert abs(dark.mean() - pictures[-1].mean() * 255) < 1


def test_what_all_16_bits_say_is_recorded_and_no_part_of_a_key():
    dataset = Dataset.from_sources([wide(65535)(share) for share in shares(3)])
    dataset, settings = settle_pixels(dataset, Settings.create())
    assert settings.range == "uint16 0..65535"
    assert leave_out_usual(settings.range) == ""
    assert dataset.notes[0].text.startswith("uint16 pixels are read as 0..65535")


def test_ordinary_images_have_nothing_to_say():
    recorder = Recorder()
    sources = [encode(picture(seed=n), kind) for n, kind in enumerate(("PNG", "JPEG", "WEBP"))]
    dataset, settings = settle_pixels(Dataset.from_sources(sources), Settings.create(), recorder)
    assert (settings.range, dataset.notes) == (None, ())
    assert dataset.traits.tolist() == [0, 0, 0]
    assert recorder.told["on_notes"] == []


def test_kinds_that_are_mixed_have_ranges_of_their_own():
    sources = [wide(4095)(share) for share in shares(3)] + [
        floats(250, 320)(share) for share in shares(3)
    ]
    sources += [encode(picture())]
    dataset, settings = settle_pixels(Dataset.from_sources(sources), Settings.create())
    assert settings.range == "float32 250..320, uint16 0..4095"
    assert len(dataset.notes) == 2


def test_what_the_user_says_is_kept():
    sources = [wide(4095)(share) for share in shares(2)]
    settings = Settings.create(range="0..1000")
    dataset, settled = settle_pixels(Dataset.from_sources(sources), settings)
    assert settled.range == "0..1000"
    assert dataset.notes == ()
    dataset, settled = settle_pixels(Dataset.from_sources([encode(picture())]), settings)
    assert settled.range == "0..1000"
    assert tuple(note.text for note in dataset.notes) == (
        "--range is for images of more than 8 bits a channel: there are none here",
    )


def test_the_images_for_tests_do_not_decide(tmp_path):
    write = KINDS["12 in 16"][0]
    for split, factor in (("train", 1), ("test", 15)):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for n, share in enumerate(shares(2, seed=len(name))):
                (folder / f"{n}.tif").write_bytes(write(share * factor))
    dataset = hash_images(Dataset.from_folder(tmp_path), strict=False)
    assert look_at_pixels(dataset, "").ranges == "uint16 0..4095"
    only = dataset.select(dataset.splits == "test")
    assert look_at_pixels(only, "").ranges == "uint16 0..65535"


def test_the_order_of_images_does_not_matter():
    sources = [wide(4095)(share) for share in shares(6)]
    found = [
        look_at_pixels(hash_images(Dataset.from_sources(some), False), "").ranges
        for some in (sources, sources[::-1])
    ]
    assert found[0] == found[1]


def test_an_image_that_cannot_be_read_does_not_decide():
    write = KINDS["kelvin"][0]
    sources = [write(share) for share in shares(3)]
    bad = write(np.full((SIDE, SIDE), np.nan))
    _, settings = settle_pixels(Dataset.from_sources([*sources, sources[0][:900], bad]), Settings())
    assert settings.range == "float32 250..320"


def test_transparent_images_that_show_nothing_are_named():
    empty = Image.new("RGBA", (20, 20), (10, 20, 30, 0))
    light = empty.copy()
    light.paste((255, 255, 255, 255), (5, 5, 15, 15))
    dark = empty.copy()
    dark.paste((5, 5, 5, 255), (5, 5, 15, 15))
    recorder = Recorder()
    sources = [encode(image) for image in (empty, light, dark, picture())]
    dataset, _ = settle_pixels(Dataset.from_sources(sources), Settings.create(), recorder)
    assert tuple(note.text for note in dataset.notes) == (
        "1 of 3 transparent images show nothing on white or black, and come out as one color: "
        "image 0",
        "1 of 3 transparent images are too light for white paper and are laid on black: image 1",
    )
    assert recorder.told["on_notes"] == [(dataset.notes,)]
