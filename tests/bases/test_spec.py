import pytest

from topwork.bases import get_base, list_bases, parse_bases
from topwork.core.errors import SettingsError


def test_the_default_base_comes_first_and_every_name_finds_its_own():
    bases = list_bases()
    assert bases[0].name == "efficientnet-lite0"
    assert len({spec.name for spec in bases}) == len(bases) == 43
    for spec in bases:
        assert get_base(spec.name) is spec


def test_weights_come_from_a_package_or_from_keras():
    for spec in list_bases():
        assert (spec.package is None) == (spec.weights_file is not None)
        assert (spec.package is None) == (spec.application is not None)
        assert spec.source == (f"package {spec.package}" if spec.package else "download by Keras")
        assert 32 <= spec.min_size <= spec.image_size


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Xception", "xception"),
        ("EfficientNet_Lite0", "efficientnet-lite0"),
        ("efficientnetlite2", "efficientnet-lite2"),
        ("mobilenet-v2", "mobilenetv2"),
        ("Inception-ResNet_V2", "inceptionresnetv2"),
    ],
)
def test_case_dashes_and_underscores_do_not_matter(text, name):
    assert get_base(text).name == name


def test_a_misspelled_base_brings_the_closest_to_mind():
    with pytest.raises(SettingsError, match="no base 'xcepton'; did you mean xception"):
        get_base("xcepton")


@pytest.mark.parametrize("name", ["", "---", "zzz", "キセプション"])
def test_a_base_that_is_like_none_brings_the_list_to_mind(name):
    with pytest.raises(SettingsError, match="topwork bases lists them all"):
        get_base(name)


@pytest.mark.parametrize(
    ("text", "image_size", "wanted"),
    [
        ("xception", None, [("xception", 299)]),
        ("Xception", 150, [("xception", 150)]),
        ("xception@150", None, [("xception", 150)]),
        ("vgg16,xception", None, [("vgg16", 224), ("xception", 299)]),
        ("xception,vgg16", 100, [("xception", 100), ("vgg16", 100)]),
        ("xception@150,xception@299", None, [("xception", 150), ("xception", 299)]),
        ("xception@150,xception", None, [("xception", 150), ("xception", 299)]),
        (" vgg16@64 , EfficientNet_Lite0 ", None, [("vgg16", 64), ("efficientnet-lite0", 224)]),
        ("vgg16@2048", None, [("vgg16", 2048)]),
    ],
)
def test_bases_stand_in_the_order_in_which_they_are_named(text, image_size, wanted):
    found = parse_bases(text, image_size)
    assert [(spec.name, size) for spec, size in found] == wanted
    assert all(spec is get_base(spec.name) for spec, _ in found)


@pytest.mark.parametrize(
    ("text", "image_size", "reason"),
    [
        ("xeption", None, "no base 'xeption'; did you mean xception"),
        ("vgg16,xeption@150", None, "no base 'xeption'; did you mean xception"),
        ("", None, "no base ''; topwork bases lists them all"),
        ("vgg16,", None, "no base ''"),
        ("vgg16,,xception", None, "no base ''"),
        ("@150", None, "no base ''"),
        ("xception@70", None, "image_size: xception needs at least 71 pixels, received 70"),
        ("vgg16,xception", 70, "image_size: xception needs at least 71 pixels, received 70"),
        ("xception@0", None, "at least 71 pixels, received 0"),
        (
            "xception@2049",
            None,
            "after @ comes a size of at most 2048 pixels, such as xception@299",
        ),
        ("xception@", None, "size of at most 2048 pixels, .* received 'xception@'"),
        ("xception@large", None, "received 'xception@large'"),
        ("xception@-150", None, "received 'xception@-150'"),
        ("xception@150.5", None, r"received 'xception@150\.5'"),
        ("xception@150@299", None, "received 'xception@150@299'"),
        ("xception@²", None, "received 'xception@²'"),
        ("vgg16,vgg16", None, "vgg16 at 224 pixels is named twice"),
        ("vgg16,VGG_16@224", None, "vgg16 at 224 pixels is named twice"),
        ("vgg16@64,xception,vgg16@64", None, "vgg16 at 64 pixels is named twice"),
        (
            "vgg16,xception@150",
            299,
            "xception@150 names its own size; leave out --image-size or @150",
        ),
        ("xception@150", 150, "xception@150 names its own size"),
    ],
)
def test_bases_that_cannot_be_are_named(text, image_size, reason):
    with pytest.raises(SettingsError, match=reason):
        parse_bases(text, image_size)
