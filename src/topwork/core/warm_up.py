"""Imports compiled libraries: in the main thread, in one order, before any thread of ours starts.

While a compiled library is loaded, its thread holds the lock of the dynamic loader, and some run
Python meanwhile: matplotlib's font library does, and so the hook that JAX has in Python's garbage
collection. There the thread may have to wait for the GIL; whoever has that may be waiting for the
loader's lock, for a library of its own or a thread's first use of one, and neither ever goes on.

So whoever starts threads first calls the function here that is named after what they do. After
the first time it costs next to nothing. A package that is not installed is passed over: whoever
needs it says so.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from topwork.core.config import HeadKind
from topwork.core.runtime import import_jpeg_packages, import_openvino
from topwork.core.task import Task

# Formats that Pillow imports a library of its own for, when it first meets one, and HEIC.
_PICTURES = ("PIL.WebPImagePlugin", "PIL.AvifImagePlugin", "pillow_heif")
# Of JAX also what it imports when it first compiles something.
_DENSE = ("jax", "jax.numpy", "optax", "jaxlib.mlir.dialects.mhlo")
_SOLVED = ("sklearn.linear_model", "scipy.linalg", "scipy.optimize")
_FOLDS = ("sklearn.model_selection",)
_DRAWING = ("matplotlib.figure", "matplotlib.backends.backend_agg")
_SAVING = ("h5py", "safetensors.numpy", "pyarrow.parquet", "jinja2")
_SERVING = ("httptools", "uvloop", "pyarrow.parquet")
_FIGURES = {Task.LABELS: ("sklearn.metrics",), Task.NUMBER: ("scipy.special",)}


def pictures() -> None:
    """For threads that decode images, or encode small ones."""
    _load(*_PICTURES)
    with _collecting_later():
        import_jpeg_packages()


def networks() -> None:
    """For threads that decode images beside networks that run, or run them."""
    pictures()
    with _collecting_later(), contextlib.suppress(ImportError):
        import_openvino()


def predicting() -> None:
    """For a thread that compiles networks while modules are imported that make pages too."""
    networks()
    _load("markupsafe")


def explaining() -> None:
    """For threads that make maps, and the pictures that these are drawn in."""
    networks()
    _load(*_DRAWING)


def training(*kinds: HeadKind, task: Task, folds: bool, groups: bool, sketches: bool) -> None:
    """For what threads do beside and within the training of heads.

    Args:
        kinds: of the heads.
        task: of the data, which decides the figures.
        folds: whether heads are compared on folds.
        groups: whether images have groups.
        sketches: whether there are so many images that copies are looked for in sketches.
    """
    networks()
    _load("numpy.random")
    if HeadKind.DENSE in kinds:
        _load(*_DENSE)
    _load(*_FIGURES.get(task, ()))
    if groups:
        _load("scipy.sparse.csgraph")
    if sketches:
        _load("sklearn.utils.extmath")
    if folds:
        _load(*_FOLDS)
    if HeadKind.LOGISTIC in kinds:
        blas()


def saving() -> None:
    """For the threads that save a model, its curve and its report."""
    explaining()
    _load(*_SAVING)


def fitting() -> None:
    """For a thread that waits for NNCF, and heads that are solved to see what int8 costs."""
    networks()
    _load(*_FOLDS, *_SOLVED)


def inspecting() -> None:
    """For the threads that judge images and labels, and the tests that compare splits."""
    networks()
    _load("scipy.stats", *_FOLDS)
    blas()


def serving() -> None:
    """For a server's threads, which decode, run and explain."""
    networks()
    _load(*_SERVING)


@cache
def blas() -> Any:
    """Returns what limits the threads of matrix products, a `ThreadpoolController`.

    To find the libraries that multiply it asks the dynamic loader: once, when heads can be solved.
    """
    _load(*_SOLVED)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@cache
def _load(*names: str) -> None:
    with _collecting_later():
        for name in names:
            with contextlib.suppress(ImportError):
                import_module(name)


@contextlib.contextmanager
def _collecting_later() -> Iterator[None]:
    """Puts garbage collection off: hooks stay out of imports, which take a fifth less time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
