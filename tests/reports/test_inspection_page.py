import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markup import Reader
from pictures import encode, picture
from PIL import Image

from topwork.core.errors import ImageError
from topwork.images.thumbnails import make_thumbnail
from topwork.reports.inspection_page import render_page

LISTS = ("pairs", "suspects", "outliers", "oddities", "alike", "shifts", "skipped")


def make_findings(count=3, *, name="photo", label="hat", leaks=1):
    """An inspection with `count` findings of each kind."""
    here = [{"place": n, "name": f"{name} {n}", "split": "train"} for n in range(count)]
    pairs = [
        {
            "first": n, "first_name": f"{name} {n}", "first_split": "train", "first_label": label,
            "second": n + 1, "second_name": f"{name} {n + 1}", "second_label": "shoes",
            "second_split": "test" if n < leaks else "train", "likeness": "near",
            "similarity": 0.987, "leak": n < leaks,
        }
        for n in range(count)
    ]  # fmt: skip
    return {
        "data": f"/data/{name}", "task": "classes", "images": 1234, "classes": [label, "shoes"],
        "counts": {"train": {label: 900, "shoes": 100}, "test": {label: 234}},
        "measures": {
            "width": [400] * 9 + [20], "height": [300] * 10, "brightness": [0.5] * 9 + [None],
            "sharpness": [float("nan")] * 10,
        },
        "oddities": [row | {"kind": "small", "detail": "20 x 300 pixels"} for row in here],
        "pairs": pairs,
        "suspects": [
            row | {"given": label, "suggested": "shoes", "given_probability": 0.04,
                   "suggested_probability": 0.91, "score": 0.9} for row in here
        ],
        "outliers": [row | {"label": label, "distance": 0.4, "score": 7.25} for row in here],
        "alike": [
            {"first": label, "second": "shoes", "mistaken": 61, "count": 420, "error": 0.145,
             "interval": [0.11, 0.18]}
        ],
        "shifts": [
            {"split": "test", "what": "classes", "distance": 0.2, "p_value": 1e-9,
             "detail": "shoes: 10 % of train, none of test"}
        ],
        "skipped": [{"path": f"{name}.txt", "reason": "its name does not end like an image's"}],
    }  # fmt: skip


def thumbnail(place):
    return make_thumbnail(encode(picture(seed=place)), 16)


def read(findings, thumbnails=thumbnail, title="Findings", **options):
    return Reader(render_page(findings, thumbnails, title, **options))


def test_everything_that_was_found_is_said():
    found = read(make_findings())
    assert found.headings() == [
        "leaks", "classes", "shifts", "suspects", "duplicates", "pictures", "odd", "outliers",
        "alike", "skipped",
    ]  # fmt: skip
    for words in (
        "1,234 images of 2 classes in /data/photo",
        "1 pair across splits", "3 labels in doubt", "2 duplicates", "3 odd files",
        "labelled hat 4% looks like shoes 91%",
        "Likeness 0.987. Their labels differ.",
        "7.2 deviations from the others",
        "61 of 420 14% 11% to 18%",
        "test classes shoes: 10 % of train, none of test 0.20 < 0.001",
        "photo.txt its name does not end like an image's",
        "20 x 300 pixels",
        "hat 900 234 1,134", "shoes 100 0 100",
        "Median 300; 9 of 10 from 146 to 300.",
        "train 1,000, test 234 images.",
    ):  # fmt: skip
        assert words in found.text


def test_leaks_come_first_and_only_where_there_are_some():
    assert read(make_findings(leaks=0)).headings()[0] == "classes"
    assert "across splits" not in read(make_findings(leaks=0)).text
    assert "3 duplicates" in read(make_findings(leaks=0)).text


def test_what_was_not_found_and_what_was_not_looked_for_differ():
    nothing = make_findings() | {name: [] for name in LISTS}
    found = read(nothing, lambda place: pytest.fail("not shown"))
    for words in (
        "No label is contradicted", "No picture is there twice", "Every image has others like it",
        "All classes can be told apart", "Every file could be used", "No split differs",
        "All pictures are of usual sizes", "0 labels in doubt",
    ):  # fmt: skip
        assert words in found.text
    for name in LISTS:
        left = {key: value for key, value in nothing.items() if key != name}
        assert len(read(left).headings()) == len(found.headings()) - 1
    bare = {"data": "d", "task": "number", "images": 5}
    assert read(bare).headings() == []


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", "\"><img src=x onerror='a'>", "{{ 7*7 }}"]
)
def test_names_and_labels_are_only_text(evil):
    html = render_page(make_findings(name=evil, label=evil), thumbnail, evil)
    found = Reader(html)
    assert not {"script", "img", "iframe", "link"} & {tag for tag, _ in found.tags}
    assert not any(key.startswith("on") for _, attributes in found.tags for key in attributes)
    assert f"labelled {evil} 4%" in found.text
    assert "49" not in found.text


