"""Settings: every option is defined here once.

The command line's options and help, and the arguments of `topwork.Classifier` with their
documentation, are read from these fields, so that they cannot drift apart. So are those of
`data_settings`, which say how a table of images is read.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from topwork.core.ranges import format_ranges, parse_ranges
from topwork.core.validated import create_validated


class Interpolation(StrEnum):
    """How an image is brought to the network's size.

    `nearest`, `bilinear`, `bicubic` and `lanczos` are Pillow's filters, all but nearest
    antialiased. `sampled` is bilinear between four pixels without antialiasing, what networks
    were mostly trained on; an image of four times the size or more is halved first.
    """

    SAMPLED = "sampled"
    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class Optimizer(StrEnum):
    """The optimizers of a head, with Keras' formulas and defaults."""

    ADAM = "adam"
    SGD = "sgd"


class Precision(StrEnum):
    """The arithmetic of the base: `auto` is bf16 where the CPU has it, else f32.

    `int8` computes its convolutions with bytes, fitted to training images, and the rest as `auto`.
    """

    AUTO = "auto"
    BF16 = "bf16"
    F32 = "f32"
    INT8 = "int8"


class EngineKind(StrEnum):
    """What runs the base.

    `openvino` runs it on this machine's CPU, `keras` with JAX on its GPU or TPU, `ray` on all
    machines of a Ray cluster. `auto` is `keras` where JAX has a GPU or TPU, else `openvino`.
    """

    AUTO = "auto"
    OPENVINO = "openvino"
    KERAS = "keras"
    RAY = "ray"


class HeadKind(StrEnum):
    """How a head is found.

    `dense` is trained in epochs, as in Keras. `logistic` is logistic regression (for numbers,
    linear regression) with an L2 penalty on its weights, a convex problem that is solved to its
    optimum.
    """

    DENSE = "dense"
    LOGISTIC = "logistic"


class ClassWeight(StrEnum):
    """How much an image counts in training: `balanced` makes every class count the same.

    That serves the macro average, and may cost accuracy where classes are of unlike size. `auto` is
    `balanced` unless folds of the training images say that it costs more than one standard error.
    """

    NONE = "none"
    BALANCED = "balanced"
    AUTO = "auto"


class Preset(StrEnum):
    """Settings that go together; see `PRESETS`."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


class Tracker(StrEnum):
    """Programs that show the heads of a search; they come with the extra `track`."""

    MLFLOW = "mlflow"
    TENSORBOARD = "tensorboard"


AUTO = "auto"
# A head that still gets better goes on to so many epochs, where nobody says how many.
MOST_EPOCHS = 40


def _or_auto(most: float) -> Any:
    """Returns the type of a number above 0 that may be left to Topwork."""
    number = Annotated[float, Field(gt=0, le=most, allow_inf_nan=False), Tag("number")]
    left = Annotated[Literal["auto"], Tag("auto")]
    return Annotated[
        number | left, Discriminator(lambda value: "auto" if value == AUTO else "number")
    ]


if TYPE_CHECKING:
    Rate: TypeAlias = float | Literal["auto"]
    Penalty: TypeAlias = float | Literal["auto"]
else:
    Rate, Penalty = _or_auto(10), _or_auto(1e6)


class VectorSettings(BaseModel):
    """What decides the vectors of an image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(
        "efficientnet-lite0",
        description="Pretrained network, or several such as `a,b` or `a@150,a@299`, whose "
        "vectors are put side by side; see `topwork bases`.",
    )
    image_size: int | None = Field(
        None, ge=32, le=2048, description="Side of the square input in pixels [base's own]."
    )
    views: int = Field(
        0,
        ge=0,
        le=1000,
        description="Augmented views of each training image, besides itself; each epoch learns "
        "from another.",
    )
    flip: bool = Field(
        False, description="Take the mean of an image's vector and that of its mirror image."
    )
    interpolation: Interpolation = Field(
        Interpolation.SAMPLED,
        description="Filter that brings an image to the input size; nearest is Keras' load_img.",
    )
    range: str | None = Field(
        None,
        description="Values of black and white, LOW..HIGH, in pictures of more than 8 bits "
        "[guessed once for all images].",
    )
    precision: Precision = Field(
        Precision.AUTO,
        description="Arithmetic of the base; auto: bf16 where the CPU has it; int8, fitted to the "
        "training images, is the fastest.",
    )
    engine: EngineKind = Field(
        EngineKind.AUTO,
        description="What runs the base: openvino (CPU), keras (GPU or TPU), or ray (many "
        "machines); auto: keras where JAX has a GPU or TPU.",
    )
    address: str | None = Field(
        None, description="Where the Ray cluster is [$RAY_ADDRESS, or started on this machine]."
    )
    weights: str | None = Field(
        None,
        description="File with the base's weights, instead of the published ones; for several "
        "bases NAME=FILE,NAME=FILE.",
    )

    @field_validator("range")
    @classmethod
    def _check_range(cls, text: str | None) -> str | None:
        try:
            return text and format_ranges(parse_ranges(text))
        except ValueError as error:
            raise PydanticCustomError("range", "{reason}", {"reason": str(error)}) from None


