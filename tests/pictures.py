"""Generated pictures, and folders full of them."""

import io

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (30, 170, 60), "red": (200, 40, 40)}


def picture(colour=(200, 40, 40), *, size=(40, 30), seed=0):
    """Returns a picture of noise around a colour."""
    noise = np.random.default_rng(seed).normal(0, 25, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def fill(folder, count, colour, start=0):
    """Writes `count` pictures of a colour into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(start, start + count):
        (folder / f"{n:03}.png").write_bytes(encode(picture(colour, seed=n)))


def make_photos(root, *, train=8, validation=4, test=4):
    """Writes a data set of three colours, divided into splits."""
    start = 0
    for split, count in (("train", train), ("validation", validation), ("test", test)):
        for name, colour in COLOURS.items():
            if count:
                fill(root / split / name, count, colour, start)
            start += count
    return root
