import numpy as np
import pytest

from topwork.core.task import Task
from topwork.reports.report import cases as module
from topwork.reports.report.cases import find_groups, find_unsure, find_worst
from topwork.reports.report.judging import judge


def judged(made):
    return judge(made.model, made.predictions)


def words(case):
    return [fact.words for fact in case.facts]


@pytest.mark.parametrize("task", [Task.CLASSES, Task.BINARY])
def test_the_worst_are_wrong_and_the_surest_first(make, task):
    found = judged(make(task, 300))
    worst = find_worst(found)
    wrong = [n for n in range(300) if found.said[n] != found.truth[n]]
    ranked = sorted(wrong, key=lambda n: -found.chances[n].max())
    assert [case.index for case in worst.rows] == ranked[: module.WORST]
    assert worst.total == len(wrong)
    first = worst.rows[0]
    said, true = (found.classes[int(part[first.index])] for part in (found.said, found.truth))
    assert words(first) == [true, said]
    assert first.facts[1].chance == pytest.approx(found.chances[first.index].max())
    # Of two classes the maps would be each other's negative.
    assert len(first.asked) == (1 if task is Task.BINARY else 2)
    assert first.asked[0][1] == said


def test_the_least_sure_are_those_of_the_lowest_top_probability(make):
    found = judged(make(Task.CLASSES))
    top = found.chances.max(axis=1)
    unsure = find_unsure(found)
    assert [case.index for case in unsure.rows] == np.argsort(top, kind="stable")[:12].tolist()
    chances = [fact.chance for fact in unsure.rows[0].facts[1:]]
    assert chances == sorted(chances, reverse=True)


def test_wrong_decisions_about_labels_are_told_one_by_one(make):
    found = judged(make(Task.LABELS, 60))
    worst = find_worst(found)
    wrong = [(n, c) for n in range(60) for c in range(3) if found.said[n, c] != found.truth[n, c]]
    assert worst.total == len(wrong)
    size = np.abs(found.predictions.logits)
    ranked = sorted(wrong, key=lambda pair: -size[pair])[: module.WORST]
    assert [(case.index, case.asked[0][0]) for case in worst.rows] == ranked
    for case in worst.rows:
        is_, said = words(case)
        name = case.asked[0][1]
        assert {is_, said} == {name, f"not {name}"}
        assert case.facts[1].chance > 0.5
    closest = find_unsure(found).rows[0]
    assert size[closest.index, closest.asked[0][0]] == size.min()


def test_numbers_have_errors_in_units_of_their_own(make):
    made = make(Task.NUMBER)
    # A number of another size, and one error that stands out in the small one alone.
    made.predictions.labels[:, 0] *= 1000
    made.predictions.logits[:, 0] = made.predictions.labels[:, 0] + 900
    made.model.calibration.scales[:] = (1000, 1)
    made.predictions.logits[7, 1] = made.predictions.labels[7, 1] - 50
    found = judged(made)
    first = find_worst(found).rows[0]
    assert first.index == 7
    assert first.facts[0].term == "kilos is"
    assert first.facts[2].words == "-50"
    assert find_unsure(found) is None
    assert find_groups(found) == {}


def test_groups_hold_the_images_of_each_cell_mistakes_first(make):
    found = judged(make(Task.CLASSES, 200))
    groups = find_groups(found)
    confusion = found.report.confusion
    assert {key: group.cases.total for key, group in groups.items()} == {
        (true, said): confusion[true, said] for true, said in zip(*confusion.nonzero(), strict=True)
    }
    kinds = [true == said for true, said in groups]
    assert kinds == sorted(kinds)
    totals = [group.cases.total for key, group in groups.items() if key[0] != key[1]]
    assert totals == sorted(totals, reverse=True)
    for (true, said), group in groups.items():
        assert len(group.cases.rows) == min(module.BEHIND, group.cases.total)
        for case in group.cases.rows:
            assert (found.truth[case.index], found.said[case.index]) == (true, said)
        sure = [found.chances[case.index].max() for case in group.cases.rows]
        # Doubtful ones of those that are right, sure ones of those that are wrong.
        assert sure == sorted(sure, reverse=true != said)
    assert len({group.id for group in groups.values()}) == len(groups)


def test_groups_of_labels_are_what_was_missed_and_wrongly_said(make):
    found = judged(make(Task.LABELS, 60))
    groups = find_groups(found)
    for (label, has), group in groups.items():
        wrong = (found.truth[:, label] == bool(has)) & (found.said[:, label] != bool(has))
        assert group.cases.total == wrong.sum()
        assert all(wrong[case.index] for case in group.cases.rows)
    assert sum(group.cases.total for group in groups.values()) == find_worst(found).total


def test_groups_are_bounded(make):
    names = tuple(f"class {n}" for n in range(60))
    found = judged(make(Task.CLASSES, 3000, names=names, sources=False, noise=4))
    groups = find_groups(found)
    assert len(groups) == module.GROUPS
    assert all(true != said for true, said in groups)


@pytest.mark.parametrize("task", list(Task))
def test_answers_that_are_all_right_have_no_mistakes(make, task):
    found = judged(make(task, noise=0))
    worst = find_worst(found)
    if task is Task.NUMBER:
        assert len(worst.rows) == 12
    else:
        assert (worst.rows, worst.total) == ([], 0)
    keys = find_groups(found)
    assert all(true == said for true, said in keys)


@pytest.mark.parametrize("task", list(Task))
def test_a_single_image_is_enough(make, task):
    found = judged(make(task, 1, noise=0))
    find_worst(found)
    assert len(find_groups(found)) == (1 if task.picks_one else 0)
