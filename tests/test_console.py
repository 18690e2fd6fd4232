import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from topwork import console
from topwork.config import Settings
from topwork.console import (
    Screen,
    next_command,
    shape_lines,
    show_evaluation,
    show_prediction,
    show_skipped,
    show_trials,
    verdict,
)
from topwork.dataset import Dataset
from topwork.evaluation import Evaluation, Sureness
from topwork.history import History
from topwork.listing import Skipped
from topwork.metrics import make_report
from topwork.training import Fit
from topwork.trials import Trial
from topwork.vectors import Progress, Vectors


def history(val_loss, val_accuracy, best, loss=(0.9, 0.5, 0.3), accuracy=(0.6, 0.8, 0.95)):
    return History(
        {
            "loss": [*loss],
            "accuracy": [*accuracy],
            "val_loss": [*val_loss],
            "val_accuracy": [*val_accuracy],
        },
        best,
    )


DATASET = Dataset.from_sources([b"a", b"b"], ["a", "b"])
REPORT = make_report(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 2)


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (
            history((0.5, 0.4, 0.6), (0.7, 0.75, 0.72), 2),
            "It overfits from epoch 3: by the last epoch the validation loss has risen from 0.400 "
            "to 0.600, and training accuracy is 23 points above validation.",
        ),
        (
            history((0.5, 0.4, 0.3), (0.7, 0.75, 0.9), 3),
            "It does not overfit, and the last epoch is the best: more may help.",
        ),
        (
            history((0.5, 0.4, 0.41), (0.7, 0.78, 0.72), 2),
            "It does not overfit: the validation loss has not turned.",
        ),
        (
            history((0.5, 0.4, 0.41), (0.7, 0.6, 0.6), 2),
            "though training accuracy is 20 points above.",
        ),
        (
            history((0.5, 0.4, float("nan")), (0.7, 0.75, 0.1), 2),
            "It diverged: from epoch 3 the loss is not finite. The learning rate is too high.",
        ),
    ],
)
def test_the_verdict_says_what_the_curve_means(curve, words):
    lines = verdict(curve, REPORT)
    assert lines[0].startswith(f"Kept epoch {curve.best_epoch} of 3")
    assert lines[1] == (
        "Validation accuracy 75.0%, 95 % interval 30.1% to 95.4% (4 images), macro average 83.3%."
    )
    assert lines[-1].endswith(words)
    assert len(lines) == 3


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def test_without_a_terminal_there_is_a_line_every_ten_seconds(clock):
    file = io.StringIO()
    with Screen(Console(file=file, width=80)) as screen:
        screen.waiting("preparing something")
        for done in range(1, 301):
            clock.now += 0.05
            screen.read(done, 300)
        for done in range(1, 251):
            clock.now += 0.1
            screen.progressed(Progress(done, 1000, 7))
    assert file.getvalue().splitlines() == [
        "images read 202 of 300, 20 images/s, 5 s left",
        "vectors 102 of 1000, 10 images/s, 89 s left, 7 reused",
        "vectors 203 of 1000, 10 images/s, 79 s left, 7 reused",
    ]


def test_a_terminal_sees_bar_rate_time_left_and_what_was_reused(clock):
    file = io.StringIO()
    screen_console = Console(file=file, width=80, force_terminal=True, color_system=None)
    with Screen(screen_console) as screen:
        screen.waiting("preparing efficientnet-lite0")
        for done in range(1, 40):
            clock.now += 0.2
            screen.progressed(Progress(done, 90, 25))
    text = file.getvalue()
    assert "preparing efficientnet-lite0" in text
    assert "39/90" in text
    assert "images/s" in text
    assert "25 reused" in text


