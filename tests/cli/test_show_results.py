from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from topwork.cli.show_results import show_confusion, show_evaluation, show_prediction
from topwork.metrics.scores import report_classes, report_labels, report_numbers
from topwork.models.evaluate import CalibrationScores, Evaluation
from topwork.recipes.console import make_console

REPORT = report_classes(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 2)


@pytest.fixture
def shown(capsys, trained):
    """Prints an evaluation and returns its lines, which fit the terminal."""

    def show(report, classes, calibration=None, split="test", seen=0):
        result = Evaluation(
            report, split, seen, (), calibration or CalibrationScores(), trained.predictions
        )
        show_evaluation(make_console(stderr=False), replace(trained.model, classes=classes), result)
        lines = capsys.readouterr().out.splitlines()
        assert all(len(line) <= 80 for line in lines)
        return lines

    return show


def words(lines):
    """Joins lines that were wrapped."""
    return " ".join(" ".join(lines).split())


def test_what_the_probabilities_are_worth_is_said_in_lines_that_fit(shown):
    calibration = CalibrationScores(0.05, 0.1, 0.02, 0.25, 0.0, 1.0, 1.5)
    lines = shown(REPORT, ("a", "b"), calibration)
    assert "Calibration error 0.050 (0.100 before the temperature; chance: 0.020)" in lines
    assert "Answers 25.0% of the images, 0.0% of those right" in lines
    assert (
        "Label sets hold the true class for 100.0% of the images, 1.50 classes on average" in lines
    )
    nobody = replace(calibration, answered=0.0, answered_accuracy=float("nan"))
    assert "Answers 0.0% of the images, – of those right" in shown(REPORT, ("a", "b"), nobody)


def test_classes_have_a_row_each_and_a_matrix(shown):
    lines = shown(REPORT, ("cat", "dog"))
    assert words(lines[:3]) == (
        "Test images: accuracy 75.0%, 95 % interval 30.1% to 95.4% (4 images), macro "
        "average 83.3%. In the macro average every class counts the same."
    )
    rows = [line.split() for line in lines[4:7]]
    assert rows == [
        ["class", "precision", "recall", "support"],
        ["cat", "100.0%", "66.7%", "3"],
        ["dog", "50.0%", "100.0%", "1"],
    ]
    assert [line.split() for line in lines[-2:]] == [["cat", "1", "2", "1"], ["dog", "2", "·", "1"]]


def test_labels_have_figures_of_their_own_and_no_matrix(shown):
    true = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]], bool)
    said = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1]], bool)
    chances = np.where(said, 0.9, 0.1)
    lines = shown(report_labels(true, said, chances), ("red", "a very long label " * 5, "blue"))
    end = lines.index("")
    assert words(lines[:end]).startswith(
        "Test images: accuracy 77.8% of all decisions, 95 % interval "
    )
    rows = [line.split() for line in lines[end + 1 :]]
    assert rows.pop(0) == ["average"]
    assert rows[0] == ["label", "precision", "recall", "F1", "precision", "support"]
    assert rows[1] == ["red", "100.0%", "100.0%", "100.0%", "100.0%", "2"]
    assert rows[2][-5:] == ["100.0%", "50.0%", "66.7%", "83.3%", "2"]
    # Nobody has it: there is no recall, and what was said of it was wrong.
    assert rows[3] == ["blue", "0.0%", "–", "0.0%", "–", "0"]
    assert len(rows) == 4


def test_numbers_are_a_sentence_and_their_ranges(shown):
    report = report_numbers(np.array([[10.0], [20], [40]]), np.array([[11.0], [18], [43]]))
    lines = shown(report, ("price",), CalibrationScores(covered=2 / 3, set_size=7.25))
    assert words(lines) == (
        "Test images: mean absolute error 2, 95 % interval 0 to 4.484 (3 images); half of "
        "the errors are below 2, root mean square 2.16, R² 0.970. Ranges hold the true number "
        "for 66.7% of the images, and are 7.25 wide"
    )


@pytest.mark.parametrize(
    ("report", "metric"),
    [
        (REPORT, "accuracy"),
        (report_numbers(np.array([[1.0], [2]]), np.array([[1.0], [3]])), "mean absolute error"),
    ],
)
def test_images_that_were_seen_in_training_are_a_warning(shown, report, metric):
    classes = ("a", "b") if report is REPORT else ("price",)
    said = words(shown(report, classes, seen=3))
    assert said.startswith("3 of these images were used in training or validation: ")
    assert metric in said.partition(" is too good")[0]
    assert shown(report, classes, split="validation", seen=3)[0].startswith("Validation images:")


def test_each_of_several_numbers_has_a_row(shown):
    true = np.array([[10_000.0, 1], [30_000, 2], [20_000, 3]])
    report = report_numbers(true, true + np.array([[1000, 0], [0, 0.5], [-500, 0]]))
    lines = shown(report, ("price", "kilos"))
    assert [line.split() for line in lines[-3:]] == [
        ["number", "mean", "absolute", "error", "R²"],
        ["price", "500", "0.994"],
        ["kilos", "0.1667", "0.875"],
    ]


def test_a_matrix_too_wide_for_the_terminal_gives_way_to_the_worst_mistakes(capsys):
    true = np.arange(40).repeat(3)
    report = report_classes(true, np.where(true == 7, 8, true), 40)
    show_confusion(make_console(stderr=False), tuple(f"class {n}" for n in range(40)), report)
    lines = capsys.readouterr().out.splitlines()
    assert "Most frequent mistakes" in lines[1]
    assert lines[2].split(maxsplit=1) == ["3", "class 7 taken for class 8"]
    assert len(lines) == 3


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
        (
            {
                "predictions": [
                    {"label": "red", "probability": 0.9}, {"label": "blue", "probability": 0.7},
                ],
                "present": ["red", "blue"],
            },
            "a.png: red, blue (red 90.0%, blue 70.0%)",
        ),
        (
            {"predictions": [{"label": "red", "probability": 0.2}], "present": []},
            "a.png: none (red 20.0%)",
        ),
        ({"numbers": [{"name": "price", "value": 1234.5678}]}, "a.png: price 1235"),
        (
            {
                "numbers": [
                    {"name": "width", "value": 2.5, "range": [1.25, 3.75]},
                    {"name": "odd\nname", "value": -0.001, "range": [None, None]},
                ]
            },
            "a.png: width 2.5 (1.25 to 3.75), odd\\nname -0.001 (no range: too few images)",
        ),
        ({"error": "the file is empty (0 bytes)"}, "a.png: the file is empty (0 bytes)"),
    ],
)  # fmt: skip
def test_a_prediction_is_one_line(capsys, answer, line):
    show_prediction(make_console(stderr=False), Path("a.png"), answer)
    assert capsys.readouterr().out == f"{line}\n"
