"""Imports compiled libraries in the main thread and in one order, before threads are started.

While a thread loads a compiled library, it holds the lock of the dynamic loader, and some libraries
run Python code meanwhile: font libraries do, and so does the hook that JAX has in Python's garbage
collection. That code may have to wait for the GIL, which another thread may hold that waits for the
loader's lock, to load a library itself or to use one for the first time: a deadlock.

So code that starts threads first calls the function here that is named after what they do. After
the first call it costs next to nothing. A package that is not installed is skipped: the code that
needs it says so.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from importlib import import_module
from typing import Any, TypeVar
from weakref import WeakSet

from topwork.core.config import HeadKind
from topwork.core.runtime import import_jpeg_packages, import_openvino
from topwork.core.task import Task

Result = TypeVar("Result")

# Formats for which Pillow imports another library when it first reads one, and HEIC.
_IMAGE_FORMATS = ("PIL.WebPImagePlugin", "PIL.AvifImagePlugin", "pillow_heif")
# With what JAX imports when it first compiles something.
_DENSE = ("jax", "jax.numpy", "optax", "jaxlib.mlir.dialects.mhlo")
_LOGISTIC = ("sklearn.linear_model", "scipy.linalg", "scipy.optimize")
_FOLDS = ("scipy.special",)
_SAVING = ("h5py", "safetensors.numpy", "pyarrow.parquet", "jinja2")
_SERVING = ("httptools", "uvloop", "pyarrow.parquet")
# Forgotten when nobody waits for them any more.
_beside: WeakSet[Future[Any]] = WeakSet()
_METRICS = {Task.LABELS: ("sklearn.metrics",), Task.NUMBER: ("scipy.special",)}


def decoding() -> None:
    """For threads that decode images or encode thumbnails."""
    _load(*_IMAGE_FORMATS)
    with _without_garbage_collection():
        import_jpeg_packages()


def registering() -> None:
    """For threads that lay small pictures over each other.

    That is rarely needed, so it is not done before others: threads that `begin_beside` knows of
    are waited for first.
    """
    wait(list(_beside))
    _load("scipy.fft", "scipy.ndimage")


def begin_beside(work: Callable[[], Result]) -> Future[Result]:
    """Begins work in a thread of its own, beside the main thread."""
    pool = ThreadPoolExecutor(1)
    begun = pool.submit(work)
    pool.shutdown(wait=False)
    _beside.add(begun)
    return begun


def running_networks() -> None:
    """For threads that run networks, or decode images while networks run."""
    decoding()
    with _without_garbage_collection(), contextlib.suppress(ImportError):
        import_openvino()


def predicting() -> None:
    """For a thread that compiles networks while modules that read labels and make pages load."""
    running_networks()
    _load("markupsafe", "unicodedata")


def training(*kinds: HeadKind, task: Task, folds: bool, sketches: bool) -> None:
    """For the threads that train heads, and those that run beside them.

    Args:
        kinds: of the heads.
        task: of the data; decides the metrics.
        folds: whether heads are compared on folds.
        sketches: whether duplicates are searched by sketches, as among many images.
    """
    running_networks()
    _load("numpy.random")
    if HeadKind.DENSE in kinds:
        _load(*_DENSE)
    _load(*_METRICS.get(task, ()))
    if sketches:
        _load("sklearn.utils.extmath")
    if folds:
        _load(*_FOLDS)
    if HeadKind.LOGISTIC in kinds:
        blas()


def saving() -> None:
    """For the threads that save a model, its learning curve and its report."""
    running_networks()
    _load(*_SAVING)


def inspecting() -> None:
    """For the threads that check images and labels and compare splits."""
    running_networks()
    _load("scipy.stats", *_FOLDS)
    blas()


def serving() -> None:
    """For a server's threads, which decode images, run networks and explain predictions."""
    running_networks()
    _load(*_SERVING)


@cache
def blas() -> Any:
    """Returns the `ThreadpoolController`, which limits the threads of matrix products.

    It asks the dynamic loader for the libraries of matrix products, once, after those that logistic
    heads need are loaded.
    """
    _load(*_LOGISTIC)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@cache
def _load(*names: str) -> None:
    with _without_garbage_collection():
        for name in names:
            with contextlib.suppress(ImportError):
                import_module(name)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disables garbage collection: its hooks do not run, and imports take a fifth less time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
