"""What can be asked of an export, and what is said to whoever asks for something else."""

import pytest

from topwork.core.errors import SettingsError
from topwork.models.export import Format, Input, Numbers, formats, make_request, name_export


def all_pairs():
    return [(format_, numbers) for format_ in Format for numbers in Numbers]


@pytest.mark.parametrize(("format_", "numbers"), all_pairs())
def test_every_pair_works_or_names_what_does(monkeypatch, format_, numbers):
    monkeypatch.setattr(formats, "find_spec", lambda name: object())
    if numbers in formats.TRAITS[format_].numbers:
        found = make_request(str(format_), str(numbers), "float32")
        assert (found.format, found.numbers, found.pixels) == (format_, numbers, Input.FLOAT32)
        return
    with pytest.raises(SettingsError, match=f"received {numbers}; {numbers} works") as caught:
        make_request(str(format_), str(numbers), "float32")
    said = str(caught.value)
    named = said.partition("works with ")[2].split(", ")
    assert named
    assert all(numbers in formats.TRAITS[Format(name)].numbers for name in named)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (("coreml", "f32", "float32"), "format: must be keras, openvino, .*received 'coreml'"),
        (("keras", "int4", "float32"), "precision: must be f32, f16, bf16, int8"),
        (("keras", "f32", "float64"), "input: must be float32, uint8, received 'float64'"),
        (("numpy", "f32", "uint8"), "takes vectors, not pixels; leave out --input"),
    ],
)
def test_what_there_is_not_is_refused(values, says):
    with pytest.raises(SettingsError, match=says):
        make_request(*values)


@pytest.mark.parametrize(
    ("format_", "numbers", "lacking", "extra"),
    [
        ("onnx", "f32", "tf2onnx", "export"),
        ("onnx", "f32", "onnxruntime", "export"),
        ("litert", "int8", "ai_edge_litert", "export"),
        ("saved-model", "f32", "tensorflow", "export"),
        ("openvino", "int8", "nncf", "int8"),
        ("onnx", "int8", "nncf", "int8"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, format_, numbers, lacking, extra):
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == lacking else object())
    with pytest.raises(SettingsError) as caught:
        make_request(format_, numbers, "float32")
    assert f"({lacking}): pip install 'topwork[{extra}]'" in str(caught.value)


@pytest.mark.parametrize("format_", ["keras", "openvino", "numpy"])
def test_three_formats_need_no_more_than_topwork(monkeypatch, format_):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    assert make_request(format_, "f32", "float32").format == format_


def test_names_say_what_differs_from_the_default():
    request = formats.Request(Format.ONNX, Numbers.F32, Input.FLOAT32)
    assert name_export("photos.model", request) == "photos-onnx"
    other = formats.Request(Format.OPENVINO, Numbers.INT8, Input.UINT8)
    assert name_export("photos", other) == "photos-openvino-int8-uint8"
