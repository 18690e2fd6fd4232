"""What a person sees of a result: an evaluation, a prediction, a network, the list of bases."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from topwork.core.errors import counted, printable
from topwork.metrics.scores import ClassReport, LabelReport, NumberReport, say_number, say_report

if TYPE_CHECKING:
    from topwork.bases import BaseSpec
    from topwork.inspection.inspect import Inspection
    from topwork.models.evaluate import CalibrationScores, Evaluation
    from topwork.models.model import Model
    from topwork.recipes.layers import Layer
    from topwork.recipes.neighbors import Neighbor
    from topwork.vectors.duplicates import Pair

WIDTH = 80
SHOWN_FINDINGS = 5


def show_evaluation(console: Console, model: Model, result: Evaluation) -> None:
    """Prints the metric, a row per class or label, and the confusion matrix of classes."""
    report = result.report
    if result.seen and result.split in ("test", "all"):
        metric = "mean absolute error" if isinstance(report, NumberReport) else report.metric
        console.print(
            f"{result.seen} of these images were used in training or validation: "
            f"the {metric} is too good to be honest",
            style="bold yellow",
        )
    elif result.learnt:
        console.print(
            f"The model learnt from {result.learnt} of these {len(result)} images: figures on them "
            "say nothing about others",
            style="bold yellow",
        )
    where = f"{result.split[0].upper()}{result.split[1:]} images:"
    console.print(Text(say_report(where, report, model.classes)), style="bold")
    if isinstance(report, ClassReport):
        console.print("In the macro average every class counts the same.", style="dim")
    for line in _say_calibration(result.calibration, report):
        console.print(Text(line))
    if isinstance(report, NumberReport):
        if len(model.classes) > 1:
            _show_numbers(console, model.classes, report)
        return
    console.print()
    table = Table(box=None, padding=(0, 2), header_style="dim")
    columns = {"precision": report.precision, "recall": report.recall}
    widest, kind = 30, "class"
    if isinstance(report, LabelReport):
        columns |= {"F1": report.f1, "average\nprecision": report.average_precision}
        widest, kind = 18, "label"
    table.add_column(kind, overflow="ellipsis", no_wrap=True, max_width=widest)
    for name in (*columns, "support"):
        table.add_column(name, justify="right")
    for row, name in enumerate(model.classes):
        shares = [_percent(values[row]) for values in columns.values()]
        table.add_row(Text(printable(name)), *shares, str(report.support[row]))
    console.print(table)
    if isinstance(report, ClassReport):
        show_confusion(console, model.classes, report)


def _show_numbers(console: Console, names: tuple[str, ...], report: NumberReport) -> None:
    """Prints a row for each of several numbers, which may have units of their own."""
    console.print()
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("number", overflow="ellipsis", no_wrap=True, max_width=30)
    for name in ("mean absolute error", "R²"):
        table.add_column(name, justify="right")
    for name, error, share in zip(names, report.maes, report.r2s, strict=True):
        explained = "–" if math.isnan(share) else f"{share:.3f}"
        table.add_row(Text(printable(name)), say_number(error), explained)
    console.print(table)


def _say_calibration(found: CalibrationScores, report: Any) -> list[str]:
    lines = []
    if found.error is not None:
        # A temperature of 1 changes nothing, and there is none where nothing could be measured.
        before = f"{found.error_before:.3f} before the temperature; "
        before = "" if found.error == found.error_before else before
        lines.append(
            f"Calibration error {found.error:.3f} ({before}chance: {found.error_by_chance:.3f})"
        )
    if found.answered is not None:
        share = found.answered_accuracy
        accuracy = _percent(math.nan if share is None else share)
        lines.append(f"Answers {found.answered:.1%} of the images, {accuracy} of those right")
    if found.covered is not None and isinstance(report, NumberReport):
        lines.append(
            f"Ranges hold the true number for {found.covered:.1%} of the images, and are "
            f"{say_number(found.set_size or 0)} wide"
        )
    elif found.covered is not None:
        lines.append(
            f"Label sets hold the true class for {found.covered:.1%} of the images, "
            f"{found.set_size:.2f} classes on average"
        )
    return lines


def show_confusion(console: Console, classes: tuple[str, ...], report: ClassReport) -> None:
    """Prints the matrix if it fits in 80 columns, else the most frequent mistakes."""
    cell = max(len(str(report.confusion.max())), len(str(len(classes)))) + 1
    label = min(20, max(map(len, classes)))
    console.print()
    if label + 5 + cell * len(classes) <= WIDTH:
        console.print(Text("Confusion: rows are true classes, columns predicted ones"), style="dim")
        head = "".join(f"{n:>{cell}}" for n in range(1, len(classes) + 1))
        console.print(Text(" " * (label + 4) + head), style="dim")
        for number, (name, row) in enumerate(zip(classes, report.confusion, strict=True), 1):
            line = Text(f"{printable(name)[:label]:<{label}}{number:>4}")
            for column, count in enumerate(row, 1):
                style = "green" if column == number else "red" if count else "dim"
                line.append(f"{count:>{cell}}" if count else f"{'·':>{cell}}", style=style)
            console.print(line)
        return
    console.print(Text("Most frequent mistakes (--json has the whole matrix)"), style="dim")
    mistakes = report.confusion.copy()
    mistakes[range(len(classes)), range(len(classes))] = 0
    for flat in mistakes.ravel().argsort(kind="stable")[::-1][:10]:
        true, predicted = divmod(int(flat), len(classes))
        if mistakes[true, predicted]:
            names = f"{classes[true]} taken for {classes[predicted]}"
            console.print(Text(f"{mistakes[true, predicted]:>5}  {printable(names)}"))


def show_inspection(console: Console, found: Inspection) -> None:
    """Prints what an inspection found: a line for each kind, and the worst few of each."""
    console.print()
    for section in (*_list_relations(found), *_list_images(found)):
        if section.findings or section.title != "Not measured":
            _show_section(console, section)
    console.print()


@dataclass(frozen=True)
class _Section:
    """A kind of finding.

    Attributes:
        title: of the kind.
        summary: how many there are.
        findings: the worst first, each in one line or more.
        serious: whether it spoils the training or the test.
    """

    title: str
    summary: str
    findings: list[tuple[str, ...]]
    serious: bool = False


def _list_relations(found: Inspection) -> list[_Section]:
    """Lists what is wrong between images, labels, classes and splits."""
    dataset = found.dataset
    names, texts = dataset.names, dataset.label_texts
    leaks, contradictions = {*found.leaks}, {*found.contradictions}
    copies = [pair for pair in found.pairs if pair not in leaks]
    rest = len(dataset) - found.judged
    return [
        _Section(
            "Leakage",
            f"{_count(leaks, 'pair')} of one picture in two splits; a test on it is too easy"
            if leaks
            else "no picture is in two splits",
            [_say_pair(names, texts, pair) for pair in found.leaks],
            serious=True,
        ),
        _Section(
            "Copies",
            f"{_count(copies, 'pair')} of one picture within a split",
            [_say_pair(names, texts, pair) for pair in copies],
            serious=not contradictions.isdisjoint(copies),
        ),
        _Section(
            "Labels in doubt",
            f"{_count(found.label_issues, 'label')}, of {counted(found.judged, 'image')} judged"
            + (f"; {rest} not judged, too few of their kind" if rest else ""),
            [
                (f"{s.given}, looks like {s.suggested} ({s.score:.2f}): {names[s.index]}",)
                for s in found.label_issues
            ],
            serious=True,
        ),
        _Section(
            "Classes that look alike",
            f"{_count(found.class_overlaps, 'pair')} that cannot be told apart",
            [(f"{a.first} and {a.second}: {a.error:.0%} mistaken",) for a in found.class_overlaps],
            serious=True,
        ),
        _Section(
            "Shift",
            f"{_count(found.shifts, 'difference')} between train and the other splits",
            [(f"{s.split}, {s.what}: {s.detail}",) for s in found.shifts],
            serious=True,
        ),
    ]


def _list_images(found: Inspection) -> list[_Section]:
    """Lists single images that are unlike the others, or that could not be measured."""
    names, texts = found.dataset.names, found.dataset.label_texts
    return [
        _Section(
            "Outliers",
            f"{_count(found.outliers, 'image')} unlike all others of the same label",
            [(f"{texts[o.index] or 'no label'}: {names[o.index]}",) for o in found.outliers],
        ),
        _Section(
            "Odd files",
            _count(found.image_issues, "image"),
            [(f"{o.kind}, {o.detail}: {names[o.index]}",) for o in found.image_issues],
        ),
        _Section(
            "Not measured",
            _count(found.measures.failed, "image"),
            [(f"{reason}: {names[row]}",) for row, reason in found.measures.failed.items()],
        ),
    ]


def _show_section(console: Console, section: _Section) -> None:
    style = "dim" if not section.findings else "bold yellow" if section.serious else "bold"
    console.print(Text(f"{section.title}: {section.summary}"), style=style)
    for finding in section.findings[:SHOWN_FINDINGS]:
        for line in finding:
            console.print(Text(f"  {printable(line)}"), overflow="ellipsis", no_wrap=True)
    if len(section.findings) > SHOWN_FINDINGS:
        console.print(f"  and {len(section.findings) - SHOWN_FINDINGS} more", style="dim")


def _count(found: Sized, what: str) -> str:
    return counted(len(found), what)


def _say_pair(names: Sequence[str], texts: Sequence[str], pair: Pair) -> tuple[str, str]:
    first, second = names[pair.first], names[pair.second]
    if texts[pair.first] != texts[pair.second]:
        first = f"{texts[pair.first] or 'no label'}: {first}"
        second = f"{texts[pair.second] or 'no label'}: {second}"
    how = {"mirrored": "mirrored, ", "changed": "cut, turned or recolored: "}.get(pair.likeness, "")
    return first, f"= {how}{second}"


def show_neighbors(console: Console, path: Path, found: list[Neighbor] | str) -> None:
    """Prints the images that are most like one, a line each, or why it cannot be used."""
    if isinstance(found, str):
        text = Text(f"{printable(path)}: {found}", style="yellow")
        console.print(text, soft_wrap=True)
        return
    console.print(Text(printable(path)), style="bold", soft_wrap=True)
    for one in found:
        label = f"{printable(one.label)}  " if one.label else ""
        text = Text(f"  {one.similarity:.3f}  {label}{printable(one.name)}")
        console.print(text, soft_wrap=True)


def show_prediction(console: Console, path: Path | str, answer: dict[str, Any]) -> None:
    """Prints one line for an image.

    Args:
        console: where.
        path: of the image.
        answer: as `topwork predict --json` prints it; see `evaluate.answer`.
    """
    if "error" in answer:
        text = Text(f"{printable(path)}: {answer['error']}", style="yellow")
        console.print(text, soft_wrap=True)
        return
    if "numbers" in answer:
        said = ", ".join(_say_number(number) for number in answer["numbers"])
    else:
        ranked = answer["predictions"]
        said = ", ".join(f"{p['label']} {_percent(p['probability'])}" for p in ranked)
        said = f"not sure ({said})" if answer.get("abstained") else said
    if "present" in answer:
        said = f"{', '.join(answer['present']) or 'none'} ({said})"
    if "labels" in answer:
        said += f"; one of: {', '.join(answer['labels'])}"
    console.print(Text(f"{printable(path)}: {printable(said)}"), soft_wrap=True)


def _say_number(number: dict[str, Any]) -> str:
    said = f"{number['name']} {say_number(number['value'])}"
    if "range" in number:
        low, high = number["range"]
        known = "no range: too few images"
        if low is not None:
            known = f"{say_number(low)} to {say_number(high)}"
        said += f" ({known})"
    return said


def show_layers(console: Console, layers: list[Layer]) -> None:
    """Prints the shape table of a network."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("", "output shape"):
        table.add_column(name)
    table.add_column("parameters", justify="right")
    table.add_column("")
    for layer in layers:
        note = "trained" if layer.trained else "frozen" if layer.parameters else ""
        table.add_row(layer.stage, str(layer.output_shape), f"{layer.parameters:,}", note)
    console.print(table)


def show_bases(console: Console, rows: list[tuple[BaseSpec, bool]]) -> None:
    """Prints a row per base."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("base", no_wrap=True)
    table.add_column("vector", justify="right")
    table.add_column("size", justify="right")
    table.add_column("license", no_wrap=True)
    table.add_column("weights from", no_wrap=True)
    table.add_column("here")
    for spec, here in rows:
        table.add_row(
            spec.name,
            str(spec.vector_length),
            str(spec.image_size),
            spec.license,
            spec.install or "download by Keras",
            Text("yes", style="green") if here else Text("no", style="dim"),
        )
    console.print(table)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.1%}"
