"""Every image once, in batches of 8; a few by 8, 3 and 1."""

import numpy as np
import pytest

from topwork.models.export.batches import run_batches


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 20])
def test_every_image_is_run_once_and_in_order(count):
    pixels = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3)
    sizes = []

    def run(batch):
        assert batch["image"].dtype == np.float32
        sizes.append(len(batch["image"]))
        return batch["image"].sum(axis=(1, 2))

    found = run_batches(run, {"image": pixels}, "float32")
    wanted = pixels.sum(axis=(1, 2))
    assert np.array_equal(found["logits"], wanted)
    for size in (8, 3, 1):
        assert np.array_equal(found[f"batch_{size}"], wanted[np.arange(8) % count])
    assert {8, 3, 1} <= {*sizes}


def test_what_depends_on_the_batch_shows():
    found = run_batches(
        lambda batch: np.full((len(batch["image"]), 1), len(batch["image"])),
        {"image": np.zeros((8, 1, 1, 3), np.uint8)},
        "uint8",
    )
    assert found["batch_1"].max() == 1
    assert found["batch_8"].max() == 8
