"""What a model says of itself: its networks, its data, and how its head was chosen and judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from topwork.bases import Stack
from topwork.bases.engines import resolve_precision
from topwork.core.config import Precision
from topwork.core.ranges import parse_ranges
from topwork.vectors.space import Space

# What a model's numbers may be: far more than any is, and nothing that breaks what reads it.
MOST_PX = 4096
Size = Annotated[int, Field(ge=1, le=1_000_000)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class BaseInfo(BaseModel):
    """One of a model's frozen networks.

    Attributes:
        space: base, weights, size, preprocessing and precision: what a vector is here.
        feature_shape: (s, s, D) of its features before pooling.
        vector_length: D.
        parameters: of the base.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    space: Space
    feature_shape: tuple[Size, Size, Size]
    vector_length: Size
    parameters: Count

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        size_px = self.space.image_size
        if not 1 <= size_px <= MOST_PX:
            raise ValueError(f"image_size must be 1 to {MOST_PX} pixels, received {size_px}")
        return self

    @field_validator("space")
    @classmethod
    def _check_ranges(cls, space: Space) -> Space:
        parse_ranges(space.ranges)
        return space

    @property
    def local_space(self) -> Space:
        """What a vector is on this machine: in f32 where its CPU lacks the bf16 of training."""
        if self.space.precision in (Precision.F32, Precision.INT8):
            return self.space
        return replace(self.space, precision=str(resolve_precision(Precision.AUTO)))


@dataclass(frozen=True)
class NetworkFile:
    """Where a base's vectors come from.

    Attributes:
        path: an OpenVINO file.
        output: the name of its output, None if it is the only one.
        flip: whether the mean over image and mirror has still to be taken.
        content: says what it computes, equal for files that compute the same; "" if that is not
            known.
    """

    path: Path
    output: str | None
    flip: bool
    content: str = ""


def find_networks(stack: Stack) -> tuple[NetworkFile, ...]:
    """Returns the files of networks that lie in a store."""
    return tuple(
        NetworkFile(network.vectors_path, None, flip=stack.flip) for network in stack.networks
    )


class DataFacts(BaseModel):
    """The images a model was made from.

    Attributes:
        fingerprint: SHA-256 over every image's hash, label and split.
        counts: images per split and class.
        skipped: how many images could not be used.
        refitted: whether the head learnt from the validation images too, in the end.
        split: how the validation split was made: by the data, or its fraction and seed, and the
            classes of near copies that are on both sides of it.
        columns: fields of `DataSettings` that were said.
    """

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    counts: dict[str, dict[str, Count]]
    skipped: Count
    split: dict[str, Any]
    refitted: bool = False
    columns: dict[str, str] = {}


class SearchFacts(BaseModel):
    """How a head was chosen.

    Attributes:
        heads: how many were trained for it.
        recipes: how many ways to train one were compared.
        replicates: on how many folds and seeds each.
        folds: whether those were folds of the training images; else the validation images.
        mean: the chosen recipe's mean metric over the replicates.
        error: standard error of that mean; None for one replicate.
    """

    model_config = ConfigDict(frozen=True)

    heads: Count
    recipes: Count
    replicates: Count
    folds: bool
    mean: Finite
    error: Finite | None


class Provenance(BaseModel):
    """How a model was made by the command line.

    Attributes:
        command: as it was typed.
        data: the data's absolute path, or its URL; None for standard input.
    """

    model_config = ConfigDict(frozen=True)

    command: str
    data: str | None


class ValidationScore(BaseModel):
    """The head on the validation split, before it learnt from that too where it was refitted.

    A kept epoch was chosen there, so that of a dense head is slightly optimistic.

    Attributes:
        metric: `accuracy`, or `mae` for numbers.
        value: of that metric.
        interval: its 95 % interval; an end that is not finite is None.
        loss: at that epoch.
        figures: all figures of the report by name; None for one that is not finite.
    """

    model_config = ConfigDict(frozen=True)

    metric: str
    value: Finite
    interval: tuple[Finite | None, Finite | None]
    loss: Finite
    figures: dict[str, Finite | None]


@dataclass(frozen=True)
class ImageTable:
    """The images of a dataset as a model remembers them; columns of equal length N."""

    names: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    hashes: tuple[str, ...]
