"""Settings: every option is defined here once.

The command line's flags and help and the defaults of `topwork.Classifier` are read from
these fields, so that they cannot drift apart.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from topwork.errors import SettingsError


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
    """The arithmetic of the base: `auto` is bf16 where the CPU has it, else f32."""

    AUTO = "auto"
    BF16 = "bf16"
    F32 = "f32"


class Settings(BaseModel):
    """What decides a trained model, besides the data.

    Raises:
        SettingsError: through `Settings.create`, naming the option, the value and the bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field("efficientnet-lite0", description="Pretrained network; see `topwork bases`.")
    image_size: int | None = Field(
        None, ge=32, le=2048, description="Side of the square input in pixels [base's own]."
    )
    epochs: int = Field(10, ge=1, le=100_000, description="Passes over the training vectors.")
    learning_rate: float = Field(
        0.003, gt=0, le=10, allow_inf_nan=False, description="Step size of the optimizer."
    )
    batch_size: int = Field(32, ge=1, le=65_536, description="Vectors per training step.")
    optimizer: Optimizer = Field(Optimizer.ADAM, description="How the head's weights are updated.")
    seed: int = Field(
        0, ge=0, le=2**32 - 1, description="Seeds the split, the head and the order of batches."
    )
    validation_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Share of the training images to validate on, when there is no such split.",
    )
    interpolation: Interpolation = Field(
        Interpolation.SAMPLED,
        description="Filter that brings an image to the input size; nearest is Keras' load_img.",
    )
    precision: Precision = Field(
        Precision.AUTO, description="Arithmetic of the base; auto: bf16 where the CPU has it."
    )
    weights: str | None = Field(
        None, description="File with the base's weights, instead of the published ones."
    )
    strict: bool = Field(False, description="Stop at the first image that cannot be used.")

    @classmethod
    def create(cls, **values: Any) -> Settings:
        """Validates `values` and returns the settings.

        Raises:
            SettingsError: a value is unknown, of the wrong type or out of range.
        """
        if isinstance(values.get("weights"), Path):
            values["weights"] = str(values["weights"])
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError("; ".join(_explain(e) for e in error.errors())) from None


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"]) or "settings"
    if error["type"] == "extra_forbidden":
        known = ", ".join(Settings.model_fields)
        return f"unknown setting {name!r}; the settings are {known}"
    return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}, received {error['input']!r}"


def default_store() -> Path:
    """Returns where vectors and networks are kept: `$TOPWORK_STORE`, or the user's cache."""
    import os

    from platformdirs import user_cache_path

    chosen = os.environ.get("TOPWORK_STORE")
    return Path(chosen) if chosen else user_cache_path("topwork", appauthor=False)
