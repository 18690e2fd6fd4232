"""Chooses the reader for a location: a folder, table or archive, on this machine or another.

A folder, also in an archive or on another machine, is read by its class folders if it has any,
else by the one table that lies in it. If the settings name a column, the table has precedence.
"""

from __future__ import annotations

import os
import posixpath
import sys
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from topwork.core.callbacks import SILENT, Callback
from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError, ImageError
from topwork.data.listing import SHOWN, Listing
from topwork.data.readers.archive import is_archive, open_archive
from topwork.data.readers.arrow_folder import is_arrow_folder, read_arrow_folder
from topwork.data.readers.folder import DiskTree, read_folder
from topwork.data.readers.rows import Resolve
from topwork.data.readers.table import is_table, read_table
from topwork.data.readers.tree import NameTree, Tree, descend, has_classes, read_tree
from topwork.data.remote import urls
from topwork.data.remote.cache import Remote, is_url
from topwork.images.decode import Source

STDIN = "-"
# A table within an archive is read as a whole; a larger one is no list of images.
MOST_TABLE_BYTES = 1 << 30


def read_data(
    location: str,
    settings: DataSettings,
    cache: Path,
    *,
    strict: bool,
    labelled: bool,
    callback: Callback = SILENT,
) -> Listing:
    """Lists the images of a folder, table, archive or URL; see `Dataset.open`.

    Args:
        location: a path, a URL or `-`, as the user wrote it.
        settings: how a table is read.
        cache: folder for what comes from other machines or has to be unpacked.
        strict: raise at the first file or row that cannot be used.
        labelled: whether every image needs a label.
        callback: `on_received` is called with the number of bytes that came from other
            machines, now and when images are read; from any thread.

    Raises:
        DatasetError: nothing can be read there, or it contradicts itself.
        SettingsError: a package for such data is missing.
    """
    remote = Remote(cache / "remote", callback=callback)
    reader = _Reader(settings, cache, remote, strict, labelled)
    if location == STDIN:
        return reader.read_table("stdin", sys.stdin.buffer.read(), reader.beside(Path()))
    if urls.scheme(location) == "file" and is_url(location):
        return reader.read_path(str(_local_path(location)))
    return reader.read_url(location) if is_url(location) else reader.read_path(location)


