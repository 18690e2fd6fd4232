"""The child process, and how its end reaches the parent."""

import subprocess
import sys

import pytest

from topwork.errors import ModelError
from topwork.export import process
from topwork.export.process import ask_child


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; sys.exit(3)", "that does run_onnx broke: exit code 3"),
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
    with pytest.raises(ModelError, match=says):
        ask_child("run_onnx", {})


def test_a_task_that_fails_is_an_error_with_its_last_line(tmp_path):
    pytest.importorskip("onnx", reason="needs the extra export")
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(ModelError, match=r"run_onnx broke: .*bad\.onnx"):
        ask_child("run_onnx", {"path": str(tmp_path / "bad.onnx"), "pixels": "uint8"})


def test_the_parent_imports_none_of_it():
    code = (
        "import sys, topwork.export; "
        "print({'tensorflow', 'onnx', 'onnxruntime', 'nncf', 'ai_edge_litert', 'keras', 'jax'}"
        " & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
