"""Chooses the reader for a location: a folder, table or archive, on this machine or another.

A folder, also in an archive or on another machine, is read by its class folders if it has any,
else by the one table that lies in it, or those of its splits. If the settings name a column, the
table has precedence. A folder that holds nothing but another is passed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from topwork.core.callbacks import SILENT, Callback
from topwork.core.data_settings import DataSettings
from topwork.core.errors import DatasetError, SettingsError
from topwork.data.listing import Listing
from topwork.data.readers.archive import is_archive, open_archive
from topwork.data.readers.arrow_folder import is_arrow_folder, read_arrow_folder
from topwork.data.readers.class_folders import read_tree
from topwork.data.readers.folder import DiskTree, read_folder
from topwork.data.readers.folder_tables import find_tables, judge_passed_over, read_tables
from topwork.data.readers.image_paths import ArchiveFinder, DiskFinder, ImageFinder, UrlFinder
from topwork.data.readers.layout import descend, has_classes
from topwork.data.readers.path_splits import split_by_paths
from topwork.data.readers.table import is_table, read_table
from topwork.data.readers.tree import NameTree, Tree
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
            return self._read_disk(path)
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

        def read(table: str, reader: _Reader) -> Listing:
            data = self.remote.fetch(urls.join(url, table))
            above = urls.join(url, table).rpartition("/")[0]
            return reader.read_table(f"{name.rstrip('/')}/{table}", data, self._beside_url(above))

        return self._read_tree(tree, read)

    def read_archive(self, location: str, path: Path) -> Listing:
        archive = open_archive(path, self.cache / "archives", strict=self.strict)
        tree = NameTree(location, archive.names, archive.source)
        files = {name for name in archive.names if not name.endswith("/")}

        def read(table: str, reader: _Reader) -> Listing:
            data = archive.read(table, MOST_TABLE_BYTES)
            base = table.rpartition("/")[0]
            finder = self._within(tree, files, f"{base}/" if base else "")
            return reader.read_table(f"{location}/{table}", data, finder)

        listing = self._read_tree(tree, read)
        return replace(listing, skipped=listing.skipped + archive.skipped)

    def _read_disk(self, path: Path) -> Listing:
        def read(table: str, reader: _Reader) -> Listing:
            file = path / table
            return reader.read_table(str(file), file, self.beside(file.parent, below=True))

        return self._read_tree(DiskTree(path), read)

    def _read_tree(self, tree: Tree, read: Callable[[str, _Reader], Listing]) -> Listing:
        """Reads a tree by its folders, or by tables in it.

        Args:
            tree: the folders.
            read: reads the table with a path within the tree, with some reader's settings.
        """
        meaning = self.settings.folders
        base = "" if meaning else descend(tree, is_table)
        top, inner = find_tables(tree, base)
        by_folders = meaning is not None or has_classes(tree, base)
        if (top or inner) and (not by_folders or self._names_columns()):
            return read_tables(tree, base, top or inner, lambda path: read(path, self))
        try:
            listing = read_tree(tree, self.strict, base, labelled=self.labelled, meaning=meaning)
        except DatasetError as error:
            if not top:
                raise
            raise DatasetError(
                f"{error}. Or read {top[0].path}, which lies there: say with --image-column and "
                "--label-column which columns hold the pictures' names and the labels"
            ) from None
        lenient = replace(self, strict=False, labelled=True)
        return judge_passed_over(
            tree, base, listing, top + inner, lambda path: read(path, lenient), meaning is not None
        )

    def read_table(self, location: str, data: Path | bytes, finder: ImageFinder) -> Listing:
        listing = read_table(
            location, data, self.settings, finder, strict=self.strict, labelled=self.labelled
        )
        if listing.splits is None and self.settings.split_column is None:
            listing = split_by_paths(listing)
        return replace(listing, notes=(*listing.notes, *finder.notes()))

    def beside(self, folder: Path, *, below: bool = False) -> ImageFinder:
        """Returns what finds images by URLs, and by paths relative to a folder.

        Args:
            folder: that of the table.
            below: whether to look for them in all folders below it too.
        """
        asked = self.settings.image_folder
        if asked is None:
            return DiskFinder(folder, self._find_url, below=below)
        if is_url(asked):
            return self._beside_url(asked)
        if not os.path.isdir(asked):  # noqa: PTH112 (pathlib raises for some names)
            raise SettingsError(f"images: there is no such folder, received {asked!r}")
        return DiskFinder(Path(asked), self._find_url, below=True, beside=Path(asked).parent)

    def _beside_url(self, folder: str) -> ImageFinder:
        asked = self.settings.image_folder
        if asked is not None and not is_url(asked):
            return self.beside(Path())
        return UrlFinder(asked or folder, self._find_url)

    def _within(self, tree: Tree, files: Collection[str], base: str) -> ImageFinder:
        asked = self.settings.image_folder
        if asked is not None:
            inside = f"{base}{asked.strip('/')}/"
            if not any(name.startswith(inside) for name in files):
                return self.beside(Path())
            base = inside
        return ArchiveFinder(files, tree.source, base, self._find_url)

    def _find_url(self, url: str) -> Source:
        return _local_path(url) if urls.scheme(url) == "file" else self.remote.source(url)

    def _names_columns(self) -> bool:
        chosen = self.settings.model_dump(
            exclude={"task", "label_separator", "encoding", "folders"}
        )
        return any(value for value in chosen.values())


def _local_path(url: str) -> Path:
    return Path(url2pathname(urlsplit(url).path))
