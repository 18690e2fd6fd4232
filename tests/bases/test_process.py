"""The child process, and how its end reaches the parent."""

import subprocess
import sys

import pytest

from topwork.bases import process
from topwork.bases.process import ask_keras
from topwork.errors import NetworkError, WeightsError


def test_an_error_of_the_child_comes_back_as_it_was(tmp_path):
    path = tmp_path / "bad.h5"
    path.write_text("no weights")
    request = {"name": "mobilenet", "image_size": 32, "weights": str(path), "seed": None}
    with pytest.raises(WeightsError, match=r"bad\.h5 is not a file of Keras weights"):
        ask_keras("build", {**request, "folder": str(tmp_path)})


def test_a_child_that_breaks_is_an_error_with_its_last_line():
    with pytest.raises(NetworkError, match=r"the process that runs Keras broke: .*nonsense"):
        ask_keras("nonsense", {})


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; sys.exit(3)", "broke: exit code 3"),
        ("import os; os.abort()", "broke: exit code -6"),
        ("import sys; print('ab\\ncd', file=sys.stderr)", "broke: cd"),
        ("import sys; sys.stderr.buffer.write(b'\\xff\\n')", "broke: \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_child_that_ends_without_an_answer_is_an_error(monkeypatch, code, says):
    real = subprocess.run
    monkeypatch.setattr(
        process.subprocess,
        "run",
        lambda _, **options: real([sys.executable, "-c", code], **options),
    )
    with pytest.raises(NetworkError, match=says):
        ask_keras("build", {})


def test_a_users_own_keras_settings_change_nothing(tmp_path, monkeypatch):
    from topwork.bases import find_weights, get_base, prepare

    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "keras.json").write_text(
        '{"floatx": "float16", "epsilon": 0.5, "backend": "torch",'
        ' "image_data_format": "channels_first"}'
    )
    spec = get_base("efficientnet-lite0")
    network = prepare(spec, 32, find_weights(spec), tmp_path / "store")
    assert network.feature_shape == (1, 1, 1280)
    config = (network.folder / "config.json").read_text()
    assert "channels_first" not in config
    assert "float16" not in config