class HeadSettings(BaseModel):
    """What decides a head, besides the vectors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: HeadKind = Field(
        HeadKind.DENSE, description="dense: trained in epochs; logistic: solved to its optimum."
    )
    epochs: int = Field(10, ge=1, le=100_000, description="Passes over the training vectors.")
    learning_rate: Rate = Field(
        "auto",
        description="Step size of the optimizer; auto tries several on folds.",
    )
    batch_size: int = Field(32, ge=1, le=65_536, description="Vectors per training step.")
    optimizer: Optimizer = Field(Optimizer.ADAM, description="How the head's weights are updated.")
    weight_decay: float = Field(
        0, ge=0, le=100, allow_inf_nan=False, description="Times the learning rate, the share "
        "that each weight loses per step."
    )  # fmt: skip
    label_smoothing: float = Field(
        0, ge=0, lt=1, description="Share of each label that is spread over all classes."
    )
    dropout: float = Field(
        0, ge=0, lt=1, description="Share of the last layer's inputs that is dropped in training."
    )
    inner_units: int = Field(
        0, ge=0, le=16_384, description="Units of a layer with ReLU before the last; 0 for none."
    )
    class_weight: ClassWeight = Field(
        ClassWeight.NONE,
        description="balanced: every class counts the same in training, for the macro average; "
        "auto: unless that costs accuracy on folds.",
    )
    normalize: bool = Field(
        False, description="Bring every value of the vectors to mean 0 and deviation 1."
    )
    penalty: Penalty = Field(
        "auto",
        description="L2 penalty of the logistic head; auto tries several on folds.",
    )


# Chosen by folds of the training images alone; docs/accuracy.md has the figures.
_LOGISTIC = {"head": "logistic", "normalize": True, "class_weight": "auto"}
PRESETS: dict[Preset, dict[str, Any]] = {
    Preset.FAST: {"base": "efficientnet-lite0@176", **_LOGISTIC},
    Preset.BALANCED: {"base": "efficientnet-lite0@256,efficientnet-lite2@320", **_LOGISTIC},
    Preset.BEST: {
        "base": "efficientnet-lite0@288,efficientnet-lite1@300,efficientnet-lite2@320",
        "flip": True,
        **_LOGISTIC,
    },
}


class Settings(HeadSettings, VectorSettings):
    """What decides a trained model, besides the data.

    Raises:
        SettingsError: through `Settings.create`, naming the option, the value and the bound.
    """

    preset: Preset | None = Field(
        None, description="Settings that go together; what is said beside it wins."
    )
    seed: int = Field(
        0, ge=0, le=2**32 - 1, description="Seeds the split, the head and the order of batches."
    )
    validation_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the training images to validate on, when there is no such split.",
    )
    most_epochs: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="While the last epoch of a dense head is its best, go on to twice as many, up "
        "to so many [40; --epochs where that is given].",
    )
    refit: bool = Field(
        False,
        description="Train a dense head again in the end, on the validation images too, for as "
        "many epochs as were kept; a logistic head always learns from them in the end.",
    )
    thumbnails: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Most training images that the model carries small pictures of, so that "
        "`topwork serve` can show the nearest; 0 for none.",
    )
    strict: bool = Field(False, description="Stop at the first image that cannot be used.")

    @property
    def epochs_allowed(self) -> int:
        """How many epochs a head may go on to: what was asked for is kept exactly."""
        if self.most_epochs is not None:
            return max(self.most_epochs, self.epochs)
        return self.epochs if "epochs" in self.model_fields_set else max(MOST_EPOCHS, self.epochs)

    def head_settings(self) -> HeadSettings:
        """Returns the part of the settings that decides the head."""
        return HeadSettings(**self.model_dump(include=set(HeadSettings.model_fields)))

    @classmethod
    def create(cls, **values: Any) -> Settings:
        """Validates `values` and returns the settings.

        Raises:
            SettingsError: a value is unknown, of the wrong type or out of range.
        """
        if isinstance(values.get("weights"), Path):
            values["weights"] = str(values["weights"])
        preset = values.get("preset")
        if preset in list(Preset):
            chosen = dict(PRESETS[Preset(preset)])
            if values.get("image_size") is not None and "base" not in values:
                chosen["base"] = re.sub("@[0-9]+", "", chosen["base"])
            values = chosen | values
        return create_validated(cls, values)

    @model_validator(mode="after")
    def _check_engine(self) -> Settings:
        if self.engine is EngineKind.KERAS and self.precision is Precision.INT8:
            raise PydanticCustomError(
                "contradiction",
                "precision: int8 runs in OpenVINO, received it with engine keras; leave out one",
            )
        if self.address is not None and self.engine is not EngineKind.RAY:
            raise PydanticCustomError(
                "contradiction", f"address: is for engine ray, received it with {self.engine}"
            )
        return self

    @model_validator(mode="after")
    def _check_head(self) -> Settings:
        foreign = {
            HeadKind.LOGISTIC: (
                "inner_units", "dropout", "label_smoothing", "weight_decay", "learning_rate",
            ),
            HeadKind.DENSE: ("penalty",),
        }  # fmt: skip
        other = {HeadKind.LOGISTIC: HeadKind.DENSE, HeadKind.DENSE: HeadKind.LOGISTIC}
        for name in foreign[self.head]:
            if getattr(self, name) != HeadSettings.model_fields[name].default:
                raise PydanticCustomError(
                    "contradiction",
                    f"the {self.head} head has no {name}; leave it out, or say --head "
                    f"{other[self.head]}",
                )
        return self


class Search(BaseModel):
    """How heads are compared.

    Raises:
        SettingsError: through `Search.create`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folds: int | None = Field(
        None,
        ge=0,
        description="Stratified folds of the training images to compare on; 0: the validation "
        "images [5, or 0 from 1000 validation images on].",
    )
    seeds: int | None = Field(
        None, ge=1, le=1000, description="How often, from other first weights [1; 5 without folds]."
    )
    budget: str | None = Field(
        None, description="Most heads to train, such as 500, or time, such as 60s [no limit]."
    )

    @model_validator(mode="after")
    def _check_folds(self) -> Search:
        if self.folds == 1:
            raise PydanticCustomError(
                "contradiction",
                "folds: must be 0 for the validation images, or 2 or more, received 1",
            )
        return self

    @classmethod
    def create(cls, **values: Any) -> Search:
        """Validates `values` and returns the plan of a search.

        Raises:
            SettingsError: a value is unknown, of the wrong type or out of range.
        """
        return create_validated(cls, values)


def default_store() -> Path:
    """Returns where vectors and networks are kept: `$TOPWORK_STORE`, or the user's cache."""
    import os

    from platformdirs import user_cache_path

    chosen = os.environ.get("TOPWORK_STORE")
    return Path(chosen) if chosen else user_cache_path("topwork", appauthor=False)
