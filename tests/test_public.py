import ast
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import topwork
from topwork.cli import app
from topwork.core import errors
from topwork.core.config import Settings

SOURCE = Path(topwork.__file__).parent
HEAVY = {
    "PIL", "h5py", "jax", "keras", "matplotlib", "numpy", "openvino", "optax", "pandas",
    "pyarrow", "pydantic", "rich", "safetensors", "scipy", "sklearn", "tensorflow", "torch",
    "typer",
}  # fmt: skip
# The only places that may name Keras: the child process, and the user who asks for a model.
KERAS = {
    "bases/child.py", "bases/lite.py", "bases/engines/keras_child.py", "recipes/estimator.py",
    "models/export/keras_wrapper.py", "models/export/tensorflow_files.py",
}  # fmt: skip


def run_python(code, *args):
    """Runs code in a fresh process; returns the JSON of its last line and what it else printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={name: value for name, value in os.environ.items() if name != "MPLBACKEND"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    return json.loads(last), "\n".join(printed), done.stderr


def test_the_public_names_are_these():
    kinds = [name for name, value in vars(errors).items() if inspect.isclass(value)]
    rest = [
        "Classifier", "Dataset", "History", "Regressor", "Settings", "__version__", "load", "tune",
    ]  # fmt: skip
    assert sorted(topwork.__all__) == sorted(kinds + rest)
    assert set(topwork.__all__) <= {*dir(topwork)}
    with pytest.raises(AttributeError, match="no attribute 'classifiers'"):
        _ = topwork.classifiers


@pytest.mark.parametrize("name", topwork.__all__)
def test_every_public_name_is_there_with_a_docstring(name):
    value = getattr(topwork, name)
    if name == "__version__":
        assert value.count(".") == 2
    else:
        assert value.__name__ == name
        assert inspect.getdoc(value)
        assert value.__doc__ is not None


def test_every_error_is_a_topwork_error():
    kinds = [value for value in vars(errors).values() if inspect.isclass(value)]
    assert all(issubclass(kind, topwork.TopworkError) for kind in kinds)


IMPORT = """
import json, os, sys, warnings
before = list(warnings.filters), dict(os.environ)
import topwork
same = before == (list(warnings.filters), dict(os.environ))
print(json.dumps([same, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_the_import_costs_and_changes_nothing():
    (same, modules), out, err = run_python(IMPORT)
    assert same
    assert not HEAVY & {*modules}
    assert (out, err) == ("", "")


RUN = """
import json, sys
from topwork.cli import main
code = main()
print()
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["predict", "--help"]])
def test_help_imports_nothing_heavy(args):
    (code, modules), out, _ = run_python(RUN, *args)
    assert code == 0
    assert "Usage: " in out
    assert not {*modules} & (HEAVY - {"typer", "pydantic", "rich"})


@pytest.mark.system
def test_a_prediction_needs_neither_keras_nor_jax(saved, photos):
    (code, modules), out, _ = run_python(RUN, "predict", saved, photos / "test" / "red", "--json")
    assert code == 0
    assert out.count('"predictions"') == 4
    assert "openvino" in modules
    heavy = {"keras", "jax", "optax", "tensorflow", "torch", "h5py", "matplotlib", "pandas"}
    assert not {*modules} & heavy


@pytest.mark.system
def test_openvino_reports_nothing_and_leaves_the_home_alone(saved, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    image = next((photos / "test" / "red").iterdir())
    for arguments in (
        ("predict", saved, image),
        # In the process that runs Keras, too.
        ("describe", "--image-size", 33, "--store", tmp_path / "store"),
    ):
        (code, modules), *_ = run_python(RUN, *arguments)
        assert code == 0
        assert not [name for name in modules if name.startswith("openvino_telemetry")]
    # Keras imports Matplotlib, which keeps its caches where they belong.
    assert {path.name for path in tmp_path.iterdir()} - {".cache", ".config"} == {"store"}


def test_openvino_is_imported_in_one_place():
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and "openvino" in [alias.name for alias in node.names])
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("openvino"))
    }
    # The second has a model by then, which came through the first.
    assert found == {"core/runtime.py", "bases/quantizing.py"}


def test_keras_is_imported_where_its_backend_is_known():
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.partition(".")[0] in ("keras", "tensorflow", "torch") for name in names):
                found.add(path.relative_to(SOURCE).as_posix())
    assert found == KERAS


@pytest.mark.system
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
def test_an_estimator_is_created_without_scikit_learn_keras_and_jax(kind):
    code = f"import json, sys, topwork; topwork.{kind}(); print(json.dumps([*sys.modules]))"
    modules, *_ = run_python(code)
    assert "topwork.recipes.estimator" in modules
    assert not {"sklearn", "keras", "jax", "openvino"} & {*modules}


@pytest.mark.parametrize("kind", [topwork.Classifier, topwork.Regressor])
def test_the_defaults_of_estimators_are_those_of_the_settings(kind):
    parameters = dict(inspect.signature(kind).parameters)
    assert parameters.pop("store").default is None
    assert parameters.pop("verbose").default is False
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert defaults == {name: field.default for name, field in Settings.model_fields.items()}


@pytest.mark.parametrize("command", ["train", "describe"])
def test_the_defaults_of_the_command_line_are_those_of_the_settings(command):
    options = {
        option.name: option for option in typer.main.get_command(app).commands[command].params
    }
    named = options.keys() & Settings.model_fields.keys()
    if command == "train":
        assert named == Settings.model_fields.keys()
    for name in named:
        field = Settings.model_fields[name]
        assert options[name].default == field.default, name
        assert options[name].help == field.description
        assert options[name].opts == [f"--{name.replace('_', '-')}"]
