import pytest

from topwork.bases import get_base, list_bases
from topwork.errors import SettingsError


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
