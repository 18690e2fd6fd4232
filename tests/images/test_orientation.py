import io

import numpy as np
import pytest
from pictures import encode, picture
from PIL import Image, ImageOps

from topwork.core.config import Interpolation
from topwork.images.decode import decode
from topwork.images.orientation import read_orientation, turn_upright, upright_size
from topwork.images.thumbnails import read_header

XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_as_pillow_turns_them_and_their_size_is_known_before(orientation, kind):
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(picture(size=(40, 30)), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        size = upright_size(image, read_orientation(image))
        image.load()
        upright = turn_upright(image, read_orientation(image))
    with Image.open(io.BytesIO(data)) as image:
        expected = ImageOps.exif_transpose(image)
    assert upright.size == size == expected.size
    assert np.array_equal(upright, expected)


@pytest.mark.parametrize("value", [0, 9, 300])
def test_an_orientation_that_does_not_exist_is_none(value):
    exif = Image.Exif()
    exif[274] = value
    with Image.open(io.BytesIO(encode(picture(), "JPEG", exif=exif))) as image:
        assert read_orientation(image) == 1


def test_header_and_pixels_agree_that_xmp_alone_turns_no_jpeg():
    data = encode(picture(size=(40, 30)), "JPEG", xmp=XMP)
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[274] == 6
    header = read_header(data)
    assert (header.width, header.height, header.orientation) == (40, 30, 1)
    plain = encode(picture(size=(40, 30)), "JPEG")
    pixels = decode(data, 32, Interpolation.BILINEAR)
    assert np.array_equal(pixels, decode(plain, 32, Interpolation.BILINEAR))