@given(st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_any_name_makes_a_whole_page(name, label):
    html = render_page(make_findings(1, name=name, label=label), lambda place: b"\xff\xd8", name)
    found = Reader(html)
    assert len(found.headings()) == 10
    # Nothing that would reverse or break the text of others.
    assert not set("\u202e\u2066\x00\x1b\x07") & set(html)


def test_the_page_asks_for_nothing_else():
    html = render_page(make_findings(), thumbnail, "t")
    found = Reader(html)
    for value in found.values("href") + found.values("src"):
        assert value.startswith(("#", "data:image/webp;base64,"))
    assert "url(" not in html
    assert "@import" not in html
    assert "http:" not in html
    assert "https:" not in html
    policy = next(a["content"] for t, a in found.tags if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert len(re.findall("default-src", html)) == 1


def test_links_lead_to_what_is_there_once():
    found = read(make_findings())
    names = found.values("id")
    assert len(names) == len(set(names))
    assert {value[1:] for value in found.values("href") if value.startswith("#")} <= set(names)


def test_each_picture_is_there_once_and_has_its_name():
    made = []

    def thumbnails(place):
        made.append(place)
        return thumbnail(place)

    found = read(make_findings(), thumbnails)
    assert sorted(made) == [0, 1, 2, 3]
    pictures = [value for value in found.values("href") if value.startswith("data:")]
    assert len(pictures) == 4
    labels = [a["aria-label"] for tag, a in found.tags if tag == "svg" and a.get("role") == "img"]
    assert labels.count("photo 1") == 5


def test_there_are_at_most_so_many_pictures_and_rows():
    findings = make_findings(300, leaks=100) | {"suspects_total": 512}
    found = read(findings, most_pictures=10)
    assert sum(value.startswith("data:") for value in found.values("href")) == 10
    assert "not shown" in found.text
    assert "512 labels in doubt" in found.text
    assert "These are the first 80 of 512 labels in doubt, the worst first." in found.text
    assert "These are the first 40 of 100 pairs" in found.text
    assert "These are the first 40 of 200 pairs" in found.text
    assert sum(tag == "article" for tag, _ in found.tags) == 40 + 80 + 40 + 80 + 40


def test_the_size_of_a_full_page_is_bounded():
    rng = np.random.default_rng(0)
    noise = make_thumbnail(encode(Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8))))
    html = render_page(make_findings(500), lambda place: noise, "t")
    assert len(html) < 12e6


def test_a_picture_that_is_gone_leaves_its_place_empty():
    def gone(place):
        raise ImageError("there is no such file")

    assert read(make_findings(), gone).text.count("cannot be read") == 3 * 3 + 3 * 2


def test_numbers_have_no_probabilities():
    findings = make_findings()
    for row in findings["suspects"]:
        row |= {"given": "12.5", "given_probability": float("nan"), "suggested_probability": None}
    assert "labelled 12.5 looks like shoes photo 0" in read(findings).text
    assert "nan" not in read(findings).text.lower()


def test_what_json_gave_back_reads_the_same():
    findings = make_findings()
    findings["measures"].pop("sharpness")
    again = json.loads(json.dumps(findings))
    assert render_page(again, thumbnail, "t") == render_page(findings, thumbnail, "t")


def test_many_classes_unfold():
    counts = {"train": {f"class {n}": 100 - n for n in range(60)}}
    found = read(make_findings() | {"counts": counts, "classes": list(counts["train"])})
    assert "20 smaller classes" in found.text
    assert found.text.index("class 0 100") < found.text.index("class 59 41")


def bars(findings, name):
    """Reads a histogram's bars back: the words of each."""
    html = render_page(findings, thumbnail, "t")
    drawn = re.search(rf'<svg class="chart"[^>]*aria-label="{name}.*?</svg>', html, re.DOTALL)
    svg = ET.fromstring(drawn.group())
    return [(float(bar.get("height")), bar.find("title").text) for bar in svg]


@pytest.mark.parametrize("values", [[400] * 5, [1, 20_000], [0, 0, 300], [7]])
def test_histograms_of_any_sizes_hold_all_images(values):
    findings = {"data": "", "images": 1, "measures": {"width": values, "height": values}}
    drawn = bars(findings, "Shorter side")
    assert sum(int(words.split(": ")[1]) for _, words in drawn) == np.count_nonzero(values)


def test_no_measure_makes_no_histogram():
    findings = {"data": "", "images": 2, "measures": {"brightness": [None, float("nan")]}}
    assert "pictures" not in read(findings).headings()
