import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from topwork import console
from topwork.console import Screen, next_command, shape_lines, show_skipped, verdict
from topwork.folder import Skipped
from topwork.history import History
from topwork.metrics import make_report
from topwork.vectors import Progress


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


def test_skipped_files_are_named_up_to_ten(capsys):
    show_skipped(
        console.make_console(stderr=False), [Skipped(f"{n}.jpg", "bad") for n in range(13)]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Left out 13 files:"
    assert lines[1] == "  0.jpg: bad"
    assert lines[-1] == "  and 3 more; --json lists them all"


def test_shapes_stand_on_one_line_if_they_fit(trained):
    network = replace(trained.network, vector_length=64, feature_shape=(1, 1, 64))
    assert shape_lines(network, 8, 3) == [
        "INPUTS (8, 32, 32, 3) ⇒ BASE (8, 1, 1, 64) ⇒ VECTORS (8, 64) ⇒ OUTPUTS (8, 3)"
    ]
    assert shape_lines(trained.network, 32, 10) == [
        "INPUTS (32, 32, 32, 3) ⇒ BASE (32, 1, 1, 1280)",
        "⇒ VECTORS (32, 1280) ⇒ OUTPUTS (32, 10)",
    ]


def test_the_next_command_can_be_copied_into_a_shell(tmp_path):
    assert next_command(tmp_path / "a b", "it's", True) == (
        f"topwork evaluate '{tmp_path}/a b' 'it'\"'\"'s'"
    )
    assert next_command(tmp_path, "x", False) == f"topwork predict {tmp_path} IMAGE..."
