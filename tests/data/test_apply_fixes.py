from pathlib import Path

import numpy as np
import pytest
from pictures import COLOURS, fill
from recorder import Recorder

from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.apply_fixes import Correction, correct
from topwork.data.dataset import Dataset
from topwork.data.fix_list import Verdict, Verdicts
from topwork.data.hashing import hash_images
from topwork.data.listing import Listing, Skipped
from topwork.images.decode import image_hash

LIST = Path("doubts.csv")


class Image:
    """Bytes that count how often they are read."""

    def __init__(self, data):
        self.data, self.reads = data, 0

    def read(self):
        self.reads += 1
        return self.data


def make(labels, contents=None, columns=(), **settings):
    contents = contents or [f"{n}".encode() for n in range(len(labels))]
    names = [f"{n}.png" for n in range(len(labels))]
    sources = [Image(data) for data in contents]
    listing = Listing("t.csv", names, sources, labels, label_columns=columns)
    return Dataset.from_listing(listing, DataSettings.create(**settings))


def judge(*rows):
    """Verdicts on contents: `drop`, `keep` or a label; with a third item, the image's name."""
    return Verdicts(
        LIST,
        tuple(
            Verdict(
                image_hash(content),
                name[0] if name else "?",
                said if said in ("drop", "keep") else "label",
                None if said in ("drop", "keep") else said,
                line,
            )
            for line, (content, said, *name) in enumerate(rows, 2)
        ),
    )


@pytest.mark.parametrize(
    ("labels", "settings", "task", "new", "expected"),
    [
        (list("abcab"), {}, Task.CLASSES, "c", "c"),
        (list("abbab"), {}, Task.BINARY, "b", "b"),
        (["a|b", "a", "", "b", "a"], {"label_separator": "|"}, Task.LABELS, "b", "b"),
        (["a|b", "a", "c", "b", "a"], {"task": "labels"}, Task.LABELS, " c | a", "a|c"),
        (list("12345"), {"task": "number"}, Task.NUMBER, "-0.25", "-0.25"),
    ],
)
def test_images_are_dropped_relabelled_and_kept(labels, settings, task, new, expected):
    dataset = make(labels, **settings)
    assert dataset.task is task
    verdicts = judge((b"0", new), (b"1", "drop"), (b"3", "keep"), (b"9", "drop"), (b"8", new))
    found, correction = correct(dataset, verdicts)
    assert correction == Correction(dropped=1, relabelled=1, missing=2)
    assert found.names == ("0.png", "2.png", "3.png", "4.png")
    before = dataset.label_texts
    assert found.label_texts == (expected, *before[2:])
    assert found.skipped == (Skipped("1.png", "dropped by doubts.csv"),)
    assert found.labels.dtype == dataset.labels.dtype
    assert dataset.label_texts == before


def test_several_numbers_and_flags():
    dataset = make([("1", "2"), ("3", "4")], columns=("w", "h"), task="number")
    assert correct(dataset, judge((b"1", "5|6")))[0].labels.tolist() == [[1, 2], [5, 6]]
    dataset = make([("1", "0"), ("1", "1")], columns=("wet", "dry"))
    assert correct(dataset, judge((b"0", "dry|wet")))[0].labels.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("labels", "settings", "new", "reason"),
    [
        (list("abc"), {}, "d", r"doubts.csv line 2: .* classes a, b, c; received 'd'"),
        (["a|b", "a"], {"task": "labels"}, "a|d", "doubts.csv: a new label must be of a, b, .*'d'"),
        (list("123"), {"task": "number"}, "d", r"doubts.csv: .* 1 finite number.*received 'd'"),
        (list("123"), {"task": "number"}, "1|2", r"1 finite number.*received '1|2'"),
        (list("123"), {"task": "number"}, "nan", "finite number"),
    ],
)
def test_a_label_that_cannot_be_is_refused(labels, settings, new, reason):
    with pytest.raises(DatasetError, match=reason):
        correct(make(labels, **settings), judge((b"0", new)))


def test_what_has_the_label_already_is_not_counted():
    assert correct(make(list("abc")), judge((b"0", "a")))[1].relabelled == 0
    dataset = make(["a|b", "b"], task="labels")
    assert correct(dataset, judge((b"0", "b|a")))[1].relabelled == 0
    assert correct(make(list("123"), task="number"), judge((b"0", "1.00")))[1].relabelled == 0


