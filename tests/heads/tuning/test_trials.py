import json
import math
import os
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from recorder import Recorder
from scipy.stats import norm
from scipy.stats import t as student

from topwork.core.config import ClassWeight, HeadKind, HeadSettings
from topwork.core.errors import StoreError, TopworkError
from topwork.heads.examples import HeadFit
from topwork.heads.tuning.trials import Journal, Trial, choose, make_record, rank, read_record

NAN, INF = math.nan, math.inf


def recipe(**values):
    return HeadSettings(**({"learning_rate": 0.01} | values))


def make_fit(settings, accuracies, losses=None, training_losses=None):
    losses = [1.0] * len(accuracies) if losses is None else losses
    finite = [n for n, loss in enumerate(losses, 1) if math.isfinite(loss)]
    best = max(finite, key=lambda n: (accuracies[n - 1], -losses[n - 1], -n), default=0)
    curve = {
        "loss": list(training_losses or losses),
        "accuracy": [0.5] * len(accuracies),
        "val_loss": list(losses),
        "val_accuracy": list(accuracies),
    }
    return HeadFit(settings, None, best, curve)


def make_trial(accuracies, losses=None, **values):
    """A row of accuracies, and of losses, for each replicate."""
    settings = recipe(**values)
    losses = losses or [None] * len(accuracies)
    return Trial(
        settings, tuple(make_fit(settings, *pair) for pair in zip(accuracies, losses, strict=True))
    )


# Sixteenths, whose sums are exact.
sixteenths = st.integers(0, 16).map(lambda n: n / 16)
any_loss = st.integers(1, 40).map(lambda n: n / 16) | st.sampled_from([NAN, INF])


@st.composite
def some_figures(draw, replicates, epochs):
    def table(values):
        row = st.lists(values, min_size=epochs, max_size=epochs)
        return draw(st.lists(row, min_size=replicates, max_size=replicates))

    return table(sixteenths), table(any_loss)


@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_figures_are_those_of_the_epoch_with_the_highest_mean(replicates, epochs, data):
    accuracies, losses = data.draw(some_figures(replicates, epochs))
    trial = make_trial(accuracies, losses)

    # By loops: an epoch that diverged counts 0.
    means = []
    for epoch in range(epochs):
        total = 0.0
        for row, lost in zip(accuracies, losses, strict=True):
            total += row[epoch] if math.isfinite(lost[epoch]) else 0.0
        means.append(total / replicates)
    best = means.index(max(means))
    assert trial.epoch == best + 1
    assert trial.mean == pytest.approx(means[best])
    scores = [
        row[best] if math.isfinite(lost[best]) else 0.0
        for row, lost in zip(accuracies, losses, strict=True)
    ]
    assert trial.scores.tolist() == scores
    if replicates == 1:
        assert math.isnan(trial.error)
    else:
        mean = sum(scores) / replicates
        variance = sum((score - mean) ** 2 for score in scores) / (replicates - 1)
        # So many standard errors hold as much as one, if the variance were known.
        widened = student.ppf(norm.cdf(1), replicates - 1)
        assert trial.error == pytest.approx(widened * math.sqrt(variance / replicates))
    loss = sum(lost[best] for lost in losses) / replicates
    assert trial.loss == pytest.approx(loss, nan_ok=True)
    assert trial.diverged == any(not math.isfinite(x) for lost in losses for x in lost)


def test_the_epoch_is_that_of_the_mean_and_not_of_each_replicate():
    trial = make_trial([[0.9, 0.6, 0.1], [0.1, 0.6, 0.9]])
    assert trial.epoch == 2
    assert trial.mean == 0.6


def test_a_training_loss_that_was_not_finite_is_divergence_too():
    settings = recipe()
    fit = make_fit(settings, [0.5, 0.5], [1, 1], [1, INF])
    assert Trial(settings, (fit,)).diverged
    assert not make_trial([[0.5, 0.5]]).diverged


