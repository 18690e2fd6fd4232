import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from topwork.core.config import Settings
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.listing import Skipped
from topwork.heads.examples import HeadFit
from topwork.heads.tuning.trials import Trial
from topwork.metrics.conformal import find_residuals
from topwork.metrics.history import History
from topwork.metrics.scores import report_classes, report_labels, report_numbers
from topwork.recipes.console import make_console
from topwork.recipes.show_training import (
    next_command,
    show_dataset,
    show_division,
    show_history,
    show_skipped,
    show_trials,
)
from topwork.recipes.verdict import say_calibration, verdict
from topwork.vectors.duplicates import Likeness, Pair


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


REPORT = report_classes(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 2)


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (
            history((0.5, 0.4, 0.6), (0.7, 0.75, 0.72), 2),
            "It overfits from epoch 3: by the last epoch the validation loss has risen from 0.4 "
            "to 0.6, and training accuracy is 23 points above validation.",
        ),
        (
            history((0.5, 0.4, 0.3), (0.7, 0.75, 0.9), 3),
            "It does not overfit, and the last epoch is the best: more may help, as "
            "--most-epochs 6 allows.",
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
    assert lines[2] == (
        "The epoch was chosen on these images, so the accuracy is slightly too good; that of folds "
        "is less so, that of a test not at all."
    )
    assert lines[-1].endswith(words)
    assert len(lines) == 4


def make_trial(rate, *accuracies, **options):
    head = Settings.create(learning_rate=rate, **options).head_settings()
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    fits = [
        HeadFit(head, None, 1, dict(zip(names, ([0.5], [0.9], [1 - a], [a]), strict=True)))
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
        "Learning rate 0.1, chosen among 2 on 2 folds: accuracy 70.0 ± 18.4 %"
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


def test_the_verdict_of_a_solved_head_speaks_of_no_epochs():
    lines = verdict(history((0.5,), (0.75,), 1, (0.4,), (0.8,)), REPORT, solved=True)
    assert lines[0] == "Solved to its optimum: there are no epochs to choose from."
    assert lines[1].startswith("Validation accuracy 75.0%")
    assert len(lines) == 2


def test_skipped_files_are_named_up_to_ten(capsys):
    show_skipped(make_console(stderr=False), [Skipped(f"{n}.jpg", "bad") for n in range(13)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Left out 13 files:"
    assert lines[1] == "  0.jpg: bad"
    assert lines[-1] == "  and 3 more; --json lists them all"


def test_the_next_command_can_be_copied_into_a_shell(tmp_path):
    assert next_command(tmp_path / "a b", "it's", True) == (
        f"topwork evaluate '{tmp_path}/a b' 'it'\"'\"'s'"
    )
    assert next_command(tmp_path, "x", False) == f"topwork predict {tmp_path} IMAGE..."


def printed(show, *args):
    """Calls what prints on a console, and returns the lines."""
    file = io.StringIO()
    show(Console(file=file, width=80), *args)
    lines = file.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines), lines
    return lines


def words(lines):
    return " ".join(" ".join(lines).split())


SETS = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0]], bool)


NUMBERS = np.array([[10_500.0, 0.25], [150_000, 0.75], [1_234_567, -3]])


@pytest.mark.parametrize(
    ("task", "classes", "labels", "heading", "rows"),
    [
        (
            Task.BINARY, ("a", "b"), np.int32([0, 1, 1]), "Found 3 images of 2 classes in x.csv",
            [["class", "train", "test"], ["a", "1", "0"], ["b", "1", "1"]],
        ),
        (
            Task.LABELS, ("r", "g", "b"), SETS, "Found 3 images of 3 labels in x.csv",
            [["label", "train", "test"], ["r", "2", "0"], ["g", "0", "0"], ["b", "1", "0"]],
        ),
        (
            Task.NUMBER, ("price",), NUMBERS[:, :1],
            "Found 3 images with a number, price, in x.csv",
            [["train", "test"], ["price,", "least", "10500", "1234567"],
             ["price,", "mean", "80250", "1234567"], ["price,", "most", "150000", "1234567"]],
        ),
        (
            Task.NUMBER, ("price", "kilos"), NUMBERS, "Found 3 images of 2 numbers in x.csv",
            [["train", "test"], ["price,", "least", "10500", "1234567"],
             ["price,", "mean", "80250", "1234567"], ["price,", "most", "150000", "1234567"],
             ["kilos,", "least", "0.25", "-3"], ["kilos,", "mean", "0.5", "-3"],
             ["kilos,", "most", "0.75", "-3"]],
        ),
    ],
)  # fmt: skip
def test_data_of_each_task_is_shown_by_split(task, classes, labels, heading, rows):
    dataset = replace(
        Dataset.from_sources([b"a", b"b", b"c"], ["a", "b", "b"]),
        root="x.csv", task=task, classes=classes, labels=labels,
        splits=np.array(["train", "train", "test"]),
    )  # fmt: skip
    lines = printed(show_dataset, dataset)
    assert lines[0] == heading
    assert [line.split() for line in lines[1:]] == [*rows, ["all", "2", "1"]]
    grouped = printed(show_dataset, replace(dataset, groups=np.array([4, 4, 9])))
    assert grouped[-1] == "2 groups of images"


def number_history(errors, val_errors, best):
    columns = {
        "loss": [error**2 for error in errors],
        "mae": [*errors],
        "val_loss": [error**2 for error in val_errors],
        "val_mae": [*val_errors],
    }
    return History(columns, best)


NUMBER_REPORT = report_numbers(np.array([[10.0], [20], [40]]), np.array([[11.0], [18], [43]]))


