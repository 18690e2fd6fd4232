from pathlib import Path

import pytest

from topwork.bases import parse_bases
from topwork.core.config import PRESETS, HeadSettings, Search, Settings, default_store
from topwork.core.errors import SettingsError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("epochs", 1.5), ("epochs", "many"), ("learning_rate", 0),
        ("learning_rate", -1), ("learning_rate", float("nan")), ("learning_rate", float("inf")),
        ("batch_size", 0), ("image_size", 31), ("image_size", 4096), ("seed", -1),
        ("validation_fraction", 0), ("validation_fraction", 1), ("optimizer", "adamw"),
        ("precision", "f16"), ("interpolation", "cubic"), ("base", 3), ("strict", "perhaps"),
        ("learning_rate", "automatic"), ("learning_rate", ""), ("learning_rate", 11),
        ("learning_rate", None), ("penalty", 0), ("penalty", "none"), ("penalty", 1e9),
        ("penalty", float("nan")), ("views", -1), ("views", 1001), ("views", 0.5),
        ("flip", "both"), ("head", "svm"), ("weight_decay", -0.1), ("weight_decay", 101),
        ("weight_decay", float("inf")), ("label_smoothing", 1), ("label_smoothing", -0.1),
        ("dropout", 1), ("dropout", -0.5), ("inner_units", -1), ("inner_units", 16385),
        ("class_weight", "equal"), ("normalize", "maybe"), ("preset", "fastest"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_was_received(name, value):
    with pytest.raises(SettingsError, match=f"{name}: .*received {value!r}"):
        Settings.create(**{name: value})


def test_an_unknown_setting_lists_the_known():
    with pytest.raises(SettingsError, match=r"'epoch'.*epochs, learning_rate"):
        Settings.create(epoch=3)


def test_settings_do_not_change():
    with pytest.raises(Exception, match="frozen"):
        Settings.create().epochs = 3


def test_settings_survive_json():
    settings = Settings.create(base="xception", weights=Path("w.h5"), optimizer="sgd")
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_every_setting_says_what_it_is():
    assert all(field.description for field in Settings.model_fields.values())


def test_the_store_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TOPWORK_STORE", str(tmp_path / "s"))
    assert default_store() == tmp_path / "s"
    monkeypatch.delenv("TOPWORK_STORE")
    assert default_store().name == "topwork"


@pytest.mark.parametrize("name", ["learning_rate", "penalty"])
def test_a_number_may_be_left_to_topwork(name):
    assert getattr(Settings.create(), name) == "auto"
    head = "logistic" if name == "penalty" else "dense"
    for given, taken in (("auto", "auto"), (0.03, 0.03), ("0.03", 0.03), (1, 1.0)):
        settings = Settings.create(head=head, **{name: given})
        found = getattr(settings, name)
        assert (found, type(found)) == (taken, type(taken))
        again = Settings.model_validate_json(settings.model_dump_json())
        assert getattr(again, name) == taken


@pytest.mark.parametrize(
    "values",
    [
        {"inner_units": 10},
        {"dropout": 0.2},
        {"label_smoothing": 0.1},
        {"weight_decay": 0.3},
        {"learning_rate": 0.01},
    ],
)
def test_what_a_logistic_head_does_not_have_is_a_contradiction(values):
    (name,) = values
    reason = f"the logistic head has no {name}; leave it out, or say --head dense"
    with pytest.raises(SettingsError, match=reason):
        Settings.create(head="logistic", **values)
    Settings.create(**values)
    plain = {name: Settings.create().model_dump()[name]}
    Settings.create(head="logistic", **plain, class_weight="balanced")


def test_a_head_in_epochs_has_no_penalty():
    with pytest.raises(SettingsError, match=r"the dense head has no penalty; .* --head logistic"):
        Settings.create(penalty=0.1)


def test_the_head_settings_are_the_part_that_decides_the_head():
    settings = Settings.create(epochs=3, dropout=0.1, base="vgg16", seed=4)
    found = settings.head_settings()
    assert type(found) is HeadSettings
    assert found.model_dump().items() <= settings.model_dump().items()
    assert (found.epochs, found.dropout) == (3, 0.1)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_in_what_is_not_said(name):
    plain = Settings.create().model_dump(mode="json")
    found = Settings.create(preset=name).model_dump(mode="json")
    assert found == plain | PRESETS[name] | {"preset": str(name)}
    assert found != plain | {"preset": str(name)}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    "said",
    [
        {"head": "dense"}, {"base": "vgg16"}, {"normalize": False}, {"flip": False},
        {"class_weight": "none"}, {"flip": True}, {"seed": 3},
    ],
)  # fmt: skip
def test_what_is_said_beside_a_preset_wins(name, said):
    found = Settings.create(preset=name, **said).model_dump(mode="json")
    assert found == Settings.create(preset=name).model_dump(mode="json") | said


@pytest.mark.parametrize("name", PRESETS)
def test_a_size_said_beside_a_preset_is_that_of_all_its_bases(name):
    found = Settings.create(preset=name, image_size=128)
    parts = parse_bases(found.base, found.image_size)
    assert {size for _, size in parts} == {128}
    plain = Settings.create(preset=name)
    bases = parse_bases(plain.base, plain.image_size)
    assert [spec for spec, _ in parts] == [spec for spec, _ in bases]


@pytest.mark.parametrize("folds", [None, 0, 2, 10])
def test_a_search_takes_folds_or_the_validation_images(folds):
    assert Search.create(folds=folds).folds == folds


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"folds": 1}, "folds: must be 0 for the validation images, or 2 or more, received 1"),
        ({"folds": -1}, "folds: .*received -1"),
        ({"folds": 2.5}, r"folds: .*received 2\.5"),
        ({"seeds": 0}, "seeds: .*received 0"),
        ({"seeds": 1001}, "seeds: .*received 1001"),
        ({"budget": 60}, "budget: .*received 60"),
        ({"time": 3}, "unknown setting 'time'; the settings are folds, seeds, budget"),
    ],
)
def test_a_search_that_cannot_be_is_named(values, reason):
    with pytest.raises(SettingsError, match=reason):
        Search.create(**values)


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({}, 40),
        ({"epochs": 10}, 10),
        ({"epochs": 3}, 3),
        ({"epochs": 100}, 100),
        ({"epochs": 10, "most_epochs": 25}, 25),
        ({"most_epochs": 25}, 25),
        ({"most_epochs": 5}, 10),
        ({"learning_rate": 0.01}, 40),
        ({"preset": "fast", "head": "dense"}, 40),
    ],
)
def test_epochs_that_are_asked_for_are_kept_exactly(given, allowed):
    settings = Settings.create(**given)
    assert settings.epochs_allowed == allowed
    other = settings.model_copy(update={"precision": "f32", "class_weight": "none"})
    assert other.epochs_allowed == allowed
