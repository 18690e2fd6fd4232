from pathlib import Path

import pytest

from topwork.config import Settings, default_store
from topwork.errors import SettingsError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("epochs", 1.5), ("epochs", "many"), ("learning_rate", 0),
        ("learning_rate", -1), ("learning_rate", float("nan")), ("learning_rate", float("inf")),
        ("batch_size", 0), ("image_size", 31), ("image_size", 4096), ("seed", -1),
        ("validation_fraction", 0), ("validation_fraction", 1), ("optimizer", "adamw"),
        ("precision", "f16"), ("interpolation", "cubic"), ("base", 3), ("strict", "perhaps"),
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
