import numpy as np
import pytest
from pictures import encode, encode_tiff, picture

from topwork.core.config import Interpolation
from topwork.core.errors import ImageError
from topwork.images.decode import decode
from topwork.images.tiff import describe_tiff


@pytest.mark.parametrize("channels", [2, 5, 6, 7, 9, 224])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_bands_are_named_and_nothing_is_printed(channels, dtype, capfd):
    data = encode_tiff(np.ones((8, 9, channels), dtype), 1)
    with pytest.raises(ImageError) as found:
        decode(data, 32, Interpolation.NEAREST)
    kind = f"{'float' if dtype is np.float32 else 'uint'}{np.dtype(dtype).itemsize * 8}"
    assert f"a TIFF with {channels} channels of {kind}, which is not supported" in str(found.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("order", ["<", ">"])
def test_floating_colors_are_named(order, caplog):
    data = encode_tiff(np.ones((8, 9, 3), np.float32), 2, order=order)
    with pytest.raises(ImageError, match="a TIFF with 3 channels of float32"):
        decode(data, 32, Interpolation.NEAREST)
    assert not caplog.records


def test_what_is_no_tiff_is_not_described():
    assert describe_tiff(encode(picture())) is None
    assert describe_tiff(b"II*\0") is None
    assert describe_tiff(b"II*\0\xff\xff\xff\xff") is None
    with pytest.raises(ImageError, match=r"not an image|damaged"):
        decode(b"II*\0 and then text", 32, Interpolation.NEAREST)
