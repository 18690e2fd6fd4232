import pytest

from topwork.core.errors import ImageError
from topwork.images.decode import image_hash
from topwork.images.verify import read_unchanged


def test_an_image_is_read_again_only_if_it_is_the_same(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"first")
    sha256 = image_hash(b"first")
    assert read_unchanged(path, sha256) == b"first"
    path.write_bytes(b"other")
    with pytest.raises(ImageError, match="changed while it was being read"):
        read_unchanged(path, sha256)
    with pytest.raises(ImageError, match="it is another one"):
        read_unchanged(path, sha256, "it is another one")
    path.unlink()
    with pytest.raises(ImageError, match="no such file"):
        read_unchanged(path, sha256)
