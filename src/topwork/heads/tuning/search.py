"""The search for a head: in stages, each from the best so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from topwork.core.config import AUTO, ClassWeight, HeadKind, HeadSettings, Optimizer
from topwork.core.task import Task
from topwork.heads.tuning.trials import Trial, choose, rank
from topwork.heads.tuning.tuner import Tuner

# Learning rates for Adam on pooled activations; SGD, whose steps are not scaled, needs larger
# ones. From coarse to fine: where the budget ends early, those that were tried are far apart.
COARSE_RATES = (0.0032, 0.032, 0.00032, 0.01, 0.001, 0.1, 0.0001)
RATES = (*COARSE_RATES, 0.00018, 0.00056, 0.0018, 0.0056, 0.018, 0.056)
FEW_RATES = (*COARSE_RATES, 0.000032)
SGD_SHIFT = 30.0
MOST_RATE = 10.0
# Factors of the best learning rate so far, to go with another value of an option.
NEIGHBORS = (10**-0.5, 1.0, 10**0.5)
LOWER = (0.03, 0.1, 0.3, 1.0)
DECAYS = (0.03, 0.1, 0.3, 1.0)
SMOOTHINGS = (0.05, 0.1, 0.2)
DROPOUTS = (0.2, 0.5)
FEW_UNITS, MANY_UNITS = 100, 1000
LONGER = 4
MOST_EPOCHS = 100_000
WEIGHTS = (ClassWeight.NONE, ClassWeight.BALANCED)
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)


def search(tuner: Tuner, start: HeadSettings, pinned: frozenset[str] = frozenset()) -> Trial:
    """Searches stage by stage, each from the best so far, and chooses by `choose`.

    Learning rate first; then the options that need other vectors (normalisation), those that
    cost nothing (weight decay, label smoothing, class weighting), dropout, the logistic head,
    an inner layer, and more epochs. With `head` pinned to the logistic one: penalty,
    normalisation, class weighting.

    Args:
        tuner: what to try on, and how much it may cost.
        start: values of the options that are not searched.
        pinned: names of options that stay as they are; one that is `auto` is searched anyway.
    """
    pinned &= frozenset(HeadSettings.model_fields)
    pinned -= {name for name in pinned if getattr(start, name) == AUTO}
    if tuner.task is Task.NUMBER:
        # A number has neither classes nor a label to smooth.
        pinned |= {"class_weight", "label_smoothing"}
    if start.class_weight is ClassWeight.AUTO:
        start = _with(start, class_weight=ClassWeight.NONE)
    if "head" not in pinned:
        start = _with(start, head=HeadKind.DENSE)
    stages = _logistic_stages if start.head is HeadKind.LOGISTIC else _dense_stages
    for stage in stages(start, pinned):
        # The logistic head has none of the options that the other stages vary.
        alike = [trial for trial in tuner.trials if trial.settings.head is start.head]
        tuner.try_all(stage(max(alike, key=rank).settings if alike else start))
    return choose(tuner.trials)


# Makes candidates from the best one so far.
Stage = Callable[[HeadSettings], list[HeadSettings]]


def _dense_stages(start: HeadSettings, pinned: frozenset[str]) -> list[Stage]:
    rates = _rates(start, RATES)

    def vary(
        best: HeadSettings, name: str, values: Sequence[Any], factors: Sequence[float] = NEIGHBORS
    ) -> list[HeadSettings]:
        if name in pinned:
            return []
        near = _near(float(best.learning_rate), (1,) if "learning_rate" in pinned else factors)
        return [_with(best, **{name: value}, learning_rate=r) for value in values for r in near]

    def normalize(best: HeadSettings) -> list[HeadSettings]:
        turned = _with(best, normalize=not start.normalize)
        return [] if "normalize" in pinned else [_with(turned, learning_rate=r) for r in rates]

    return [
        lambda best: [_with(best, learning_rate=rate) for rate in rates],
        normalize,
        lambda best: [
            *vary(best, "weight_decay", DECAYS),
            *vary(best, "label_smoothing", SMOOTHINGS),
            *vary(best, "class_weight", (ClassWeight.BALANCED,)),
        ],
        lambda best: vary(best, "dropout", DROPOUTS),
        lambda best: _logistic_candidates(start, pinned),
        lambda best: vary(best, "inner_units", (FEW_UNITS,), LOWER),
        # Ten times the weights, and the time: only where some have helped.
        lambda best: (
            vary(best, "inner_units", (MANY_UNITS,)) if best.inner_units == FEW_UNITS else []
        ),
        lambda best: vary(best, "epochs", (min(LONGER * start.epochs, MOST_EPOCHS),), LOWER),
    ]


def _logistic_stages(start: HeadSettings, pinned: frozenset[str]) -> list[Stage]:
    penalties = _penalties(start)

    def vary(best: HeadSettings, name: str, value: Any) -> list[HeadSettings]:
        if name in pinned:
            return []
        return [_with(best, **{name: value}, penalty=penalty) for penalty in penalties]

    return [
        lambda best: [_with(best, penalty=penalty) for penalty in penalties],
        lambda best: vary(best, "normalize", True),
        lambda best: vary(best, "class_weight", ClassWeight.BALANCED),
    ]


def _logistic_candidates(start: HeadSettings, pinned: frozenset[str]) -> list[HeadSettings]:
    """Returns logistic heads to compare with those trained in epochs, unless that is ruled out."""
    senseless = ("weight_decay", "label_smoothing", "dropout", "inner_units")
    if not pinned.isdisjoint(("head", "learning_rate")) or any(
        name in pinned and getattr(start, name) for name in senseless
    ):
        return []
    head = _with(start, head=HeadKind.LOGISTIC, **dict.fromkeys(senseless, 0))
    if "normalize" not in pinned:
        head = _with(head, normalize=True)
    weights = (start.class_weight,) if "class_weight" in pinned else WEIGHTS
    return [
        _with(head, penalty=penalty, class_weight=weight)
        for penalty in _penalties(start)
        for weight in weights
    ]


def _rates(start: HeadSettings, rates: Sequence[float]) -> list[float]:
    if start.learning_rate != AUTO:
        return [float(start.learning_rate)]
    shift = SGD_SHIFT if start.optimizer is Optimizer.SGD else 1
    return [_round(rate * shift) for rate in rates]


def _round(rate: float) -> float:
    return float(f"{rate:.2g}")


def _near(rate: float, factors: Sequence[float]) -> list[float]:
    return [_round(min(rate * factor, MOST_RATE)) for factor in factors]


def _penalties(start: HeadSettings) -> Sequence[float]:
    return PENALTIES if start.penalty == AUTO else (float(start.penalty),)


def _with(settings: HeadSettings, **values: Any) -> HeadSettings:
    return settings.model_copy(update=values)


def usual(start: HeadSettings) -> HeadSettings:
    """Returns settings with the usual value for what is left to `auto`: nothing may choose it."""
    if start.class_weight is ClassWeight.AUTO:
        start = _with(start, class_weight=ClassWeight.BALANCED)
    if start.head is HeadKind.LOGISTIC:
        penalties = _penalties(start)
        return _with(start, penalty=penalties[len(penalties) // 2])
    return _with(start, learning_rate=_rates(start, FEW_RATES)[0])


def search_auto(tuner: Tuner, start: HeadSettings) -> Trial:
    """Chooses what `start` leaves to `auto`.

    That is the learning rate, or a logistic head's penalty; and the class weights, which are
    balanced unless that costs more accuracy than one standard error.
    """
    if start.head is HeadKind.LOGISTIC:
        name, values = "penalty", sorted(_penalties(start))
    else:
        name, values = "learning_rate", _rates(start, FEW_RATES)
    if start.class_weight is not ClassWeight.AUTO:
        tuner.try_all([_with(start, **{name: value}) for value in values])
        return choose(tuner.trials)
    tuner.try_all(
        [_with(start, class_weight=ClassWeight.BALANCED, **{name: value}) for value in values]
    )
    # Without weights the optimum lies near that with them.
    values, best = sorted(values), getattr(max(tuner.trials, key=rank).settings, name)
    place = values.index(best)
    near = values[max(place - 1, 0) : place + 2]
    tuner.try_all([_with(start, class_weight=ClassWeight.NONE, **{name: v}) for v in near])
    return choose(tuner.trials, ClassWeight.BALANCED)