SIMPLE_FIRST = [
    {"learning_rate": 0.001},
    {"learning_rate": 0.002},
    {"learning_rate": 0.001, "epochs": 40},
    {"learning_rate": 0.004, "weight_decay": 0.1},
    {"learning_rate": 0.008, "class_weight": "balanced"},
    {"learning_rate": 0.001, "dropout": 0.2, "normalize": True},
    {"learning_rate": 0.001, "label_smoothing": 0.1, "dropout": 0.2, "normalize": True},
    {"learning_rate": 0.0001, "inner_units": 100},
    {"learning_rate": 0.0001, "inner_units": 100, "dropout": 0.2},
    {"learning_rate": 0.00001, "inner_units": 1000},
]


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6), st.data())
def test_the_choice_is_the_simplest_within_one_standard_error(replicates, epochs, count, data):
    places = data.draw(st.permutations(range(len(SIMPLE_FIRST))))[:count]
    figures = [data.draw(some_figures(replicates, epochs)) for _ in places]
    trials = [
        make_trial(*pair, **SIMPLE_FIRST[place])
        for place, pair in zip(places, figures, strict=True)
    ]
    finite = [any(math.isfinite(loss) for lost in losses for loss in lost) for _, losses in figures]

    # Again, in fractions: the scores at the best epoch, the best, those that are near.
    scores, losses_then = [], []
    for accuracies, losses in figures:
        exact = [
            [Fraction(a if math.isfinite(b) else 0) for a, b in zip(row, lost, strict=True)]
            for row, lost in zip(accuracies, losses, strict=True)
        ]
        sums = [sum(column) for column in zip(*exact, strict=True)]
        epoch = sums.index(max(sums))
        scores.append([row[epoch] for row in exact])
        then = [lost[epoch] for lost in losses]
        losses_then.append(sum(map(Fraction, then)) if all(map(math.isfinite, then)) else INF)
    keys = [(-sum(own), loss) for own, loss in zip(scores, losses_then, strict=True)]
    assume(len(set(keys)) == len(keys))
    best = keys.index(min(keys))
    assume(finite[best])
    near = {best}
    means, variances = {}, {}
    for n, own in enumerate(scores):
        if n == best or replicates == 1 or losses_then[n] == INF:
            continue
        differences = [a - b for a, b in zip(scores[best], own, strict=True)]
        means[n] = sum(differences) / replicates
        variances[n] = sum((d - means[n]) ** 2 for d in differences) / (replicates - 1)
    # The variance is that of the half with the smallest differences.
    ranked = sorted(means, key=lambda n: means[n])
    half = ranked[: (len(ranked) + 1) // 2]
    if half:
        spread = median(variances[n] for n in half) / replicates
        widened = student.ppf(norm.cdf(1), (replicates - 1) * len(half))
        error = widened * math.sqrt(spread)
    for n, mean in means.items():
        # Rounding decides between equal numbers, unless both are 0.
        assume(abs(float(mean) - error) > 1e-9 or (mean == 0 and spread == 0))
        if mean <= error:
            near.add(n)
    expected = min(near, key=lambda n: places[n])

    assert choose(trials) is trials[expected]


@pytest.mark.parametrize(
    ("simple", "other"),
    [
        ({"learning_rate": 1}, {"learning_rate": 0.001, "inner_units": 1}),
        ({"inner_units": 100}, {"inner_units": 101}),
        *(
            ({"learning_rate": 1}, {"learning_rate": 0.001, name: value})
            for name, value in {
                "weight_decay": 0.1,
                "label_smoothing": 0.1,
                "dropout": 0.1,
                "class_weight": ClassWeight.BALANCED,
                "normalize": True,
            }.items()
        ),
        ({"dropout": 0.2}, {"dropout": 0.1, "weight_decay": 0.1}),
        ({"learning_rate": 0.001}, {"learning_rate": 0.002}),
        ({"epochs": 10}, {"epochs": 11}),
        ({"learning_rate": 0.001, "epochs": 40}, {"learning_rate": 0.01, "epochs": 10}),
        ({"head": "logistic", "penalty": 1}, {"head": "logistic", "penalty": 0.1}),
        (
            {"head": "logistic", "penalty": 0.01},
            {"head": "logistic", "penalty": 1, "class_weight": "balanced"},
        ),
        ({"head": "dense"}, {"head": "logistic", "penalty": 1, "normalize": True}),
        (
            {"head": "logistic", "penalty": 1, "normalize": True},
            {"head": "dense", "normalize": True},
        ),
    ],
)
def test_of_equally_good_recipes_the_simple_one_is_chosen(simple, other):
    # The one that is less simple is a little better, within the error.
    trials = [
        make_trial([[0.80], [0.70], [0.60]], **simple),
        make_trial([[0.79], [0.75], [0.60]], **other),
    ]
    assert choose(trials).settings == trials[0].settings
    assert choose(trials[::-1]).settings == trials[0].settings


def test_a_clear_winner_is_chosen_however_complicated_it_is():
    trials = [
        make_trial([[0.80], [0.70], [0.60]]),
        make_trial([[0.85], [0.76], [0.65]], inner_units=1000, dropout=0.5, normalize=True),
    ]
    assert choose(trials) is trials[1]


def test_differences_are_taken_in_pairs():
    # The folds differ by far more than the recipes, which differ by the same in each.
    trials = [
        make_trial([[0.40], [0.60], [0.80]]),
        make_trial([[0.42], [0.62], [0.82]], inner_units=100),
    ]
    assert trials[1].mean - trials[0].mean < trials[1].error
    assert choose(trials) is trials[1]


def test_a_single_replicate_has_no_error_and_the_best_is_chosen():
    trials = [make_trial([[0.80]]), make_trial([[0.81]], inner_units=1000)]
    assert choose(trials) is trials[1]
    # Equal accuracies go to the lower loss.
    trials = [make_trial([[0.8]], [[0.5]]), make_trial([[0.8]], [[0.4]], inner_units=1000)]
    assert choose(trials) is trials[1]
    assert choose(trials[:1]) is trials[0]


def test_class_weights_that_are_favored_are_no_option_more():
    none = make_trial([[0.80], [0.70], [0.60]])
    balanced = make_trial([[0.79], [0.72], [0.59]], class_weight="balanced")
    assert choose([none, balanced]) is none
    assert choose([none, balanced], ClassWeight.BALANCED) is balanced
    # Where they cost more than the error they are not chosen.
    costly = make_trial([[0.75], [0.66], [0.55]], class_weight="balanced")
    assert choose([none, costly], ClassWeight.BALANCED) is none


def test_a_candidate_is_not_close_because_it_varies_much():
    best = make_trial([[0.90], [0.80], [0.85]], learning_rate=0.01)
    near = [
        make_trial([[0.899], [0.798], [0.848]], learning_rate=0.02),
        make_trial([[0.897], [0.799], [0.849]], learning_rate=0.03),
        make_trial([[0.898], [0.797], [0.849]], learning_rate=0.04),
    ]
    wild = make_trial([[0.95], [0.70], [0.85]], learning_rate=0.001)
    differences = best.scores - wild.scores
    assert differences.mean() < differences.std(ddof=1) / math.sqrt(3)
    assert choose([best, *near, wild]) is best


@pytest.mark.parametrize("order", [1, -1])
def test_a_loss_that_is_not_finite_ranks_last_among_equal_accuracies(order):
    trials = [make_trial([[0.0]], [[NAN]]), make_trial([[0.0]], [[2.0]])][::order]
    best = max(trials, key=rank)
    assert best.loss == 2.0
    assert choose(trials) is best


def test_what_diverged_on_every_replicate_is_never_close_to_the_best():
    # With two replicates, (d, 0) has a mean of d / 2 and as large an error.
    lost = make_trial([[0.5], [0.5]], [[NAN], [NAN]], learning_rate=0.0001)
    best = make_trial([[0.5], [0.0]])
    assert (best.scores - lost.scores).tolist() == [0.5, 0]
    assert choose([lost, best]) is best


def test_what_diverged_on_one_replicate_loses_to_the_same_without():
    lost = make_trial([[0.9], [0.9], [0.9]], [[1], [1], [NAN]], learning_rate=0.0001)
    best = make_trial([[0.7], [0.7], [0.7]])
    assert lost.mean == pytest.approx(0.6)
    assert choose([lost, best]) is best


@pytest.mark.parametrize(
    ("values", "advice"),
    [({}, "a smaller --learning-rate"), ({"head": "logistic", "penalty": 0.1}, "larger --penalty")],
)
def test_if_all_diverged_there_is_no_choice(values, advice):
    trials = [make_trial([[0.1, 0.1]], [[NAN, INF]], **values)] * 2
    with pytest.raises(TopworkError, match=advice) as error:
        choose(trials)
    assert "all heads diverged" in str(error.value)


# Numbers: the lower the error, the better.


def make_number_trial(errors, losses=None, **values):
    """A row of errors, and of squared ones, for each replicate."""
    settings = recipe(**values)
    losses = losses or [[error**2 for error in row] for row in errors]
    fits = []
    for row, lost in zip(errors, losses, strict=True):
        finite = [n for n, loss in enumerate(lost, 1) if math.isfinite(loss)]
        best = min(finite, key=lambda n: lost[n - 1], default=0)
        curve = {"loss": list(lost), "mae": list(row), "val_loss": list(lost), "val_mae": list(row)}
        fits.append(HeadFit(settings, None, best, curve))
    return Trial(settings, tuple(fits))


def test_a_number_is_scored_by_its_loss_and_shown_by_its_error():
    # The second epoch has the lowest mean loss, the third the lowest mean error.
    trial = make_number_trial([[9, 4, 1], [9, 5, 6]], [[80, 20, 90], [80, 30, 40]])
    assert (trial.metric, trial.epoch) == ("mae", 2)
    assert trial.scores.tolist() == [-20, -30]
    assert (trial.mean, trial.loss) == (-25, 25)
    assert trial.figures.tolist() == [4, 5]
    # Half of their difference is the standard error; of two, 1.84 of it hold as much as one.
    assert trial.error == pytest.approx(0.5 * 1.8373, rel=1e-4)
    assert not trial.diverged


def test_an_epoch_of_numbers_that_diverged_is_below_all_others():
    trial = make_number_trial([[3e9, INF], [2e9, 1]], [[9e18, INF], [4e18, 1]])
    assert trial.epoch == 1 and trial.diverged
    assert trial.figures.tolist() == [3e9, 2e9]
    lost = make_number_trial([[NAN], [2]], [[NAN], [4]], learning_rate=0.0001)
    good = make_number_trial([[1e9], [1e9]])
    assert max([lost, good], key=rank) is good
    # An error of a replicate that was lost is not hidden.
    assert math.isnan(lost.figures[0])
    assert choose([lost, good]) is good


@pytest.mark.parametrize("order", [1, -1])
def test_the_choice_among_numbers_is_the_simplest_within_one_standard_error(order):
    trials = [
        make_number_trial([[10], [12], [14]], learning_rate=0.001),
        make_number_trial([[10.1], [11.5], [14.1]], inner_units=100),
        make_number_trial([[20], [22], [24]], learning_rate=0.0001),
    ]
    assert choose(trials[::order]) is trials[0]
    clear = make_number_trial([[5], [6], [7]], inner_units=1000)
    assert choose([*trials, clear][::order]) is clear


def test_if_all_numbers_diverged_there_is_no_choice():
    with pytest.raises(TopworkError, match="all heads diverged"):
        choose([make_number_trial([[NAN], [INF]])])


def test_a_trial_of_numbers_comes_back_from_the_journal():
    trial = make_number_trial([[3.0, 2.0]], [[9.0, INF]])
    again = read_record(make_record("a", "b", trial.fits[0]), trial.settings)
    found = Trial(trial.settings, (again,))
    assert found.metric == "mae" and found.epoch == 1
    assert found.figures.tolist() == [3] and found.diverged


# The journal.

FIT = make_fit(recipe(dropout=0.2), [0.5, 0.25], [1.0, NAN], [INF, 0.1])


def records(*keys):
    return [make_record(key, "fold 1 of 3, seed 0", FIT) for key in keys]


def open_journal(path):
    journal = Journal(path)
    journal.open()
    return journal


def same(values, others):
    return np.array_equal(values, others, equal_nan=True)


def test_a_fit_comes_back_from_the_journal(tmp_path):
    path = tmp_path / "deep" / "trials.jsonl"
    open_journal(path).add(records("a"))
    again = read_record(open_journal(path).known["a"], FIT.settings)
    assert again.settings == FIT.settings and again.best_epoch == 1 and again.head is None
    assert list(again.curve) == list(FIT.curve)
    # Infinity comes back as NaN: neither is a figure.
    assert same(again.curve["loss"], [NAN, 0.1])
    assert same(again.curve["val_loss"], [1.0, NAN])
    assert again.curve["val_accuracy"] == [0.5, 0.25]
    trials = [Trial(FIT.settings, (fit,)) for fit in (FIT, again)]
    for name in ("mean", "epoch", "loss", "diverged"):
        assert getattr(trials[0], name) == getattr(trials[1], name)


floats = st.floats(width=32)


@given(st.lists(floats, min_size=1, max_size=8), st.lists(floats, min_size=1, max_size=8))
def test_figures_come_back_to_the_last_bit(losses, accuracies):
    fit = HeadFit(recipe(), None, 1, {"val_loss": losses, "val_accuracy": accuracies})
    record = json.loads(json.dumps(make_record("a", "b", fit), allow_nan=False))
    again = read_record(record, fit.settings)
    for name, values in fit.curve.items():
        finite = [value if math.isfinite(value) else NAN for value in values]
        assert same(again.curve[name], finite)


def test_the_file_holds_json_lines_and_nothing_else(tmp_path):
    path = tmp_path / "trials.jsonl"
    journal = open_journal(path)
    assert path.read_bytes() == b""
    journal.add(records("a", "b"))
    journal.add([])
    journal.add(records("c"))
    text = path.read_bytes().decode("ascii")
    assert text.endswith("\n")

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in text.split("\n")[:-1]]
    assert [line["key"] for line in lines] == ["a", "b", "c"]
    assert lines[0]["settings"] == FIT.settings.model_dump(mode="json")
    assert HeadSettings(**lines[0]["settings"]) == FIT.settings
    assert lines[0]["replicate"] == "fold 1 of 3, seed 0"
    assert lines[0]["diverged"] is True
    assert lines[0]["curve"]["val_loss"] == [1.0, None]


