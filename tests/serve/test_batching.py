import threading

import numpy as np
import pytest

from topwork.bases.engines.openvino import BATCH_SIZE
from topwork.models.folder import load_model
from topwork.serve.batching import Batcher


@pytest.fixture(scope="module")
def model(saved):
    return load_model(saved)


def make_pixels(count, sizes):
    random = np.random.default_rng(count)
    return [
        {size: random.integers(0, 256, (size, size, 3), np.uint8) for size in sizes}
        for _ in range(count)
    ]


def ignore(count):
    pass


class Held(Batcher):
    """Batcher whose networks wait at a gate, so that images can pile up."""

    def __init__(self, *args, **options):
        self.gate = threading.Event()
        self.gate.set()
        self.sizes_run = []
        super().__init__(*args, self.sizes_run.append, **options)

    def _run(self, requests, images):
        self.gate.wait()
        return super()._run(requests, images)


def test_vectors_are_those_of_the_engine(model):
    batches = Batcher(model, ignore)
    images = make_pixels(23, batches.sizes)
    futures = [batches.submit(pixels) for pixels in images]
    found = np.stack([future.result(60) for future in futures])
    batches.close()
    wanted = model.engines[0].run_all(np.stack([pixels[32] for pixels in images]))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_several_networks_give_one_vector(stacked_saved):
    model = load_model(stacked_saved)
    batches = Batcher(model, ignore)
    assert batches.sizes == (32, 64)
    images = make_pixels(6, batches.sizes)
    found = np.stack([future.result(60) for future in map(batches.submit, images)])
    batches.close()
    parts = [
        engine.run_all(np.stack([pixels[engine.image_size] for pixels in images]))
        for engine in model.engines
    ]
    np.testing.assert_allclose(found, np.concatenate(parts, axis=1), rtol=1e-3, atol=1e-4)


def test_a_lone_image_waits_for_nobody(model):
    batches = Held(model)
    for pixels in make_pixels(3, batches.sizes):
        batches.submit(pixels).result(60)
    batches.close()
    assert batches.sizes_run == [1, 1, 1]


def test_what_piles_up_is_run_in_fours(model):
    batches = Held(model, workers=1)
    batches.gate.clear()
    images = make_pixels(11, batches.sizes)
    futures = [batches.submit(images[0])]
    while len(batches):
        pass
    futures += [batches.submit(pixels) for pixels in images[1:]]
    batches.gate.set()
    for future in futures:
        future.result(60)
    batches.close()
    assert batches.sizes_run == [1, BATCH_SIZE, BATCH_SIZE, 1, 1]


def test_a_second_lone_image_waits_until_the_first_is_done(model):
    batches = Held(model, workers=3)
    batches.gate.clear()
    first, second = map(batches.submit, make_pixels(2, batches.sizes))
    while len(batches) > 1:
        pass
    assert len(batches) == 1
    batches.gate.set()
    first.result(60), second.result(60)
    batches.close()


def test_who_no_longer_waits_is_left_out(model):
    batches = Held(model, workers=1)
    batches.gate.clear()
    first, second, third = map(batches.submit, make_pixels(3, batches.sizes))
    while len(batches) > 2:
        pass
    assert second.cancel()
    batches.gate.set()
    assert first.result(60).shape == third.result(60).shape == (1280,)
    batches.close()
    assert batches.sizes_run == [1, 1]


def test_a_batch_that_somebody_left_is_filled(model):
    batches = Held(model, workers=1)
    batches.gate.clear()
    images = make_pixels(5, batches.sizes)
    futures = [batches.submit(images[0])]
    while len(batches):
        pass
    futures += map(batches.submit, images[1:])
    batches.gate.set()
    # Between being taken and being run there is no time to leave; so this one left before.
    assert futures[2].cancel() or futures[2].done()
    found = [future.result(60) for n, future in enumerate(futures) if n != 2]
    batches.close()
    wanted = model.engines[0].run_all(np.stack([pixels[32] for pixels in images]))
    np.testing.assert_allclose(found, np.delete(wanted, 2, axis=0), rtol=1e-3, atol=1e-4)


def test_an_error_reaches_who_waits_and_the_next_image_is_run(model):
    batches = Batcher(model, ignore)
    with pytest.raises(KeyError):
        batches.submit({}).result(60)
    (pixels,) = make_pixels(1, batches.sizes)
    assert batches.submit(pixels).result(60).shape == (1280,)
    batches.close()


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_what_waits_is_still_run_when_it_ends(model, workers, count):
    batches = Batcher(model, ignore, workers=workers)
    futures = [batches.submit(pixels) for pixels in make_pixels(count, batches.sizes)]
    batches.close()
    assert all(future.done() for future in futures)
