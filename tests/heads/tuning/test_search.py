import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorder import Recorder

from topwork.core.config import ClassWeight, HeadKind, HeadSettings, Optimizer, Settings
from topwork.core.errors import DatasetError, SettingsError, TopworkError
from topwork.core.task import Task
from topwork.data.splits import assign_strata
from topwork.heads.dense import Dense, Head, decide
from topwork.heads.examples import HeadFit, LabeledVectors, RowSplit
from topwork.heads.train import train_head
from topwork.heads.tuning import tuner as tuning
from topwork.heads.tuning.folds import make_replicates
from topwork.heads.tuning.search import (
    FEW_RATES,
    FEW_UNITS,
    LONGER,
    MANY_UNITS,
    PENALTIES,
    RATES,
    SGD_SHIFT,
    WEIGHTS,
    search,
    search_auto,
)
from topwork.heads.tuning.trials import Journal, Trial
from topwork.heads.tuning.tuner import Budget, Tuner, held_out_logits

CLASSES = ["ant", "bee", "cow"]


def make_examples(count=210, length=16, *, seed=0, scale=1.0):
    """Three classes around three centres; the first two thirds to learn from."""
    rng = np.random.default_rng(seed)
    targets = (np.arange(count) % len(CLASSES)).astype(np.int32)
    centres = np.random.default_rng(7).normal(0, 1, (len(CLASSES), length))
    vectors = centres[targets] + rng.normal(0, 1, (count, length))
    return LabeledVectors((vectors * scale).astype(np.float32), targets)


def make_tuner(examples=None, *, folds=3, seeds=1, seed=0, **options):
    examples = examples or EXAMPLES
    rows = np.arange(len(examples.targets), dtype=np.int32)
    cut = len(rows) * 2 // 3
    split = RowSplit(rows[None, :cut], rows[cut:])
    replicates = make_replicates(
        split, examples.targets[split.training[0]], folds, seeds, seed, classes=CLASSES
    )
    return Tuner(examples, replicates, len(CLASSES), **options)


EXAMPLES = make_examples()


def start(**values):
    return Settings.create(**values).head_settings()


class Trainer:
    """In the place of `train_heads`: takes no time, and scores recipes as it is told."""

    def __init__(self, score=lambda recipe: 0.5):
        self.score = score
        self.heads = []
        self.calls = []

    def __call__(self, examples, split, recipes, outputs, *, task, seed):
        rows = split.held_out.tobytes()
        self.heads += [(recipe, rows, seed) for recipe in recipes]
        self.calls.append(list(recipes))
        return [self.fit(recipe, examples, outputs) for recipe in recipes]

    def fit(self, recipe, examples, outputs):
        score = self.score(recipe)
        loss = 1 - score
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        curve = dict(zip(names, ([loss], [score], [loss], [score]), strict=True))
        length = examples.vectors.shape[1]
        head = Head((Dense(np.zeros((length, outputs), np.float32), np.zeros(outputs)),))
        return (
            HeadFit(recipe, head, 1, curve)
            if math.isfinite(score)
            else HeadFit(recipe, None, 0, curve)
        )

    def stages(self):
        """The recipes of each stage, from the calls for the first replicate."""
        first = self.heads[0][1:]
        sizes = iter([len(call) for call in self.calls])
        stages, place = [], 0
        for size in sizes:
            if self.heads[place][1:] == first:
                stages.append([head[0] for head in self.heads[place : place + size]])
            place += size
        return stages


@pytest.fixture
def trainer(monkeypatch):
    made = Trainer()
    monkeypatch.setattr(tuning, "train_heads", made)
    return made


class Clock:
    """A clock that stands still until told."""

    seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def differing(recipe, other):
    """Names of the options in which two recipes differ."""
    return {
        name for name in HeadSettings.model_fields if getattr(recipe, name) != getattr(other, name)
    }


# The budget.


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        (None, Budget()),
        ("500", Budget(heads=500)),
        ("1", Budget(heads=1)),
        ("60s", Budget(seconds=60)),
        ("0.5s", Budget(seconds=0.5)),
        ("1e3s", Budget(seconds=1000)),
    ],
)
def test_a_budget_is_heads_or_seconds(text, budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "-3", "1.5", "1e3", "9" * 5000, "abc", "60m", "60 m"),
        *("s", "0s", "-1s", "60ss", "nans", "nan s", "infs", "-infs", "1e999s"),
    ],
)
def test_any_other_budget_is_refused(text):
    with pytest.raises(SettingsError, match="number of heads such as 500") as error:
        Budget.parse(text)
    assert repr(text) in str(error.value)


@given(st.text(max_size=8))
def test_whatever_a_budget_says_it_is_above_0_or_refused(text):
    try:
        budget = Budget.parse(text)
    except SettingsError:
        return
    (value,) = {budget.heads, budget.seconds} - {None}
    assert 0 < value < math.inf