def test_without_a_path_nothing_is_written_and_all_is_known():
    journal = open_journal(None)
    journal.add(records("a"))
    assert set(journal.known) == {"a"}


def test_a_callback_hears_of_a_record_once_it_is_written_down(tmp_path):
    path = tmp_path / "trials.jsonl"
    heard = []

    def hear(record):
        heard.append((record["key"], set(open_journal(path).known)))

    Journal(path, Recorder(on_record=hear)).add(records("a", "b"))
    assert heard == [("a", {"a", "b"}), ("b", {"a", "b"})]


def test_a_line_that_was_cut_off_anywhere_is_as_if_it_were_not_there(tmp_path):
    path = tmp_path / "trials.jsonl"
    open_journal(path).add(records("a", "b"))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in [*range(40), *range(40, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        known = {"a"} if first - 1 <= length else set()
        known |= {"b"} if length >= len(whole) - 1 else set()
        journal = open_journal(path)
        assert set(journal.known) == known
        journal.add(records("c"))
        assert set(open_journal(path).known) == known | {"c"}
        # What is there was not touched, and the new line is a line of its own.
        assert path.read_bytes().startswith(whole[:length])


@pytest.mark.parametrize(
    "content",
    [
        b"a shopping list\n",
        b"\x89PNG\r\n\x1a\n\x00\xff\xfe",
        b"{}\n",
        b"[1, 2]\n3\nnull\n",
        b'{"key": "a"}\n{"name": 3}\n',
        b"[" * 100_000,
        "key,value\nä,1\n".encode("latin-1"),
    ],
)
def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"list\.txt does not hold trials; .*--trials"):
        open_journal(path)
    assert path.read_bytes() == content


@given(st.binary(max_size=200))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("journal") / "trials.jsonl"
    path.write_bytes(content)
    try:
        assert open_journal(path).known == {}
    except StoreError:
        assert path.read_bytes() == content


def test_damage_among_trials_costs_only_what_it_hit(tmp_path):
    path = tmp_path / "trials.jsonl"
    open_journal(path).add(records("a", "b", "c"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\xff" * 50 + b"\n" + lines[2])
    assert set(open_journal(path).known) == {"a", "c"}


def unusable(tmp_path):
    (tmp_path / "file").write_text("")
    yield tmp_path, "Is a directory"
    yield tmp_path / "file" / "trials.jsonl", "directory|exists"
    yield Path("/proc/topwork/trials.jsonl"), "cannot read and write"


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_trained(tmp_path):
    for path, reason in unusable(tmp_path):
        with pytest.raises(StoreError, match=reason) as error:
            open_journal(path)
        assert str(path) in str(error.value) and "--trials" in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        open_journal(tmp_path / "trials.jsonl")


def test_a_place_that_can_no_longer_be_written_is_said(tmp_path):
    path = tmp_path / "there" / "trials.jsonl"
    journal = open_journal(path)
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(StoreError, match="cannot write the trials"):
        journal.add(records("a"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said():
    with pytest.raises(StoreError, match="No space left"):
        Journal(Path("/dev/full")).add(records("a"))


def _append(path, start, barrier):
    journal = Journal(path)
    barrier.wait()
    for n in range(start, start + 30):
        # Longer than any buffer.
        journal.add([make_record(f"key {n}", "long " * 100_000, FIT)])


@pytest.mark.system
def test_two_searches_that_write_at_once_leave_whole_lines(tmp_path):
    path = tmp_path / "trials.jsonl"
    context = get_context("spawn")
    barrier = context.Barrier(2)
    writers = [context.Process(target=_append, args=(path, n, barrier)) for n in (0, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    lines = [line for line in path.read_text().split("\n") if line]
    assert len(lines) == 60
    assert {json.loads(line)["key"] for line in lines} == {
        f"key {n}" for start in (0, 100) for n in range(start, start + 30)
    }


def test_kinds_are_those_of_the_settings():
    # The record keeps the recipe as the user would say it.
    record = make_record("a", "b", make_fit(recipe(head=HeadKind.LOGISTIC, penalty=0.1), [0.5]))
    assert record["settings"]["head"] == "logistic"
    assert record["diverged"] is False