def test_each_network_and_view_counts_from_the_start(clock):
    """One after the other, and all of them are of one job."""
    file = io.StringIO()
    with Screen(Console(file=file, width=80)) as screen:
        for seconds, count in ((0.125, 150), (0.5, 30)):
            for done in range(count + 1):
                clock.now += seconds
                screen.progressed(Progress(done, count, 0))
        screen.embedded(DATASET, Vectors(np.zeros((90, 3), np.float32), ("a",) * 90, 180, 0))
    assert file.getvalue().splitlines() == [
        "vectors 80 of 150, 8 images/s, 9 s left, 0 reused",
        "vectors 20 of 30, 2 images/s, 5 s left, 0 reused",
        "180 vectors: 180 new, 0 reused, 5 images/s",
    ]


def test_a_search_without_an_end_says_how_many_heads_are_done(clock):
    file = io.StringIO()
    with Screen(Console(file=file, width=80)) as screen:
        for done in range(0, 300, 2):
            clock.now += 0.1
            screen.tried(done, None)
    assert file.getvalue().splitlines() == ["heads 202, 20 heads/s"]


def make_trial(rate, *accuracies, **options):
    head = Settings.create(learning_rate=rate, **options).head_settings()
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    fits = [
        Fit(head, None, 1, dict(zip(names, ([0.5], [0.9], [1 - a], [a]), strict=True)))
        for a in accuracies
    ]
    return Trial(head, tuple(fits))


def shown(trials, chosen, occasions="2 folds of the training images"):
    """Prints trials as those of a search on some occasions."""
    file = io.StringIO()
    tuner = SimpleNamespace(trials=trials, occasions=occasions)
    show_trials(Console(file=file, width=80), tuner, chosen)
    return file.getvalue().splitlines()


def test_one_open_number_is_said_in_one_line():
    trials = [make_trial(rate, 0.5 + rate, 0.7 + rate) for rate in (0.00032, 0.1)]
    assert shown(trials, trials[1]) == [
        "Learning rate 0.1, chosen among 2 on 2 folds: accuracy 70.0 ± 10.0 %"
    ]
    one = [make_trial(0.1, 0.7)]
    assert shown(one, one[0], "the validation images") == [
        "Learning rate 0.1, tried on the validation images: accuracy 70.0 %"
    ]
    solved = [make_trial("auto", 0.8, 0.8, head="logistic", penalty=p) for p in (0.1, 1)]
    assert shown(solved, solved[1]) == [
        "Penalty 1, chosen among 2 on 2 folds: accuracy 80.0 ± 0.0 %"
    ]


def test_few_recipes_that_differ_in_more_than_a_number_are_a_table():
    trials = [make_trial(0.1, 0.7, 0.7), make_trial(0.1, 0.9, 0.9, weight_decay=0.3)]
    lines = shown(trials, trials[1])
    assert lines[0] == "4 heads: 2 recipes on 2 folds of the training images"
    assert " ".join(lines[2].split()) == "90.0 ± 0.0 % 0.100 1 rate 0.1, decay 0.3 chosen"
    assert " ".join(lines[3].split()) == "70.0 ± 0.0 % 0.300 1 rate 0.1"
    assert len(lines) == 4


def test_the_best_recipes_and_the_chosen_one_are_shown_and_what_diverged():
    trials = [make_trial(n / 1000, 0.5 + n / 100, 0.5 + n / 100) for n in range(1, 16)]
    trials.append(make_trial(5, float("nan"), 0.5))
    lines = shown(trials, trials[2])
    rates = [line.split("rate ")[1] for line in lines[2:13]]
    assert rates == [f"{n / 1000:g}" for n in range(15, 5, -1)] + ["0.003  chosen"]
    assert lines[13:] == [
        "Diverged, and lost: rate 5",
        "Chosen: the simplest recipe within one standard error of the best.",
    ]
    assert all(len(line) <= 80 for line in lines)


