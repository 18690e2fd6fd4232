"""Heads trained on stored vectors are those trained on the same vectors in memory."""

from dataclasses import replace

import numpy as np
import pytest

from topwork.core.config import HeadKind, Settings
from topwork.core.task import Task
from topwork.heads.examples import LabeledVectors, RowSplit
from topwork.heads.train import check_vectors, train_heads
from topwork.vectors.on_disk import VectorsOnDisk, write_rows

OUTPUTS = {Task.CLASSES: 6, Task.BINARY: 1, Task.LABELS: 4, Task.NUMBER: 2}
TRAIN, HELD_OUT, LENGTH = 300, 90, 24


def make(task, *, seed=0, views=1, weights=False, noise=1.0):
    """Returns examples sorted by class, as folders are, and which are for what."""
    rng = np.random.default_rng(seed)
    count, outputs = TRAIN + HELD_OUT, OUTPUTS[task]
    vectors = np.maximum(rng.normal(0.3, 1, (count, LENGTH)), 0)
    directions = np.random.default_rng(99).normal(0, 0.5, (LENGTH, outputs))
    scores = (vectors - 0.55) @ directions + rng.normal(0, noise, (count, outputs))
    match task:
        case Task.CLASSES:
            targets = scores.argmax(axis=1).astype(np.int32)
            order = np.argsort(targets, kind="stable")
            vectors, targets = vectors[order], targets[order]
        case Task.NUMBER:
            targets = (scores * [2, 0.1] + [30, 4]).astype(np.float32)
        case _:
            targets = (scores > 0).astype(np.float32)
    mixed = np.random.default_rng(7).permutation(count).astype(np.int32)
    training, held_out = np.sort(mixed[:TRAIN]), np.sort(mixed[TRAIN:])
    rows, all_vectors, all_targets = [training], [vectors], [targets]
    for view in range(1, views):
        start = sum(map(len, all_vectors))
        rows.append(start + np.arange(TRAIN, dtype=np.int32))
        all_vectors.append(vectors[training] + rng.normal(0, 0.1 * view, (TRAIN, LENGTH)))
        all_targets.append(targets[training])
    laid = np.concatenate(all_vectors).astype(np.float32)
    chosen = rng.uniform(0, 2, len(laid)).astype(np.float32) if weights else None
    examples = LabeledVectors(laid, np.concatenate(all_targets), chosen)
    return examples, RowSplit(np.stack(rows), np.pad(held_out, (0, 5), constant_values=-1))


def store(examples, folder, rows=10_000):
    """Lays down vectors, to be read so many rows at a time."""
    return replace(examples, vectors=write_rows(examples.vectors, folder, 4 * LENGTH * rows))


def recipe(**options):
    if options.get("head") is not HeadKind.LOGISTIC:
        options = {"learning_rate": 0.01, "epochs": 4, "batch_size": 16} | options
    return Settings.create(**options).head_settings()


def assert_close(fit, wanted, tolerance):
    assert fit.best_epoch == wanted.best_epoch
    for name, values in wanted.curve.items():
        np.testing.assert_allclose(fit.curve[name], values, rtol=tolerance, err_msg=name)
    for layer, other in zip(fit.head.layers, wanted.head.layers, strict=True):
        scale = np.abs(other.kernel).max()
        np.testing.assert_allclose(layer.kernel, other.kernel, atol=tolerance * scale)
        np.testing.assert_allclose(layer.bias, other.bias, atol=tolerance * scale)


PLAIN = {}
NORMALIZED = {"normalize": True, "dropout": 0.2, "weight_decay": 0.03}
INNER = {"inner_units": 8, "optimizer": "sgd", "batch_size": 1000}
BALANCED = {"class_weight": "balanced", "label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("task", "options"),
    [
        (Task.CLASSES, PLAIN),
        pytest.param(Task.CLASSES, NORMALIZED, marks=pytest.mark.system),
        (Task.BINARY, INNER),
        (Task.LABELS, BALANCED),
        (Task.NUMBER, NORMALIZED),
    ],
)
def test_with_one_block_the_history_is_that_of_vectors_in_memory(task, options, tmp_path):
    examples, split = make(task, views=3, weights=True)
    recipes = [recipe(**options), recipe(**options | {"learning_rate": 0.003})]
    outputs = OUTPUTS[task]
    wanted = train_heads(examples, split, recipes, outputs, task=task, seed=3)
    found = train_heads(store(examples, tmp_path), split, recipes, outputs, task=task, seed=3)
    for fit, other in zip(found, wanted, strict=True):
        assert_close(fit, other, 2e-5)


@pytest.mark.parametrize("rows", [pytest.param(16, marks=pytest.mark.system), 64])
def test_with_many_blocks_the_accuracy_is_as_good_though_images_lie_class_by_class(tmp_path, rows):
    differences = []
    for seed in range(6):
        examples, split = make(Task.CLASSES, seed=seed, noise=0.3)
        settings = [recipe(epochs=12)]
        (held,) = train_heads(examples, split, settings, 6, seed=seed)
        (streamed,) = train_heads(store(examples, tmp_path, rows), split, settings, 6, seed=seed)
        differences.append(max(streamed.curve["val_accuracy"]) - max(held.curve["val_accuracy"]))
        np.testing.assert_allclose(streamed.curve["loss"], held.curve["loss"], rtol=0.05)
    # One image of 90 is 0.011.
    assert abs(np.mean(differences)) < 0.015
    assert np.abs(differences).max() < 0.06