def test_the_verdict_of_numbers_speaks_of_errors():
    lines = verdict(number_history((3, 2, 1), (4, 3, 5), 2), NUMBER_REPORT)
    assert lines[0] == "Kept epoch 2 of 3: the lowest validation loss."
    assert lines[1].startswith("Validation mean absolute error 2, 95 % interval 0 to 4.484 ")
    assert lines[3] == (
        "It overfits from epoch 3: by the last epoch the validation loss has risen from 9 to 25, "
        "and the training error is 4 below validation."
    )
    lines = verdict(number_history((3, 2, 1), (4, 3, 2.5), 3), NUMBER_REPORT)
    assert (
        "the error is slightly too small; that of folds is less so, that of a test not at all."
        in lines[2]
    )
    assert lines[3].endswith("is the best: more may help, as --most-epochs 6 allows.")
    # An error far below validation is not so many points of accuracy.
    lines = verdict(number_history((3, 2, 1), (40, 30, 30.1), 2), NUMBER_REPORT)
    assert lines[3] == "It does not overfit: the validation loss has not turned."


def test_a_single_epoch_was_not_chosen():
    lines = verdict(history((0.5,), (0.75,), 1, (0.4,), (0.8,)), REPORT)
    assert not any("chosen on these images" in line for line in lines)


def test_the_verdict_of_labels_says_what_an_accuracy_is_of():
    report = report_labels(SETS, SETS, SETS.astype(np.float32))
    lines = verdict(history((0.5, 0.4, 0.3), (0.7, 0.75, 0.9), 3), report)
    assert lines[1].startswith("Validation accuracy 100.0% of all decisions, 95 % interval 43.9%")


def test_large_figures_of_a_history_do_not_run_into_each_other():
    found = number_history((43_107.25, 1234.5), (9_999_999.4, 12.5), 2)
    rows = [line.split() for line in printed(show_history, found)]
    assert rows[0] == ["epoch", "loss", "mae", "val_loss", "val_mae"]
    assert rows[1] == ["1", "1.8582e+09", "43107.2", "1.0000e+14", "9999999.4"]
    assert rows[2] == ["2", "1523990.2", "1234.5000", "156.2500", "12.5000", "kept"]
    lost = number_history((1.5, float("nan")), (1.5, float("inf")), 1)
    assert printed(show_history, lost)[2].split()[1:] == ["nan", "nan", "inf", "inf"]


def make_number_trial(rate, *errors, **options):
    head = Settings.create(learning_rate=rate, **options).head_settings()
    names = ("loss", "mae", "val_loss", "val_mae")
    fits = [
        HeadFit(head, None, 1, {n: [e**2 if "loss" in n else e] for n in names}) for e in errors
    ]
    return Trial(head, tuple(fits))


def test_recipes_of_numbers_are_shown_with_their_errors_the_lowest_first():
    trials = [make_number_trial(0.01, 36_000, 34_000), make_number_trial(0.1, 1_025.5, 1_026.5)]
    assert shown(trials, trials[1]) == [
        "Learning rate 0.1, chosen among 2 on 2 folds: mae 1026 ± 0.9187"
    ]
    trials += [make_number_trial(0.1, 500, 600, dropout=0.5)]
    lines = shown(trials, trials[1])
    assert [line.split()[0] for line in lines[1:5]] == ["mae", "550", "1026", "35000"]
    assert lines[2].split()[3:] == ["305000.0", "1", "rate", "0.1,", "dropout", "0.5"]
    assert lines[3].endswith("chosen")
    assert all(len(line) <= 80 for line in lines)
    # The columns stand below each other.
    assert len({line.index("rate") for line in lines[2:5]} | {lines[1].index("recipe")}) == 1


def test_the_division_says_what_stays_together_and_what_leaks():
    data = replace(
        Dataset.from_sources([b"abcd"[n : n + 1] for n in range(4)], ["a", "b", "a", "b"]),
        names=("one.png", "two.png", "odd\nname.png", "four.png"),
    )
    made = data.with_validation(0.5, 3)
    assert words(printed(show_division, made, [])) == (
        "No validation split: 2 of the training images were set aside, 50%, stratified, seed 3"
    )
    grouped = replace(made, groups=np.arange(4))
    said = words(printed(show_division, grouped, []))
    assert said.endswith("seed 3; groups stay on one side")
    copied = replace(made, copies=np.arange(4))
    said = words(printed(show_division, copied, []))
    assert said.endswith("seed 3; copies of a picture stay on one side")
    assert "group" not in said
    copied = replace(
        grouped, copies=np.arange(4), split_made=replace(made.split_made, copied=("a",))
    )
    said = words(printed(show_division, copied, []))
    assert said.endswith("; groups and copies of a picture stay on one side, but for a")
    own = replace(data, divided=True, splits=np.array(["train", "train", "validation", "train"]))
    pairs = [Pair(0, n, Likeness.NEAR, 1.0) for n in (1, 2)]
    assert printed(show_division, own, pairs[:1]) == []
    assert words(printed(show_division, own, pairs)).startswith(
        "Leakage: 1 pair of one picture, one to train and one to validate, such as one.png and "
        "odd\\nname.png: "
    )


def test_ranges_are_said_as_wide_as_they_are():
    found = find_residuals(np.zeros((99, 1), np.float32), np.arange(99)[:, None] * 1000.0, "folds")
    assert say_calibration(found) == (
        "Ranges: 9 of 10 numbers lie within ± 89000 of the truth, measured on folds."
    )
    few = find_residuals(np.zeros((3, 2), np.float32), np.ones((3, 2)), "validation")
    assert say_calibration(few) == ("Ranges: 3 images are too few to promise any.")
