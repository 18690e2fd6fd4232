import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from topwork.core.task import Task
from topwork.metrics.scores import report_classes
from topwork.reports.report.cases import find_groups
from topwork.reports.report.judging import judge
from topwork.reports.report.tables import (
    MATRIX,
    MOST_ROWS,
    Share,
    list_classes,
    list_labels,
    list_numbers,
    make_confusion,
)


def test_classes_are_those_of_another_library_the_least_found_first(make):
    made = make(Task.CLASSES, 200)
    found = judge(made.model, made.predictions)
    rows = list_classes(found.classes, found.report)
    precision, recall, _, support = precision_recall_fscore_support(
        found.truth, found.said, labels=[0, 1, 2]
    )
    for row in rows:
        place = found.classes.index(row.name)
        assert row.recall.value == pytest.approx(recall[place])
        assert row.precision.value == pytest.approx(precision[place])
        assert row.recall.whole == support[place]
    assert [row.recall.value for row in rows] == sorted(recall)


def test_classes_without_images_come_last_and_have_no_share():
    report = report_classes(np.array([0, 0, 1]), np.array([0, 1, 0]), 3)
    rows = list_classes(("a", "b", "c"), report)
    assert [row.name for row in rows] == ["b", "a", "c"]
    assert math.isnan(rows[-1].recall.value)
    assert rows[-1].recall.interval is None


def test_labels_have_what_was_missed_and_wrongly_said(make):
    made = make(Task.LABELS, 80)
    found = judge(made.model, made.predictions)
    rows = list_labels(found.classes, found.report, find_groups(found))
    areas = [row.average_precision for row in rows]
    assert areas == sorted(areas)
    for row in rows:
        label = found.classes.index(row.name)
        missed = (found.truth[:, label] & ~found.said[:, label]).sum()
        assert row.recall.whole - row.recall.part == missed == row.missed.cases.total
        wrong = (~found.truth[:, label] & found.said[:, label]).sum()
        assert row.precision.whole - row.precision.part == wrong == row.wrong.cases.total


def test_numbers_keep_their_order(make):
    made = make(Task.NUMBER)
    found = judge(made.model, made.predictions)
    rows = list_numbers(found.classes, found.report)
    assert [row.name for row in rows] == ["price", "kilos"]
    errors = np.abs(found.errors()).mean(axis=0)
    assert [row.mae for row in rows] == pytest.approx(errors)


def test_the_matrix_has_every_image_and_its_words(make):
    made = make(Task.CLASSES, 200)
    found = judge(made.model, made.predictions)
    confusion = make_confusion(found.classes, found.report, find_groups(found))
    counts = [[cell.count for cell in cells] for _, cells in confusion.rows]
    assert counts == found.report.confusion.tolist()
    for true, (name, cells) in enumerate(confusion.rows):
        assert sum(cell.share for cell in cells) == pytest.approx(1)
        for said, cell in enumerate(cells):
            assert cell.right == (true == said)
            assert (cell.group is None) == (cell.count == 0)
            if true != said:
                assert cell.words == f"{cell.count} {name}, taken for {found.classes[said]}"
    totals = [row[0] for row in confusion.frequent]
    assert totals == sorted(totals, reverse=True)
    assert sum(totals) == (found.said != found.truth).sum()
    assert confusion.total == len(totals)


def test_many_classes_have_a_list_and_no_matrix():
    names = [str(n) for n in range(MATRIX + 1)]
    true = np.arange(len(names))
    confusion = make_confusion(names, report_classes(true, (true + 1) % len(names), 26), {})
    assert confusion.rows == []
    assert len(confusion.frequent) == confusion.total == 26
    many = np.arange(MOST_ROWS + 5)
    rows = list_classes([str(n) for n in many], report_classes(many, many, len(many)))
    assert len(rows) == MOST_ROWS


@pytest.mark.parametrize(("part", "whole"), [(0, 5), (5, 5), (19, 29), (1, 1000)])
def test_intervals_are_wilsons(part, whole):
    wanted = binomtest(part, whole).proportion_ci(method="wilson")
    assert Share(part, whole).interval == pytest.approx((wanted.low, wanted.high), abs=1e-9)
