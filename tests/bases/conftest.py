"""Processes that keep Keras imported from one test to the next."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from topwork.core.child_process import ERRORS


class Worker:
    """A process that runs `stock_keras.py` on one of Keras' backends."""

    def __init__(self, backend, python=sys.executable):
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name("stock_keras.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "KERAS_BACKEND": backend},
        )

    def ask(self, task, request):
        """Answers as `ask_keras` does."""
        self.process.stdin.write(json.dumps([task, request]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if answer.get("error") in ERRORS:
            raise ERRORS[answer["error"]](answer["message"])
        assert "error" not in answer, answer
        return answer["result"]

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture(scope="session")
def workers():
    """Returns the process of a backend, started when it is first asked for."""
    running = {}

    def get(backend):
        if backend not in running:
            running[backend] = Worker(backend)
        return running[backend]

    yield get
    for worker in running.values():
        worker.close()