def test_what_the_probabilities_are_worth_is_said_in_lines_that_fit(capsys, trained):
    sureness = Sureness(0.05, 0.1, 0.02, 0.25, 0.0, 1.0, 1.5)
    result = Evaluation(REPORT, "test", 0, (), sureness)
    screen = console.make_console(stderr=False)
    show_evaluation(screen, replace(trained.model, classes=("a", "b")), result)
    lines = capsys.readouterr().out.splitlines()
    assert "Answers 25.0% of the images, 0.0% of those right" in lines
    assert (
        "Label sets hold the true class for 100.0% of the images, 1.50 classes on average" in lines
    )
    nobody = replace(sureness, answered=0.0, answered_accuracy=float("nan"))
    show_evaluation(
        screen, replace(trained.model, classes=("a", "b")), replace(result, sureness=nobody)
    )
    assert "Answers 0.0% of the images, – of those right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ({"predictions": [{"label": "cat", "probability": 0.9}]}, "a.png: cat 90.0%"),
        (
            {
                "predictions": [
                    {"label": "cat", "probability": 0.5}, {"label": "dog", "probability": 0.4},
                ],
                "abstained": True,
                "labels": ["cat", "dog"],
            },
            "a.png: not sure (cat 50.0%, dog 40.0%); one of: cat, dog",
        ),
        (
            {"predictions": [{"label": "a\nb", "probability": 1}], "abstained": False},
            "a.png: a\\nb 100.0%",
        ),
        ({"error": "the file is empty (0 bytes)"}, "a.png: the file is empty (0 bytes)"),
    ],
)  # fmt: skip
def test_a_prediction_is_one_line(capsys, answer, line):
    show_prediction(console.make_console(stderr=False), Path("a.png"), answer)
    assert capsys.readouterr().out == f"{line}\n"


def test_the_verdict_of_a_solved_head_speaks_of_no_epochs():
    lines = verdict(history((0.5,), (0.75,), 1, (0.4,), (0.8,)), REPORT, solved=True)
    assert lines[0] == "Solved to its optimum: there are no epochs to choose from."
    assert lines[1].startswith("Validation accuracy 75.0%")
    assert len(lines) == 2


def test_shapes_of_a_stack_have_a_line_for_each_network(trained):
    (network,) = trained.stack.networks
    larger = replace(network, image_size=64, feature_shape=(2, 2, 1280))
    assert shape_lines(replace(trained.stack, networks=(larger, network)), 32, 10) == [
        "INPUTS (32, 64, 64, 3) ⇒ BASE (32, 2, 2, 1280)",
        "INPUTS (32, 32, 32, 3) ⇒ BASE (32, 1, 1, 1280)",
        "⇒ VECTORS (32, 2560) ⇒ OUTPUTS (32, 10)",
    ]


def test_skipped_files_are_named_up_to_ten(capsys):
    show_skipped(
        console.make_console(stderr=False), [Skipped(f"{n}.jpg", "bad") for n in range(13)]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Left out 13 files:"
    assert lines[1] == "  0.jpg: bad"
    assert lines[-1] == "  and 3 more; --json lists them all"


def test_shapes_stand_on_one_line_if_they_fit(trained):
    (network,) = trained.stack.networks
    short = replace(network, vector_length=64, feature_shape=(1, 1, 64))
    assert shape_lines(replace(trained.stack, networks=(short,)), 8, 3) == [
        "INPUTS (8, 32, 32, 3) ⇒ BASE (8, 1, 1, 64) ⇒ VECTORS (8, 64) ⇒ OUTPUTS (8, 3)"
    ]
    assert shape_lines(trained.stack, 32, 10) == [
        "INPUTS (32, 32, 32, 3) ⇒ BASE (32, 1, 1, 1280)",
        "⇒ VECTORS (32, 1280) ⇒ OUTPUTS (32, 10)",
    ]


def test_the_next_command_can_be_copied_into_a_shell(tmp_path):
    assert next_command(tmp_path / "a b", "it's", True) == (
        f"topwork evaluate '{tmp_path}/a b' 'it'\"'\"'s'"
    )
    assert next_command(tmp_path, "x", False) == f"topwork predict {tmp_path} IMAGE..."
