from dataclasses import replace

import pytest

from topwork.core.config import HeadKind
from topwork.models.trust import say_kept, say_trust

ALL = {"blue": 5, "green": 5, "red": 5}


@pytest.fixture
def make(trained):
    """Returns a model with such images, in which nothing was searched."""

    def make_model(training, validation, **settings):
        model = trained.model
        counts = {"train": training, "validation": validation}
        return replace(
            model,
            data=model.data.model_copy(update={"counts": counts}),
            settings=model.settings.model_copy(update=settings),
            search=None,
        )

    return make_model


def test_where_validation_has_every_class_there_is_no_doubt(make):
    model = make(ALL, ALL, most_epochs=20)
    assert say_trust(model) == []
    assert say_kept(model) is None


def test_what_nothing_was_chosen_by_is_said(make):
    (said,) = say_trust(make(ALL, {**ALL, "red": 0}))
    assert said.startswith("Validation lacks a class, and too few images")
    assert "the last epoch is kept" in said and "--most-epochs" not in said
    (said,) = say_trust(make(ALL, {"blue": 5}, most_epochs=20))
    assert said.startswith("Validation lacks 2 classes,")
    assert said.endswith("--most-epochs is for validation that has every class.")
    (said,) = say_trust(make(ALL, {"blue": 5}, head=HeadKind.LOGISTIC, most_epochs=20))
    assert "epoch" not in said and "not calibrated" in said


def test_a_class_of_one_image_is_judged_nowhere_and_that_is_said(make):
    *_, said = say_trust(make({**ALL, "red": 1}, {**ALL, "red": 0}))
    assert said == "No figure judges red: there is one image of it alone, to learn from."
    *_, said = say_trust(make({**ALL, "blue": 1, "red": 1}, {"green": 5}))
    assert said.startswith("No figure judges blue, red: there is one image of each alone")
