"""The models that are served: each a private copy of its folder, exchanged when that changes.

A copy, because networks are compiled from files and read from them later too: what is written
over them, or put in their place, must not reach a model that is at work. A folder that was
replaced is copied, checked and compiled beside the old model, which goes on until then; and until
the last request that has it is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topwork.core.errors import ModelError, SettingsError, TopworkError, printable
from topwork.core.files import drop_scratch, make_scratch, touch_scratch
from topwork.models.explain import Explainer
from topwork.models.folder import CARD_FILE, LOADED_FILES, load_model
from topwork.models.gallery import GALLERY_FILE, Gallery, load_gallery
from topwork.models.model import Model
from topwork.serve.batching import Batcher
from topwork.serve.http_errors import HTTPError
from topwork.serve.prometheus import ServerMetrics

log = logging.getLogger("topwork.serve")

SUFFIX = ".model"
# Far more often than scratch folders of vanished processes are removed.
TOUCH_EVERY_S = 3600.0
# Files of a model that no answer needs, and those that are still being written.
_LEFT_OUT = (".*", "*.keras", "*.html", "*.png")
FolderStamp = tuple[tuple[int, int, int] | None, ...]


@dataclass
class ServedModel:
    """A model at work.

    Attributes:
        name: what clients call it.
        version: 12 hex digits of the hash of its `model.json`.
        folder: our copy of it.
        model: the model.
        batcher: its networks.
        gallery: the training images that it carries; None if it carries none.
        users: requests that have it.
        retired: whether another has taken its place.
    """

    name: str
    version: str
    folder: Path
    model: Model
    batcher: Batcher
    gallery: Gallery | None
    users: int = 0
    retired: bool = False
    _explainer: Explainer | None = None
    _compiling: threading.Lock = field(default_factory=threading.Lock)

    @property
    def explainer(self) -> Explainer:
        """Its networks up to their pooling, compiled when they are first asked for."""
        with self._compiling:
            if self._explainer is None:
                self._explainer = Explainer(self.model)
            return self._explainer

    def describe(self) -> dict[str, Any]:
        """Returns what clients may know of it."""
        model = self.model
        return {
            "name": self.name,
            "version": self.version,
            "task": str(model.task),
            "classes": list(model.classes),
            "base": join_base_names(model),
            "image_size": max(base.space.image_size for base in model.bases),
            "validation": model.validation.model_dump(mode="json"),
            "neighbours": self.gallery is not None,
            "exact_maps": model.head.linear,
        }

    def close(self) -> None:
        """Ends its threads and removes our copy."""
        self.batcher.close()
        drop_scratch(self.folder)


def open_model(path: Path, name: str, on_batch: Callable[[int], None]) -> ServedModel:
    """Copies, checks and compiles a model.

    Args:
        path: its folder.
        name: what clients call it.
        on_batch: as for `Batcher`.

    Raises:
        ModelError: it is none, it is damaged, or there is no room for the copy.
        NetworkError: its networks cannot be compiled.
    """
    if not (path / CARD_FILE).is_file():
        load_model(path)  # raises, and names what is missing
    folder = make_scratch("serve")
    try:
        shutil.copytree(path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        model = load_model(folder)
        gallery = load_gallery(folder, model.vector_length)
        version = hashlib.sha256((folder / CARD_FILE).read_bytes()).hexdigest()[:12]
        return ServedModel(name, version, folder, model, Batcher(model, on_batch), gallery)
    except BaseException as error:
        drop_scratch(folder)
        if isinstance(error, TopworkError):
            # Messages name the folder that the user gave, not its copy.
            raise type(error)(str(error).replace(str(folder), str(path))) from error
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise ModelError(f"cannot copy the model {path} to {folder}: {reason}") from error
        raise


def join_base_names(model: Model) -> str:
    """Returns the names of a model's networks."""
    return " + ".join(base.space.base for base in model.bases)


def read_stamp(path: Path) -> FolderStamp:
    """Returns size, time and inode of each file of a model: equal while nobody changed it."""
    found: list[tuple[int, int, int] | None] = []
    for name in (CARD_FILE, *LOADED_FILES):
        found.append(_stamp_file(path / name))
    # The gallery is optional, and added after the rest.
    found.append(_stamp_file(path / GALLERY_FILE) or (0, 0, 0))
    return tuple(found)


