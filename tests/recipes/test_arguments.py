"""Signature and documentation of estimators, and the command line's help, say what Settings do."""

import inspect
import pickle
from enum import StrEnum

import pytest
import typer
from sklearn.base import clone

import topwork
from topwork.cli import app
from topwork.core.config import Settings
from topwork.recipes.arguments import document_settings

ESTIMATORS = (topwork.Classifier, topwork.Regressor)
FIELDS = Settings.model_fields


def join_words(text):
    return " ".join(text.split())


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_signature_starts_with_the_base_and_ends_with_what_is_not_of_the_settings(kind):
    parameters = dict(inspect.signature(kind).parameters)
    assert str(parameters.pop("store")) == "store: 'str | Path | None' = None"
    assert str(parameters.pop("verbose")) == "verbose: 'bool' = False"
    assert parameters.keys() == FIELDS.keys()
    assert not any(isinstance(p.default, StrEnum) for p in parameters.values())
    assert [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == ["base"]
    assert list(parameters)[:3] == ["base", "preset", "image_size"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("base", "str"), ("preset", "str | None"), ("image_size", "int | None"), ("flip", "bool"),
        ("head", "str"), ("learning_rate", "float | str"), ("dropout", "float"),
        ("weights", "str | Path | None"), ("address", "str | None"),
    ],
)  # fmt: skip
def test_the_signature_names_the_types(name, kind):
    assert inspect.signature(topwork.Classifier).parameters[name].annotation == kind


def test_the_docstring_and_the_help_have_every_description():
    arguments = topwork.Classifier.__doc__.split("Args:")[1].split("Attributes:")[0]
    said = join_words(arguments)
    options = {p.name: p.help for p in typer.main.get_command(app).commands["train"].params}
    for name, field in FIELDS.items():
        phrase = field.description.removesuffix(".")
        assert f" {name}: {phrase[0].lower()}{phrase[1:]}" in f" {said}".replace(": L2", ": l2")
        assert options[name] == field.description
    for value in ("`fast`, `balanced`, `best`", "`adam`, `sgd`", "`auto`, `bf16`, `f32`, `int8`"):
        assert value in said
    assert "settings:" not in said
    assert said.index("strict: ") < said.index("store: ") < said.index("verbose: ")
    assert max(map(len, arguments.splitlines())) <= 100


def test_a_class_is_documented_in_its_own_indent():
    class Small:
        """Small.

        Args:
            settings: all of them.
            other: stays.
        """

    lines = document_settings(Small).__doc__.splitlines()
    assert lines[-2].strip() == "other: stays."
    starts = [line for line in lines if line.strip().startswith("epochs: ")]
    indent = lines[-2][: -len("other: stays.")]
    assert starts == [f"{indent}epochs: passes over the training vectors."]


def test_arguments_are_kept_as_they_are_given():
    rate = float("0.5")
    classifier = topwork.Classifier("xception", learning_rate=rate, store="here")
    assert classifier.base == "xception"
    assert classifier.learning_rate is rate
    assert classifier.store == "here"
    again = pickle.loads(pickle.dumps(classifier))
    assert again.get_params() == clone(classifier).get_params() == classifier.get_params()
    assert set(classifier.get_params()) == {*FIELDS, "store", "verbose"}


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ((), {"epoch": 3}, "unexpected keyword argument 'epoch'"),
        (("xception", "fast"), {}, "too many positional arguments"),
    ],
)
def test_other_arguments_are_refused(given, options, said):
    with pytest.raises(TypeError, match=rf"Estimator.__init__\(\) .*{said}"):
        topwork.Classifier(*given, **options)
