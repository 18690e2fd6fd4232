"""A data set with one of everything that can be wrong, and whether the inspection finds it."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import COLOURS, encode, picture
from PIL import Image, ImageDraw, ImageOps
from recorder import Recorder

from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.apply_fixes import correct
from topwork.data.dataset import Dataset
from topwork.data.fix_list import read_verdicts, write_fix_list
from topwork.inspection import inspect as module
from topwork.inspection.image_stats import ImageStats
from topwork.inspection.inspect import Inspection, inspect
from topwork.inspection.issues import LabelIssue
from topwork.vectors.duplicates import Likeness, Pair

SPLITS = ("train", "validation", "test")


def scene(colour, seed, size=(96, 72)):
    """Returns ellipses in tones of a colour on its noise: no two are alike."""
    image = picture(colour, size=size, seed=seed)
    rng, draw = np.random.default_rng(seed), ImageDraw.Draw(image)
    for _ in range(8):
        left, top = rng.uniform(-0.1, 0.8, 2) * size
        width, height = rng.uniform(0.2, 0.5, 2) * size
        tone = tuple(np.clip(np.array(colour) * rng.uniform(0.4, 1.6), 0, 255).astype(int).tolist())
        draw.ellipse((left, top, left + width, top + height), fill=tone)
    return image


def make_data(root):
    seed = 0
    for split, count in (("train", 10), ("validation", 4), ("test", 4)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                (folder / f"{n}.png").write_bytes(encode(scene(colour, seed)))
                seed += 1
    train = root / "train"
    shutil.copy(train / "red" / "0.png", root / "test" / "red" / "leak.png")
    mirrored = ImageOps.mirror(Image.open(train / "green" / "0.png"))
    (train / "green" / "mirrored.jpg").write_bytes(encode(mirrored, "JPEG", quality=90))
    shutil.copy(train / "green" / "1.png", train / "red" / "clash.png")
    (train / "blue" / "flipped.png").write_bytes(encode(scene(COLOURS["red"], 900)))
    (train / "blue" / "tiny.png").write_bytes(encode(scene(COLOURS["blue"], 901, (12, 9))))
    (train / "blue" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    board = np.kron(np.indices((6, 8)).sum(axis=0) % 2 * 255, np.ones((12, 12)))
    strange = Image.fromarray(board.astype(np.uint8)).convert("RGB")
    (train / "red" / "strange.png").write_bytes(encode(strange))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("inspection") / "photos")


@pytest.fixture(scope="module")
def found(data, small, store):
    return inspect(Dataset.from_folder(data), small, store)


def names_of(found, findings):
    return [found.dataset.names[finding.index] for finding in findings]


def names_of_pairs(found, pairs):
    names = found.dataset.names
    return [{names[pair.first], names[pair.second]} for pair in pairs]


def make(**changes):
    """Returns an inspection of four images of which nothing is known."""
    dataset = Dataset.from_sources([bytes([n]) for n in range(4)], ["a", "b", "a", "b"])
    dataset = replace(dataset, names=("one", "two", "three", "four"), root="photos")
    column = np.ones(4, np.int64)
    light = np.full(4, 0.5, np.float32)
    measures = ImageStats(
        column, column, light, light, light, light, light, column, column, column,
        ("RGB",) * 4, ("PNG",) * 4, {},
    )  # fmt: skip
    known = {
        "dataset": dataset,
        "hashes": tuple(f"{n:064x}" for n in range(4)),
        "measures": measures,
        "judged": 4,
        "divided_groups": 0,
    }
    lists = (
        "image_issues", "pairs", "label_issues", "outliers", "class_overlaps", "shifts",
    )  # fmt: skip
    return Inspection(**dict.fromkeys(lists, ()) | known | changes)


def pair(first, second, likeness=Likeness.SAME):
    return Pair(first, second, likeness, 1.0)


def with_splits(*splits):
    return replace(make().dataset, splits=np.array(splits))


def issue(index, given, suggested, score=0.9):
    return LabelIssue(index, given, suggested, 0.1, 0.9, score)


class TestFindings:
    def test_each_planted_mistake_is_found(self, found):
        assert {"train/red/0.png", "test/red/leak.png"} in names_of_pairs(found, found.leaks)
        assert len(found.leaks) == 1
        (mirrored,) = [p for p in found.pairs if p.likeness == Likeness.MIRRORED]
        assert names_of_pairs(found, [mirrored]) == [
            {"train/green/0.png", "train/green/mirrored.jpg"}
        ]
        assert names_of_pairs(found, found.contradictions) == [
            {"train/green/1.png", "train/red/clash.png"}
        ]
        assert "train/blue/flipped.png" in names_of(found, found.label_issues)
        (flipped,) = [
            s
            for s in found.label_issues
            if found.dataset.names[s.index] == "train/blue/flipped.png"
        ]
        assert (flipped.given, flipped.suggested) == ("blue", "red")
        assert "train/red/strange.png" in names_of(found, found.outliers)
        small = [o for o in found.image_issues if o.kind == "small"]
        assert names_of(found, small) == ["train/blue/tiny.png"]
        assert [item.path for item in found.dataset.skipped] == ["train/blue/broken.png"]

    def test_every_image_is_there_once(self, found):
        count = 54 + 6
        assert len(found.dataset) == len(found.hashes) == len(found.measures) == count
        assert found.judged == count

    def test_copies_are_judged_by_heads_that_did_not_see_them(self, found):
        # The copy in the other class would be confirmed by its original, were that seen.
        groups, names = found.dataset.units(2), found.dataset.names
        assert (
            groups[names.index("train/green/1.png")] == groups[names.index("train/red/clash.png")]
        )

    def test_the_same_again(self, found, data, small, store):
        again = inspect(Dataset.from_folder(data), small, store)
        assert again.to_json() == found.to_json()

    def test_groups_that_the_data_divides_are_counted_without_the_copies(self, data, small, store):
        dataset = Dataset.from_folder(data)
        assert inspect(dataset, small, store).divided_groups == 0
        groups = np.arange(len(dataset))
        groups[[0, -1]] = 0
        divided = replace(dataset, groups=groups)
        assert inspect(divided, small, store).divided_groups == 1

    def test_verdicts_are_applied_first(self, found, data, small, store, tmp_path):
        path = tmp_path / "fix.csv"
        write_fix_list(path, found.fix_list())
        judge(path, {"train/blue/flipped.png": "red", "train/red/clash.png": "drop"})
        recorder = Recorder()
        again = inspect(
            Dataset.from_folder(data), small, store, recorder, verdicts=read_verdicts(path)
        )
        ((correction,),) = recorder.told["on_corrected"]
        assert (correction.dropped, correction.relabelled) == (1, 1)
        assert "train/blue/flipped.png" not in names_of(again, again.label_issues)
        assert again.contradictions == ()


def judge(path, verdicts):
    """Fills in the list as a person would."""
    lines = path.read_text("utf-8-sig").splitlines()
    for name, verdict in verdicts.items():
        (row,) = [n for n, line in enumerate(lines) if line.startswith(f"{name},")]
        lines[row] += verdict
    path.write_text("\n".join(lines), "utf-8")


class TestTasks:
    def test_many_labels(self, small, store, tmp_path):
        sources, labels = [], []
        for n in range(24):
            name = ("blue", "green", "red")[n % 3]
            sources.append(encode(picture(COLOURS[name], seed=n)))
            labels.append([name, "warm"] if name == "red" else [name])
        labels[0], labels[2] = ["blue", "warm"], ["red"]
        dataset = Dataset.from_sources(sources, labels)
        found = inspect(dataset, small, store)
        doubts = {row.image: row for row in found.fix_list()}
        assert len(doubts) == len(found.fix_list())
        assert doubts["image 0"].suggested == "blue"
        assert doubts["image 0"].why.startswith("seems not to be warm")
        assert doubts["image 2"].suggested == "red|warm"
        assert doubts["image 2"].why.startswith("seems to be warm")
        assert found.class_overlaps == ()

        path = tmp_path / "fix.csv"
        write_fix_list(path, found.fix_list())
        judge(path, {"image 0": "blue", "image 2": "red|warm"})
        corrected, correction = correct(dataset, read_verdicts(path))
        assert correction.relabelled == 2
        assert corrected.label_texts[:3] == ("blue", "green", "red|warm")
        json.dumps(found.to_json(), allow_nan=False)

    def test_numbers(self, small, store):
        rng = np.random.default_rng(0)
        light = rng.uniform(40, 200, 40)
        sources = [encode(picture((x, x, x), seed=n)) for n, x in enumerate(light)]
        numbers = light.copy()
        numbers[7] += 4000
        dataset = Dataset.from_sources(sources, numbers, task="number")
        found = inspect(dataset, small, store)
        assert found.label_issues[0].index == 7
        first = found.fix_list()[0]
        assert (first.image, first.suggested) == ("image 7", "")
        assert first.why.startswith("looks like number ")
        content = found.to_json()
        json.dumps(content, allow_nan=False)
        assert content["suspects"][0]["given_probability"] is None
        assert content["counts"]["train"] == {"all": 40}
        assert "image 7" in found.to_html()

    def test_two_classes_and_a_single_split(self, small, store):
        names = ["blue", "red"] * 8
        sources = [encode(scene(COLOURS[name], 400 + n)) for n, name in enumerate(names)]
        names[3] = "blue"
        dataset = Dataset.from_sources(sources, names)
        assert dataset.task is Task.BINARY
        found = inspect(dataset, small, store)
        assert [s.index for s in found.label_issues] == [3]
        assert (found.shifts, found.leaks) == ((), ())
        json.dumps(found.to_json(), allow_nan=False)

    def test_only_a_test_split(self, small, store):
        names = ["blue", "red"] * 6
        sources = [encode(scene(COLOURS[name], 420 + n)) for n, name in enumerate(names)]
        dataset = Dataset.from_sources(sources, names)
        dataset = replace(dataset, splits=np.full(len(names), "test"))
        found = inspect(dataset, small, store)
        assert (found.judged, found.label_issues) == (12, ())

    def test_a_single_class_has_no_labels_to_compare(self, small, store):
        sources = [encode(scene(COLOURS["blue"], 420 + n)) for n in range(5)]
        found = inspect(Dataset.from_sources([*sources, sources[0]], ["blue"] * 6), small, store)
        assert (found.judged, found.label_issues, found.class_overlaps) == (0, (), ())
        assert [(pair.first, pair.second) for pair in found.pairs] == [(0, 5)]
        json.dumps(found.to_json(), allow_nan=False)
        assert "6 images" in found.to_html()

    def test_two_images_are_too_few_to_judge(self, small, store):
        sources = [encode(scene(COLOURS[name], 440)) for name in ("blue", "red")]
        found = inspect(Dataset.from_sources(sources, ["blue", "red"]), small, store)
        assert (found.judged, found.label_issues, found.pairs, found.fix_list()) == (0, (), (), [])
        json.dumps(found.to_json(), allow_nan=False)
        assert "2 images" in found.to_html()

    def test_a_class_that_is_too_small_is_not_judged(self, small, store):
        names = ["blue", "red"] * 6 + ["green"] * 2
        sources = [encode(scene(COLOURS[name], 460 + n)) for n, name in enumerate(names)]
        found = inspect(Dataset.from_sources(sources, names), small, store)
        assert found.judged == 12

    @pytest.mark.parametrize("task", list(Task))
    def test_images_without_labels_are_refused_before_any_work(self, task, small, store):
        empty = {
            Task.LABELS: np.zeros((2, 0), bool),
            Task.NUMBER: np.array([[1.0], [np.nan]]),
        }.get(task, np.array([0, -1], np.int32))
        dataset = replace(Dataset.from_sources([b"x", b"y"]), labels=empty, task=task)
        with pytest.raises(DatasetError, match=r"a label for every image, received \d of 2"):
            inspect(dataset, small, store)

    def test_strict_names_the_first_that_cannot_be_read(self, data, small, store):
        strict = small.model_copy(update={"strict": True})
        with pytest.raises(DatasetError, match=r"train/blue/broken\.png: .*leave out --strict"):
            inspect(Dataset.from_folder(data), strict, store)


class TestJson:
    def test_it_is_json_without_nan(self, found):
        content = found.to_json()
        assert json.loads(json.dumps(content, allow_nan=False)) == content
        (leak,) = [one for one in content["pairs"] if one["leak"]]
        assert {leak["first_name"], leak["second_name"]} == {"train/red/0.png", "test/red/leak.png"}
        assert {leak["first_split"], leak["second_split"]} == {"train", "test"}
        assert (leak["likeness"], leak["similarity"]) == ("same", 1.0)
        places = {item["place"]: item["name"] for item in content["suspects"]}
        assert all(found.dataset.names[index] == name for index, name in places.items())
        assert content["skipped"][0]["path"] == "train/blue/broken.png"
        assert content["measures"].keys() == {
            "width", "height", "brightness", "contrast", "sharpness"
        }  # fmt: skip
        assert all(len(column) == len(found.dataset) for column in content["measures"].values())

    def test_figures_that_are_not_finite_are_none(self):
        measures = make().measures
        bad = np.array([0.5, np.nan, np.inf, 0.5], np.float32)
        found = make(
            measures=replace(measures, sharpness=bad, failed={2: "gone"}),
            label_issues=(LabelIssue(1, "a", "b", np.nan, -np.inf, 0.5),),
        )
        content = found.to_json()
        json.dumps(content, allow_nan=False)
        assert content["measures"]["sharpness"] == [0.5, None, None, 0.5]
        assert content["suspects"][0]["given_probability"] is None
        assert content["suspects"][0]["suggested_probability"] is None
        assert content["unmeasured"] == [{"path": "three", "reason": "gone"}]


class TestHtml:
    def test_it_needs_nothing_else_and_shows_what_was_found(self, found, data):
        page = found.to_html()
        for name in ("flipped.png", "leak.png", "clash.png", "tiny.png", "broken.png"):
            assert name in page
        links = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert links
        assert all(link.startswith(("data:image/", "#")) for link in links)
        assert "<script" not in page
        assert "url(" not in page
        assert str(data.parent) in page  # where the images are, as the user said it

    def test_the_title_is_the_name_of_the_data(self, found):
        title = re.search("<title>(.*?)</title>", found.to_html())
        assert title.group(1) == "Inspection of photos"
        dataset = replace(found.dataset, root=None)
        page = replace(found, dataset=dataset).to_html()
        assert "<title>Inspection of images</title>" in page

    def test_names_are_escaped(self):
        dataset = make().dataset
        names = ("<script>alert(1)</script>", "two\nlines", os.fsdecode(b"\xff.jpg"), '"four"')
        dataset = replace(dataset, names=names, classes=("<b>a", "b"))
        found = make(dataset=dataset, pairs=(pair(0, 1), pair(1, 2), pair(2, 3)))
        page = found.to_html()
        assert "<script>" not in page
        assert "<b>a" not in page
        assert "&lt;script&gt;" in page
        page.encode()


class TestFixList:
    def test_each_doubtful_image_is_there_once(self, found):
        rows = found.fix_list()
        names = [row.image for row in rows]
        assert len({*names}) == len(names)
        assert {
            "train/blue/flipped.png", "train/red/0.png", "train/red/clash.png",
            "train/red/strange.png",
        } <= {*names}  # fmt: skip
        # What a test is made of is not to be dropped for what it has in common with training.
        assert "test/red/leak.png" not in names
        row = rows[names.index("train/blue/flipped.png")]
        assert (row.split, row.label, row.suggested) == ("train", "blue", "red")
        assert 0.5 < row.score < 1
        assert row.sha256 == found.hashes[found.dataset.names.index(row.image)]

    def test_the_most_doubtful_come_first(self):
        found = make(
            dataset=with_splits("train", "train", "train", "test"),
            label_issues=(issue(2, "a", "b"),),
            pairs=(pair(0, 1), pair(1, 3)),
        )
        # One group of three, with a leak and different labels.
        assert [(row.image, row.why) for row in found.fix_list()] == [
            ("three", "looks like b, not a"),
            ("two", "the same file as four in test"),
            ("one", "the same file as two, which is b"),
        ]

    def test_all_of_a_picture_but_one_are_listed_however_they_are_connected(self):
        for pairs in [(pair(0, 1), pair(1, 2)), (pair(0, 2), pair(1, 2))]:
            found = make(dataset=with_splits("train", "train", "validation", "test"), pairs=pairs)
            rows = found.fix_list()
            assert sorted(row.image for row in rows) == ["one", "two"]

    @given(st.data())
    def test_any_copies_leave_one_image_of_each_picture(self, data):
        splits = data.draw(st.lists(st.sampled_from(SPLITS), min_size=4, max_size=4))
        pictures = data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
        last, pairs = {}, []
        for index, picture_ in enumerate(pictures):
            if picture_ in last:
                pairs.append(pair(data.draw(st.sampled_from(last[picture_])), index))
            last.setdefault(picture_, []).append(index)
        found = make(dataset=with_splits(*splits), pairs=tuple(pairs))
        listed = [found.dataset.names.index(row.image) for row in found.fix_list()]
        assert len({*listed}) == len(listed) == len(pairs)
        for places in last.values():
            (kept,) = {*places} - {*listed}
            # What is learnt from is kept only where nothing else shows the picture.
            assert splits[kept] != "train" or {splits[n] for n in places} == {"train"}

    def test_what_contradicts_comes_before_what_only_repeats(self):
        found = make(pairs=(pair(0, 2, Likeness.MIRRORED), pair(1, 3)))
        assert [row.image for row in found.fix_list()] == ["three", "four"]
        dataset = replace(found.dataset, labels=np.array([0, 0, 0, 1], np.int32))
        rows = replace(found, dataset=dataset).fix_list()
        assert [row.why for row in rows] == [
            "the same file as two, which is a",
            "a mirror image of one",
        ]

    def test_two_reasons_are_said_in_one_row(self):
        found = make(label_issues=(issue(1, "b", "a", 0.8),), pairs=(pair(0, 1, Likeness.NEAR),))
        (row,) = found.fix_list()
        assert row.why == "looks like a, not b; the same picture as one, which is a"
        assert (row.suggested, row.score) == ("a", 0.8)

    def test_several_doubtful_labels_of_an_image_are_one_suggestion(self):
        dataset = Dataset.from_sources([b"0", b"1"], [["a", "b"], ["c"]])
        found = make(
            dataset=dataset,
            label_issues=(
                issue(0, "b", "not b"),
                issue(0, "not c", "c", 0.7),
                issue(1, "c", "not c"),
            ),
        )
        first, second = found.fix_list()
        assert (first.suggested, first.score) == ("a|c", 0.9)
        assert first.why == "seems not to be b; seems to be c"
        assert second.suggested == "|"

    @pytest.mark.parametrize("labels", ["a|c", "|"])
    def test_a_suggestion_can_be_taken_as_the_verdict(self, labels, tmp_path):
        sources = [encode(picture(seed=n)) for n in range(3)]
        dataset = Dataset.from_sources(sources, [["a", "b"], ["c"], ["c"]])
        path = tmp_path / "fix.csv"
        row = module.FixListRow("image 0", "0" * 64, "train", "a|b")
        write_fix_list(path, [replace(row, sha256=hash_of(sources[0]))])
        judge(path, {"image 0": labels})
        corrected, _ = correct(dataset, read_verdicts(path))
        assert corrected.label_texts[0] == labels.strip("|")

    @pytest.mark.parametrize(("name", "said"), [("keep", "label:keep"), ("=a", "label:=a")])
    def test_a_suggestion_is_written_as_a_verdict_has_to_be(self, name, said):
        dataset = replace(make().dataset, classes=(name, "b"))
        (row,) = make(dataset=dataset, label_issues=(issue(1, "b", name),)).fix_list()
        assert row.suggested == said


def hash_of(data):
    from topwork.images.decode import image_hash

    return image_hash(data)


@pytest.mark.slow
def test_reference_photos_have_doubtful_labels_and_one_picture_twice(reference_photos, store):
    from topwork.core.config import Settings

    found = inspect(Dataset.from_folder(reference_photos), Settings.create(), store)
    assert (len(found.dataset), found.judged, found.leaks) == (3781, 3781, ())
    (copy,) = found.contradictions
    assert {found.dataset.label_texts[n] for n in (copy.first, copy.second)} == {"shorts", "skirt"}
    assert 20 <= len(found.label_issues) <= 200
    assert [shift.split for shift in found.shifts if shift.what == "classes"] == ["test"]