@dataclass(frozen=True)
class _Reader:
    """The readers, with the settings that all of them share."""

    settings: DataSettings
    cache: Path
    remote: Remote
    strict: bool
    labelled: bool

    def read_path(self, location: str) -> Listing:
        path = Path(location)
        if os.path.isdir(location):  # noqa: PTH112 (pathlib raises for some names)
            if is_arrow_folder(path):
                return read_arrow_folder(
                    path, self.settings, strict=self.strict, labelled=self.labelled
                )
            table = self._find_table(DiskTree(path))
            if table is None:
                return read_folder(path, self.strict, labelled=self.labelled)
            return self.read_table(str(path / table), path / table, self.beside(path))
        if is_archive(path.name):
            return self.read_archive(location, path)
        if is_table(path.name):
            return self.read_table(location, path, self.beside(path.parent))
        if os.path.exists(location):  # noqa: PTH110 (pathlib raises for some names)
            raise DatasetError(
                f"{location} must be a folder with one folder per class, a table (.csv, .tsv, "
                ".jsonl, .parquet), a zip or tar file, or a URL of one: it is another kind of file"
            )
        return read_folder(path, self.strict, labelled=self.labelled)

    def read_url(self, url: str) -> Listing:
        name = urls.show(url).partition("?")[0] if urls.is_web(url) else urls.show(url)
        if is_archive(name):
            return self.read_archive(name, self.remote.fetch(url))
        if is_table(name):
            # Images beside it are asked for without the query, which belongs to the table.
            above = (url.partition("?")[0] if urls.is_web(url) else url).rpartition("/")[0]
            return self.read_table(name, self.remote.fetch(url), self._beside_url(above))
        files = self.remote.list_files(url)
        tree = NameTree(name, files, lambda path: self.remote.source(urls.join(url, path)))
        table = self._find_table(tree)
        if table is None:
            return read_tree(tree, self.strict, labelled=self.labelled)
        data = self.remote.fetch(urls.join(url, table))
        return self.read_table(f"{name.rstrip('/')}/{table}", data, self._beside_url(url))

    def read_archive(self, location: str, path: Path) -> Listing:
        archive = open_archive(path, self.cache / "archives", strict=self.strict)
        tree = NameTree(location, archive.names, archive.source)
        base = descend(tree, is_table)
        table = self._find_table(tree, base)
        if table is None:
            listing = read_tree(tree, self.strict, base, labelled=self.labelled)
        else:
            files = {name for name in archive.names if not name.endswith("/")}
            data = archive.read(base + table, MOST_TABLE_BYTES)
            listing = self.read_table(
                f"{location}/{base}{table}", data, self._within(tree, files, base)
            )
        return replace(listing, skipped=listing.skipped + archive.skipped)

    def read_table(self, location: str, data: Path | bytes, resolve: Resolve) -> Listing:
        return read_table(
            location, data, self.settings, resolve, strict=self.strict, labelled=self.labelled
        )

    def beside(self, folder: Path) -> Resolve:
        """Returns a function from URLs, and paths relative to a folder, to sources."""

        def resolve(text: str) -> Source:
            if is_url(text):
                return self._find_url(text)
            path = folder / text
            # A path that was written under Windows, unless a file here has such a name.
            if "\\" in text and not os.path.exists(path):  # noqa: PTH110 (pathlib raises)
                path = folder / text.replace("\\", "/")
            return path

        return resolve

    def _beside_url(self, folder: str) -> Resolve:
        def resolve(text: str) -> Source:
            if is_url(text):
                return self._find_url(text)
            return self.remote.source(urls.join(folder, _tidy(text)))

        return resolve

    def _within(self, tree: Tree, files: Collection[str], base: str) -> Resolve:
        # The program that made the archive may have encoded accents in another way.
        known = {unicodedata.normalize("NFC", name): name for name in files}

        def resolve(text: str) -> Source:
            if is_url(text):
                return self._find_url(text)
            for name in (base + text, base + _tidy(text), _tidy(base + text)):
                found = name if name in files else known.get(unicodedata.normalize("NFC", name))
                if found is not None:
                    return tree.source(found)
            raise ImageError("there is no such file in the archive")

        return resolve

    def _find_url(self, url: str) -> Source:
        return _local_path(url) if urls.scheme(url) == "file" else self.remote.source(url)

    def _find_table(self, tree: Tree, base: str = "") -> str | None:
        """Returns the name of the table that lists the images of a folder, if there is one.

        Raises:
            DatasetError: there are several.
        """
        # JSON files beside images are mostly no tables.
        names = [name for name in tree.top(base.rstrip("/"))[1] if is_table(name)]
        tables = sorted(name for name in names if ".json" not in _suffixes(name))
        if not tables or (has_classes(tree, base) and not self._names_columns()):
            return None
        if len(tables) > 1:
            raise DatasetError(
                f"{tree.root}/{base} holds no class folders and several tables: "
                f"{', '.join(tables[:SHOWN])}; keep the one that is meant, or point at it"
            )
        return tables[0]

    def _names_columns(self) -> bool:
        chosen = self.settings.model_dump(exclude={"task", "label_separator"})
        return any(value for value in chosen.values())


def _suffixes(name: str) -> list[str]:
    return Path(name.lower()).suffixes[-2:]


def _tidy(text: str) -> str:
    """Returns a relative path without `.` and `..`, with `/` for the separator of Windows."""
    return posixpath.normpath(text.replace("\\", "/"))


def _local_path(url: str) -> Path:
    return Path(url2pathname(urlsplit(url).path))
