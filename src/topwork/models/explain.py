"""Class activation maps: what each place of an image adds to a logit.

An `Explainer` runs a model's networks up to their pooling, an `Explanation` makes maps of what
they saw, `describe` says them for JSON, and `draw` lays them over the photograph.

With global average pooling and one dense layer the map is exact and needs no gradient: the
logit is the mean over all places of sum_k kernel[k, c] * feature[y, x, k], plus the bias. An
inner layer with ReLU is linear around a vector, so there its gradient at that vector takes the
place of the kernel: what the map says then holds for small changes of the image only.

Source: Zhou et al., "Learning Deep Features for Discriminative Localization", 2016, equation 2;
for the gradient Selvaraju et al., "Grad-CAM", 2017, without its ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from topwork.bases.engines import NetworkCache, open_features
from topwork.core.arrays import Floats32, Pixels
from topwork.core.config import Precision, default_store
from topwork.core.errors import SettingsError
from topwork.core.task import Task
from topwork.data.listing import SHOWN
from topwork.heads.dense import Head, probabilities
from topwork.images.decode import Source, decode, read_bytes
from topwork.images.thumbnails import open_upright
from topwork.metrics.scores import say_number
from topwork.models.heatmap import Panel, draw_panels
from topwork.models.model import Model, Predictions
from topwork.models.model_facts import BaseInfo, NetworkFile

# From pixels (S, S, 3) to features (s, s, D).
See = Callable[[Pixels], Floats32]

# The longer side of the photograph in a picture of maps.
PHOTO_PX = 480


@dataclass(frozen=True)
class Explanation:
    """One image as the networks saw it.

    Attributes:
        task: what the logits mean.
        head: of the model.
        features: (s, s, D) float32 of each network, before pooling; with flip the mean of those
            of the image and, turned back, of its mirror.
    """

    task: Task
    head: Head
    features: tuple[Floats32, ...]

    @property
    def exact(self) -> bool:
        """Whether the maps are the logit itself; else its gradient at the image's vector."""
        return self.head.linear

    @cached_property
    def vector(self) -> Floats32:
        """The image's vector (1, D), over all networks."""
        return np.concatenate([part.mean(axis=(0, 1)) for part in self.features])[None]

    @cached_property
    def logits(self) -> Floats32:
        """Its logits (1, C) float32."""
        return self.head.logits(self.vector)

    @property
    def predictions(self) -> Predictions:
        """Its predictions, as `Model.predict` gives them for one image."""
        chances = probabilities(self.task, self.logits)
        return Predictions(self.logits, chances, np.zeros(1, np.int64), {})

    def weights(self, answer: int) -> Floats32:
        """Returns what a unit of each value of the vector adds to a logit, (D,) float32.

        Args:
            answer: index of a class, label or number. Of two classes the first has no logit of
                its own: what speaks for it is what speaks against the second.
        """
        *inner, last = self.head.layers
        column, sign = self._find(answer)
        found = last.kernel[:, column] * np.float32(sign)
        values, active = self.vector[0], []
        for layer in inner:
            values = values @ layer.kernel + layer.bias
            active.append(values > 0)
            values = np.maximum(values, 0)
        for layer, on in zip(reversed(inner), reversed(active), strict=True):
            found = layer.kernel @ (found * on)
        return np.asarray(found, np.float32)

    def maps(self, answer: int) -> tuple[Floats32, ...]:
        """Returns each network's map (s, s) float32.

        The sum of the maps' means and `rest` is the logit.

        Args:
            answer: as for `weights`.
        """
        ends = np.cumsum([part.shape[2] for part in self.features])[:-1]
        parts = np.split(self.weights(answer), ends)
        return tuple(part @ own for part, own in zip(self.features, parts, strict=True))

    def map(self, answer: int) -> Floats32:
        """Returns one map for all networks, (s, s) float32 with the finest network's s.

        Its mean and `rest` are the logit.

        Args:
            answer: as for `weights`.
        """
        found = self.maps(answer)
        side = max(len(part) for part in found)
        return np.asarray(np.sum([regrid(part, side) for part in found], axis=0), np.float32)

    def logit(self, answer: int) -> float:
        """Returns the logit, or the number; as for `weights` of two classes each has one."""
        column, sign = self._find(answer)
        return float(sign * self.logits[0, column])

    def rest(self, answer: int) -> float:
        """Returns the part of a logit that no place of the image has: for one layer its bias."""
        return float(self.logit(answer) - self.vector[0] @ self.weights(answer))

    def _find(self, answer: int) -> tuple[int, int]:
        """Returns an answer's column of the head's outputs, and its sign there."""
        return (0, 2 * answer - 1) if self.task is Task.BINARY else (answer, 1)

    def heat(self, answer: int, width_px: int, height_px: int) -> Floats32:
        """Returns the maps of all networks, added up, at the size of a picture.

        Args:
            answer: as for `weights`.
            width_px: of the picture.
            height_px: of the picture.

        Returns:
            (height, width) float32 in units of the logit, bilinear between the places.
        """
        grown = [_resize(found, width_px, height_px) for found in self.maps(answer)]
        return np.asarray(np.sum(grown, axis=0), np.float32)


