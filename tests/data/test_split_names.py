import pytest
from hypothesis import given
from hypothesis import strategies as st

from topwork.data.listing import Split
from topwork.data.split_names import Part, find_parts, parse_part, parse_split, tokens

WORDS = {
    Part.TRAIN: ["train", "Training", "TRAIN", "trainval"],
    Part.VALIDATION: ["val", "valid", "Validation", "dev", "VAL"],
    Part.TEST: ["test", "Testing", "eval", "evaluation", "holdout", "hold-out", "Hold Out"],
    Part.UNLABELED: ["unlabeled", "Unlabelled", "pred"],
}
PAIRS = [(word, part) for part, words in WORDS.items() for word in words]


@pytest.mark.parametrize(("word", "part"), PAIRS)
@pytest.mark.parametrize(
    "pattern",
    ["{}", "{}_set", "{} images", "{}-data", "images_{}", "{}2017", "{}_01", " {}", "Dataset.{}"],
)
def test_a_split_is_known_with_what_people_add(word, part, pattern):
    assert parse_part(pattern.format(word)) is part
    assert parse_split(pattern.format(word)) is part.as_split


@pytest.mark.parametrize(
    "name",
    [
        "train_station", "bullet train", "test tube", "developers", "contest", "validity", "",
        "images", "1", "part_1", "OK", "extra", "testament", "тест",
    ],
)  # fmt: skip
def test_what_has_another_meaning_too_is_none(name):
    assert parse_part(name) is None


def test_words_and_numbers_are_told_apart():
    assert tokens("TrainSet_2017-final") == ("train", "set", "2017", "final")
    assert [parse_part(n) for n in ("trainset", "ValSet", "testdata2", "imagesTest")] == [
        Part.TRAIN, Part.VALIDATION, Part.TEST, Part.TEST
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["seg_train", "seg_test", "seg_pred"], [Part.TRAIN, Part.TEST, Part.UNLABELED]),
        (["asl_train", "asl_test"], [Part.TRAIN, Part.TEST]),
        (["flowers train", "flowers val", "test"], [Part.TRAIN, Part.VALIDATION, Part.TEST]),
        (["bullet train", "steam train"], [None, None]),
        (["bullet train", "test tube"], [None, None]),
        (["seg_train", "cat"], [None, None]),
        (["train", "cat"], [Part.TRAIN, None]),
    ],
)
def test_other_words_are_allowed_where_all_have_the_same(names, parts):
    found = find_parts(names)
    assert [found.get(name) for name in names] == parts


@given(st.text(max_size=12))
def test_any_name_has_a_part_or_none(name):
    part = parse_part(name)
    assert part is None or parse_split(name) in (None, *Split)
    assert find_parts([name]).get(name) is part
