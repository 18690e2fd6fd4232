"""Reading an image again, only if it is still the same."""

from __future__ import annotations

from topwork.core.errors import ImageError
from topwork.images.decode import Source, image_hash, read_bytes


def read_unchanged(
    source: Source, sha256: str, reason: str = "the file changed while it was being read"
) -> bytes:
    """Returns the encoded bytes of an image that was hashed before.

    Args:
        source: where the bytes are.
        sha256: their hash, hex.
        reason: what the error says if the hash is another one now.

    Raises:
        ImageError: the image cannot be read, or has changed.
    """
    data = read_bytes(source)
    if image_hash(data) != sha256:
        raise ImageError(reason)
    return data
