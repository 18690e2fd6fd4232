import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from topwork.core.runtime import find_version


@pytest.mark.parametrize("package", ["topwork", "keras", "openvino", "pillow", "jax"])
def test_finds_the_version_that_the_standard_library_finds(package):
    assert find_version(package) == version(package)


def test_a_package_that_is_not_there():
    with pytest.raises(PackageNotFoundError):
        find_version("no-such-package-anywhere")


def test_a_hidden_package_is_as_if_it_were_not_installed():
    code = """
import sys, json
from topwork.core.runtime import hide
hide("pandas", "sklearn")
found = []
for name in ("pandas", "sklearn.linear_model", "numpy"):
    try:
        __import__(name)
        found.append(name)
    except ImportError as error:
        assert "hidden" in str(error), error
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["numpy"]


@pytest.mark.system
def test_the_process_that_runs_keras_imports_what_it_needs(tmp_path):
    code = """
import os, runpy, sys
leave = os._exit
def look(code):
    unneeded = ("jax", "matplotlib", "pandas", "sklearn", "tensorflow", "torch")
    print(*(name for name in ("keras", *unneeded) if name in sys.modules), flush=True)
    leave(code)
os._exit = look
runpy.run_module("topwork.bases.child", run_name="__main__")
"""
    base = {"name": "efficientnet-lite0", "image_size": 32, "weights": None, "seed": 0}
    content = {"task": "build", "request": base | {"folder": str(tmp_path)}, "arrays": []}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"KERAS_BACKEND": "openvino"},
        text=True,
    ) as process:
        # It ends when this is closed, as it would if its parent had ended.
        process.stdin.write(json.dumps(content | {"folder": str(tmp_path)}) + "\n")
        process.stdin.flush()
        assert process.stdout.read().split() == ["keras"]
    assert (tmp_path / "network.xml").is_file()
