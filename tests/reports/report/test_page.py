import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markup import Reader
from recorder import Recorder

from topwork.core.task import Task
from topwork.models.explain import Explainer
from topwork.models.model_facts import Provenance, SearchFacts
from topwork.reports.report import render_report
from topwork.reports.report.page import PageLimits

FINDINGS = {
    "data": "photos",
    "images": 40,
    "findings": {
        "leaks": {"count": 2, "worst": ["a.png and b.png"]},
        "suspects": {"count": 0, "worst": []},
    },
}
PARTS = ["curves", "shapes", "balance", "inspection", "settings", "origins"]


def read(made, **options):
    return Reader(render_report(made.model, made.predictions, title="Report", **options))


def shown(found):
    """The parts that are seen at once."""
    return [
        attributes["id"]
        for tag, attributes in found.tags
        if tag == "section" and attributes.get("class") != "behind"
    ]


@pytest.mark.parametrize("task", list(Task))
def test_every_task_has_its_parts(make, task):
    found = read(make(task))
    parts = {
        Task.CLASSES: ["summary", "each", "confusion", "worst", "unsure", "sureness"],
        Task.BINARY: ["summary", "each", "confusion", "worst", "unsure", "sureness"],
        Task.LABELS: ["summary", "each", "worst", "unsure", "sureness"],
        Task.NUMBER: ["summary", "each", "worst", "sureness"],
    }
    assert shown(found) == parts[task] + PARTS
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", found.text)