class Explainer:
    """A model's networks, compiled to give what they see before pooling.

    It may be used by several threads.

    Args:
        model: a trained model.
        networks: those of its networks, from `open_networks`, if they are open already.

    Raises:
        NetworkError: a network's file is missing or damaged, or does not end in pooling.
    """

    def __init__(self, model: Model, networks: Sequence[See] | None = None) -> None:
        self.model = model
        self._networks = networks or open_networks(model.networks, model.bases)

    def explain(self, source: Source) -> Explanation:
        """Runs the networks over an image.

        Args:
            source: a file, or an encoded image in memory.

        Raises:
            ImageError: it cannot be read or decoded.
        """
        data = read_bytes(source)
        sizes = {base.space.image_size for base in self.model.bases}
        interpolation, ranges = self.model.interpolation, self.model.ranges
        return self.explain_pixels(
            {size: decode(data, size, interpolation, ranges=ranges) for size in sizes}
        )

    def explain_pixels(self, pixels: dict[int, Pixels]) -> Explanation:
        """Runs the networks over an image that is decoded.

        Args:
            pixels: (S, S, 3) uint8 for each size S of the model's networks.
        """
        pairs = zip(self._networks, self.model.bases, strict=True)
        features = tuple(run(pixels[base.space.image_size]) for run, base in pairs)
        return Explanation(self.model.task, self.model.head, features)


def find_answers(model: Model, names: Sequence[str]) -> list[int]:
    """Returns the indices of classes, labels or numbers by name, each once.

    Raises:
        SettingsError: the model does not know one.
    """
    for name in names:
        if name not in model.classes:
            more = ", …" if len(model.classes) > 2 * SHOWN else ""
            known = ", ".join(model.classes[: 2 * SHOWN])
            raise SettingsError(f"class: the model knows {known}{more}; received {name}")
    return [model.classes.index(name) for name in dict.fromkeys(names)]


def rank_answers(explanation: Explanation, top: int) -> list[int]:
    """Returns the indices of the answers to explain: the most probable, or the first numbers.

    Of two classes it is only the more probable: the other's map is the same with the other sign.
    """
    if explanation.task is Task.NUMBER:
        return list(range(explanation.logits.shape[1]))[:top]
    chances = explanation.predictions.probabilities[0]
    ranked: list[int] = (-chances).argsort(kind="stable").tolist()
    return ranked[: 1 if explanation.task is Task.BINARY else top]


