"""The page about the architecture speaks of what is there."""

import ast
import re
from pathlib import Path

import pytest

import topwork

SOURCE = Path(topwork.__file__).parent
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = {path.parent.name for path in SOURCE.glob("*/__init__.py")}

named = sorted(set(re.findall(r"`([a-z_]+/[a-z_/]+)(?:\.[A-Z]\w+)?`", PAGE.read_text("utf-8"))))


@pytest.mark.parametrize("name", named)
def test_each_module_that_it_names_is_there(name):
    folder = ROOT if name.startswith("tests/") else SOURCE
    path = folder / name
    assert path.is_dir() or path.with_suffix(".py").is_file()


def test_each_name_in_a_module_is_defined_there():
    for module, name in re.findall(r"`([a-z_/]+)\.([A-Z]\w+)`", PAGE.read_text("utf-8")):
        assert re.search(rf"\b{name}\b", (SOURCE / f"{module}.py").read_text("utf-8")), name


@pytest.mark.parametrize("file", [PAGE, PAGE.parent / "images" / "architecture.svg"])
def test_each_package_is_in_the_page_and_in_its_picture(file):
    text = file.read_text("utf-8")
    assert {package for package in PACKAGES if not re.search(rf"\b{package}\b", text)} == set()
    assert len(PACKAGES) > 10


def test_each_module_starts_with_a_line_that_says_what_it_is():
    for path in SOURCE.rglob("*.py"):
        said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        assert said.partition("\n")[0].endswith((".", "?", ":")), path