@pytest.mark.parametrize("task", list(Task))
def test_a_page_needs_nothing_else_and_its_links_lead_somewhere(make, task):
    html = render_report(
        make(task).model, make(task).predictions, title="Report", trials_svg=b"<svg/>"
    )
    found = Reader(html)
    names = found.values("id")
    assert len(names) == len(set(names))
    links = [value[1:] for value in found.values("href") if value.startswith("#")]
    assert set(links) <= set(names)
    for value in found.values("href") + found.values("src"):
        assert value.startswith(("#", "data:image/"))
    for part in ("url(", "@import", "http:", "https:", "<script", "javascript:"):
        assert part not in html
    policy = next(a["content"] for t, a in found.tags if a.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@pytest.mark.parametrize("task", list(Task))
def test_a_page_can_be_heard(make, task):
    found = read(make(task))
    tags = [tag for tag, _ in found.tags]
    assert (tags.count("h1"), tags.count("main"), tags.count("nav")) == (1, 1, 1)
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(a.get("scope") in ("row", "col") for tag, a in found.tags if tag == "th")
    named = {a["aria-labelledby"] for tag, a in found.tags if tag == "section"}
    assert named <= set(found.values("id"))
    for tag, attributes in found.tags:
        if tag == "svg" and attributes.get("aria-hidden") != "true":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "img":
            assert attributes["alt"]


def test_figures_are_those_of_the_answers(make):
    made = make(Task.CLASSES, 40)
    found = read(made)
    right = (made.predictions.logits.argmax(axis=1) == made.predictions.labels).mean()
    assert f"{right:.1%} accuracy" in found.text
    assert "The kept epoch was chosen on these images" in found.text
    assert "INPUTS (32, 32, 32, 3) BASE (32, 1, 1, 1280) VECTORS (32, 1280) OUTPUTS (32, 3)" in (
        found.text
    )
    assert "1280) 0 mean over all places" in found.text
    assert f"{1281 * 3:,} trained, logits" in found.text


@pytest.mark.parametrize(
    ("split", "seen", "words"),
    [
        ("test", 0, "an honest test"),
        ("test", 3, "3 of these 40 images were used in training or validation"),
        ("all", 40, "40 of these 40 images"),
        ("train", 40, "The model learnt from these images"),
    ],
)
def test_it_says_whether_a_test_is_honest(make, split, seen, words):
    made = make(Task.CLASSES)
    answers = replace(made.predictions, split=split, seen=seen)
    assert words in read(replace(made, predictions=answers)).text


@pytest.mark.parametrize("kept", [True, False])
def test_it_says_that_a_model_learnt_from_its_validation_images(make, kept):
    made = make(Task.CLASSES)
    model = replace(made.model, data=made.model.data.model_copy(update={"refitted": True}))
    # The model has them all right; the head before it has not.
    sure = (9 * np.eye(3, dtype=np.float32))[made.predictions.labels]
    answers = replace(
        made.predictions,
        split="validation",
        logits=sure,
        unseen_logits=made.predictions.logits if kept else None,
    )
    found = read(replace(made, model=model, predictions=answers)).text
    right = (made.predictions.logits.argmax(axis=1) == made.predictions.labels).mean()
    if kept:
        assert "the answers of the head before it learnt from these images too" in found
        assert f"{right:.1%} accuracy" in found
    else:
        assert "figures on them say nothing about others" in found


def test_cells_of_the_matrix_open_their_images(make):
    made = make(Task.CLASSES, 60)
    found = read(made)
    said = made.predictions.logits.argmax(axis=1)
    wrong = (made.predictions.labels == 0) & (said == 1)
    label = f"{wrong.sum()} blue, taken for green: show them"
    links = [a for tag, a in found.tags if a.get("aria-label") == label]
    assert [a["href"] for a in links] == ["#images-0-1"]
    behind = [a for tag, a in found.tags if a.get("id") == "images-0-1"]
    assert behind[0]["class"] == "behind"


def test_maps_are_of_the_answer_and_of_the_truth(make):
    made = make(Task.CLASSES, 30)
    explainer = Explainer(made.model)
    found = read(made, explainer=explainer)
    labels = [a["aria-label"] for t, a in found.tags if t == "svg" and "aria-label" in a]
    maps = [label for label in labels if label.startswith("What speaks for")]
    wrong = int((made.predictions.logits.argmax(axis=1) != made.predictions.labels).sum())
    assert len(maps) == 2 * min(wrong, 12)
    assert "They are exact" in found.text


def test_maps_of_an_inner_layer_are_said_to_be_gradients(make):
    made = make(Task.LABELS, 12, inner_units=4)
    found = read(made, explainer=Explainer(made.model))
    assert "They are the gradient of an inner layer" in found.text
    assert "INNER (32, 4)" in found.text


def test_without_images_they_are_only_named(make):
    made = make(Task.CLASSES, 30, sources=False)
    found = read(made, explainer=Explainer(made.model))
    assert "The images themselves are not at hand" in found.text
    assert not any(value.startswith("data:") for value in found.values("href"))
    assert "photo 0.png" in found.text


def test_an_image_that_is_gone_leaves_its_place_empty(make, tmp_path):
    made = make(Task.CLASSES, 30)
    answers = replace(made.predictions, sources=(tmp_path / "gone.png",) * 30)
    found = read(replace(made, predictions=answers), explainer=Explainer(made.model))
    assert "cannot be read" in found.text
    mixed = replace(made.predictions, sources=(None, *made.predictions.sources[1:]))
    assert "1 of the images are not at hand" in read(replace(made, predictions=mixed)).text


def test_without_answers_it_says_what_the_model_knows(make):
    made = make(Task.CLASSES)
    for answers in (None, made.predictions.take(np.zeros(0, np.int64))):
        found = read(replace(made, predictions=answers))
        assert shown(found) == ["summary", *PARTS]
        assert f"{made.model.validation.value:.1%} accuracy" in found.text
        assert "topwork report MODEL DATA makes them" in found.text


def test_what_is_known_of_the_making_is_said(make):
    made = make(Task.CLASSES)
    model = replace(
        made.model,
        provenance=Provenance(command="topwork train 'my photos'", data="/data/my photos"),
        search=SearchFacts(heads=24, recipes=8, replicates=3, folds=True, mean=0.8643, error=0.004),
        data=made.model.data.model_copy(update={"skipped": 2}),
    )
    found = read(replace(made, model=model), inspection=FINDINGS, trials_svg=b"<svg/>")
    assert "topwork train 'my photos'" in found.text
    assert "2 files were left out" in found.text
    assert "24 heads of 8 recipes were compared on 3 folds of the training images" in found.text
    assert "86.4% ± 0.4%" in found.text
    assert "the same picture in two splits 2 a.png and b.png" in found.text
    assert "labels in doubt 0" in found.text
    assert any(
        a.get("src", "").startswith("data:image/svg+xml;base64,")
        for t, a in found.tags
        if t == "img"
    )
    assert made.model.data.fingerprint in found.text
    assert "image_size 32 none" in found.text
    bare = read(made)
    assert "These images were not inspected" in bare.text
    assert "search" not in shown(bare)


@pytest.mark.parametrize("task", list(Task))
def test_names_and_labels_are_only_text(make, task):
    evil = "<script>alert(1)</script>\"><img src=x onerror='a'>{{ 7*7 }}\x1b[31m"
    names = tuple(f"{evil}{n}" for n in range(2 if task is Task.BINARY else 3))
    made = make(task, 20, names=names)
    answers = replace(made.predictions, names=(evil,) * 20)
    model = replace(made.model, provenance=Provenance(command=evil, data=evil))
    inspection = {"findings": {"leaks": {"count": 1, "worst": [evil]}}}
    html = render_report(model, answers, title=evil, inspection=inspection)
    found = Reader(html)
    assert not {"script", "img", "iframe", "link"} & {tag for tag, _ in found.tags}
    assert not any(key.startswith("on") for _, attributes in found.tags for key in attributes)
    assert "{{ 7*7 }}" in found.text
    assert "\x1b" not in html


@given(st.lists(st.text(max_size=12), min_size=2, max_size=4, unique=True), st.text(max_size=12))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_makes_a_whole_page(make, names, name):
    made = make(Task.CLASSES, 12, names=tuple(names), sources=False)
    answers = replace(made.predictions, names=(name,) * 12)
    html = render_report(made.model, answers, title=name)
    assert Reader(html).values("id")
    # Nothing that would reverse or break the text of others.
    assert not set("\u202e\u2066\x00\x1b\x07") & set(html)


def test_many_classes_are_bounded(make):
    names = tuple(f"class {n}" for n in range(300))
    made = make(Task.CLASSES, 1500, names=names, sources=False, noise=4)
    html = render_report(made.model, made.predictions, title="t", limits=PageLimits(rows=200))
    found = Reader(html)
    assert len(html) < 2e6
    assert "These are the first 40 of" in found.text
    assert "These are the first 200 of 300" in found.text
    assert "matrix" not in {a.get("class") for _, a in found.tags}
    assert any(a.get("href", "").startswith("#images-") for _, a in found.tags)


def test_there_are_at_most_so_many_pictures(make):
    found = read(make(Task.CLASSES, 60), limits=PageLimits(pictures=10))
    assert sum(value.startswith("data:") for value in found.values("href")) == 10
    assert "not shown" in found.text
    # Those that are not at hand take nobody's place.
    made = make(Task.CLASSES, 60)
    answers = replace(made.predictions, sources=(*made.predictions.sources[:30], *[None] * 30))
    found = read(replace(made, predictions=answers), limits=PageLimits(pictures=10))
    assert sum(value.startswith("data:") for value in found.values("href")) == 10


def test_progress_is_told(make):
    recorder = Recorder()
    read(make(Task.CLASSES, 20), callback=recorder)
    assert recorder.told["on_drawn"][-1] == (20, 20)


def test_what_inspect_wrote_down_is_read(make):
    again = json.loads(json.dumps(FINDINGS))
    assert "a.png and b.png" in read(make(Task.BINARY), inspection=again).text
    assert "What inspect found" in read(make(Task.BINARY), inspection={}).text


def test_models_of_several_networks_and_none_of_the_answers(stacked):
    html = render_report(
        stacked.model, stacked.predictions, title="t", explainer=Explainer(stacked.model)
    )
    found = Reader(html)
    assert "efficientnet-lite0 at 64 px and efficientnet-lite0 at 32 px" in found.text
    assert "(32, 2560)" in found.text
    assert "side by side" in found.text