def describe(
    explanation: Explanation, classes: Sequence[str], answers: Iterable[int]
) -> dict[str, Any]:
    """Says maps for JSON.

    Args:
        explanation: of an image.
        classes: the model's.
        answers: indices.

    Returns:
        `exact`; and for each answer under `maps` its `label`, `logit` and `probability`, of a
        number `name` and `value` instead; `rest` and `map`, lists of rows: the mean of the map
        and the rest are the logit or value.
    """
    chances = explanation.predictions.probabilities[0]
    said: list[dict[str, Any]] = []
    for answer in answers:
        about: dict[str, Any] = {"name": classes[answer], "value": explanation.logit(answer)}
        if explanation.task is not Task.NUMBER:
            about = {
                "label": classes[answer],
                "logit": explanation.logit(answer),
                "probability": float(chances[answer]),
            }
        found = {"rest": explanation.rest(answer), "map": explanation.map(answer).tolist()}
        said.append(about | found)
    return {"exact": explanation.exact, "maps": said}


def draw(
    explanation: Explanation,
    source: Source,
    classes: Sequence[str],
    answers: Iterable[int],
    path: Path,
    name: str = "",
    ranges: str = "",
) -> None:
    """Writes a PNG: the photograph, upright, and beside it maps laid over it.

    Args:
        explanation: of the image.
        source: the image.
        classes: the model's.
        answers: indices of those to show, at least one.
        path: the file.
        name: of the image.
        ranges: as for `images.decode.decode`.

    Raises:
        ImageError: the image cannot be read or decoded.
        OSError: the file cannot be written.
    """
    photo = open_upright(source, PHOTO_PX, ranges)
    chances = explanation.predictions.probabilities[0]
    number = explanation.task is Task.NUMBER
    panels = []
    for answer in answers:
        logit = explanation.logit(answer)
        caption = (
            say_number(logit)
            if number
            else f"logit {logit:.2f}, probability {say_probability(float(chances[answer]))}"
        )
        heat = explanation.heat(answer, *photo.size)
        panels.append(Panel(classes[answer], caption, heat))
    what = "number" if number else "logit"
    note = f"{say_exactness(explanation.exact, what)}; orange is for the answer, blue against it"
    if number:
        note = f"{say_exactness(explanation.exact, what)}; orange makes it larger, blue smaller"
    draw_panels(photo, panels, path, name=name, note=note, unit=what, together=not number)


def say_exactness(exact: bool, what: str = "logit") -> str:
    """Says in a sentence what maps are."""
    if exact:
        return f"Exact: the mean of a map plus the bias is the {what}"
    return "A gradient, as the head has an inner layer: it holds for small changes only"


def say_probability(share: float) -> str:
    """Says a probability in a percentage that is not 0 or 100 unless it is so."""
    return "<0.1%" if 0 < share < 0.0005 else ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def regrid(values: Floats32, side: int) -> NDArray[np.float64]:
    """Returns a square map on a finer or coarser grid: the mean over what each cell covers.

    It has the mean that it had.
    """
    old, new = np.linspace(0, 1, len(values) + 1), np.linspace(0, 1, side + 1)
    ends = np.minimum(new[1:, None], old[None, 1:]) - np.maximum(new[:-1, None], old[None, :-1])
    share = np.clip(ends, 0, None) * side
    return np.asarray(share @ values.astype(np.float64) @ share.T)


def _resize(found: Floats32, width_px: int, height_px: int) -> Floats32:
    size = (width_px, height_px)
    return np.asarray(Image.fromarray(found).resize(size, Image.Resampling.BILINEAR))


def open_networks(files: Sequence[NetworkFile], bases: Sequence[BaseInfo]) -> list[See]:
    """Compiles networks up to their pooling, which takes a second or so.

    Raises:
        NetworkError: a file is missing or damaged, or does not end in pooling.
    """
    return [
        open_features(
            file.path,
            base.space.image_size,
            Precision(base.local_space.precision),
            output=file.output,
            flip=file.flip,
            cache=NetworkCache.of_store(default_store(), file.content),
        )
        for file, base in zip(files, bases, strict=True)
    ]
