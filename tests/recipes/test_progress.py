import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from topwork.data.apply_fixes import Correction
from topwork.data.dataset import Dataset
from topwork.data.listing import Note
from topwork.recipes.progress import Screen, shape_lines
from topwork.vectors.embed import Embedding
from topwork.vectors.embed_job import Progress

DATASET = Dataset.from_sources([b"a", b"b"], ["a", "b"])


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_without_a_terminal_there_is_a_line_every_ten_seconds(clock):
    file = io.StringIO()
    with Screen(Console(file=file, width=80), clock) as screen:
        screen.on_wait("preparing something")
        for done in range(1, 301):
            clock.now += 0.05
            screen.on_read(done, 300)
        for done in range(1, 251):
            clock.now += 0.1
            screen.on_run(Progress(done, 1000, 7))
    assert file.getvalue().splitlines() == [
        "images read 202 of 300, 20 images/s, 5 s left",
        "vectors 102 of 1000, 10 images/s, 89 s left, 7 reused",
        "vectors 203 of 1000, 10 images/s, 79 s left, 7 reused",
    ]


def test_a_terminal_sees_bar_rate_time_left_and_what_was_reused(clock):
    file = io.StringIO()
    screen_console = Console(file=file, width=80, force_terminal=True, color_system=None)
    with Screen(screen_console, clock) as screen:
        screen.on_wait("preparing efficientnet-lite0")
        for done in range(1, 40):
            clock.now += 0.2
            screen.on_run(Progress(done, 90, 25))
    text = file.getvalue()
    assert "preparing efficientnet-lite0" in text
    assert "39/90" in text
    assert "images/s" in text
    assert "25 reused" in text


def test_each_network_and_view_counts_from_the_start(clock):
    """One after the other, and all of them are of one job."""
    file = io.StringIO()
    with Screen(Console(file=file, width=80), clock) as screen:
        for seconds, count in ((0.125, 150), (0.5, 30)):
            for done in range(count + 1):
                clock.now += seconds
                screen.on_run(Progress(done, count, 0))
        screen.on_embedded(DATASET, Embedding(np.zeros((90, 3), np.float32), ("a",) * 90, 180, 0))
    assert file.getvalue().splitlines() == [
        "vectors 80 of 150, 8 images/s, 9 s left, 0 reused",
        "vectors 20 of 30, 2 images/s, 5 s left, 0 reused",
        "180 vectors: 180 new, 0 reused, 5 images/s",
    ]


def test_a_search_without_an_end_says_how_many_heads_are_done(clock):
    file = io.StringIO()
    with Screen(Console(file=file, width=80), clock) as screen:
        for done in range(0, 300, 2):
            clock.now += 0.1
            screen.on_tried(done, None)
    assert file.getvalue().splitlines() == ["heads 202, 20 heads/s"]


def test_shapes_of_a_stack_have_a_line_for_each_network(trained):
    (network,) = trained.stack.networks
    larger = replace(network, image_size=64, feature_shape=(2, 2, 1280))
    assert shape_lines(replace(trained.stack, networks=(larger, network)), 32, 10) == [
        "INPUTS (32, 64, 64, 3) ⇒ BASE (32, 2, 2, 1280)",
        "INPUTS (32, 32, 32, 3) ⇒ BASE (32, 1, 1, 1280)",
        "⇒ VECTORS (32, 2560) ⇒ OUTPUTS (32, 10)",
    ]


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


def printed(show, *args):
    """Calls what prints on a console, and returns the lines."""
    file = io.StringIO()
    show(Console(file=file, width=80), *args)
    lines = file.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines), lines
    return lines


def words(lines):
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize(
    ("missing", "said"),
    [(0, ""), (2, "; 2 more on images that are not in this data")],
)
def test_what_verdicts_changed_is_said(missing, said):
    file = io.StringIO()
    Screen(Console(file=file, width=80)).on_corrected(Correction(3, 4, missing))
    assert words(file.getvalue().splitlines()) == (
        f"Verdicts: 3 images dropped, 4 relabelled{said}"
    )


def test_what_was_guessed_is_said_as_one_line_each():
    file = io.StringIO()
    notes = [Note("Guessed [this] of a\nname"), Note("Odd", doubtful=True)]
    Screen(Console(file=file, width=80)).on_notes(notes)
    assert file.getvalue() == "Guessed [this] of a\\nname.\nOdd.\n"


def test_what_came_from_other_machines_is_said_with_the_vectors():
    file = io.StringIO()
    screen = Screen(Console(file=file, width=80))
    vectors = Embedding(np.zeros((2, 3), np.float32), ("a", "b"), 0, 2)
    dataset = Dataset.from_sources([b"1", b"2"])
    screen.on_embedded(dataset, vectors)
    screen.on_received(8_400_000)
    screen.on_embedded(dataset, vectors)
    assert file.getvalue().splitlines() == [
        "2 vectors: 0 new, 2 reused",
        "2 vectors: 0 new, 2 reused, 8.4 MB received",
    ]


def test_the_rate_is_that_of_the_vectors_though_images_were_compared_since():
    file = io.StringIO()
    screen = Screen(Console(file=file, width=80))
    for done in range(3):
        screen.on_run(Progress(done, 2, 0))
    screen.on_compared(2, 2)
    vectors = Embedding(np.zeros((2, 3), np.float32), ("a", "b"), 2, 0)
    screen.on_embedded(Dataset.from_sources([b"1", b"2"]), vectors)
    assert re.fullmatch(r"2 vectors: 2 new, 0 reused, \d+ images/s\n", file.getvalue())


def test_how_pixels_are_read_is_said(clock):
    console = Console(file=io.StringIO(), width=80)
    with Screen(console, clock) as screen:
        screen.on_notes([Note("float32 pixels are read as 0..1", doubtful=True)])
    assert console.file.getvalue() == "float32 pixels are read as 0..1.\n"