def test_a_budget_below_one_head_for_each_replicate_is_refused():
    with pytest.raises(SettingsError, match=r"at least 6 heads, .* received 5"):
        make_tuner(seeds=2, budget=Budget(heads=5))
    make_tuner(seeds=2, budget=Budget(heads=6))


@pytest.mark.parametrize("heads", [*range(3, 60, 4), 150, 199, 238, 239, 1000])
def test_no_more_heads_are_trained_than_allowed_and_every_trial_is_whole(trainer, heads):
    tuner = make_tuner(budget=Budget(heads=heads))
    search(tuner, start())
    assert tuner.trained == len(trainer.heads) == 3 * len(tuner.trials) <= heads
    assert all(len(trial.fits) == 3 for trial in tuner.trials)
    # The budget is used up, or nothing was left to try.
    everything = make_tuner()
    search(everything, start())
    assert tuner.trained == min(heads // 3 * 3, everything.trained)
    assert [t.settings for t in tuner.trials] == [
        t.settings for t in everything.trials[: heads // 3]
    ]


def test_the_first_rates_of_a_small_budget_are_far_apart(trainer):
    tuner = make_tuner(budget=Budget(heads=9))
    search(tuner, start())
    rates = sorted(trial.settings.learning_rate for trial in tuner.trials)
    assert len(rates) == 3
    assert all(b / a > 9 for a, b in pairwise(rates))
    assert sorted(RATES)[3] > rates[0] and sorted(RATES)[-4] < rates[-1]


def timed(trainer, clock, tuner, pace):
    """Lets time pass as heads are trained."""

    def train(examples, split, recipes, outputs, *, task, seed):
        clock.seconds += sum(pace * tuner._cost(recipe) for recipe in recipes)
        return trainer(examples, split, recipes, outputs, task=task, seed=seed)

    return train


@pytest.mark.parametrize("seconds", [1e-6, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 100.0])
def test_stages_are_tried_as_far_as_the_time_is_expected_to_allow(
    monkeypatch, trainer, clock, seconds
):
    tuner = make_tuner(budget=Budget(seconds=seconds), clock=clock)
    # The first stage takes a second.
    first = 3 * sum(tuner._cost(start(learning_rate=rate)) for rate in RATES)
    monkeypatch.setattr(tuning, "train_heads", timed(trainer, clock, tuner, 1 / first))
    search(tuner, start())
    tried = [trial.settings for trial in tuner.trials]
    assert {recipe.learning_rate for recipe in tried[: len(RATES)]} == set(RATES)
    assert tuner.seconds <= max(seconds, 1 + 1e-6)
    everything = make_tuner()
    search(everything, start())
    assert tuner.left_out + len(tried) == len(everything.trials)
    assert (tuner.left_out == 0) == (seconds == 100)
    if seconds <= 1:
        assert len(tried) == len(RATES)
    if seconds == 2:
        assert len(tried) == pytest.approx(2 * len(RATES), abs=1)


def test_the_first_stage_is_tried_even_if_the_time_is_over(trainer, clock):
    tuner = make_tuner(budget=Budget(seconds=5), clock=clock)
    clock.seconds += 10
    search(tuner, start())
    assert [trial.settings.learning_rate for trial in tuner.trials] == list(RATES)


def test_heads_that_are_known_cost_no_time(trainer, clock, tmp_path):
    journal = Journal(tmp_path / "trials.jsonl")
    whole = make_tuner(journal=journal)
    search(whole, start())
    again = make_tuner(journal=journal, budget=Budget(seconds=1e-3), clock=clock)
    again._pace = 1.0
    search(again, start())
    assert again.trained == 0 and again.reused == whole.trained and again.left_out == 0


def test_it_is_said_how_many_heads_were_trained(trainer):
    recorder = Recorder()
    heard = recorder.told["on_tried"]
    tuner = make_tuner(budget=Budget(heads=60), callback=recorder)
    search(tuner, start())
    assert heard[:3] == [(13, 60), (26, 60), (39, 60)]
    assert heard[-1] == (60, 60) and len(heard) == 6
    endless = make_tuner(callback=recorder)
    endless.try_all([start(learning_rate=0.1)])
    assert heard[-1] == (3, None)


# The stages.


def test_stages_come_in_order_and_the_learning_rate_first(trainer):
    search(make_tuner(), start())
    stages = trainer.stages()
    assert [recipe.learning_rate for recipe in stages[0]] == list(RATES)
    assert all(differing(recipe, start()) == {"learning_rate"} for recipe in stages[0])
    best = stages[0][0]
    changed = [
        set.union(*(differing(recipe, best) for recipe in stage)) - {"learning_rate", "penalty"}
        for stage in stages[1:]
    ]
    assert changed == [
        {"normalize"},
        {"weight_decay", "label_smoothing", "class_weight"},
        {"dropout"},
        {"head", "normalize", "class_weight"},
        {"inner_units"},
        {"epochs"},
    ]
    # One option at a time, besides the rate.
    for stage in (stages[2], stages[3], stages[5], stages[6]):
        assert all(len(differing(recipe, best) - {"learning_rate"}) == 1 for recipe in stage)


PLANTED = {
    "learning_rate": 0.018,
    "normalize": True,
    "label_smoothing": 0.1,
    "dropout": 0.5,
    "inner_units": 1000,
    "epochs": 40,
}


def hits(recipe, wanted):
    return sum(getattr(recipe, name) == value for name, value in wanted.items())


def test_every_stage_goes_on_from_the_best_so_far(trainer):
    trainer.score = lambda recipe: (
        0.2 + 0.1 * hits(recipe, PLANTED) + (recipe.inner_units == 100) / 20
    )
    tuner = make_tuner()
    chosen = search(tuner, start())
    assert {name: getattr(chosen.settings, name) for name in PLANTED} == PLANTED
    assert chosen is tuner.trials[tuner.trials.index(chosen)]
    # Ten times as many units were tried only because some had helped.
    assert any(trial.settings.inner_units == FEW_UNITS for trial in tuner.trials)


def test_many_inner_units_are_tried_only_where_few_have_helped(trainer):
    tuner = make_tuner()
    trainer.score = lambda recipe: 0.4 if recipe.inner_units else 0.5
    search(tuner, start())
    units = {trial.settings.inner_units for trial in tuner.trials}
    assert units == {0, FEW_UNITS} and MANY_UNITS not in units


def test_a_logistic_head_can_win_and_the_others_do_not_go_on_from_it(trainer):
    trainer.score = lambda r: 0.9 - abs(r.penalty - 0.1) if r.head is HeadKind.LOGISTIC else 0.5
    tuner = make_tuner()
    chosen = search(tuner, start(epochs=7, batch_size=16)).settings
    assert chosen.head is HeadKind.LOGISTIC and chosen.penalty == 0.1 and chosen.normalize
    # It is a recipe that could have been asked for, and what it does not use is as it was.
    Settings.create(**chosen.model_dump())
    assert (chosen.epochs, chosen.batch_size) == (7, 16)
    after = [trial.settings for trial in tuner.trials if trial.settings.inner_units]
    assert after and all(recipe.head is HeadKind.DENSE for recipe in after)


PINS = {
    "head": "dense",
    "epochs": 5,
    "learning_rate": 0.02,
    "batch_size": 16,
    "optimizer": "sgd",
    "weight_decay": 0.07,
    "label_smoothing": 0.03,
    "dropout": 0.3,
    "inner_units": 50,
    "class_weight": "balanced",
    "normalize": False,
}


@pytest.mark.parametrize("names", [[name] for name in PINS] + [["normalize", "class_weight"]])
def test_what_is_pinned_never_varies(trainer, names):
    values = {name: PINS[name] for name in names}
    recipe = start(**values)
    tuner = make_tuner()
    search(tuner, recipe, frozenset([*names, "base", "views"]))
    for name in names:
        seen = {getattr(trial.settings, name) for trial in tuner.trials}
        assert seen == {getattr(recipe, name)}
    # All else does.
    kinds = {trial.settings.head for trial in tuner.trials}
    dense = {"head", "learning_rate", "weight_decay", "label_smoothing", "dropout", "inner_units"}
    assert (HeadKind.LOGISTIC in kinds) == dense.isdisjoint(names)
    for name in {"normalize", "dropout", "epochs", "weight_decay"} - set(names):
        assert len({getattr(trial.settings, name) for trial in tuner.trials}) > 1


def test_a_value_that_a_logistic_head_has_too_does_not_rule_it_out(trainer):
    tuner = make_tuner()
    search(tuner, start(dropout=0), frozenset(["dropout"]))
    assert any(trial.settings.head is HeadKind.LOGISTIC for trial in tuner.trials)
    assert {trial.settings.dropout for trial in tuner.trials} == {0}


def test_all_pinned_is_one_recipe(trainer):
    tuner = make_tuner()
    chosen = search(tuner, start(**PINS), frozenset(PINS))
    assert [trial.settings for trial in tuner.trials] == [start(**PINS)] == [chosen.settings]


@pytest.mark.parametrize(
    ("values", "name", "count"),
    [({}, "learning_rate", len(RATES)), ({"head": "logistic"}, "penalty", len(PENALTIES))],
)
def test_auto_is_searched_even_if_it_was_said(trainer, values, name, count):
    tuner, free = make_tuner(), make_tuner()
    search(tuner, start(**values, **{name: "auto"}), frozenset([name]))
    search(free, start(**values))
    assert len({getattr(trial.settings, name) for trial in tuner.trials}) >= count
    assert [t.settings for t in tuner.trials] == [t.settings for t in free.trials]


def test_a_start_with_a_learning_rate_goes_on_from_it(trainer):
    tuner = make_tuner()
    search(tuner, start(learning_rate=0.02))
    assert [recipe.learning_rate for recipe in trainer.stages()[0]] == [0.02]
    assert {0.0063, 0.02, 0.063} <= {trial.settings.learning_rate for trial in tuner.trials}


def test_sgd_has_larger_rates(trainer):
    tuner = make_tuner()
    search(tuner, start(optimizer="sgd"), frozenset(["optimizer"]))
    rates = [recipe.learning_rate for recipe in trainer.stages()[0]]
    assert rates == pytest.approx([rate * SGD_SHIFT for rate in RATES], rel=0.05)
    dense = [t.settings for t in tuner.trials if t.settings.head is HeadKind.DENSE]
    assert {recipe.optimizer for recipe in dense} == {Optimizer.SGD}


def test_from_a_logistic_head_on_only_what_it_has_is_searched(trainer):
    trainer.score = lambda r: 0.5 + 0.1 * r.normalize + 0.1 * (r.penalty == 0.3)
    tuner = make_tuner()
    chosen = search(tuner, start(head="logistic"), frozenset(["head"]))
    assert [[recipe.penalty for recipe in stage] for stage in trainer.stages()] == [
        list(PENALTIES)
    ] * 3
    recipes = [trial.settings for trial in tuner.trials]
    allowed = {"penalty", "normalize", "class_weight"}
    assert all(differing(recipe, start(head="logistic")) <= allowed for recipe in recipes)
    assert {recipe.class_weight for recipe in recipes} == set(WEIGHTS)
    assert chosen.settings.normalize and chosen.settings.penalty == 0.3


def test_from_a_logistic_head_that_is_not_pinned_both_kinds_are_tried(trainer):
    tuner = make_tuner()
    search(tuner, start(head="logistic", normalize=True, class_weight="balanced"))
    kinds = {trial.settings.head for trial in tuner.trials}
    assert kinds == set(HeadKind)
    assert {t.settings.penalty for t in tuner.trials if t.settings.head is HeadKind.LOGISTIC} == {
        *PENALTIES
    }


def test_a_logistic_head_that_is_normalized_stays_so(trainer):
    tuner = make_tuner()
    search(tuner, start(head="logistic", normalize=True), frozenset(["head"]))
    assert {trial.settings.normalize for trial in tuner.trials} == {True}
    assert len(tuner.trials) == 2 * len(PENALTIES)


def test_options_of_a_logistic_head_can_be_pinned(trainer):
    tuner = make_tuner()
    pinned = {"head": "logistic", "normalize": False, "class_weight": "none", "penalty": 0.2}
    chosen = search(tuner, start(**pinned), frozenset(pinned))
    assert [trial.settings for trial in tuner.trials] == [start(**pinned)] == [chosen.settings]


@pytest.mark.parametrize("values", [{}, {"optimizer": "sgd"}, {"head": "logistic"}])
def test_no_recipe_is_tried_twice(trainer, values):
    trainer.score = lambda recipe: 0.5 + hits(recipe, PLANTED) / 20
    search(make_tuner(seeds=2), start(**values))
    assert len(trainer.heads) == len(set(trainer.heads))


@pytest.mark.parametrize(
    "values", [{"epochs": 60_000}, {"learning_rate": 10}, {"learning_rate": 8}]
)
def test_every_recipe_could_have_been_asked_for(trainer, values):
    trainer.score = lambda recipe: 0.5 + recipe.epochs / 1e6 + recipe.learning_rate / 100
    tuner = make_tuner()
    search(tuner, start(**values), frozenset(["head"]))
    for trial in tuner.trials:
        assert HeadSettings(**trial.settings.model_dump()) == trial.settings
    assert max(trial.settings.epochs for trial in tuner.trials) == min(
        LONGER * start(**values).epochs, 100_000
    )


def test_what_was_tried_before_is_not_tried_again(trainer):
    tuner = make_tuner()
    recipes = [start(learning_rate=rate) for rate in (0.1, 0.01, 0.1, 0.001)]
    tuner.try_all(recipes[:2])
    tuner.try_all(recipes)
    assert [trial.settings for trial in tuner.trials] == [*recipes[:2], recipes[3]]
    assert (tuner.trained, tuner.reused) == (9, 0)


def test_rates_that_diverge_lose_and_the_search_goes_on(trainer):
    trainer.score = lambda recipe: math.nan if recipe.learning_rate > 0.004 else 0.5
    tuner = make_tuner()
    chosen = search(tuner, start(), frozenset(["head"]))
    assert not chosen.diverged
    lost = {trial.settings for trial in tuner.trials if trial.diverged}
    assert {recipe.learning_rate for recipe in lost} >= {rate for rate in RATES if rate > 0.004}
    assert any(trial.settings.epochs == 40 for trial in tuner.trials)


def test_if_all_diverge_it_is_said(trainer):
    trainer.score = lambda recipe: math.nan
    with pytest.raises(TopworkError, match="all heads diverged"):
        search(make_tuner(), start(), frozenset(["head"]))


def test_a_logistic_head_without_an_optimum_loses_alone(monkeypatch, trainer):
    def train(examples, split, recipes, outputs, *, task, seed):
        if any(recipe.penalty == 0.01 for recipe in recipes):
            raise TopworkError("did not reach its optimum")
        return trainer(examples, split, recipes, outputs, task=task, seed=seed)

    monkeypatch.setattr(tuning, "train_heads", train)
    tuner = make_tuner()
    search(tuner, start())
    solved = [trial for trial in tuner.trials if trial.settings.head is HeadKind.LOGISTIC]
    assert {trial.settings.penalty for trial in solved if trial.diverged} == {0.01}
    assert {t.settings.penalty for t in solved if not t.diverged} == set(PENALTIES) - {0.01}
    with pytest.raises(TopworkError, match=r"diverged.*--penalty"):
        search(make_tuner(), start(head="logistic", penalty=0.01), frozenset(["head", "penalty"]))


def test_an_error_of_a_head_in_epochs_is_not_hidden(monkeypatch):
    def train(*args, **options):
        raise TopworkError("out of luck")

    monkeypatch.setattr(tuning, "train_heads", train)
    with pytest.raises(TopworkError, match="out of luck"):
        search(make_tuner(), start())


def test_the_occasions_are_said_in_words():
    assert make_tuner(folds=3).occasions == "3 folds of the training images"
    assert make_tuner(folds=3, seeds=2).occasions == "3 folds of the training images with 2 seeds"
    assert make_tuner(folds=0, seeds=5).occasions == "the validation images with 5 seeds"
    assert make_tuner(folds=0, seeds=1).occasions == "the validation images"
    assert make_tuner(folds=3).has_folds and not make_tuner(folds=0).has_folds


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_vectors_that_are_not_finite_are_refused(value):
    vectors = EXAMPLES.vectors.copy()
    vectors[3, 4] = value
    with pytest.raises(DatasetError, match="finite"):
        make_tuner(LabeledVectors(vectors, EXAMPLES.targets))


# Going on from a journal.


class Stop(KeyboardInterrupt):
    pass


def stop_after(count):
    left = [count]

    def hear(*args):
        left[0] -= 1
        if not left[0]:
            raise Stop

    return hear


def curves(trials):
    return [
        (trial.settings, fit.best_epoch, name, values)
        for trial in trials
        for fit in trial.fits
        for name, values in fit.curve.items()
    ]


@pytest.mark.parametrize("where", ["on_record", "on_tried"])
@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_a_search_that_was_interrupted_goes_on(trainer, tmp_path, where, count):
    trainer.score = lambda recipe: 0.5 + hits(recipe, PLANTED) / 20
    whole = make_tuner()
    chosen = search(whole, start())
    everything = set(trainer.heads)

    path = tmp_path / "trials.jsonl"
    trainer.heads, trainer.calls = [], []
    stop = Recorder(**{where: stop_after(count)})
    with pytest.raises(Stop):
        search(make_tuner(journal=Journal(path, stop), callback=stop), start())
    before = len(trainer.heads)
    assert 0 < before < len(everything)

    journal = Journal(path)
    journal.open()
    again = make_tuner(journal=journal)
    assert search(again, start()).settings == chosen.settings
    assert curves(again.trials) == curves(whole.trials)
    assert again.reused == before and again.trained == len(everything) - before
    # Nothing was trained twice.
    assert len(trainer.heads) == len(everything) and set(trainer.heads) == everything
    assert len(path.read_text().splitlines()) == len(everything)


def test_heads_from_a_journal_count_against_the_budget(trainer, tmp_path):
    def go_on(heads):
        journal = Journal(tmp_path / "trials.jsonl")
        journal.open()
        tuner = make_tuner(journal=journal, budget=Budget(heads=heads))
        search(tuner, start())
        return tuner

    first, same, more = go_on(30), go_on(30), go_on(60)
    assert (first.trained, first.reused) == (30, 0)
    assert (same.trained, same.reused) == (0, 30)
    assert (more.trained, more.reused) == (30, 30)
    assert [t.settings for t in same.trials] == [t.settings for t in first.trials]


def other_vectors():
    vectors = EXAMPLES.vectors.copy()
    vectors[-1, -1] += 1e-3
    return LabeledVectors(vectors, EXAMPLES.targets)


def other_targets():
    targets = EXAMPLES.targets.copy()
    targets[-1] = (targets[-1] + 1) % 3
    return LabeledVectors(EXAMPLES.vectors, targets)


@pytest.mark.parametrize(
    ("options", "reused"),
    [
        ({}, 3),
        ({"seeds": 2}, 3),
        ({"examples": other_vectors()}, 0),
        ({"examples": other_targets()}, 0),
        ({"folds": 4}, 0),
        ({"folds": 0}, 0),
        ({"seed": 1}, 0),
    ],
)
def test_what_was_trained_on_other_data_folds_or_seeds_is_not_reused(
    trainer, tmp_path, options, reused
):
    journal = Journal(tmp_path / "trials.jsonl")
    recipe = start(learning_rate=0.01)
    make_tuner(journal=journal).try_all([recipe])
    again = make_tuner(journal=journal, **options)
    again.try_all([recipe])
    assert again.reused == reused
    assert again.trained == len(again.replicates) - reused


@pytest.mark.parametrize(
    "change",
    [{name: value} for name, value in PINS.items() if name not in ("head", "normalize")]
    + [{"head": "logistic", "learning_rate": "auto", "penalty": 0.2}, {"normalize": True}],
)
def test_another_recipe_is_not_reused(trainer, tmp_path, change):
    journal = Journal(tmp_path / "trials.jsonl")
    make_tuner(journal=journal).try_all([start(learning_rate=0.01)])
    again = make_tuner(journal=journal)
    again.try_all([start(**{"learning_rate": 0.01} | change)])
    assert again.reused == 0


def test_other_views_of_the_training_images_are_not_reused(trainer, tmp_path):
    journal = Journal(tmp_path / "trials.jsonl")
    tuner = make_tuner(journal=journal)
    tuner.try_all([start(learning_rate=0.01)])
    (first, *_), vectors = tuner.replicates, tuner.examples
    views = replace(
        first,
        split=RowSplit(
            np.concatenate([first.split.training, first.split.training]), first.split.held_out
        ),
    )
    again = Tuner(vectors, [views], len(CLASSES), journal=journal)
    again.try_all([start(learning_rate=0.01)])
    assert again.reused == 0


def test_zero_and_none_of_something_are_one_recipe(trainer, tmp_path):
    journal = Journal(tmp_path / "trials.jsonl")
    make_tuner(journal=journal).try_all([start(learning_rate=0.01)])
    again = make_tuner(journal=journal)
    again.try_all([start(learning_rate=0.01, weight_decay=0.0, dropout=0)])
    assert again.trained == 0


# With real heads.

SHORT = start(epochs=3)


def run_search(heads=None, recipe=SHORT, pinned=frozenset(), **options):
    tuner = make_tuner(budget=Budget(heads=heads), **options)
    return tuner, search(tuner, recipe, pinned)


def test_the_same_seed_gives_the_same_choice_to_the_last_bit():
    (one, chosen), (two, again), (other, _) = (run_search(39, seed=seed) for seed in (3, 3, 4))
    assert chosen.settings == again.settings
    assert curves(one.trials) == curves(two.trials)
    assert curves(one.trials) != curves(other.trials)


def test_a_search_with_real_heads_goes_on_to_the_last_bit(tmp_path):
    path = tmp_path / "trials.jsonl"
    whole, chosen = run_search(39)
    with pytest.raises(Stop):
        run_search(39, journal=Journal(path, Recorder(on_record=stop_after(14))))
    journal = Journal(path)
    journal.open()
    again, same = run_search(39, journal=journal)
    assert 0 < again.reused < 39 and again.trained == 39 - again.reused
    assert same.settings == chosen.settings
    assert curves(again.trials) == curves(whole.trials)
    text = path.read_text()
    assert len([json.loads(line) for line in text.splitlines()]) == 39


def test_recipes_are_trained_as_they_are_alone():
    tuner = make_tuner()
    recipes = [SHORT.model_copy(update={"learning_rate": rate}) for rate in (0.001, 0.1)]
    tuner.try_all(recipes)
    vectors, targets = tuner.examples.vectors, tuner.examples.targets
    replicate = tuner.replicates[1]
    learnt = replicate.split.training[0]
    unseen = replicate.split.held_out[replicate.split.held_out >= 0]
    for trial in tuner.trials:
        _, history = train_head(
            LabeledVectors(vectors[learnt], targets[learnt]),
            LabeledVectors(vectors[unseen], targets[unseen]),
            trial.settings,
            outputs=3,
            seed=replicate.seed,
        )
        for name, values in trial.fits[1].curve.items():
            assert values == pytest.approx(history.history[name], rel=1e-4)


def test_a_real_divergence_is_reported_and_loses():
    # Weights that grow ninefold and more a step.
    recipe = start(epochs=3, batch_size=2, weight_decay=100)
    tuner, chosen = run_search(39, recipe, frozenset(["weight_decay"]))
    lost = {trial.settings.learning_rate for trial in tuner.trials if trial.diverged}
    assert lost and 0.1 in lost and 0.0001 not in lost
    assert not chosen.diverged and chosen.settings.learning_rate not in lost


def test_huge_vectors_are_no_trouble():
    tuner, chosen = run_search(78, examples=make_examples(scale=1e6))
    assert chosen.mean > 0.8
    # Standardised, they are as any others.
    usual, _ = run_search(78)
    assert [trial.mean for trial in tuner.trials if trial.settings.normalize] == pytest.approx(
        [trial.mean for trial in usual.trials if trial.settings.normalize], abs=0.02
    )


def test_columns_of_different_scale_are_normalized():
    # What says something is a thousand times smaller than what says nothing.
    vectors = EXAMPLES.vectors * 0.1
    vectors[:, 8:] = np.random.default_rng(1).normal(0, 100, (len(vectors), 8))
    tuner, chosen = run_search(78, examples=LabeledVectors(vectors, EXAMPLES.targets))
    assert chosen.settings.normalize
    raw = [trial.mean for trial in tuner.trials if not trial.settings.normalize]
    assert chosen.mean > max(raw) + 0.1


@pytest.mark.parametrize(
    ("recipe", "name", "values"),
    [
        (SHORT, "learning_rate", FEW_RATES),
        (start(epochs=3, learning_rate=0.1), "learning_rate", (0.1,)),
        (start(head="logistic", normalize=True), "penalty", PENALTIES),
        (start(head="logistic", penalty=0.5), "penalty", (0.5,)),
    ],
)
def test_auto_is_chosen_among_a_few(recipe, name, values):
    tuner = make_tuner()
    chosen = search_auto(tuner, recipe)
    assert sorted(getattr(trial.settings, name) for trial in tuner.trials) == sorted(values)
    assert all(differing(trial.settings, recipe) <= {name} for trial in tuner.trials)
    assert chosen in tuner.trials
    assert chosen.mean > 0.8


@pytest.mark.parametrize("head", ["dense", "logistic"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_class_weights_left_open_are_balanced_unless_that_costs_accuracy(head, seed):
    # Most are of one class, which the others can hardly be told from.
    random = np.random.default_rng(seed)
    targets = random.choice(3, 300, p=[0.86, 0.07, 0.07]).astype(np.int32)
    vectors = (targets[:, None] > 0) * 0.4 + random.normal(0, 1, (300, 4))
    unlike = LabeledVectors(vectors.astype(np.float32), targets)
    options = {"head": head, "class_weight": "auto"} | ({"epochs": 3} if head == "dense" else {})
    costly = make_tuner(unlike)
    chosen = search_auto(costly, start(**options))
    assert {t.settings.class_weight for t in costly.trials} == {"balanced", "none"}
    assert chosen.settings.class_weight is ClassWeight.NONE
    # Where classes are of one size weights change nothing.
    chosen = search_auto(make_tuner(), start(**options))
    assert chosen.settings.class_weight is ClassWeight.BALANCED


@pytest.mark.parametrize("folds", [3, 0])
@pytest.mark.parametrize("recipe", [SHORT, start(head="logistic", penalty=0.1, normalize=True)])
def test_logits_of_what_was_held_out_are_those_of_the_heads_that_had_not_seen_it(folds, recipe):
    tuner = make_tuner(folds=folds, seeds=2)
    recipe = recipe.model_copy(update={"learning_rate": 0.1})
    tuner.try_all([recipe])
    (trial,) = tuner.trials
    logits, labels = held_out_logits(tuner, trial)

    rows = []
    for replicate, fit in list(zip(tuner.replicates, trial.fits, strict=True))[: folds or 1]:
        own = replicate.split.held_out[replicate.split.held_out >= 0]
        expected = fit.head.logits(tuner.examples.vectors[own])
        assert np.array_equal(logits[len(rows) : len(rows) + len(own)], expected)
        rows += own.tolist()
    assert len(rows) == len(set(rows)) == len(logits) == (140 if folds else 70)
    assert labels.tolist() == tuner.examples.targets[rows].tolist()
    assert (logits.argmax(axis=1) == labels).mean() > 0.6


@pytest.mark.parametrize("change", [{}, {"inner_units": 8}])
def test_heads_that_are_remembered_without_weights_are_trained_again(tmp_path, change):
    journal = Journal(tmp_path / "trials.jsonl")
    recipe = SHORT.model_copy(update={"learning_rate": 0.01} | change)
    first, again = make_tuner(journal=journal), make_tuner(journal=journal)
    for tuner in (first, again):
        tuner.try_all([recipe])
    assert again.trained == 0 and all(fit.head is None for fit in again.trials[0].fits)
    expected, labels = held_out_logits(first, first.trials[0])
    logits, same = held_out_logits(again, again.trials[0])
    assert np.array_equal(labels, same)
    assert np.allclose(logits, expected, atol=1e-5)
    assert logits.shape == (140, 3)


def test_large_heads_are_not_kept():
    tuner = make_tuner()
    tuner.try_all([SHORT.model_copy(update={"learning_rate": 0.01, "inner_units": 8})])
    assert all(fit.head is None and fit.best_epoch for fit in tuner.trials[0].fits)


def test_a_fold_that_diverged_has_no_logits(trainer):
    tuner = make_tuner()
    recipe = start(learning_rate=0.01)
    tuner.try_all([recipe])
    lost = HeadFit(recipe, None, 0, tuner.trials[0].fits[0].curve)
    good = tuner.trials[0].fits[1:]
    logits, labels = held_out_logits(tuner, Trial(recipe, (lost, *good)))
    unseen = np.concatenate([one.split.held_out for one in tuner.replicates[1:]])
    assert labels.tolist() == tuner.examples.targets[unseen[unseen >= 0]].tolist()
    assert len(logits) == len(labels)
    with pytest.raises(DatasetError, match="finite"):
        held_out_logits(tuner, Trial(recipe, (lost, lost, lost)))


def make_task(task, count=180, length=16):
    """Targets of a task that the vectors say something of; and how many outputs they take."""
    rng = np.random.default_rng(3)
    outputs = {Task.CLASSES: 3, Task.BINARY: 1, Task.LABELS: 4, Task.NUMBER: 2}[task]
    vectors = rng.normal(0, 1, (count, length)).astype(np.float32)
    scores = vectors @ rng.normal(0, 1, (length, outputs)) + rng.normal(0, 1, (count, outputs))
    match task:
        case Task.CLASSES:
            targets = scores.argmax(axis=1).astype(np.int32)
        case Task.NUMBER:
            targets = (500 * scores + 7000).astype(np.float32)
        case _:
            targets = (scores > 0).astype(np.float32)
    return LabeledVectors(vectors, targets), outputs


@pytest.mark.parametrize("task", Task)
def test_heads_of_every_task_are_searched_and_held_out(task, tmp_path):
    examples, outputs = make_task(task)
    labels = examples.targets if task is not Task.LABELS else examples.targets > 0
    labels = labels[:, 0].astype(np.int64) if task is Task.BINARY else labels
    rows = np.arange(180, dtype=np.int32)
    split = RowSplit(rows[None, :120], rows[120:])
    names = ["a", "b", "c"][: 2 if task is Task.BINARY else 3]
    replicates = make_replicates(
        split,
        assign_strata(task, labels[:120]),
        2,
        1,
        0,
        classes=names if task.picks_one else None,
    )

    def make():
        journal = Journal(tmp_path / "trials.jsonl")
        journal.open()
        return Tuner(examples, replicates, outputs, task, journal=journal)

    tuner = make()
    pinned = frozenset(("normalize", "weight_decay", "dropout", "inner_units", "epochs"))
    trial = search(tuner, start(epochs=3), pinned)
    kinds = {trial.settings.head for trial in tuner.trials}
    assert kinds == {HeadKind.DENSE, HeadKind.LOGISTIC}
    for name, plain in (("class_weight", ClassWeight.NONE), ("label_smoothing", 0)):
        varied = {getattr(trial.settings, name) for trial in tuner.trials} != {plain}
        assert varied == (task is not Task.NUMBER)
    assert {trial.metric for trial in tuner.trials} == {task.metric}

    logits, targets = held_out_logits(tuner, trial)
    assert len(logits) == len(targets) == 120
    if task is Task.NUMBER:
        # Chance would be an error of some 1500.
        assert np.abs(logits - targets).mean() < 700
    else:
        found = decide(task, logits).reshape(targets.shape)
        assert (found == targets).mean() > 0.7

    # What is in the journal is not trained again, and the choice is the same.
    again = make()
    assert search(again, start(epochs=3), pinned).settings == trial.settings
    assert (again.trained, again.reused) == (0, tuner.trained)


def test_weights_of_images_make_other_trials():
    examples, outputs = make_task(Task.NUMBER)
    keys = set()
    for weights in (None, np.ones(180), np.arange(180)):
        given = replace(examples, weights=None if weights is None else np.float32(weights))
        keys.add(Tuner(given, make_tuner().replicates, outputs, Task.NUMBER).data_key)
    assert len(keys) == 3