def test_blocks_of_an_epoch_have_every_image_once_and_batches_cross_no_more_than_they_must(
    tmp_path, monkeypatch
):
    from topwork.heads import epochs_on_disk as streamed

    examples, split = make(Task.CLASSES)
    examples.vectors[:, 0] = np.arange(len(examples.vectors))
    seen, sizes = [], []
    run = streamed.run_batches

    def watch(state, hyperparameters, block, order, *rest, **options):
        seen.append(block.vectors[order[order >= 0], 0])
        sizes.append((order >= 0).sum(axis=1))
        return run(state, hyperparameters, block, order, *rest, **options)

    monkeypatch.setattr(streamed, "run_batches", watch)
    train_heads(store(examples, tmp_path, 40), split, [recipe(epochs=2)], 6)
    # 40 rows are two batches of 16; 300 images are 18 batches and 12 more.
    assert [len(block) for block in seen] == 2 * ([32] * 9 + [12])
    assert np.concatenate(sizes).tolist() == 2 * ([16] * 18 + [12, 0])
    epochs = np.split(np.concatenate(seen), 2)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), split.training[0])
    assert not np.array_equal(*epochs)
    # What shares a block in one epoch does not in the next.
    assert not {frozenset(b.tolist()) for b in seen[:10]} & {
        frozenset(b.tolist()) for b in seen[10:]
    }


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    examples, split = make(Task.CLASSES)
    stored = store(examples, tmp_path, 40)
    curves = [
        train_heads(stored, split, [recipe(dropout=0.2)], 6, seed=seed)[0].curve
        for seed in (1, 1, 2)
    ]
    assert curves[0] == curves[1] != curves[2]


def test_held_out_figures_are_those_of_the_kept_head(tmp_path):
    examples, split = make(Task.CLASSES)
    (fit,) = train_heads(store(examples, tmp_path, 32), split, [recipe(normalize=True)], 6)
    rows = split.held_out[split.held_out >= 0]
    right = fit.head.logits(examples.vectors[rows]).argmax(axis=1) == examples.targets[rows]
    assert fit.curve["val_accuracy"][fit.best_epoch - 1] == pytest.approx(right.mean(), abs=1e-6)


def test_a_rate_at_which_it_diverges_is_no_error_and_leaves_others_alone(tmp_path):
    examples, split = make(Task.NUMBER)
    stored = store(examples, tmp_path, 32)
    recipes = [recipe(optimizer="sgd", learning_rate=rate) for rate in (10, 0.001)]
    bad, good = train_heads(stored, split, recipes, 2, task=Task.NUMBER)
    (alone,) = train_heads(stored, split, recipes[1:], 2, task=Task.NUMBER)
    assert not np.isfinite(bad.curve["val_loss"]).all()
    np.testing.assert_allclose(good.curve["val_loss"], alone.curve["val_loss"], rtol=1e-4)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("options", [{}, {"normalize": True, "class_weight": "balanced"}])
def test_a_logistic_head_is_that_of_vectors_in_memory(task, options, tmp_path):
    if task is Task.NUMBER:
        options = {k: v for k, v in options.items() if k != "class_weight"}
    examples, split = make(task, views=2, weights=True)
    settings = recipe(head=HeadKind.LOGISTIC, penalty=0.03, **options)
    (wanted,) = train_heads(examples, split, [settings], OUTPUTS[task], task=task)
    (found,) = train_heads(
        store(examples, tmp_path, 32), split, [settings], OUTPUTS[task], task=task
    )
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(found.curve[name], wanted.curve[name], rtol=1e-3)
    kernels = [fit.head.layers[0].kernel for fit in (found, wanted)]
    np.testing.assert_allclose(*kernels, atol=0.01 * np.abs(kernels[1]).max())


def test_training_never_reads_more_than_a_block(tmp_path, monkeypatch):
    examples, split = make(Task.CLASSES, views=2)
    read, sizes = VectorsOnDisk.__getitem__, []

    def watch(self, rows):
        found = read(self, rows)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(VectorsOnDisk, "__getitem__", watch)
    given = store(examples, tmp_path, 32)
    for options in ({"normalize": True}, {"head": HeadKind.LOGISTIC, "penalty": 0.1}):
        train_heads(given, split, [recipe(**options)], 6)
    assert max(sizes) <= 32


def test_no_stored_vectors_are_refused(tmp_path):
    examples, _ = make(Task.CLASSES)
    stored = store(examples, tmp_path)
    check_vectors(stored.vectors, "training")
    with pytest.raises(Exception, match="at least 1 vector"):
        check_vectors(stored.vectors.select([]), "training")