def test_equal_images_get_one_label_and_of_them_the_named_one_is_dropped():
    dataset = make(list("abcab"), [b"x", b"y", b"x", b"y", b"x"])
    found, correction = correct(dataset, judge((b"x", "b"), (b"y", "drop", "3.png")))
    assert found.label_texts == ("b", "b", "b", "b")
    assert found.names == ("0.png", "1.png", "2.png", "4.png")
    assert correction == Correction(dropped=1, relabelled=2, missing=0)
    assert correct(dataset, judge((b"x", "drop")))[0].names == ("1.png", "3.png")


def test_a_class_of_which_nothing_is_left_is_no_class_any_more():
    """As when all images of one class are given to another."""
    found, _ = correct(make(list("abcc")), judge((b"2", "a"), (b"3", "drop")))
    assert (found.classes, found.label_texts) == (("a", "b"), ("a", "b", "a"))
    found, _ = correct(make(list("bac")), judge((b"1", "b")))
    assert (found.classes, found.label_texts) == (("b", "c"), ("b", "b", "c"))
    found.check_training()
    found, _ = correct(make(["a|b", "b", "c"], task="labels"), judge((b"0", "c")))
    assert (found.classes, found.label_texts) == (("b", "c"), ("c", "b", "c"))


def test_a_class_that_had_no_image_stays():
    dataset = make([("1", "0"), ("1", "0")], columns=("wet", "dry"))
    assert correct(dataset, judge((b"0", "drop")))[0].classes == ("wet", "dry")


def test_a_label_that_holds_the_separator_can_be_given():
    dataset = make(["a|b;c", "c"], label_separator=";")
    assert correct(dataset, judge((b"1", "a|b")))[0].label_texts == ("a|b|c", "a|b")


def test_images_without_a_label_keep_none():
    dataset = make(["a", None, "b", "c"])
    found, _ = correct(dataset, judge((b"3", "drop")))
    assert (found.classes, found.label_texts) == (("a", "b"), ("a", "", "b"))


def test_dropping_everything_is_refused():
    with pytest.raises(DatasetError, match=r"doubts.csv drops every image; keep some"):
        correct(make(list("ab")), judge((b"0", "drop"), (b"1", "drop")))


def test_every_image_is_read_once():
    dataset = make(list("abcab"))
    recorder = Recorder()
    found, _ = correct(dataset, judge((b"1", "drop")), callback=recorder)
    assert recorder.told["on_read"] == [(n, 5) for n in range(1, 6)]
    again = hash_images(found, strict=True, callback=recorder)
    assert again is found
    assert len(recorder.told["on_read"]) == 5
    assert [source.reads for source in dataset.sources] == [1] * 5
    assert found.hashes == tuple(image_hash(source.data) for source in found.sources)


def test_what_is_unreadable_is_left_out_or_refused(tmp_path):
    for place, (name, colour) in enumerate(COLOURS.items()):
        fill(tmp_path / name, 2, colour, 10 * place)
    (tmp_path / "red" / "020.png").write_bytes(b"")
    dataset = Dataset.from_folder(tmp_path)
    first = (tmp_path / "blue" / "000.png").read_bytes()
    found, correction = correct(dataset, judge((first, "drop"), (b"", "drop")))
    assert correction == Correction(1, 0, 1)
    assert [item.path for item in found.skipped] == ["red/020.png", "blue/000.png"]
    assert len(found) == len(found.hashes) == 4
    with pytest.raises(DatasetError, match=r"red/020.png: the file is empty .* leave out --strict"):
        correct(dataset, judge((first, "drop")), strict=True)


def test_splits_groups_and_weights_go_with_their_images():
    dataset = make(list("abcab"))
    dataset = Dataset(
        **dataset.__dict__
        | {
            "splits": np.array(["train", "test", "train", "validation", "train"]),
            "groups": np.arange(5),
            "weights": np.arange(5, dtype=np.float32),
        }
    )
    found, _ = correct(dataset, judge((b"1", "drop"), (b"4", "a")))
    assert found.splits.tolist() == ["train", "train", "validation", "train"]
    assert found.groups.tolist() == found.weights.tolist() == [0, 2, 3, 4]