def _stamp_file(path: Path) -> tuple[int, int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def name_models(paths: Sequence[Path]) -> dict[str, Path]:
    """Returns models by what clients call them: their folders' names.

    Raises:
        SettingsError: none, or two of one name.
    """
    named: dict[str, Path] = {}
    for path in paths:
        name = printable(path.absolute().name.removesuffix(SUFFIX))
        if name in named:
            raise SettingsError(
                f"MODEL: {named[name]} and {path} are both called {name}; rename one of them"
            )
        named[name] = path.absolute()
    if not named:
        raise SettingsError("MODEL: at least one is needed")
    return named


class ModelRegistry:
    """All models by name; requests that name none get the first.

    Once made, it is used in the event loop's thread only.

    Args:
        paths: folders by name.
        metrics: count reloads and batches.

    Raises:
        ModelError: a folder is not a model, or is damaged.
        NetworkError: a network cannot be compiled.
    """

    def __init__(self, paths: dict[str, Path], metrics: ServerMetrics) -> None:
        self._paths = paths
        self._metrics = metrics
        # Before models are read, so that a change in between is noticed.
        self._seen = {name: read_stamp(path) for name, path in paths.items()}
        self._models: dict[str, ServedModel] = {}
        # All that are open: also replaced ones, and one that was opened during shutdown.
        self._opened: list[ServedModel] = []
        try:
            for name in paths:
                self._models[name] = self._open(name)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    @contextlib.contextmanager
    def lease(self, name: str | None) -> Iterator[ServedModel]:
        """Gives a request a model for as long as it takes.

        Args:
            name: of the model; None for the first.

        Raises:
            HTTPError: there is none of this name.
        """
        served = self._models.get(next(iter(self._models)) if name is None else name)
        if served is None:
            raise HTTPError(
                404, f"there is no model {name!r}; choose one of {', '.join(self._models)}"
            )
        served.users += 1
        try:
            yield served
        finally:
            served.users -= 1
            self._close_unused(served)

    async def watch(self, check_every_s: float, touch_every_s: float = TOUCH_EVERY_S) -> None:
        """Checks for replaced models, until it is cancelled.

        Args:
            check_every_s: seconds between two checks.
            touch_every_s: seconds between renewals of the modification time of our copies.
        """
        before = dict(self._seen)
        touched_s = time.monotonic()
        while True:
            await asyncio.sleep(check_every_s)
            if time.monotonic() - touched_s > touch_every_s:
                touched_s = time.monotonic()
                touch_scratch()
            for name, path in self._paths.items():
                now = await asyncio.to_thread(read_stamp, path)
                # Equal twice in a row: nobody is writing there any more.
                settled, before[name] = now == before[name], now
                if settled and now != self._seen[name] and None not in now:
                    self._seen[name] = now
                    await self._exchange(name)

    async def _exchange(self, name: str) -> None:
        try:
            new = await asyncio.to_thread(self._open, name)
        except TopworkError as error:
            self._metrics.reloads.labels(name, "refused").inc()
            log.error("%s was replaced by what cannot be used: %s", name, printable(error))
            return
        except Exception:
            self._metrics.reloads.labels(name, "refused").inc()
            log.exception("%s was replaced by what cannot be used", name)
            return
        old, self._models[name] = self._models[name], new
        self._metrics.reloads.labels(name, "loaded").inc()
        log.info("%s was replaced: version %s instead of %s", name, new.version, old.version)
        old.retired = True
        with contextlib.suppress(KeyError):
            if self._info(old) != self._info(new):
                self._metrics.models.remove(*self._info(old))
        self._close_unused(old)

    def _open(self, name: str) -> ServedModel:
        served = open_model(
            self._paths[name], name, lambda n: self._metrics.batches.labels(name).observe(n)
        )
        self._opened.append(served)
        self._metrics.models.labels(*self._info(served)).set(1)
        return served

    def _info(self, served: ServedModel) -> tuple[str, ...]:
        model = served.model
        return served.name, served.version, str(model.task), join_base_names(model)

    def _close_unused(self, served: ServedModel) -> None:
        if served.retired and not served.users:
            self._opened.remove(served)
            threading.Thread(target=served.close, daemon=True).start()

    def close(self) -> None:
        """Closes all models."""
        while self._opened:
            self._opened.pop().close()
