"""Object stores, such as S3."""

from __future__ import annotations

from typing import Any

from topwork.data.remote.downloads import Version
from topwork.data.remote.transfers import (
    MissingError,
    RefusedError,
    Transfer,
    TransientError,
    mapped_errors,
)

# How much of a file each request asks for, by default.
PIECE_BYTES = 8 << 20


class Bucket:
    """Object stores, such as S3, by their fsspec file systems.

    Args:
        name: of the protocol.
        options: arguments of its file system.
        piece_bytes: how much of a file is asked for at once.
    """

    def __init__(self, name: str, options: dict[str, Any], piece_bytes: int = PIECE_BYTES) -> None:
        import fsspec

        self._piece_bytes = piece_bytes

        system = fsspec.get_filesystem_class(name)
        if name in {"s3", "s3a"}:
            # `Remote` tries again; if the library did so too, tries would multiply.
            once = {"retries": {"total_max_attempts": 1}}
            options["config_kwargs"] = once | options.get("config_kwargs", {})
        self._system = system(skip_instance_cache=True, use_listings_cache=False, **options)
        if name in {"s3", "s3a"}:
            self._system.retries = 1
        # Versions that a listing told: they save a request per file.
        self._listed: dict[str, Version] = {}

    def close(self) -> None:
        """See `Server`."""
        creator = getattr(self._system, "_s3creator", None)
        if creator is not None:
            self._system.close_session(self._system.loop, creator)

    def list_files(self, url: str) -> list[str]:
        """See `Server`."""
        with mapped_errors():
            root = str(self._system._strip_protocol(url)).rstrip("/")
            found = self._system.find(root, detail=True)
        prefix = f"{root}/"
        if root in found:
            raise RefusedError("it is a file")
        # A name that ends in a slash stands for an empty folder.
        files = {
            path: _object_version(info)
            for path, info in found.items()
            if path.startswith(prefix) and not path.endswith("/") and info["type"] == "file"
        }
        self._listed.update(files)
        return sorted(path[len(prefix) :] for path in files)

    def is_folder(self, url: str) -> bool:
        """See `Server`."""
        if url.endswith("/"):
            return True
        try:
            with mapped_errors():
                return bool(self._system.info(url)["type"] == "directory")
        except MissingError:
            return False

    def receive(self, url: str, transfer: Transfer) -> bool:
        """See `Server`."""
        part = transfer.part
        with mapped_errors():
            path = self._system._strip_protocol(url)
        # What the listing said is used once: before another try, the file may have changed.
        version = self._listed.pop(path, None) or self._version(path)
        if version.is_known and version == transfer.kept:
            return False
        transfer.start(version.size)
        if version != part.version or not version.is_known:
            part.restart(version)
        if version.size is None:
            with mapped_errors():
                transfer.write(self._system.cat_file(path))
            return True
        is_one_piece = part.size == 0 and version.size <= self._piece_bytes
        while part.size < version.size:
            last = min(version.size, part.size + self._piece_bytes)
            wanted = last - part.size
            with mapped_errors():
                data = self._system.cat_file(path, start=part.size, end=last)
            if len(data) != wanted:
                raise TransientError(f"{len(data)} bytes came instead of {wanted}")
            transfer.write(data)
        if not is_one_piece and self._version(path) != version:
            part.restart(Version())
            raise TransientError("the file changed while it was read")
        return True

    def _version(self, path: str) -> Version:
        with mapped_errors():
            info = self._system.info(path)
        if info["type"] != "file":
            raise RefusedError("it is a folder, not a file")
        return _object_version(info)


def _object_version(info: Any) -> Version:
    """Returns what tells contents apart, by the names that the file systems have for it."""
    tags = (info.get(name) for name in ("ETag", "etag", "generation", "md5Hash"))
    tag = next((str(value) for value in tags if value), "")
    times = (info.get(name) for name in ("LastModified", "updated", "mtime", "created"))
    modified = next((str(value) for value in times if value), "")
    return Version(tag, "" if tag else modified, info.get("size"))
